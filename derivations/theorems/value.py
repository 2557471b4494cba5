r"""One value function: forward losses follow the noising's, backward losses the sampler's; when the two are one."""

from __future__ import annotations

import sympy as sp

from derivations.algebra.nodes import Mean
from derivations.calculus import Dot, Norm2, VectorSymbol
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step
from derivations.local_names import value_slope
from derivations.notation import C1, C2, beta, k, noise, noise_level, sigma_t, t, v_theta, x_0, x_t
from derivations.theorems.expectations import ExpectationIs, GaussianTheorem

__all__ = ["VALUE_FUNCTION", "data_std", "sampler_slope", "variance"]

data_std = sp.Symbol("s", positive=True)
"""Standard deviation of Gaussian data."""

variance = (1 - t) ** 2 * data_std**2 + t**2
"""Of x_t, for Gaussian data."""

sampler_slope = (
    data_std**2 * (1 - t) / variance * (sp.sqrt(variance) / ((1 - t) * data_std)) ** (1 - noise_level**2 / 2)
)
"""Slope of E[x_0 | x_t] along Flow-GRPO's sampler in small steps, for Gaussian data."""

_sqrt2 = sp.sqrt(2)


def _tweedie() -> tuple[tuple[Step, ...], dict[sp.Symbol, sp.Expr]]:
    """The forward losses, for data of three points with any weights and any advantages."""
    points = [VectorSymbol(f"x_{i}") for i in (1, 2, 3)]
    prior, advantages = sp.symbols("p_1 p_2 p_3", positive=True), sp.symbols("A_1 A_2 A_3", real=True)
    w, total = sp.symbols("w_1 w_2 w_3", positive=True), sp.Symbol("Z", positive=True)
    V, data_cov, velocity_cov = sp.Symbol("V", real=True), VectorSymbol("C_x"), VectorSymbol("C_v")
    mean_v = VectorSymbol("m_v")

    def mean(values: list[sp.Expr]) -> sp.Expr:
        return sp.Add(*(wi * x for wi, x in zip(w, values, strict=True))) / total

    velocities = [(x_t - x) / t for x in points]
    weighed = [a * x for a, x in zip(advantages, points, strict=True)]
    definitions = {
        **{wi: p * sp.exp(-Norm2(x_t - (1 - t) * x) / (2 * t**2)) for wi, p, x in zip(w, prior, points, strict=True)},
        total: sp.Add(*w),
        V: mean(list(advantages)),
        mean_v: mean(velocities),
        data_cov: mean(weighed) - V * mean(list(points)),
        value_slope: (1 - t) / t**2 * data_cov,
        velocity_cov: mean([a * v for a, v in zip(advantages, velocities, strict=True)]) - V * mean_v,
    }
    pull = mean([2 * a * (mean_v - v) for a, v in zip(advantages, velocities, strict=True)])
    path = (1 - t) * x_0 + t * noise
    return (
        Step(
            "velocity",
            "On the noising path, v_gt is (x_t − x_0)/t: given x_t, what is unknown of it is x_0.",
            Equal(noise - x_0, (x_t - x_0) / t, {x_t: path}),
        ),
        Step(
            "tweedie",
            "V(x_t) = E[A | x_t] is the mean of A over the data that x_t may come from, weighed by w = p exp(−‖x_t − "
            "(1 − t)"
            "x‖²/(2t²)). Its gradient ∇V is the covariance of A and x_0 given x_t, C_x, times (1 − t)/t².",
            GradientIs(V, (1 - t) / t**2 * data_cov, x_t),
        ),
        Step(
            "covariances",
            "The covariance of A and v_gt, C_v, is the same but for −1/t.",
            Equal(velocity_cov, -data_cov / t),
        ),
        Step(
            "awm",
            "AWM's gradient at an exact model, v_theta = E[v_gt | x_t] = m_v, averaged given x_t, is −2 C_v …",
            Equal(pull, -2 * velocity_cov),
        ),
        Step(
            "awm-value",
            "… which is 2t/(1 − t) times V's gradient: AWM moves the velocity against the slope of the value.",
            Equal(-2 * velocity_cov, 2 * t / (1 - t) * value_slope),
        ),
        Step(
            "nft-value",
            "DiffusionNFT's, at v_theta = v_old = m_v, is β times that.",
            Equal(
                mean([2 * beta * a * (mean_v - v) for a, v in zip(advantages, velocities, strict=True)]),
                beta * 2 * t / (1 - t) * value_slope,
            ),
        ),
    ), definitions


def _stein() -> tuple[Step, ...]:
    """The backward losses: V is that of the state that the sampler reaches."""
    a, b = sp.Symbol("a", real=True), VectorSymbol("b")
    mean, x = VectorSymbol("m"), VectorSymbol("x")
    state = mean + C2 * noise
    quadratic = a * Norm2(x) + Dot(b, x) ** 2
    slope = 2 * a * x + 2 * Dot(b, x) * b
    return (
        Step(
            "stein",
            "On the sampler's path, x_prev = m + C2 ε. For a value V(x) = exp⟨b, x⟩, any b: E[ε V] = C2 E[∇V].",
            ExpectationIs(Mean(sp.exp(Dot(b, state)) * noise, noise), C2 * Mean(sp.exp(Dot(b, state)) * b, noise)),
        ),
        Step(
            "quadratic-slope",
            "Another V, quadratic, and its gradient.",
            GradientIs(quadratic, slope, x, r"V"),
        ),
        Step(
            "stein-quadratic",
            "For it the same holds.",
            ExpectationIs(
                Mean(quadratic.xreplace({x: state}) * noise, noise), C2 * Mean(slope.xreplace({x: state}), noise)
            ),
        ),
        Step(
            "flow-grpo-value",
            "So Flow-GRPO's gradient k E[A ε] is C1 times the mean gradient of the value at the state reached.",
            ExpectationIs(k * Mean(sp.exp(Dot(b, state)) * noise, noise), C1 * Mean(sp.exp(Dot(b, state)) * b, noise)),
        ),
    )


def _reversal() -> tuple[tuple[Step, ...], dict[sp.Symbol, sp.Expr]]:
    """When the sampler is the noising, run backwards."""
    score, diffusion = VectorSymbol("score"), 2 * t / (1 - t)
    scale = sp.Symbol("f", real=True)
    exact = scale * x_t - diffusion * score
    flow = v_theta - sigma_t**2 / 2 * score
    of_velocity = {score: -(x_t + (1 - t) * v_theta) / t}
    return (
        Step(
            "noising-mean",
            "The noising path is the SDE dx = f x dt + √(2t/(1 − t)) dW with f = −1/(1 − t): it shrinks the data by 1 "
            "− t …",
            Equal(sp.diff(1 - t, t), scale * (1 - t)),
        ),
        Step(
            "noising-variance",
            "… and gives the noise the variance t².",
            Equal(sp.diff(t**2, t), 2 * scale * t**2 + diffusion),
        ),
        Step(
            "velocity-of-score",
            "In terms of that SDE, the velocity is its drift less half its diffusion times the score.",
            Equal(v_theta, scale * x_t - diffusion / 2 * score, of_velocity),
        ),
        Step(
            "reversal",
            "Run backwards, the noising has the drift f x − 2t/(1 − t)·score. The sampler's, v − σ_t²/2·score, differs "
            "from it by (2t/(1 − t) − σ_t²)/2·score: it is that reversal exactly for σ_t² = 2t/(1 − t).",
            Equal(flow - exact, (diffusion - sigma_t**2) / 2 * score, of_velocity),
        ),
        Step(
            "noise-level",
            "That is Flow-GRPO's schedule σ_t² = η² t/(1 − t) at η = √2.",
            Equal(noise_level**2 * t / (1 - t), diffusion, {noise_level: _sqrt2}),
        ),
    ), {scale: -1 / (1 - t)}


def _gaussian() -> tuple[tuple[Step, ...], dict[sp.Symbol, sp.Expr]]:
    """How far apart the two are otherwise: Gaussian data of standard deviation s, in closed form."""
    start, h = VectorSymbol("z"), VectorSymbol("h")
    x0, xt = data_std * start, (1 - t) * data_std * start + t * noise
    slope, posterior = sp.Symbol("g", positive=True), sp.Symbol("c", positive=True)
    sigma2 = noise_level**2 * t / (1 - t)
    return (
        Step(
            "posterior-slope",
            "For data N(0, s²), x_0 − c x_t is uncorrelated with x_t for c = s²(1 − t)/((1 − t)²s² + t²): the "
            "noising's "
            "E[x_0 | x_t] is c x_t.",
            ExpectationIs(Mean(Mean((x0 - posterior * xt) * Dot(h, xt), start), noise), sp.S.Zero),
        ),
        Step(
            "sampler-slope",
            "Along the sampler with σ_t² = η² t/(1 − t), in small steps, the slope g of E[x_0 | x_t] falls at the "
            "rate of "
            "its drift …",
            Equal(sp.diff(sampler_slope, t), -(sp.diff(variance, t) + sigma2) / (2 * variance) * slope),
        ),
        Step("sampler-start", "… from 1 at t = 0 …", Equal(slope, 1, {t: sp.S.Zero})),
        Step(
            "slope-ratio",
            "… so it is the noising's times (√((1 − t)²s² + t²)/((1 − t)s)) to the power 1 − η²/2: too steep for η < "
            "√2.",
            Equal(slope / posterior, (sp.sqrt(variance) / ((1 - t) * data_std)) ** (1 - noise_level**2 / 2)),
        ),
        Step("slopes-agree", "At η = √2 the two are one.", Equal(slope, posterior, {noise_level: _sqrt2})),
    ), {slope: sampler_slope, posterior: data_std**2 * (1 - t) / variance}


def _value_function() -> GaussianTheorem:
    forward, of_forward = _tweedie()
    reversal, of_reversal = _reversal()
    gaussian, of_gaussian = _gaussian()
    return GaussianTheorem(
        "value-function",
        "One value function",
        (*forward, *_stein(), *reversal, *gaussian),
        {**of_forward, **of_reversal, **of_gaussian, k: C1 / C2},
        assumes=(
            "The model is exact, v_theta = v_old = E[v_gt | x_t], and the statements are at one (x_t, t), not in "
            "parameters.",
            "The forward part is proved for data of three points; both sides are linear in the points' weights before "
            "the "
            "division, so any number goes likewise, and a density is their limit.",
            "Stein's identity is proved for exponentials and quadratics; both sides are linear in V, so it holds for "
            "what "
            "such functions span.",
            "E[A ε] = E[V ε], with V the mean of A given the state reached: the tower rule.",
            "The reverse of an SDE dx = f dt + g dW has the drift f − g²·score (Anderson 1982), and uncorrelated "
            "Gaussians "
            "are independent.",
        ),
        advice="Sample with η = √2 if you want Flow-GRPO to follow the same value as AWM and DiffusionNFT: at η = 0.7 "
        "its "
        "value is 1.3 times too steep at t = 1/2 on unit Gaussian data.",
    )


VALUE_FUNCTION = _value_function()
"""Which value function forward and backward losses follow."""
