"""The hinge by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import latent_reduce


def loss(case: Case, *, reduction: str = "sum") -> Tensor:
    """Per-sample loss, shape (B,)."""
    error = latent_reduce((case.v_theta - (case.noise - case.x_0)) ** 2, reduction)
    longer = case.v_theta.flatten(1).norm(dim=1) - case.v_ref.flatten(1).norm(dim=1)
    return case.advantage * error + case.kl_weight * torch.relu(longer)
