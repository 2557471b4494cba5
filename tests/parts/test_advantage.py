"""The advantage estimator: right ones conform, wrong ones fail by name and with their cause."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.judging.results import Judgement
from gradcheck.parts import (
    judge_advantage,
)
from gradcheck.reports.text import judgement_text
from parts.advantages import make_advantage, reshaped, scattered, unbiased_std, writes
from parts.base import declared, failed

RIGHT_ADVANTAGES = {
    "loop": (make_advantage(), {}),
    "scatter": (scattered, {}),
    "reshape": (reshaped, {"layout": "contiguous"}),
    "global": (make_advantage(std=lambda own, everyone: everyone.std(correction=0)), {"std": "global"}),
    "none": (make_advantage(divide=torch.ones_like), {"std": "none"}),
    "unbiased": (make_advantage(std=unbiased_std), {"unbiased": True}),
    "clamped": (make_advantage(clamp=1.5), {"clamp": 1.5}),
    "float32": (lambda r, i: make_advantage()(r.float(), i), {"working_dtype": "float32"}),
}


@pytest.mark.parametrize("name", RIGHT_ADVANTAGES)
def test_right_advantages_conform(name: str) -> None:
    function, conventions = RIGHT_ADVANTAGES[name]
    for seed in range(3):
        assert failed(judge_advantage(function, seed=seed, **conventions)) == {}


def test_what_is_wrong_with_every_group_is_not_blamed_on_some() -> None:
    """Places, sizes and lone members are told where ordinary groups are right, not beside what is wrong with all."""

    def quartiles(own: Tensor, everyone: Tensor) -> Tensor:
        return own.quantile(0.75) - own.quantile(0.25)

    found = failed(judge_advantage(make_advantage(std=quartiles)))
    assert found["values"] == found["group-sizes"] == found["single-member"] == "unknown"


def test_groups_taken_from_places() -> None:
    def sixes(rewards: Tensor, group_ids: Tensor) -> Tensor:
        return make_advantage()(rewards, torch.arange(len(rewards)) // 6)

    found = failed(judge_advantage(sixes))
    assert found["group-sizes"] == found["permutation"] == "position"
    assert "rewards in place" in judgement_text(judge_advantage(writes))


# ------------------------------------------------------------------------------------------- ε below rounding


def dance_grpo(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """DanceGRPO's: float32, the unbiased standard deviation of each group, and ε = 1e-8."""
    table = rewards.float().reshape(len(set(group_ids.tolist())), -1)
    return ((table - table.mean(1, keepdim=True)) / (table.std(1, keepdim=True) + 1e-8)).flatten()


DANCE: dict[str, Any] = {
    "unbiased": True,
    "eps": 1e-8,
    "layout": "contiguous",
    "smallest_group": 2,
    "working_dtype": "float32",
}


def note_of(judgement: Judgement, obligation: str) -> str:
    (result,) = (r for r in judgement.results if r.id == obligation)
    return result.outcome.note


def test_a_declared_tiny_eps_is_no_failure_and_is_told() -> None:
    judgement = judge_advantage(dance_grpo, **DANCE)
    assert failed(judgement) == {}
    note = note_of(judgement, "equal-rewards")
    assert note.startswith("hazard eps-below-rounding: a group whose float32 rewards are all ")
    number = float(note.partition("gets an advantage of ")[2].partition(";")[0])
    seen = dance_grpo(torch.full((6,), 3.3) + torch.tensor([0.0, 1, 0, -1, 1, 0]) * 3.3 * 2**-23, torch.zeros(6)).abs()
    assert 0.5 * float(seen.max()) < number < 10, "the number that comes out"
    assert "use ε = 1e-4" in note
    assert note in " ".join(judgement_text(judgement).split()), "a reader of the text sees it"


def test_no_hazard_is_told_where_there_is_none() -> None:
    for eps in (1e-4, 1e-3):
        judgement = judge_advantage(make_advantage(divide=lambda s, e=eps: s + e), eps=eps, working_dtype="float32")
        assert not failed(judgement)
        assert note_of(judgement, "equal-rewards") == ""
    guarded = judge_advantage(_guarded, **{**DANCE, "unbiased": False})
    assert not failed(guarded)
    assert note_of(guarded, "equal-rewards") == "", "rounding noise is cut off, so that ε = 1e-8 does no harm"


def _guarded(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """0 where the standard deviation is within rounding of 0."""
    table = rewards.reshape(len(set(group_ids.tolist())), -1)
    std = table.std(1, correction=0, keepdim=True)
    found = (table - table.mean(1, keepdim=True)) / (std + 1e-8)
    return torch.where(std > 8 * torch.finfo(torch.float32).eps * table.abs().amax(1, keepdim=True), found, 0).flatten()


def constant(value: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The right advantages, but that groups of equal rewards get the rewards times a constant."""

    def advantage(rewards: Tensor, group_ids: Tensor) -> Tensor:
        table = rewards.reshape(len(set(group_ids.tolist())), -1)
        equal = table.std(1, correction=0, keepdim=True) < 1e-5
        return torch.where(equal.expand_as(table).flatten(), value * rewards, make_advantage()(rewards, group_ids))

    return advantage


def test_a_tiny_eps_declared_does_not_excuse_what_it_does_not_explain() -> None:
    """Thousands are no rounding noise over ε, 0.05 is much where ε is large enough, and NaN is always a failure."""
    for value, eps in ((1e4, 1e-4), (1e4, 1e-8), (0.015, 1e-4)):
        judgement = judge_advantage(constant(value), eps=eps, layout="contiguous", working_dtype="float32")
        assert "equal-rewards" in failed(judgement), (value, eps)
    nothing = judge_advantage(make_advantage(divide=lambda s: s), eps=0.0, working_dtype="float32")
    assert failed(nothing)["equal-rewards"] == "zero-over-zero"


# ------------------------------------------------------------------------------------------- groups of one member


@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-4])
@pytest.mark.parametrize("wrong", [0.02, 1.0, -100.0])
def test_a_lone_member_is_judged_in_float32_too(eps: float, wrong: float) -> None:
    """Whatever ε: the mean of one number is that number, exactly."""

    def lone(rewards: Tensor, group_ids: Tensor) -> Tensor:
        alone = (group_ids[:, None] == group_ids).sum(1) == 1
        return torch.where(alone, wrong, make_advantage(divide=lambda s: s + max(eps, 1e-30))(rewards, group_ids))

    judgement = judge_advantage(lone, eps=eps, working_dtype="float32")
    assert failed(judgement)["single-member"] == "lone-member"


def test_groups_of_one_need_not_occur() -> None:
    unguarded = make_advantage(std=lambda own, everyone: own.std() if len(own) > 1 else own.sum() * math.nan)
    judgement = judge_advantage(unguarded, unbiased=True)
    assert failed(judgement) == {"single-member": "std-of-one"}
    assert declared(judgement) == {"smallest_group=2"}
    assert not failed(judge_advantage(unguarded, unbiased=True, smallest_group=2))


# ------------------------------------------------------------------------------------------- the scale


@pytest.mark.parametrize("eps", [0.01, 1e-4])
@pytest.mark.parametrize("clamp", [None, 1.0])
def test_the_scales_ratio_is_of_rounding(eps: float, clamp: float | None) -> None:
    """ε's own share is part of what is required, so that the ratio says how much of the rounding bound is used."""
    function = make_advantage(divide=lambda s: s + eps, clamp=math.inf if clamp is None else clamp)
    for dtype in (None, "float32"):
        judgement = judge_advantage(function, eps=eps, clamp=clamp, working_dtype=dtype)
        (scale,) = (r for r in judgement.results if r.id == "scale")
        assert scale.status == "passed"
        assert scale.outcome.ratio < 0.5


def test_a_scale_that_is_off_by_a_thousandth_of_eps_is_refused() -> None:
    function = make_advantage(divide=lambda s: s + torch.where(s > 1.5, 1.001e-4, 1e-4))
    assert "scale" in failed(judge_advantage(function))
