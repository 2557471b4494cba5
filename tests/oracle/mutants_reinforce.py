"""REINFORCE, written wrongly."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant
from .steps import flow_step, log_density


def log_prob(case: Case, v: Tensor) -> Tensor:
    return log_density(case.x_prev, *flow_step(case, v)).flatten(1).mean(1)


@mutant("reinforce", fails="gradient", because="ratio-for-log-prob", log_prob_reduction="mean")
def importance_ratio(case: Case) -> Tensor:
    ratio = torch.exp(log_prob(case, case.v_theta) - log_prob(case, case.v_old))
    return -(case.advantage * ratio).mean()


@mutant("reinforce", fails="gradient", because="ratio-for-log-prob", log_prob_reduction="mean")
def importance_ratio_to_what_was_stored(case: Case) -> Tensor:
    return -(case.advantage * torch.exp(log_prob(case, case.v_theta) - case.log_prob_old)).mean()


@mutant("reinforce", fails="gradient", because="probability-for-log-prob", log_prob_reduction="mean")
def probability(case: Case) -> Tensor:
    return -(case.advantage * torch.exp(log_prob(case, case.v_theta))).mean()


@mutant("reinforce", fails="gradient", because="advantage-averaged", log_prob_reduction="mean")
def crossed(case: Case) -> Tensor:
    return -(case.advantage * log_prob(case, case.v_theta)[:, None]).mean()


@mutant("reinforce", fails="gradient", because="convention:sde", log_prob_reduction="mean", sde="dance")
def another_step(case: Case) -> Tensor:
    return -(case.advantage * log_prob(case, case.v_theta)).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
