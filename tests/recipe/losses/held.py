"""The bounded and detached importance weight by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, gaussian_log_prob, held_to_reference, sampler_step


def loss(case: Case, *, log_prob_reduction: Reduction = "sum", kl: str = "none") -> Tensor:
    """Per-sample loss, shape (B,)."""
    step = sampler_step(case, "flow")
    mean, std = step(case.v_theta)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction)
    with torch.no_grad():
        mean_old, _ = step(case.v_old)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction)
        weight = torch.exp(log_prob - log_prob_old).clamp(max=1 + case.clip_high)
    return held_to_reference(-weight * case.advantage * log_prob, case, kl, step, mean, std, log_prob_reduction)
