r"""Flow policy optimisation by hand: McAllister et al., arXiv:2507.21053, with one draw of noise and time."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import latent_reduce, ppo_loss
from gradcheck.losses._forward import held

__all__ = ["loss"]


def loss(case: Case, *, reduction: str = "sum", reference: str = "off") -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    velocity = case.noise - case.x_0
    cfm = latent_reduce((case.v_theta - velocity) ** 2, reduction)
    with torch.no_grad():
        cfm_old = latent_reduce((case.v_old - velocity) ** 2, reduction)
    policy_loss = ppo_loss(torch.exp(cfm_old - cfm), case.advantage, case.clip_low, case.clip_high)
    return held(policy_loss, case, reduction, reference)
