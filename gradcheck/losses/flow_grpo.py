r"""Flow-GRPO's loss by hand: Liu et al., arXiv:2505.05470, Eq. 4–8, and DanceGRPO, arXiv:2505.07818."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import (
    Kl,
    Reduction,
    Scale,
    Step,
    gaussian_log_prob,
    held_to_reference,
    ppo_loss,
    sampler_step,
)

__all__ = ["loss"]


def loss(
    case: Case,
    *,
    sde: Step = "flow",
    log_prob_reduction: Reduction = "sum",
    log_prob_scale: Scale = "gaussian",
    kl: Kl | Literal["behaviour"] = "none",
    time_weight: Literal["none", "noise", "window"] = "none",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    step = sampler_step(case, sde)
    mean, std = step(case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case.v_old)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction, log_prob_scale)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction, log_prob_scale)
    ratio = torch.exp(log_prob - log_prob_old)
    policy_loss = ppo_loss(ratio, case.advantage, case.clip_low, case.clip_high)
    if time_weight == "noise":
        policy_loss = std.flatten() / case.noise_norm * policy_loss
    inside = case.window if time_weight == "window" else torch.ones_like(policy_loss)
    if kl == "behaviour":
        penalty = 0.5 * (log_prob - log_prob_old) ** 2
        return inside * (policy_loss + penalty * case.kl_weight)
    return inside * held_to_reference(policy_loss, case, kl, step, mean, std, log_prob_reduction)
