r"""REINFORCE by hand: Williams, Machine Learning 8, 1992; DDPO-SF of Black et al., arXiv:2305.13301, on a flow."""

from __future__ import annotations

from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Kl, Reduction, Scale, Step, gaussian_log_prob, held_to_reference, sampler_step

__all__ = ["loss"]


def loss(
    case: Case,
    *,
    sde: Step = "flow",
    log_prob_reduction: Reduction = "sum",
    log_prob_scale: Scale = "gaussian",
    kl: Kl = "none",
) -> Tensor:
    """Per-sample loss, shape (B,), differentiable in ``case.v_theta``."""
    step = sampler_step(case, sde)
    mean, std = step(case.v_theta)
    log_prob = gaussian_log_prob(case.x_prev, mean, std, log_prob_reduction, log_prob_scale)
    policy_loss = -case.advantage * log_prob
    return held_to_reference(policy_loss, case, kl, step, mean, std, log_prob_reduction)
