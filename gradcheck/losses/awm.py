r"""Advantage-weighted matching by hand: Xue et al., 2025, plain and PPO-clipped as its authors ship it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference, latent_reduce, ppo_loss
from gradcheck.losses._forward import held

__all__ = ["loss"]

Omega = Literal["uniform", "t", "t2", "huber", "ghuber"]


def loss(
    case: Case,
    *,
    reduction: Reduction = "sum",
    clip: Literal["none", "ppo"] = "none",
    omega: Omega = "uniform",
    reference: Reference | Literal["elbo", "ema"] = "off",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    v_gt = case.noise - case.x_0
    error = latent_reduce((case.v_theta - v_gt) ** 2, reduction)
    if clip == "none":
        policy_loss = case.advantage * error
    else:
        with torch.no_grad():
            error_old = latent_reduce((case.v_old - v_gt) ** 2, reduction)
        log_ratio = _log_prob(error, case, omega) - _log_prob(error_old, case, omega)
        policy_loss = ppo_loss(torch.exp(log_ratio), case.advantage, case.clip_low, case.clip_high)
    if reference == "elbo":
        sigma = case.noise_level * torch.sqrt(case.t / (1 - case.t))
        divergence = latent_reduce((case.v_theta - case.v_ref) ** 2, reduction) / (2 * sigma**2)
        return policy_loss + case.kl_weight * divergence
    if reference == "ema":
        return policy_loss + case.kl_weight * latent_reduce((case.v_theta - case.v_old) ** 2, reduction)
    return held(policy_loss, case, reduction, reference)


def _log_prob(error: Tensor, case: Case, omega: Omega) -> Tensor:
    if omega == "uniform":
        return -error
    if omega == "t":
        return -error * case.t
    if omega == "t2":
        return -error * case.t**2
    if omega == "huber":
        return -(torch.sqrt(error + 1e-10) - 1e-5) * case.t
    return -((error + 1e-10) ** 0.25 - 1e-10**0.25) * case.t / 0.25
