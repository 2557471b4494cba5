"""The error analysis keeps its word: an evaluation is off by at most what it says, and not by far less."""

from __future__ import annotations

import math

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from derivations.calculus import Dot, MeanAbs, Norm2, Unless
from derivations.notation import D, advantage, beta, divergence, log_ratio, noise, ratio, t, v_old, v_theta
from derivations.writing.torchgen import torch_source
from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.derived.compiled import evaluate
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.bounds import THRESHOLD, Analysis, unit_roundoff
from gradcheck.rounding.compare import compare, value_scale
from gradcheck.rounding.error_scale import error_scale


def case(seed: int, latent: tuple[int, ...] = (3, 4), dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Case:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype)

    return Case(
        "test",
        {
            "v_theta": normal(5, *latent),
            "v_old": normal(5, *latent),
            "noise": normal(5, *latent),
            "t": torch.rand(5, generator=g, dtype=torch.float64).to(dtype).clamp(0.01, 0.99),
            "advantage": normal(5),
            "beta": 0.7,
            "D": float(math.prod(latent)),
        },
    )


SCALARS = [
    t - t**2,
    (1 - t) / t,
    advantage * t + advantage * beta - 3 * advantage,
    Norm2(v_theta - v_old),
    Dot(v_theta - v_old, noise) / D,
    Norm2(v_theta) - Norm2(v_old),
    sp.exp((-Norm2(v_theta) + Norm2(v_theta - v_old / 8)) / D),
    sp.sqrt(t / (1 - t)) * Norm2(v_theta),
    sp.log(t) * sp.sin(beta * sp.pi / 2),
    sp.Max(MeanAbs(v_theta), sp.Rational(1, 10)),
    sp.Min(sp.exp(advantage), 3 * t, beta),
    sp.sign(advantage - t) * sp.exp(t),
    (Norm2(v_theta) + sp.Rational(1, 10**10)) ** sp.Rational(1, 4),
]
VECTORS = [
    v_theta - v_old,
    t * v_theta - (1 - t) * v_old,
    Norm2(v_theta - v_old) * noise,
    advantage / t * (v_theta - v_old),
]


@pytest.mark.parametrize("expr", SCALARS + VECTORS, ids=str)
@pytest.mark.parametrize("latent", [(1,), (3, 4), (97, 53)], ids=str)
def test_a_float32_evaluation_keeps_within_the_bound(expr: sp.Expr, latent: tuple[int, ...]) -> None:
    derivation = entry("awm").derivation  # any derivation: the expression uses none of its definitions
    worst = 0.0
    for seed in range(20):
        problem = case(seed, latent)
        (scale,), _ = error_scale(derivation, problem, expr)
        (single,) = evaluate(derivation, problem, expr)
        (double,) = evaluate(derivation, problem, expr, dtype=torch.float64)
        result = compare(single.expand(double.shape), double, scale, torch.float32)
        assert result.ratio <= 1.0
        worst = max(worst, result.ratio)
    if expr not in (v_theta - v_old,):
        assert worst > 1e-4, "the bound is so wide that it would see nothing"


@pytest.mark.parametrize("kind", [sp.Min, sp.Max])
def test_an_extremum_is_off_by_no_more_than_what_rounding_may_choose(kind: type[sp.Expr]) -> None:
    """Numbers near each other and far apart, moved by as much as they may be off; and what is far does not count."""
    generator = torch.Generator().manual_seed(0)
    run = Analysis({"t": torch.zeros(())}, torch.float32)
    x, gap, ex, ey = (10 ** (8 * torch.rand(9999, generator=generator, dtype=torch.float64)) for _ in range(4))
    y = x + run.cu * gap * torch.sign(torch.randn(9999, generator=generator, dtype=torch.float64))
    run.memo |= {t: (x, ex), beta: (y, ey)}
    value, error = run(kind(t, beta))
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            run.memo |= {advantage: (x + dx * run.cu * ex, ex), D: (y + dy * run.cu * ey, ey)}
            moved, _ = run(kind(advantage, D))
            assert ((moved - value).abs() <= run.cu * error + 1e-14 * (x + y.abs())).all()
            del run.memo[kind(advantage, D)]
    apart = (x - y).abs() > run.cu * (ex + ey)
    chosen = torch.where((x < y) == (kind is sp.Min), ex, ey)
    assert 0.1 < apart.double().mean() < 0.9
    assert torch.equal(error[apart], chosen[apart])


def test_a_sign_is_sure_unless_rounding_reaches_zero() -> None:
    run = Analysis({"advantage": torch.zeros(())}, torch.float32)
    x = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0], dtype=torch.float64)
    run.memo[advantage] = x, torch.tensor([1.0, 0.5 / run.cu, 0.0, 1.1 / run.cu, torch.inf], dtype=torch.float64)
    value, error = run(sp.sign(advantage))
    assert value.tolist() == x.tolist()
    assert (run.cu * error).tolist() == [0.0, 0.0, 0.0, 2.0, 2.0]


def test_the_bound_grows_with_cancellation() -> None:
    """Equal sizes cancel: the error stays while the value shrinks, and the bound knows."""
    derivation, expr = entry("awm").derivation, Norm2(v_theta) - Norm2(v_old)
    problem = case(0)
    same = problem.replace(v_old=problem.v_theta.detach().clone())
    (scale,), _ = error_scale(derivation, same, expr)
    (value,) = evaluate(derivation, same, expr, dtype=torch.float64)
    assert (value == 0).all()
    assert (scale > problem.broadcast(torch.float64)["v_theta"].square().sum((1, 2), keepdim=True)).all()


def test_a_lost_exponential_is_not_judged() -> None:
    """Where the exponent itself may be off by more than the range, nothing is said, and that is counted."""
    derivation, expr = entry("awm").derivation, sp.exp(Norm2(v_theta) - Norm2(v_theta - v_old))
    (scale,), _ = error_scale(derivation, case(0, scale=1e6), expr)
    assert not scale.isfinite().any()
    result = compare(torch.zeros(5, 1, 1), torch.ones(5, 1, 1), scale, torch.float32)
    assert result.judged == 0.0


@given(st.floats(1.01, 100), st.booleans())
@settings(max_examples=50)
def test_a_difference_beyond_the_bound_is_refused(factor: float, up: bool) -> None:
    required = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)
    scale = torch.full_like(required, 7.0)
    step = THRESHOLD * unit_roundoff(torch.float32) * 7.0
    observed = required.clone()
    observed[1, 0] += (1 if up else -1) * step * factor
    result = compare(observed, required, scale, torch.float32)
    assert not result.holds
    assert result.index == (1, 0)
    observed[1, 0] = required[1, 0] + step / factor
    assert compare(observed, required, scale, torch.float32).holds


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    required = torch.ones(2, 2, dtype=torch.float64)
    observed = required.clone()
    observed[0, 1] = bad
    assert compare(observed, required, torch.full_like(required, 1e300), torch.float64).ratio == math.inf


def test_what_the_dtype_cannot_hold_is_not_judged() -> None:
    required = torch.tensor([[1e39, 1.0]], dtype=torch.float64)
    result = compare(torch.tensor([[math.inf, 1.0]]), required, torch.ones_like(required), torch.float32)
    assert result.holds
    assert result.judged == 0.5


def test_unit_roundoff() -> None:
    for dtype, digits in ((torch.float64, 53), (torch.float32, 24), (torch.bfloat16, 8), (torch.float16, 11)):
        assert unit_roundoff(dtype) == 2.0**-digits


def test_generated_source_is_readable() -> None:
    derivation = entry("diffusion_nft").derivation
    source, arguments = torch_source(derivation, "target", {"target": derivation.target})
    assert arguments == ("v_old", "x_0", "noise", "reward_prob", "beta")
    assert source.splitlines()[0] == "def target(v_old, x_0, noise, reward_prob, beta):"
    assert "    v_gt = noise - x_0" in source.splitlines()


# ------------------------------------------------------------------------------------------- undecided branches


def undecided(of_first: float, of_second: float, dtype: torch.dtype = torch.float32) -> bool:
    """Whether rounding leaves open a mask of x − 1 > 0 and y − 1 > 0, with x and y so far from 1, in units of u."""
    u = unit_roundoff(dtype)
    x, y = sp.symbols("x y", real=True)
    x_at, y_at = (torch.tensor([1 + off * u], dtype=torch.float64) for off in (of_first, of_second))
    run = Analysis({"x": x_at, "y": y_at}, dtype)
    run(Unless(x - 1, y - 1))
    return bool(run.undecided.any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_mask_is_undecided_where_a_condition_on_which_it_rests_is(dtype: torch.dtype) -> None:
    far, near = 1e3, 1.0
    assert not undecided(far, far, dtype)
    assert not undecided(-far, -far, dtype)
    for sign in (1, -1):
        assert undecided(sign * near, far, dtype)
        assert undecided(far, sign * near, dtype)
        assert undecided(sign * near, near, dtype)
        assert not undecided(sign * near, -far, dtype), "the second is false whatever the first is"
        assert not undecided(-far, sign * near, dtype)


def test_on_policy_no_divergence_is_undecided() -> None:
    """Where r = 1 the sign of r − 1 is rounding's, but a divergence of 0 is within any bound."""
    derivation = entry("flow_dppo").derivation
    problem = build(derivation, Spec(5, (3, 4), 0, policy="on-policy", time="middle"), torch.float32)
    _, mask = error_scale(derivation, problem, derivation.raw_gradient)
    assert not bool(mask.any())


def test_a_sample_at_the_bound_is_undecided_on_its_way_out_alone() -> None:
    derivation = entry("flow_dppo").derivation
    problem = build(derivation, Spec(40, (3, 4), 1, policy="far", advantage="typical", time="middle"))
    at = float(problem.divergence[7])
    case = problem.replace(divergence_max=at)
    _, mask = error_scale(derivation, case, derivation.raw_gradient)
    outwards = bool(problem.advantage[7] * (problem.ratio[7] - 1) > 0)
    assert mask.flatten().tolist() == [i == 7 and outwards for i in range(40)]
    turned = case.replace(advantage=-case.advantage)
    _, mask = error_scale(derivation, turned, derivation.raw_gradient)
    assert mask.flatten().tolist() == [i == 7 and not outwards for i in range(40)]


def test_where_a_mask_is_undecided_the_value_may_be_either() -> None:
    """At the edge of a divergence the loss jumps, and an implementation may be on either side."""
    derivation = entry("flow_dppo", "mean").derivation
    problem = build(derivation, Spec(6, (3, 4), 5, policy="off", advantage="typical", time="middle"), torch.float32)
    (apart,) = evaluate(derivation, problem, divergence, dtype=torch.float64)
    problem = problem.replace(divergence_max=float(apart[0]))
    further = evaluate(derivation, problem, log_ratio, dtype=torch.float64)[0].flatten()[0].sign()
    problem = problem.replace(advantage=further * problem.advantage.abs())
    (own,) = evaluate(derivation, problem, derivation.loss, dtype=torch.float64)
    free = -problem.advantage * evaluate(derivation, problem, ratio, dtype=torch.float64)[0].flatten()
    scale = value_scale(derivation, problem, derivation.inline(derivation.loss), torch.float32)
    for value in (free[0], 0 * free[0]):
        assert compare(value[None], own.flatten()[:1], scale.flatten()[:1], torch.float32).holds
    wrong = torch.where(own.flatten() == 0, free, 0.0)[1:]
    assert not compare(wrong, own.flatten()[1:], scale.flatten()[1:], torch.float32).holds
