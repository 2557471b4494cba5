"""A number that guards a denominator: allowed for where it is declared, wherever it stands; else it is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.errors import InputError
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.judge import Judge, look_at_gradient

from .base import Correct, judged

MEAN = {"log_prob_reduction": "mean", "clip_range": 0.2}


def guarded(place: str, eps: float) -> Callable[[Case], Tensor]:
    """Flow-GRPO with the number added there."""

    def at(where: str) -> float:
        return eps if where == place else 0.0

    def loss(case: Case) -> Tensor:
        t, dt = case.expand(case.t), case.expand(case.dt)
        sigma = case.noise_level * torch.sqrt(t / (1 - t + at("1 - t")))
        variance = (sigma * torch.sqrt(dt + at("dt")) + at("std")) ** 2 + at("variance")

        def log_prob(v: Tensor) -> Tensor:
            drift = v + sigma**2 / (2 * t + at("2 t")) * (case.x_t + (1 - t) * v)
            return -((case.x_prev - case.x_t + drift * dt) ** 2 / (2 * variance + at("2 variance"))).flatten(1).mean(1)

        ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
        return torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(0.8, 1.2)).mean()

    return loss


PLACES = ("std", "variance", "2 variance", "1 - t", "dt", "2 t")


def reference_fails(one: Correct) -> bool:
    """Whether the first problem's gradient is refused, without the search for a cause."""
    judge = Judge(Adapter(one.function, one.name), one.conventions)
    case = judge.case(next(iter(judge.specs(policy="off", time="middle"))))
    return not look_at_gradient(judge, case).holds


@pytest.mark.parametrize("place", PLACES)
def test_declared_it_is_allowed_for_and_no_more(place: str) -> None:
    declared = {**MEAN, "eps": 1e-8}
    assert judged(Correct("right", "flow_grpo", declared, guarded(place, 1e-8)), 3, ("gradient", "clip")).holds
    larger = reference_fails(Correct("larger", "flow_grpo", declared, guarded(place, 1e-6)))
    assert larger, "a hundred times as much passes too"


@pytest.mark.parametrize("place", PLACES)
def test_undeclared_it_is_told(place: str) -> None:
    (result,) = judged(Correct("undeclared", "flow_grpo", MEAN, guarded(place, 1e-8)), 3, ("gradient",)).results
    assert result.status == "failed"
    assert result.diagnosis is not None
    assert result.diagnosis.declare == "eps=1e-08", result.diagnosis.cause


@pytest.mark.parametrize("eps", [-1e-8, 0.1, float("nan"), "1e-8", True])
def test_what_is_no_guard_is_refused(eps: object) -> None:
    with pytest.raises(InputError, match="eps"):
        declare("flow_grpo", eps=eps)
