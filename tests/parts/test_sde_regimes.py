"""Wrong reverse steps that are right amid the time axis: each is refused, by name, where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gradcheck.parts import judge_sde_step
from gradcheck.parts.sde_step import sde_step_part
from parts.base import failed
from parts.steps import make_step

Step = Callable[..., Any]


def last_step_without_noise(*args: Any, **named: Any) -> Any:
    x_prev, log_prob, mean, std = make_step()(*args, **named)
    given, t_prev = args[4] if len(args) > 4 else named.get("x_prev"), args[3]
    if given is None and bool((t_prev == 0).all()):
        x_prev = mean.detach()
    return x_prev, log_prob, mean, std


def last_log_prob_is_zero(*args: Any, **named: Any) -> Any:
    x_prev, log_prob, mean, std = make_step()(*args, **named)
    return x_prev, torch.where(args[3] == 0, 0.0, log_prob), mean, std


WRONG: dict[str, tuple[Step, str]] = {
    "t clamped at 0.99": (make_step(time_of=lambda t: t.clamp(max=0.99)), "mean"),
    "t clamped at 0.996": (make_step(time_of=lambda t: t.clamp(max=0.996)), "mean"),
    "t clamped at 0.005": (make_step(time_of=lambda t: t.clamp(min=0.005)), "mean"),
    "sigma clamped": (make_step(sigma=lambda T, P, a: a * torch.sqrt(T / (1 - T).clamp(min=0.01))), "std"),
    "a standard deviation of at least 1/50": (make_step(spread=lambda S: S.clamp(min=0.02)), "log-prob"),
    "no noise at the last step": (last_step_without_noise, "time-grid"),
    "no log-probability at the last step": (last_log_prob_is_zero, "time-grid"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused_where_it_is_wrong(name: str) -> None:
    step, obligation = WRONG[name]
    for seed in range(3):
        assert obligation in failed(sde_step_part(step, seed=seed).judge([obligation]))


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_right_ones_conform_there(dtype: str | None) -> None:
    step = make_step(cast=torch.float32 if dtype else None)
    for seed in range(3):
        assert failed(judge_sde_step(step, seed=seed, working_dtype=dtype)) == {}
