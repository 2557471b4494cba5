r"""GRPO-Guard: Flow-GRPO with a ratio from which the bias in δ is removed (RatioNorm), divided by Δt.

.. math:: \log \tilde r = C_2\Big(\log r + \frac{\|\mu_\theta - \mu_{\mathrm{old}}\|^2}{2 C_2^2}\Big)
          = -C_1 \langle\delta, \varepsilon\rangle, \qquad
          \mathcal{L} = -\frac{1}{\Delta t}
          \min\big(\tilde r A,\ \mathrm{clip}(\tilde r, 1-\epsilon^-, 1+\epsilon^+) A\big)

Proved: the exact gradient A m r̃ (C1/Δt) ε has no term in v_theta − v_old, so the "≈" that Flow-GRPO needs
becomes "=".  The bias belongs to each sample: averaging it, σ_t or Δt over a batch breaks the cancellation.
Source: GRPO-Guard, arXiv:2510.22319.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.calculus import Dot, Norm2, Surrogate
from derivations.claims import Approximates, Equal, GradientIs, Parallel
from derivations.derivation import Step
from derivations.losses._lines import GUARD, GUARD_MEAN, KL, KL_SIGMA, PPO
from derivations.losses._policy_gradient import OPTIONS as _OPTIONS
from derivations.losses._policy_gradient import GaussianPolicy, mask, time_weight_steps
from derivations.notation import (
    C1,
    C2,
    advantage,
    clip_high,
    clip_low,
    delta,
    dt,
    k,
    log_ratio,
    mean_old,
    mean_theta,
    noise,
    ratio,
    v_old,
    v_theta,
)
from derivations.variant import Variant

# the bias cancels against a true Gaussian's log-density alone, and the ratio's factor C2 weighs steps by noise already


def _assemble(options: Options) -> Stated:
    policy = GaussianPolicy(**options)
    bias = policy.per_coordinate * Norm2(mean_theta - mean_old) / (2 * C2**2)
    log_ratio_norm = C2 * (policy.definitions[log_ratio] + bias)
    surrogate = policy.weighting * Surrogate(advantage, ratio, clip_low, clip_high) / dt
    pull = policy.weighting * advantage * mask * ratio * policy.scale * C1 / dt * noise
    whole = policy.held(surrogate, pull)
    quoted = policy.weighting * advantage * policy.scale * C1 / dt * noise + policy.kl_gradient
    exponent = -policy.scale * C1 * Dot(delta, noise)
    stated = policy.stated(
        whole,
        definitions={log_ratio: log_ratio_norm, ratio: sp.exp(log_ratio)},
        steps=(
            *(step for step in policy.steps if step.name != "log-ratio"),
            Step(
                "plain-log-ratio",
                "The plain log-ratio has a term in ‖δ‖², never positive: a bias.",
                Equal(policy.definitions[log_ratio], policy.closed_log_ratio),
            ),
            Step(
                "bias",
                "That term is the squared distance of the means, over twice the variance.",
                Equal(bias, policy.scale * k**2 / 2 * Norm2(delta)),
            ),
            Step(
                "log-ratio",
                "Adding the bias back leaves the noise alone.",
                Equal(log_ratio, -policy.scale * C1 * Dot(delta, noise)),
            ),
            Step(
                "ratio-gradient",
                "So the ratio's gradient lies along the noise, on-policy or off it.",
                GradientIs(ratio, -ratio * policy.scale * C1 * noise, label=r"\tilde r_t(\theta)"),
            ),
            Step(
                "surrogate-gradient",
                "The clip is a mask (lemma L4), and the loss is divided by Δt.",
                GradientIs(surrogate, pull, label=r"\left(-J/\Delta t\right)"),
            ),
            *time_weight_steps(policy, whole.gradient),
        ),
        after=(
            Step(
                "approximate-target",
                "At r̃ = 1 the target is the one that people quote; only the gradient's length depends on δ.",
                Approximates(whole.target, v_theta - quoted, {v_theta: v_old}),
            ),
            Step(
                "expansion",
                "The next orders in δ, near v_old, where nothing is masked: all along the noise.",
                Approximates(
                    whole.gradient,
                    quoted + (quoted - policy.kl_gradient) * (exponent + exponent**2 / 2),
                    {v_theta: v_old},
                    order=3,
                ),
            ),
            Step(
                "direction-only",
                "The direction is the noise's, exactly.",
                Parallel(-advantage * policy.scale * C1 / dt * noise, -advantage * noise, policy.scale * C1 / dt),
            ),
            Step(
                "against-flow-grpo",
                "On-policy the gradient is C2/Δt times Flow-GRPO's: every step gets the same scale of k.",
                Equal(policy.scale * C1 / dt * noise, C2 / dt * (policy.scale * k * noise)),
            ),
        ),
        quoted=quoted,
    )
    return replace(stated, brief_gradient=None)  # which people quote as it is


ALGORITHM = Algorithm(
    name="grpo_guard",
    title="GRPO-Guard",
    reference="""@article{grpoguard2025,
  title={GRPO-Guard: Mitigating Implicit Over-Optimization in Flow Matching via Regulated Clipping},
  author={Wang, Jing and Liang, Jiajun and Liu, Jie and others},
  journal={arXiv:2510.22319}, year={2025}}""",
    process="backward",
    policy="on",
    options={
        **{name: allowed for name, allowed in _OPTIONS.items() if name != "log_prob_scale"},
        "time_weight": ("none", "window"),
    },
    variants=(
        Variant("paper", "the Flow-SDE step with its true Gaussian log-density", line=f"{GUARD}{PPO}/dt"),
        Variant(
            "mean",
            "log-density and bias averaged over coordinates, as the public code does",
            {"log_prob_reduction": "mean"},
            line=f"{GUARD_MEAN}{PPO}/dt",
        ),
        Variant(
            "kl",
            "with the KL divergence to the reference model's step (not divided by Δt)",
            {"kl": "step"},
            line=f"{GUARD}{PPO}/dt{KL}",
        ),
        Variant(
            "kl-sigma",
            "averaged, with the public code's KL term over 2σ_t²",
            {"log_prob_reduction": "mean", "kl": "sigma"},
            line=f"{GUARD_MEAN}{PPO}/dt{KL_SIGMA}",
        ),
        Variant(
            "dance",
            "on the Dance-SDE step, averaged",
            {"sde": "dance", "log_prob_reduction": "mean"},
            line=f"{GUARD_MEAN}{PPO}/dt",
        ),
        Variant("cps", "on the CPS step with its true Gaussian log-density", {"sde": "cps"}, line=f"{GUARD}{PPO}/dt"),
        Variant(
            "wan",
            "on the Wan-SDE step, averaged",
            {"sde": "wan", "log_prob_reduction": "mean"},
            line=f"{GUARD_MEAN}{PPO}/dt",
        ),
        Variant(
            "window",
            "only the steps inside a window train, averaged",
            {"log_prob_reduction": "mean", "time_weight": "window"},
            line=f"{GUARD_MEAN}{PPO}*window/dt",
        ),
    ),
    assemble=_assemble,
)
