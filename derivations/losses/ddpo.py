r"""DDPO: PPO's clipped surrogate on the DDIM steps of a variance-preserving diffusion.

.. math:: \mathcal{L} = -\min\big(r A,\ \mathrm{clip}(r, 1-\epsilon^-, 1+\epsilon^+) A\big), \qquad
          r = p_\theta(x_{t'} \mid x_t) / p_{\mathrm{old}}(x_{t'} \mid x_t)

It is Flow-GRPO's loss on another path: in the velocity v = √ᾱ ε − √(1−ᾱ) x_0 the step's mean is a − C1·v again, so that
gradient and target read the same, A m r k (ε + kδ), with another k; so does the KL term of DPOK (Fan et al.,
arXiv:2305.16381), which an option adds.  Its networks predict the noise √ᾱ v + √(1−ᾱ) x_t;
:mod:`derivations.sde` proves the step, and that η = 1 is DDPM's.
Source: Black et al., arXiv:2305.13301 (DDPO-IS); the step is Song et al.'s, arXiv:2010.02502.
"""

from __future__ import annotations

import sympy as sp

from derivations.calculus import Surrogate
from derivations.claims import Equal, GradientIs
from derivations.derivation import Derivation, Step
from derivations.losses._lines import KL, LOG_MEAN, PPO
from derivations.losses._policy_gradient import GaussianPolicy, approximations, mask, ratio_gradient
from derivations.notation import (
    C1,
    advantage,
    alpha_bar,
    clip_high,
    clip_low,
    delta,
    k,
    log_ratio,
    mean_old,
    mean_theta,
    noise,
    ratio,
    v_old,
    v_theta,
    x_t,
)
from derivations.variant import Variant

NAME = "ddpo"
TITLE = "DDPO"
REFERENCE = """@article{black2023ddpo,
  title={Training Diffusion Models with Reinforcement Learning},
  author={Black, Kevin and Janner, Michael and Du, Yilun and Kostrikov, Ilya and Levine, Sergey},
  journal={arXiv:2305.13301}, year={2023}}"""

VARIANTS = (
    Variant("paper", "the true Gaussian log-density of the DDIM step"),
    Variant("mean", "log-density averaged over coordinates, as the official code does", {"log_prob_reduction": "mean"}),
    Variant("kl", "with the KL divergence to the reference model's step (DPOK)", {"kl": "step"}),
)

OPTIONS = {"log_prob_reduction": ("sum", "mean"), "kl": ("none", "step")}
"""What an implementation may declare, the default first."""

_surrogate = Surrogate(advantage, ratio, clip_low, clip_high)


LINES = {
    "paper": PPO,
    "mean": LOG_MEAN + PPO,
    "kl": PPO + KL,
}
"""Each variant in one line, as ``gradcheck derive`` reads it."""


def derive(variant: Variant = VARIANTS[0]) -> Derivation:
    """State and derive one variant."""
    policy = GaussianPolicy(sde="ddim", **variant.options)
    pull = advantage * mask * ratio * policy.scale * k * (noise + k * delta)
    gradient = pull + policy.kl_gradient
    quoted = advantage * policy.scale * k * noise + policy.kl_gradient
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="backward",
        policy="on",
        reference=REFERENCE,
        loss=_surrogate + policy.kl_loss,
        gradient=gradient,
        weight=sp.Rational(1, 2),
        target=v_theta - gradient,
        definitions={**policy.definitions, ratio: sp.exp(log_ratio)},
        coefficients=policy.coefficients,
        within=policy.within,
        steps=(
            *policy.steps,
            ratio_gradient(policy),
            Step(
                "surrogate-gradient",
                "PPO's clip puts a mask m on the policy's gradient (lemma L4).",
                GradientIs(_surrogate, pull, label=r"\left(-J\right)"),
            ),
        ),
        after=(*approximations(policy, gradient, quoted), _noise_slope()),
        brief_gradient=quoted,
        brief_target=v_theta - quoted,
        path=policy.path,
    )


def _noise_slope() -> Step:
    def predicted_noise(v: sp.Expr) -> sp.Expr:
        return sp.sqrt(alpha_bar) * v + sp.sqrt(1 - alpha_bar) * x_t

    return Step(
        "noise-prediction",
        "In the predicted noise, which the network puts out, the mean's slope is −C1/√ᾱ.",
        Equal(
            mean_theta - mean_old,
            -C1 / sp.sqrt(alpha_bar) * (predicted_noise(v_theta) - predicted_noise(v_old)),
        ),
    )
