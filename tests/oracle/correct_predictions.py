"""Right implementations whose networks predict noise or data, or whose time runs from noise at 0 to data at 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Correct, correct
from .steps import MEAN, column, log_density, ppo


def squared(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)


def ratio(case: Case, mean: Tensor, mean_old: Tensor, std: Tensor) -> Tensor:
    new, old = (log_density(case.x_prev, m, std).flatten(1).mean(1) for m in (mean, mean_old.detach()))
    return torch.exp(new - old)


# ------------------------------------------------------------------------------------ the forward process


@correct("awm", prediction="epsilon")
def noise_to_velocity(case: Case) -> Tensor:
    v = (case.noise_theta - case.x_t) / (1 - case.expand(case.t))
    return (case.advantage * squared(v - case.v_gt)).mean()


@correct("awm", prediction="epsilon")
def noise_weighted_by_time(case: Case) -> Tensor:
    """The velocity's error is the noise's over 1 − t."""
    return (case.advantage * squared(case.noise_theta - case.noise) / (1 - case.t) ** 2).mean()


@correct("awm", prediction="epsilon")
def noise_to_velocity_by_the_data(case: Case) -> Tensor:
    """As schedulers do that give back the predicted clean latent: near data it costs digits."""
    t = case.expand(case.t)
    x_0_hat = (case.x_t - t * case.noise_theta) / (1 - t)
    return (case.advantage * squared((case.x_t - x_0_hat) / t - case.v_gt)).mean()


@correct("awm", prediction="x0")
def data_to_velocity_by_the_noise(case: Case) -> Tensor:
    t = case.expand(case.t)
    noise_hat = (case.x_t - (1 - t) * case.x_0_theta) / t
    return (case.advantage * squared(noise_hat - case.x_0_theta - (case.noise - case.x_0))).mean()


@correct("awm", prediction="epsilon", noise_at=0, clip="ppo", omega="t", reduction="mean")
def noise_in_rising_time(case: Case) -> Tensor:
    t = case.expand(case.t)
    x_t = t * case.x_0 + (1 - t) * case.noise

    def log_density(noise: Tensor) -> Tensor:
        v = (x_t - noise) / t
        return -(1 - case.t) * (v - (case.x_0 - case.noise)).square().flatten(1).mean(1)

    log_ratio = log_density(case.noise_theta) - log_density(case.noise_old)
    return ppo(log_ratio.exp(), case.advantage, case).mean()


@correct("fpo", noise_at=0)
def velocities_in_rising_time(case: Case) -> Tensor:
    old, new = (squared(v - (case.x_0 - case.noise)) for v in (case.v_old, case.v_theta))
    return ppo(torch.exp(old - new), case.advantage, case).mean()


@correct("diffusion_nft", prediction="x0", weighting="adaptive", reduction="mean")
def contrast_of_clean_latents(case: Case) -> Tensor:
    """The mixtures of predictions are predictions of the mixtures, so no velocity is needed."""
    b, r = case.beta, case.reward_prob
    total = 0.0
    for sign, share in ((1, r), (-1, 1 - r)):
        error = (1 - sign * b) * case.x_0_old + sign * b * case.x_0_theta - case.x_0
        weight = error.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        total = total + share * error.square().flatten(1).mean(1) / weight
    return (total / b).mean()


@correct("diffusion_dpo", prediction="epsilon")
def pairs_of_noises(case: Case) -> Tensor:
    gap = (squared(case.noise_theta - case.noise) - squared(case.noise_ref - case.noise)) / (1 - case.t) ** 2
    margin = -case.beta_dpo * case.preference * (gap - case.partner_gap)
    return -torch.nn.functional.logsigmoid(margin).mean()


@correct("diffusion_dpo", prediction="epsilon", error_space="output", reduction="mean")
def pairs_of_noises_as_published(case: Case) -> Tensor:
    """The authors' own loss, for networks that predict noise: no sample counts by its time."""
    gap = (case.noise_theta - case.noise).square() - (case.noise_ref - case.noise).square()
    margin = -case.beta_dpo * case.preference * (gap.flatten(1).mean(1) - case.partner_gap)
    return -torch.nn.functional.logsigmoid(margin).mean()


@correct("awm", prediction="x0", error_space="output", clip="ppo", omega="t", noise_at=0)
def clean_latents_in_rising_time(case: Case) -> Tensor:
    old, new = (squared(x - case.x_0) for x in (case.x_0_old, case.x_0_theta))
    return ppo(torch.exp((1 - case.t) * (old - new)), case.advantage, case).mean()


# ----------------------------------------------------------------------------------- the backward process


@correct("flow_grpo", prediction="epsilon", sde="cps", **MEAN)
def coefficients_preserved(case: Case) -> Tensor:
    t, t_prev = column(case.t, case.x_t), column(case.t_prev, case.x_t)
    std = t_prev * math.sin(case.noise_level * math.pi / 2)

    def mean(noise: Tensor) -> Tensor:
        x_0_hat = (case.x_t - t * noise) / (1 - t)
        return (1 - t_prev) * x_0_hat + torch.sqrt(t_prev**2 - std**2) * noise

    return ppo(ratio(case, mean(case.noise_theta), mean(case.noise_old), std), case.advantage, case).mean()


@correct("flow_grpo", prediction="epsilon", **MEAN)
def score_from_the_noise(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))

    def mean(noise: Tensor) -> Tensor:
        velocity, score = (noise - case.x_t) / (1 - t), -noise / t
        return case.x_t - (velocity - sigma**2 / 2 * score) * dt

    return ppo(
        ratio(case, mean(case.noise_theta), mean(case.noise_old), sigma * dt.sqrt()), case.advantage, case
    ).mean()


@correct("flow_grpo", noise_at=0, **MEAN)
def step_in_rising_time(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.t_prev - case.t)
    sigma = case.noise_level * torch.sqrt((1 - t) / t)

    def mean(v: Tensor) -> Tensor:
        score = (t * v - case.x_t) / (1 - t)
        return case.x_t + (v + sigma**2 / 2 * score) * dt

    return ppo(ratio(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt()), case.advantage, case).mean()


@correct("grpo_guard", prediction="x0", noise_at=0, sde="dance", **MEAN)
def corrected_ratio_of_clean_latents(case: Case) -> Tensor:
    t, dt = 1 - case.expand(case.t), case.expand(case.dt)
    std = case.noise_level * dt.sqrt()

    def mean(x_0: Tensor) -> Tensor:
        velocity = (case.x_t - x_0) / t
        return case.x_t - dt * (velocity + case.noise_level**2 / (2 * t) * (case.x_t + (1 - t) * velocity))

    new, old = mean(case.x_0_theta), mean(case.x_0_old).detach()
    shift = ((case.x_prev - old) ** 2 - (case.x_prev - new) ** 2 + (new - old) ** 2) / (2 * std**2)
    corrected = torch.exp(shift.flatten(1).mean(1) * std.flatten())
    return (ppo(corrected, case.advantage, case) / case.dt).mean()


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
