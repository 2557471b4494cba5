"""What a part may return: what holds the same numbers is no failure, and what does not is told as such alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.parts import judge_advantage, judge_ema, judge_reward_map, judge_time_sampler
from gradcheck.parts.sde_step import sde_step_part
from parts.advantages import make_advantage
from parts.averages import make_ema
from parts.base import failed
from parts.steps import make_step
from parts.test_reward_map import reward_map


@dataclass
class Output:
    prev_sample: Tensor
    log_prob: Tensor
    mean: Tensor
    std: Tensor


@pytest.mark.parametrize(
    "of", [list, lambda found: Output(*found), lambda found: dict(zip("xlms", found, strict=True))]
)
def test_a_step_may_return_its_four_results_in_any_type_that_keeps_their_order(of: Any) -> None:
    part = sde_step_part(lambda *args, **named: of(make_step()(*args, **named)))
    assert failed(part.judge(["mean", "std", "log-prob", "generator"])) == {}


def test_a_python_number_is_one_of_double_precision() -> None:
    """torch takes it for float32, which would be another number by 6·10⁻⁸."""

    def step(*args: Any, **named: Any) -> Any:
        x_prev, log_prob, mean, std = make_step()(*args, **named)
        return x_prev, log_prob, mean, float(std.flatten()[0])

    assert failed(sde_step_part(step, per_sample_time=False).judge(["std", "time-grid"])) == {}


def test_arrays_and_lists_of_numbers_are_taken_for_tensors() -> None:
    assert failed(judge_advantage(lambda r, i: make_advantage()(r, i).numpy())) == {}
    assert failed(judge_advantage(lambda r, i: make_advantage()(r, i).tolist())) == {}
    assert failed(judge_advantage(lambda r, i: list(make_advantage()(r, i)))) == {}
    assert failed(judge_reward_map(lambda a: reward_map(a).numpy())) == {}
    assert failed(judge_time_sampler(lambda n, g: torch.sigmoid(torch.randn(n, generator=g)).tolist())) == {}


@pytest.mark.parametrize("wrong", [None, "advantages", {}, [1.0, "2"], []])
def test_another_form_is_told_as_one(wrong: Any) -> None:
    """Nothing is said of ε, places or random numbers, of which nothing was seen."""
    assert set(failed(judge_advantage(lambda r, i: wrong)).values()) == {"returned-form"}
    assert set(failed(sde_step_part(lambda *args, **named: wrong).judge()).values()) == {"returned-form"}


def test_nothing_explains_a_part_of_what_it_does_not_explain_as_a_whole() -> None:
    """ε beside the quotient leaves advantages that do not depend on the rewards' scale, as ε = 0 does."""

    def estimator(rewards: Tensor, group_ids: Tensor) -> Tensor:
        return 1.5 * make_advantage(divide=lambda s: s + 1e-30)(rewards, group_ids)

    found = failed(judge_advantage(estimator))
    assert {found[name] for name in ("values", "scale")} == {"unknown"}


@pytest.mark.parametrize("decay", ["nft-linear", "warmup"])
def test_an_interval_is_tried_at_the_steps_that_are_declared(decay: str) -> None:
    """Far on, two schedules that have reached their caps look alike, whatever the interval."""
    caps = {"nft-linear": lambda n: min(0.01 * n, 0.5), "warmup": lambda n: min((1 + n) / (2 + n), 0.9999)}
    assert set(failed(judge_ema(make_ema(caps[decay]), decay=decay)).values()) == {"unknown"}
