"""The advantage on average: what it costs in variance, the best baseline, and what group normalisation optimises."""

from __future__ import annotations

import sympy as sp

from derivations.algebra.nodes import Mean
from derivations.calculus import Dot, Norm2, VectorSymbol
from derivations.claims import Equal, Positive
from derivations.derivation import Step
from derivations.local_names import kappa
from derivations.notation import C1, C2, D, advantage, delta, k, log_ratio, noise, ratio
from derivations.theorems.expectations import ExpectationIs, GaussianTheorem

__all__ = ["BASELINE", "GROUP_NORMALISATION", "success_factor"]


def _mean(f: sp.Expr) -> sp.Expr:
    return Mean(f, noise)


def _baseline() -> GaussianTheorem:
    a, b, c, g, q = sp.symbols("a b c g q", real=True)
    luck, rest = sp.Symbol("n", real=True), sp.Symbol("m", positive=True)
    u = VectorSymbol("u")
    unit = {Norm2(u): sp.S.One}
    linear = a + b * Dot(u, noise) + q * luck
    definitions = {
        k: C1 / C2,
        log_ratio: -(k**2) / 2 * Norm2(delta) - k * Dot(delta, noise),
        ratio: sp.exp(log_ratio),
    }
    steps = (
        Step(
            "signal",
            "A = a + b⟨u, ε⟩ + q n, with a unit vector u and n ~ N(0, 1) for everything else that the reward depends "
            "on. "
            "On average only the part along u is left.",
            ExpectationIs(Mean(_mean(linear * k * noise), luck), k * b * u),
        ),
        Step(
            "variance",
            "The gradient's total variance: everything in A, whether the step caused it or not, is multiplied by D.",
            ExpectationIs(
                Mean(_mean(Norm2(linear * k * noise - k * b * u)), luck), k**2 * ((a**2 + b**2 + q**2) * D + b**2), unit
            ),
        ),
        Step(
            "signal-to-noise",
            "So signal over noise, ‖mean‖² over variance, is below 1/(D + 1) a sample, whatever the reward: m = a² + "
            "q² is "
            "what the step has no part in.",
            Positive(1 / (D + 1) - b**2 / ((rest + b**2) * D + b**2)),
        ),
        Step(
            "baseline-is-free",
            "Subtracting a constant c from the advantage leaves the mean as it is …",
            ExpectationIs(Mean(_mean((linear - c) * k * noise), luck), Mean(_mean(linear * k * noise), luck)),
        ),
        Step(
            "best-baseline",
            "… and changes the second moment by D(c − c*)² with c* = E[A‖ε‖²]/D, the best constant. With A = a + b⟨u, "
            "ε⟩ + "
            "g‖ε‖² + q n that is a + g(D + 2), which is not A's own mean, a + gD.",
            ExpectationIs(
                Mean(_mean((linear + g * Norm2(noise) - c) ** 2 * Norm2(noise)), luck),
                Mean(_mean((linear + g * Norm2(noise) - a - g * (D + 2)) ** 2 * Norm2(noise)), luck)
                + D * (c - a - g * (D + 2)) ** 2,
            ),
        ),
        Step(
            "weighted-mean",
            "That c* is the mean of A weighed by ‖ε‖².",
            ExpectationIs(Mean(_mean((linear + g * Norm2(noise)) * Norm2(noise)), luck) / D, a + g * (D + 2)),
        ),
        Step(
            "off-policy",
            "Off-policy the ratio multiplies the second moment by exp(κ²), and adds κ² to D.",
            ExpectationIs(
                _mean(Norm2(advantage * ratio * k * (noise + k * delta))),
                advantage**2 * k**2 * sp.exp(kappa**2) * (D + kappa**2),
                {Norm2(delta): kappa**2 / k**2},
            ),
        ),
    )
    return GaussianTheorem(
        "baseline",
        "Variance, and the best baseline",
        steps,
        definitions,
        assumes=(
            "The advantage is affine (or quadratic, where it says so) in the step's noise; n is independent of it.",
        ),
        advice="Subtract E[A‖ε‖²]/D: for latents of many coordinates ‖ε‖²/D is nearly 1, so the group's mean is as "
        "good, "
        "and what is left of the variance falls only with more samples.",
    )


def success_factor(size: int, p: sp.Expr) -> sp.Expr:
    r"""h(1) − h(0) for a reward that is 1 with probability p, else 0, in a group of that size: a sum over the others.

    With m successes among them, a success has advantage √((G−m−1)/(m+1)) and a failure −√(m/(G−m)).
    """
    terms = []
    for m in range(size):
        chance = sp.binomial(size - 1, m) * p**m * (1 - p) ** (size - 1 - m)
        terms.append(chance * (sp.sqrt(sp.Rational(size - m - 1, m + 1)) + sp.sqrt(sp.Rational(m, size - m))))
    return sp.Add(*terms)


def _group() -> GaussianTheorem:
    size = sp.Symbol("G", positive=True)
    r, m, mu = sp.symbols("r m mu", real=True)
    v, p = sp.Symbol("v", positive=True), sp.Symbol("p", positive=True)
    gap = sp.Symbol("d", real=True)
    mean = (r + (size - 1) * m) / size
    second = (r**2 + (size - 1) * (v + m**2)) / size
    member = sp.sqrt(size - 1) * gap / sp.sqrt(size * v + gap**2)
    factor = sp.Symbol("W", positive=True)
    steps = (
        Step(
            "without-division",
            "Without the division by the standard deviation: the others' mean is μ on average, so a reward r is worth "
            "1 − 1/G of its distance to μ.",
            Equal(r - mean, (1 - 1 / size) * (r - mu), {m: mu}),
        ),
        Step(
            "group-variance",
            "With it: let the others have mean m and variance v. The group's variance is",
            Equal(second - mean**2, (size - 1) / size * v + (size - 1) / size**2 * (r - m) ** 2),
        ),
        Step(
            "member",
            "so the member's advantage, squared, is a function of d = r − m that has d's sign.",
            Equal((r - mean) ** 2 / (second - mean**2), member**2, {r: m + gap}),
        ),
        Step("bounded", "It never exceeds √(G − 1) …", Positive((size - 1) - member**2)),
        Step(
            "rising",
            "… it always rises …",
            Equal(sp.diff(member, gap), sp.sqrt(size - 1) * size * v / (size * v + gap**2) ** sp.Rational(3, 2)),
        ),
        Step(
            "s-shaped",
            "… and its curvature has the sign of −d: it is S-shaped about the others' mean, convex below and concave "
            "above, "
            "so that extremes count less. Averaged over the others, this is h_G.",
            Equal(
                sp.diff(member, gap, 2),
                -3 * gap * sp.sqrt(size - 1) * size * v / (size * v + gap**2) ** sp.Rational(5, 2),
            ),
        ),
        Step(
            "pair",
            "A group of two keeps the sign alone (v = 0), so h_2(r) = P(R < r) − P(R > r): the rank, whatever the "
            "rewards.",
            Equal(member**2, 1, {size: sp.S(2), v: sp.S.Zero}),
        ),
        Step(
            "two-valued",
            "Of a reward that is 0 or 1, every function is affine: h = h(0) + (h(1) − h(0))R, so the slope of the "
            "success "
            "rate p is followed exactly, times h(1) − h(0); in a group of two that is 1.",
            Equal((1 - p) * r + p * m, r + (m - r) * p),
        ),
        *(
            Step(
                f"success-factor-{n}",
                f"In a group of {n} that factor is",
                Equal(success_factor(n, p), value),
            )
            for n, value in ((3, sp.sqrt(2)), (4, sp.sqrt(3) - (2 * sp.sqrt(3) - 3) * p * (1 - p)))
        ),
        Step(
            "large-groups",
            "In a large group it is W = 1/√(p(1 − p)), which is the slope of 2 arcsin √p: rare successes, and rare "
            "failures, "
            "count most.",
            Equal(sp.diff(2 * sp.asin(sp.sqrt(p)), p), factor),
        ),
    )
    return GaussianTheorem(
        "group-normalisation",
        "What group normalisation optimises",
        steps,
        {factor: 1 / sp.sqrt(p * (1 - p))},
        within={size: sp.Interval.open(1, sp.oo), p: sp.Interval.open(0, 1)},
        assumes=(
            "The group's members are independent draws of one policy, so Σᵢ E[Aᵢ ∇log pᵢ] = G E[h_G(R) ∇log p], "
            "with h_G(r) = E[A₁ | R₁ = r].",
            "E[h(R) ∇log p] = ∇E[h(R)] with h held fixed: the score-function identity, proved for exponentials in "
            "ratio-moments.",
            "The standard deviation is the biased one; the unbiased one multiplies by √((G − 1)/G). A group of equal "
            "rewards has advantage 0.",
        ),
        advice="Divide by the group's standard deviation only if you want hard and easy prompts to count more than "
        "those in "
        "between; without it you follow the mean reward's slope, times 1 − 1/G.",
    )


BASELINE = _baseline()
"""What an advantage costs in variance, and which constant to subtract."""

GROUP_NORMALISATION = _group()
"""Which function of the reward the group's normalised advantage raises."""
