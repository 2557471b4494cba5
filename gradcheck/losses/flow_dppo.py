r"""Flow-DPPO's loss by hand: the ratio's clip replaced by a bound on the steps' divergence."""

from __future__ import annotations

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
    sampler_step,
)

__all__ = ["loss"]


def loss(case: Case, *, sde: Step = "flow", log_prob_reduction: Reduction = "sum", kl: Kl = "none") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    step = sampler_step(case, sde)
    mean, std = step(case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case.v_old)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction)
    ratio = torch.exp(gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction) - log_prob_old)
    with torch.no_grad():
        away = ((case.advantage > 0) & (ratio > 1)) | ((case.advantage < 0) & (ratio < 1))
        divergence = latent_reduce((mean - mean_old) ** 2 / (2 * std**2), log_prob_reduction)
        trains = ~(away & (divergence > case.divergence_max))
    policy_loss = -case.advantage * ratio * trains
    return held_to_reference(policy_loss, case, kl, step, mean, std, log_prob_reduction)
