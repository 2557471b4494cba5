"""Ways to spoil a claim: what each changes, and the claims that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import sympy as sp

from derivations.calculus import Dot, Norm2, VectorSymbol, kind, sg
from derivations.claims import (
    Approximates,
    Claim,
    Equal,
    EqualUpToConstant,
    GradientIs,
    Parallel,
    Positive,
    SameHessian,
)
from derivations.notation import advantage, beta, k, noise, v_old, v_ref, v_theta
from derivations.theorems.expectations import ExpectationIs

__all__ = ["SIDES", "Mutant", "mutants"]

SIDES: dict[type, tuple[str, ...]] = {
    Equal: ("lhs", "rhs"),
    ExpectationIs: ("lhs", "rhs"),
    GradientIs: ("loss", "gradient"),
    Approximates: ("lhs", "rhs"),
    Parallel: ("lhs", "rhs", "factor"),
    EqualUpToConstant: ("lhs", "rhs", "constant"),
    SameHessian: ("lhs", "rhs"),
    Positive: ("expr",),
}
_VECTORS = (v_theta, v_old, v_ref, noise)
_SCALARS = (advantage, beta, k)


@dataclass(frozen=True)
class Mutant:
    """A spoiled claim, and how it was spoiled."""

    kind: str
    claim: Claim


def mutants(claim: Claim) -> Iterator[Mutant]:
    """Every spoiled version of a claim, each once, none equal to it."""
    seen = {_key(claim)}
    for how, spoiled in _all(claim):
        key = _key(spoiled)
        if key not in seen:
            seen.add(key)
            yield Mutant(how, spoiled)


def _key(claim: Claim) -> tuple[object, ...]:
    values = (getattr(claim, f.name) for f in fields(claim))
    return tuple(tuple(sorted(v.items(), key=str)) if isinstance(v, dict) else v for v in values)


def _all(claim: Claim) -> Iterator[tuple[str, Claim]]:
    for side in SIDES[type(claim)]:
        expr = sp.sympify(getattr(claim, side))
        for how, spoil in _SPOILERS.items():
            for wrong in spoil(expr):
                if _sound(wrong):
                    yield how, replace(claim, **{side: wrong})
    yield from _vanishing_denominator(claim)
    yield from _conditions(claim)
    yield from _of_kind(claim)


def _sound(expr: sp.Expr) -> bool:
    return not expr.has(sp.nan, sp.zoo, sp.oo)


# --------------------------------------------------------------------------------------------- of one side


def _rebuilt(expr: sp.Expr, change: Callable[[sp.Expr], Iterator[sp.Expr]]) -> Iterator[sp.Expr]:
    """The expression with one of its nodes changed, for every node and every change."""
    yield from change(expr)
    for i, arg in enumerate(expr.args):
        if not isinstance(arg, sp.Expr):
            continue
        for wrong in _rebuilt(arg, change):
            try:
                yield expr.func(*expr.args[:i], wrong, *expr.args[i + 1 :])
            except (TypeError, ValueError, ZeroDivisionError):
                continue


def _signs(expr: sp.Expr) -> Iterator[sp.Expr]:
    def change(node: sp.Expr) -> Iterator[sp.Expr]:
        if isinstance(node, sp.Add):
            for term in node.args:
                yield node - 2 * term

    yield -expr
    yield from _rebuilt(expr, change)


def _factors(expr: sp.Expr) -> Iterator[sp.Expr]:
    def change(node: sp.Expr) -> Iterator[sp.Expr]:
        if isinstance(node, sp.Add):
            for term in node.args:
                yield node + term
        if isinstance(node, sp.Pow) and node.exp.is_number:
            yield node.base ** (2 * node.exp)

    yield 2 * expr
    yield expr / 2
    yield beta * expr
    yield from _rebuilt(expr, change)


def _dropped(expr: sp.Expr) -> Iterator[sp.Expr]:
    def change(node: sp.Expr) -> Iterator[sp.Expr]:
        if isinstance(node, sp.Add):
            for term in node.args:
                yield node - term
        if isinstance(node, sp.Mul):
            for i, factor in enumerate(node.args):
                if kind(factor) == "scalar" and factor != -1:
                    yield sp.Mul(*node.args[:i], *node.args[i + 1 :])

    yield from _rebuilt(expr, change)


def _symbols(expr: sp.Expr) -> tuple[list[sp.Symbol], list[sp.Symbol]]:
    found = sorted(expr.free_symbols, key=str)
    return [s for s in found if isinstance(s, VectorSymbol)], [s for s in found if not isinstance(s, VectorSymbol)]


def _swapped(expr: sp.Expr) -> Iterator[sp.Expr]:
    for group in _symbols(expr):
        for i, a in enumerate(group):
            for b in group[:i]:
                yield expr.xreplace({a: b, b: a})


def _replaced(expr: sp.Expr) -> Iterator[sp.Expr]:
    vectors, scalars = _symbols(expr)
    for group, others in ((vectors, _VECTORS), (scalars, _SCALARS)):
        for a in group:
            for b in others:
                if a != b:
                    yield expr.xreplace({a: b})


def _detached(expr: sp.Expr) -> Iterator[sp.Expr]:
    """Detached where it was not, and the other way round."""

    def change(node: sp.Expr) -> Iterator[sp.Expr]:
        if isinstance(node, sg):
            yield node.args[0]
        elif isinstance(node, (Norm2, Dot)) and node.has(v_theta):
            yield sg(node)

    yield from _rebuilt(expr, change)


_SPOILERS: dict[str, Callable[[sp.Expr], Iterator[sp.Expr]]] = {
    "sign": _signs,
    "factor": _factors,
    "dropped": _dropped,
    "swapped": _swapped,
    "replaced": _replaced,
    "detached": _detached,
}


# ---------------------------------------------------------------------------------------- of the whole claim


_HIDDEN_ZERO = Norm2(2 * v_old) - 4 * Norm2(v_old)
_G = sp.Symbol("G", positive=True)


def _vanishing_denominator(claim: Claim) -> Iterator[tuple[str, Claim]]:
    """Both sides over what is 0, always or only where the condition is met; then anything fits the numerators."""
    how = "denominator"
    pairs = {Equal: ("lhs", "rhs"), Parallel: ("lhs", "rhs"), EqualUpToConstant: ("lhs", "rhs")}
    if type(claim) in pairs:
        a, b = pairs[type(claim)]
        yield how, replace(claim, **{a: getattr(claim, a) / _HIDDEN_ZERO, b: 2 * getattr(claim, b) / _HIDDEN_ZERO})
    if isinstance(claim, Equal):
        gap = Norm2(v_ref) - _G
        where = {**claim.where, Norm2(v_ref): _G}
        yield how, replace(claim, lhs=claim.lhs * gap / (2 * gap + gap**2), where=where)
    if isinstance(claim, Approximates) and v_theta in claim.limit:
        distance = Norm2(v_theta - claim.limit[v_theta])
        left = sp.sympify(claim.lhs)
        way = v_theta - claim.limit[v_theta] if left != 0 and kind(left) == "vector" else Dot(noise, v_theta - v_old)
        yield how, replace(claim, lhs=left + way / sp.sqrt(distance), remainder=None)
        yield how, replace(claim, lhs=left + way * Dot(noise, v_theta - v_old) / distance, remainder=None)
    if isinstance(claim, Positive):
        yield how, replace(claim, expr=claim.expr / _HIDDEN_ZERO)


def _conditions(claim: Claim) -> Iterator[tuple[str, Claim]]:
    """Conditions left out, negated, or of another symbol."""
    where = dict(getattr(claim, "where", {}))
    for key, value in where.items():
        rest = {s: e for s, e in where.items() if s != key}
        yield "condition", replace(claim, where=rest)
        yield "condition", replace(claim, where={**rest, key: -value})
        yield "condition", replace(claim, where={**rest, key: 2 * value + (0 if value != 0 else 1)})
    if isinstance(claim, Equal):
        for symbol in sorted(set().union(*(sp.sympify(e).free_symbols for e in (claim.lhs, claim.rhs))), key=str):
            if not isinstance(symbol, VectorSymbol) and symbol.is_positive and symbol not in where:
                yield "outside", replace(claim, lhs=2 * claim.lhs, where={**where, symbol: -symbol})


def _of_kind(claim: Claim) -> Iterator[tuple[str, Claim]]:
    """What only one kind of claim has."""
    match claim:
        case Approximates():
            yield "order", replace(claim, order=claim.order + 1)
            yield "order", replace(claim, order=claim.order + 2)
            yield "limit", replace(claim, limit={v_theta: v_ref})
            yield "limit", replace(claim, limit={})
        case Parallel():
            yield "sign assumption", replace(claim, rhs=-claim.rhs, factor=-claim.factor)
            yield "sign assumption", replace(claim, rhs=claim.rhs / advantage, factor=claim.factor * advantage)
        case EqualUpToConstant():
            for term in sp.Add.make_args(sp.sympify(claim.rhs)):
                yield "freeness", replace(claim, rhs=claim.rhs - term, constant=claim.constant + term)
            yield (
                "freeness",
                replace(claim, rhs=claim.rhs - sg(Norm2(v_theta)), constant=claim.constant + Norm2(v_theta)),
            )
        case SameHessian():
            yield "held", replace(claim, rhs=claim.rhs + Norm2(v_theta))
            if claim.held:
                yield "held", replace(claim, held=())
        case Positive():
            yield "sign assumption", replace(claim, expr=claim.expr - 100)
            yield "sign assumption", replace(claim, expr=claim.expr * advantage)
        case GradientIs():
            yield "with respect to", replace(claim, wrt=v_ref if claim.wrt != v_ref else v_old)
