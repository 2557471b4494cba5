"""What the losses of the ranks share, as trainers write it."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case

__all__ = [
    "AWM",
    "GRPO",
    "LOG_RATIO",
    "PPO",
    "gap",
    "log_prob",
    "log_ratio",
    "mean",
    "mse",
    "over_mask",
    "ppo",
    "ratio",
    "step",
]

GRPO = {"algorithm": "flow_grpo", "log_prob_reduction": "mean", "clip_range": 0.2}
AWM = {"algorithm": "awm", "reduction": "mean"}
LOG_RATIO = "l = mean((x_prev-mean_old)**2 - (x_prev-mean_theta)**2)/(2*C2**2); ratio = exp(l); "
PPO = "-min(ratio*A, clip(ratio, 0.8, 1.2)*A)"


def mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def mse(a: Tensor, b: Tensor) -> Tensor:
    return mean((a - b) ** 2)


def over_mask(c: Case, x: Tensor) -> Tensor:
    return (x * c.mask).flatten(1).sum(1) / c.mask.flatten(1).sum(1)


def gap(c: Case) -> Tensor:
    return mse(c.v_theta, c.v_gt) - mse(c.v_ref, c.v_gt)


def step(c: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a Flow-SDE step."""
    t, dt = c.expand(c.t), c.expand(c.dt)
    sigma = c.noise_level * torch.sqrt(t / (1 - t))
    mu = c.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return mu, sigma * dt.sqrt()


def log_prob(c: Case, v: Tensor) -> Tensor:
    """The mean over the latent; of rows of steps one for each step."""
    mu, std = step(c, v)
    axes = c.t.ndim
    return (-((c.x_prev - mu) ** 2) / (2 * std**2)).flatten(axes).mean(axes)


def log_ratio(c: Case) -> Tensor:
    return log_prob(c, c.v_theta) - log_prob(c, c.v_old)


def ratio(c: Case) -> Tensor:
    return log_ratio(c).exp()


def ppo(a: Tensor, r: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    return torch.maximum(-a * r, -a * r.clamp(1 - low, 1 + high))
