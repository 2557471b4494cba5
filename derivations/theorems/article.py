r"""What the article says and no derivation states: stop-gradient in a batch, β = 1, averages, the normaliser."""

from __future__ import annotations

import sympy as sp

from derivations.algebra.nodes import Mean
from derivations.calculus import ClipMask, Dot, Norm2, VectorSymbol, sg
from derivations.claims import Equal, GradientIs, Parallel
from derivations.derivation import Step
from derivations.notation import (
    C2,
    D,
    advantage,
    beta,
    clip_high,
    clip_low,
    dt,
    k,
    log_prob_old,
    log_prob_theta,
    noise,
    ratio,
    sigma_t,
    v_gt,
    v_old,
    v_theta,
)
from derivations.theorems.expectations import ExpectationIs, GaussianTheorem

__all__ = ["ARTICLE"]


def _article() -> GaussianTheorem:
    g, g1, g2 = (VectorSymbol(name) for name in ("g", "g_1", "g_2"))
    r1, r2 = sp.symbols("r_1 r_2", positive=True)
    group, times = sp.Symbol("G", positive=True), sp.Symbol("T", positive=True)
    step, lam = sp.Symbol("a", positive=True), sp.Symbol("lambda", positive=True)
    own, old = sp.symbols("q q_old", real=True)
    target = VectorSymbol("c")
    one = {beta: sp.S.One}
    normaliser = -D * sp.log(sigma_t * sp.sqrt(dt)) - D / 2 * sp.log(2 * sp.pi)
    steps = (
        Step(
            "sg-of-one-sample",
            "The ratio's gradient is the detached ratio times the log-density's, g: for one sample only the length "
            "changes.",
            Parallel(sg(ratio) * g, g, ratio),
        ),
        Step(
            "sg-of-a-batch",
            "In a sum over samples with different ratios the direction changes too: the difference of the two "
            "gradients "
            "comes in, by half the difference of the ratios.",
            Equal(r1 * g1 + r2 * g2, (r1 + r2) / 2 * (g1 + g2) + (r1 - r2) / 2 * (g1 - g2)),
        ),
        Step(
            "clip-left-out",
            "Near r = 1 the clip's mask is 1, so min and clip may be left out there.",
            Equal(ClipMask(advantage, ratio, clip_low, clip_high), sp.S.One, {ratio: sp.S.One}),
        ),
        Step(
            "normaliser",
            "The normaliser needs D and √Δt, −D log(σ_t√Δt) − (D/2) log 2π. Being the same for both models, it "
            "cancels in the "
            "log-ratio.",
            Equal(log_prob_theta - log_prob_old, own - old),
        ),
        Step(
            "normaliser-of-D-coordinates",
            "It is D times one coordinate's.",
            Equal(normaliser, D * (-sp.log(sigma_t * sp.sqrt(dt)) - sp.log(2 * sp.pi) / 2)),
        ),
        Step(
            "mean-exponent",
            "The exponent −‖x_prev − mean‖²/(2C2²) of the sample itself is −D/2 on average.",
            ExpectationIs(Mean(-Norm2(C2 * noise) / (2 * C2**2), noise), -D / 2),
        ),
        Step(
            "averages",
            "The averages over the group and over time divide the gradient by G T, and leave the target alone.",
            GradientIs(Norm2(v_theta - sg(v_old)) / (group * times), 2 / (group * times) * (v_theta - v_old)),
        ),
        Step(
            "ray",
            "Every point c = v_theta − λAε of a ray is a target of the same direction, λ > 0: only the length differs.",
            Parallel(v_theta - target, advantage * noise, lam),
        ),
        Step(
            "one-step",
            "A step of size a on ½‖v_theta − sg(target)‖² goes the share a of the way: the target is reached only at "
            "a = 1.",
            Equal(v_theta - step * (v_theta - target) - target, (1 - step) * (v_theta - target)),
        ),
        Step(
            "beta-one-plus",
            "At β = 1 DiffusionNFT's v⁺ is v_theta itself …",
            Equal((1 - beta) * v_old + beta * v_theta, v_theta, one),
        ),
        Step(
            "beta-one-minus",
            "… v⁻ its mirror image in v_old …",
            Equal((1 + beta) * v_old - beta * v_theta, 2 * v_old - v_theta, one),
        ),
        Step(
            "beta-one-target",
            "… and the target AWM's, with v_old in v_theta's place.",
            Equal(
                v_old + advantage / beta * (v_gt - v_old),
                (v_theta + advantage * (v_gt - v_theta)).xreplace({v_theta: v_old}),
                one,
            ),
        ),
        Step(
            "weighted-noise",
            "Flow-GRPO's gradient A k ε is noise weighed by the advantage; on average it is not noise, but the slope "
            "of the "
            "advantage in the noise: for A = ⟨g, ε⟩ it is k g.",
            ExpectationIs(Mean(Dot(g, noise) * k * noise, noise), k * g),
        ),
    )
    return GaussianTheorem(
        "article",
        "Remarks of the article",
        steps,
        {
            target: v_theta - lam * advantage * noise,
            log_prob_theta: own + normaliser,
            log_prob_old: old + normaliser,
        },
        assumes=("The log-density's gradient g is any vector.",),
        advice="Read every ≈ of a policy gradient per sample; in a batch, the ratios' spread turns the direction.",
    )


ARTICLE = _article()
"""The article's remarks."""
