"""Float32 is named as a cause where something rounds like it, and not where a formula is wrong by as little."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.judging.check import Check, Hypothesis, Info
from gradcheck.judging.engine import Declared
from gradcheck.judging.results import Outcome
from gradcheck.parts import judge_advantage, judge_reward_map, judge_sde_step
from gradcheck.parts._precision import rounds
from parts.advantages import make_advantage
from parts.base import failed
from parts.steps import make_step
from parts.test_reward_map import reward_map

FLOAT32 = "convention:working_dtype"


def slightly(step: Callable[..., Any], factor: float) -> Callable[..., Any]:
    """The step with its mean off by so much: smooth, and as small as float32's rounding."""

    def wrong(*args: Any, **named: Any) -> Any:
        x_prev, log_prob, mean, std = step(*args, **named)
        return x_prev, log_prob, mean * factor, std

    return wrong


@pytest.mark.parametrize("error", [1e-7, 3e-8, 1e-10])
def test_a_small_mistake_is_not_called_float32(error: float) -> None:
    found = failed(judge_sde_step(slightly(make_step(), 1 + error)))
    assert found["mean"] == "unknown"
    assert failed(judge_reward_map(lambda a: reward_map(a) * (1 - error)))["values"] == "unknown"
    wrong = failed(judge_advantage(lambda r, i: make_advantage()(r, i) * (1 + error)))
    assert wrong["values"] == "unknown"


@pytest.mark.parametrize("place", ["everything", "mean", "std"])
def test_float32_is_named_wherever_it_is(place: str) -> None:
    def step(*args: Any, **named: Any) -> Any:
        if place == "everything":
            return make_step(cast=torch.float32)(*args, **named)
        x_prev, log_prob, mean, std = make_step()(*args, **named)
        return (
            x_prev,
            log_prob,
            mean.float().double() if place == "mean" else mean,
            std.float() if place == "std" else std,
        )

    obligation = "std" if place == "std" else "mean"
    assert failed(judge_sde_step(step))[obligation] == FLOAT32


def test_bfloat16_is_not_called_float32() -> None:
    assert failed(judge_sde_step(make_step(cast=torch.bfloat16))).get("mean") != FLOAT32


def test_float32_explains_only_what_holds_in_it() -> None:
    """A wrong formula in float32 is two mistakes; what float32 does not make right is not put down to it."""
    found = failed(judge_advantage(lambda r, i: make_advantage(sign=-1.5)(r.float(), i).double()))
    assert found["values"] == "unknown"


def test_a_tolerance_that_accepts_anything_explains_nothing() -> None:
    """Its controls are wrong formulas; where it cannot refuse one of them, it is no explanation."""
    right, wrong = "right", "wrong"
    check = Check[str]("c", "", "", lambda s: Outcome("failed" if s in ("subject", wrong) else "passed", 1))
    for controls, cause in (((wrong,), "wide"), ((right,), "unknown"), ((right, wrong), "wide")):
        hypothesis = Hypothesis("wide", "anything", right, controls=controls)
        part = Declared("subject", (check,), lambda s, h=hypothesis: [h], Info("", "", "", 0, ""))
        diagnosis = part.judge().results[0].diagnosis
        assert diagnosis is not None
        assert diagnosis.name == cause
    unproven = Hypothesis("wide", "anything", right, controls=(wrong,), evidence=lambda: False)
    diagnosis = (
        Declared("subject", (check,), lambda s: [unproven], Info("", "", "", 0, "")).judge().results[0].diagnosis
    )
    assert diagnosis is not None
    assert diagnosis.name == "unknown"


@pytest.mark.parametrize(
    ("function", "rough"),
    [
        (lambda x: x.exp(), False),
        (lambda x: x.sin() / (1 - x) ** 2, False),
        (lambda x: x.float().exp(), True),
        (lambda x: x.exp().float().double(), True),
        (lambda x: 0 * x + x.float().sum(), True),
        (lambda x: x * 0.1 + 1e-8, False),
    ],
)
def test_rounding_is_rough_and_formulas_are_smooth(function: Callable[[Tensor], Tensor], rough: bool) -> None:
    x = torch.linspace(0.1, 0.8, 23, dtype=torch.float64)
    assert rounds(lambda h: [function(x * (1 + h)), None]) is rough
