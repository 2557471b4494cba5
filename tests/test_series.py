"""Taylor coefficients along a line: they are the derivatives there, divided by factorials."""

from __future__ import annotations

import math

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from derivations.algebra.nodes import CalculusError, MeanAbs
from derivations.algebra.series import coefficients
from derivations.calculus import Dot, Norm2, VectorSymbol, expand, is_zero

X, Y = sp.symbols("x y", positive=True)
DX, S = sp.Symbol("d", real=True), sp.Symbol("s", real=True)
U, V, H = VectorSymbol("u"), VectorSymbol("v"), VectorSymbol("h")
LEAVES = st.sampled_from([X, Y, Norm2(V), Dot(U, V), 1 + Norm2(X * V - U), sp.Integer(2)])


def grown(inner: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.sampled_from([-1, 2, 3])).filter(lambda p: p[0] != 0).map(lambda p: p[0] ** p[1]),
        inner.map(lambda e: sp.exp(e / 3)),
        inner.map(lambda e: sp.log(1 + e**2)),
        inner.map(lambda e: (1 + e**2) ** sp.Rational(-3, 2)),
    )


@given(st.recursive(LEAVES, grown, max_leaves=3))
@settings(max_examples=25, deadline=None)
def test_coefficients_are_the_derivatives_along_the_line(expr: sp.Expr) -> None:
    found = coefficients(expr, {X: Y, V: U}, {X: DX, V: H}, 3)
    moved = expand(expr.xreplace({X: Y + S * DX, V: U + S * H}))
    for k, coefficient in enumerate(found):
        derivative = (sp.diff(moved, S, k) if k else moved).xreplace({S: sp.S.Zero})
        assert is_zero(math.factorial(k) * coefficient - derivative)


def test_a_whole_power_of_what_vanishes_is_not_divided_by_it() -> None:
    """The base is 0 at the limit, written so that this is only seen once it is multiplied out."""
    base = (X + Y) ** 2 - X**2 - 2 * X * Y - Y**2 + sp.Symbol("z")
    first = coefficients(base**2, {sp.Symbol("z"): sp.S.Zero}, {sp.Symbol("z"): DX}, 3)
    assert [is_zero(c) for c in first] == [True, True, False]
    assert is_zero(first[2] - DX**2)


def test_a_vector_s_coefficients_are_vectors() -> None:
    first, second, third = coefficients(X**2 * V, {X: Y, V: U}, {X: DX, V: H}, 3)
    assert is_zero(first - Y**2 * U)
    assert is_zero(second - Y**2 * H - 2 * Y * DX * U)
    assert is_zero(third - 2 * Y * DX * H - DX**2 * U)


def test_a_function_without_a_derivative_is_refused() -> None:
    with pytest.raises(CalculusError, match="derivative is not known"):
        coefficients(MeanAbs(V), {V: V}, {V: H}, 2)
