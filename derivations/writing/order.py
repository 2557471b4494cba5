r"""The order in which the field writes factors and terms: A m r k …, 1 − t, ε + k δ."""

from __future__ import annotations

import sympy as sp

from derivations import calculus
from derivations.calculus import (
    Dot,
    Each,
    Mask,
    MeanAbs,
    Norm2,
    VectorSymbol,
)
from derivations.notation import NOTATION

__all__ = [
    "ROOT",
    "argument_key",
    "factor_key",
    "factors_of",
    "is_inverse",
    "is_root",
    "is_weight",
    "kind_of_factor",
    "term_key",
]

# Factors stand in this order, as the field writes them: A m r k …; the first group stays in front of a fraction.
_WEIGHTS = ("advantage", "A", "mask", "reward_prob", "ratio", "r", "kl_weight")
_ORDER = (*_WEIGHTS, "lambda", "beta", "omega", "noise_level", "k", "C1", "C2", "sigma_t", "t", "t_prev", "dt", "D")
_ROW = {q.symbol.name: i for i, q in enumerate(NOTATION)}


def _rank(expr: sp.Expr) -> tuple[int, int, str]:
    """Where a factor belongs: that of its foremost symbol."""
    if isinstance(expr, Mask):
        return (_ORDER.index("mask"), 0, "")
    if isinstance(expr, sp.Symbol):
        place = _ORDER.index(expr.name) if expr.name in _ORDER else len(_ORDER)
        return (place, _ROW.get(expr.name, len(_ROW)), expr.name)
    symbols = [_rank(s) for s in expr.free_symbols]
    return min(symbols, default=(-1, 0, ""))


def kind_of_factor(expr: sp.Expr) -> int:
    """Kinds of factors in reading order; see the names below."""
    if isinstance(expr, (VectorSymbol, Each)):
        return _VECTOR
    if expr.has(VectorSymbol) and not calculus.coordinatewise(expr):
        pass
    elif expr.has(VectorSymbol) and _is_vector(expr):
        return _VECTOR
    base = expr.base if isinstance(expr, sp.Pow) else expr
    if base.is_Atom or isinstance(base, Mask):
        return ROOT if is_root(expr) else _ATOM
    kinds = ((sp.Add, _SUM + is_root(expr)), (sp.Mul, _SUM + 1), (Norm2, _NORM), (MeanAbs, _NORM), (Dot, _INNER))
    return next((place for kind, place in kinds if isinstance(base, kind)), _FUNCTION)


def _is_vector(expr: sp.Expr) -> bool:
    """Whether it is a vector, and no other function of coordinates."""
    try:
        return calculus.kind(expr) == "vector"
    except calculus.CalculusError:
        return False


_ATOM, _ROOT, _FUNCTION, _SUM, _ROOT_OF_SUM, _NORM, _INNER, _VECTOR = range(8)
ROOT = _ROOT
"""The place of a root among the factors of a product."""


def is_root(expr: sp.Expr) -> bool:
    """Whether it is a square root, or one over a square root."""
    return isinstance(expr, sp.Pow) and abs(expr.exp) == sp.Rational(1, 2)


def factor_key(expr: sp.Expr) -> tuple[object, ...]:
    """By which the factors of a product are sorted."""
    return (kind_of_factor(expr), _rank(expr), sp.default_sort_key(expr))


def term_key(expr: sp.Expr) -> tuple[object, ...]:
    """Numbers, then single symbols, then products by their factors: 1 − t, ε + k δ, (1 − t) x_0 + t ε."""
    coefficient, rest = expr.as_coeff_Mul()
    factors = sorted(factors_of(rest), key=factor_key)
    length = (
        0 if not expr.free_symbols else 1 if len(factors) == 1 and kind_of_factor(factors[0]) in (_ATOM, _VECTOR) else 2
    )
    return (
        length,
        [_rank(f) for f in factors],
        bool(coefficient.is_extended_negative),
        [kind_of_factor(f) for f in factors],
        sp.default_sort_key(expr),
    )


def argument_key(expr: sp.Expr) -> tuple[object, ...]:
    """Arguments of a minimum: short ones first."""
    return (sp.count_ops(expr), term_key(expr))


def factors_of(expr: sp.Expr) -> list[sp.Expr]:
    """The factors of a product, 1 left out; square roots are gathered under one sign."""
    factors = [f for f in sp.Mul.make_args(expr) if f != 1]
    roots = [f for f in factors if is_root(f)]
    unsure = [f for f in roots if not f.base.is_nonnegative]
    if len(roots) < 2 or len(unsure) > 1 or any(is_inverse(f) for f in unsure):
        return factors  # √a √b = √(ab) needs a ≥ 0 or b ≥ 0
    under = sp.Mul(*(f.base ** (2 * f.exp) for f in roots))
    return [*(f for f in factors if not is_root(f)), sp.Pow(under, sp.Rational(1, 2), evaluate=False)]


def is_inverse(expr: sp.Expr) -> bool:
    """Whether it is one over something."""
    return isinstance(expr, sp.Pow) and bool(expr.exp.is_negative)


def is_weight(expr: sp.Expr) -> bool:
    """Whether it weighs a sample: a mask, or a symbol that stands for a weight, or a power of one."""
    base = expr.base if isinstance(expr, sp.Pow) else expr
    return isinstance(base, Mask) or (isinstance(base, sp.Symbol) and base.name in _WEIGHTS)
