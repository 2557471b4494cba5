"""Mixed precision as trained: a network that puts out half precision, and a loss that is computed in float32."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import gradcheck
from derivations.derivation import PREDICTIONS
from gradcheck.case import Case
from gradcheck.catalogue import ALGORITHMS, Entry, entry
from gradcheck.conventions import Conventions, declare
from gradcheck.errors import InputError
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.checks.gradient import check_gradient
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import output_dtype
from gradcheck.oracle.runner import Settings, Subject, judge
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import Comparison
from gradcheck.rounding.streaming import judge_gradient

_ENTRIES = [entry(a.name) for a in ALGORITHMS]


def _upcast(case: Case, dtype: torch.dtype = torch.float32) -> Case:
    """As a trainer does it: everything in float32 before the loss."""
    values = {name: getattr(case, name) for name in case.names}
    floats = {n: x for n, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return Case(case.label, {**values, **{n: x.to(dtype) for n, x in floats.items()}})


def _conventions(e: Entry, dtype: str) -> Conventions:
    return declare(e.algorithm.name, output_dtype=dtype, **e.derivation.variant.options)


def _verdict(function: Callable[[Case], Tensor], conventions: Conventions) -> str:
    return check_gradient(Judge(Adapter(function, "loss", "mean", 60.0), conventions, max_examples=5)).status


@pytest.mark.parametrize("e", _ENTRIES, ids=lambda e: e.label)
def test_an_error_of_one_percent_is_seen_behind_a_bfloat16_output(e: Entry) -> None:
    """bfloat16 keeps 0.4 %: the right loss passes, and one that is 1 % too large or too small does not."""
    conventions = _conventions(e, "bfloat16")
    assert _verdict(lambda case: e.loss(_upcast(case)).mean(), conventions) == "passed"
    for factor in (1.01, 0.99):
        wrong = lambda case, factor=factor: factor * e.loss(_upcast(case)).mean()  # noqa: E731
        assert _verdict(wrong, conventions) == "failed", factor


@pytest.mark.parametrize("name", ["flow_grpo", "awm", "diffusion_nft"])
def test_float16_with_a_loss_scale(name: str) -> None:
    """A scale of 1024, declared as a factor, keeps small gradients out of float16's underflow."""
    e = entry(name)
    scaled = declare(name, output_dtype="float16", factor=1024.0)
    assert _verdict(lambda case: 1024 * e.loss(_upcast(case)).mean(), scaled) == "passed"
    assert _verdict(lambda case: 1000 * e.loss(_upcast(case)).mean(), scaled) == "failed"


class _Upcast(torch.autograd.Function):
    """To float32; the gradient comes back in bfloat16, rounded up or down at random, without bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        bits = gradients[0].view(torch.int32)
        noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32)
        return ((bits + noise) & -65536).view(torch.float32).bfloat16()


def test_a_gradient_that_is_rounded_up_or_down_at_random() -> None:
    """Twice as far off as the nearest number: right where that is declared, and an error of 2 % is still seen."""

    def loss(case: Case, factor: float = 1.0) -> Tensor:
        error = (_Upcast.apply(case.v_theta) - (case.noise.float() - case.x_0.float())) ** 2
        return factor * (case.advantage.float() * error.flatten(1).sum(1)).mean()

    declared = declare("awm", output_dtype="bfloat16", output_rounding="stochastic")
    judgement = judge(Subject(loss, "loss", declared), Settings(max_examples=5))
    assert judgement.holds, [(r.id, r.outcome.detail) for r in judgement.results if not r.good]
    assert _verdict(lambda case: loss(case, 1.02), declared) == "failed"
    assert _verdict(loss, declare("awm", output_dtype="bfloat16")) == "failed"


def _cps(case: Case) -> Tensor:
    """CPS by way of predicted data and noise, which read the half-precision velocity in two places by promotion."""
    t, t_prev, x = case.expand(case.t).float(), case.expand(case.t_prev).float(), case.x_t.float()
    kept = t_prev * math.cos(case.noise_level * math.pi / 2)

    def log_prob(v: Tensor) -> Tensor:
        mean = (x - t * v) * (1 - t_prev) + (x + (1 - t) * v) * kept
        return -((case.x_prev.float() - mean) ** 2).flatten(1).mean(1)

    ratio, a = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old)), case.advantage.float()
    return torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2)).mean()


def test_an_output_that_is_cast_up_in_each_place_is_declared() -> None:
    """Its gradients are rounded one by one, and in a short step nearly cancel: told what to declare, and then right."""
    step = {"sde": "cps", "log_prob_reduction": "mean", "log_prob_scale": "unit", "clip_range": 0.2}
    declared = declare("flow_grpo", output_dtype="bfloat16", **step)
    each = replace(declared, output_casts="each")
    assert _verdict(_cps, each) == "passed"
    assert _verdict(lambda case: 1.1 * _cps(case), each) == "failed"
    only = ("gradient",)
    (told,) = judge(Subject(_cps, "loss", declared), Settings(max_examples=6), only).results
    assert told.diagnosis is not None
    assert told.diagnosis.declare == "output_casts='each'"
    (told,) = judge(Subject(lambda case: 1.02 * _cps(case), "loss", declared), Settings(max_examples=6), only).results
    assert told.diagnosis is not None
    assert told.diagnosis.declare != "output_casts='each'"


@pytest.mark.parametrize(
    "declared", [{"output_rounding": "stochastic"}, {"output_rounding": "up"}, {"output_casts": "each"}]
)
def test_a_rounding_that_cannot_be_is_refused(declared: dict[str, str]) -> None:
    with pytest.raises(InputError, match=next(iter(declared))):
        declare("awm", **declared)


def test_every_obligation_holds_for_right_code_that_reads_the_output_twice() -> None:
    """Autograd then adds two rounded gradients, in half precision, which may cancel."""

    def loss(case: Case) -> Tensor:
        v_gt = case.noise.float() - case.x_0.float()
        mixed = [(1 - s * case.beta) * case.v_old.float() + s * case.beta * case.v_theta.float() for s in (1, -1)]
        plus, minus = (((v - v_gt) ** 2).flatten(1).sum(1) for v in mixed)
        r = case.reward_prob.float()
        return (r * plus + (1 - r) * minus).mean()

    subject = Subject(loss, "loss", declare("diffusion_nft", output_dtype="bfloat16"))
    judgement = judge(subject, Settings(max_examples=5))
    assert judgement.holds, [r.outcome.detail for r in judgement.results if not r.good]


def test_what_the_network_puts_out_arrives_in_its_precision_and_nothing_else_does() -> None:
    """And it is what the rest of the case was made from: the state was sampled with the rounded v_old."""
    conventions = declare("flow_grpo", output_dtype="bfloat16")
    one = Judge(Adapter(lambda case: case.v_theta.sum(), "loss", "mean", 60.0), conventions)
    case = one.case(Spec(3, (4, 5), 0))
    handed = one.handed(case)
    for name in handed.names:
        value = getattr(handed, name)
        if isinstance(value, Tensor) and value.is_floating_point():
            put_out = name in {s.name for s in PREDICTIONS}
            assert value.dtype == (torch.bfloat16 if put_out else torch.float64), name
            assert torch.equal(value.to(torch.float64), getattr(case, name).detach()), name
    assert output_dtype(conventions) == torch.bfloat16


def test_a_step_in_the_networks_own_precision_is_refused() -> None:
    """Forgetting the upcast costs all digits of a log-probability: that is what mixed precision is there to avoid."""
    e = entry("flow_grpo")
    conventions = declare("flow_grpo", output_dtype="bfloat16")
    assert _verdict(lambda case: e.loss(_upcast(case, torch.bfloat16)).float().mean(), conventions) == "failed"


def test_a_step_of_a_real_network_under_autocast_is_judged_on_its_own_tensors() -> None:
    """Flow-GRPO on images in float32 behind a bfloat16 network: right as it is, wrong by 1 %, and unknown dtypes."""
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=g)  # noqa: E731
    x_t, noise, advantage = draw(3, 4, 6, 6), draw(3, 4, 6, 6), torch.tensor([1.0, -0.5, 0.3])
    t, dt = torch.tensor([0.8, 0.6, 0.4]), torch.tensor([0.1, 0.15, 0.2])
    network = torch.nn.Conv2d(4, 4, 3, padding=1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * draw(*parameter.shape))

    def forward() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out: Tensor = network(x_t)
        return out

    def mean(v: Tensor) -> Tensor:
        t_, dt_ = (x.reshape(3, 1, 1, 1) for x in (t, dt))
        s = 0.7 * torch.sqrt(t_ / (1 - t_))
        return x_t * (1 - s**2 * dt_ / (2 * t_)) - v.float() * (1 + s**2 * (1 - t_) / (2 * t_)) * dt_

    std = (0.7 * torch.sqrt(t / (1 - t) * dt)).reshape(3, 1, 1, 1)
    with torch.no_grad():
        v_old = forward()
        x_prev = mean(v_old) + std * noise
        network.weight.add_(0.002 * draw(*network.weight.shape))
    v = forward()
    assert v.dtype == torch.bfloat16
    log_prob, log_prob_old = (
        torch.distributions.Normal(mean(u), std).log_prob(x_prev).flatten(1).mean(1) for u in (v, v_old)
    )
    ratio = torch.exp(log_prob - log_prob_old)
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()
    (gradient,) = torch.autograd.grad(loss, v)
    case = gradcheck.make_case(
        "flow_grpo",
        "mean",
        v_theta=v.detach().float(),
        v_old=v_old.float(),
        noise=noise,
        x_t=x_t,
        t=t,
        dt=dt,
        noise_level=0.7,
        advantage=advantage,
        clip_low=0.2,
        clip_high=0.2,
    )

    def compared(scale: float = 1.0, **dtypes: torch.dtype) -> Comparison:
        return gradcheck.compare_gradient("flow_grpo", case, scale * gradient.float(), "mean", factor=1 / 3, **dtypes)

    assert compared(output_dtype=torch.bfloat16).holds
    assert compared(output_dtype=torch.bfloat16).resolution < 0.01
    for scale in (1.01, 0.99, -1.0):
        assert not compared(scale, output_dtype=torch.bfloat16).holds, scale
    assert not compared().holds  # without the declaration, rounding to bfloat16 is an error
    with pytest.raises(InputError, match="output_dtype"):
        compared(output_dtype=torch.int32)


def test_only_half_precisions_may_be_declared() -> None:
    with pytest.raises(InputError, match="output_dtype"):
        declare("awm", output_dtype="float32")


def test_a_gradient_beyond_float16_is_not_told_to_be_wrong() -> None:
    """Right code makes it infinite; of the other components a wrong one is still seen."""
    one = entry("awm").derivation
    case = build(one, Spec(2, (8,), 0), torch.float32, output_dtype=torch.float16)
    case = case.replace(advantage=torch.tensor([1e6, 1.0]))
    v = case.output.detach().half().requires_grad_()
    loss = case.advantage * (v.float() - case.v_gt).square().flatten(1).sum(1)
    (gradient,) = torch.autograd.grad(loss.sum(), v)
    assert gradient[0].isinf().any()
    assert gradient[1].isfinite().all()
    for seen, right in ((gradient, True), (torch.stack([gradient[0], 1.01 * gradient[1]]), False)):
        judged = judge_gradient(one, case, seen, factor=1.0, dtype=torch.float32, output_dtype=torch.float16)
        assert bool((judged.ratios <= THRESHOLD).all()) == right
