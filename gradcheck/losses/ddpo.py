r"""DDPO's loss by hand: Black et al., arXiv:2305.13301, on the DDIM step of Song et al., arXiv:2010.02502."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import ddim_step, gaussian_log_prob, ppo_loss

__all__ = ["loss"]


def loss(case: Case, *, log_prob_reduction: str = "sum") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    schedule = (case.alpha_bar, case.alpha_bar_prev, case.noise_level)
    mean, std = ddim_step(case.v_theta, case.x_t, *schedule)
    with torch.no_grad():
        mean_old, _ = ddim_step(case.v_old, case.x_t, *schedule)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction)
    return ppo_loss(torch.exp(log_prob - log_prob_old), case.advantage, case.clip_low, case.clip_high)
