r"""DDPO's loss by hand: Black et al., arXiv:2305.13301, on the DDIM step of Song et al.; DPOK's KL term."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, ddim_step, gaussian_log_prob, held_to_reference, ppo_loss

__all__ = ["loss"]


def loss(case: Case, *, log_prob_reduction: Reduction = "sum", kl: Literal["none", "step"] = "none") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""

    def step(v: Tensor) -> tuple[Tensor, Tensor]:
        return ddim_step(v, case.x_t, case.alpha_bar, case.alpha_bar_prev, case.noise_level)

    mean, std = step(case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case.v_old)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction)
    policy_loss = ppo_loss(torch.exp(log_prob - log_prob_old), case.advantage, case.clip_low, case.clip_high)
    return held_to_reference(policy_loss, case, kl, step, mean, std, log_prob_reduction)
