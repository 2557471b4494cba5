"""What public code does beside the papers: each can be declared, right code conforms, and wrong code is named.

Masks, clips, estimators of a divergence, layouts and parts are in ``test_composed``, ``test_layouts`` and
``tests/parts``; here is what remains, in every precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.oracle.adapter import Adapter
from gradcheck.oracle.checks import check_gradient
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.results import Diagnosis
from gradcheck.oracle.runner import Settings, Target, judge


@dataclass(frozen=True)
class Row:
    """A convention.

    Attributes:
        declared: how it is declared.
        right: code that does it, from a case to a loss.
        wrong: code that gets it wrong.
        named: of what the wrong one is said to be, a part of the cause's name or of the declaration that fits it; empty
            where it is another loss altogether.
    """

    declared: dict[str, Any]
    right: Callable[[Case], Tensor]
    wrong: Callable[[Case], Tensor]
    named: str


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _error(c: Case) -> Tensor:
    return _mean((c.v_theta - c.v_gt) ** 2)


def _step(c: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    t, dt = c.expand(c.t), c.expand(c.dt)
    sigma = c.noise_level * torch.sqrt(t / (1 - t))
    mean = c.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return mean, sigma * dt.sqrt()


def _log_prob(c: Case, v: Tensor) -> Tensor:
    mean, std = _step(c, v)
    return _mean(-((c.x_prev - mean) ** 2) / (2 * std**2))


def _ratio(c: Case) -> Tensor:
    return torch.exp(_log_prob(c, c.v_theta) - _log_prob(c, c.v_old))


def _ppo(a: Tensor, ratio: Tensor, low: float | Tensor = 0.2, high: float | Tensor = 0.2) -> Tensor:
    return torch.maximum(
        -a * ratio, -a * torch.minimum(torch.maximum(ratio, 1 - low + 0 * ratio), 1 + high + 0 * ratio)
    )


def _logit_normal(t: Tensor) -> Tensor:
    return torch.exp(-(torch.log(t / (1 - t)) ** 2) / 2) / (t * (1 - t) * math.sqrt(2 * math.pi))


def _guided(c: Case, live: bool = True) -> Tensor:
    base = c.v_uncond if live else c.v_uncond.detach()
    v = base + 4.0 * (c.v_cond - base)
    mean_theta, std = _step(c, v)
    log_prob = _mean(-((c.x_prev - mean_theta) ** 2) / (2 * std**2))
    return _ppo(c.advantage, torch.exp(log_prob - _log_prob(c, c.v_old)))


def _with_eps(c: Case, eps: float) -> Tensor:
    """ε in the variance of the density, of the new one and of the old one alike."""

    def log_prob(v: Tensor) -> Tensor:
        mean, std = _step(c, v)
        return _mean(-((c.x_prev - mean) ** 2) / (2 * std**2 + eps))

    return _ppo(c.advantage, torch.exp(log_prob(c.v_theta) - log_prob(c.v_old)))


def _elbo(c: Case, to_ema: float = 1.0) -> Tensor:
    """AWM with a penalty towards the reference and one towards its own EMA."""
    held = c.kl_weight * _mean((c.v_theta - c.v_ref) ** 2) + to_ema * 0.5 * _mean((c.v_theta - c.v_old) ** 2)
    return c.advantage * _error(c) + held


def _entropy(c: Case, sign: float = 1.0) -> Tensor:
    """A learned scale s of the density: the gradient in the velocity is the error's, over 2s²."""
    return -c.advantage * (-_error(c) / (2 * c.scale**2)) * sign


def _by_time(c: Case, shift: float = 0.0) -> Tensor:
    edge = 0.2 * c.t + shift
    return _ppo(c.advantage, _ratio(c), edge, edge)


def _per_coordinate(c: Case, whole: bool = False) -> Tensor:
    """A ratio for each coordinate of the latent, clipped by itself."""
    mean, std = _step(c, c.v_theta)
    old, _ = _step(c, c.v_old)
    log_ratio = ((c.x_prev - old) ** 2 - (c.x_prev - mean) ** 2) / (2 * std**2)
    a = c.expand(c.advantage)
    if whole:
        return _ppo(c.advantage, torch.exp(_mean(log_ratio)))
    return _mean(torch.maximum(-a * log_ratio.exp(), -a * log_ratio.exp().clamp(0.8, 1.2)))


_PPO = "-min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)"
_GRPO = {"algorithm": "flow_grpo", "log_prob_reduction": "mean", "clip_range": 0.2}
_AWM = {"algorithm": "awm", "reduction": "mean"}

ROWS: dict[str, Row] = {
    "a density of the time": Row(
        {**_AWM, "weight": "exp(-log(t/(1-t))**2/2)/(t*(1-t)*sqrt(2*pi))"},
        lambda c: _logit_normal(c.t) * c.advantage * _error(c),
        lambda c: c.advantage * _error(c),
        "weight",
    ),
    "guidance, both live": Row(
        {**_GRPO, "guidance": 4.0}, _guided, lambda c: _guided(c, live=False), "factor",
    ),
    "a small number in a variance": Row(
        {**_GRPO, "eps": 1e-4}, lambda c: _with_eps(c, 1e-4), lambda c: -_with_eps(c, 1e-4), "sign"
    ),
    "a second penalty": Row(
        {"loss": "A*mse(v_theta, v_gt) + kl_weight*mse(v_theta, v_ref) + 0.5*mse(v_theta, v_old)"},
        _elbo,
        lambda c: _elbo(c, 2.0),
        "term",
    ),
    "a learned scale": Row(
        {"loss": "A*mse(v_theta, v_gt)/(2*scale**2)", "given": {"scale": "sample > 0"}},
        _entropy,
        lambda c: _entropy(c, -1.0),
        "sign",
    ),
    "a clip that depends on the time": Row(
        {"loss": "e = 0.2*t; ratio = exp(mean((x_prev-mean_old)**2 - (x_prev-mean_theta)**2)/(2*C2**2)); "
        "-min(ratio*A, clip(ratio, 1-e, 1+e)*A)"},
        _by_time,
        lambda c: -_by_time(c),
        "sign",
    ),
    "a ratio for each coordinate": Row(
        {"loss": "l = ((x_prev-mean_old)**2 - (x_prev-mean_theta)**2)/(2*C2**2); "
        "mean(max(-A*exp(l), -A*clip(exp(l), 0.8, 1.2)))"},
        _per_coordinate,
        lambda c: _per_coordinate(c, whole=True),
        "",
    ),
    "a guard that is not divided": Row(
        {"algorithm": "grpo_guard", "log_prob_reduction": "mean", "clip_range": 0.2, "weight": "dt"},
        lambda c: _guard(c),
        lambda c: _guard(c) / c.dt,
        "weight=None",
    ),
}  # fmt: skip


def _guard(c: Case) -> Tensor:
    mean, std = _step(c, c.v_theta)
    old, _ = _step(c, c.v_old)
    shift = _mean((mean - old) ** 2 / (2 * std**2))
    ratio = torch.exp((_log_prob(c, c.v_theta) - _log_prob(c, c.v_old) + shift) * std.flatten())
    return _ppo(c.advantage, ratio)


def _in_float32(case: Case) -> Case:
    values = {name: getattr(case, name) for name in case.names}
    floats = {n: x for n, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return Case(case.label, {**values, **{n: x.float() for n, x in floats.items()}})


def holds(row: Row, precision: str, seed: int = 0, examples: int = 4) -> bool:
    """Whether the right code passes."""
    declared = dict(row.declared)
    if precision == "bfloat16":
        declared["output_dtype"] = "bfloat16"
    elif precision == "float32":
        declared["working_dtype"] = "float32"

    def loss(case: Case) -> Tensor:
        return row.right(case if precision == "float64" else _in_float32(case)).mean()

    one = Judge(Adapter(loss, "loss", "mean", 60.0), declare(**declared), seed=seed, max_examples=examples)
    return check_gradient(one).status == "passed"


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("precision", ["float64", "float32", "bfloat16"])
def test_right_code_conforms(name: str, precision: str) -> None:
    row = ROWS[name]
    if precision == "bfloat16" and "guidance" in row.declared:
        pytest.skip("a guided velocity is made of two outputs")
    assert holds(row, precision)


@pytest.mark.parametrize("name", ROWS)
def test_wrong_code_is_refused_by_name(name: str) -> None:
    row = ROWS[name]
    if not row.named:  # two losses that have no more in common than their quantities
        adapter = Adapter(lambda case: row.wrong(case).mean(), "loss", "mean", 60.0)
        assert check_gradient(Judge(adapter, declare(**row.declared), max_examples=4)).status == "failed"
        return
    target = Target(lambda case: row.wrong(case).mean(), "loss", declare(**row.declared))
    (result,) = judge(target, Settings(max_examples=4), ("gradient",)).results
    assert result.status == "failed"
    assert isinstance(result.diagnosis, Diagnosis)
    assert row.named in f"{result.diagnosis.name} {result.diagnosis.cause} {result.diagnosis.declare}", result.diagnosis


def test_the_search_for_a_cause_goes_by_coordinates_too() -> None:
    """Its sign is lost; among what is tried are sums of numbers that are the same in every coordinate."""
    row = ROWS["a ratio for each coordinate"]
    target = Target(lambda case: -row.right(case).mean(), "loss", declare(**row.declared))
    (result,) = judge(target, Settings(max_examples=2), ("gradient",)).results
    assert result.diagnosis is not None
    assert result.diagnosis.name == "sign"


def test_what_a_declared_small_number_changes_is_not_taken_for_an_error_of_its_own() -> None:
    """It shifts a float32 gradient by more than rounding does, and on every move of the inputs alike."""
    assert holds(ROWS["a small number in a variance"], "float32", seed=6)
