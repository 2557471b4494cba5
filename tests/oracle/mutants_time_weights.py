"""TempFlow-GRPO and MixGRPO, written wrongly: Flow-GRPO with a weight by the time step."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant
from .steps import log_ratio_of, ppo, sde_step

NOISE = {"log_prob_reduction": "mean", "time_weight": "noise"}
WINDOW = {"log_prob_reduction": "mean", "time_weight": "window"}


def policy_loss(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage, case)


def std_of(case: Case) -> Tensor:
    return sde_step(case, case.v_theta)[1].detach().flatten()


@mutant("flow_grpo", fails="gradient", because="time-weight-missing", **NOISE)
def every_step_alike(case: Case) -> Tensor:
    return policy_loss(case).mean()


@mutant("flow_grpo", fails="gradient", because="time-weight-sigma", **NOISE)
def weighed_by_sigma(case: Case) -> Tensor:
    sigma = case.noise_level * torch.sqrt(case.t / (1 - case.t))
    return (sigma / case.noise_norm * policy_loss(case)).mean()


@mutant("flow_grpo", fails="gradient", because="time-weight-variance", **NOISE)
def weighed_by_the_variance(case: Case) -> Tensor:
    return (std_of(case) ** 2 / case.noise_norm * policy_loss(case)).mean()


@mutant("flow_grpo", fails="sample-independence", because="time-weight-normalised", **NOISE)
def normalised_within_the_batch(case: Case) -> Tensor:
    std = std_of(case)
    return (std / std.mean() * policy_loss(case)).mean()


@mutant("flow_grpo", fails="gradient", because="time-weight-averaged", **NOISE)
def one_weight_for_the_batch(case: Case) -> Tensor:
    return std_of(case).mean() / case.noise_norm * policy_loss(case).mean()


@mutant("flow_grpo", fails="gradient", because="time-weight-inverse", **NOISE)
def quiet_steps_preferred(case: Case) -> Tensor:
    return (case.noise_norm / std_of(case) * policy_loss(case)).mean()


@mutant("flow_grpo", fails="gradient", because="window-ignored", **WINDOW)
def ode_steps_trained_too(case: Case) -> Tensor:
    return policy_loss(case).mean()


@mutant("flow_grpo", fails="gradient", because="window-turned-round", **WINDOW)
def mask_of_the_ode_steps(case: Case) -> Tensor:
    return (policy_loss(case) * (case.window == 0)).mean()


@mutant("flow_grpo", fails="gradient", because="window-mean", **WINDOW)
def mean_over_the_window(case: Case) -> Tensor:
    return (policy_loss(case) * case.window).sum() / case.window.sum().clamp(min=1e-6)


@mutant("flow_grpo", fails="gradient", because="window-for-policy-alone", kl="step", **WINDOW)
def kl_everywhere(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_ref, _ = sde_step(case, case.v_ref)
    kl = ((mean - mean_ref.detach()) ** 2 / (2 * std**2)).flatten(1).mean(1)
    return (policy_loss(case) * case.window + case.kl_weight * kl).mean()


@mutant("flow_grpo", fails="gradient", because="time-weight-in-exponent", **NOISE)
def weight_of_the_log_ratio(case: Case) -> Tensor:
    ratio = torch.exp(std_of(case) / case.noise_norm * log_ratio_of(case))
    return ppo(ratio, case.advantage, case).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
