"""The derived gradient, or one of its terms, times a number: which number, as a formula?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.pieces import Piece
from derivations.writing.render import text
from gradcheck.derived.compiled import evaluate
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.declarable import weight_declared
from gradcheck.oracle.diagnosis.evidence import Evidence, lengths, plain, rows_of
from gradcheck.oracle.diagnosis.facts import others_that_matter
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.required import overall_factor
from gradcheck.reading.formulas import EXACT, recognise
from gradcheck.reading.xray import B, formula_of, scalars

__all__ = ["advantage_normalised", "factor", "sample_factor", "term_factor", "term_scaled"]

_NAMED_FACTORS: tuple[tuple[sp.Expr, str, str], ...] = (
    (sp.S.NegativeOne, "sign", "the gradient has the wrong sign: the loss is maximised"),
    (sp.Integer(2), "factor-2", "every gradient is twice the required one"),
    (sp.Rational(1, 2), "factor-half", "every gradient is half the required one"),
    (1 / n.D, "mean-for-sum", "it is averaged over the latent's coordinates where it must be summed"),
    (n.D, "sum-for-mean", "it is summed over the latent's coordinates where it must be averaged"),
    (n.D / (n.D - 1), "mean-over-one-less", "the mean over the coordinates is their sum over D − 1; it must be over D"),
    (B / (B - 1), "mean-over-one-less", "the mean over the batch is its sum over B − 1; it must be over B"),
    (1 / B, "batch-mean-for-sum", "it is divided by the batch size once more than declared"),
    (B, "batch-sum-for-mean", "it is not divided by the batch size, as declared"),
    (1 / n.ratio, "ratio-detached", "the importance ratio is missing from the gradient"),
    (1 / n.dt, "over-dt", "it is divided by Δt once too often"),
    (n.dt, "dt-missing", "it is not divided by Δt, or multiplied by it once too often"),
    (sp.sqrt(n.dt), "root-dt", "it is multiplied by √Δt once too often (or divided by √Δt where Δt belongs)"),
    (n.beta, "beta-missing", "it is not divided by β, or multiplied by it once too often"),
    (1 / n.beta, "over-beta", "it is divided by β once too often"),
)


@dataclass(frozen=True)
class _Scaled:
    """One sample's observed gradient as a multiple of another one, and how far rounding may put that off."""

    problem: int
    factor: float
    error: float
    scalars: dict[sp.Symbol, float]


def _multiples(evidence: list[Evidence], part: list[tuple[Tensor, Tensor]]) -> list[_Scaled] | None:
    """Observed rows over required ones, sample by sample; ``None`` unless all are parallel."""
    found = []
    faint = []  # how much longer than what rounding leaves those are that should be no longer
    for number, (e, (observed, required)) in enumerate(zip(evidence, part, strict=True)):
        per_case = scalars(effective_case(e.conventions, e.case))
        seen, wanted = rows_of(observed), rows_of(required)
        for i in range(len(seen)):
            size = float(lengths(wanted[i : i + 1]))
            if not bool(seen[i].isfinite().all()):
                continue
            if size <= float(e.rounding[i]):
                if not bool(e.undecided[i]):
                    faint.append(float(lengths(seen[i : i + 1])) / max(float(e.rounding[i]), 1e-300))
                continue
            if bool(e.undecided[i]):
                continue  # on which branch it is, rounding decides
            c = float((seen[i] / size) @ (wanted[i] / size))
            left = float((seen[i] - c * wanted[i]).norm())
            if left > e.equal * abs(c) * size + float(e.rounding[i]):
                return None
            clean = 0.0 if abs(c) < 1e-10 else c
            off = (max(EXACT, e.equal) + float(e.loose[i])) * abs(c) + float(e.rounding[i]) / size
            found.append(_Scaled(number, clean, off, {s: float(x[i]) for s, x in per_case.items()}))
    if max(faint, default=0.0) > 1 + max((abs(s.factor) for s in found), default=1.0):
        return None
    return found


def factor(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """The required gradient, sample by sample times a number: which number?"""
    found = _multiples(evidence, [(e.observed, e.required) for e in evidence])
    if not found:
        return None
    factors = [s.factor for s in found]
    formula = recognise(factors, [s.scalars for s in found], [s.error for s in found])
    if formula is None or formula.has(
        sp.Float
    ):  # where rounding leaves no more digits, a name may fit that they don't tell
        known = next((x for x in _NAMED_FACTORS if _within(x[0], found)), None)
        if known is not None:
            return Diagnosis(known[1], known[2], f"factor={float(known[0]):g}" if known[0].is_number else "")
    if formula is not None:
        for value, name, cause in _NAMED_FACTORS:
            if formula == value:
                weight = weight_declared(judge.conventions, formula_of(formula))
                return Diagnosis(name, cause, f"factor={float(formula):g}" if formula.is_number else weight)
        if formula.is_number:
            c = factors[0]
            if abs(c - 1) < _CLOSE_TO_ONE:
                return None  # a shift so small is no factor that somebody wrote
            written = str(formula) if formula.is_Float else f"{c:.6g}"
            written = f"{float(written):g}"  # a Float has the digits that rounding leaves
            return Diagnosis("factor", f"every gradient is {written} times the required one", f"factor={written}")
        if not formula.free_symbols <= {B, n.D}:
            cause = f"every gradient is the required one times {text(formula_of(formula))}"
            return Diagnosis("factor", cause, weight_declared(judge.conventions, formula_of(formula)))
    return _about_one(found) or _clamp(evidence, found) or _common(judge, evidence, found)


def _within(value: sp.Expr, found: list[_Scaled]) -> bool:
    """Whether a name's formula gives every factor as far as rounding tells, and 1 does not."""
    if len(found) < _FEW or not value.free_symbols <= set(found[0].scalars):
        return False
    if value.free_symbols and _one_number(found):
        return False  # one number gives all of them, and needs no formula
    told = [(s, value.xreplace({x: sp.Float(s.scalars[x]) for x in value.free_symbols})) for s in found]
    wanted = [(s, float(w)) for s, w in told if w.is_finite]  # a mean over B − 1 of one sample is none
    return all(abs(s.factor - w) <= s.error for s, w in wanted) and (
        sum(abs(w - 1) > s.error for s, w in wanted) >= _FEW
    )


_FEW = 3
_SCATTER = 1 / 8
"""How far single factors may lie from their median, as a share of its distance from 1."""
_ENOUGH = 8
_COARSE = 0.05
"""What rounding may put a factor off there, relative to it, at least: below, formulas tell more."""


def _about_one(found: list[_Scaled]) -> Diagnosis | None:
    """One number for all, where the precision is so coarse that its bounds alone would allow for many.

    What is said is what is seen: the factors lie close together, and far from 1.
    """
    factors = torch.tensor([s.factor for s in found], dtype=torch.float64)
    if len(found) < _ENOUGH or min(s.error - _COARSE * abs(s.factor) for s in found) < 0:
        return None
    middle = float(factors.median())
    scatter = float((factors - middle).abs().amax())
    if scatter > _SCATTER * abs(middle - 1) or abs(middle) <= scatter:
        return None
    for value, name, cause in _NAMED_FACTORS:
        if value.is_number and abs(middle - float(value)) <= scatter:
            return Diagnosis(name, cause, f"factor={float(value):g}")
    return Diagnosis("factor", f"every gradient is about {middle:.2g} times the required one")


def _clamp(evidence: list[Evidence], found: list[_Scaled]) -> Diagnosis | None:
    """1 up to some |A|, and limit/|A| beyond."""
    beyond = [s for s in found if n.advantage in s.scalars and abs(s.factor - 1) > s.error]
    sizes = [abs(s.scalars[n.advantage]) for s in beyond]
    limits = sorted(
        (s.error * size, s.factor * size) for s, size in zip(beyond, sizes, strict=True)
    )  # the sharpest first
    if len(limits) < 3 or limits[0][1] <= 0 or limits[2][0] > 1e-3 * limits[0][1]:
        return None
    off, limit = limits[0]
    if any(abs(x - limit) > 2 * (off + y) for y, x in limits):
        return None
    inside = [s for s in found if s not in beyond]
    if any(abs(s.scalars[n.advantage]) * (1 - 2 * s.error) > limit + 2 * off for s in inside):
        return None
    written = f"adv_clip_max={limit:.6g}"
    return Diagnosis("convention:adv_clip_max", f"the implementation behaves as {written} says", written)


_CLOSE_TO_ONE = 1e-5


def _common(judge: Judge, evidence: list[Evidence], found: list[_Scaled]) -> Diagnosis | None:
    """One factor for the whole problem."""
    by_problem = [[s for s in found if s.problem == i] for i in range(len(evidence))]
    if not all(_one_number(f) for f in by_problem):
        return None
    if min((abs(s.factor) for s in found), default=0.0) == 0 or any(abs(s.factor - 1) <= s.error for s in found):
        return None  # some samples have no gradient, or are right: that is no common factor
    by_shape: dict[tuple[int, tuple[int, ...]], list[_Scaled]] = {}
    for e, f in zip(evidence, by_problem, strict=True):
        by_shape.setdefault((e.spec.batch, e.spec.latent), []).extend(f[:1])
    if all(_one_number(f) for f in by_shape.values()):
        cause = (
            "all gradients of a batch are scaled alike, by its shape alone: an average counts padding, or masked parts"
        )
        return Diagnosis("shape-factor", cause)
    if not others_that_matter(judge, evidence):
        return None
    cause = (
        "all gradients of a batch are scaled alike, by a number that its samples decide: a normalisation over the batch"
    )
    return Diagnosis("batch-normalised", cause)


def _one_number(found: list[_Scaled]) -> bool:
    """Whether all factors may be the same one."""
    return max((s.factor - s.error for s in found), default=0.0) <= min(
        (s.factor + s.error for s in found), default=0.0
    )


def sample_factor(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """A factor that differs from sample to sample, and has no formula."""
    found = _multiples(evidence, [(e.observed, e.required) for e in evidence])
    if not found or _one_number(found):
        return None
    cause = "each sample's gradient has the right direction and a wrong length, for which no simple formula was found"
    others = others_that_matter(judge, evidence)
    if others:
        cause += f"; it depends on the other samples' {', '.join(others)}"
    return Diagnosis("sample-factor", cause)


def _policy_and_reference(e: Evidence) -> tuple[Tensor, Tensor]:
    """The required gradient's two terms."""
    derivation = e.conventions.derivation
    silent = derivation.gradient.xreplace({n.kl_weight: sp.S.Zero})
    (gradient,) = evaluate(derivation, effective_case(e.conventions, e.case), silent, dtype=torch.float64)
    policy = overall_factor(e.conventions, e.case) * gradient.expand(e.required.shape)
    return policy, e.required - policy


def advantage_normalised(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """The right gradient for other advantages: which?  Only where no clip hides a change of their sign."""
    if Piece.ADVANTAGE not in judge.conventions.derivation.pieces:
        return None
    clipped = Piece.RATIO in judge.conventions.derivation.pieces
    chosen = [e for e in evidence if not clipped or e.spec.policy == "inside"]
    ones = [replace(e, case=e.case.replace(advantage=torch.ones_like(e.case.advantage))) for e in chosen]
    units = [_policy_and_reference(e)[0] for e in ones]
    parts = [(e.observed - _policy_and_reference(e)[1], unit) for e, unit in zip(chosen, units, strict=True)]
    found = _multiples(chosen, parts)
    if not found:
        return None
    enough = False
    lines = []
    for number in range(len(chosen)):
        rows = [(s.scalars[n.advantage], s.factor) for s in found if s.problem == number]
        if len({a for a, _ in rows}) < 2:
            continue
        given, used = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
        design = torch.stack([given, torch.ones_like(given)], 1)
        solution = torch.linalg.lstsq(design, used[:, None]).solution
        left = (design @ solution)[:, 0] - used
        slope = float(solution[0]) * float(given.abs().amax())
        if float(left.abs().amax()) > 1e-5 * float(used.abs().amax()) or slope <= 1e-5 * float(used.abs().amax()):
            return None
        lines.append((float(solution[0]), float(solution[1])))
        enough = enough or (len(rows) > 3 and abs(float(solution[1])) > 1e-6 * float(used.abs().amax()))
    if not enough:
        return None
    shifts = [shift for _, shift in lines]
    if all(abs(slope - 1) < 1e-5 for slope, _ in lines) and max(shifts) - min(shifts) < 1e-5 * abs(shifts[0]):
        return Diagnosis("advantage-shifted", f"{plain(shifts[0], 1e-5):.6g} is added to the advantage")
    if "A" not in others_that_matter(judge, evidence):
        return None
    cause = "the advantage is shifted and scaled by numbers that its batch decides: it is normalised once more"
    return Diagnosis("advantage-normalised-twice", cause)


def term_factor(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """One term right and the other one times a factor that has a formula."""
    return _scaled_term(judge, evidence, by_formula=True)


def term_scaled(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """One term right and the other one too long or too short."""
    return _scaled_term(judge, evidence, by_formula=False)


def _scaled_term(judge: Judge, evidence: list[Evidence], by_formula: bool) -> Diagnosis | None:
    if Piece.REFERENCE not in judge.conventions.derivation.pieces:
        return None
    terms = [_policy_and_reference(e) for e in evidence]
    for which, name, word in ((0, "policy-factor", "policy's term"), (1, "kl-factor", "KL or reference term")):
        parts = [(e.observed - t[1 - which], t[which]) for e, t in zip(evidence, terms, strict=True)]
        found = _multiples(evidence, parts)
        if not found:
            continue
        formula = recognise([s.factor for s in found], [s.scalars for s in found], [s.error for s in found])
        if formula is None and by_formula:
            continue
        by = "scaled by a number that no formula gives" if formula is None else f"times {text(formula_of(formula))}"
        return Diagnosis(name, f"the {word} is the required one {by}; the rest is right")
    return None
