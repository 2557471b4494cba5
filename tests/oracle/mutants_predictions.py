"""Wrong implementations whose networks predict noise or data, or whose time runs from noise at 0 to data at 1."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant
from .correct_predictions import squared
from .steps import MEAN, log_density, ppo


def matching(case: Case, v: Tensor, v_gt: Tensor | None = None) -> Tensor:
    target = case.noise - case.x_0 if v_gt is None else v_gt
    return (case.advantage * squared(v - target)).mean()


@mutant("awm", fails="gradient", because="conversion-missing", prediction="epsilon")
def noise_for_velocity(case: Case) -> Tensor:
    return matching(case, case.noise_theta)


@mutant("awm", fails="gradient", because="conversion-sign", prediction="x0")
def data_minus_state(case: Case) -> Tensor:
    return matching(case, (case.x_0_theta - case.x_t) / case.expand(case.t))


@mutant("awm", fails="gradient", because="conversion-undivided", prediction="epsilon")
def undivided_noise(case: Case) -> Tensor:
    return matching(case, case.noise_theta - case.x_t)


@mutant("awm", fails="gradient", because="conversion-undivided", prediction="x0")
def undivided_data(case: Case) -> Tensor:
    return matching(case, case.x_t - case.x_0_theta)


@mutant("awm", fails="gradient", because="conversion-time", prediction="epsilon")
def noise_over_t(case: Case) -> Tensor:
    return matching(case, (case.noise_theta - case.x_t) / case.expand(case.t))


@mutant("awm", fails="gradient", because="conversion-state-sign", prediction="epsilon")
def noise_plus_state(case: Case) -> Tensor:
    return matching(case, (case.noise_theta + case.x_t) / (1 - case.expand(case.t)))


@mutant("awm", fails="gradient", because="conversion-mixed", prediction="epsilon", reference="on")
def predicted_noise_minus_true_data(case: Case) -> Tensor:
    v = case.noise_theta - case.x_0
    v_ref = (case.noise_ref - case.x_t) / (1 - case.expand(case.t))
    return matching(case, v) + (case.kl_weight * squared(v - v_ref)).mean()


@mutant("awm", fails="gradient", because="conversion-other", prediction="x0")
def data_taken_for_noise(case: Case) -> Tensor:
    return matching(case, (case.x_0_theta - case.x_t) / (1 - case.expand(case.t)))


@mutant("awm", fails="gradient", because="conversion-detached", prediction="epsilon")
def clean_latent_detached(case: Case) -> Tensor:
    t = case.expand(case.t)
    with torch.no_grad():
        x_0_hat = (case.x_t - t * case.noise_theta) / (1 - t)
    return matching(case, case.noise_theta - x_0_hat)


@mutant("awm", fails="gradient", because="convention:error_space", prediction="epsilon")
def error_of_the_noise(case: Case) -> Tensor:
    return (case.advantage * squared(case.noise_theta - case.noise)).mean()


@mutant("awm", fails="gradient", because="advantage-absolute", prediction="x0", noise_at=0)
def sign_of_the_advantage_lost(case: Case) -> Tensor:
    v = (case.x_0_theta - case.x_t) / (1 - case.expand(case.t))
    return (case.advantage.abs() * squared(v - (case.x_0 - case.noise))).mean()


@mutant("awm", fails="gradient", because="velocity-unturned", noise_at=0)
def velocity_of_falling_time(case: Case) -> Tensor:
    return matching(case, case.v_theta)


@mutant("awm", fails="gradient", because="conversion-time", prediction="epsilon", noise_at=0)
def conversion_of_falling_time(case: Case) -> Tensor:
    v = (case.x_t - case.noise_theta) / (1 - case.expand(case.t))
    return matching(case, v, case.x_0 - case.noise)


@mutant("awm", fails="gradient", because="time-unturned", noise_at=0, clip="ppo", omega="t", reduction="mean")
def time_weight_unturned(case: Case) -> Tensor:
    v_gt = case.x_0 - case.noise
    new, old = (-case.t * (v - v_gt).square().flatten(1).mean(1) for v in (case.v_theta, case.v_old))
    return ppo(torch.exp(new - old), case.advantage, case).mean()


@mutant("fpo", fails="gradient", because="conversion-behaviour", prediction="epsilon")
def behaviour_model_not_converted(case: Case) -> Tensor:
    v = (case.noise_theta - case.x_t) / (1 - case.expand(case.t))
    new, old = (squared(x - case.v_gt) for x in (v, case.noise_old))
    return ppo(torch.exp(old - new), case.advantage, case).mean()


@mutant("diffusion_dpo", fails="gradient", because="conversion-reference", prediction="x0")
def reference_not_converted(case: Case) -> Tensor:
    v = (case.x_t - case.x_0_theta) / case.expand(case.t)
    gap = squared(v - case.v_gt) - squared(case.x_0_ref - case.v_gt)
    return -torch.nn.functional.logsigmoid(-case.beta_dpo * case.preference * (gap - case.partner_gap)).mean()


def reverse_step(case: Case, output: Tensor, old: Tensor, t: Tensor, sign: int) -> Tensor:
    dt = case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))

    def mean(v: Tensor) -> Tensor:
        return case.x_t - (sign * v + sigma**2 / (2 * t) * (case.x_t + (1 - t) * sign * v)) * dt

    new, before = (log_density(case.x_prev, mean(v), sigma * dt.sqrt()).flatten(1).mean(1) for v in (output, old))
    return ppo(torch.exp(new - before), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="time-unturned", noise_at=0, **MEAN)
def step_in_the_wrong_time(case: Case) -> Tensor:
    return reverse_step(case, case.v_theta, case.v_old, case.expand(case.t), -1)


@mutant("flow_grpo", fails="gradient", because="velocity-unturned", noise_at=0, **MEAN)
def step_with_the_wrong_velocity(case: Case) -> Tensor:
    return reverse_step(case, case.v_theta, case.v_old, 1 - case.expand(case.t), 1)


@mutant("flow_grpo", fails="gradient", because="conversion-undivided", prediction="epsilon", **MEAN)
def step_with_undivided_noise(case: Case) -> Tensor:
    new, old = (x - case.x_t for x in (case.noise_theta, case.noise_old))
    return reverse_step(case, new, old, case.expand(case.t), 1)


@mutant("awm", fails="gradient", because="conversion-path", prediction="epsilon")
def noise_of_another_path(case: Case) -> Tensor:
    t = case.expand(case.t)
    return matching(case, case.noise_theta - (case.x_t - t.sqrt() * case.noise_theta) / (1 - t).sqrt())


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
