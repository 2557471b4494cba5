"""A small number that guards a denominator, added and not declared: how large is it, and where is it added?"""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence, lengths, rows_of
from gradcheck.oracle.displaced import Guard, guards
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.required import overall_factor

__all__ = ["guard_added"]

_TRIED = 1e-9
"""A number so small that its effect is linear in it."""
_EXPLAINED = 0.05
"""What the guard may leave of the difference: its size is rounded to one digit or two, and its effect is not linear."""
_MOST = 1e-3


def guard_added(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """One number at one place that explains every wrong sample of every problem."""
    shown = [e for e in evidence if bool(e.observed.isfinite().all())]
    if not shown or judge.conventions.eps:
        return None
    for place, guard in enumerate(guards(judge.conventions.derivation, _TRIED)):
        size = _size(shown, guard)
        if size is None or not 0 < size <= _MOST:
            continue
        eps = float(f"{size:.1g}") if abs(float(f"{size:.1g}") / size - 1) < _EXPLAINED else float(f"{size:.2g}")
        if _explains(shown, guards(judge.conventions.derivation, eps)[place]):
            twice = f"{eps:e}".startswith("5.0")  # 2 C2² + 1e-8 is meant, where C2² + 5e-9 fits
            eps, words = (2 * eps, f"2 {guard.words}") if twice else (eps, guard.words)
            cause = f"{eps:g} is added to {words}, as a guard against division by zero"
            return Diagnosis("convention:eps", cause, f"eps={eps:g}")
    return None


def _effect(e: Evidence, guard: Guard) -> Tensor:
    """What the guard changes, (B, D)."""
    effective = effective_case(e.conventions, e.case)
    there, *_ = guard.gradient(effective, False)
    return rows_of(overall_factor(e.conventions, e.case) * there.expand(e.required.shape)) - rows_of(e.required)


def _size(evidence: list[Evidence], guard: Guard) -> float | None:
    """The number that leaves least of the differences, were its effect linear; from one sample of each problem."""
    sizes = []
    for e in evidence:
        effect, left = _effect(e, guard), rows_of(e.observed) - rows_of(e.required)
        slope = (effect * left).sum(1) / (effect * effect).sum(1)
        clear = (lengths(left) > 30 * e.rounding) & slope.isfinite() & (lengths(effect) > 0)
        sizes += (_TRIED * slope[clear]).tolist()
    return float(torch.tensor(sizes, dtype=torch.float64).median()) if sizes else None


def _explains(evidence: list[Evidence], guard: Guard) -> bool:
    explained = 0
    for e in evidence:
        left = rows_of(e.observed) - rows_of(e.required)
        rest = lengths(left - _effect(e, guard))
        clear = lengths(left) > 30 * e.rounding
        if bool((rest > _EXPLAINED * lengths(left) + 30 * e.rounding).any()):
            return False
        explained += int(clear.sum())
    return explained > 0
