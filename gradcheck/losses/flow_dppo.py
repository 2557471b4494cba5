r"""Flow-DPPO's loss by hand: the ratio's clip replaced by a bound on the steps' divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import gaussian_log_prob, latent_reduce, sde_step

__all__ = ["loss"]


def loss(case: Case, *, sde: str = "flow", log_prob_reduction: str = "sum", kl: str = "none") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    sigma_min = case.sigma_min if sde == "wan" else None

    def step(v: Tensor) -> tuple[Tensor, Tensor]:
        return sde_step(sde, v, case.x_t, case.t, case.dt, case.noise_level, sigma_min)

    def divergence(other: Tensor, variance: Tensor) -> Tensor:
        return latent_reduce((mean - other) ** 2 / (2 * variance), log_prob_reduction)

    mean, std = step(case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case.v_old)
        log_prob_old = gaussian_log_prob(case.x_prev, mean_old, std, log_prob_reduction)
    ratio = torch.exp(gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction) - log_prob_old)
    with torch.no_grad():
        away = ((case.advantage > 0) & (ratio > 1)) | ((case.advantage < 0) & (ratio < 1))
        trains = ~(away & (divergence(mean_old, std**2) > case.divergence_max))
    policy_loss = -case.advantage * ratio * trains
    if kl == "none":
        return policy_loss
    with torch.no_grad():
        mean_ref, _ = step(case.v_ref)
    variance = std**2 if kl == "step" else std**2 / case.expand(case.dt)
    return policy_loss + case.kl_weight * divergence(mean_ref, variance)
