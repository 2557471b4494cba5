r"""Reward-weighted regression by hand: Peters & Schaal, ICML 2007; Lee et al., arXiv:2302.12192."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference, latent_reduce
from gradcheck.losses._forward import held

__all__ = ["loss"]


def loss(
    case: Case,
    *,
    reduction: Reduction = "sum",
    reference: Reference = "off",
    weighting: Literal["exponential", "reward"] = "exponential",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    error = latent_reduce((case.v_theta - (case.noise - case.x_0)) ** 2, reduction)
    if weighting == "reward":
        weighted = case.reward * error
        return held(weighted, case, reduction, reference)
    return held(torch.exp(case.reward / case.temperature) * error, case, reduction, reference)
