r"""REINFORCE by hand: Williams, Machine Learning 8, 1992; DDPO-SF of Black et al., arXiv:2305.13301, on a flow."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import expand, gaussian_log_prob, latent_reduce, sde_step

__all__ = ["loss"]


def loss(
    case: Case,
    *,
    sde: str = "flow",
    log_prob_reduction: str = "sum",
    log_prob_scale: str = "gaussian",
    kl: str = "none",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    sigma_min = case.sigma_min if sde == "wan" else None

    def step(v: Tensor) -> tuple[Tensor, Tensor]:
        return sde_step(sde, v, case.x_t, case.t, case.dt, case.noise_level, sigma_min)

    mean, std = step(case.v_theta)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction, log_prob_scale)
    policy_loss = -case.advantage * log_prob
    if kl == "none":
        return policy_loss
    with torch.no_grad():
        mean_ref, _ = step(case.v_ref)
    variance = std**2 if kl == "step" else std**2 / expand(case.dt, std)
    return policy_loss + case.kl_weight * latent_reduce((mean - mean_ref) ** 2 / (2 * variance), log_prob_reduction)
