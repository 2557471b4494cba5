r"""A step as evidence: its tensors in float64 on the CPU, and whether a prediction is what was observed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.watching.dense import MOST, as_rows, dense_case, required_at
from gradcheck.watching.given import Given
from gradcheck.watching.precision import Precision
from gradcheck.watching.problem import StepProblem

__all__ = ["Evidence", "evidence_of"]


@dataclass(frozen=True)
class Evidence:
    r"""A step in float64 on the CPU.

    Attributes:
        conventions: the declaration, with the precision that the loss works in.
        given: the call, of the same samples.
        case: (B, D).
        observed: the gradient without the constants: what the declared loss's autograd would have given.
        required: the derived one, and ``bound``: the largest difference that passes.
        precision: of the step.
    """

    conventions: Conventions
    given: Given
    case: Case
    observed: Tensor
    required: Tensor
    bound: Tensor
    precision: Precision

    def fits(self, predicted: Tensor) -> bool:
        """Whether a prediction is the observed gradient, and the required one is not."""
        if not bool(predicted.isfinite().all()):
            return False
        size = predicted.norm(dim=1, keepdim=True)
        own = 64 * unit_roundoff(self.precision.loss) * size / size.new_tensor(predicted.shape[1]).sqrt()
        allowed = self.bound + 2 * self.precision.unit * predicted.abs() + own
        return bool(((predicted - self.observed).abs() <= allowed).all())


def evidence_of(
    problem: StepProblem, given: Given, gradient: Tensor, constant: float, precision: Precision
) -> Evidence:
    """The step's tensors, as far as they are needed, without changing them."""
    batch = given.batch
    size = gradient[0].numel()
    keep = torch.zeros(batch, dtype=torch.bool)
    keep[: max(1, min(batch, MOST // size))] = True
    # the loss averages over the whole batch, also where a part of it is looked at
    share = batch / int(keep.sum()) if problem.conventions.batch_reduction == "mean" else 1.0
    case = dense_case(problem, keep)
    conventions, wanted = required_at(problem, case, precision)
    own = replace(
        given,
        output=as_rows(given.output[keep.to(given.output.device)]),
        latents={name: as_rows(x[keep.to(x.device)]) for name, x in given.latents.items()},
        samples={name: x[keep] for name, x in given.samples.items()},
        live={},
    )
    observed = as_rows(gradient[keep.to(gradient.device)]) / constant * share
    required, scale = wanted.gradient, wanted.scale
    bound = THRESHOLD * unit_roundoff(wanted.dtype) * scale
    return Evidence(conventions, own, case, observed, required, bound, precision)
