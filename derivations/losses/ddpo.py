r"""DDPO: PPO's clipped surrogate on the DDIM steps of a variance-preserving diffusion.

.. math:: \mathcal{L} = -\min\big(r A,\ \mathrm{clip}(r, 1-\epsilon^-, 1+\epsilon^+) A\big), \qquad
          r = p_\theta(x_{t'} \mid x_t) / p_{\mathrm{old}}(x_{t'} \mid x_t)

It is Flow-GRPO's loss on another path: in the velocity v = √ᾱ ε − √(1−ᾱ) x_0 the step's mean is a − C1·v again, so that
gradient and target read the same, A m r k (ε + kδ), with another k; so does the KL term of DPOK (Fan et al.,
arXiv:2305.16381), which an option adds.  Its networks predict the noise √ᾱ v + √(1−ᾱ) x_t;
:mod:`derivations.steps.sde` proves the step, and that η = 1 is DDPM's.
Source: Black et al., arXiv:2305.13301 (DDPO-IS); the step is Song et al.'s, arXiv:2010.02502.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.calculus import Surrogate
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step
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


def _assemble(options: Options) -> Stated:
    policy = GaussianPolicy(sde="ddim", **options)
    surrogate = Surrogate(advantage, ratio, clip_low, clip_high)
    pull = advantage * mask * ratio * policy.scale * k * (noise + k * delta)
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
        ),
        after=(*approximations(policy, whole.gradient), _noise_slope()),
    )


ALGORITHM = Algorithm(
    name="ddpo",
    title="DDPO",
    reference="""@article{black2023ddpo,
  title={Training Diffusion Models with Reinforcement Learning},
  author={Black, Kevin and Janner, Michael and Du, Yilun and Kostrikov, Ilya and Levine, Sergey},
  journal={arXiv:2305.13301}, year={2023}}""",
    process="backward",
    policy="on",
    options={"log_prob_reduction": ("sum", "mean"), "kl": ("none", "step")},
    variants=(
        Variant("paper", "the true Gaussian log-density of the DDIM step", line=PPO),
        Variant(
            "mean",
            "log-density averaged over coordinates, as the official code does",
            {"log_prob_reduction": "mean"},
            line=LOG_MEAN + PPO,
        ),
        Variant("kl", "with the KL divergence to the reference model's step (DPOK)", {"kl": "step"}, line=PPO + KL),
    ),
    assemble=_assemble,
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
