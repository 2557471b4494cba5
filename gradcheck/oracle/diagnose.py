r"""Why an implementation's gradient is not the derived one: a named cause, or what it is as a formula.

In this order: another declaration that fits; a named mistake that fits; the derived gradient (or one of its terms)
times a factor that can be recognised, or with another advantage; a lower precision; one layout alone; else the
decomposition on the field's directions, without a name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import ClipMask
from derivations.derivation import Derivation
from derivations.render import text
from gradcheck.bounds import THRESHOLD, unit_roundoff
from gradcheck.case import Case
from gradcheck.compiled import evaluate
from gradcheck.conventions import Conventions
from gradcheck.errors import GradcheckError
from gradcheck.oracle.formulas import EXACT, recognise
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.mistakes import EXCHANGED, ONE_EDGE, Mistake, gradient_of_mistake, mistakes
from gradcheck.oracle.reference import effective_case, overall_factor, reference, working_dtype
from gradcheck.oracle.results import Diagnosis
from gradcheck.oracle.xray import B, decompose, directions, formula_of, scalars
from gradcheck.problems import Spec, has_clip

__all__ = ["diagnose"]

_SHAPES = ((4, (3, 5)), (6, (2, 3, 4)), (3, (13,)), (5, (2, 2, 5)), (4, (2, 3, 2, 3)))
_POLICIES = ("off", "outside", "inside", "far")
_EQUAL = 1e-8
"""Relative distance below which two gradients are one: far above rounding here, far below any two mistakes."""


@dataclass(frozen=True)
class _Evidence:
    """One problem, and what the implementation made of it."""

    spec: Spec
    conventions: Conventions
    case: Case
    observed: Tensor
    required: Tensor
    scale: Tensor

    def fits(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Per sample: whether the observed gradient is the predicted one, and whether that could be judged."""
        seen, other = _rows(self.observed), _rows(predicted)
        judged = seen.isfinite().all(1) & other.isfinite().all(1)
        distance, size = _length(seen - other), torch.maximum(_length(seen), _length(other))
        return ~judged | (distance <= self.equal * size + self.rounding), judged

    @cached_property
    def rounding(self) -> Tensor:
        """What rounding may leave of a gradient that should be 0, per sample."""
        unit = unit_roundoff(working_dtype(self.conventions, self.case))
        noise = THRESHOLD * unit * _length(_rows(self.scale).nan_to_num(0.0, 0.0, 0.0))
        return noise + 1e3 * unit * float(_length(_rows(self.required)).amax())

    @cached_property
    def equal(self) -> float:
        """Relative distance below which two gradients are one."""
        return max(_EQUAL, 64 * unit_roundoff(working_dtype(self.conventions, self.case)))

    @cached_property
    def wrong(self) -> Tensor:
        """Samples that call for an explanation."""
        same, judged = self.fits(self.required)
        return judged & ~same


def _rows(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64).flatten(1)


def _length(rows: Tensor) -> Tensor:
    largest = rows.abs().amax(1, keepdim=True).clamp(min=1e-300)
    length: Tensor = torch.linalg.vector_norm(rows / largest, dim=1) * largest[:, 0]
    return length


def diagnose(judge: Judge, policies: tuple[str, ...] = ("off",), advantage: str = "typical") -> Diagnosis:
    """Find what the implementation's gradient is consistent with, on well-conditioned problems in float64."""
    judge = replace(judge, dtype=torch.float64)
    if has_clip(judge.conventions.derivation) and policies == ("off",):
        policies = _POLICIES
    evidence = [_observe(judge, i, policies, advantage) for i in range(2 * len(_SHAPES))]
    found = None
    if any(bool(e.wrong.any()) for e in evidence):
        for explain in _EXPLANATIONS:
            found = explain(judge, evidence)
            if found is not None:
                break
    else:
        found = _elsewhere(judge, evidence)
    if found is None:
        found = Diagnosis("unknown", _unnamed(evidence))
    shown, wanted_shown = _shown(evidence)
    return replace(found, observed=shown, required=wanted_shown)


def _elsewhere(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """Nothing is wrong on ordinary problems with a finite gradient: where is it?"""
    if any(not bool(e.observed.isfinite().all()) for e in evidence):
        return Diagnosis("overflow", "an intermediate overflows, or a branch that is not taken back-propagates NaN")
    on_policy = [_observe(judge, i, ("on-policy",), "typical") for i in range(len(_SHAPES))]
    if any(bool((e.wrong | ~_rows(e.observed).isfinite().all(1)).any()) for e in on_policy):
        return Diagnosis("on-policy", "the gradient is wrong, or not finite, exactly where v_theta = v_old")
    return _clip_edges(judge, evidence)


def _observe(judge: Judge, i: int, policies: tuple[str, ...], advantage: str) -> _Evidence:
    batch, latent = _SHAPES[i % len(_SHAPES)]
    clip = 1 if "clip_low" not in judge.conventions.fixed else 0  # an asymmetric one tells its edges apart
    mixed = "mixed" if advantage == "typical" and i % 2 else advantage
    policy = policies[i % len(policies)]
    spec = Spec(batch, latent, seed=7_000 + i, policy=policy, advantage=mixed, time="middle", clip=clip)
    case = judge.case(spec)
    wanted = reference(judge.conventions, case)
    return _Evidence(spec, judge.conventions, case, judge.observe(case).gradient, wanted.gradient, wanted.scale)


def _explains(evidence: list[_Evidence], predict: Callable[[_Evidence], Tensor]) -> bool:
    """Whether a hypothesis predicts every sample that can be judged, among them at least half of the wrong ones."""
    explained, wrong = 0, sum(int(e.wrong.sum()) for e in evidence)
    for e in evidence:
        same, judged = e.fits(predict(e))
        if not bool(same.all()):
            return False
        explained += int((e.wrong & judged).sum())
    return 2 * explained >= wrong


# --------------------------------------------------------------------- a declaration or a named mistake


def _no_gradient(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    if any(bool((e.observed != 0).any()) for e in evidence):
        return None
    return Diagnosis("no-gradient", "no gradient reaches v_theta at all: it is detached on the way")


def _named(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """Another declaration, or a named mistake; where both fit, leaving out a declared term is called a mistake."""
    convention = _declared_otherwise(judge, evidence)
    if convention is not None and not _leaves_out(convention.declare):
        return convention
    mistake = _mistake(judge, evidence)
    if convention is not None and mistake is not None:
        return replace(mistake, declare=convention.declare)
    return mistake or convention


def _leaves_out(written: str) -> bool:
    return written.partition("=")[2] in ("'none'", "'off'", "'uniform'")


def _declared_otherwise(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    for written, other in _alternatives(judge.conventions):

        def predict(e: _Evidence, other: Conventions = other) -> Tensor:
            return _under(other, e.case)

        try:
            if _explains(evidence, predict):
                name = written.partition("=")[0]
                return Diagnosis(f"convention:{name}", f"the implementation behaves as {written} says", written)
        except (GradcheckError, KeyError, ValueError):
            continue  # this declaration asks for quantities that the case does not have
    if judge.conventions.adv_clip_max is not None:
        free = replace(judge.conventions, adv_clip_max=None)
        if _explains(evidence, lambda e: _under(free, e.case)):
            limit = judge.conventions.adv_clip_max
            cause = f"the advantage is not clamped to ±{limit:g} as adv_clip_max declares"
            return Diagnosis("advantage-unclamped", cause, "adv_clip_max=None")
    return None


def _alternatives(conventions: Conventions) -> list[tuple[str, Conventions]]:
    return [(written, _with_derivation(other)) for written, other in conventions.alternatives()]


def _with_derivation(conventions: Conventions) -> Conventions:
    """The same declaration, its formulas derived once for all that share its options."""
    shared = _derived(conventions.algorithm, tuple(sorted(conventions.options.items())))
    conventions.__dict__["derivation"] = shared
    return conventions


@lru_cache(maxsize=200)
def _derived(algorithm: str, options: tuple[tuple[str, str], ...]) -> Derivation:
    return Conventions(algorithm, dict(options)).derivation


def _under(other: Conventions, case: Case) -> Tensor:
    """The gradient that another declaration requires on the same problem."""
    missing = [name for name in other.derivation.given if name not in case.names and name != "D"]
    if missing:
        raise KeyError(missing[0])
    if "D" not in case.names:
        size = float(case.v_theta[0].numel())
        case = Case(case.label, {**{q: getattr(case, q) for q in case.names}, "D": size})
    # the state was sampled by the declared step; what another step makes of it is read from the state
    noise = _noise_under(other, case)
    effective = effective_case(other, case if noise is None else case.replace(noise=noise))
    (gradient,) = evaluate(other.derivation, effective, other.derivation.gradient, dtype=torch.float64)
    return overall_factor(other, case) * gradient.expand(case.v_theta.shape)


def _noise_under(other: Conventions, case: Case) -> Tensor | None:
    """The noise that another reverse step would have needed to reach the same state."""
    if "x_prev" not in case.names or n.mean_old not in other.derivation.definitions:
        return None
    mean_old, std = evaluate(other.derivation, case, n.mean_old, n.C2, dtype=torch.float64)
    noise: Tensor = ((case.x_prev.to(torch.float64) - mean_old) / std).to(case.v_theta.dtype)
    return noise


def _mistake(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    for mistake in mistakes(judge.conventions.derivation):

        def predict(e: _Evidence, mistake: Mistake = mistake) -> Tensor:
            effective = effective_case(e.conventions, e.case)
            return overall_factor(e.conventions, e.case) * gradient_of_mistake(mistake, effective)

        if _explains(evidence, predict):
            return Diagnosis(mistake.name, mistake.sentence)
    return None


# ---------------------------------------------------------------------------------------- the clip's edges


def _clip_edges(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """Clipped as PPO does, at other ratios than declared: at which?"""
    derivation = judge.conventions.derivation
    if not has_clip(derivation) or not derivation.gradient.atoms(ClipMask):
        return None
    for clip in (0,) if "clip_low" in judge.conventions.fixed else (1, 2):  # an asymmetric one, and a narrow one
        found = _edges(judge, clip)
        if found is not None:
            return found
    return None


def _misused_edges(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """The declared edges in the wrong places, which ordinary problems may not tell from other mistakes."""
    found = _clip_edges(judge, evidence)
    return None if found is None or found.name == _OTHER_EDGES else found


_OTHER_EDGES = "convention:clip_range"


def _edges(judge: Judge, clip: int) -> Diagnosis | None:
    low, high = [0.0, math.inf], [0.0, math.inf]  # what the edges' distances from 1 are between
    for policy, seed in (("near", 1), ("inside", 2), ("outside", 3), ("off", 4), ("off", 5)):
        case = judge.case(Spec(_MANY, (3,), seed=9_000 + seed, policy=policy, time="middle", clip=clip))
        seen = _clipped(judge, case)
        if seen is None:
            return None
        for advantage, ratio, clipped in seen:
            edge, beyond = (high, ratio - 1) if advantage > 0 else (low, 1 - ratio)
            if clipped:
                edge[1] = min(edge[1], beyond)
            else:
                edge[0] = max(edge[0], beyond)
    if low[0] > low[1] or high[0] > high[1] or low[1] == high[1] == math.inf:
        return None  # not a clip at fixed ratios, or none
    declared = float(case.clip_low), float(case.clip_high)
    if low[0] <= declared[0] <= low[1] and high[0] <= declared[1] <= high[1]:
        return None
    if low[0] <= declared[1] <= low[1] and high[0] <= declared[0] <= high[1]:
        return Diagnosis("clip-edges-exchanged", EXCHANGED)
    for which, one in zip(("lower", "upper"), declared, strict=True):
        if low[0] <= one <= low[1] and high[0] <= one <= high[1]:
            return Diagnosis("clip-symmetric", ONE_EDGE.format(which))
    found = tuple(_roundest(*edge) for edge in (low, high))
    at = " and ".join(
        f"{'above' if up else 'below'} 1 {'+' if up else '−'} {x:g}" if math.isfinite(x) else f"not at all {side}"
        for up, x, side in ((False, found[0], "below 1"), (True, found[1], "above 1"))
    )
    cause = f"the ratio is clipped {at}, where {declared[0]:g} below and {declared[1]:g} above are declared"
    finite = all(0 < x < math.inf for x in found)
    written = f"clip_range={found[0]:g}" if found[0] == found[1] else f"clip_range=({found[0]:g}, {found[1]:g})"
    return Diagnosis(_OTHER_EDGES, cause, written if finite else "")


_MANY = 64


def _clipped(judge: Judge, case: Case) -> list[tuple[float, float, bool]] | None:
    """Advantage, ratio, and whether it is clipped, of samples that tell; ``None`` if the gradient is neither."""
    derivation, effective = judge.conventions.derivation, effective_case(judge.conventions, case)
    gradients = [derivation.gradient.replace(ClipMask, lambda *_, m=m: m) for m in (sp.S.One, sp.S.Zero)]
    free, off, ratio = evaluate(derivation, effective, *gradients, n.ratio, dtype=torch.float64)
    wanted = reference(judge.conventions, case)
    factor = overall_factor(judge.conventions, case)
    shape = case.v_theta.shape
    e = _Evidence(
        Spec(1, (1,), 0), judge.conventions, case, judge.observe(case).gradient, wanted.gradient, wanted.scale
    )
    (is_free, judged), (is_off, _) = (e.fits(factor * x.expand(shape)) for x in (free, off))
    if not bool((is_free | is_off | ~judged).all()):
        return None
    telling = judged & (is_free ^ is_off)
    rows = zip(case.advantage.tolist(), ratio.flatten().tolist(), is_off.tolist(), telling.tolist(), strict=True)
    return [(a, r, c) for a, r, c, tells in rows if tells and a != 0]


def _roundest(low: float, high: float) -> float:
    """The number of the fewest digits between two."""
    if math.isinf(high):
        return high
    middle = (low + high) / 2
    rounded = (float(f"{middle:.{digits}g}") for digits in range(1, 17))
    return next((x for x in rounded if low <= x <= high), middle)


# ------------------------------------------------------------------------------ the right thing, scaled

_NAMED_FACTORS: tuple[tuple[sp.Expr, str, str], ...] = (
    (sp.S.NegativeOne, "sign", "the gradient has the wrong sign: the loss is maximised"),
    (sp.Integer(2), "factor-2", "every gradient is twice the required one"),
    (sp.Rational(1, 2), "factor-half", "every gradient is half the required one"),
    (1 / n.D, "mean-for-sum", "it is averaged over the latent's coordinates where it must be summed"),
    (n.D, "sum-for-mean", "it is summed over the latent's coordinates where it must be averaged"),
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


def _multiples(evidence: list[_Evidence], part: list[tuple[Tensor, Tensor]]) -> list[_Scaled] | None:
    """Observed rows over required ones, sample by sample; ``None`` unless all are parallel."""
    found = []
    for number, (e, (observed, required)) in enumerate(zip(evidence, part, strict=True)):
        per_case = scalars(effective_case(e.conventions, e.case))
        seen, wanted = _rows(observed), _rows(required)
        for i in range(len(seen)):
            size = float(_length(wanted[i : i + 1]))
            if not bool(seen[i].isfinite().all()):
                continue
            if size <= float(e.rounding[i]):
                if float(_length(seen[i : i + 1])) > 2 * float(e.rounding[i]):
                    return None
                continue
            c = float((seen[i] / size) @ (wanted[i] / size))
            left = float((seen[i] - c * wanted[i]).norm())
            if left > e.equal * abs(c) * size + float(e.rounding[i]):
                return None
            clean = 0.0 if abs(c) < 1e-10 else c
            off = max(EXACT, e.equal) * abs(c) + float(e.rounding[i]) / size
            found.append(_Scaled(number, clean, off, {s: float(x[i]) for s, x in per_case.items()}))
    return found


def _factor(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """The required gradient, sample by sample times a number: which number?"""
    found = _multiples(evidence, [(e.observed, e.required) for e in evidence])
    if not found:
        return None
    factors = [s.factor for s in found]
    formula = recognise(factors, [s.scalars for s in found], [s.error for s in found])
    if formula is not None:
        for value, name, cause in _NAMED_FACTORS:
            if formula == value:
                return Diagnosis(name, cause, f"factor={float(formula):g}" if formula.is_number else "")
        if formula.is_number:
            c = factors[0]
            return Diagnosis("factor", f"every gradient is {c:.6g} times the required one", f"factor={c:.6g}")
        if not formula.free_symbols <= {B, n.D}:
            return Diagnosis("factor", f"every gradient is the required one times {text(formula_of(formula))}")
    return _clamp(evidence, found) or _common(evidence, found)


def _clamp(evidence: list[_Evidence], found: list[_Scaled]) -> Diagnosis | None:
    """1 up to some |A|, and limit/|A| beyond."""
    beyond = [s for s in found if n.advantage in s.scalars and abs(s.factor - 1) > s.error]
    limits = [s.factor * abs(s.scalars[n.advantage]) for s in beyond]
    equal = max((s.error / abs(s.factor) for s in beyond if s.factor), default=0.0)
    if len(limits) < 2 or limits[0] <= 0 or max(limits) - min(limits) > 2 * equal * limits[0]:
        return None
    inside = [s for s in found if s not in beyond]
    if any(abs(s.scalars[n.advantage]) > limits[0] * (1 + 2 * equal) for s in inside):
        return None
    written = f"adv_clip_max={limits[0]:.6g}"
    return Diagnosis("convention:adv_clip_max", f"the implementation behaves as {written} says", written)


def _common(evidence: list[_Evidence], found: list[_Scaled]) -> Diagnosis | None:
    """One factor for the whole problem."""
    by_problem = [[s for s in found if s.problem == i] for i in range(len(evidence))]
    if not all(_one_number(f) for f in by_problem):
        return None
    by_shape: dict[tuple[int, tuple[int, ...]], list[_Scaled]] = {}
    for e, f in zip(evidence, by_problem, strict=True):
        by_shape.setdefault((e.spec.batch, e.spec.latent), []).extend(f[:1])
    if all(_one_number(f) for f in by_shape.values()):
        cause = (
            "all gradients of a batch are scaled alike, by its shape alone: an average counts padding, or masked parts"
        )
        return Diagnosis("shape-factor", cause)
    cause = (
        "all gradients of a batch are scaled alike, by a number that its samples decide: a normalisation over the batch"
    )
    return Diagnosis("batch-normalised", cause)


def _one_number(found: list[_Scaled]) -> bool:
    """Whether all factors may be the same one."""
    return max((s.factor - s.error for s in found), default=0.0) <= min(
        (s.factor + s.error for s in found), default=0.0
    )


def _sample_factor(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """A factor that differs from sample to sample, and has no formula."""
    if not _multiples(evidence, [(e.observed, e.required) for e in evidence]):
        return None
    cause = "each sample's gradient has the right direction and a wrong length, which no formula in its scalars gives"
    return Diagnosis("sample-factor", cause)


def _policy_and_reference(e: _Evidence) -> tuple[Tensor, Tensor]:
    """The required gradient's two terms."""
    derivation = e.conventions.derivation
    silent = derivation.gradient.xreplace({n.kl_weight: sp.S.Zero})
    (gradient,) = evaluate(derivation, effective_case(e.conventions, e.case), silent, dtype=torch.float64)
    policy = overall_factor(e.conventions, e.case) * gradient.expand(e.required.shape)
    return policy, e.required - policy


def _advantage(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """The right gradient for other advantages: which?  Only where no clip hides a change of their sign."""
    if n.advantage.name not in judge.conventions.derivation.given:
        return None
    clipped = has_clip(judge.conventions.derivation)
    chosen = [e for e in evidence if not clipped or e.spec.policy == "inside"]
    ones = [replace(e, case=e.case.replace(advantage=torch.ones_like(e.case.advantage))) for e in chosen]
    units = [_policy_and_reference(e)[0] for e in ones]
    parts = [(e.observed - _policy_and_reference(e)[1], unit) for e, unit in zip(chosen, units, strict=True)]
    found = _multiples(chosen, parts)
    if not found:
        return None
    enough = False
    for number in range(len(chosen)):
        rows = [(s.scalars[n.advantage], s.factor) for s in found if s.problem == number]
        given, used = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
        design = torch.stack([given, torch.ones_like(given)], 1)
        solution = torch.linalg.lstsq(design, used[:, None]).solution
        left = (design @ solution)[:, 0] - used
        if float(left.abs().amax()) > 1e-5 * float(used.abs().amax()) or float(solution[0]) <= 0:
            return None
        enough = enough or (len(rows) > 3 and abs(float(solution[1])) > 1e-6 * float(used.abs().amax()))
    if not enough:
        return None
    cause = "the advantage is shifted and scaled by numbers that its batch decides: it is normalised once more"
    return Diagnosis("advantage-normalised-twice", cause)


def _term_factor(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """One term right and the other one times a factor that has a formula."""
    return _scaled_term(judge, evidence, by_formula=True)


def _term_scaled(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """One term right and the other one too long or too short."""
    return _scaled_term(judge, evidence, by_formula=False)


def _scaled_term(judge: Judge, evidence: list[_Evidence], by_formula: bool) -> Diagnosis | None:
    if not judge.conventions.derivation.loss.has(n.kl_weight):
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


# ------------------------------------------------------------------------------- precision and layout


def _precision(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """Right to a few digits, within the error bound of a lower precision."""
    distances = []
    for e in evidence:
        seen, wanted = _rows(e.observed), _rows(e.required)
        size = _length(wanted)
        both = (size > e.rounding) & (_length(seen) > e.rounding)
        distances.append((_length(seen - wanted) / size)[both])
    relative = torch.cat(distances)
    if len(relative) == 0 or not 1e-10 < float(relative.median()) < 0.1 or float(relative.quantile(0.75)) > 0.3:
        return None
    for dtype, most in (("float32", 1e-3), ("float16", 0.1), ("bfloat16", 0.1)):
        lower = replace(judge.conventions, working_dtype=dtype)
        if float(relative.median()) > most or not all(
            reference(_sharing(lower, judge.conventions), e.case).compare(e.observed).holds for e in evidence
        ):
            continue
        digits = f"right to a relative {float(relative.median()):.1g} in the median"
        if dtype == "float32":
            cause = f"{digits}, as float32 is: the implementation casts to it inside"
            return Diagnosis("convention:working_dtype", cause, "working_dtype='float32'")
        return Diagnosis(
            "half-precision", f"{digits}, as {dtype} is: part of it has that precision (or a small ε is added)"
        )
    return None


def _sharing(conventions: Conventions, other: Conventions) -> Conventions:
    conventions.__dict__["derivation"] = other.derivation
    return conventions


def _layout(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    """Right for latents of one rank, wrong for those of another."""
    ranks = {len(e.spec.latent) for e in evidence}
    wrong = {len(e.spec.latent) for e in evidence if bool((e.wrong | ~_rows(e.observed).isfinite().all(1)).any())}
    right = ranks - wrong
    if not right or not wrong:
        return None
    names = {1: "(B, D)", 2: "(B, S, C)", 3: "(B, C, H, W)", 4: "(B, C, T, H, W)"}
    listed = ", ".join(names[r] for r in sorted(wrong))
    kept = ", ".join(names[r] for r in sorted(right))
    return Diagnosis(
        "layout", f"right for latents {kept} and wrong for {listed}: a reshape or broadcast for one layout"
    )


def _shown(evidence: list[_Evidence]) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Observed and required gradient on the directions, as formulas where they are monomials."""
    out = []
    for which in ("observed", "required"):
        samples = [s for e in evidence for s in decompose(effective_case(e.conventions, e.case), getattr(e, which))]
        exact = [s for s in samples if s.residual < 1e-7]
        rows = [(d.name, d.text) for d in directions(exact)] if exact else []
        if len(exact) < len(samples):
            worst = max(s.residual for s in samples)
            rows.append(("outside these directions", f"up to {worst:.1%} of the gradient"))
        out.append(tuple(rows))
    return out[0], out[1]


def _unnamed(evidence: list[_Evidence]) -> str:
    if not any(bool(e.wrong.any()) for e in evidence):
        return "no named mistake fits: the gradient is right on ordinary problems"
    samples = [s for e in evidence for s in decompose(e.case, e.observed)]
    if not samples:
        return "no gradient at all"
    if max(s.residual for s in samples) > 1e-6:
        return (
            "no named mistake fits; part of the gradient lies outside the field's directions "
            "(does it depend on other samples, or on unrelated tensors?)"
        )
    return "no named mistake fits; compare the two decompositions below"


_EXPLANATIONS: tuple[Callable[[Judge, list[_Evidence]], Diagnosis | None], ...] = (
    _no_gradient,
    _misused_edges,
    _named,
    _clip_edges,
    _factor,
    _term_factor,
    _precision,
    _advantage,
    _term_scaled,
    _sample_factor,
    _layout,
)
"""The sharp explanations first; each is tried only where those before it fail."""
