"""Advantage-weighted regression, written wrongly."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant


def mse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).flatten(1).mean(1)


def weighted(case: Case, weight: Tensor) -> Tensor:
    return (weight * mse(case.v_theta, case.v_gt)).mean()


def exponential(case: Case) -> Tensor:
    return torch.exp(case.advantage / case.temperature)


@mutant("awr", fails="gradient", because="weight-unclipped", reduction="mean")
def without_a_greatest_weight(case: Case) -> Tensor:
    return weighted(case, exponential(case))


@mutant("awr", fails="gradient", because="weight-clip-silences", reduction="mean")
def clipped_as_ppo_clips(case: Case) -> Tensor:
    w = exponential(case)
    return weighted(case, torch.where(w < case.weight_max, w, torch.zeros_like(w)))


@mutant("awr", fails="gradient", because="weight-clip-below", reduction="mean")
def least_weight(case: Case) -> Tensor:
    return weighted(case, exponential(case).clamp(min=case.weight_max))


@mutant("awr", fails="gradient", because="exponent-clipped", reduction="mean")
def clip_in_the_wrong_place(case: Case) -> Tensor:
    return weighted(case, torch.exp((case.advantage / case.temperature).clamp(max=case.weight_max)))


@mutant("awr", fails="gradient", because="temperature-missing", reduction="mean", weight_max=20.0)
def temperature_of_one(case: Case) -> Tensor:
    return weighted(case, torch.exp(case.advantage).clamp(max=20.0))


@mutant("awr", fails="micro-batching", because="weight-normalised", reduction="mean")
def softmax_over_the_batch(case: Case) -> Tensor:
    w = exponential(case).clamp(max=case.weight_max)
    return weighted(case, w / w.sum())


@mutant("awr", fails="kl", because="kl-half", reduction="mean", reference="on")
def reference_doubled(case: Case) -> Tensor:
    policy = weighted(case, exponential(case).clamp(max=case.weight_max))
    return policy + 2 * case.kl_weight * mse(case.v_theta, case.v_ref).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
