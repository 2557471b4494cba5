r"""Whether an expression is positive: proved from its symbols' signs, or not known.

SymPy's assumptions decide sums and products of what has a sign.  Added here are quotients brought to one denominator,
roots (a + b√y with a > 0 > b is positive where a² > b²y), numbers clipped to an interval, logarithms of what is above
1, and sines of angles in (0, π).  A root is taken to be real: nothing is said where it is not.
``False`` means "not proved": there is no guess.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from derivations.algebra.nodes import coordinatewise, sg
from derivations.algebra.vectors import maximal

__all__ = ["is_nonnegative", "is_positive", "without_exponents"]

_DEPTH = 4


def is_positive(expr: sp.Expr) -> bool:
    """Whether the expression is proved to be positive for all values that its symbols' assumptions allow."""
    return _has_sign(without_exponents(sp.sympify(expr)), True, _DEPTH)


def is_nonnegative(expr: sp.Expr) -> bool:
    """Whether the expression is proved to be at least 0."""
    return _has_sign(without_exponents(sp.sympify(expr)), False, _DEPTH)


def without_exponents(expr: sp.Expr) -> sp.Expr:
    """An exponential of a real number is any positive number: what its exponent is made of need not be looked at."""
    found = maximal(expr, (sp.exp,))
    return expr.xreplace({node: sp.Dummy("e", positive=True) for node in found if node.args[0].is_real})


def _known(expr: sp.Expr, strict: bool) -> bool:
    return bool(expr.is_positive if strict else expr.is_nonnegative)


@lru_cache(maxsize=500)
def _has_sign(expr: sp.Expr, strict: bool, depth: int) -> bool:
    if expr.has(sp.nan, sp.zoo, sp.oo, sp.I):
        return False
    if _known(expr, strict):
        return True
    if depth == 0:
        return False
    if _by_structure(expr, strict, depth):
        return True
    between = _between(expr)
    if between is not None:
        return all(_has_sign(x, strict, depth - 1) for x in between)
    for wave in _numbers(expr, sp.sin, sp.cos):
        place = sp.Dummy("w", real=True)
        linear = expr.xreplace({wave: place})
        ends = [linear.xreplace({place: sp.Integer(end)}) for end in (-1, 1)]
        if not linear.diff(place).has(place) and all(_has_sign(x, strict, depth - 1) for x in ends):
            return True  # it is linear in a number between −1 and 1
    extreme = next(iter(_numbers(expr, sp.Min, sp.Max)), None)
    if extreme is not None:
        return _by_extreme(expr, extreme, strict, depth)
    numerator, denominator = sp.fraction(sp.cancel(sp.together(sp.powdenest(expr))))
    if denominator == 1 and numerator == expr:
        return _by_root(expr, strict, depth)
    for sign in (1, -1):
        if _of_sum(sp.expand(sign * denominator), True, depth) and _of_sum(sp.expand(sign * numerator), strict, depth):
            return True
    return _by_root(sp.expand(expr), strict, depth)


def _of_sum(expr: sp.Expr, strict: bool, depth: int) -> bool:
    """A polynomial, or its factored form: SymPy may have taken a common factor out of it, or multiplied it away."""
    if _known(expr, strict) or _by_structure(expr, strict, depth - 1) or _by_root(expr, strict, depth):
        return True
    factored = sp.factor_terms(expr)
    return factored != expr and _by_structure(factored, strict, depth - 1)


def _numbers(expr: sp.Expr, *kinds: type) -> list[sp.Expr]:
    """Its functions of these kinds that are one number, and not one for each coordinate in a sum over them.

    Min(a, b) is a in some coordinates and b in others, so that Σ min(a, b) is neither Σ a nor Σ b.
    """
    return sorted((node for node in expr.atoms(*kinds) if not coordinatewise(node)), key=sp.default_sort_key)


def _by_structure(expr: sp.Expr, strict: bool, depth: int) -> bool:
    """Sums and products of what has a sign, and functions whose sign is known."""
    if depth <= 0:
        return False

    def all_of(args: tuple[sp.Expr, ...], strictly: bool) -> bool:
        return all(_has_sign(arg, strictly, depth - 1) for arg in args)

    if isinstance(expr, sg):
        return _has_sign(expr.args[0], strict, depth)
    if isinstance(expr, sp.exp):
        return bool(expr.args[0].is_real)
    if isinstance(expr, sp.Add):
        return all_of(expr.args, False) and (not strict or any(_has_sign(a, True, depth - 1) for a in expr.args))
    if isinstance(expr, sp.Mul):
        signed = [a if not a.is_negative else -a for a in expr.args]
        flips = sum(bool(a.is_negative) for a in expr.args)
        return flips % 2 == 0 and all_of(tuple(signed), strict)
    if isinstance(expr, sp.Pow):
        base, exponent = expr.args
        if not strict and (exponent.is_even or exponent == sp.Rational(1, 2)):
            return bool(base.is_real)
        positive_only = strict or not exponent.is_nonnegative
        return bool(exponent.is_real) and _has_sign(base, positive_only, depth - 1)
    if isinstance(expr, sp.Max):
        return any(_has_sign(a, strict, depth - 1) for a in expr.args)
    if isinstance(expr, sp.Min):
        return all_of(expr.args, strict)
    if isinstance(expr, sp.log):
        return _has_sign(expr.args[0] - 1, strict, depth - 1)
    if isinstance(expr, sp.sin):
        return all_of((expr.args[0], sp.pi - expr.args[0]), strict)
    if isinstance(expr, sp.acos):
        return all_of((1 - expr.args[0], 1 + expr.args[0]), False) and (
            not strict or _has_sign(1 - expr.args[0], True, depth - 1)
        )
    return False


def _between(expr: sp.Expr) -> list[sp.Expr] | None:
    """The expression with a sign, or a number clipped to an interval, at both ends and anywhere between them."""
    for node in _numbers(expr, sp.sign):
        return [expr.xreplace({node: sp.Integer(value)}) for value in (-1, 0, 1)]
    for node in _numbers(expr, sp.Min):
        for high in node.args:
            rest = [a for a in node.args if a != high]
            if len(rest) == 1 and isinstance(rest[0], sp.Max):
                for low in rest[0].args:
                    if (high - low).is_nonnegative:
                        inside = low + (high - low) / (1 + sp.Dummy("p", positive=True))
                        return [expr.xreplace({node: value}) for value in (low, inside, high)]
    return None


def _by_extreme(expr: sp.Expr, node: sp.Expr, strict: bool, depth: int) -> bool:
    """A minimum is one of its arguments, and at most each of them: enough where the expression falls with it."""
    places = [expr.xreplace({node: arg}) for arg in node.args]
    if all(_has_sign(x, strict, depth - 1) for x in places):
        return True
    place = sp.Dummy("m", real=True)
    slope = sp.diff(expr.xreplace({node: place}), place)
    if slope.has(place) or not _has_sign(-slope if isinstance(node, sp.Min) else slope, False, depth - 1):
        return False
    return any(_has_sign(x, strict, depth - 1) for x in places)


def _by_root(expr: sp.Expr, strict: bool, depth: int) -> bool:
    """a + b√y with a and b of opposite signs, by the sign of a² − b²y; the root is taken to be real."""
    if depth <= 1 or not isinstance(expr, sp.Add):
        return False
    roots = {p for p in expr.atoms(sp.Pow) if p.exp == sp.Rational(1, 2)}
    for root in sorted(roots, key=sp.default_sort_key):
        place = sp.Dummy("root", positive=True)
        poly = sp.expand(expr.xreplace({root: place}))
        slope = sp.diff(poly, place)
        rest = sp.expand(poly - slope * place)
        if rest.has(place) or slope.has(place):
            continue
        gap = rest**2 - slope**2 * root.base
        if _has_sign(rest, False, depth - 1) and _has_sign(-slope, False, depth - 1):
            return _has_sign(gap, strict, depth - 1)
        if _has_sign(-rest, False, depth - 1) and _has_sign(slope, False, depth - 1):
            return _has_sign(-gap, strict, depth - 1)
    return False
