"""A cause with a name: no gradient at all, another declaration that fits, or a mistake of the list that fits."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from derivations import notation as n
from gradcheck.case import Case
from gradcheck.compiled import evaluate
from gradcheck.conventions import Conventions
from gradcheck.errors import GradcheckError
from gradcheck.oracle.diagnosis.evidence import Evidence, explains
from gradcheck.oracle.diagnosis.other_variables import other_variables
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.mistakes import Mistake, gradient_of_mistake, mistakes
from gradcheck.oracle.reference import effective_case, overall_factor
from gradcheck.oracle.results import Diagnosis

__all__ = ["named", "no_gradient"]


def no_gradient(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Nothing arrives: the output is detached on the way."""
    if any(bool((e.observed != 0).any()) for e in evidence):
        return None
    return Diagnosis(
        "no-gradient", f"no gradient reaches {evidence[0].case.output_name} at all: it is detached on the way"
    )


def named(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Another declaration, or a named mistake; where both fit, leaving out a declared term is called a mistake.

    So is what another prediction, or another direction of time, would explain too.
    """
    convention = _declared_otherwise(judge, evidence)
    if convention is not None and not _leaves_out(convention.declare):
        return convention
    mistake = _mistake(judge, evidence)
    convention = convention or other_variables(judge, evidence)
    if convention is not None and mistake is not None:
        return replace(mistake, declare=convention.declare)
    return mistake or convention


def _leaves_out(written: str) -> bool:
    return written.partition("=")[2] in ("'none'", "'off'", "'uniform'")


def _declared_otherwise(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    for written, other in judge.conventions.alternatives():

        def predict(e: Evidence, other: Conventions = other) -> Tensor:
            return _under(other, e.case)

        try:
            if explains(evidence, predict):
                name = written.partition("=")[0]
                return Diagnosis(f"convention:{name}", f"the implementation behaves as {written} says", written)
        except (GradcheckError, KeyError, ValueError):
            continue  # this declaration asks for quantities that the case does not have
    if judge.conventions.adv_clip_max is not None:
        free = replace(judge.conventions, adv_clip_max=None)
        if explains(evidence, lambda e: _under(free, e.case)):
            limit = judge.conventions.adv_clip_max
            cause = f"the advantage is not clamped to ±{limit:g} as adv_clip_max declares"
            return Diagnosis("advantage-unclamped", cause, "adv_clip_max=None")
    return None


def _under(other: Conventions, case: Case) -> Tensor:
    """The gradient that another declaration requires on the same problem."""
    missing = [name for name in other.derivation.given if name not in case.names and name != "D"]
    if missing:
        raise KeyError(missing[0])
    if "D" not in case.names:
        size = float(case.output[0].numel())
        case = Case(case.label, {**{q: getattr(case, q) for q in case.names}, "D": size})
    # the state was sampled by the declared step; what another step makes of it is read from the state
    noise = _noise_under(other, case)
    effective = effective_case(other, case if noise is None else case.replace(noise=noise))
    (gradient,) = evaluate(other.derivation, effective, other.derivation.gradient, dtype=torch.float64)
    return overall_factor(other, case) * gradient.expand(case.output.shape)


def _noise_under(other: Conventions, case: Case) -> Tensor | None:
    """The noise that another reverse step would have needed to reach the same state."""
    if "x_prev" not in case.names or n.mean_old not in other.derivation.definitions:
        return None
    mean_old, std = evaluate(other.derivation, case, n.mean_old, n.C2, dtype=torch.float64)
    noise: Tensor = ((case.x_prev.to(torch.float64) - mean_old) / std).to(case.output.dtype)
    return noise


def _mistake(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    for mistake in mistakes(judge.conventions.derivation):

        def predict(e: Evidence, mistake: Mistake = mistake) -> Tensor:
            effective = effective_case(e.conventions, e.case)
            return overall_factor(e.conventions, e.case) * gradient_of_mistake(mistake, effective)

        if explains(evidence, predict):
            return Diagnosis(mistake.name, mistake.sentence)
    return None
