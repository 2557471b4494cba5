r"""Deciding that an expression is zero: rational functions of atoms, brought to a form in which equal ones cancel."""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from derivations.algebra.canonical import canonical, idempotent
from derivations.algebra.field import vanishes
from derivations.algebra.nodes import (
    CalculusError,
    Dot,
    Each,
    Mask,
    MeanAbs,
    Norm2,
    Surrogate,
    Total,
    VectorSymbol,
    coordinatewise,
)
from derivations.algebra.vectors import components, coordinates, drop_sg, expand, kind, maximal

__all__ = ["in_totals", "is_zero", "normal", "residual"]

_WITH_ARGUMENTS = (sp.exp, sp.log, Mask, Surrogate, MeanAbs, Total)


def normal(expr: sp.Expr) -> sp.Expr:
    """A scalar's numerator, expanded, in which equal rational expressions cancel: 0 where the scalar is 0."""
    expr = sp.sympify(expr)
    if expr == 0:
        return sp.S.Zero
    expr = _unify(in_totals(expr) if expr.has(Total, Each) else expr)
    if vanishes(expr):
        return sp.S.Zero
    expr = canonical(expr)
    numerator, _ = sp.fraction(sp.together(_expand_arguments(expr)))
    return idempotent(sp.expand(_expand_arguments(sp.expand(numerator))))


def in_totals(expr: sp.Expr) -> sp.Expr:
    """Sums over coordinates, and inner products with functions of coordinates, term by term, numbers in front.

    What is a product of two vectors in such a sum is an inner product.
    """
    nodes = maximal(expr, (Total, Dot, Norm2))
    return expr.xreplace({node: _term_by_term(node) for node in nodes if node.has(Total, Each)})


@lru_cache(maxsize=500)
def _term_by_term(node: sp.Expr) -> sp.Expr:
    if isinstance(node, Total):
        f = node.args[0]
    elif isinstance(node, Norm2):
        f = node.args[0] ** 2
    else:
        f = node.args[0] * node.args[1]
    f = sp.expand(canonical(in_totals(coordinates(f))))
    return sp.Add(*map(_one_total, sp.Add.make_args(f)))


def _one_total(term: sp.Expr) -> sp.Expr:
    factors = sp.Mul.make_args(term)
    varying = sp.Mul(*(x for x in factors if coordinatewise(x)))
    constant = sp.Mul(*(x for x in factors if not coordinatewise(x)))
    if isinstance(varying, sp.Pow) and isinstance(varying.base, VectorSymbol) and varying.exp == 2:
        return constant * Norm2(varying.base)
    if (
        isinstance(varying, sp.Mul)
        and len(varying.args) == 2
        and all(isinstance(x, VectorSymbol) for x in varying.args)
    ):
        return constant * Dot(*varying.args)
    return constant * Total(varying)


def _unify(expr: sp.Expr) -> sp.Expr:
    """Replace functions whose arguments are equal, though written differently, by one of them."""
    same: dict[sp.Expr, sp.Expr] = {}
    kept: list[sp.Expr] = []
    for node in maximal(expr, _WITH_ARGUMENTS):
        opened = node if isinstance(node, MeanAbs) else node.func(*(expand(arg) for arg in node.args))
        twin = next((other for other in kept if _same_arguments(opened, other)), None)
        if twin is None:
            kept.append(opened)
        same[node] = opened if twin is None else twin
    return expr.xreplace(same)


def _same_arguments(a: sp.Expr, b: sp.Expr) -> bool:
    if a.func is not b.func or len(a.args) != len(b.args):
        return False
    if isinstance(a, MeanAbs):
        return all(vanishes(expand(c)) for c in components(a.args[0] - b.args[0]).values())
    return all(x == y or vanishes(x - y) for x, y in zip(a.args, b.args, strict=True))


def _expand_arguments(expr: sp.Expr) -> sp.Expr:
    """Bring the arguments of functions and roots to expanded form, so that equal ones are one atom."""
    inner = {}
    for node in maximal(expr, _WITH_ARGUMENTS):
        if isinstance(node, MeanAbs):
            inner[node] = MeanAbs(_ordered(node.args[0]))
        elif not isinstance(node, Total):  # which is in that form already
            inner[node] = node.func(*(sp.expand(sp.cancel(expand(arg))) for arg in node.args))
    return expr.xreplace(inner)


def _ordered(vector: sp.Expr) -> sp.Expr:
    return sp.Add(*(sp.expand(c) * u for u, c in components(vector).items()))


def is_zero(expr: sp.Expr) -> bool:
    """Whether a scalar or vector expression vanishes identically in value, for every dimension D.

    ``False`` means "not proved": simplification is no decision procedure for all of mathematics.
    """
    expr = drop_sg(sp.sympify(expr))
    if expr != 0 and not coordinatewise(expr):
        told = vanishes(expr)
        if told is not None:
            return told
    return residual(expr) == 0


@lru_cache(maxsize=500)
def residual(expr: sp.Expr) -> sp.Expr:
    """What is left of an expression that should vanish in value, up to a denominator: 0 where it does."""
    expr = drop_sg(sp.sympify(expr))
    if expr == 0:
        return sp.S.Zero
    if expr.has(Each) or (coordinatewise(expr) and not _is_vector(expr)):
        return _left(coordinates(expr))
    if kind(expr) == "scalar":
        return _left(expr)
    return sp.Add(*(_left(c) * u for u, c in components(expr).items()))


def _left(scalar: sp.Expr) -> sp.Expr:
    return sp.S.Zero if vanishes(scalar) else normal(expand(scalar))


def _is_vector(expr: sp.Expr) -> bool:
    """Whether it is linear in vectors, and no other function of their coordinates."""
    try:
        return kind(expr) == "vector"
    except CalculusError:
        return False
