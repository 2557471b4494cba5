"""DDPO, written wrongly: the DDIM step with its log-probability, as a scheduler's file has it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant

Step = Callable[[Case, Tensor], tuple[Tensor, Tensor]]


def alphas(case: Case) -> tuple[Tensor, Tensor]:
    return case.expand(case.alpha_bar), case.expand(case.alpha_bar_prev)


def predictions(case: Case, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """As schedulers with ``prediction_type="v_prediction"`` make them."""
    return a**0.5 * case.x_t - (1 - a) ** 0.5 * v, a**0.5 * v + (1 - a) ** 0.5 * case.x_t


def ddim_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    a, a_prev = alphas(case)
    pred_original_sample, pred_epsilon = predictions(case, v, a)
    variance = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    std_dev_t = case.noise_level * variance**0.5
    pred_sample_direction = (1 - a_prev - std_dev_t**2) ** 0.5 * pred_epsilon
    return a_prev**0.5 * pred_original_sample + pred_sample_direction, std_dev_t


def ratio(case: Case, step: Step) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        mean, std = step(case, v)
        log_prob = (
            -((case.x_prev.detach() - mean) ** 2) / (2 * std**2)
            - torch.log(std)
            - torch.log(torch.sqrt(2 * torch.as_tensor(math.pi)))
        )
        return log_prob.mean(dim=tuple(range(1, log_prob.ndim)))

    return torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())


def clipped(case: Case, ratio: Tensor) -> Tensor:
    unclipped_loss = -case.advantage * ratio
    clipped_loss = -case.advantage * torch.clamp(ratio, 1.0 - case.clip_low, 1.0 + case.clip_high)
    return torch.mean(torch.maximum(unclipped_loss, clipped_loss))


MEAN = {"log_prob_reduction": "mean"}


@mutant("ddpo", fails="gradient", because="signal-before-the-step", **MEAN)
def data_scaled_as_before_the_step(case: Case) -> Tensor:
    def step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
        a, a_prev = alphas(case)
        mean, std = ddim_step(case, v)
        return mean + (a**0.5 - a_prev**0.5) * predictions(case, v, a)[0], std

    return clipped(case, ratio(case, step))


@mutant("ddpo", fails="gradient", because="noise-not-taken-off", **MEAN)
def direction_of_the_ode(case: Case) -> Tensor:
    def step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
        a, a_prev = alphas(case)
        pred_original_sample, pred_epsilon = predictions(case, v, a)
        mean = a_prev**0.5 * pred_original_sample + (1 - a_prev) ** 0.5 * pred_epsilon
        return mean, ddim_step(case, v)[1]

    return clipped(case, ratio(case, step))


@mutant("ddpo", fails="gradient", because="std-without-eta", **MEAN)
def eta_forgotten_in_the_density(case: Case) -> Tensor:
    def step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = ddim_step(case, v)
        return mean, std / case.noise_level

    return clipped(case, ratio(case, step))


@mutant("ddpo", fails="gradient", because="std-squared", **MEAN)
def variance_for_std(case: Case) -> Tensor:
    def step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = ddim_step(case, v)
        return mean, std**2

    return clipped(case, ratio(case, step))


@mutant("ddpo", fails="gradient", because="std-of-the-chain", **MEAN)
def fixed_large_variance(case: Case) -> Tensor:
    def step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
        a, a_prev = alphas(case)
        return ddim_step(case, v)[0], case.noise_level * (1 - a / a_prev) ** 0.5

    return clipped(case, ratio(case, step))


@mutant("ddpo", fails="sample-independence", because="std-mean", **MEAN)
def one_std_for_the_batch(case: Case) -> Tensor:
    def step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = ddim_step(case, v)
        return mean, std.mean(0, keepdim=True)

    return clipped(case, ratio(case, step))


@mutant("ddpo", fails="gradient", because="step-of-first-sample", **MEAN)
def timestep_of_the_first_sample(case: Case) -> Tensor:
    first = {name: getattr(case, name)[:1].expand_as(case.alpha_bar) for name in ("alpha_bar", "alpha_bar_prev")}
    return clipped(case, ratio(case.replace(**first), ddim_step))


@mutant("ddpo", fails="gradient", because="convention:log_prob_reduction", log_prob_reduction="sum")
def averaged_over_coordinates(case: Case) -> Tensor:
    return clipped(case, ratio(case, ddim_step))


@mutant("ddpo", fails="clip", because="clip-missing", **MEAN)
def reinforce_with_a_ratio(case: Case) -> Tensor:
    return -(case.advantage * ratio(case, ddim_step)).mean()


@mutant("ddpo", fails="kl", because="kl-without-gradient", kl="step", **MEAN)
def kl_under_no_grad(case: Case) -> Tensor:
    with torch.no_grad():
        (mean, std), (mean_ref, _) = ddim_step(case, case.v_theta), ddim_step(case, case.v_ref)
        kl = ((mean - mean_ref) ** 2 / (2 * std**2)).mean()
    return clipped(case, ratio(case, ddim_step)) + case.kl_weight * kl


@mutant("ddpo", fails="gradient", because="sign", **MEAN)
def loss_and_objective_confused(case: Case) -> Tensor:
    return -clipped(case, ratio(case, ddim_step))


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
