r"""Diffusion-DPO by hand: Wallace et al., arXiv:2311.12908, Eq. 14, with velocities where it has noise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradcheck.case import Case
from gradcheck.losses._common import latent_reduce

__all__ = ["loss"]


def loss(case: Case, *, reduction: str = "sum") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``; the value is that of the sample's pair."""
    velocity = case.noise - case.x_0
    with torch.no_grad():
        error_ref = latent_reduce((case.v_ref - velocity) ** 2, reduction)
    gap = latent_reduce((case.v_theta - velocity) ** 2, reduction) - error_ref
    won = case.preference > 0
    winner, loser = torch.where(won, gap, case.partner_gap), torch.where(won, case.partner_gap, gap)
    return -logsigmoid(-case.beta_dpo * (winner - loser))
