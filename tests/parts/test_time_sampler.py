"""The sampler of times: right ones conform, wrong ones fail by name and with their cause."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradcheck.oracle.parts import (
    judge_time_sampler,
    shifted,
)
from gradcheck.oracle.text import judgement_text
from parts.base import failed


def make_times(
    shift: float = 3.0, mean: float = 0.0, std: float = 1.0, dtype: torch.dtype = torch.float32
) -> Callable[[int, torch.Generator], Tensor]:
    def times(n: int, generator: torch.Generator) -> Tensor:
        sigma = torch.sigmoid(mean + std * torch.randn(n, generator=generator, dtype=dtype))
        return shift * sigma / (1 + (shift - 1) * sigma)

    return times


def by_quantiles(n: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    return 3 / (3 + torch.exp(-torch.special.ndtri(u)))


def uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator)


def test_right_samplers_conform() -> None:
    for seed in range(4):
        assert not failed(judge_time_sampler(make_times(), shift=3.0, seed=seed))
        assert not failed(judge_time_sampler(by_quantiles, shift=3.0, seed=seed))
        assert not failed(judge_time_sampler(uniform, distribution="uniform", seed=seed))
    assert not failed(judge_time_sampler(make_times(1.0, 0.5, 1.7), mean=0.5, std=1.7))
    assert not failed(judge_time_sampler(lambda n, g: shifted(uniform(n, g), 5.0), distribution="uniform", shift=5.0))


def test_indistinguishable_causes_are_all_told() -> None:
    """Around 0 a logit-normal is symmetric, so an inverted shift is the same as exchanged ends."""
    judgement = judge_time_sampler(make_times(1 / 3), shift=3.0)
    assert "noise and data are exchanged" in judgement_text(judgement)
