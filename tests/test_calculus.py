"""The calculus of vectors over a symbolic dimension, against three routes that share nothing with it.

Sums over indexed symbols with a symbolic upper limit, explicit coordinates in one to three dimensions, and
torch's autograd through generated code.
"""

from __future__ import annotations

from functools import cache

import mpmath
import pytest
import sympy as sp
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from derivations.calculus import (
    CalculusError,
    ClipMask,
    Dot,
    MeanAbs,
    Norm2,
    OtherMask,
    Surrogate,
    Unless,
    VectorSymbol,
    components,
    drop_sg,
    expand,
    gradient,
    gradient_residual,
    hessian_product,
    is_zero,
    kind,
    residual,
    sg,
)
from derivations.derivation import Derivation, DerivationError
from derivations.notation import advantage, clip_high, clip_low, noise, omega, t, v_old, v_theta, w_plus
from derivations.variant import Variant
from derivations.writing.torchgen import torch_source
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate

torch.set_num_threads(1)

v, u, w = v_theta, v_old, noise
a, b = advantage, t
repeatable = settings(
    derandomize=True, deadline=None, max_examples=40, database=None, suppress_health_check=list(HealthCheck)
)


# Sums over a symbolic dimension

N = sp.Symbol("N", integer=True, positive=True)
i, j = sp.symbols("i j", integer=True, positive=True)
lam = sp.Symbol("lambda", positive=True)


def _indexed(expr: sp.Expr) -> sp.Expr:
    """Inner products as sums over i = 1 … N; vectors outside of them at the coordinate j."""
    if isinstance(expr, VectorSymbol):
        return sp.IndexedBase(expr.name)[j]
    if isinstance(expr, (Dot, Norm2)):
        first, second = (expr.args * 2)[:2]
        return sp.Sum((_indexed(first) * _indexed(second)).subs(j, i), (i, 1, N))
    return expr.func(*map(_indexed, expr.args)) if expr.args else expr


def _inside(expr: sp.Expr) -> sp.Expr:
    """Sums with KroneckerDelta done, for j within 1 … N."""
    return expr.doit().replace(sp.Piecewise, lambda first, *_: first[0])


REPRESENTATIVE = {
    "squared-distance": lam * Norm2(v - u),
    "inner-product": Dot(v - u, a * v + w),
    "product": Dot(v, w) * Norm2(v - u) / (1 + b),
    "gaussian-density": sp.exp(-lam * Norm2(v - u)),
    "gaussian-ratio": sp.exp(-lam * Norm2(u - b * v - w) + lam * Norm2(w)) * a,
    "exponential-of-norm": sp.exp(Norm2(v)),
    "root": sp.sqrt(Norm2(v - w) + lam),
    "quotient": Dot(v, u) / (1 + Norm2(v)),
    "logarithm": sp.log(1 + Norm2(v + u)),
}


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_gradient_agrees_with_indexed_sums(name: str) -> None:
    expr = REPRESENTATIVE[name]
    required = _inside(_indexed(expr).diff(sp.IndexedBase(v.name)[j]))
    assert required.has(sp.IndexedBase(v.name))
    assert sp.simplify(sp.expand(required - _indexed(gradient(expr, v)))) == 0
    assert sp.simplify(sp.expand(required - _indexed(2 * gradient(expr, v)))) != 0


# Explicit coordinates


class Coordinates:
    """Expressions in the coordinates of a space of few dimensions, what is under ``sg`` in symbols of its own."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def of(self, vector: VectorSymbol, held: bool = False) -> list[sp.Symbol]:
        return [sp.Symbol(f"{vector.name}_{n}{'_held' * held}", real=True) for n in range(self.dimension)]

    def scalar(self, expr: sp.Expr, held: bool = False) -> sp.Expr:
        if isinstance(expr, (Dot, Norm2)):
            first, second = (self.vector(arg, held) for arg in (expr.args * 2)[:2])
            return sp.Add(*(x * y for x, y in zip(first, second, strict=True)))
        if isinstance(expr, MeanAbs):
            return sp.Add(*map(sp.Abs, self.vector(expr.args[0], held))) / self.dimension
        if isinstance(expr, sg):
            return self.scalar(expr.args[0], held=True)
        return expr.func(*(self.scalar(arg, held) for arg in expr.args)) if expr.args else expr

    def vector(self, expr: sp.Expr, held: bool = False) -> list[sp.Expr]:
        if isinstance(expr, VectorSymbol):
            return list(self.of(expr, held))
        if isinstance(expr, sg):
            return self.vector(expr.args[0], held=True)
        if isinstance(expr, sp.Add):
            return [sp.Add(*xs) for xs in zip(*(self.vector(arg, held) for arg in expr.args), strict=True)]
        if expr == 0:
            return [sp.S.Zero] * self.dimension
        assert isinstance(expr, sp.Mul), expr
        (vector,) = (arg for arg in expr.args if _is_vector(arg))
        scalar = self.scalar(sp.Mul(*(arg for arg in expr.args if arg is not vector)), held)
        return [scalar * x for x in self.vector(vector, held)]


def _is_vector(expr: sp.Expr) -> bool:
    if isinstance(expr, (Dot, Norm2, MeanAbs)):
        return False
    return isinstance(expr, VectorSymbol) or any(map(_is_vector, expr.args))


@cache
def _point(name: str) -> mpmath.mpf:
    """A fixed number for each symbol, the same for a symbol and what ``sg`` holds of it."""
    plain = name.removesuffix("_held")
    return mpmath.mpf(1 + sum(ord(c) * (n + 3) ** 2 for n, c in enumerate(plain)) % 97) / 61


def _number(expr: sp.Expr) -> mpmath.mpf:
    symbols = sorted(sp.sympify(expr).free_symbols, key=str)
    function = sp.lambdify(symbols, expr, "mpmath")
    with mpmath.workdps(50):
        return mpmath.mpf(function(*(_point(s.name) for s in symbols)))


def _close(x: sp.Expr, y: sp.Expr) -> bool:
    p, q = _number(x), _number(y)
    return bool(abs(p - q) <= mpmath.mpf(10) ** -30 * (1 + abs(p) + abs(q)))


numbers = st.sampled_from([sp.Rational(n, d) for n in (-3, -1, 1, 2) for d in (1, 2, 5)])


def vectors(depth: int) -> st.SearchStrategy[sp.Expr]:
    simple = st.sampled_from([v, v, u, w])
    if depth == 0:
        return simple
    smaller = vectors(depth - 1)
    return st.one_of(
        simple,
        st.builds(lambda x, y: x + y, smaller, smaller),
        st.builds(lambda c, x: c * x, scalars(depth - 1), smaller),
        st.builds(lambda x: sg(x) if x != 0 else u, smaller),
    )


def scalars(depth: int) -> st.SearchStrategy[sp.Expr]:
    simple = st.one_of(numbers, st.sampled_from([a, b]))
    if depth == 0:
        return simple
    smaller, inside = scalars(depth - 1), vectors(depth - 1)
    return st.one_of(
        simple,
        st.builds(Dot, inside, inside),
        st.builds(Norm2, inside),
        st.builds(lambda x, y: x + y, smaller, smaller),
        st.builds(lambda x, y: x * y, smaller, smaller),
        st.builds(lambda x: x**2, smaller),
        st.builds(lambda x: sp.exp(x / 7), smaller),
        st.builds(lambda x: 1 / (1 + Norm2(x)), inside),
        st.builds(lambda x: sp.sqrt(2 + Norm2(x)), inside),
        st.builds(lambda x: sp.log(3 + Norm2(x)), inside),
        st.builds(lambda x: sg(x), smaller),
        st.builds(lambda x: sg(MeanAbs(x if x != 0 else u)), inside),
    )


losses = scalars(3).filter(lambda expr: expr.has(v) and expr.count_ops() < 40)


@pytest.mark.parametrize("dimension", [1, 2, 3])
@repeatable
@given(loss=losses)
def test_gradient_agrees_with_coordinates(dimension: int, loss: sp.Expr) -> None:
    space = Coordinates(dimension)
    stated = space.scalar(loss)
    for x, claimed in zip(space.of(v), space.vector(gradient(loss, v)), strict=True):
        assert _close(stated.diff(x), claimed)


@repeatable
@given(loss=losses)
def test_gradient_residual_accepts_the_gradient_and_nothing_else(loss: sp.Expr) -> None:
    claimed = gradient(loss, v)
    assert gradient_residual(loss, v, claimed) == 0
    assert gradient_residual(loss, v, claimed + u) != 0
    if any(_number(x) != 0 for x in Coordinates(2).vector(claimed)):
        assert gradient_residual(loss, v, 2 * claimed) != 0
        assert gradient_residual(loss, v, -claimed) != 0
        assert gradient_residual(-loss, v, claimed) != 0


@pytest.mark.parametrize("dimension", [1, 2, 3])
@repeatable
@given(loss=losses)
def test_hessian_agrees_with_coordinates(dimension: int, loss: sp.Expr) -> None:
    space, h = Coordinates(dimension), VectorSymbol("direction")
    stated, slopes = space.scalar(loss), space.of(v)
    product = space.vector(hessian_product(loss, v, h))
    for x, claimed in zip(slopes, product, strict=True):
        required = sp.Add(*(stated.diff(x, y) * along for y, along in zip(slopes, space.of(h), strict=True)))
        assert _close(required, claimed)


@pytest.mark.parametrize("dimension", [1, 2, 3])
@repeatable
@given(expr=scalars(3))
def test_expand_keeps_the_value(dimension: int, expr: sp.Expr) -> None:
    space, value = Coordinates(dimension), drop_sg(expr)
    opened = expand(value)
    assert _close(space.scalar(value), space.scalar(opened))
    for node in opened.atoms(Dot, Norm2):
        assert all(isinstance(arg, VectorSymbol) for arg in node.args)


@repeatable
@given(expr=scalars(2), other=scalars(2))
def test_is_zero_is_never_wrong_about_zero(expr: sp.Expr, other: sp.Expr) -> None:
    assert is_zero(expr - expand(drop_sg(expr)))
    assert is_zero((expr + other) ** 2 - expr**2 - other * (2 * expr + other))
    assert not is_zero(expr - expand(drop_sg(expr)) + Norm2(u))
    difference = drop_sg(expr - other)
    if is_zero(difference):
        assert _close(Coordinates(2).scalar(difference), sp.S.Zero)


@repeatable
@given(x=vectors(2), y=vectors(2))
def test_is_zero_of_vectors(x: sp.Expr, y: sp.Expr) -> None:
    assert is_zero(a * (x + y) - a * x - y * a)
    assert not is_zero(x - x + w)
    if x != 0 and y != 0 and is_zero(x - y):
        assert all(map(_close, Coordinates(2).vector(drop_sg(x)), Coordinates(2).vector(drop_sg(y))))


# Generated torch code and its autograd


def _derivation(loss: sp.Expr, **more: object) -> Derivation:
    slope, weight = gradient(loss, v), sp.Rational(1, 2)
    return Derivation(
        "generated", Variant("paper", ""), "", "forward", "on", "", loss, slope, weight, v - slope, **more
    )


def _case(seed: int, dtype: torch.dtype = torch.float64) -> Case:
    generator = torch.Generator().manual_seed(seed)
    latents = {s.name: torch.randn(4, 2, 3, generator=generator, dtype=dtype) / 2 for s in (v, u, w)}
    scalars = {s.name: torch.rand(4, generator=generator, dtype=dtype) + 0.2 for s in (a, b)}
    clips = {clip_low.name: 0.2, clip_high.name: 0.3}
    latents[v.name].requires_grad_()
    return Case("generated", {**latents, **scalars, **clips})


def _autograd(derivation: Derivation, case: Case) -> torch.Tensor:
    (loss,) = evaluate(derivation, case, derivation.loss)
    (slope,) = torch.autograd.grad(loss.sum(), case.v_theta, allow_unused=True, materialize_grads=True)
    return slope


@settings(repeatable, max_examples=30)
@given(loss=losses, seed=st.integers(0, 99))
def test_gradient_agrees_with_autograd_of_the_generated_loss(loss: sp.Expr, seed: int) -> None:
    assume(gradient(loss, v) != 0)
    derivation, case = _derivation(loss), _case(seed)
    assume(evaluate(derivation, case, derivation.loss)[0].requires_grad)
    (claimed,) = evaluate(derivation, case, derivation.gradient)
    torch.testing.assert_close(claimed.expand(case.v_theta.shape), _autograd(derivation, case), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_surrogate_and_mask_agree_with_autograd(seed: int) -> None:
    ratio = sp.exp(Dot(v, w) / 3)
    signed = a - sp.Rational(7, 10)  # advantages of both signs
    derivation, case = _derivation(Surrogate(signed, ratio, clip_low, clip_high)), _case(seed)
    claimed, mask, other = evaluate(
        derivation,
        case,
        derivation.gradient,
        ClipMask(signed, ratio, clip_low, clip_high),
        OtherMask(signed, ratio, clip_low, clip_high),
    )
    torch.testing.assert_close(claimed, _autograd(derivation, case), rtol=1e-12, atol=1e-12)
    assert ((mask == 0) | (mask == 1)).all()
    assert (mask + other == 1).all()


def test_a_mask_of_comparisons_is_what_it_says() -> None:
    ratio = sp.exp(Dot(v, w) / 3)
    signed = a - sp.Rational(7, 10)
    conditions = (signed * (ratio - 1), Dot(v, u))
    derivation = _derivation(-signed * ratio * sg(Unless(*conditions)))
    seen = set()
    for seed in range(6):
        case = _case(seed)
        m = Unless(*conditions)
        claimed, mask, other, *each = evaluate(derivation, case, derivation.gradient, m, m.other, *conditions)
        torch.testing.assert_close(claimed, _autograd(derivation, case), rtol=1e-12, atol=1e-12)
        assert torch.equal(mask == 0, (each[0] > 0) & (each[1] > 0))
        assert (mask + other == 1).all()
        seen |= {tuple(row) for row in torch.cat([x.reshape(-1, 1) > 0 for x in each], 1).tolist()}
    assert len(seen) == 4, "each condition holds with and without the other"


def test_a_mask_of_comparisons_is_decided_by_signs_where_they_are_known() -> None:
    assert Unless(a, b - b) == 1
    assert Unless(a, -b) == 1
    assert Unless(b, omega) == 0
    assert Unless(a, b).func is Unless
    assert Unless(a, -Norm2(v)).func is Unless, "of inner products nobody asks"
    assert sp.diff(Unless(b - a, b), b) == 0


def test_the_surrogate_problems_reach_both_branches() -> None:
    ratio = sp.exp(Dot(v, w) / 3)
    signed = a - sp.Rational(7, 10)
    derivation = _derivation(Surrogate(signed, ratio, clip_low, clip_high))
    masks = [evaluate(derivation, _case(seed), ClipMask(signed, ratio, clip_low, clip_high))[0] for seed in range(6)]
    assert set(torch.cat(masks).flatten().tolist()) == {0.0, 1.0}


def test_generated_source_detaches_what_sg_holds() -> None:
    source, arguments = torch_source(
        _derivation(sg(Norm2(v)) * Norm2(v - u)), "f", {"loss": sg(Norm2(v)) * Norm2(v - u)}
    )
    assert ".detach()" in source
    assert arguments == ("v_theta", "v_old")


# Stop-gradient


def test_sg_counts_as_a_constant() -> None:
    assert gradient(sg(Norm2(v)), v) == 0
    assert is_zero(gradient(sg(Norm2(v)) * Norm2(v), v) - 2 * Norm2(v) * v)
    assert is_zero(gradient(Norm2(v - sg(v - u)), v) - 2 * u)
    assert is_zero(gradient(Dot(v, sg(v)), v) - v)
    assert is_zero(gradient(sg(MeanAbs(v)) * Norm2(v), v) - 2 * MeanAbs(v) * v)
    assert gradient_residual(sg(Norm2(v)) * Norm2(v), v, 2 * Norm2(v) * v) == 0
    assert gradient_residual(sg(Norm2(v)) * Norm2(v), v, 4 * Norm2(v) * v) != 0
    assert is_zero(hessian_product(sg(Norm2(v)) * Norm2(v), v, u) - 2 * Norm2(v) * u)


def test_drop_sg_drops_nested_ones() -> None:
    assert drop_sg(sg(1 + sg(Norm2(v)) * sg(a))) == 1 + Norm2(v) * a


# Refusals


@pytest.mark.parametrize(
    "kinked",
    [
        sp.Min(Norm2(v), a),
        sp.Max(Norm2(v), a),
        sp.Abs(Dot(v, u)),
        sp.sign(Dot(v, u)),
        sp.floor(Norm2(v)),
        sp.ceiling(Norm2(v)),
        sp.Heaviside(Dot(v, u)),
        sp.Piecewise((Norm2(v), a > 0), (Dot(v, u), True)),
        sp.sqrt(Dot(v, u) ** 2),
        sp.exp(sp.Max(Norm2(v), a)),
    ],
    ids=str,
)
def test_kinks_are_refused(kinked: sp.Expr) -> None:
    for differentiate in (
        lambda: gradient(kinked, v),
        lambda: gradient_residual(kinked, v, v),
        lambda: hessian_product(kinked, v, u),
    ):
        with pytest.raises(CalculusError, match="kink"):
            differentiate()
    assert gradient(kinked.xreplace({v: w}), v) == 0
    assert gradient(sg(kinked) * Norm2(v), v) == 2 * sg(kinked) * v


@pytest.mark.parametrize(
    "unknown",
    [
        sp.Function("f")(Norm2(v)),
        sp.Mod(Norm2(v), 2),
        sp.frac(Norm2(v)),
        Surrogate(Norm2(v), a, b, b),
        Surrogate(a, Norm2(v), Norm2(v), b),
    ],
    ids=str,
)
def test_functions_without_a_known_derivative_are_refused(unknown: sp.Expr) -> None:
    for differentiate in (lambda: gradient(unknown, v), lambda: gradient_residual(unknown, v, v)):
        with pytest.raises(CalculusError, match="derivative is not known"):
            differentiate()


def test_mean_abs_outside_sg_is_refused() -> None:
    with pytest.raises(CalculusError, match=r"write sg\(\.\.\.\) around it"):
        gradient(Norm2(v) / MeanAbs(v - u), v)
    with pytest.raises(CalculusError):
        gradient_residual(MeanAbs(v - u), v, v)
    assert gradient(MeanAbs(u), v) == 0


@pytest.mark.parametrize(
    "mixed",
    [v * u, v**2, v * v, 1 / v, sp.exp(v), sp.sqrt(v), v + a, v + Norm2(u), v + 1, a * v * u, sp.exp(a * v) * u, a**v],
    ids=str,
)
def test_what_is_not_linear_in_vectors_is_refused(mixed: sp.Expr) -> None:
    with pytest.raises(CalculusError, match="neither a scalar nor a vector"):
        kind(mixed)
    with pytest.raises(CalculusError):
        gradient(Norm2(mixed), v)


@pytest.mark.parametrize("wrong", [Norm2(a), Dot(v, a), Dot(Norm2(v), u), MeanAbs(a + 1)], ids=str)
def test_inner_products_of_scalars_are_refused(wrong: sp.Expr) -> None:
    with pytest.raises(CalculusError, match="takes vectors, but got the scalar"):
        kind(wrong)


def test_the_gradient_of_a_vector_is_refused() -> None:
    for differentiate in (lambda: gradient(2 * v, v), lambda: gradient_residual(2 * v, v, v)):
        with pytest.raises(CalculusError, match="is a vector"):
            differentiate()


def test_components_of_what_is_no_vector_are_refused() -> None:
    with pytest.raises(CalculusError, match="a vector is wanted"):
        components(Norm2(v))
    with pytest.raises(CalculusError, match="hides a vector's components"):
        components(sg(v) + u)
    assert components(a * (v - b * (u + v))) == {v: a - a * b, u: -a * b} or is_zero(
        sp.Add(*(c * x for x, c in components(a * (v - b * (u + v))).items())) - a * v + a * b * u + a * b * v
    )


def test_a_live_coefficient_is_refused() -> None:
    loss = w_plus * Norm2(v - u)
    with pytest.raises(DerivationError, match="depends on v_theta"):
        _derivation(loss, coefficients={w_plus: 1 + Norm2(v)})
    held = _derivation(loss, coefficients={w_plus: sg(1 + Norm2(v))})
    assert held.prove().holds
    assert _derivation(loss, definitions={omega: a}, coefficients={w_plus: 1 + omega**2}).prove().holds


def test_a_coefficient_that_is_live_through_a_definition_is_refused() -> None:
    with pytest.raises(DerivationError, match="depends on v_theta"):
        _derivation(w_plus * Norm2(v - u), definitions={omega: Norm2(v)}, coefficients={w_plus: 1 + omega})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": v}, "loss must be a scalar"),
        ({"gradient": Norm2(v)}, "gradient must be a vector"),
        ({"weight": v}, "weight must be a scalar"),
        ({"target": Norm2(v)}, "target must be a vector"),
        ({"loss": sp.Symbol("undeclared") * Norm2(v)}, "declares undeclared"),
        ({"definitions": {a: b, b: a}}, "round in a circle"),
    ],
)
def test_inconsistent_derivations_are_refused(changes: dict[str, object], message: str) -> None:
    fields: dict[str, object] = {"loss": a * Norm2(v), "gradient": 2 * a * v, "weight": a**2, "target": v, **changes}
    with pytest.raises(DerivationError, match=message):
        Derivation("x", Variant("paper", ""), "", "forward", "on", "", **fields)


# A failing claim shows by what it is wrong


def test_a_wrong_gradient_leaves_the_difference() -> None:
    h = VectorSymbol("h")
    assert is_zero(gradient_residual(Norm2(v), v, v) - Dot(v, h))
    assert is_zero(gradient_residual(Norm2(v - u), v, 2 * v) + 2 * Dot(u, h))
    assert gradient_residual(Norm2(v), v, sp.S.Zero) != 0


def test_a_wrong_equality_leaves_the_difference() -> None:
    assert residual(Norm2(v - u) - Norm2(v) - Norm2(u)) == -2 * Dot(v, u)
    assert residual(v - u + w - v) == w - u


@pytest.mark.parametrize(
    "almost",
    [
        Norm2(v + u) - Norm2(v) - Dot(v, u) - Norm2(u),
        sp.exp(Norm2(v)) - sp.exp(-Norm2(v)),
        sp.sqrt(Norm2(v)) - Norm2(v),
        Norm2(a * v) - a * Norm2(v),
        Dot(v, u) ** 2 - Norm2(v) * Norm2(u),
        MeanAbs(v) - MeanAbs(u),
        MeanAbs(a * (1 + b) * v + u) - MeanAbs((a + a * b) * v + 2 * u),
        ClipMask(a, Norm2(v), b, b) - ClipMask(-a, Norm2(v), b, b),
        Surrogate(a, Norm2(v), b, b) + a * Norm2(v),
    ],
    ids=str,
)
def test_what_does_not_vanish_is_not_zero(almost: sp.Expr) -> None:
    assert not is_zero(almost)
    assert residual(almost) != 0


@pytest.mark.parametrize(
    "zero",
    [
        Norm2(v + u) - Norm2(v) - 2 * Dot(v, u) - Norm2(u),
        sp.exp(Norm2(v - u)) - sp.exp(Norm2(v) - 2 * Dot(u, v) + Norm2(u)),
        MeanAbs(a * (v - u)) - MeanAbs(a * v - a * u),
        Dot(a * v + u, w) - a * Dot(w, v) - Dot(u, w),
        1 / (1 + Norm2(v)) - 1 + Norm2(v) / (1 + Norm2(v)),
        sp.sqrt(b) ** 2 - b,
        Norm2(v - v),
        Dot(v, v) - Norm2(v),
        ClipMask(a, Norm2(v - u), b, b) - ClipMask(a, Norm2(u - v), b, b),
    ],
    ids=str,
)
def test_what_vanishes_is_zero(zero: sp.Expr) -> None:
    assert is_zero(zero)


def test_the_direction_is_free_of_the_loss() -> None:
    h = VectorSymbol("h")
    assert gradient_residual(Dot(v, h) * Dot(u, h), v, Norm2(h) * u) != 0
