r"""DiffusionNFT's loss by hand: arXiv:2509.16117, Eq. 5, and the authors' adaptive weighting."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference, expand, latent_reduce
from gradcheck.losses._forward import held

__all__ = ["loss"]

Mode = Literal["none", "all", "positive_only", "negative_only", "one_only", "binary"]


def loss(
    case: Case,
    *,
    reduction: Reduction = "sum",
    weighting: Literal["none", "adaptive"] = "none",
    advantage_mode: Mode = "none",
    reference: Reference = "off",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    v_old, beta, r = case.v_old.detach(), case.beta, _optimality(case, advantage_mode)
    v_plus = (1 - beta) * v_old + beta * case.v_theta
    v_minus = (1 + beta) * v_old - beta * case.v_theta
    if weighting == "adaptive":
        t = expand(case.t, v_old)
        x_t = (1 - t) * case.x_0 + t * case.noise
        positive = _weighted_error(x_t - t * v_plus, case.x_0, reduction)
        negative = _weighted_error(x_t - t * v_minus, case.x_0, reduction)
        policy_loss = (r * positive + (1 - r) * negative) / beta
    else:
        v_gt = case.noise - case.x_0
        positive = latent_reduce((v_plus - v_gt) ** 2, reduction)
        negative = latent_reduce((v_minus - v_gt) ** 2, reduction)
        policy_loss = r * positive + (1 - r) * negative
    return held(policy_loss, case, reduction, reference)


def _optimality(case: Case, mode: Mode) -> Tensor:
    if mode == "none":
        return case.reward_prob
    a, c = case.advantage, case.advantage_clip
    if mode == "positive_only":
        a = torch.clamp(a, 0, c)
    elif mode == "negative_only":
        a = torch.clamp(a, -c, 0)
    elif mode == "one_only":
        a = torch.where(a > 0, torch.ones_like(a), torch.zeros_like(a))
    elif mode == "binary":
        a = torch.sign(a)
    return torch.clamp(a / c / 2 + 0.5, 0, 1)


def _weighted_error(x_0_hat: Tensor, x_0: Tensor, reduction: Reduction) -> Tensor:
    with torch.no_grad():
        weight = (x_0_hat - x_0).abs().flatten(1).mean(1).clamp(min=1e-5)
    return latent_reduce((x_0_hat - x_0) ** 2, reduction) / weight
