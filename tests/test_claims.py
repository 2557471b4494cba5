"""Each kind of claim accepts what is true and refuses what is false, in every way in which it can be false."""

from __future__ import annotations

from itertools import combinations

import pytest
import sympy as sp

from derivations.algebra.nodes import OtherMask
from derivations.calculus import ClipMask, Dot, MeanAbs, Norm2, Surrogate, Total, Unless, VectorSymbol, sg
from derivations.claims import (
    Approximates,
    Claim,
    Equal,
    EqualUpToConstant,
    GradientIs,
    Inliner,
    Parallel,
    Positive,
    SameHessian,
)
from derivations.derivation import DerivationError, Step, Theorem, inline, prove
from derivations.notation import (
    C1,
    C2,
    D,
    advantage,
    beta,
    clip_high,
    clip_low,
    delta,
    dt,
    mask,
    noise,
    noise_theta,
    ratio,
    reward_prob,
    t,
    t_prev,
    v_gt,
    v_old,
    v_ref,
)
from derivations.notation import v_theta as v

A, k = advantage, C1 / C2
x, y = sp.symbols("x y", real=True)
p, q = sp.symbols("p q", positive=True)

_mask = ClipMask(A, ratio, clip_low, clip_high)
_clip = sp.Min(sp.Max(ratio, 1 - clip_low), 1 + clip_high)


def _surrogate(advantage: sp.Expr) -> sp.Expr:
    return Surrogate(advantage, ratio, clip_low, clip_high)


def _gram(norm: sp.Expr, product: sp.Expr) -> dict[sp.Expr, sp.Expr]:
    """Three vectors of one length, each two with the same inner product: possible from −norm/2 on."""
    vectors = (v, v_old, v_gt)
    products = {Dot(a, b): product for a, b in combinations(vectors, 2)}
    return {Norm2(u): norm for u in vectors} | products


_unknown = sp.Function("f")
_other_mask = VectorSymbol("other_mask", nonnegative=True)

TRUE: dict[str, Claim] = {
    "equal-scalars": Equal(Norm2(v - v_old), Norm2(v) - 2 * Dot(v, v_old) + Norm2(v_old)),
    "equal-vectors": Equal(A * (v - v_old) + A * v_old, A * v),
    "equal-where": Equal(A * v, v, {A: sp.S.One}),
    "equal-where-inner-product": Equal(Norm2(2 * v), 4 * p, {Norm2(v): p}),
    "equal-branch-of-min": Equal(sp.Min(p, p + q, evaluate=False), p),
    "equal-branch-of-max": Equal(sp.Max(x, 1, evaluate=False), x, {x: 1 + q}),
    "equal-branch-of-min-turned-round": Equal(sp.Min(x, 1, evaluate=False), x, {x: 1 - q}),
    "equal-other-branch-of-min": Equal(sp.Min(x, 1, evaluate=False), sp.S.One, {x: 1 + q}),
    "equal-other-branch-of-max": Equal(sp.Max(x, 1, evaluate=False), sp.S.One, {x: 1 - q}),
    "equal-smaller-by-sign": Equal(sp.Min(p, p - q, evaluate=False), p - q),
    "equal-greater-by-sign": Equal(sp.Max(p, p - q, evaluate=False), p),
    "equal-branch-of-three": Equal(sp.Max(p, p + q, p + 2 * q, evaluate=False), p + 2 * q),
    "equal-in-value-through-sg": Equal(sg(Norm2(v)), Norm2(v)),
    "gradient-of-square": GradientIs(Norm2(v - v_gt), 2 * (v - v_gt)),
    "gradient-of-exponential": GradientIs(sp.exp(-p * Norm2(v)), -2 * p * sp.exp(-p * Norm2(v)) * v),
    "gradient-of-detached": GradientIs(Norm2(v - sg(v - v_old / 2)), v_old),
    "gradient-with-respect-to-another": GradientIs(Norm2(v - v_old), 2 * (v_old - v), wrt=v_old),
    "gradient-zero": GradientIs(Norm2(v_old), sp.S.Zero),
    "approximates": Approximates(A * (noise + k * (v - v_old)), A * noise, {v: v_old}, A * k * (v - v_old)),
    "approximates-a-scalar": Approximates(sp.exp(x), sp.S.One, {x: sp.S.Zero}, sp.exp(x) - 1),
    "parallel": Parallel(-A * p * noise, -A * noise, p),
    "parallel-compound-factor": Parallel(k * noise / D, noise, k / D),
    "equal-up-to-constant": EqualUpToConstant(Norm2(v - v_old), Norm2(v) - 2 * Dot(v, v_old) + 3, Norm2(v_old) - 3),
    "same-hessian": SameHessian(Norm2(v - v_old), Norm2(v) + 5 * Dot(v, v_gt)),
    "same-hessian-of-exponentials": SameHessian(sp.exp(Dot(v, v_old)) + Dot(v, noise), sp.exp(Dot(v_old, v))),
    "positive-symbol": Positive(p + q**2 / D),
    "positive-on-a-domain": Positive(1 - t, {t: 1 / (1 + p)}),
    "equal-mask-squared": Equal(_mask**2 * x, x * _mask),
    "equal-mask-times-other": Equal(_mask * OtherMask(*_mask.args), sp.S.Zero),
    "equal-mask-and-other": Equal(OtherMask(*_mask.args), 1 - _mask),
    "equal-surrogate": Equal(_surrogate(A), -sp.Min(ratio * A, _clip * A)),
    "equal-surrogate-as-maximum": Equal(_surrogate(A), sp.Max(-ratio * A, -_clip * A)),
    "equal-surrogate-clipped-from-above-first": Equal(
        _surrogate(A), -sp.Min(ratio * A, sp.Max(sp.Min(ratio, 1 + clip_high), 1 - clip_low) * A)
    ),
    "equal-surrogate-homogeneous": Equal(_surrogate(p * A), p * _surrogate(A)),
    "equal-mask-homogeneous": Equal(ClipMask(p * A, ratio, clip_low, clip_high), _mask),
    "equal-unless-homogeneous": Equal(Unless(p * x, y), Unless(x, y)),
    "equal-maximum-homogeneous": Equal(sp.Max(p * x, p * y, evaluate=False), p * sp.Max(x, y)),
    "equal-mean-abs-homogeneous": Equal(MeanAbs(p * (v_old - v)), p * MeanAbs(v - v_old)),
    "equal-norm-homogeneous": Equal(Norm2(x * v), x**2 * Norm2(v)),
    "equal-softplus": Equal(sp.log(1 + sp.exp(x)), x + sp.log(1 + sp.exp(-x))),
    "equal-softplus-of-norms": Equal(sp.log(1 + sp.exp(Norm2(v) - y)), Norm2(v) - y + sp.log(1 + sp.exp(y - Norm2(v)))),
    "equal-log-sigmoid": Equal(-sp.log(1 / (1 + sp.exp(-x))), sp.log(1 + sp.exp(-x))),
    "equal-log-of-a-product": Equal(sp.log(p * q), sp.log(p) + sp.log(q)),
    "equal-given": Equal(q + 1, p, {q: p - 1}, (p - 1,)),
    "approximates-to-the-third-order": Approximates(sp.exp(x), 1 + x + x**2 / 2, {x: sp.S.Zero}, order=3),
    "approximates-where-a-mask-is-decided": Approximates(
        ClipMask(A, sp.exp(Dot(v - v_old, noise)), clip_low, clip_high), sp.S.One, {v: v_old}, order=3
    ),
    "equal-up-to-constant-in-another-output": EqualUpToConstant(
        Norm2(noise_theta - noise), Norm2(noise_theta) - 2 * Dot(noise_theta, noise), Norm2(noise)
    ),
    "positive-root": Positive(sp.sqrt(p + 1) - sp.sqrt(p) / 2),
    "positive-within": Positive(sp.sin(sp.pi * p / 2), within={p: sp.Interval.Lopen(0, 1)}),
    "equal-where-three-vectors": Equal(Norm2(v - v_old), 2 * p, _gram(p, sp.S.Zero)),
    "approximates-a-root-away-from-0": Approximates(sp.sqrt(x**2 + p), sp.sqrt(p), {x: sp.S.Zero}, order=2),
    "approximates-a-quotient-away-from-0": Approximates(
        Norm2(v - v_old) / (Norm2(v - v_old) + p), sp.S.Zero, {v: v_old}, order=2
    ),
    "approximates-an-angle-inside": Approximates(sp.acos(x), sp.pi / 2 - x, {x: sp.S.Zero}, order=3),
    "positive-before-a-step": Positive(t - t_prev),
    "positive-rational": Positive(reward_prob / p + (1 - reward_prob) / q, {reward_prob: 1 / (1 + C1)}),
}

FALSE: dict[str, Claim] = {
    "equal-sign": Equal(Norm2(v - v_old), Norm2(v) + 2 * Dot(v, v_old) + Norm2(v_old)),
    "equal-factor": Equal(Norm2(2 * v), 2 * Norm2(v)),
    "equal-dropped-term": Equal(A * (v - v_old) + A * v_old, A * v - v_old),
    "equal-other-vector": Equal(A * v, A * v_old),
    "equal-scalar-dimension": Equal(Norm2(v) / D, Norm2(v)),
    "equal-wrong-place": Equal(A * v, v, {A: sp.S.NegativeOne}),
    "equal-only-where": Equal(A * v, v),
    "equal-wrong-inner-product": Equal(Norm2(2 * v), 2 * p, {Norm2(v): p}),
    "equal-other-branch-of-min": Equal(sp.Min(p, p + q, evaluate=False), p + q),
    "equal-other-branch-of-max": Equal(sp.Max(x, 1, evaluate=False), sp.S.One, {x: 1 + q}),
    "equal-smallest-of-three": Equal(sp.Max(p, p + q, p + 2 * q, evaluate=False), p),
    "equal-undecided-branch": Equal(sp.Min(x, y, evaluate=False), x),
    "equal-mask": Equal(ClipMask(A, Norm2(v), clip_low, clip_high), sp.S.One),
    "equal-mean-abs": Equal(MeanAbs(v - v_old), MeanAbs(v) - MeanAbs(v_old)),
    "gradient-sign": GradientIs(Norm2(v - v_gt), -2 * (v - v_gt)),
    "gradient-factor-two": GradientIs(Norm2(v - v_gt), v - v_gt),
    "gradient-dropped-term": GradientIs(Norm2(v - v_gt), 2 * v),
    "gradient-with-respect-to-another": GradientIs(Norm2(v - v_old), 2 * (v - v_old), wrt=v_old),
    "gradient-through-sg": GradientIs(Norm2(v - sg(v - v_old / 2)), sp.S.Zero),
    "gradient-of-live-weight": GradientIs(Norm2(v) * Norm2(v - v_gt), 2 * Norm2(v) * (v - v_gt)),
    "gradient-missing-ratio": GradientIs(sp.exp(-p * Norm2(v)), -2 * p * v),
    "gradient-zero": GradientIs(Norm2(v), sp.S.Zero),
    "gradient-not-zero": GradientIs(Norm2(v_old), v),
    "approximates-wrong-remainder": Approximates(A * (noise + k * (v - v_old)), A * noise, {v: v_old}, k * (v - v_old)),
    "approximates-no-remainder": Approximates(A * (noise + k * (v - v_old)), A * noise, {v: v_old}, sp.S.Zero),
    "approximates-wrong-limit": Approximates(A * (noise + k * (v - v_old)), A * noise, {v: v_gt}, A * k * (v - v_old)),
    "approximates-no-limit": Approximates(A * (noise + k * (v - v_old)), A * noise, {}, A * k * (v - v_old)),
    "approximates-remainder-that-stays": Approximates(A * (v + noise), A * v, {v: v_old}, A * noise),
    "parallel-negative-factor": Parallel(-p * noise, noise, -p),
    "parallel-factor-of-unknown-sign": Parallel(A * noise, noise, A),
    "parallel-zero-factor": Parallel(sp.S.Zero * noise, noise, sp.S.Zero),
    "parallel-wrong-factor": Parallel(2 * p * noise, noise, p),
    "parallel-other-direction": Parallel(p * noise, v, p),
    "parallel-opposite": Parallel(-p * noise, noise, p),
    "constant-depends-on-v-theta": EqualUpToConstant(Norm2(v - v_old), Norm2(v_old), Norm2(v) - 2 * Dot(v, v_old)),
    "constant-holds-v-theta-in-sg": EqualUpToConstant(Norm2(v - v_old), Norm2(v_old), sg(Norm2(v) - 2 * Dot(v, v_old))),
    "constant-wrong": EqualUpToConstant(Norm2(v - v_old), Norm2(v) - 2 * Dot(v, v_old), -Norm2(v_old)),
    "constant-missing": EqualUpToConstant(Norm2(v - v_old), Norm2(v) - 2 * Dot(v, v_old), sp.S.Zero),
    "same-hessian-factor": SameHessian(Norm2(v - v_old), 2 * Norm2(v - v_old)),
    "same-hessian-sign": SameHessian(Norm2(v), -Norm2(v)),
    "same-hessian-of-linear": SameHessian(Norm2(v), Dot(v, v_gt)),
    "same-hessian-of-another-direction": SameHessian(Dot(v, v_old) ** 2, Dot(v, v_gt) ** 2),
    "same-hessian-through-sg": SameHessian(sg(Norm2(v)) * Dot(v, v_old), Norm2(v) * Dot(v, v_old)),
    "positive-negative": Positive(-p),
    "positive-unknown": Positive(A),
    "positive-nonnegative": Positive(Norm2(v)),
    "positive-difference": Positive(p - q),
    "positive-wrong-domain": Positive(t - 1, {t: 1 / (1 + p)}),
    "positive-outside-the-domain": Positive(1 - x, {x: 1 + p}),
    # true of nothing, since no values meet their conditions
    "equal-where-0-has-a-product": Equal(Dot(v, v_old), p, {Norm2(v): sp.S.Zero, Dot(v, v_old): p}),
    "equal-where-no-three-vectors-are-so": Equal(Norm2(v - v_old), p * sp.Rational(13, 4), _gram(p, -5 * p / 8)),
    "equal-where-a-vector-and-its-norm": Equal(Norm2(v), p, {v: v_old, Norm2(v): p, Norm2(v_old): q}),
    "equal-given-a-negative": Equal(q + 1, sp.S.Zero, {q: sp.S.NegativeOne}, (sp.S.NegativeOne,)),
    "equal-given-a-contradiction": Equal(q, x - 1, {q: x - 1}, (x - 1, -x)),
    "equal-where-a-number-is-imaginary": Equal(A**2, -1 - p, {A: sp.sqrt(-1 - p)}),
    "equal-where-an-angle-has-no-cosine": Equal(A, sp.acos(2 + p), {A: sp.acos(2 + p)}),
    "equal-where-a-mask-is-any-vector": Equal(sp.Abs(Total(mask)), Total(v), {mask: v}),
    "equal-where-a-mask-is-empty": Equal(Total(mask), sp.S.Zero, {mask: sp.S.Zero}),
    # not smooth at the limit, so that the difference is of a lower order
    "approximates-at-the-end-of-arccos": Approximates(sp.acos(1 - p), sp.S.Zero, {p: sp.S.Zero}),
    "approximates-at-the-end-of-arcsin": Approximates(sp.asin(1 - p), sp.pi / 2, {p: sp.S.Zero}),
    "approximates-a-remainder-of-division": Approximates(sp.Mod(x, 1), sp.S.Zero, {x: sp.S.Zero}),
    "approximates-a-fractional-part": Approximates(sp.frac(x), sp.S.Zero, {x: sp.S.Zero}),
    "approximates-an-unknown-function": Approximates(_unknown(x), _unknown(0), {x: sp.S.Zero}),
    "approximates-a-root-that-may-be-0": Approximates(sp.sqrt(x**2 + y**2), sp.Abs(y), {x: sp.S.Zero}, order=2),
    "approximates-a-root-of-what-may-be-0": Approximates(sp.sqrt(p + x**2), sp.Abs(x), {p: sp.S.Zero}),
    "approximates-a-quotient-whose-denominator-may-be-0": Approximates(
        Norm2(v - v_old) / (Norm2(v - v_old) + Norm2(v_old)), sp.S.Zero, {v: v_old}, order=2
    ),
    "equal-masks-of-more-and-fewer-conditions": Equal(Unless(x, y), Unless(x) * Unless(y)),
    "positive-least-of-two-masks": Positive(Total(sp.Min(mask, _other_mask))),
    "positive-sum-of-signs": Positive(
        Total((mask + _other_mask) / 2 + (mask - _other_mask) / 2 * sp.sin(v), evaluate=False)
    ),
    "approximates-a-norm-that-may-be-0": Approximates(
        sp.sqrt(Norm2(v)), sp.sqrt(Norm2(v_old)) + Dot(v - v_old, v_old) / sp.sqrt(Norm2(v_old)), {v: v_old}, order=2
    ),
}


def _residual(claim: Claim) -> sp.Expr:
    return claim.residual(lambda expr: expr)


@pytest.mark.parametrize("name", TRUE)
def test_a_true_claim_is_proved(name: str) -> None:
    assert _residual(TRUE[name]) == 0


@pytest.mark.parametrize("name", FALSE)
def test_a_false_claim_leaves_something(name: str) -> None:
    assert _residual(FALSE[name]) != 0


def test_every_kind_of_claim_is_here_both_true_and_false() -> None:
    kinds = set(Claim.__args__)
    assert {type(claim) for claim in TRUE.values()} == kinds
    assert {type(claim) for claim in FALSE.values()} == kinds


@pytest.mark.parametrize("name", ["equal-sign", "equal-factor", "equal-dropped-term", "equal-other-vector"])
def test_the_residual_of_an_equality_is_its_difference(name: str) -> None:
    claim = FALSE[name]
    assert isinstance(claim, Equal)
    assert _residual(Equal(claim.lhs - _residual(claim), claim.rhs)) == 0


# Definitions are inlined before anything is judged.

DEFINED = {delta: v - v_old, beta: 1 + C1}


@pytest.mark.parametrize(
    ("true", "false"),
    [
        (Equal(beta * delta, (1 + C1) * (v - v_old)), Equal(beta * delta, beta * v)),
        (GradientIs(Norm2(delta), 2 * delta), GradientIs(beta * Norm2(delta), 2 * delta)),
        (Parallel(beta * delta, v - v_old, beta), Parallel(delta, delta, -beta)),
        (
            EqualUpToConstant(Norm2(delta), Norm2(v) - 2 * Dot(v, v_old), Norm2(v_old)),
            EqualUpToConstant(Norm2(delta), sp.S.Zero, Norm2(delta)),
        ),
        (SameHessian(Norm2(delta), Norm2(v)), SameHessian(beta * Norm2(delta), Norm2(v))),
        (Positive(beta), Positive(1 - beta)),
        (Approximates(v_ref + delta, v_ref, {v: v_old}, delta), Approximates(v_ref + delta, v_ref, {v: v_ref}, delta)),
    ],
    ids=lambda claim: type(claim).__name__,
)
def test_claims_see_through_definitions(true: Claim, false: Claim) -> None:
    assert true.residual(lambda expr: inline(expr, DEFINED)) == 0
    assert false.residual(lambda expr: inline(expr, DEFINED)) != 0


def test_a_coefficient_that_changes_towards_a_limit_is_no_constant() -> None:
    claim = Approximates(dt * C1, sp.S.Zero, {dt: sp.S.Zero})
    assert claim.residual(Inliner({}, {C1: C2})) == 0
    assert claim.residual(Inliner({}, {C1: 1 / dt})) != 0


def test_a_formula_of_a_real_number_is_not_imaginary() -> None:
    assert Equal(A**2, 1 + x**2).residual(Inliner({A: sp.sqrt(1 + x**2)})) == 0
    assert Equal(A**2, -1 - x**2).residual(Inliner({A: sp.sqrt(-1 - x**2)})) != 0


def test_prove_goes_on_after_a_refusal() -> None:
    steps = (
        Step("first", "", FALSE["equal-sign"]),
        Step("second", "", TRUE["equal-scalars"]),
        Step("third", "", FALSE["gradient-sign"]),
    )
    proof = prove("three", steps, {})
    assert [result.step.name for result in proof.results] == ["first", "second", "third"]
    assert [result.step.name for result in proof.refused] == ["first", "third"]
    assert not proof.holds
    assert all(result.residual != 0 for result in proof.refused)
    assert proof.seconds >= 0
    assert Theorem("one", "", steps[1:2]).prove().holds


def test_definitions_in_a_circle_are_refused() -> None:
    with pytest.raises(DerivationError, match="round in a circle"):
        inline(C1, {C1: C2, C2: C1})


def test_equal_up_to_constant_is_not_deceived_by_sg() -> None:
    assert _residual(EqualUpToConstant(Norm2(v), sg(Norm2(v)), sp.S.Zero)) != 0


def test_the_arbitrary_vector_is_free_of_the_losses() -> None:
    h = VectorSymbol("h")
    assert _residual(SameHessian(Dot(v, h) ** 2, Norm2(h) * Norm2(v))) != 0


def test_zero_is_not_positive() -> None:
    assert _residual(Positive(sp.S.Zero)) != 0
