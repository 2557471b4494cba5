r"""Flow policy optimisation by hand: McAllister et al., arXiv:2507.21053, with one draw of noise and time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Reduction, Reference, expand, latent_reduce, ppo_loss
from gradcheck.losses._forward import held

__all__ = ["loss"]


def loss(
    case: Case,
    *,
    reduction: Reduction = "sum",
    reference: Reference = "off",
    error: Literal["velocity", "noise"] = "velocity",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    velocity = case.noise - case.x_0
    cfm = latent_reduce((case.v_theta - velocity) ** 2, reduction)
    with torch.no_grad():
        cfm_old = latent_reduce((case.v_old - velocity) ** 2, reduction)
    if error == "noise":
        cfm, cfm_old = _noise_error(case, case.v_theta, reduction), _noise_error(case, case.v_old, reduction).detach()
    policy_loss = ppo_loss(torch.exp(cfm_old - cfm), case.advantage, case.clip_low, case.clip_high)
    return held(policy_loss, case, reduction, reference)


def _noise_error(case: Case, v: Tensor, reduction: Reduction) -> Tensor:
    """The squared error of the noise that a velocity makes of x_t, (B,)."""
    return latent_reduce((case.x_t + (1 - expand(case.t, v)) * v - case.noise) ** 2, reduction)
