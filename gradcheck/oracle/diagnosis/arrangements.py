r"""Mistakes that rest on how a trainer holds its batch: pairs and groups, rows of steps, masked samples, two branches.

A derivation states the loss of one sample, so its own mistakes know nothing of a unit's others.  Here each mistake is
what it makes of the required gradient, or of the loss's formulas, on a batch that is held as declared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.pieces import Piece
from gradcheck.conventions import Conventions
from gradcheck.oracle.arrangement import (
    STEPS,
    arranged,
    branch_shares,
    branches_apart,
    counts_samples,
    guidance_scale,
    masks_samples,
)
from gradcheck.oracle.diagnosis.evidence import Evidence
from gradcheck.oracle.diagnosis.hypothesis import Hypothesis
from gradcheck.oracle.mistakes import Prediction
from gradcheck.oracle.mistakes.functions import BatchMean, Others, Right, RowNeighbour
from gradcheck.oracle.mistakes.places import LOSS, MEAN_DT, STD, STEP_DT, STEP_T, stated
from gradcheck.oracle.problem import per_sample
from gradcheck.oracle.required import overall_factor, required_gradient
from gradcheck.problems.building import complete

__all__ = ["mistakes_of_arrangement"]


def mistakes_of_arrangement(conventions: Conventions) -> Iterator[Hypothesis]:
    """All that can be made with a batch that is held as declared."""
    yield from _other_units(conventions)
    if conventions.steps:
        yield from _of_rows(conventions)
    if masks_samples(conventions):
        yield from _of_masked_samples(conventions)
    if conventions.guidance is not None:
        yield from _of_branches()
    if conventions.pairs is None and conventions.groups is None and not conventions.steps:
        yield from _left_out(conventions)


def _with_edits(edits: Mapping[sp.Symbol, sp.Expr], factor: float, e: Evidence) -> Prediction:
    return e.trial.predict(edits).times(factor * overall_factor(e.conventions, e.case))


# ------------------------------------------------------------------------------------------- pairs and groups


def _other_units(conventions: Conventions) -> Iterator[Hypothesis]:
    """Pairs, or groups, that lie in the batch otherwise than the code takes them to, or of which a mean is taken."""
    if conventions.pairs in ("adjacent", "halves"):
        other = "halves" if conventions.pairs == "adjacent" else "adjacent"
        how = "neighbours are taken for a pair" if other == "adjacent" else "the batch's halves are taken for the pairs"
        written = f"pairs={other!r}"
        yield Hypothesis("convention:pairs", f"{how}, as {written} says", partial(_in_other_units, 2), written)
    if conventions.groups is not None:
        size = conventions.groups
        apart = "every n-th sample is taken for a group's, n being the number of groups; neighbours are one"
        yield Hypothesis("group-layout", apart, partial(_in_other_units, size))
        averaged = "a group's terms are averaged; they must be summed"
        edits = {n.beta_dpo: Right(n.beta_dpo) / size}
        yield Hypothesis("group-averaged", averaged, partial(_with_edits, edits, 1.0))


def _in_other_units(size: int, e: Evidence) -> Tensor:
    """The gradient of code that takes other samples of the batch, as it is handed over, for a unit.

    A case has a unit's samples next to each other.  Halves are handed over with the winners first.
    """
    count = len(e.case.output)
    strided = torch.arange(count).reshape(size, -1).T.flatten()  # 0, n, 2n … and 1, n + 1 …
    order = strided.argsort() if e.conventions.pairs == "halves" else strided
    rows = {name: getattr(e.case, name)[order] for name in per_sample(e.case)}
    gradient = required_gradient(e.conventions, arranged(e.conventions, e.case.replace(**rows)))
    return gradient[order.argsort()]


# ---------------------------------------------------------------------------------------------- rows of steps


def _of_rows(conventions: Conventions) -> Iterator[Hypothesis]:
    """What is made of a row's time steps: one ratio, a sum, another step's numbers, a step that is lost."""
    table = stated(conventions.derivation).table

    def put(name: str, sentence: str, edits: Mapping[sp.Symbol, sp.Expr], factor: float = 1.0) -> Hypothesis:
        return Hypothesis(name, sentence, partial(_with_edits, edits, factor))

    if n.log_ratio in table:
        own = table[n.log_ratio]
        row = own + Others(own)
        for word, joint in (("the sum", row), ("the mean", row / STEPS)):
            sentence = f"a row of steps has one ratio, of {word} of its log-ratios; each step must have its own"
            yield put("ratio-of-a-row", sentence, {n.log_ratio: joint})
            yield put("ratio-of-a-row", f"{sentence}, and the rows are averaged", {n.log_ratio: joint}, 1 / STEPS)
    summed = "the steps of a row are summed; all of the batch's must be averaged"
    yield put("steps-summed", summed, {}, float(STEPS))
    for by, where in ((1, "before"), (-1, "after")):
        moved = {s: RowNeighbour(table[s] if s in (STD, MEAN_DT) else Right(s), by) for s in table if s in _SHIFTED}
        off = f"the step {where} it in the row: an index is off by one"
        for symbol, value in moved.items():
            yield put("step-of-the-row", f"{_SHIFTED[symbol]} is that of {off}", {symbol: value})
        if {STEP_T, STEP_DT} <= moved.keys():
            both = {s: moved[s] for s in (STEP_T, STEP_DT)}
            yield put("step-of-the-row", f"t and Δt are those of {off}", both)
    for which, word in ((0, "first"), (STEPS - 1, "last")):
        for scale, how in ((STEPS / (STEPS - 1), "the mean is over the others"), (1.0, "the mean counts it")):
            sentence = f"the {word} step of each row is left out ({how})"
            yield Hypothesis("step-left-out", sentence, partial(_without_a_step, which, scale))


_SHIFTED = {
    STEP_T: "t",
    STEP_DT: "Δt",
    MEAN_DT: "Δt in the mean",
    STD: "the standard deviation in the log-probability",
    n.log_prob_old: "the old log-probability",
}


def _without_a_step(which: int, scale: float, e: Evidence) -> Tensor:
    left_out = torch.arange(len(e.case.output), device=e.required.device) % STEPS == which
    return torch.where(e.case.expand(left_out), 0.0, scale * e.required)


# -------------------------------------------------------------------------------------------- samples that count


def _of_masked_samples(conventions: Conventions) -> Iterator[Hypothesis]:
    """The mask of samples: ignored, or the other way round; and what the sum over the batch is divided by."""
    counted = counts_samples(conventions)
    everywhere = conventions.derivation.loss.xreplace({n.window: sp.S.One})

    def put(name: str, sentence: str, loss: sp.Expr) -> Hypothesis:
        return Hypothesis(name, sentence, partial(_with_edits, {LOSS: loss}, 1.0))

    ignored = "the mask is ignored: the samples that it leaves out train too"
    yield put("mask-ignored", ignored, everywhere)
    if counted:
        yield put("mask-ignored", f"{ignored}, and the mean is over all", BatchMean(n.window) * everywhere)
    others = (1 - n.window) * everywhere
    turned = "the samples that the mask leaves out train, and those that it keeps do not"
    yield put("mask-inverted", turned, others)
    if counted:
        yield put("mask-inverted", turned, BatchMean(n.window) / BatchMean(1 - n.window) * others)


# ------------------------------------------------------------------------------------------- two guided branches


def _of_branches() -> Iterator[Hypothesis]:
    """v = a·v_cond + b·v_uncond, where a is the scale w and b = 1 − w; and branches that have no gradient."""
    combined = "the velocity is {}; it must be v_uncond + w (v_cond − v_uncond)"
    for what, cond, uncond in (
        ("v_cond + w (v_cond − v_uncond): the scale is w + 1", lambda w: 1 + w, lambda w: -w),
        ("v_uncond + (w − 1)(v_cond − v_uncond)", lambda w: w - 1, lambda w: 2 - w),
        ("v_cond + w (v_uncond − v_cond): the branches are exchanged", lambda w: 1 - w, lambda w: w),
        ("v_cond alone", lambda w: 1.0, lambda w: 0.0),
        ("v_uncond alone", lambda w: 0.0, lambda w: 1.0),
        ("w (v_cond − v_uncond): v_uncond is not added", lambda w: w, lambda w: -w),
        ("v_uncond + w v_cond: v_uncond is not subtracted", lambda w: w, lambda w: 1.0),
    ):
        yield Hypothesis("guidance", combined.format(what), partial(_combined, cond, uncond))
    for which, cond, uncond in (
        ("the unconditional branch", lambda w: w, lambda w: 0.0),
        ("the conditional branch", lambda w: 0.0, lambda w: 1 - w),
        ("the difference v_cond − v_uncond, added to v_uncond,", lambda w: 0.0, lambda w: 1.0),
        ("the difference v_cond − v_uncond, added to v_cond,", lambda w: 1.0, lambda w: 0.0),
    ):
        sentence = f"{which} is detached; both branches are live in v_uncond + w (v_cond − v_uncond)"
        yield Hypothesis("guidance-detached", sentence, partial(_partly_live, cond, uncond))


def _combined(cond: Callable[[float], float], uncond: Callable[[float], float], e: Evidence) -> Tensor:
    """The gradient at another sum of the two branches, back through both of them."""
    case, w = e.case, guidance_scale(e.conventions, e.case)
    a, b = cond(w), uncond(w)
    v = case.output.detach()
    gap = branches_apart(case).to(v)
    derivation = e.conventions.derivation
    given = {name: getattr(case, name) for name in derivation.given}
    given[case.output_name] = a * (v + (1 - w) * gap) + b * (v - w * gap)
    rest = {x: getattr(case, x) for x in case.names if x not in given and x not in derivation.defined}
    back = _sent_back(a, b, e)
    return back * required_gradient(e.conventions, complete(derivation, given, v.device, rest))


def _sent_back(cond: float, uncond: float, e: Evidence) -> float:
    """What comes back to the velocity of so much of its gradient on each branch."""
    of_cond, of_uncond = branch_shares(e.conventions, e.case)
    return cond * of_cond + uncond * of_uncond


def _partly_live(cond: Callable[[float], float], uncond: Callable[[float], float], e: Evidence) -> Tensor:
    w = guidance_scale(e.conventions, e.case)
    return _sent_back(cond(w), uncond(w), e) * e.required


# -------------------------------------------------------------------------------------------- samples left out


def _left_out(conventions: Conventions) -> Iterator[Hypothesis]:
    """A batch's last sample, which a split into equal parts leaves over."""
    averaged = conventions.batch_reduction == "mean"
    if averaged and Piece.ADVANTAGE in conventions.derivation.pieces:
        alone = "the mean is over the samples whose advantage is not 0; it must be over the batch"
        yield Hypothesis("zero-advantages-not-counted", alone, _of_those_with_an_advantage)
    for odd_alone, when in ((True, " where the batch is odd"), (False, "")):
        for counts in (True, False) if averaged else (True,):
            how = "" if not averaged else " (the mean counts it)" if counts else " (the mean is over the others)"
            sentence = f"the batch's last sample is left out{when}{how}"
            yield Hypothesis("last-sample-dropped", sentence, partial(_without_the_last, odd_alone, counts))


def _of_those_with_an_advantage(e: Evidence) -> Tensor:
    told = int((e.case.advantage != 0).sum())
    return e.required * (len(e.case.output) / max(told, 1))


def _without_the_last(odd_alone: bool, counts: bool, e: Evidence) -> Tensor:
    count = len(e.case.output)
    if count == 1 or (odd_alone and count % 2 == 0):
        return e.required
    kept = e.required.clone()
    kept[-1] = 0
    return kept if counts else kept * count / (count - 1)
