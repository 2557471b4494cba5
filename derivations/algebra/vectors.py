r"""Which expressions are vectors, what their components are, and inner products written out.

A vector is an ordinary SymPy linear combination of :class:`VectorSymbol`; a scalar meets vectors only inside
:class:`Dot`, :class:`Norm2` and :class:`MeanAbs`.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from derivations.algebra.nodes import CalculusError, Dot, Each, Mean, MeanAbs, Norm2, Total, VectorSymbol, sg

__all__ = ["components", "coordinates", "drop_sg", "drop_vector_sg", "expand", "freeze", "kind", "maximal"]

_OPAQUE = (Dot, Norm2, MeanAbs)


def kind(expr: sp.Expr) -> str:
    """Tell whether an expression is a ``"scalar"`` or a ``"vector"``.

    Raises:
        CalculusError: it is neither, for example a sum of both or a product of two vectors.
    """
    return _kind(sp.sympify(expr))


@lru_cache(maxsize=1_000)
def _kind(expr: sp.Expr) -> str:
    if isinstance(expr, (VectorSymbol, Each)):
        return "vector"
    if isinstance(expr, Total):
        return "scalar"
    if isinstance(expr, _OPAQUE):
        for arg in expr.args:
            if _kind(arg) != "vector":
                raise CalculusError(f"{type(expr).__name__} takes vectors, but got the scalar {arg}")
        return "scalar"
    if isinstance(expr, (sg, Mean)):
        return _kind(expr.args[0])
    if not expr.args:
        return "scalar"
    kinds = [_kind(arg) for arg in expr.args]
    vectors = kinds.count("vector")
    if vectors == 0:
        return "scalar"
    if isinstance(expr, sp.Add) and vectors == len(kinds):
        return "vector"
    if isinstance(expr, sp.Mul) and vectors == 1:
        return "vector"
    raise CalculusError(f"{expr} is neither a scalar nor a vector: a vector expression is linear in vectors")


def components(expr: sp.Expr) -> dict[VectorSymbol, sp.Expr]:
    """Coefficients of a vector expression on its vector symbols, without expanding the coefficients.

    A vector of functions of coordinates, :class:`~derivations.algebra.nodes.Each`, stands among the symbols.

    Raises:
        CalculusError: the expression is no vector, or holds ``sg`` around a vector (drop or freeze it first).
    """
    expr = sp.sympify(expr)
    if expr == 0:
        return {}
    if _kind(expr) != "vector":
        raise CalculusError(f"a vector is wanted, but {expr} is a scalar")
    out: dict[VectorSymbol, sp.Expr] = {}
    _collect(expr, sp.S.One, out)
    return out


def _collect(expr: sp.Expr, factor: sp.Expr, out: dict[VectorSymbol, sp.Expr]) -> None:
    if isinstance(expr, (VectorSymbol, Each)):
        out[expr] = out.get(expr, sp.S.Zero) + factor
    elif isinstance(expr, sp.Add):
        for arg in expr.args:
            _collect(arg, factor, out)
    elif isinstance(expr, sp.Mul):
        vector = next(arg for arg in expr.args if _kind(arg) == "vector")
        scalar = sp.Mul(*(arg for arg in expr.args if arg is not vector))
        _collect(vector, factor * scalar, out)
    else:
        raise CalculusError(f"{expr} hides a vector's components")


def coordinates(expr: sp.Expr) -> sp.Expr:
    """A vector as the scalar function that gives each of its coordinates: ``sg`` dropped, every ``Each`` opened."""
    while expr.has(Each):
        opened = {node: node.args[0] for node in maximal(expr, (Each, Dot, Norm2, MeanAbs, Total)) if _each(node)}
        if not opened:
            break
        expr = expr.xreplace(opened)
    return expr


def _each(node: sp.Expr) -> bool:
    return isinstance(node, Each)


def drop_sg(expr: sp.Expr) -> sp.Expr:
    """The value of an expression: every ``sg(x)`` becomes x."""
    while expr.has(sg):
        expr = expr.replace(sg, lambda x: x)
    return expr


def drop_vector_sg(expr: sp.Expr) -> sp.Expr:
    """The same value with every ``sg(vector)`` outside of a detached number written as the vector."""
    detached = {node: drop_vector_sg(node.args[0]) if kind(node) == "vector" else node for node in maximal(expr, (sg,))}
    return expr.xreplace(detached)


def expand(expr: sp.Expr) -> sp.Expr:
    """Write every inner product as a sum over pairs of vector symbols, with scalar coefficients."""
    inner = {node: _expand_node(node) for node in maximal(expr, (Dot, Norm2))}
    return expr.xreplace(inner)


@lru_cache(maxsize=300)
def _expand_node(node: sp.Expr) -> sp.Expr:
    a = components(node.args[0])
    b = a if isinstance(node, Norm2) else components(node.args[1])
    terms = []
    for u, alpha in a.items():
        for w, gamma in b.items():
            terms.append(expand(alpha) * expand(gamma) * (Norm2(u) if u == w else Dot(u, w)))
    return sp.Add(*terms)


def maximal(expr: sp.Expr, types: tuple[type, ...]) -> list[sp.Expr]:
    """Outermost nodes of the given types, each once, in the order of the tree."""
    found: dict[sp.Expr, None] = {}
    walk = sp.preorder_traversal(expr)
    for node in walk:
        if isinstance(node, types):
            found[node] = None
            walk.skip()
    return list(found)


def freeze(expr: sp.Expr) -> tuple[sp.Expr, dict[sp.Expr, sp.Expr]]:
    """Replace every ``sg(...)`` by a constant of its kind that is nothing else's; the mapping restores it."""
    frozen = {node: _frozen(node) for node in maximal(expr, (sg,))}
    return expr.xreplace(frozen), {v: k for k, v in frozen.items()}


@lru_cache(maxsize=300)  # the same for the same node, so that what is made of it is found again
def _frozen(node: sp.Expr) -> sp.Expr:
    if _kind(node) == "vector":
        return VectorSymbol.dummy("sg")
    return sp.Dummy("sg", real=True, positive=True if node.is_positive else None)
