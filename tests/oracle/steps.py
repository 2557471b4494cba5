"""Right reverse steps, log-densities and surrogates, as trainers write them: what implementations here are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gradcheck.case import Case

MEAN = {"log_prob_reduction": "mean"}


def column(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def flow_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """diffusers' order: dt < 0, and the state's and the velocity's coefficients apart."""
    sigma, dt = column(case.t, v), column(case.t_prev - case.t, v)
    std_dev_t = torch.sqrt(sigma / (1 - sigma)) * case.noise_level
    mean = case.x_t * (1 + std_dev_t**2 / (2 * sigma) * dt) + v * (1 + std_dev_t**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, std_dev_t * torch.sqrt(-1 * dt)


def score_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """By way of the score and the drift."""
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * (t / (1 - t)) ** 0.5
    score = -(case.x_t + (1 - t) * v) / t
    return case.x_t - dt * (v - sigma**2 / 2 * score), sigma * dt**0.5


def dance_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """DanceGRPO's order: the Euler step first, the score's term after it."""
    sigma, dsigma = column(case.t, v), -column(case.dt, v)
    mean = case.x_t + dsigma * v
    score = -(case.x_t + (1 - sigma) * v) / sigma
    mean = mean - 0.5 * case.noise_level**2 * score * dsigma
    return mean, case.noise_level * torch.sqrt(-dsigma)


def cps_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    t, t_prev = column(case.t, v), column(case.t - case.dt, v)
    std = t_prev * math.sin(case.noise_level * math.pi / 2)
    x_0_hat, noise_hat = case.x_t - t * v, case.x_t + (1 - t) * v
    return x_0_hat * (1 - t_prev) + noise_hat * torch.sqrt(t_prev**2 - std**2), std


Step = Callable[[Case, Tensor], tuple[Tensor, Tensor]]


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - math.log(math.sqrt(2 * math.pi))


def mean_log_ratio(case: Case, step: Step) -> Tensor:
    mean, std = step(case, case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case, case.v_old)
    new, old = log_density(case.x_prev, mean, std), log_density(case.x_prev, mean_old, std)
    axes = tuple(range(1, new.ndim))
    return new.mean(axes) - old.mean(axes)


def ppo(ratio: Tensor, advantage: Tensor, case: Case) -> Tensor:
    unclipped = -advantage * ratio
    clipped = -advantage * torch.clamp(ratio, 1.0 - case.clip_low, 1.0 + case.clip_high)
    return torch.maximum(unclipped, clipped)


# as a diffusers scheduler with log-probabilities


def sde_step(case: Case, v: Tensor, kind: str = "flow") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation."""
    return (flow_step if kind == "flow" else dance_step)(case, v)


def step_with_log_prob(case: Case, v: Tensor, kind: str = "flow") -> tuple[Tensor, Tensor, Tensor]:
    mean, std = sde_step(case, v, kind)
    log_prob = log_density(case.x_prev, mean, std)
    return log_prob.mean(dim=tuple(range(1, log_prob.ndim))), mean, std


def log_ratio_of(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    return log_prob - old_log_prob


def ppo_between(low: float, high: float, case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(1 - low, 1 + high)).mean()


def judged_with(case: Case, mean: Tensor, mean_old: Tensor, std: Tensor) -> Tensor:
    """The rest of the loss, right, for steps that are not."""
    log_prob = log_density(case.x_prev, mean, std).flatten(1).mean(1)
    old_log_prob = log_density(case.x_prev, mean_old.detach(), std).flatten(1).mean(1)
    return ppo(torch.exp(log_prob - old_log_prob), case.advantage, case).mean()
