r"""Flow-GRPO: PPO's clipped surrogate on the Gaussian reverse step of an SDE sampler.

.. math:: \mathcal{L} = -\min\big(r A,\ \mathrm{clip}(r, 1-\epsilon^-, 1+\epsilon^+) A\big), \qquad
          r = p_\theta(x_{t-\Delta t} \mid x_t) / p_{\mathrm{old}}(x_{t-\Delta t} \mid x_t)

Proved: the exact gradient A m r k (ε + kδ) and its target, the approximation A k ε that people quote with its
order and the terms up to the third, the direction-only target, and both readings of the objective's sign.
Source: Liu et al., arXiv:2505.05470.  DanceGRPO (arXiv:2505.07818) and CPS are the same loss on another reverse step;
TempFlow-GRPO (arXiv:2508.04324) and MixGRPO (arXiv:2507.21802) weigh it by the time step.  MixGRPO's public
code has ½ mean((log p_theta − log p_old)²) towards the behaviour model, where the paper has a KL to the reference: the
variant ``window-behaviour``.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.calculus import Norm2, Surrogate, sg
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step
from derivations.losses import _policy_gradient
from derivations.losses._lines import KL, KL_MEAN, KL_SIGMA, LOG_MEAN, LOG_UNIT, PPO
from derivations.losses._policy_gradient import GaussianPolicy, approximations, mask, ratio_gradient, time_weight_steps
from derivations.notation import (
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
    sigma_t,
    v_theta,
    x_prev,
)
from derivations.variant import Variant


def _assemble(options: Options) -> Stated:
    policy = GaussianPolicy(**options)
    surrogate = policy.weighting * Surrogate(advantage, ratio, clip_low, clip_high)
    pull = policy.weighting * advantage * mask * ratio * policy.scale * k * (noise + k * delta)
    whole = policy.held(surrogate, pull)
    return policy.stated(
        whole,
        definitions={ratio: sp.exp(log_ratio)},
        steps=(
            *policy.steps,
            ratio_gradient(policy),
            Step(
                "surrogate-gradient",
                "PPO's clip puts a mask m on the policy's gradient (lemma L4).",
                GradientIs(surrogate, pull, label=r"\left(-J\right)"),
            ),
            *time_weight_steps(policy, whole.gradient),
        ),
        after=(*approximations(policy, whole.gradient), *_article(policy, surrogate, pull)),
    )


ALGORITHM = Algorithm(
    name="flow_grpo",
    title="Flow-GRPO",
    reference="""@article{liu2025flowgrpo,
  title={Flow-GRPO: Training Flow Matching Models via Online RL},
  author={Liu, Jie and Liu, Gongye and Liang, Jiajun and others},
  journal={arXiv:2505.05470}, year={2025}}""",
    process="backward",
    policy="on",
    options={**_policy_gradient.OPTIONS, "kl": (*_policy_gradient.OPTIONS["kl"], "behaviour")},
    variants=(
        Variant("paper", "the true Gaussian log-density of the Flow-SDE step, without the KL term", line=PPO),
        Variant(
            "mean",
            "log-density averaged over coordinates, as the official code does",
            {"log_prob_reduction": "mean"},
            line=LOG_MEAN + PPO,
        ),
        Variant("kl", "with the KL divergence to the reference model's step", {"kl": "step"}, line=PPO + KL),
        Variant(
            "kl-sigma",
            "the official code's KL term, over 2σ_t² where the step's variance is σ_t²Δt",
            {"log_prob_reduction": "mean", "kl": "sigma"},
            line=LOG_MEAN + PPO + KL_SIGMA,
        ),
        Variant(
            "dance",
            "the Dance-SDE step, averaged (DanceGRPO)",
            {"sde": "dance", "log_prob_reduction": "mean"},
            line=LOG_MEAN + PPO,
        ),
        Variant("cps", "the CPS step with its true Gaussian log-density", {"sde": "cps"}, line=PPO),
        Variant(
            "cps-unit",
            "the CPS step as its public code writes it: averaged, and without 1/(2 C2²)",
            {"sde": "cps", "log_prob_reduction": "mean", "log_prob_scale": "unit"},
            line=LOG_UNIT + PPO,
        ),
        Variant(
            "wan",
            "the Wan-SDE step, averaged, with the KL divergence, as the official code trains Wan",
            {"sde": "wan", "log_prob_reduction": "mean", "kl": "step"},
            line=LOG_MEAN + PPO + KL_MEAN,
        ),
        Variant(
            "noise-weighted",
            "every step's policy term weighed by its noise C2, averaged (TempFlow-GRPO)",
            {"log_prob_reduction": "mean", "time_weight": "noise"},
            line=f"{LOG_MEAN}{PPO}*C2/noise_norm",
        ),
        Variant(
            "window",
            "only the steps inside a window train, averaged, with the KL divergence (MixGRPO)",
            {"log_prob_reduction": "mean", "kl": "step", "time_weight": "window"},
            line=f"{LOG_MEAN}window*({PPO}{KL_MEAN})",
        ),
        Variant(
            "window-behaviour",
            "only the steps inside a window, with MixGRPO's public penalty towards the behaviour model",
            {"log_prob_reduction": "mean", "kl": "behaviour", "time_weight": "window"},
            line=f"{LOG_MEAN}window*({PPO} + kl_weight*(log_prob_theta - log_prob_old)**2/2)",
        ),
    ),
    assemble=_assemble,
)


def _article(policy: GaussianPolicy, surrogate: sp.Expr, pull: sp.Expr) -> tuple[Step, ...]:
    """Where the article that started this project reads differently."""
    quoted = advantage * k * noise
    return (
        Step(
            "objective-sign",
            "The article prints the objective J, which is maximised. Read as a loss, its gradient has the other sign; "
            "implementations minimise −J.",
            GradientIs(-surrogate, -pull, label="J"),
        ),
        Step(
            "article-factor",
            "The article's sg-MSE with weight 1 has twice the quoted gradient (of J, so with J's sign) …",
            GradientIs(
                Norm2(v_theta - sg(v_theta + quoted)),
                -2 * quoted,
                label=r"\|v_\theta-\mathrm{sg}(v_\theta+A k\varepsilon)\|^2",
            ),
        ),
        Step(
            "article-factor-mended",
            "… and weight 1/2 makes it equal.",
            GradientIs(
                Norm2(v_theta - sg(v_theta + quoted)) / 2,
                -quoted,
                label=r"\tfrac12\|v_\theta-\mathrm{sg}(v_\theta+A k\varepsilon)\|^2",
            ),
        ),
        Step(
            "article-mean",
            "The article's first log-probability has the behaviour model's mean, which no gradient reaches.",
            GradientIs(
                -Norm2(x_prev - mean_old) / (2 * sigma_t**2),
                sp.S.Zero,
                label=r"\left[-\|x_{t-\Delta t}-\mu_{\mathrm{old}}\|^2/(2\sigma_t^2)\right]",
            ),
        ),
        *_article_variance(policy),
    )


def _article_variance(policy: GaussianPolicy) -> tuple[Step, ...]:
    std = sigma_t * sp.sqrt(dt)
    if policy.coefficients[C2] != std:
        return ()  # another step's variance is another
    return (
        Step(
            "article-variance",
            "It has 2σ_t² where the step's variance is σ_t²Δt: Δt times the true log-density.",
            Equal(
                -Norm2(x_prev - mean_theta) / (2 * sigma_t**2),
                -dt * Norm2(x_prev - mean_theta) / (2 * C2**2),
                {C2: std},
            ),
        ),
    )
