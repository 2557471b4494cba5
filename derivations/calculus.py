r"""Scalars and vectors over a symbolic dimension D, and the gradient of one with respect to the other.

A vector is an ordinary SymPy linear combination of :class:`VectorSymbol`; a scalar meets vectors only
inside :class:`Dot`, :class:`Norm2` and :class:`MeanAbs`.  Inner products are bilinear, symmetric and
otherwise opaque, so whatever is proved here holds in every inner-product space: for every D at once.

Two ways lead to a gradient.  :func:`gradient` applies the chain rule and keeps the expression's form.
:func:`gradient_residual` checks a *claimed* gradient against the definition
:math:`\frac{d}{ds} f(v + s h)\big|_{s=0} = \langle \nabla f, h\rangle` for an arbitrary direction h; it
shares nothing with the first but the bilinear expansion, and it is what proofs use.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from derivations.algebra.field import vanishes
from derivations.algebra.nodes import (
    CalculusError,
    ClipMask,
    Dot,
    Each,
    Mask,
    MeanAbs,
    Norm2,
    OtherMask,
    OtherUnless,
    Surrogate,
    Total,
    Unless,
    VectorSymbol,
    coordinatewise,
    sg,
)
from derivations.algebra.series import coefficients
from derivations.algebra.vectors import components, coordinates, drop_sg, expand, freeze, kind, maximal
from derivations.algebra.zero import in_totals, is_zero, normal, residual

__all__ = [
    "CalculusError",
    "ClipMask",
    "Dot",
    "Each",
    "Mask",
    "MeanAbs",
    "Norm2",
    "OtherMask",
    "OtherUnless",
    "Surrogate",
    "Total",
    "Unless",
    "VectorSymbol",
    "components",
    "coordinates",
    "coordinatewise",
    "drop_sg",
    "expand",
    "freeze",
    "fresh_vector",
    "gradient",
    "gradient_residual",
    "hessian_product",
    "is_zero",
    "kind",
    "normal",
    "residual",
    "sg",
]

_STEP = sp.Dummy("s", real=True)  # one for all, so that SymPy remembers what it did with it
_OPAQUE = (Dot, Norm2, MeanAbs, Total)
_KINKED = (sp.Min, sp.Max, sp.Abs, sp.sign, sp.floor, sp.ceiling, sp.Heaviside, sp.Piecewise)


def gradient(expr: sp.Expr, v: VectorSymbol) -> sp.Expr:
    r"""Gradient :math:`\nabla_v f` of a scalar expression: a vector expression, kept in factored form.

    ``sg(...)`` counts as a constant.  Mind that a symbol is a constant too: inline its definition first.

    Raises:
        CalculusError: the expression is no scalar, or has a kink, an unknown function or a
            :class:`MeanAbs` between it and v.
    """
    expr = sp.sympify(expr)
    if kind(expr) != "scalar":
        raise CalculusError(f"the gradient is taken of a scalar, but {expr} is a vector")
    frozen, thaw = freeze(expr)
    return _gradient(frozen, v).xreplace(thaw)


def _gradient(expr: sp.Expr, v: VectorSymbol) -> sp.Expr:
    if not expr.has(v):
        return sp.S.Zero
    nodes = [node for node in maximal(expr, _OPAQUE) if node.has(v)]
    dummies = {node: sp.Dummy(f"g{i}", real=True) for i, node in enumerate(nodes)}
    back = {d: node for node, d in dummies.items()}
    outer = expr.xreplace(dummies)
    terms = []
    for node, dummy in dummies.items():
        slope = _diff(outer, dummy, expr).xreplace(back)
        if slope == 0:
            continue
        if isinstance(node, MeanAbs):
            raise CalculusError(f"{node} has no gradient here; implementations detach it, so write sg(...) around it")
        if isinstance(node, Total):
            terms.append(slope * _gradient_of_total(node.args[0], v))
            continue
        a, b = (node.args * 2)[:2]
        inner = (
            2 * _transposed_jacobian(a, b, v)
            if isinstance(node, Norm2)
            else (_transposed_jacobian(a, b, v) + _transposed_jacobian(b, a, v))
        )
        terms.append(slope * inner)
    return sp.Add(*terms)


def _gradient_of_total(f: sp.Expr, v: VectorSymbol) -> sp.Expr:
    """Through the coordinates themselves, and through the numbers per sample that stand among them."""
    nodes = [node for node in maximal(f, _OPAQUE) if node.has(v)]
    dummies = {node: sp.Dummy(f"g{i}", real=True) for i, node in enumerate(nodes)}
    back = {d: node for node, d in dummies.items()}
    outer = f.xreplace(dummies)
    out: sp.Expr = Each(_diff(outer, v, f).xreplace(back))
    for node, dummy in dummies.items():
        out += Total(_diff(outer, dummy, f).xreplace(back)) * _gradient(node, v)
    return out


def _transposed_jacobian(a: sp.Expr, b: sp.Expr, v: VectorSymbol) -> sp.Expr:
    """(∂a/∂v)ᵀ b for a = Σ αᵢ uᵢ, whose coefficients may depend on v too."""
    coefficients = components(a)
    out = coefficients.get(v, sp.S.Zero) * b
    for u, alpha in coefficients.items():
        if alpha.has(v):
            out += Dot(u, b) * _gradient(alpha, v)
    return out


def _diff(expr: sp.Expr, x: sp.Symbol, shown: sp.Expr) -> sp.Expr:
    """sympy.diff that refuses kinks and unknown functions instead of returning something subtle."""
    for node in sp.preorder_traversal(expr):
        if isinstance(node, _KINKED) and node.has(x):
            raise CalculusError(
                f"{type(node).__name__} has a kink, so {shown} has no gradient everywhere; "
                "state it as branches (see Surrogate) or put it inside sg(...)"
            )
    slope = sp.diff(expr, x)
    if slope.has(sp.Derivative, sp.Subs):
        raise CalculusError(f"{shown} holds a function whose derivative is not known")
    return slope


@lru_cache(maxsize=500)  # variants share most of their statements
def gradient_residual(expr: sp.Expr, v: VectorSymbol, claimed: sp.Expr) -> sp.Expr:
    r"""What is left of :math:`\frac{d}{ds}f(v+sh)|_{s=0} - \langle g, h\rangle`; zero proves the claim g."""
    s, h = _STEP, fresh_vector(expr, sp.sympify(claimed))
    if kind(sp.sympify(expr)) != "scalar":
        raise CalculusError(f"the gradient is taken of a scalar, but {expr} is a vector")
    frozen, thaw = freeze(expr)
    if any(isinstance(node, _KINKED) and node.has(v) for node in sp.preorder_traversal(frozen)):
        slope = _diff(expand(frozen.xreplace({v: v + s * h})), s, expr).xreplace({s: sp.S.Zero})  # it may cancel
    else:
        slope = coefficients(frozen, {v: v}, {v: h}, 2)[1]
    claim = Dot(drop_sg(sp.sympify(claimed)), h) if claimed != 0 else sp.S.Zero
    left = drop_sg(slope.xreplace(thaw)) - claim
    if vanishes(left):
        return sp.S.Zero
    left = expand(left)
    return normal(_along(left, h) if left.has(Total, Each) else left)


def _along(slope: sp.Expr, h: VectorSymbol) -> sp.Expr:
    """What is linear in h is Σ g_j h_j: this is g_j h_j as a function of coordinates, 0 for every h where g is 0."""
    split = in_totals(slope)
    sums = [node for node in maximal(split, (Dot, Total)) if node.has(h)]
    return split.xreplace({node: coordinates(sp.Mul(*node.args)) for node in sums})


def fresh_vector(*exprs: sp.Expr) -> VectorSymbol:
    """A vector that none of the expressions holds: an arbitrary direction must be independent of them."""
    taken = {symbol.name for expr in exprs for symbol in sp.sympify(expr).free_symbols}
    return VectorSymbol(next(name for name in ("h", *(f"h{i}" for i in range(len(taken)))) if name not in taken))


def hessian_product(expr: sp.Expr, v: VectorSymbol, h: VectorSymbol) -> sp.Expr:
    """Hessian of a scalar expression in v, applied to an arbitrary vector h: a vector expression.

    Raises:
        CalculusError: as :func:`gradient`.
    """
    s = _STEP
    frozen, thaw = freeze(expr)
    shifted = _gradient(frozen, v).xreplace({v: v + s * h})
    out = []
    for u, coefficient in components(shifted).items():
        out.append(_diff(expand(coefficient), s, expr).xreplace({s: sp.S.Zero}) * u)
    return sp.Add(*out).xreplace(thaw)
