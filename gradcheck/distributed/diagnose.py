r"""Which wrong normalisation explains the gradients that a trainer left on its ranks.

A trainer's arithmetic is a weight for each sample and rank.  The named ones are products of three choices: what the
mean is over, which samples and ranks are lost, and a factor too many or too few.  One of them is the cause where it
explains every problem that was tried, right ones too, within the bounds that judge the right weights.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gradcheck.distributed.declaration import Declaration, advantages_text
from gradcheck.distributed.evidence import Evidence, number_text, weights_table
from gradcheck.distributed.hypotheses import BASES, Choice, hypotheses, predicted
from gradcheck.distributed.problems import estimated
from gradcheck.distributed.reference import required
from gradcheck.judging.results import Diagnosis
from gradcheck.rounding.bounds import THRESHOLD

__all__ = ["diagnose"]


def diagnose(declaration: Declaration, evidence: list[Evidence], wrong: list[Evidence]) -> Diagnosis:
    """What explains all of the evidence, of which ``wrong`` needs explaining; ``unknown`` with the samples' weights."""
    found = _weighting(declaration, evidence) or _advantages(declaration, evidence) or _scaled(evidence)
    if found is None:
        lost = [name for e in wrong for absent in e.absent for name in absent]
        found = Diagnosis("unknown", "no named normalisation fits")
        if lost:
            cause = (
                f"{len(set(lost))} parameters have no gradient, {lost[0]} first: unused, frozen, or not synchronised"
            )
            found = Diagnosis("no-gradient", cause)
    observed, wanted, readable = weights_table(wrong[0])
    if found.name == "unknown" and not readable:
        cause = "no weighting of the samples explains it: the loss or its advantages are others (gradcheck check)"
        found = replace(found, cause=cause)
    rows = ("weights", "of each sample in the gradient")
    return replace(found, observed=observed, required=wanted, rows=rows)


def _weighting(declaration: Declaration, evidence: list[Evidence]) -> Diagnosis | None:
    fitting: list[list[Choice]] = []
    for choices in sorted(hypotheses(declaration, evidence[0].law.problem.layout), key=_presumes):
        if fitting and _presumes(choices) > _presumes(fitting[0]):
            break
        if all(_explains(declaration, e, choices) for e in evidence):
            fitting.append(choices)
    if not fitting:
        return None
    first, *others = [[c for c in choices if c.size] for choices in fitting]
    cause = _sentence(first)
    if others:
        cause += "; on these numbers of ranks and micro-batches it cannot be told from: " + ", or ".join(
            dict.fromkeys(map(_sentence, others))
        )
    declare = first[0].declare if len(first) == 1 else ""
    leading = max(first, key=lambda c: (c.name not in BASES, c.size))
    return Diagnosis(leading.name.partition(":")[0], cause, declare)


def _presumes(choices: list[Choice]) -> int:
    return sum(c.size for c in choices)


def _sentence(choices: list[Choice]) -> str:
    return "; besides, ".join(c.cause for c in sorted(choices, key=lambda c: c.name in BASES))


def _explains(declaration: Declaration, e: Evidence, choices: list[Choice]) -> bool:
    return float(e.against(predicted(declaration, e.law.problem.layout, choices)).max()) <= THRESHOLD


_CONVENTIONS: dict[str, tuple[Any, ...]] = {
    "std": ("group", "global", "none"),
    "unbiased": (False, True),
    "eps": (0.0, 1e-8, 1e-6, 1e-4),
}


def _advantages(declaration: Declaration, evidence: list[Evidence]) -> Diagnosis | None:
    """Other advantages than the declared ones, with the declared weights."""
    convention = declaration.advantages
    if convention is None:
        return None
    tried: list[tuple[str, str, str, Declaration, str]] = []
    here = declaration.statistics
    for within, name, cause in (
        ("rank", "advantages-per-rank", "means and standard deviations are over each rank's own rewards"),
        ("micro-batch", "advantages-per-micro-batch", "means and standard deviations are over each micro-batch's own"),
        ("global", "advantages-global", "means and standard deviations are over all ranks' rewards"),
    ):
        if within != here:
            declare = f"statistics={within!r}" if within != "micro-batch" else ""
            tried.append((name, cause, declare, declaration, within))
    for name, values in _CONVENTIONS.items():
        for value in values:
            if value != getattr(convention, name):
                declared: Any = {name: value}
                other = replace(declaration, advantages=replace(convention, **declared))
                assert other.advantages is not None
                text = advantages_text(other.advantages)
                tried.append((f"convention:{name}", f"the advantages are as {text} says", text, other, here))
    for name, cause, declare, other, within in tried:
        assert other.advantages is not None
        if all(_with_advantages(e, other, within) for e in evidence):
            return Diagnosis(name, cause, declare)
    return None


def _with_advantages(e: Evidence, declaration: Declaration, within: str) -> bool:
    problem, layout = e.law.problem, e.law.problem.layout
    parts = {"rank": layout.rank, "micro-batch": layout.rank * layout.steps + layout.step}
    assert declaration.advantages is not None
    advantage, _ = estimated(declaration.advantages, problem.reward, problem.group, parts.get(within))
    if not bool(advantage.isfinite().all()):
        return False
    law = required(declaration, problem, e.network, e.dtype, advantage)
    return float(e.against(law.weights, law).max()) <= THRESHOLD


def _scaled(evidence: list[Evidence]) -> Diagnosis | None:
    """The required gradient times a number: one for all problems, or one that makes all norms the same."""
    factors, norms = [], []
    for e in evidence:
        wanted = e.law.weights @ e.law.contributions
        factor = float((e.observed[0] @ wanted) / (wanted @ wanted))
        if factor == 0 or not _multiplied(e, factor):
            return None
        factors.append(factor)
        norms.append(float(torch.linalg.vector_norm(e.observed[0])))
    for factor in factors:  # each is known to its own problem's rounding; the sharpest decides
        if all(_multiplied(e, factor) for e in evidence):
            return Diagnosis("constant-factor", f"everything is {number_text(factor)} times what it must be")
    return _one_norm(evidence, factors, norms)


def _one_norm(evidence: list[Evidence], factors: list[float], norms: list[float]) -> Diagnosis | None:
    """Wrong gradients of the right direction and of one norm: a clip shortens those above it, and leaves the others."""
    wrong = [(factor, norm) for factor, norm, e in zip(factors, norms, evidence, strict=True) if e.wrong]
    right = [norm for norm, e in zip(norms, evidence, strict=True) if not e.wrong]
    if not wrong or min(factor for factor, _ in wrong) < 0:
        return None
    most = max(norm for _, norm in wrong)
    if most - min(norm for _, norm in wrong) > 1e-3 * most:
        return None
    if max(factor for factor, _ in wrong) < 1 and max(right, default=0.0) <= (1 + 1e-3) * most:
        cause = f"every gradient has been clipped to the norm {most:.4g}: return before clip_grad_norm_()"
        return Diagnosis("norm-clipped", cause)
    if len(wrong) > 1:
        cause = f"every gradient has been brought to the norm {most:.4g}, shorter ones too, which no clip does"
        return Diagnosis("gradient-normalised", cause)
    return None


def _multiplied(e: Evidence, factor: float) -> bool:
    return float(e.against(factor * e.law.weights).max()) <= THRESHOLD
