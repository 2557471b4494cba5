"""What decides that an expression is 0: right on rational functions, whatever form they are written in."""

from __future__ import annotations

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from derivations.algebra.field import vanishes
from derivations.calculus import ClipMask, Dot, Norm2, VectorSymbol, is_zero

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
        assert vanishes(expr - other)
        assert not vanishes(expr - other + X / (1 + Y))
    assert bool(vanishes(expr)) == (sp.cancel(expr) == 0)


def test_denominators_that_only_look_different_cancel() -> None:
    same = [
        (1 / (X - Y), -1 / (Y - X)),
        (1 / (X**2 - Y**2), 1 / ((X - Y) * (X + Y))),
        ((1 / X + 1 / Y) ** -1, X * Y / (X + Y)),
        ((1 / X + 1 / Y) / X, (X + Y) / (X**2 * Y)),
    ]
    for one, other in same:
        assert vanishes(one - other)
        assert is_zero(one - other)
        assert not vanishes(one + other)
        assert not vanishes(one - X * other)


def test_a_division_by_what_is_zero_proves_nothing() -> None:
    with pytest.raises(ZeroDivisionError):
        vanishes(X / ((X + Y) ** 2 - X**2 - 2 * X * Y - Y**2))


def test_a_logarithm_of_a_product_with_a_root_is_settled() -> None:
    """SymPy's factor_list raises there."""
    size, std = sp.Symbol("D", integer=True, positive=True), sp.Symbol("s", positive=True)
    assert not is_zero(sp.log(size * sp.sqrt(std)) - sp.log(std))
    assert is_zero(sp.log(size * sp.sqrt(std)) - sp.log(sp.sqrt(std) * size))


H, V, W = VectorSymbol("h"), VectorSymbol("v"), VectorSymbol("w")
MASK = ClipMask(sp.Symbol("a", real=True), sp.exp(Dot(V, W)), X, Y)


@pytest.mark.parametrize(
    "expr",
    [
        Norm2(X * V - W) - X**2 * Norm2(V) + 2 * X * Dot(V, W) - Norm2(W),
        Dot(X * (V + W) - W / Y, V - W) - X * Norm2(V) + X * Norm2(W) + Dot(V, W) / Y - Norm2(W) / Y,
        (sp.sqrt(X + Y) - 1) * (sp.sqrt(X + Y) + 1) - X - Y + 1,
        sp.sqrt(X) ** 3 - X * sp.sqrt(X) + X - sp.Mul(sp.sqrt(X), sp.sqrt(X), evaluate=False),
        (X + sp.sqrt(Y)) ** sp.Rational(3, 2) - X * sp.sqrt(X + sp.sqrt(Y)) - sp.sqrt(Y) * sp.sqrt(X + sp.sqrt(Y)),
        sp.exp(Norm2(V - W)) * Y - sp.exp(Norm2(V) - 2 * Dot(V, W) + Norm2(W)) * Y,
        1 / (1 + sp.exp(X * (Y + Z))) + 1 / (1 + sp.exp(-X * Y - X * Z)) - 1,
        MASK**3 - MASK,
        (1 - MASK) * MASK,
    ],
)
def test_what_is_known_of_products_roots_exponentials_and_masks_is_used(expr: sp.Expr) -> None:
    assert expr != 0
    assert vanishes(expr) is True
    assert not vanishes(expr + X)


@pytest.mark.parametrize(
    "expr",
    [
        sp.log(2 * X * Y) - sp.log(2) - sp.log(X) - sp.log(Y),
        sp.exp(X + Y) - sp.Mul(sp.exp(X), sp.exp(Y), evaluate=False),
        sp.sqrt(X**2 + 2 * X * Y + Y**2) - X - Y,
        sp.sin(X) ** 2 + sp.cos(X) ** 2 - 1,
        sp.exp((X + Y) ** 2 - X**2 - 2 * X * Y - Y**2) - 1,
    ],
)
def test_nothing_is_said_to_differ_where_functions_may_be_related(expr: sp.Expr) -> None:
    """All of these are 0, by laws that a field of independent atoms does not know."""
    assert vanishes(expr) is not False


@pytest.mark.parametrize("expr", [X - Y, Norm2(V + H) - Norm2(V), sp.sqrt(X) - X, X - 1 + sp.exp(X - Y), Dot(V, W)])
def test_what_is_made_of_independent_numbers_is_told_apart(expr: sp.Expr) -> None:
    assert vanishes(expr) is False
    assert not is_zero(expr)
