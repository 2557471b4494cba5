r"""Identities that the losses share and that are no loss themselves.

The noised latent and its velocity, the group advantage, the log-density of a Flow-SDE step written out, the map
between advantage and optimality probability, and the moving average of the old model's parameters.
"""

from __future__ import annotations

import sympy as sp

from derivations.calculus import Dot, Norm2, VectorSymbol, sg
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step, Theorem
from derivations.lemmas import gaussian_definitions
from derivations.notation import (
    C1,
    C2,
    advantage,
    delta,
    dt,
    mean_theta,
    noise,
    reward_prob,
    sigma_t,
    t,
    v_gt,
    v_theta,
    x_0,
    x_prev,
    x_t,
)
from derivations.steps.sde import reverse_step

__all__ = ["IDENTITIES", "velocity_step"]


def velocity_step() -> Step:
    """That v_gt is the velocity of the noising path; every forward-process derivation opens with it."""
    h = sp.Symbol("h", real=True)
    path = (1 - t) * x_0 + t * noise
    return Step(
        "velocity",
        "Along the straight path from data to noise the velocity is v_gt, at every t.",
        Equal(path.xreplace({t: t + h}) - path, h * v_gt),
    )


def _forward_process() -> Theorem:
    path = (1 - t) * x_0 + t * noise
    x_0_hat = x_t - t * v_theta
    return Theorem(
        "forward-process",
        "The noised latent and its velocity",
        (
            velocity_step(),
            Step("data", "The clean latent from the state and the velocity.", Equal(x_t - t * v_gt, x_0)),
            Step("noise", "The noise from the state and the velocity.", Equal(x_t + (1 - t) * v_gt, noise)),
            Step(
                "data-space-error",
                "An error of the velocity is t times as large in the predicted clean latent, so the squared "
                "errors differ by t².",
                Equal(Norm2(x_0_hat - x_0), t**2 * Norm2(v_theta - v_gt)),
            ),
        ),
        {x_t: path, v_gt: noise - x_0},
    )


def _group_advantage() -> Theorem:
    # A group's rewards are a vector over its G members, and ⟨R, 1⟩ is their sum.
    rewards, ones = VectorSymbol("R"), VectorSymbol("ones")
    size = sp.Symbol("G", positive=True)
    scale = sp.Symbol("c", positive=True)
    shift = sp.Symbol("b", real=True)
    std = sp.Symbol("s", positive=True)
    count = {Norm2(ones): size}

    def centred(r: sp.Expr) -> sp.Expr:
        return r - Dot(r, ones) / size * ones

    group = centred(rewards) / std
    variance = Norm2(centred(rewards)) / size
    other = scale * rewards + shift * ones
    return Theorem(
        "group-advantage",
        "The group advantage",
        (
            Step(
                "zero-mean",
                "The advantages of a group add up to 0.",
                Equal(Dot(group, ones) / size, sp.S.Zero, count),
            ),
            Step(
                "unit-variance",
                "With the group's own (biased) standard deviation their mean square is 1.",
                Equal(Norm2(group) / size, sp.S.One, {**count, std: sp.sqrt(variance)}),
            ),
            Step(
                "variance-identity",
                "The variance is the mean square less the squared mean.",
                Equal(variance, Norm2(rewards) / size - (Dot(rewards, ones) / size) ** 2, count),
            ),
            Step(
                "shift-free",
                "A reward c·R + b has the same advantages: centring removes b …",
                Equal(centred(other), scale * centred(rewards), count),
            ),
            Step(
                "scale-free",
                "… and the standard deviation grows by c as well.",
                Equal(Norm2(centred(other)) / size, scale**2 * variance, count),
            ),
        ),
    )


def _log_density() -> Theorem:
    # What the log-density of a Flow-SDE step has besides its normaliser.
    std = sigma_t * sp.sqrt(dt)
    slope = dt + (1 - t) * sigma_t**2 * dt / (2 * t)
    exponent = -Norm2(x_prev - mean_theta) / (2 * sigma_t**2 * dt)
    written_out = -Norm2(slope * delta + std * noise) / (2 * sigma_t**2 * dt)
    coefficients = {s: e for s, e in reverse_step("flow").formulas.items() if s in (C1, C2)}
    return Theorem(
        "log-density",
        "The log-density of a Flow-SDE step, without its normaliser",
        (
            Step(
                "written-out",
                "The sampled state lies off the trained model's mean by the velocities' difference and by the noise: "
                "here with Flow-SDE's own coefficients.",
                Equal(exponent, written_out),
            ),
            Step(
                "abbreviated",
                "C1 and C2 stand for them.",
                Equal(written_out, -Norm2(C1 * delta + C2 * noise) / (2 * C2**2)),
            ),
        ),
        {**gaussian_definitions(), **coefficients},
    )


def _reward_prob() -> Theorem:
    a_of_r = 2 * reward_prob - 1
    return Theorem(
        "reward-probability",
        "Advantage and optimality probability",
        (
            Step(
                "inverse",
                "A = 2r − 1 is undone by r = (1 + A)/2.",
                Equal((1 + advantage) / 2, reward_prob, {advantage: a_of_r}),
            ),
            Step("ends", "A certain failure, r = 0, has advantage −1 …", Equal(a_of_r, -1, {reward_prob: sp.S.Zero})),
            Step("best", "… a certain success, r = 1, has advantage 1.", Equal(a_of_r, 1, {reward_prob: sp.S.One})),
            Step(
                "product",
                "r(1 − r) = (1 − A²)/4, the factor of DiffusionNFT's constant.",
                Equal(reward_prob * (1 - reward_prob), (1 - a_of_r**2) / 4),
            ),
        ),
    )


def _ema() -> Theorem:
    old, live = VectorSymbol("theta_old"), VectorSymbol("theta")
    eta = sp.Symbol("eta", positive=True)
    n = sp.Symbol("n", integer=True, positive=True)
    once = eta * old + (1 - eta) * live
    after_n = eta**n * old + (1 - eta**n) * live
    return Theorem(
        "ema",
        "The moving average of the old model",
        (
            Step(
                "gap", "One update shrinks the gap to the live parameters by η.", Equal(once - live, eta * (old - live))
            ),
            Step(
                "first-update",
                "n updates against the same live parameters shrink it by ηⁿ: the formula is the update for n = 1, …",
                Equal(after_n, once, {n: sp.S.One}),
            ),
            Step(
                "n-updates",
                "… and one more step of the formula for n is the formula for n + 1.",
                Equal(eta * after_n + (1 - eta) * live, after_n.xreplace({n: n + 1})),
            ),
            Step(
                "gradient-step",
                "The update is a gradient step of size 1 − η on half the squared gap.",
                GradientIs(Norm2(old - sg(live)) / 2, old - live, wrt=old, label=r"\tfrac12\|\theta_{old}-\theta\|^2"),
            ),
            Step("as-step", "Written out.", Equal(once, old - (1 - eta) * (old - live))),
        ),
    )


IDENTITIES: tuple[Theorem, ...] = (
    _forward_process(),
    _group_advantage(),
    _log_density(),
    _reward_prob(),
    _ema(),
)
"""All of them, in reading order."""
