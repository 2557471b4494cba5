r"""Why an implementation's gradient is not the derived one: a named cause, or what it is as a formula.

In this order: another declaration that fits; a named mistake that fits; the derived gradient times a factor that
can be recognised; else the decomposition on the field's directions, without a name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.render import text
from gradcheck.bounds import THRESHOLD
from gradcheck.case import Case
from gradcheck.compare import compare
from gradcheck.compiled import evaluate
from gradcheck.conventions import Conventions
from gradcheck.errors import GradcheckError
from gradcheck.oracle.mistakes import gradient_of_mistake, mistakes
from gradcheck.oracle.obligations import Judge
from gradcheck.oracle.reference import effective_case, overall_factor, reference
from gradcheck.oracle.results import Diagnosis
from gradcheck.oracle.xray import B, decompose, directions, recognise, scalars
from gradcheck.problems import Spec, has_clip

__all__ = ["diagnose"]


@dataclass(frozen=True)
class _Evidence:
    case: Case
    observed: Tensor
    required: Tensor
    scale: Tensor


_SHAPES = ((4, (3, 5)), (6, (2, 3, 4)), (3, (13,)), (5, (2, 2, 5)))


def diagnose(judge: Judge, policies: tuple[str, ...] = ("off",), advantage: str = "typical") -> Diagnosis:
    """Find what the implementation's gradient is consistent with, on well-conditioned problems in float64."""
    judge = replace(judge, dtype=torch.float64)
    if has_clip(judge.conventions.derivation) and policies == ("off",):
        policies = ("off", "outside", "inside", "far")
    evidence = []
    for i, (batch, latent) in enumerate(_SHAPES * 2):
        spec = Spec(batch, latent, seed=7_000 + i, policy=policies[i % len(policies)], advantage=advantage, time="middle")
        case = judge.case(spec)
        wanted = reference(judge.conventions, case)
        evidence.append(_Evidence(case, judge.observe(case).gradient, wanted.gradient, wanted.scale))
    found = _declared_otherwise(judge, evidence) or _mistake(judge, evidence) or _factor(evidence)
    shown, wanted_shown = _shown(evidence)
    if found is None:
        found = Diagnosis("unknown", _unnamed(evidence))
    return Diagnosis(found.name, found.cause, found.declare, shown, wanted_shown)


def _fits(observed: Tensor, predicted: Tensor, scale: Tensor) -> bool:
    """Equal up to rounding, on the scale of the larger of the two."""
    size = torch.maximum(predicted.abs(), observed.abs())
    wide = scale + 1e3 * size + 1e-9 * size.amax() / 2**-53 * 1e-3
    return compare(observed, predicted, wide, torch.float64).ratio <= THRESHOLD


def _declared_otherwise(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    for written, other in judge.conventions.alternatives():
        try:
            if all(_fits(e.observed, _under(judge, other, e), e.scale) for e in evidence):
                name = written.split("=")[0]
                return Diagnosis(
                    f"convention:{name}",
                    f"the implementation behaves as {written} says",
                    written,
                )
        except (GradcheckError, KeyError, ValueError):
            continue  # this declaration asks for quantities that the case does not have
    return None


def _under(judge: Judge, other: Conventions, e: _Evidence) -> Tensor:
    missing = [name for name in other.derivation.given if name not in e.case.names and name != "D"]
    if missing:
        raise KeyError(missing[0])
    case = e.case
    if "D" not in case.names:
        case = Case(case.label, {**{q: getattr(case, q) for q in case.names}, "D": float(case.v_theta[0].numel())})
    # the state was sampled by the declared step; what another step makes of it is read from the state
    noise = _noise_under(other, case)
    return reference(other, case.replace(noise=noise) if noise is not None else case).gradient


def _noise_under(other: Conventions, case: Case) -> Tensor | None:
    """The noise that another reverse step would have needed to reach the same state."""
    if "x_prev" not in case.names or n.mean_old not in other.derivation.definitions:
        return None
    mean_old, std = evaluate(other.derivation, case, n.mean_old, n.C2, dtype=torch.float64)
    return ((case.x_prev.to(torch.float64) - mean_old) / std).to(case.v_theta.dtype)


def _mistake(judge: Judge, evidence: list[_Evidence]) -> Diagnosis | None:
    conventions = judge.conventions
    for mistake in mistakes(conventions.derivation):
        for e in evidence:
            effective = effective_case(conventions, e.case)
            predicted = overall_factor(conventions, e.case) * gradient_of_mistake(mistake, effective)
            if not _fits(e.observed, predicted, e.scale):
                break
        else:
            return Diagnosis(mistake.name, mistake.sentence)
    return None


_NAMED_FACTORS: tuple[tuple[sp.Expr, str, str, str], ...] = (
    (sp.S.NegativeOne, "sign", "the gradient has the wrong sign: the loss is maximised", ""),
    (sp.Integer(2), "factor-2", "every gradient is twice the required one", ""),
    (sp.Rational(1, 2), "factor-half", "every gradient is half the required one", ""),
    (1 / n.D, "mean-for-sum", "it is averaged over the latent's coordinates where it must be summed", ""),
    (n.D, "sum-for-mean", "it is summed over the latent's coordinates where it must be averaged", ""),
    (1 / B, "batch-mean-for-sum", "it is divided by the batch size once more than declared", ""),
    (B, "batch-sum-for-mean", "it is not divided by the batch size, as declared", ""),
    (1 / n.ratio, "ratio-detached", "the importance ratio is missing from the gradient", ""),
    (1 / n.dt, "over-dt", "it is divided by Δt once too often", ""),
    (n.dt, "dt-missing", "it is not divided by Δt, or multiplied by it once too often", ""),
)


def _factor(evidence: list[_Evidence]) -> Diagnosis | None:
    """The required gradient, sample by sample times a number: which number?"""
    factors, numbers = [], []
    for e in evidence:
        per_case = scalars(e.case)
        for i in range(e.observed.shape[0]):
            required, observed = e.required[i].flatten().double(), e.observed[i].flatten().double()
            size = float(required.norm())
            if size == 0:
                if float(observed.norm()) > 0:
                    return None
                continue
            c = float(observed @ required) / size**2
            if float((observed - c * required).norm()) > 1e-8 * max(abs(c), 1e-300) * size:
                return None
            factors.append(c)
            numbers.append({s: float(x[i]) for s, x in per_case.items()})
    if not factors:
        return None
    if all(c == 0 for c in factors):
        return Diagnosis("no-gradient", "no gradient reaches v_theta at all: it is detached on the way")
    formula = recognise(factors, numbers)
    if formula is None:
        if max(factors) - min(factors) < 1e-7 * abs(factors[0]):
            return Diagnosis("factor", f"every gradient is {factors[0]:.6g} times the required one", f"factor={factors[0]:.6g}")
        return Diagnosis("sample-factor", "each sample's gradient has the right direction and a wrong length, which no formula in its scalars gives")
    for value, name, cause, declare in _NAMED_FACTORS:
        if formula == value:
            return Diagnosis(name, cause, declare or (f"factor={float(formula):g}" if formula.is_number else ""))
    declare = f"factor={float(formula):g}" if formula.is_number else ""
    return Diagnosis("factor", f"every gradient is the required one times {text(formula)}", declare)


def _shown(evidence: list[_Evidence]) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Observed and required gradient on the directions, as formulas where they are monomials."""
    out = []
    for which in ("observed", "required"):
        samples = [s for e in evidence for s in decompose(e.case, getattr(e, which))]
        exact = [s for s in samples if s.residual < 1e-7]
        rows = [(d.name, d.text) for d in directions(exact)] if exact else []
        if len(exact) < len(samples):
            worst = max(s.residual for s in samples)
            rows.append(("outside these directions", f"up to {worst:.1%} of the gradient"))
        out.append(tuple(rows))
    return out[0], out[1]


def _unnamed(evidence: list[_Evidence]) -> str:
    samples = [s for e in evidence for s in decompose(e.case, e.observed)]
    if not samples:
        return "no gradient at all"
    outside = max(s.residual for s in samples)
    if outside > 1e-6:
        return "no named mistake fits; part of the gradient lies outside the field's directions (does it depend on other samples, or on unrelated tensors?)"
    return "no named mistake fits; compare the two decompositions below"
