r"""The equivalent loss of a derivation: ``weight · ‖v_theta − sg(target)‖²``."""

from __future__ import annotations

import torch
from torch import Tensor

from derivations.derivation import Derivation
from gradcheck.case import Case
from gradcheck.compiled import evaluate

__all__ = ["equivalent_loss", "squared_distance", "target"]


def target(derivation: Derivation, case: Case) -> tuple[Tensor, Tensor]:
    r"""Where the loss pulls the velocity, and how hard.

    Returns:
        The weight, (B, 1, …, 1), and the target, (B, \*latent), both detached.
    """
    with torch.no_grad():
        weight, point = evaluate(derivation, case, derivation.weight, derivation.target)
    column = (case.v_theta.shape[0], *(1,) * (case.v_theta.ndim - 1))
    return weight.expand(column), point.expand(case.v_theta.shape)


def equivalent_loss(derivation: Derivation, case: Case) -> Tensor:
    """Per-sample loss, shape (B,), whose gradient in ``case.v_theta`` is the original loss's."""
    return squared_distance(case.v_theta, *target(derivation, case))


def squared_distance(v_theta: Tensor, weight: Tensor, point: Tensor) -> Tensor:
    """``weight · ‖v_theta − sg(point)‖²`` for each sample, shape (B,)."""
    return (weight.detach() * (v_theta - point.detach()) ** 2).flatten(1).sum(1)
