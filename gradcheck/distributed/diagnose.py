r"""Which wrong normalisation explains the gradients that a trainer left on its ranks.

A trainer's arithmetic is a weight for each sample and rank.  The named ones are products of three choices: what the
mean is over, which samples and ranks are lost, and a factor too many or too few.  One of them is the cause where it
explains every problem that was tried, right ones too, within the bounds that judge the right weights; then other
advantages are tried, and one factor for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradcheck.distributed.declaration import Declaration, advantages_text
from gradcheck.distributed.evidence import Claim, Evidence, Observed, number_text, weights_table
from gradcheck.distributed.hypotheses import BASES, Choice, hypotheses, predicted
from gradcheck.distributed.problems import estimated
from gradcheck.distributed.reductions import otherwise_reduced
from gradcheck.distributed.required import Required, required
from gradcheck.judging.check import Hypothesis
from gradcheck.judging.results import Diagnosis

__all__ = ["hypotheses_of", "unexplained", "with_weights"]

_ADVANTAGES, _FACTORS = 100, 200
"""What hypotheses of other kinds presume: more than any weighting."""


def hypotheses_of(o: Observed) -> Iterator[Hypothesis[Observed]]:
    """What may explain the evidence, that which presumes least first."""
    declaration = o.trainer.declaration
    layout = o.evidence[0].law.problem.layout
    for choices in sorted(hypotheses(declaration, layout), key=_presumes):
        made = [c for c in choices if c.size]
        leading = max(made, key=lambda c: (c.name not in BASES, c.size))
        claim = Claim(partial(_weights, choices))
        yield Hypothesis(
            leading.name.partition(":")[0],
            "; besides, ".join(c.cause for c in sorted(made, key=lambda c: c.name in BASES)),
            replace(o, claim=claim),
            made[0].declare if len(made) == 1 else "",
            presumes=_presumes(choices),
        )
    for i, (name, cause, declare, other, within) in enumerate(_advantages(declaration)):
        claim = Claim(lambda e: e.law.weights, partial(_with_advantages, other, within))
        yield Hypothesis(name, cause, replace(o, claim=claim), declare, presumes=_ADVANTAGES + i)
    for i, factor in enumerate(_factors(o.evidence)):  # each is known to its own problem's rounding; the sharpest fits
        cause = f"everything is {number_text(factor)} times what it must be"
        claim = Claim(partial(_multiplied, factor))
        if all(map(claim.fits, o.evidence)):
            yield Hypothesis("constant-factor", cause, replace(o, claim=claim), presumes=_FACTORS + i)


def unexplained(o: Observed, name: str) -> Diagnosis:
    """What is said of an obligation that fails where no hypothesis explains it."""
    wrong = [e for e in o.evidence if e.wrong]
    found = _one_norm(o.evidence) or _one_norm(o.of(name))
    if found is not None:
        return found
    lost = list(dict.fromkeys(name for e in wrong for absent in e.absent for name in absent))
    if lost:
        cause = f"{len(lost)} parameters have no gradient, {lost[0]} first: unused, frozen, or not synchronised"
        return Diagnosis("no-gradient", cause)
    return otherwise_reduced(o.evidence) or Diagnosis("unknown", "no named normalisation fits")


def with_weights(cause: Diagnosis, e: Evidence) -> Diagnosis:
    """A cause with the samples' weights on one problem, as far as they can be read off the gradient."""
    observed, wanted, readable = weights_table(e)
    if cause.name == "unknown" and not readable:
        sentence = (
            "no weighting of the samples explains it: the loss or its advantages are others (gradcheck check), or what "
            "is done to the gradients, such as a reduction of some parameters alone, a clip or a rounding"
        )
        cause = replace(cause, cause=sentence)
    return replace(cause, observed=observed, required=wanted, rows=("weights", "of each sample in the gradient"))


def _presumes(choices: list[Choice]) -> int:
    return sum(c.size for c in choices)


def _weights(choices: list[Choice], e: Evidence) -> Tensor:
    return predicted(e.law.problem.layout, choices)


def _multiplied(factor: float, e: Evidence) -> Tensor:
    return factor * e.law.weights


_CONVENTIONS: dict[str, tuple[Any, ...]] = {
    "std": ("group", "global", "none"),
    "unbiased": (False, True),
    "eps": (0.0, 1e-8, 1e-6, 1e-4),
}


def _advantages(declaration: Declaration) -> Iterator[tuple[str, str, str, Declaration, str]]:
    """Other advantages than the declared ones: name, cause, what to declare, and by whose statistics."""
    convention = declaration.advantages
    if convention is None:
        return
    here = declaration.statistics
    for within, name, cause in (
        ("rank", "advantages-per-rank", "means and standard deviations are over each rank's own rewards"),
        ("micro-batch", "advantages-per-micro-batch", "means and standard deviations are over each micro-batch's own"),
        ("global", "advantages-global", "means and standard deviations are over all ranks' rewards"),
    ):
        if within != here:
            declare = f"statistics={within!r}" if within != "micro-batch" else ""
            yield name, cause, declare, declaration, within
    for name, values in _CONVENTIONS.items():
        for value in values:
            if value != getattr(convention, name):
                declared: Any = {name: value}
                other = replace(declaration, advantages=replace(convention, **declared))
                assert other.advantages is not None
                text = advantages_text(other.advantages)
                yield f"convention:{name}", f"the advantages are as {text} says", text, other, here


def _with_advantages(declaration: Declaration, within: str, e: Evidence) -> Required | None:
    problem, layout = e.law.problem, e.law.problem.layout
    parts = {"rank": layout.rank, "micro-batch": layout.rank * layout.steps + layout.step}
    assert declaration.advantages is not None
    advantage, _ = estimated(declaration.advantages, problem.reward, problem.group, parts.get(within))
    if not bool(advantage.isfinite().all()):
        return None
    return required(declaration, problem, e.network, e.dtype, advantage)


def _factors(evidence: Sequence[Evidence]) -> list[float]:
    """By what each problem's gradient is multiplied; nothing if one of them is no multiple of the required one."""
    factors = [_factor(e) for e in evidence]
    fits = [f != 0 and Claim(partial(_multiplied, f)).fits(e) for f, e in zip(factors, evidence, strict=True)]
    return factors if all(fits) else []


def _factor(e: Evidence) -> float:
    wanted = e.law.gradient
    return float((e.observed[0] @ wanted) / (wanted @ wanted))


def _one_norm(evidence: Sequence[Evidence]) -> Diagnosis | None:
    """Wrong gradients of the right direction and of one norm: a clip shortens those above it, and leaves the others."""
    factors = _factors(evidence)
    norms = [float(torch.linalg.vector_norm(e.observed[0])) for e in evidence]
    if not factors:
        return None
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
