r"""Diffusion-DPO by hand: Wallace et al., arXiv:2311.12908, Eq. 14, with velocities where it has noise."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference
from gradcheck.losses._forward import error_gap, held

__all__ = ["loss"]


def loss(
    case: Case,
    *,
    reduction: Reduction = "sum",
    anchor: Literal["reference", "behaviour"] = "reference",
    reference: Reference = "off",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``; the value is that of the sample's pair."""
    gap = error_gap(case, case.v_ref if anchor == "reference" else case.v_old, reduction)
    won = case.preference > 0
    winner, loser = torch.where(won, gap, case.partner_gap), torch.where(won, case.partner_gap, gap)
    return held(-logsigmoid(-case.beta_dpo * (winner - loser)), case, reduction, reference)
