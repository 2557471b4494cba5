r"""The gradient of one step beside the derived one: in the step's own precision, at the constant that was declared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from derivations import notation as n
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.derived.reads import reads
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.required import detours, overall_factor
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.chunks import small_chunk
from gradcheck.rounding.streaming import Judged, judge_gradient
from gradcheck.watching.constants import Constants, Found
from gradcheck.watching.dense import densely
from gradcheck.watching.precision import Precision
from gradcheck.watching.problem import StepProblem

__all__ = ["Seen", "judge_step", "on_device"]


@dataclass(frozen=True)
class Seen:
    """What was seen of a step's gradient.

    Attributes:
        judged: the comparison, sample by sample.
        factor: by which the required gradient was multiplied, batch average and all.
        constant: that factor as it is told.
        ratios: importance ratios, (B,), or ``None``.
        multiple: a constant that nothing explains, by which the whole gradient is the required one's multiple.
    """

    judged: Judged
    factor: float
    constant: Found
    ratios: Tensor | None
    multiple: float | None = None

    @property
    def holds(self) -> bool:
        return self.judged.comparison.holds

    @property
    def resolution(self) -> float:
        return float(self.judged.resolution.min())


def judge_step(problem: StepProblem, gradient: Tensor, precision: Precision, constants: Constants) -> Seen:
    """Compare at the expected constant; if it is another one throughout, at that one."""
    own = overall_factor(problem.conventions, problem.case)
    factor = own * constants.expected
    seen = _compared(problem, gradient, precision, factor, Found(constants.formula, constants.expected))
    if seen.holds or not bool(gradient.isfinite().all()):
        return seen
    by = _constant_factor(problem, gradient, precision, factor)
    if by is None:
        return seen
    found = constants.recognise(*by)
    if found is None:
        return replace(seen, multiple=by[0])
    again = _compared(problem, gradient, precision, own * found.value, found)
    return again if again.holds else seen


def _compared(problem: StepProblem, gradient: Tensor, precision: Precision, factor: float, constant: Found) -> Seen:
    derivation, case = problem.derivation, effective_case(problem.conventions, problem.case)
    wide = detours(derivation, case)
    widen = wide.flatten() if isinstance(wide, Tensor) else None
    scalars = (n.ratio,) if Piece.RATIO in derivation.pieces else ()
    judged = None
    for generous in (False, True):  # what the loss reads in one place; in several, or as a squared distance to a target
        if judged is None or not judged.comparison.holds:
            judged = judge_gradient(
                derivation,
                case,
                gradient,
                factor=factor,
                dtype=precision.loss,
                output_dtype=precision.output,
                uses=reads(derivation) if generous and precision.output is not None else (),
                by_target=generous,
                widen=None if widen is None else widen.to(gradient.device),
                scalars=scalars,
                chunk=small_chunk(gradient),
            )
    assert judged is not None
    if not judged.comparison.holds and bool(gradient.isfinite().all()):
        judged = _by_the_oracle(judged, problem, gradient, precision, factor)
    return Seen(judged, factor, constant, judged.numbers[0] if scalars else None)


def _by_the_oracle(
    judged: Judged, problem: StepProblem, gradient: Tensor, precision: Precision, factor: float
) -> Judged:
    """The same, with the failing samples judged as the oracle judges them, if all of them hold there."""
    failing = (judged.ratios.cpu() > THRESHOLD).nonzero().flatten()
    found = densely(problem, gradient, precision, factor, failing)
    if not found:
        return judged
    ratios, resolution = judged.ratios.clone(), judged.resolution.clone()
    for some, comparison in found:
        there = some.to(ratios.device)
        ratios[there], resolution[there] = comparison.ratio, comparison.resolution
    worst = max((c for _, c in found), key=lambda c: c.ratio)
    return replace(
        judged, comparison=replace(worst, judged=judged.comparison.judged), ratios=ratios, resolution=resolution
    )


def _constant_factor(
    problem: StepProblem, gradient: Tensor, precision: Precision, factor: float
) -> tuple[float, float] | None:
    """By what the observed gradient is the required one's multiple throughout, and how far that may be off.

    ``None`` where samples disagree, or where the gradient has another direction.
    """
    multiples, residuals, weights = [], [], []
    for i in range(gradient.shape[0]):
        required = _required_row(problem, i).mul_(factor)
        observed = gradient[i].to(torch.float64)
        size = float((required * required).sum())
        if size == 0.0:
            continue
        c = float((observed * required).sum()) / size
        residuals.append(float((observed - c * required).norm()) / size**0.5)
        multiples.append(c)
        weights.append(size)
    if not multiples:
        return None
    mean = sum(c * w for c, w in zip(multiples, weights, strict=True)) / sum(weights)
    # rounding of the components is random, so that a projection on many of them is better than one of them
    off = 2 * precision.unit + 1e3 * unit_roundoff(precision.loss)
    if mean == 0.0 or any(r > 2 * off * abs(mean) for r in residuals):
        return None
    if any(abs(c - mean) > off * abs(mean) for c in multiples):
        return None
    return mean, off


def _required_row(problem: StepProblem, i: int) -> Tensor:
    r"""One sample's derived gradient, (\*latent), in float64, without constants."""
    keep = torch.zeros(problem.case.output.shape[0], dtype=torch.bool)
    keep[i] = True
    one = problem.rows(keep)
    case = on_device(effective_case(one.conventions, one.case), one.case.output.device)
    (exact,) = evaluate(one.derivation, case, one.derivation.gradient, dtype=torch.float64)
    return exact.expand(one.case.output.shape)[0].clone()


def on_device(case: Case, device: torch.device) -> Case:
    """The same case with its numbers per sample beside the latents."""
    values = {name: getattr(case, name) for name in case.names}
    return Case(case.label, {name: x.to(device) if isinstance(x, Tensor) else x for name, x in values.items()})
