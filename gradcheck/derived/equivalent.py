r"""The equivalent loss of a derivation: ``weight · ‖output − sg(target)‖²``."""

from __future__ import annotations

import torch
from torch import Tensor

from derivations.derivation import Derivation
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate

__all__ = ["equivalent_loss", "squared_distance", "target"]


def target(derivation: Derivation, case: Case) -> tuple[Tensor, Tensor]:
    r"""Where the loss pulls the network's output, and how hard.

    Returns:
        The weight, (B, 1, …, 1), and the target, (B, \*latent), both detached.
    """
    with torch.no_grad():
        weight, point = evaluate(derivation, case, derivation.weight, derivation.target)
    column = (case.output.shape[0], *(1,) * (case.output.ndim - 1))
    return weight.expand(column), point.expand(case.output.shape)


def equivalent_loss(derivation: Derivation, case: Case) -> Tensor:
    """Per-sample loss, shape (B,), whose gradient in ``case.output`` is the original loss's."""
    return squared_distance(case.output, *target(derivation, case))


def squared_distance(output: Tensor, weight: Tensor, point: Tensor) -> Tensor:
    """``weight · ‖output − sg(point)‖²`` for each sample, shape (B,)."""
    return (weight.detach() * (output - point.detach()) ** 2).flatten(1).sum(1)
