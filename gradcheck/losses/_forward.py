r"""What the hand-written forward-process losses share: the reference term, and the gap that preferences are about."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference, latent_reduce

__all__ = ["error_gap", "held"]


def held(policy_loss: Tensor, case: Case, reduction: Reduction, reference: Reference) -> Tensor:
    """The policy's loss (B,), and with ``reference="on"`` the squared distance to the reference velocity."""
    if reference == "off":
        return policy_loss
    return policy_loss + case.kl_weight * latent_reduce((case.v_theta - case.v_ref) ** 2, reduction)


def error_gap(case: Case, other: Tensor, reduction: Reduction) -> Tensor:
    """How much worse than the other velocity, (B, \\*latent), the trained model's fits the sample, (B,)."""
    velocity = case.noise - case.x_0
    with torch.no_grad():
        error_other = latent_reduce((other - velocity) ** 2, reduction)
    return latent_reduce((case.v_theta - velocity) ** 2, reduction) - error_other
