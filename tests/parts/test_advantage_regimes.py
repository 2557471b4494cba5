"""Wrong estimators that are right on ordinary batches: each is refused, by name, where it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.parts import judge_advantage
from parts.advantages import make_advantage
from parts.base import failed

Estimator = Callable[[Tensor, Tensor], Tensor]


def all_unbiased(own: Tensor, everyone: Tensor) -> Tensor:
    """The unbiased standard deviation of everything, NaN where that is one reward."""
    return everyone.std() if len(everyone) > 1 else everyone.new_full((), torch.nan)


def normalised_again(eps: float) -> Estimator:
    """Over the batch, where the groups' advantages have mean 0 and size 1 already, unless one is constant."""

    def advantage(rewards: Tensor, group_ids: Tensor) -> Tensor:
        a = make_advantage(divide=lambda s: (s + eps).clamp(min=1e-7))(rewards, group_ids)
        return (a - a.mean()) / a.std(correction=0).clamp(min=1e-6)

    return advantage


def small_batches_alone(rewards: Tensor, group_ids: Tensor) -> Tensor:
    whole = make_advantage(std=lambda own, everyone: everyone.std(correction=0))
    return (make_advantage() if len(rewards) < 64 else whole)(rewards, group_ids)


def without_constant_groups(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """The standard deviation of everything, without the groups that have none of their own."""
    varied = torch.tensor([bool((rewards[group_ids == i] != rewards[group_ids == i][0]).any()) for i in group_ids])
    kept = rewards[varied] if bool(varied.any()) else rewards
    return make_advantage(std=lambda own, everyone: kept.std(correction=0))(rewards, group_ids)


def root(eps: float) -> Estimator:
    return make_advantage(std=lambda own, everyone: own.var(correction=0), divide=lambda s: (s + eps).sqrt())


WRONG: dict[str, tuple[Estimator, str, dict[str, Any]]] = {
    "NaN for one reward in all": (
        make_advantage(std=all_unbiased),
        "single-member",
        {"std": "global", "unbiased": True},
    ),
    "normalised again": (normalised_again(0.0), "values", {"eps": 0.0}),
    "normalised again, in float32": (normalised_again(1e-8), "values", {"eps": 1e-8, "working_dtype": "float32"}),
    "eps under the root, in float32": (root(1e-6), "values", {"eps": 1e-6, "working_dtype": "float32"}),
    "tiny eps under the root, in float32": (root(1e-8), "values", {"eps": 1e-8, "working_dtype": "float32"}),
    "its square under the root, in float32": (root(1e-16), "values", {"eps": 1e-8, "working_dtype": "float32"}),
    "advantages clamped at 10": (make_advantage(clamp=10.0), "values", {}),
    "advantages clamped at 3": (make_advantage(clamp=3.0), "values", {}),
    "rewards clamped at 100": (lambda r, i: make_advantage()(r.clamp(-100, 100), i), "values", {}),
    "negative rewards cut": (lambda r, i: make_advantage()(r.clamp(min=0), i), "values", {}),
    "another rule for large batches": (small_batches_alone, "values", {}),
    "constant groups left out": (without_constant_groups, "values", {"std": "global"}),
    "ids modulo 1,000": (lambda r, i: make_advantage()(r, i % 1000), "group-sizes", {}),
    "ids as 32 bits": (lambda r, i: make_advantage()(r, i.int()), "group-sizes", {}),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused_where_it_is_wrong(name: str) -> None:
    function, obligation, declared = WRONG[name]
    for seed in range(2):
        assert obligation in failed(judge_advantage(function, seed=seed, **declared))


@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-6, 1e-4])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_right_ones_conform_whatever_is_declared(eps: float, dtype: str | None) -> None:
    right = make_advantage(divide=lambda s: torch.where(s > 0, s + eps, 1.0))
    for seed in range(3):
        assert failed(judge_advantage(right, seed=seed, eps=eps, working_dtype=dtype)) == {}
