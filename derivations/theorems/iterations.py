r"""What moves when a loss is stepped on: guidance as a change of variables, and DiffusionNFT's outer iteration."""

from __future__ import annotations

import sympy as sp

from derivations.calculus import Norm2, VectorSymbol, sg
from derivations.claims import Equal, GradientIs, Positive
from derivations.derivation import Step
from derivations.notation import advantage, beta, v_gt, v_old
from derivations.theorems.expectations import GaussianTheorem

__all__ = ["GUIDANCE", "OUTER_ITERATION"]


def _guidance() -> GaussianTheorem:
    conditional, free = VectorSymbol("v_c"), VectorSymbol("v_u")
    centre = VectorSymbol("c")
    scale, weight = sp.Symbol("w", real=True), sp.Symbol("W", positive=True)
    guided = free + scale * (conditional - free)
    loss = weight * Norm2(guided - sg(centre))
    gradient = 2 * weight * (guided - centre)
    label = r"\mathcal{L}(v)"
    steps = (
        Step(
            "conditional",
            "Let a loss have gradient 2W(v − c) in the guided velocity v = v_u + w(v_c − v_u): by lemma L1 every loss "
            "has "
            "one of that form. In the conditional velocity the gradient is w times that …",
            GradientIs(loss, scale * gradient, conditional, label),
        ),
        Step(
            "unconditional",
            "… and in the unconditional one 1 − w times: for w > 1 it is pushed the other way.",
            GradientIs(loss, (1 - scale) * gradient, free, label),
        ),
        Step(
            "step",
            "A step of size a on both moves the guided velocity by w² + (1 − w)² times the step on v itself.",
            Equal(
                scale * (scale * gradient) + (1 - scale) * ((1 - scale) * gradient),
                (scale**2 + (1 - scale) ** 2) * gradient,
            ),
        ),
        Step("no-guidance", "Without guidance, w = 1, v_c gets it all.", Equal(guided, conditional, {scale: sp.S.One})),
    )
    return GaussianTheorem(
        "guidance",
        "Guidance is a change of variables",
        steps,
        assumes=("The guidance scale w is the same when sampling and when training.",),
        advice="When you train through guidance, divide the learning rate by w² + (1 − w)², or detach the "
        "unconditional "
        "branch and divide by w².",
    )


def _outer() -> GaussianTheorem:
    v, start = VectorSymbol("v"), VectorSymbol("v_star")
    rate, eta = sp.Symbol("a", positive=True), sp.Symbol("eta", positive=True)
    share = sp.Symbol("rho", positive=True)
    n = sp.Symbol("n", integer=True, positive=True)
    p1, p2 = sp.symbols("p_1 p_2", positive=True)
    a1, a2 = sp.symbols("A_1 A_2", real=True)
    v1, v2 = VectorSymbol("v_1"), VectorSymbol("v_2")
    target = v_old + advantage / beta * (v_gt - v_old)
    shrink = 1 - 2 * rate * beta**2
    after_n = start + shrink**n * (v_old - start)
    averaged_target = p1 * target.xreplace({advantage: a1, v_gt: v1}) + p2 * target.xreplace({advantage: a2, v_gt: v2})
    mean_velocity = p1 * v1 + p2 * v2
    covariance = p1 * a1 * v1 + p2 * a2 * v2 - (p1 * a1 + p2 * a2) * mean_velocity
    steps = (
        Step(
            "inner-step",
            "One gradient step of size a shrinks the distance to the target by 1 − 2aβ² …",
            Equal(v - rate * 2 * beta**2 * (v - start) - start, shrink * (v - start)),
        ),
        Step(
            "inner-steps",
            "… so n steps from v_old shrink it by that to the n: one more step of the formula for n is that for n + 1.",
            Equal(after_n - rate * 2 * beta**2 * (after_n - start), after_n.xreplace({n: n + 1})),
        ),
        Step(
            "outer-step",
            "After n steps and one moving average with decay η, v_old has gone (1 − η)(1 − (1 − 2aβ²)ⁿ) of the way to "
            "the "
            "target.",
            Equal(eta * v_old + (1 - eta) * after_n, v_old + (1 - eta) * (1 - shrink**n) * (start - v_old)),
        ),
        Step(
            "contraction",
            "The inner steps converge for a = ρ/β² with 0 < ρ < 1, since then (1 − 2aβ²)² < 1.",
            Positive(1 - shrink**2),
        ),
        Step(
            "mean-target",
            "Averaged over the samples that an x_t may come from, with an exact old model, v_old = E[v_gt | x_t], the "
            "target "
            "is off v_old by Cov(A, v_gt | x_t)/β (written for two samples of any weights).",
            Equal(averaged_target - v_old, covariance / beta, {v_old: mean_velocity}),
        ),
        Step(
            "fixed-point",
            "So the iteration rests only where that covariance vanishes: where the advantage says no more about v_gt.",
            Equal(averaged_target - v_old, sp.S.Zero, {v_old: mean_velocity, a2: a1}),
        ),
    )
    return GaussianTheorem(
        "outer-iteration",
        "DiffusionNFT's outer iteration",
        steps,
        {rate: share / beta**2, p2: 1 - p1},
        within={share: sp.Interval.open(0, 1), p1: sp.Interval.open(0, 1)},
        assumes=("The network can represent every velocity: steps are taken in v itself, at one (x_t, t).",),
        advice="Keep aβ² below 1, and best near 1/2, where one inner step already reaches the target; beyond 1 the "
        "inner "
        "steps diverge whatever the moving average does.",
    )


GUIDANCE = _guidance()
"""What guidance does to a gradient."""

OUTER_ITERATION = _outer()
"""How far DiffusionNFT goes in one round, and where it rests."""
