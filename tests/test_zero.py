"""What decides that an expression is 0: right on rational functions, whatever form they are written in."""

from __future__ import annotations

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from derivations.algebra.zero import _vanishes_in_field
from derivations.calculus import Norm2, VectorSymbol, is_zero

X, Y, Z = sp.symbols("x y z", positive=True)
U = Norm2(VectorSymbol("u"))
LEAVES = st.sampled_from([X, Y, Z, U, sp.log(1 + Y), sp.Integer(2), sp.Rational(-3, 7)])


def grown(inner: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] * p[1]),
        st.tuples(inner, st.sampled_from([-2, -1, 2])).filter(lambda p: p[0] != 0).map(lambda p: p[0] ** p[1]),
    )


RATIONAL = st.recursive(LEAVES, grown, max_leaves=8).filter(lambda e: not e.has(sp.zoo, sp.nan))


@given(RATIONAL)
@settings(max_examples=100)
def test_an_expression_is_its_other_forms_and_nothing_else(expr: sp.Expr) -> None:
    """SymPy's own ``cancel`` and ``expand`` write it anew."""
    for other in (sp.cancel(expr), sp.expand(expr), sp.together(expr)):
        assert _vanishes_in_field(expr - other)
        assert not _vanishes_in_field(expr - other + X / (1 + Y))
    assert _vanishes_in_field(expr) == (sp.cancel(expr) == 0)


def test_denominators_that_only_look_different_cancel() -> None:
    same = [
        (1 / (X - Y), -1 / (Y - X)),
        (1 / (X**2 - Y**2), 1 / ((X - Y) * (X + Y))),
        ((1 / X + 1 / Y) ** -1, X * Y / (X + Y)),
        ((1 / X + 1 / Y) / X, (X + Y) / (X**2 * Y)),
    ]
    for one, other in same:
        assert _vanishes_in_field(one - other)
        assert is_zero(one - other)
        assert not _vanishes_in_field(one + other)
        assert not _vanishes_in_field(one - X * other)


def test_a_division_by_what_is_zero_proves_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        _vanishes_in_field(X / ((X + Y) ** 2 - X**2 - 2 * X * Y - Y**2))


def test_a_logarithm_of_a_product_with_a_root_is_settled() -> None:
    """SymPy's factor_list raises there."""
    size, std = sp.Symbol("D", integer=True, positive=True), sp.Symbol("s", positive=True)
    assert not is_zero(sp.log(size * sp.sqrt(std)) - sp.log(std))
    assert is_zero(sp.log(size * sp.sqrt(std)) - sp.log(sp.sqrt(std) * size))
