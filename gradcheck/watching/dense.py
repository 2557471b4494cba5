r"""Some samples of a step in float64 on the CPU, and the oracle's own requirement of them.

The analysis in chunks bounds what the loss's formula loses.  The oracle allows for more that right code does: times
that are differences of others, small numbers in denominators, squared distances to a target.  That needs whole latents,
so that it is looked at only where the chunks' bound is passed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.devices import HalfName, dtype_name
from gradcheck.oracle.required import Required, overall_factor, required_of
from gradcheck.problems.building import complete
from gradcheck.rounding.compare import Comparison
from gradcheck.watching.precision import Precision
from gradcheck.watching.problem import StepProblem

__all__ = ["MOST", "as_rows", "dense_case", "densely", "required_at"]

MOST = 2**20
"""Numbers of one latent that are looked at together; one sample is, however large."""
_LARGEST = 2**24


def as_rows(x: Tensor) -> Tensor:
    r"""(B, \*latent) as (B, D), in float64 on the CPU; (B,) as it is."""
    y = x.detach().to("cpu", torch.float64)
    return y.reshape(y.shape[0], -1) if y.ndim > 1 else y


def dense_case(problem: StepProblem, keep: Tensor) -> Case:
    """The chosen samples, with all that follows from what is given; latents of shape (B, D)."""
    some = problem.rows(keep).case
    values = {name: getattr(some, name) for name in some.names}
    return complete(problem.derivation, {k: as_rows(x) if isinstance(x, Tensor) else x for k, x in values.items()})


def required_at(problem: StepProblem, case: Case, precision: Precision) -> tuple[Conventions, Required]:
    """The declaration with the step's precisions, and what it requires."""
    output = None if precision.output is None else cast(HalfName, dtype_name(precision.output))
    conventions = replace(problem.conventions, working_dtype=dtype_name(precision.loss), output_dtype=output)
    return conventions, required_of(conventions, case)


def densely(
    problem: StepProblem, gradient: Tensor, precision: Precision, factor: float, rows: Tensor
) -> list[tuple[Tensor, Comparison]] | None:
    """Compare the chosen samples with the oracle's requirement.

    Args:
        problem, gradient, precision: the step's.
        factor: by which the required gradient is multiplied, batch average and all.
        rows: numbers of the samples.

    Returns:
        Samples and their comparison, block by block; ``None`` where a sample is too large for that, or one fails.
    """
    size = gradient[0].numel()
    if size > _LARGEST:
        return None
    out = []
    for some in rows.split(max(1, MOST // size)):
        keep = torch.zeros(gradient.shape[0], dtype=torch.bool)
        keep[some] = True
        case = dense_case(problem, keep)
        conventions, wanted = required_at(problem, case, precision)
        observed = as_rows(gradient[keep.to(gradient.device)]) * (overall_factor(conventions, case) / factor)
        found = wanted.compare(observed)
        if not found.holds:
            return None
        out.append((some, found))
    return out
