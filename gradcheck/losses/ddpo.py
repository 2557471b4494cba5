r"""DDPO's loss by hand: Black et al., arXiv:2305.13301, on the DDIM step of Song et al.; DPOK's KL term."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import ddim_step, gaussian_log_prob, latent_reduce, ppo_loss

__all__ = ["loss"]


def loss(case: Case, *, log_prob_reduction: str = "sum", kl: str = "none") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    schedule = (case.alpha_bar, case.alpha_bar_prev, case.noise_level)
    mean, std = ddim_step(case.v_theta, case.x_t, *schedule)
    with torch.no_grad():
        mean_old, _ = ddim_step(case.v_old, case.x_t, *schedule)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction)
    policy_loss = ppo_loss(torch.exp(log_prob - log_prob_old), case.advantage, case.clip_low, case.clip_high)
    if kl == "none":
        return policy_loss
    with torch.no_grad():
        mean_ref, _ = ddim_step(case.v_ref, case.x_t, *schedule)
    return policy_loss + case.kl_weight * latent_reduce((mean - mean_ref) ** 2 / (2 * std**2), log_prob_reduction)
