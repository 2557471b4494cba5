"""The map to r: right ones conform, wrong ones fail by name and with their cause."""

from __future__ import annotations

import pytest
from torch import Tensor

from gradcheck.parts import (
    judge_reward_map,
)
from parts.base import failed


def reward_map(a: Tensor) -> Tensor:
    return a.clamp(-5, 5) / 5 / 2 + 0.5


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_right_maps_conform(dtype: str | None) -> None:
    """Advantages whose r rounds to ½ among them, and maps that reach 1 but for the last digit."""
    for seed in range(10):
        declared = {"working_dtype": dtype, "seed": seed}
        assert not failed(judge_reward_map(reward_map, **declared))
        assert not failed(judge_reward_map(lambda a: ((1 + a / 5) / 2).clamp(0, 1), **declared))
        assert not failed(judge_reward_map(lambda a: 0.5 + a.clamp(-0.7, 0.7) * (1 / 1.4), clip=0.7, **declared))
        assert not failed(judge_reward_map(lambda a: reward_map(a.clamp(min=0)), mode="positive_only", **declared))
