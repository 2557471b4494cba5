r"""GRPO-Guard's loss by hand: arXiv:2510.22319 (RatioNorm, and the division by the step's length)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import (
    Kl,
    Reduction,
    Step,
    gaussian_log_prob,
    held_to_reference,
    latent_reduce,
    ppo_loss,
    sampler_step,
)

__all__ = ["loss"]


def loss(
    case: Case,
    *,
    sde: Step = "flow",
    log_prob_reduction: Reduction = "sum",
    kl: Kl = "none",
    time_weight: Literal["none", "window"] = "none",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    step = sampler_step(case, sde)
    mean, std = step(case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case.v_old)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction)
    bias = latent_reduce((mean - mean_old) ** 2 / (2 * std**2), log_prob_reduction)
    ratio = torch.exp((log_prob - log_prob_old + bias) * std.flatten())
    policy_loss = ppo_loss(ratio, case.advantage, case.clip_low, case.clip_high) / case.dt
    inside = case.window if time_weight == "window" else torch.ones_like(policy_loss)
    return inside * held_to_reference(policy_loss, case, kl, step, mean, std, log_prob_reduction)
