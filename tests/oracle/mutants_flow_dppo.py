"""Flow-DPPO, written wrongly: what is masked, and by which divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant
from .steps import log_ratio_of, sde_step

MEAN = {"log_prob_reduction": "mean"}


def divergence_of(case: Case) -> Tensor:
    with torch.no_grad():
        (mean, std), (mean_old, _) = sde_step(case, case.v_theta), sde_step(case, case.v_old)
        return ((mean - mean_old) ** 2 / (2 * std**2)).flatten(1).mean(1)


def masked(case: Case, ratio: Tensor, off: Tensor) -> Tensor:
    return -(case.advantage * ratio * (~off).detach()).mean()


def away(case: Case, ratio: Tensor) -> Tensor:
    return (case.advantage * (ratio - 1)).detach() > 0


@mutant("flow_dppo", fails="clip", because="mask-missing", **MEAN)
def unmasked(case: Case) -> Tensor:
    return -(case.advantage * log_ratio_of(case).exp()).mean()


@mutant("flow_dppo", fails="clip", because="mask-both-ways", **MEAN)
def stopped_on_the_way_back(case: Case) -> Tensor:
    return masked(case, log_ratio_of(case).exp(), divergence_of(case) > case.divergence_max)


@mutant("flow_dppo", fails="clip", because="mask-way-back", **MEAN)
def comparison_with_one_turned_round(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    back = (case.advantage * (1 - ratio)).detach() > 0
    return masked(case, ratio, back & (divergence_of(case) > case.divergence_max))


@mutant("flow_dppo", fails="clip", because="mask-one-sign", **MEAN)
def bad_samples_never_stopped(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return masked(case, ratio, (case.advantage > 0) & (ratio > 1) & (divergence_of(case) > case.divergence_max))


@mutant("flow_dppo", fails="gradient", because="divergence-averaged", **MEAN)
def one_divergence_for_the_batch(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return masked(case, ratio, away(case, ratio) & (divergence_of(case).mean() > case.divergence_max))


@mutant("flow_dppo", fails="clip", because="divergence-half-missing", **MEAN)
def divergence_without_half(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return masked(case, ratio, away(case, ratio) & (2 * divergence_of(case) > case.divergence_max))


@mutant("flow_dppo", fails="clip", because="divergence-sigma", **MEAN)
def divergence_over_sigma(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return masked(case, ratio, away(case, ratio) & (case.dt * divergence_of(case) > case.divergence_max))


@mutant("flow_dppo", fails="clip", because="log-ratio-for-divergence", **MEAN)
def estimated_from_the_ratio(case: Case) -> Tensor:
    """The low-variance estimator r − 1 − log r, which a trainer of language models has to use."""
    log_ratio = log_ratio_of(case)
    ratio = log_ratio.exp()
    return masked(case, ratio, away(case, ratio) & ((ratio - 1 - log_ratio).detach() > case.divergence_max))


@mutant("flow_dppo", fails="gradient", because="sign", **MEAN)
def reward_minimised(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return -masked(case, ratio, away(case, ratio) & (divergence_of(case) > case.divergence_max))


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
