r"""Unveil for a loss that somebody has stated: is the code's gradient the stated one, on batches as they are declared?

A loss on pairs, groups or rows of steps, with guided velocities, for one rank of latents or for one time, is looked at
as its trainer holds it.  Where its gradient is the derived one on every problem tried, up to one constant factor, what
the derivation proves is known of it too: gradient, weight, target and clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.arrangement import needs_presenting
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.required import required_of
from gradcheck.problems.regimes import Regimes
from gradcheck.reading.formulas import simple_number
from gradcheck.reading.xray import Direction, decompose, directions

__all__ = ["Stated", "held_apart", "state"]

_REGIMES: tuple[Regimes, ...] = (
    {},
    {"policy": "off", "time": "middle", "advantage": "typical"},
    {"policy": "off", "time": "middle", "advantage": "zero"},
)


@dataclass(frozen=True)
class Stated:
    """A loss beside its declaration.

    Attributes:
        problems: how many were looked at.
        factor: what multiplies the declared gradient throughout; ``None`` if it is another gradient.
        terms: if so, the gradient on the field's directions.
        residual: the largest part of a gradient that no direction explains, relative to its norm.
    """

    problems: int
    factor: sp.Expr | None
    terms: tuple[Direction, ...] = ()
    residual: float = 0.0


def held_apart(conventions: Conventions) -> bool:
    """Whether cases that hold every quantity of a process, sample by sample, are no cases of this declaration."""
    return bool(needs_presenting(conventions) or conventions.one_time or conventions.latent_axes or conventions.latents)


def state(function: Callable[[Case], Any], name: str, timeout: float, conventions: Conventions) -> Stated:
    """Compare with the declared gradient, on problems as they are declared.

    Raises:
        AdapterError: it raises on one, or returns no differentiable loss.
    """
    judge = Judge(Adapter(function, name, conventions.batch_reduction, timeout), conventions, max_examples=5)
    cases = [
        judge.case(spec) for seed, regime in enumerate(_REGIMES) for spec in replace(judge, seed=seed).specs(**regime)
    ]
    seen = [judge.observe(case).gradient for case in cases]
    factor = _factor(conventions, cases, seen)
    if factor is not None:
        declared = replace(conventions, factor=conventions.factor * float(factor))
        if all(required_of(declared, c).compare(g).holds for c, g in zip(cases, seen, strict=True)):
            return Stated(len(cases), factor)
    samples = [s for case, g in zip(cases, seen, strict=True) for s in decompose(case, g)]
    residual = max((s.residual for s in samples), default=0.0)
    return Stated(len(cases), None, tuple(directions(samples)), residual)


def _factor(conventions: Conventions, cases: Sequence[Case], seen: Sequence[Tensor]) -> sp.Expr | None:
    """The observed gradients' length along the required ones: a simple number, or none."""
    along = size = 0.0
    for case, gradient in zip(cases, seen, strict=True):
        wanted = required_of(conventions, case)
        decided = (~wanted.undecided.reshape(-1).expand(len(gradient))).to(gradient.dtype)
        kept = wanted.gradient * decided.reshape(-1, *(1,) * (gradient.ndim - 1))
        along += float((gradient * kept).sum())
        size += float((kept * kept).sum())
    if not (size > 0 and along != 0):
        return None
    c = along / size
    near = 1e-6 if conventions.output_dtype is None else 1e-2
    exact = simple_number(abs(c) * (1 - near), abs(c) * (1 + near), abs(c))
    return exact if c > 0 else -exact
