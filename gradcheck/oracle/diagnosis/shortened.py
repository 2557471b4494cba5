r"""A gradient that was shortened on its way back: each number clamped, or a length scaled down to a limit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence, lengths, plain, rows_of
from gradcheck.oracle.judge import Judge

__all__ = ["shortened"]

_FEW = 2
"""Numbers, or lengths, that have to lie on a limit, and others below it, before it is told as one."""


def shortened(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """The required gradient, cut off at one number throughout: in each coordinate, sample or batch."""
    usable = [e for e in evidence if e.slack == 1 and bool(e.observed.isfinite().all()) and not bool(e.undecided.any())]
    if not any(bool(e.wrong.any()) for e in usable):
        return None
    for what, size in (
        ("each of its numbers is clamped to ±{c}", torch.abs),
        ("each sample's is scaled down to a length of at most {c}", lambda x: lengths(x)[:, None]),
        ("each batch's is scaled down to a length of at most {c}", lambda x: lengths(x.reshape(1, -1))[:, None]),
    ):
        limit = _limit(usable, size)
        if limit is not None:
            cause = f"the gradient is cut off on its way back: {what.format(c=f'{limit:g}')}"
            return Diagnosis("gradient-shortened", f"{cause}; gradients are clipped after the loss, if at all")
    return None


def _limit(evidence: list[Evidence], size: Callable[[Tensor], Tensor]) -> float | None:
    """The largest size that is seen, if every required gradient is cut off there and nothing else is wrong."""
    largest = max(float(size(rows_of(e.observed)).amax()) for e in evidence)
    on_it = below = 0
    for e in evidence:
        wanted, seen = rows_of(e.required), rows_of(e.observed)
        sizes = size(wanted)
        cut = wanted * (largest / sizes.clamp(min=1e-300)).clamp(max=1)
        if bool((lengths(seen - cut) > e.equal * lengths(seen) + e.rounding).any()):
            return None
        on_it += int((sizes > largest).sum())
        below += int(((sizes < largest) & (sizes > 0)).sum())
    return plain(largest, 1e-6) if min(on_it, below) >= _FEW else None
