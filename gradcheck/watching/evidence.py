r"""A step as evidence: its tensors in float64 on the CPU, and whether a prediction is what was observed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradcheck.bounds import THRESHOLD, unit_roundoff
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.oracle.reference import reference
from gradcheck.watching.given import Given
from gradcheck.watching.judge import Precision
from gradcheck.watching.problem import StepProblem

__all__ = ["Evidence", "evidence_of"]

_MOST = 2**20
"""Numbers of one latent that are looked at for a cause; samples beyond are left out, but one is always there."""


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
    keep[: max(1, min(batch, _MOST // size))] = True
    some = problem.rows(keep)
    # the loss averages over the whole batch, also where a part of it is looked at
    share = batch / int(keep.sum()) if problem.conventions.batch_reduction == "mean" else 1.0
    case = Case(some.case.label, {k: _small(x) if isinstance(x, Tensor) else x for k, x in _items(some.case)})
    latents = {name: _small(x[keep.to(x.device)]) for name, x in given.latents.items()}
    samples = {name: x[keep] for name, x in given.samples.items()}
    own = replace(
        given, output=_small(given.output[keep.to(given.output.device)]), latents=latents, samples=samples, live={}
    )
    conventions = replace(
        problem.conventions, working_dtype=_name(precision.loss), output_dtype=_name(precision.output)
    )
    observed = _small(gradient[keep.to(gradient.device)]) / constant * share
    wanted = reference(conventions, case)
    required, scale = wanted.gradient, wanted.scale
    bound = THRESHOLD * unit_roundoff(wanted.dtype) * scale
    return Evidence(conventions, own, case, observed, required, bound, precision)


def _name(dtype: torch.dtype | None) -> str | None:
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _items(case: Case) -> list[tuple[str, Tensor | float]]:
    return [(name, getattr(case, name)) for name in case.names]


def _small(x: Tensor) -> Tensor:
    y = x.detach().to("cpu", torch.float64)
    return y.reshape(y.shape[0], -1) if y.ndim > 1 else y
