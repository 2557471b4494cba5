"""The evidence: a few well-conditioned problems in float64, and what the implementation made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradcheck.bounds import THRESHOLD, unit_roundoff
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.reference import output_dtype, reference, working_dtype
from gradcheck.problems import Spec

__all__ = ["SHAPES", "Evidence", "explains", "lengths", "observe", "rows_of"]

SHAPES = ((4, (3, 5)), (6, (2, 3, 4)), (3, (13,)), (5, (2, 2, 5)), (4, (2, 3, 2, 3)))
"""Batch and latent of the problems, one after the other."""


_EQUAL = 1e-8
"""Relative distance below which two gradients are one: far above rounding here, far below any two mistakes."""


@dataclass(frozen=True)
class Evidence:
    """One problem, and what the implementation made of it."""

    spec: Spec
    conventions: Conventions
    case: Case
    observed: Tensor
    required: Tensor
    scale: Tensor

    def fits(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Per sample: whether the observed gradient is the predicted one, and whether that could be judged."""
        seen, other = rows_of(self.observed), rows_of(predicted)
        judged = seen.isfinite().all(1) & other.isfinite().all(1)
        distance, size = lengths(seen - other), torch.maximum(lengths(seen), lengths(other))
        return ~judged | (distance <= self.equal * size + self.rounding), judged

    @cached_property
    def rounding(self) -> Tensor:
        """What rounding may leave of a gradient that should be 0, per sample."""
        unit = unit_roundoff(working_dtype(self.conventions, self.case))
        noise = THRESHOLD * unit * lengths(rows_of(self.scale).nan_to_num(0.0, 0.0, 0.0))
        return noise + 1e3 * unit * float(lengths(rows_of(self.required)).amax())

    @cached_property
    def equal(self) -> float:
        """Relative distance below which two gradients are one."""
        out = output_dtype(self.conventions)
        rounded = 0.0 if out is None else 4 * unit_roundoff(out)
        return max(_EQUAL, 64 * unit_roundoff(working_dtype(self.conventions, self.case)), rounded)

    @cached_property
    def wrong(self) -> Tensor:
        """Samples that call for an explanation."""
        same, judged = self.fits(self.required)
        return judged & ~same


def rows_of(x: Tensor) -> Tensor:
    r"""(B, \*latent) as float64 rows (B, D) on the CPU."""
    return x.detach().to("cpu", torch.float64).flatten(1)


def lengths(rows: Tensor) -> Tensor:
    """Length of each row, (B,), without overflow."""
    largest = rows.abs().amax(1, keepdim=True).clamp(min=1e-300)
    length: Tensor = torch.linalg.vector_norm(rows / largest, dim=1) * largest[:, 0]
    return length


def observe(judge: Judge, i: int, policies: tuple[str, ...], advantage: str) -> Evidence:
    """The i-th problem, and what the implementation makes of it."""
    batch, latent = SHAPES[i % len(SHAPES)]
    clip = 1 if "clip_low" not in judge.conventions.fixed else 0  # an asymmetric one tells its edges apart
    mixed = "mixed" if advantage == "typical" and i % 2 else advantage
    policy = policies[i % len(policies)]
    spec = Spec(batch, latent, seed=7_000 + i, policy=policy, advantage=mixed, time="middle", clip=clip)
    case = judge.case(spec)
    wanted = reference(judge.conventions, case)
    return Evidence(spec, judge.conventions, case, judge.observe(case).gradient, wanted.gradient, wanted.scale)


def explains(evidence: list[Evidence], predict: Callable[[Evidence], Tensor]) -> bool:
    """Whether a hypothesis predicts every sample that can be judged, among them at least half of the wrong ones."""
    explained, wrong = 0, sum(int(e.wrong.sum()) for e in evidence)
    for e in evidence:
        same, judged = e.fits(predict(e))
        if not bool(same.all()):
            return False
        explained += int((e.wrong & judged).sum())
    return 2 * explained >= wrong
