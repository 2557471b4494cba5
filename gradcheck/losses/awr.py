r"""Advantage-weighted regression by hand: Peng et al., arXiv:1910.00177, with flow matching as its regression."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference, latent_reduce
from gradcheck.losses._forward import held

__all__ = ["loss"]


def loss(case: Case, *, reduction: Reduction = "sum", reference: Reference = "off") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    error = latent_reduce((case.v_theta - (case.noise - case.x_0)) ** 2, reduction)
    weight = torch.clamp(torch.exp(case.advantage / case.temperature), max=case.weight_max)
    return held(weight * error, case, reduction, reference)
