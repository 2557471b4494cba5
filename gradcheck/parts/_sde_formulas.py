"""What a reverse step must return, from the derivations' formulas, and the wrong ones that are written in the field."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import Norm2
from derivations.derivation import Derivation
from derivations.losses._policy_gradient import GaussianPolicy
from derivations.losses.flow_grpo import ALGORITHM as FLOW_GRPO
from derivations.steps.sde import reverse_step
from derivations.variant import Variant
from derivations.writing.torchgen import ordered_formulas
from gradcheck.case import Case
from gradcheck.oracle.mistakes.densities import FLOAT32_ERRORS
from gradcheck.parts._sde_mistakes import SIGMAS, drifts, slope_with
from gradcheck.parts._sde_parameterisation import reparameterise, slope_through_predictions
from gradcheck.rounding.bounds import Analysis

__all__ = ["Formulas", "formulas", "required", "wrong_formulas"]


SdeName = Literal["flow", "dance", "cps", "wan"]
ReturnedStd = Literal["step", "sigma"]
Reduction = Literal["mean", "sum"]
Scale = Literal["gaussian", "unit"]
Normaliser = Literal["full", "none"]
Times = Literal["own", "exchanged", "first"]
"""What a function takes for its times: each sample's own, those of the two ends exchanged, or the first sample's."""


@dataclass(frozen=True)
class Formulas:
    """One requirement on a reverse step.

    Attributes:
        sde: the step's kind.
        mean: as its source writes it.
        std: the standard deviation with which it is sampled.
        returned: what the function returns as its standard deviation.
        precision, constant: the log-probability of ``x_prev`` is −precision·‖x_prev − mean‖² − constant.
        slope: ∂mean/∂v.
        times: what the function takes for its times: ``"own"``, ``"exchanged"`` or ``"first"`` (of the batch).
    """

    sde: SdeName
    mean: sp.Expr
    std: sp.Expr
    returned: sp.Expr
    precision: sp.Expr
    constant: sp.Expr
    slope: sp.Expr
    times: Times = "own"

    @property
    def log_prob(self) -> sp.Expr:
        """Of ``x_prev``."""
        return -self.precision * Norm2(n.x_prev - self.mean) - self.constant


@lru_cache(maxsize=100)
def formulas(
    sde: SdeName, returns_std: ReturnedStd, reduction: Reduction, scale: Scale, normaliser: Normaliser
) -> Formulas:
    """The declared requirement."""
    step = reverse_step(sde)
    policy = GaussianPolicy(sde=sde, log_prob_reduction=reduction, log_prob_scale=scale)
    constant = policy.normaliser if normaliser == "full" else sp.S.Zero
    returned = n.C2 if returns_std == "step" else n.C2 / sp.sqrt(n.dt)
    return Formulas(sde, step.mean, n.C2, returned, policy.precision, constant, -n.C1)


@lru_cache(maxsize=100)
def _carrier(sde: SdeName, at_one: str | float) -> Derivation:
    """A derivation that has the step's symbols, with t, t_prev, dt and x_prev given; at t = 1 as declared."""
    derivation = FLOW_GRPO.derive(Variant("declared", "a reverse step alone", {"sde": sde}))
    definitions = {s: e for s, e in derivation.definitions.items() if s != n.x_prev}
    coefficients = {s: e for s, e in derivation.coefficients.items() if s != n.t_prev}
    if at_one != "regular" and sde == "flow":
        numerator = n.t_prev if at_one == "next" else n.t
        stand_in = n.t_prev if isinstance(at_one, str) else sp.Rational(at_one)
        coefficients[n.sigma_t] = n.noise_level * sp.sqrt(numerator / (1 - stand_in))
    return replace(derivation, definitions=definitions, coefficients=coefficients)


@lru_cache(maxsize=1000)
def _ordered(sde: SdeName, at_one: str | float, expr: sp.Expr) -> tuple[tuple[sp.Symbol, sp.Expr], ...]:
    return ordered_formulas(_carrier(sde, at_one), expr)


@lru_cache(maxsize=256)
def required(
    sde: SdeName,
    case: Case,
    expr: sp.Expr,
    dtype: torch.dtype,
    at_one: str | float = "regular",
    times: Times = "own",
    bounded: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""A formula's value and its error scale on a case: the larger of the formula's own and of that after one change of
    parameterisation.

    Returns:
        Two float64 tensors of shape (B, \*latent) or (B, 1, …, 1).
    """
    if times == "exchanged":
        case = case.replace(t=case.t_prev, t_prev=case.t, dt=-case.dt)
    elif times == "first":
        case = case.replace(**{q: getattr(case, q)[:1].expand_as(case.t) for q in ("t", "t_prev", "dt")})
    with torch.no_grad():
        analysis = Analysis(case.broadcast(torch.float64), dtype)
        dt = analysis.values["dt"]
        analysis.memo[n.dt] = dt, torch.ones_like(dt)  # a difference of times, each rounded at the size of 1
        value, scale = _analysed(analysis, sde, at_one, expr)
        if bounded:
            reparameterise(analysis)
            other = _analysed(analysis, sde, at_one, expr.xreplace({n.C1: slope_through_predictions(sde)}))[1]
            scale = torch.maximum(scale, other)
    shape = (case.v_theta.shape[0], *(1,) * (case.v_theta.ndim - 1))
    size = value.new_zeros(shape)
    return value + size, scale + analysis.floor + 2 * value.abs() + size


def _analysed(analysis: Analysis, sde: SdeName, at_one: str | float, expr: sp.Expr) -> tuple[Tensor, Tensor]:
    for symbol, formula in _ordered(sde, at_one, expr):
        analysis.define(symbol, formula)
    return analysis(expr)


def wrong_formulas(right: Formulas) -> Iterator[tuple[str, str, Formulas]]:
    """Named mistakes: an id, a sentence, and what the function would return."""
    yield from _mean_mistakes(right)
    yield from _std_mistakes(right)
    yield from _log_prob_mistakes(right)
    yield "times-exchanged", "t and t_prev are exchanged", replace(right, times="exchanged")
    yield "times-shared", "the first sample's times are used for the whole batch", replace(right, times="first")


def _mean_mistakes(right: Formulas) -> Iterator[tuple[str, str, Formulas]]:
    if right.sde == "cps":
        kept = sp.sqrt(n.t_prev**2 - n.C2**2)
        whole = right.mean.xreplace({kept: n.t_prev})
        yield (
            "noise-budget",
            "the predicted noise is kept whole: t' stands where √(t'² − s²) belongs",
            replace(right, mean=whole, slope=(1 - n.t) * n.t_prev - n.t * (1 - n.t_prev)),
        )
        for wrong, angle in (
            ("η", n.noise_level),
            ("sin η", sp.sin(n.noise_level)),
            ("sin(η π)", sp.sin(n.noise_level * sp.pi)),
            ("cos(η π/2)", sp.cos(n.noise_level * sp.pi / 2)),
        ):
            sentence = f"the standard deviation is t' {wrong}; it must be t' sin(η π/2)"
            yield "noise-level-angle", sentence, _with_std(right, n.t_prev * angle)
        before = "the standard deviation is t sin(η π/2), of the time before the step; it must be t' sin(η π/2)"
        yield "std-time-before", before, _with_std(right, n.t * sp.sin(n.noise_level * sp.pi / 2))
        for name, sentence, signal, noise in (
            (
                "noise-budget",
                "the predicted noise keeps t' − s; it must keep √(t'² − s²)",
                1 - n.t_prev,
                n.t_prev - n.C2,
            ),
            (
                "noise-budget",
                "the predicted noise keeps √(t² − s²), of the time before the step; it must keep √(t'² − s²)",
                1 - n.t_prev,
                sp.sqrt(n.t**2 - n.C2**2),
            ),
            (
                "signal-before-the-step",
                "the predicted data is multiplied by 1 − t; it must be by 1 − t'",
                1 - n.t,
                kept,
            ),
        ):
            mean = signal * (n.x_t - n.t * n.v_theta) + noise * (n.x_t + (1 - n.t) * n.v_theta)
            yield name, sentence, replace(right, mean=mean, slope=(1 - n.t) * noise - n.t * signal)
        return
    ode = n.x_t - n.v_theta * n.dt
    correction = right.mean - ode
    for name, sentence, mean, slope in (
        (
            "score-correction-missing",
            "the score correction σ_t²/(2t)·(x + (1 − t)v) is missing from the mean",
            ode,
            -n.dt,
        ),
        ("score-sign", "the score correction has the wrong sign", ode - correction, n.C1 - 2 * n.dt),
        ("score-half", "the score correction lacks its factor 1/2", ode + 2 * correction, n.dt - 2 * n.C1),
        ("dt-sign", "the step goes the wrong way: Δt has the wrong sign in the mean", 2 * n.x_t - right.mean, n.C1),
        *drifts(),
    ):
        yield name, sentence, replace(right, mean=mean, slope=slope)


def _with_std(right: Formulas, std: sp.Expr) -> Formulas:
    """CPS's step with another standard deviation, in its mean too."""
    change = {n.C2: std}
    kept = sp.sqrt(n.t_prev**2 - std**2)
    return replace(
        right,
        mean=right.mean.xreplace(change),
        std=std,
        returned=right.returned.xreplace(change),
        precision=right.precision.xreplace(change),
        constant=right.constant.xreplace(change),
        slope=(1 - n.t) * kept - n.t * (1 - n.t_prev),
    )


def _std_mistakes(right: Formulas) -> Iterator[tuple[str, str, Formulas]]:
    def used(std: sp.Expr) -> Formulas:
        """The same wrong standard deviation wherever it is used outside the mean."""
        change = {n.C2: std}
        precision, constant = right.precision.xreplace(change), right.constant.xreplace(change)
        return replace(right, std=std, returned=right.returned.xreplace(change), precision=precision, constant=constant)

    for name, sentence, other in SIGMAS if right.sde == "flow" else ():
        everywhere = used(other * sp.sqrt(n.dt))
        yield name, sentence, replace(everywhere, mean=right.mean.xreplace({n.sigma_t: other}), slope=slope_with(other))
    if right.sde != "cps":
        sigma = n.C2 / sp.sqrt(n.dt)
        without = "the standard deviation lacks √Δt: the noise is scaled by σ_t alone"
        for name, sentence, wrong in (
            ("std-without-dt", without, sigma),
            ("std-dt-twice", "√Δt enters the standard deviation twice", n.C2 * sp.sqrt(n.dt)),
        ):
            everywhere = used(wrong)
            yield name, sentence, everywhere
            yield name, f"{sentence}; what is returned is right", replace(everywhere, returned=right.returned)
            sampled = f"{sentence}, where the state is sampled alone"
            yield name, sampled, replace(right, std=wrong)
        yield (
            "log-prob-without-dt",
            "the log-probability uses σ_t where the step's standard deviation σ_t √Δt belongs",
            replace(right, precision=used(sigma).precision, constant=used(sigma).constant),
        )
    yield "std-squared", "the variance stands where the standard deviation belongs", used(n.C2**2)
    squared = replace(right, returned=right.returned**2)
    yield "returned-variance", "the variance is returned where the standard deviation belongs", squared
    for what, factor in (
        ("the noise level η", n.noise_level),
        ("√2", sp.sqrt(2)),
        ("2", sp.Integer(2)),
        ("1/√2", 1 / sp.sqrt(2)),
        ("1/2", sp.Rational(1, 2)),
    ):
        scaled = f"the noise is multiplied by {what} once too often where the state is sampled"
        yield "noise-scaled", scaled, replace(right, std=right.std * factor)
    yield "no-noise", "no noise is added: the state is the mean", replace(right, std=sp.S.Zero)


def _log_prob_mistakes(right: Formulas) -> Iterator[tuple[str, str, Formulas]]:
    if right.precision.has(n.C2):
        single = replace(right, precision=right.precision * n.C2)
        yield "distance-over-std", "the squared distance is divided by 2 S; 2 S² belongs there", single
        squared = replace(right, precision=right.precision / n.C2**2)
        yield "distance-over-variance-squared", "the squared distance is divided by 2 S⁴; 2 S² belongs there", squared
    for name, sentence, factor in (
        ("log-prob-base-ten", "the log-probability is a logarithm to base 10; it must be the natural one", sp.log(10)),
        (
            "log-prob-over-root",
            "the log-probability is a sum over √D coordinates; it must be "
            + ("their mean" if right.precision.has(n.D) else "the sum"),
            1 / sp.sqrt(n.D) if right.precision.has(n.D) else sp.sqrt(n.D),
        ),
    ):
        divided = replace(right, precision=right.precision / factor, constant=right.constant / factor)
        yield name, sentence, divided
    doubled = replace(right, precision=2 * right.precision)
    yield "half-missing", "the log-probability lacks its factor 1/2", doubled
    negative = replace(right, precision=-right.precision, constant=-right.constant)
    yield "log-prob-sign", "the log-probability has the wrong sign", negative
    flipped = replace(right, precision=-right.precision)
    yield "square-sign", "the squared distance in the log-probability has the wrong sign", flipped
    if right.constant == 0:
        return
    count = right.constant.coeff(sp.log(n.C2))
    for name, sentence, part in (
        *(("two-pi-float32", "½ log 2π is a float32 number in it", -sp.Float(error)) for error in FLOAT32_ERRORS),
        ("two-pi-whole", "the log-probability's normaliser has log 2π; its half belongs there", -sp.log(2 * sp.pi) / 2),
        ("pi-alone", "the log-probability's normaliser has ½ log π; ½ log 2π belongs there", sp.log(2) / 2),
        ("two-pi-missing", "the log-probability's normaliser lacks ½ log 2π", sp.log(2 * sp.pi) / 2),
        ("log-std-twice", "the log-probability's normaliser has log S², of the variance", -sp.log(n.C2)),
        ("log-std-missing", "the log-probability's normaliser lacks log S", sp.log(n.C2)),
        ("normaliser-sign", "the log-probability's normaliser has the wrong sign", 2 * right.constant / count),
        (
            "normaliser-not-reduced",
            "the log-probability's normaliser isn't reduced as the squares are",
            right.constant * (1 - (n.D if count == 1 else 1 / n.D)) / count,
        ),
    ):
        yield name, sentence, replace(right, constant=sp.expand(right.constant - count * part))
