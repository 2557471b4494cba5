"""The error analysis keeps its word: an evaluation is off by at most what it says, and not by far less."""

from __future__ import annotations

import math

import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from derivations.calculus import Dot, MeanAbs, Norm2
from derivations.notation import D, advantage, beta, noise, t, v_old, v_theta
from derivations.torchgen import torch_source
from gradcheck.bounds import THRESHOLD, unit_roundoff
from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.compare import compare
from gradcheck.compiled import evaluate
from gradcheck.error_scale import error_scale


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
