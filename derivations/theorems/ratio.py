r"""The importance ratio on average: its moments, the order of its approximations, and what a clip of it means.

Everything is over the noise ε ~ N(0, I) of the step that the behaviour model took; δ = v_theta − v_old is fixed, and
κ = k‖δ‖ says how many standard deviations the step's mean has moved.
"""

from __future__ import annotations

import sympy as sp

from derivations.algebra.nodes import Below, Mean, NormalCDF
from derivations.calculus import Dot, Norm2, VectorSymbol
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step
from derivations.local_names import divergence, guard_log_ratio, guard_ratio, kappa
from derivations.notation import C1, C2, D, beta, clip_high, clip_low, delta, k, log_ratio, noise, ratio, v_old, v_theta
from derivations.theorems.expectations import ExpectationIs, GaussianTheorem

__all__ = ["APPROXIMATION_ORDER", "CLIP", "RATIO_MOMENTS"]

_half = sp.Rational(1, 2)
_DEFINITIONS = {
    k: C1 / C2,
    log_ratio: -(k**2) / 2 * Norm2(delta) - k * Dot(delta, noise),
    ratio: sp.exp(log_ratio),
    guard_log_ratio: -C1 * Dot(delta, noise),
    guard_ratio: sp.exp(guard_log_ratio),
}
_SIZE = {Norm2(delta): kappa**2 / k**2}
_LINE = "⟨δ, ε⟩ is Gaussian with mean 0 and variance ‖δ‖², and δ ≠ 0; Φ is the distribution function of N(0, 1)."
_FIXED = "δ is fixed while ε is drawn: the trained model has not yet seen this sample."


def _mean(f: sp.Expr) -> sp.Expr:
    return Mean(f, noise)


def _ratio_moments() -> GaussianTheorem:
    b = VectorSymbol("b")
    guard_growth = sp.exp(C1**2 * Norm2(delta) / 2)
    steps = (
        Step("ratio-mean", "The plain ratio has mean 1 …", ExpectationIs(_mean(ratio), sp.S.One)),
        Step(
            "gradient-mean",
            "… and its gradient mean 0, so an advantage that does not depend on the noise has no effect.",
            ExpectationIs(_mean(ratio * (noise + k * delta)), sp.S.Zero),
        ),
        Step(
            "second-moment",
            "Its second moment grows as exp(κ²): at κ = 2 it is 55.",
            ExpectationIs(_mean(ratio**2), sp.exp(kappa**2), _SIZE),
        ),
        Step(
            "reweighting",
            "Weighing by the ratio turns the behaviour model's noise into the trained model's: a mean of exp⟨b, ε⟩ "
            "becomes that of the noise moved by −kδ, for every b.",
            ExpectationIs(_mean(ratio * sp.exp(Dot(b, noise))), _mean(sp.exp(Dot(b, noise - k * delta)))),
        ),
        Step(
            "score-function",
            "The trained model's mean of exp⟨b, ε⟩ has the policy gradient as its gradient, off-policy too: the "
            "log-ratio's gradient is −k(ε + kδ).",
            ExpectationIs(
                _mean(-k * ratio * (noise + k * delta) * sp.exp(Dot(b, noise))),
                -k * b * _mean(sp.exp(Dot(b, noise - k * delta))),
            ),
        ),
        Step("divergence", "KL(p_old‖p_theta) is κ²/2 …", ExpectationIs(_mean(-log_ratio), kappa**2 / 2, _SIZE)),
        Step(
            "reverse-divergence",
            "… and so is KL(p_theta‖p_old).",
            ExpectationIs(_mean(ratio * log_ratio), kappa**2 / 2, _SIZE),
        ),
        Step(
            "below-one",
            "More than half of the ratios lie below 1.",
            ExpectationIs(_mean(Below(ratio, 1)), NormalCDF(kappa / 2), _SIZE),
        ),
        Step(
            "mean-over-coordinates",
            "Where the log-density is a mean over D coordinates, the ratio is the D-th root, and its mean is below 1 "
            "for "
            "D > 1.",
            ExpectationIs(_mean(sp.exp(log_ratio / D)), sp.exp(-(kappa**2) * (D - 1) / (2 * D**2)), _SIZE),
        ),
        Step(
            "guard-mean",
            "GRPO-Guard's ratio has a mean above 1 …",
            ExpectationIs(_mean(guard_ratio), guard_growth),
        ),
        Step(
            "guard-gradient-mean",
            "… and its gradient a mean along −δ: it pushes on, away from v_old, where A > 0.",
            ExpectationIs(_mean(guard_ratio * noise), -C1 * delta * guard_growth),
        ),
        Step(
            "guard-median",
            "What it gains is the median: half of its ratios lie below 1, so a clip cuts both sides alike.",
            ExpectationIs(_mean(Below(guard_ratio, 1)), _half),
        ),
        Step(
            "guard-second-moment",
            "Its second moment.",
            ExpectationIs(_mean(guard_ratio**2), sp.exp(2 * C1**2 * Norm2(delta))),
        ),
    )
    return GaussianTheorem(
        "ratio-moments",
        "What the plain and the guarded ratio are on average",
        steps,
        _DEFINITIONS,
        assumes=(_FIXED, _LINE),
        advice="Use the plain ratio where an unbiased gradient matters, and GRPO-Guard's where the clip must cut both "
        "sides alike: the first has mean 1, the second median 1, and none has both.",
    )


def _approximation_order() -> GaussianTheorem:
    s, h = sp.Symbol("s", real=True), VectorSymbol("h")
    moved = sp.exp(-(k**2) * s**2 / 2 * Norm2(h) - k * s * Dot(h, noise)) * (noise + k * s * h)
    first = k * (h - Dot(h, noise) * noise)
    second = k**2 * ((Dot(h, noise) ** 2 - Norm2(h)) / 2 * noise - Dot(h, noise) * h)
    at = {s: sp.S.Zero}
    steps = (
        Step("zeroth", "On-policy, at s = 0, r(ε + kδ) is ε.", Equal(moved, noise, at)),
        Step(
            "first",
            "Its derivative there: both approximations are off in first order already. −k⟨h, ε⟩ε comes from r ≈ 1, "
            "and kh "
            "from dropping kδ.",
            Equal(sp.diff(moved, s), first, at),
        ),
        Step("second", "Half its second derivative there.", Equal(sp.diff(moved, s, 2) / 2, second, at)),
        Step(
            "length",
            "r ≈ 1 leaves out −⟨kδ, ε⟩ε, which lies along ε: it changes the length, by a share of mean square κ² …",
            ExpectationIs(_mean((k * Dot(delta, noise)) ** 2), kappa**2, _SIZE),
        ),
        Step(
            "length-size",
            "… so what it leaves out has mean square κ²(D + 2), where ε itself has D.",
            ExpectationIs(_mean(Norm2(k * Dot(delta, noise) * noise)), kappa**2 * (D + 2), _SIZE),
        ),
        Step(
            "turn",
            "Dropping kδ turns the direction: its part across ε, squared and times ‖ε‖², has mean κ²(D − 1), against "
            "D(D + 2) "
            "for ε itself: an angle of about κ/√D.",
            ExpectationIs(
                _mean(Norm2(noise) * Norm2(k * delta) - Dot(k * delta, noise) ** 2), kappa**2 * (D - 1), _SIZE
            ),
        ),
        Step("noise-size", "‖ε‖⁴ has mean D(D + 2).", ExpectationIs(_mean(Norm2(noise) ** 2), D * (D + 2))),
    )
    return GaussianTheorem(
        "approximation-order",
        "How good A k ε is",
        steps,
        {},
        assumes=("δ = s·h with h fixed: the orders are those of s.",),
        advice="Trust A k ε as a direction as long as κ is far below √D, and its length only as long as κ is far "
        "below 1.",
    )


def _clip() -> GaussianTheorem:
    h = VectorSymbol("h")
    mean_ratio = sp.exp(log_ratio / D)
    guard_mean_ratio = sp.exp(guard_log_ratio / D)
    guard_size = C1 * sp.sqrt(Norm2(delta))
    up, down = sp.log(1 + clip_high), sp.log(1 - clip_low)
    u = sp.Symbol("u", positive=True)
    radius = {clip_low: u / (1 + u), Norm2(delta): 2 * D * sp.log(1 + u) / k**2}  # every clip in (0, 1)
    steps = (
        Step(
            "clipped-up",
            "With the log-density summed, the share of samples above 1 + ε⁺ …",
            ExpectationIs(_mean(Below(1 + clip_high, ratio)), NormalCDF(-up / kappa - kappa / 2), _SIZE),
        ),
        Step(
            "clipped-down",
            "… and below 1 − ε⁻.",
            ExpectationIs(_mean(Below(ratio, 1 - clip_low)), NormalCDF(down / kappa + kappa / 2), _SIZE),
        ),
        Step(
            "clipped-up-mean",
            "With the mean over D coordinates, as implementations take it, D multiplies the logarithm.",
            ExpectationIs(_mean(Below(1 + clip_high, mean_ratio)), NormalCDF(-D * up / kappa - kappa / 2), _SIZE),
        ),
        Step(
            "clipped-down-mean",
            "Likewise below: κ/2 now raises the share, so the clip cuts this side first.",
            ExpectationIs(_mean(Below(mean_ratio, 1 - clip_low)), NormalCDF(D * down / kappa + kappa / 2), _SIZE),
        ),
        Step(
            "radius",
            "Half of the samples are clipped below at κ = √(−2D log(1 − ε⁻)): the clip is a trust region of that "
            "radius.",
            ExpectationIs(_mean(Below(mean_ratio, 1 - clip_low)), _half, radius),
        ),
        Step(
            "seldom-above",
            "Above, the share is at most Φ(−√(2D log(1 + ε⁺))), reached at κ² = 2D log(1 + ε⁺): where D ε⁺ is well "
            "above 1, "
            "nothing is ever clipped there.",
            Equal((D * up / kappa + kappa / 2) ** 2, 2 * D * up + (D * up / kappa - kappa / 2) ** 2),
        ),
        Step(
            "guard-clipped-up",
            "GRPO-Guard's ratio has no shift κ/2: above …",
            ExpectationIs(_mean(Below(1 + clip_high, guard_ratio)), NormalCDF(-up / guard_size)),
        ),
        Step(
            "guard-clipped-down",
            "… and below.",
            ExpectationIs(_mean(Below(guard_ratio, 1 - clip_low)), NormalCDF(down / guard_size)),
        ),
        Step(
            "guard-clipped-up-mean",
            "With the mean over D coordinates, above …",
            ExpectationIs(_mean(Below(1 + clip_high, guard_mean_ratio)), NormalCDF(-D * up / guard_size)),
        ),
        Step(
            "guard-clipped-down-mean",
            "… and below.",
            ExpectationIs(_mean(Below(guard_mean_ratio, 1 - clip_low)), NormalCDF(D * down / guard_size)),
        ),
        Step(
            "divergence-gradient",
            "κ²/2 is the step's KL divergence; its gradient is k²δ …",
            GradientIs(divergence, k**2 * (v_theta - v_old)),
        ),
        Step(
            "fisher",
            "… and the policy's Fisher information in the velocity is k² I, on-policy: applied to any h it gives k²h.",
            ExpectationIs(_mean(Dot(k * noise, h) * k * noise), k**2 * h),
        ),
        Step(
            "trust-region",
            "So DiffusionNFT's term 2β²δ is 2β²/k² times the gradient of that divergence: TRPO's constraint, as a "
            "penalty.",
            GradientIs(2 * beta**2 / k**2 * divergence, 2 * beta**2 * (v_theta - v_old), label=r"\|\cdot\|"),
        ),
    )
    return GaussianTheorem(
        "clip",
        "What a clip means",
        steps,
        {**_DEFINITIONS, divergence: k**2 / 2 * Norm2(v_theta - v_old)},
        within={clip_low: sp.Interval.open(0, 1)},
        assumes=(_FIXED, _LINE),
        advice="Choose the clip by the radius that you want: with the mean over D coordinates, a clip of ε⁻ lets the "
        "step's "
        "mean move √(−2D log(1 − ε⁻)) ≈ √(2Dε⁻) standard deviations before half of the samples are cut; for D = 65,536 "
        "and 1e-4 that is 3.6.",
    )


RATIO_MOMENTS = _ratio_moments()
"""Means, second moments and medians of the plain and the guarded ratio."""

APPROXIMATION_ORDER = _approximation_order()
"""What A k ε leaves out, order by order."""

CLIP = _clip()
"""Which share of samples a clip cuts, and how far it lets the mean move."""
