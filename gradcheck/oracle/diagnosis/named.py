"""A cause with a name: no gradient at all, another declaration that fits, or a mistake of the list that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.errors import GradcheckError
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.arrangement import masks_samples
from gradcheck.oracle.diagnosis.arrangements import mistakes_of_arrangement
from gradcheck.oracle.diagnosis.evidence import SPREAD, Evidence, explains, spread
from gradcheck.oracle.diagnosis.hypothesis import Hypothesis
from gradcheck.oracle.diagnosis.other_variables import other_variables
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.mistakes import ALIKE, CROSSED, OUTER_PRODUCT, Mistake, Prediction, mistakes
from gradcheck.oracle.mistakes.functions import Bounded, Given, Right
from gradcheck.oracle.mistakes.places import stated
from gradcheck.oracle.problem import effective_case, working_dtype
from gradcheck.oracle.required import overall_factor

__all__ = [
    "fitting",
    "holds_everywhere",
    "leads",
    "named",
    "nearest_mistake",
    "no_gradient",
]


def no_gradient(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Nothing arrives: the output is detached on the way."""
    if any(bool((e.observed != 0).any()) for e in evidence):
        return None
    case = evidence[0].case
    cause = f"no gradient reaches {case.output_name} at all: it is detached on the way, or cancels out"
    if "x_prev" in case.names:
        cause += ", or the sampled state moves with the mean (x_prev must be detached, and not be drawn by rsample())"
    return Diagnosis("no-gradient", cause)


def named(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Another declaration, or a named mistake; where both fit, leaving out a declared term is called a mistake.

    So is what another prediction, or another direction of time, would explain too.  What several hypotheses predict
    alike is tried on problems where they differ.
    """
    return _chosen(_told_apart(judge, fitting(evidence)), other_variables(judge.conventions, evidence))


def fitting(evidence: list[Evidence]) -> list[Hypothesis]:
    """The hypotheses that predict every sample that can be judged, the declarations first."""
    conventions = evidence[0].conventions
    fit = [h for h in _hypotheses(conventions, evidence[0].case) if explains(evidence, h.predict)]
    half = any(h.name == "huber" for h in fit) and explains(evidence, lambda e: e.required / 2)
    if half or any(h.name != "huber" and not h.generic for h in fit):
        fit = [h for h in fit if h.name != "huber"]  # no error is beyond its δ: nothing but its factor ½ is seen
    return fit


_NEAR = 0.5
"""The least share of the samples that makes a mistake worth telling which does not explain all of them."""


def nearest_mistake(evidence: list[Evidence]) -> str:
    """The hypothesis that explains most of the samples, and how many; empty where none explains half of them."""
    best, share = None, 0.0
    some = [e for e in evidence if bool(e.wrong.any())]
    for h in (h for h in _hypotheses(evidence[0].conventions, evidence[0].case) if not h.generic):
        if _share(h, some[:1]) <= max(share, _NEAR):
            continue
        found = _share(h, some)
        if found > max(share, _NEAR):
            best, share = h, found
    if best is None:
        return ""
    if share == 1:
        return f"the nearest is “{best.sentence}”, which explains ordinary problems, and not those farther apart"
    return f"the nearest is “{best.sentence}”, which explains {share:.0%} of the samples"


def _share(h: Hypothesis, evidence: list[Evidence]) -> float:
    """The share of the samples that a hypothesis predicts; 0 unless that is more than are right anyhow."""
    same_, right, count = 0, 0, 0
    for e in evidence:
        same, judged = e.fits(h.predict(e))
        decided = ~e.undecided
        same_, right = same_ + int((same & judged & decided).sum()), right + int((~e.wrong & decided).sum())
        count += int(decided.sum())
    return same_ / count if count and same_ > right else 0.0


def leads(e: Evidence, mistake: Mistake) -> bool:
    """Whether a mistake predicts one problem: what is worth trying on the others."""
    return e.allows(e.predicted(mistake))


def _chosen(fit: list[Hypothesis], variables: Diagnosis | None) -> Diagnosis | None:
    declaration = next((h for h in fit if h.declare), None)
    mistakes_ = [h for h in fit if not h.declare]
    convention = None if declaration is None else declaration.diagnosis
    crossed = any(h.name == OUTER_PRODUCT for h in mistakes_)
    if convention is not None and crossed and convention.name == "convention:batch_reduction":
        convention = replace(convention, cause=f"{convention.cause}; or, with the same gradient: {CROSSED}")
    if declaration is not None and not declaration.leaves_out:
        return convention
    mistake = _all_of(mistakes_)
    convention = convention or variables
    if convention is not None and mistake is not None:
        return replace(mistake, declare=convention.declare)
    return mistake or convention


_MOST_NAMED = 2


def _all_of(fit: list[Hypothesis]) -> Diagnosis | None:
    """The first mistake that fits, with the others that no problem tells from it."""
    if not fit:
        return None
    first = min(fit, key=lambda h: h.generic)
    same = {first.name, *ALIKE.get(first.name, ())}
    others = {h.name: h.sentence for h in reversed(fit) if h.name not in same and h.generic <= first.generic}
    shown = list(others.values())[::-1][: _MOST_NAMED - 1]
    return Diagnosis(first.name, "; or, with the same gradient: ".join([first.sentence, *shown]))


def _told_apart(judge: Judge, fit: list[Hypothesis]) -> list[Hypothesis]:
    """Those that fit on problems spread over all distances from the old policy, too."""
    thresholds = Piece.RATIO in judge.conventions.derivation.pieces
    for i in range(SPREAD if thresholds else SPREAD - 2):
        if not fit or (not thresholds and len({h.name for h in fit}) < 2):
            break
        if len({h.name for h in fit}) < 2 and i not in (0, SPREAD - 2):
            continue  # one that nothing is to be told from: at all distances, and at ratios that are rare
        fresh = spread(judge, i)
        fit = [h for h in fit if fresh.allows(h.predict(fresh))]
    return fit


def holds_everywhere(judge: Judge, predict: Callable[[Evidence], Tensor | Prediction]) -> bool:
    """Whether what fits ordinary problems fits those spread over all distances from the old policy, too."""
    if Piece.RATIO not in judge.conventions.derivation.pieces:
        return True
    return all(e.allows(predict(e)) for e in (spread(judge, i) for i in range(SPREAD)))


def _hypotheses(conventions: Conventions, case: Case) -> Iterator[Hypothesis]:
    for one in conventions.alternatives():
        name, other = f"convention:{one.keyword}", one.conventions
        sentence = f"the implementation behaves as {one.written} says"
        try:
            readings: list[Callable[[Evidence], Tensor | Prediction]] = [
                partial(_under, other),
                *(partial(_with_stored, other, s) for s in _stored(other, case)),
            ]
        except (GradcheckError, KeyError, ValueError):
            continue
        for reading in readings:
            predict = partial(_if_it_can, reading)
            yield Hypothesis(name, sentence, predict, one.written, leaves_out=one.leaves_out)
    if conventions.adv_clip_max is not None:
        free = replace(conventions, adv_clip_max=None)
        sentence = f"the advantage is not clamped to ±{conventions.adv_clip_max:g} as adv_clip_max declares"
        yield Hypothesis("advantage-unclamped", sentence, partial(_under, free), "adv_clip_max=None", leaves_out=True)
        for most in (x for x in _LIMITS if x != conventions.adv_clip_max):
            written = f"adv_clip_max={most:g}"
            elsewhere = partial(_under, replace(conventions, adv_clip_max=most))
            yield Hypothesis(
                "convention:adv_clip_max", f"the implementation behaves as {written} says", elsewhere, written
            )
        limit = sp.Float(conventions.adv_clip_max)
        for side, bounded in (
            ("above", sp.Min(Right(n.advantage), limit)),
            ("below", sp.Max(Right(n.advantage), -limit)),
        ):
            sentence = f"the advantage is clamped from {side} alone; ±{conventions.adv_clip_max:g} are declared"
            yield Hypothesis("advantage-clamped-on-one-side", sentence, partial(_with_advantage, free, bounded))
    for held in mistakes_of_arrangement(conventions):
        yield replace(held, predict=partial(_if_it_can, held.predict))
    declared, anchored = dict(conventions.on_top), Piece.REFERENCE in conventions.derivation.pieces
    for mistake in mistakes(conventions.derivation):
        if mistake.name.startswith("window-") and masks_samples(conventions):
            continue  # samples that a mask leaves out are in no window of steps; what is made of them is said above
        limit = mistake.edits.get(n.log_ratio)
        if mistake.name == "log-ratio-clamped" and isinstance(limit, Bounded) and "log_ratio_max" not in declared:
            written = f"log_ratio_max={float(limit.args[2]):g}"
            sentence = f"the implementation behaves as {written} says: the log-ratio is clamped"
            yield Hypothesis("convention:log_ratio_max", sentence, partial(_of_mistake, mistake), written)
            continue
        # a guard that is not divided by Δt, as Flow-Factory's, is the declared one weighed by it
        meant = "weight='dt'" if mistake.name == "dt-missing" and "weight" not in declared and not anchored else ""
        yield Hypothesis(mistake.name, mistake.sentence, partial(_of_mistake, mistake), meant, mistake.generic)


_LIMITS = (1.0, 2.0, 3.0, 5.0, 10.0)
"""What public code clamps advantages to."""


def _with_advantage(other: Conventions, advantage: sp.Expr, e: Evidence) -> Prediction:
    return e.under(other).predict({n.advantage: advantage}).times(overall_factor(other, e.case))


def _of_mistake(mistake: Mistake, e: Evidence) -> Prediction:
    return e.predicted(mistake)


def _if_it_can(predict: Callable[[Evidence], Tensor | Prediction], e: Evidence) -> Tensor | Prediction:
    """What another declaration requires; where it asks for what the case does not have, nothing that is observed."""
    try:
        return predict(e)
    except (GradcheckError, KeyError, ValueError):
        return 2 * e.observed.nan_to_num(1.0, 1.0, 1.0).abs() + e.observed.nan_to_num(1.0, 1.0, 1.0).abs().amax() + 1


def _under(other: Conventions, e: Evidence) -> Tensor | Prediction:
    """The gradient that another declaration requires on the same problem."""
    case = e.case
    if Piece.RATIO in other.derivation.pieces and working_dtype(e.conventions, case) != torch.float64:
        # its ratio may lose more digits than the declared one's, and its clip is open where its own rounding says
        return e.under(other).predict({}).times(overall_factor(other, case))
    for name in other.derivation.given:
        if name not in case.names and name in other.fixed:  # a number of the other declaration's own
            case = Case(case.label, {**{q: getattr(case, q) for q in case.names}, name: other.fixed[name]})
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


_GIVEN = (n.log_prob_old, n.mean_old, n.mean_ref)
"""What code may read from its case, where it is that of the declared step."""


def _stored(other: Conventions, case: Case) -> list[tuple[sp.Symbol, ...]]:
    """Which of the behaviour's and the reference's quantities such code may take as they are given."""
    own = stated(other.derivation)
    held = [s for s in _GIVEN if s.name in case.names and s in own.table]
    return [chosen for size in range(1, len(held) + 1) for chosen in combinations(held, size)]


def _with_stored(other: Conventions, given: tuple[sp.Symbol, ...], e: Evidence) -> Prediction:
    """The same where some quantities are read from the case, as the declared step gave them."""
    trial = e.under(other)
    return trial.predict({s: Given(s) for s in given}).times(overall_factor(other, e.case))


def _noise_under(other: Conventions, case: Case) -> Tensor | None:
    """The noise that another reverse step would have needed to reach the same state."""
    if "x_prev" not in case.names or n.mean_old not in other.derivation.definitions:
        return None
    mean_old, std = evaluate(other.derivation, case, n.mean_old, n.C2, dtype=torch.float64)
    noise: Tensor = ((case.x_prev.to(torch.float64) - mean_old) / std).to(case.output.dtype)
    return noise
