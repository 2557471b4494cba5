r"""Why an implementation's gradient is not the derived one: a named cause, or what it is as a formula.

In this order: another declaration that fits; a named mistake that fits; the derived gradient (or one of its terms)
times a factor that can be recognised, or with another advantage; a lower precision; one layout alone; else the
decomposition on the field's directions, without a name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from derivations.calculus import Mask
from derivations.pieces import Piece
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.clip_edges import clip_edges, misused_edges
from gradcheck.oracle.diagnosis.combined import extra_term, scaled_mistake, two_mistakes
from gradcheck.oracle.diagnosis.conditions import cast_in_each_place, lower_precision, one_layout
from gradcheck.oracle.diagnosis.declarable import known_weight
from gradcheck.oracle.diagnosis.evidence import SHAPES, Evidence, evidence_on, observe, rows_of
from gradcheck.oracle.diagnosis.factors import advantage_normalised, factor, sample_factor, term_factor, term_scaled
from gradcheck.oracle.diagnosis.facts import facts, right_in_rows
from gradcheck.oracle.diagnosis.fitted import fitted_number, held_number
from gradcheck.oracle.diagnosis.named import named, nearest_mistake, no_gradient
from gradcheck.oracle.diagnosis.required import from_the_derivation
from gradcheck.oracle.diagnosis.shortened import shortened
from gradcheck.oracle.diagnosis.small_numbers import guard_added
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.ranks import another_batch
from gradcheck.problems.building import Spec
from gradcheck.problems.regimes import AdvantageRegime, PolicyRegime
from gradcheck.reading.xray import DIRECTIONS, Sample, decompose, directions

__all__ = ["diagnose", "diagnose_the_shown", "repeats_itself", "right_in_another_layout"]


_POLICIES: tuple[PolicyRegime, ...] = ("off", "outside", "inside", "far")


def diagnose(
    judge: Judge,
    policies: tuple[PolicyRegime, ...] = ("off",),
    advantage: AdvantageRegime = "typical",
    printed: Spec | None = None,
) -> Diagnosis:
    """Find what the implementation's gradient is consistent with, on well-conditioned problems in float64.

    Args:
        judge: the implementation.
        policies: how far it is from the old policy, one problem after the other.
        advantage: the advantages' regime.
        printed: the problem that the failure is shown on, which a cause has to predict too.
    """
    judge = replace(judge, dtype=torch.float64)
    if Piece.RATIO in judge.conventions.derivation.pieces and policies == ("off",):
        # where all samples are on one side of a divergence's bound, its average over the batch is too
        bounded = Piece.DIVERGENCE in judge.conventions.derivation.pieces
        policies = ("mixed", "off", "mixed", "outside", "inside", "far") if bounded else _POLICIES
    evidence = [observe(judge, i, policies, advantage) for i in range(2 * len(SHAPES))]
    if printed is not None:
        evidence += _shown_to_the_user(judge, printed)
    found = cast_in_each_place(judge, evidence)
    ordinary = [e for e in evidence if e.slack == 1]
    if found is None and any(bool(e.wrong.any()) for e in ordinary):
        for explain in _EXPLANATIONS:
            found = explain(judge, evidence)
            if found is not None:
                break
    elif found is None:
        more = [*evidence, *_alone(judge, printed)]
        found = named(judge, more) or fitted_number(judge, more) or _elsewhere(judge, ordinary, printed)
    if found is None:
        found = _unnamed(judge, evidence)
    elif not found.declare:  # what is a mistake in a batch of mixed times is none where all have one
        batch = another_batch(judge)
        found = found if batch is None else replace(found, declare=batch.declare)
    shown, wanted_shown = _shown(evidence)
    return replace(found, observed=shown, required=wanted_shown)


_EXTREME = 1e3
"""What the printed problem may be off more than ordinary ones: it may lie where rounding is large."""


def _shown_to_the_user(judge: Judge, printed: Spec) -> list[Evidence]:
    one = evidence_on(judge, printed, _EXTREME)
    return [one] if bool(one.observed.isfinite().all()) else []


def _alone(judge: Judge, printed: Spec | None) -> list[Evidence]:
    """Problems of one sample like the printed one: among others the largest gradient's rounding hides small ones."""
    if printed is None:
        return []
    alone = (replace(printed, batch=1, seed=printed.seed + 1 + i) for i in range(len(SHAPES)))
    return [e for e in (evidence_on(judge, spec, _EXTREME) for spec in alone) if bool(e.observed.isfinite().all())]


_OVERFLOW = Diagnosis("overflow", "an intermediate overflows, or a branch that is not taken back-propagates NaN")


def _elsewhere(judge: Judge, evidence: list[Evidence], printed: Spec | None) -> Diagnosis | None:
    """Nothing is wrong on ordinary problems with a finite gradient: where is it?"""
    if any(not bool(e.observed.isfinite().all()) for e in evidence):
        return _OVERFLOW
    on_policy = [observe(judge, i, ("on-policy",), "typical") for i in range(len(SHAPES))]
    if any(bool((e.wrong | ~rows_of(e.observed).isfinite().all(1)).any()) for e in on_policy) and (
        printed is None or _only_on_policy(evidence_on(judge, printed, _EXTREME))
    ):
        return Diagnosis("on-policy", "the gradient is wrong, or not finite, exactly where v_theta = v_old")
    if printed is not None and not bool(evidence_on(judge, printed, _EXTREME).observed.isfinite().all()):
        return _OVERFLOW  # only where the numbers are as large as there
    return clip_edges(judge, evidence)


def _only_on_policy(e: Evidence) -> bool:
    """Whether nothing of a problem is wrong but samples at the behaviour model's own output."""
    old = e.case.output_name.replace("theta", "old")
    if old not in e.case.names:
        return True
    apart = (rows_of(e.case.output) != rows_of(getattr(e.case, old))).any(1)
    return not bool((e.wrong & apart).any())


def _shown(evidence: list[Evidence]) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Observed and required gradient on the directions: as monomials, what is required else as it was derived.

    On fewer coordinates than there are directions a gradient has many decompositions, and none has a formula.
    """
    evidence = [e for e in evidence if e.case.output[0].numel() >= len(DIRECTIONS)] or evidence
    out: list[tuple[tuple[str, str], ...]] = []
    cases = [effective_case(e.conventions, e.case) for e in evidence]
    both = {
        which: [decompose(case, getattr(e, which)) for case, e in zip(cases, evidence, strict=True)]
        for which in ("required", "observed")
    }
    right = _right_along(both["observed"], both["required"])
    for which, by_case in both.items():
        samples = [s for some in by_case for s in some]
        exact = [[s for s in some if s.residual < 1e-7] for some in by_case]
        found = directions([s for some in exact for s in some])
        if which == "required" and found:
            found = from_the_derivation(evidence[0].conventions, found, list(zip(cases, exact, strict=True)))
        rows = [(d.name, d.text) for d in found]
        if which == "required":
            masked = next((i for i, d in enumerate(found) if d.formula is not None and d.formula.atoms(Mask)), None)
            if masked is not None:
                rows[masked] = (rows[masked][0], f"{rows[masked][1]}, with m = 0 where a clip or mask stops the sample")
        else:
            rows = [(name, dict(out[0]).get(name, told) if name in right else told) for name, told in rows]
        if sum(map(len, exact)) < len(samples):
            worst = max(s.residual for s in samples)
            rows.append(("outside these directions", f"up to {worst:.1%} of the gradient"))
        out.append(tuple(rows))
    return out[1], out[0]


def _right_along(observed: list[list[Sample]], required: list[list[Sample]]) -> set[str]:
    """The directions along which every sample's coefficient is the required one."""
    wrong: set[str] = set()
    names: set[str] = set()
    for yours, wanted in zip(observed, required, strict=True):
        a, b = ({s.row: s for s in some} for some in (yours, wanted))
        for row in a.keys() | b.keys():
            for name in {x for some in (a, b) if row in some for x in some[row].coefficients}:
                c, d = (some[row].coefficients.get(name, 0.0) if row in some else 0.0 for some in (a, b))
                off = sum(some[row].errors.get(name, 0.0) for some in (a, b) if row in some)
                names.add(name)
                if abs(c - d) > 4 * off + 1e-7 * max(abs(c), abs(d)):
                    wrong.add(name)
    return names - wrong


def _unnamed(judge: Judge, evidence: list[Evidence]) -> Diagnosis:
    if not any(bool(e.wrong.any()) for e in evidence if e.slack == 1):
        elsewhere = "on other problems nothing is wrong beyond rounding, on the one shown it is"
        return Diagnosis("unknown", f"no named mistake fits: {elsewhere}", shown_alone=True)
    known = facts(judge, evidence)
    nearest = nearest_mistake(evidence)
    if nearest:
        known.append(nearest)
    told = "; ".join(["no named mistake fits", *(known or ["compare the two decompositions below"])])
    return Diagnosis("unknown", told)


def repeats_itself(judge: Judge) -> bool:
    """Whether a problem that is handed over twice has one gradient, but for rounding: else no cause can be sought."""
    spec = Spec(4, (3, 5), seed=7_000, policy="off", time="middle")
    case = judge.case(spec)
    first = judge.observe(case).gradient.to(torch.float64)
    with torch.random.fork_rng(devices=[]):  # so that a loss that draws random numbers shows it
        torch.manual_seed(_ANOTHER)
        second = judge.observe(case).gradient.to(torch.float64)
    size = first.abs().nan_to_num(0.0, 0.0, 0.0).amax()
    return bool(((first - second).abs().nan_to_num(0.0, 0.0, 0.0) <= _ONE_GRADIENT * size).all())


_ANOTHER = 20_000
_ONE_GRADIENT = 1e-2
"""How far two gradients of one problem may be apart, relative to its size, before no cause is sought: an order of sums
that changes from call to call is no reason, in whatever precision."""


def right_in_another_layout(judge: Judge, printed: Spec) -> bool:
    """Whether the numbers of a problem that is wrong are right as rows (B, D), or as latents of one more axis."""
    shown = evidence_on(replace(judge, dtype=torch.float64), printed)
    try:
        return right_in_rows(judge, shown, 1 if len(printed.latent) > 1 else 2)
    except AdapterError:
        return False


def diagnose_the_shown(judge: Judge, printed: Spec) -> Diagnosis:
    """What is known of a problem that is wrong in any layout, where ordinary ones are right."""
    judge = replace(judge, dtype=torch.float64)
    shown = [evidence_on(judge, replace(printed, seed=printed.seed + i)) for i in range(_LIKE_IT)]
    known = facts(judge, [e for e in shown if bool(e.wrong.any())] or shown[:1])
    size = f"batch {printed.batch}, latent {printed.latent}"
    told = f"no named mistake fits: smaller problems are right, this one ({size}) is not, in whatever layout"
    return Diagnosis("unknown", "; ".join([told, *known]))


_LIKE_IT = 3
"""Problems of the shown one's sizes that are looked at besides."""


def _of_some_batches(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    return clip_edges(judge, evidence) or another_batch(judge)


def _in_single_precision(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """A mistake in code that casts to float32 inside: within float64's rounding, nothing is what it predicts."""
    if judge.conventions.computes_in is not None:
        return None
    single = replace(judge, conventions=replace(judge.conventions, working_dtype="float32"))
    coarse = [evidence_on(single, e.spec, e.slack) for e in evidence if e.slack == 1]
    if not any(bool(e.wrong.any()) for e in coarse):
        return None
    for explain in (misused_edges, named, factor, term_factor, term_scaled):
        found = explain(single, coarse)
        if found is not None:
            digits = "; besides, the implementation computes in float32: working_dtype='float32' says so"
            both = f"{found.declare}, working_dtype='float32'" if found.declare else ""
            return replace(found, cause=found.cause + digits, declare=both)
    return None


_EXPLANATIONS: tuple[Callable[[Judge, list[Evidence]], Diagnosis | None], ...] = (
    no_gradient,
    misused_edges,
    named,
    _of_some_batches,
    clip_edges,
    held_number,
    known_weight,
    factor,
    term_factor,
    shortened,
    guard_added,
    lower_precision,
    advantage_normalised,
    term_scaled,
    extra_term,
    fitted_number,
    scaled_mistake,
    two_mistakes,
    _in_single_precision,
    sample_factor,
    one_layout,
)
"""The sharp explanations first; each is tried only where those before it fail."""
