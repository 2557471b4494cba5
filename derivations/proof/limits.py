r"""How fast a difference vanishes in a limit: its order in s along v_theta = v_old + s·h, for an arbitrary h.

Only where everything is analytic at the limit itself is an order stated: no denominator vanishes there, no root or
logarithm has its branch point there, and every mask is decided.  Then a function's order along every line is its order
outright, since a homogeneous polynomial that vanishes on every line is 0.
"""

from __future__ import annotations

import sympy as sp

from derivations import calculus
from derivations.algebra.nodes import Dot, Each, MeanAbs, Norm2, NormalCDF, Total
from derivations.algebra.series import coefficients
from derivations.algebra.signs import is_positive
from derivations.calculus import ClipMask, Mask, OtherMask, OtherUnless, Surrogate, Unless, VectorSymbol
from derivations.proof.domains import corners
from derivations.proof.premises import RefusedError, Substitution, defined

__all__ = ["leading"]

_ANALYTIC = (sp.exp, sp.log, sp.sin, sp.cos, sp.tanh, sp.sinh, sp.cosh, sp.atan, sp.erf, sp.acos, sp.asin)
"""Functions that are analytic where they are defined, the ends of acos's and asin's domain excepted."""

_OWN = (Dot, Norm2, Each, Total, Mask, NormalCDF)

_KINKED = (sp.Min, sp.Max, sp.Abs, sp.sign, sp.floor, sp.ceiling, sp.Heaviside, sp.Piecewise, MeanAbs, Surrogate)


def leading(expr: sp.Expr, limit: Substitution, order: int) -> sp.Expr:
    """What is left of an expression's Taylor coefficients below the order, at the limit; 0 where all vanish.

    Raises:
        RefusedError: the expression is not analytic at the limit, or the limit names no symbols.
    """
    if not limit:
        raise RefusedError("no limit is named")
    if order < 1:
        raise RefusedError("an approximation is of order 1 at least: what remains must vanish in the limit")
    placed = dict(limit)
    along = {
        symbol: VectorSymbol.dummy(f"h{i}") if isinstance(symbol, VectorSymbol) else sp.Dummy(f"h{i}", real=True)
        for i, symbol in enumerate(limit)
    }
    for node in expr.atoms(*_KINKED):
        if any(node.has(symbol) for symbol in limit):
            raise RefusedError(f"{type(node).__name__} may have a kink at the limit")
    for node in expr.atoms(sp.Function):
        if not isinstance(node, (*_ANALYTIC, *_OWN)) and any(node.has(symbol) for symbol in limit):
            raise RefusedError(f"{node.func} is not known to be smooth at the limit")
    expr = expr.xreplace(_decided(expr, placed))
    _check_roots(expr, placed)
    defined(expr.xreplace(placed))
    for left in map(calculus.residual, coefficients(expr, placed, along, order)):
        if left != 0:
            return left
    return sp.S.Zero


def _check_roots(expr: sp.Expr, placed: Substitution) -> None:
    """Refuse roots, logarithms and denominators of what is 0 at the limit: none of them is analytic there.

    It is asked of the expression as it stands: SymPy turns √(s²) into the modulus of s, whose kink no derivative shows.
    """
    for node in expr.atoms(sp.acos, sp.asin):
        if node.has(*placed) and not all(is_positive(1 + sign * node.args[0].xreplace(placed)) for sign in (1, -1)):
            raise RefusedError(f"{node.func} has no slope at the ends of its domain, and may be there at the limit")
    for node in expr.atoms(sp.Pow, sp.log):
        base = node.args[0]
        if isinstance(node, sp.Pow) and node.exp.is_Integer and node.exp > 0:
            continue
        if isinstance(node, sp.Pow) and not node.exp.is_Integer and node.has(*placed):
            if not all(is_positive(x) for x in corners(base.xreplace(placed))):
                raise RefusedError(f"the root of {base} is not known to be smooth at the limit")
            continue
        if not base.has(*placed):
            continue
        there = base.xreplace(placed)
        signed = any(all(is_positive(sign * x) for x in corners(there)) for sign in (1, -1))
        if not signed and isinstance(node, sp.Pow) and not expr.has(there**node.exp):
            raise RefusedError(f"the denominator {base} is not known to differ from 0 at the limit")
        if not signed and calculus.is_zero(there):
            raise RefusedError("it is not smooth at the limit: a denominator, root or logarithm vanishes in it")


def _decided(expr: sp.Expr, placed: Substitution) -> dict[sp.Expr, sp.Expr]:
    """Masks that depend on what moves: 1 or 0 near the limit, if they are so at it with room to spare."""
    out = {}
    for mask in expr.atoms(Mask):
        if not any(mask.has(symbol) for symbol in placed):
            continue
        args = [sp.expand(sp.cancel(sp.together(calculus.expand(a.xreplace(placed))))) for a in mask.args]
        value = _near(mask, args)
        if value is None:
            raise RefusedError("a mask is not decided at the limit")
        out[mask] = 1 - value if isinstance(mask, (OtherMask, OtherUnless)) else value
    return out


def _near(mask: Mask, args: list[sp.Expr]) -> sp.Expr | None:
    if isinstance(mask, ClipMask):
        advantage, ratio, low, high = args
        above, below = sp.expand(ratio - 1 - high), sp.expand(1 - low - ratio)
        if is_positive(-above) and is_positive(-below):
            return sp.S.One
        off = (is_positive(above) and is_positive(advantage)) or (is_positive(below) and is_positive(-advantage))
        return sp.S.Zero if off else None
    if isinstance(mask, Unless):
        if any(is_positive(-c) for c in args):
            return sp.S.One
        return sp.S.Zero if all(is_positive(c) for c in args) else None
    return None
