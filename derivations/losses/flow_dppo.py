r"""Flow-DPPO: PPO on a reverse step, with a bound on the policies' divergence in the place of the ratio's clip.

.. math:: \mathcal{L} = -r A\; \mathrm{sg}(m), \qquad
          m = 0 \text{ where } A(r - 1) > 0 \text{ and } d > d_{\max}, \text{ else } 1, \qquad
          d = \mathrm{KL}(p_{\mathrm{old}} \,\|\, p_\theta) = \tfrac{k^2}{2} \|\delta\|^2

A sample is stopped where it has gone far enough (d > d_max) and the update would take it further that way; on the way
back it trains at any distance.  The two steps' Gaussians share their covariance, so that their divergence is exact, the
same in both directions, and free of the noise, which the ratio is not.
Proved: the divergence's closed form, and the gradient A m r k (ε + kδ), which is Flow-GRPO's but for the mask.
Source: Ping, Zhou, Qi, Luo, Bo, Pang, arXiv:2606.11025.
"""

from __future__ import annotations

import sympy as sp

from derivations.calculus import Dot, Norm2, Unless, sg
from derivations.claims import Equal, GradientIs
from derivations.derivation import Derivation, Step
from derivations.losses._lines import DIVERGENCE, DPPO, KL_MEAN, LOG_MEAN
from derivations.losses._policy_gradient import OPTIONS as _OPTIONS
from derivations.losses._policy_gradient import GaussianPolicy, approximations, ratio_gradient
from derivations.notation import (
    C2,
    advantage,
    delta,
    divergence,
    divergence_max,
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

NAME = "flow_dppo"
TITLE = "Flow-DPPO"
REFERENCE = """@article{ping2026flowdppo,
  title={Flow-DPPO},
  author={Ping and Zhou and Qi and Luo and Bo and Pang},
  journal={arXiv:2606.11025}, year={2026}}"""

VARIANTS = (
    Variant("paper", "the true Gaussian log-density of the Flow-SDE step, and its KL divergence"),
    Variant("mean", "log-density and divergence averaged over coordinates", {"log_prob_reduction": "mean"}),
    Variant(
        "kl",
        "averaged, with the KL divergence to the reference model's step",
        {"log_prob_reduction": "mean", "kl": "step"},
    ),
    Variant("cps", "on the CPS step", {"sde": "cps"}),
)

OPTIONS = {name: allowed for name, allowed in _OPTIONS.items() if name not in ("log_prob_scale", "time_weight")}
"""What an implementation may declare, the default first."""

_mask = Unless(advantage * (ratio - 1), divergence - divergence_max)
_policy_loss = -advantage * ratio * sg(_mask)


LINES = {
    "paper": DIVERGENCE.format(d="norm2(mean_theta - mean_old)") + DPPO,
    "mean": LOG_MEAN + DIVERGENCE.format(d="mean((mean_theta - mean_old)**2)") + DPPO,
    "kl": LOG_MEAN + DIVERGENCE.format(d="mean((mean_theta - mean_old)**2)") + DPPO + KL_MEAN,
    "cps": DIVERGENCE.format(d="norm2(mean_theta - mean_old)") + DPPO,
}
"""Each variant in one line, as ``gradcheck derive`` reads it."""


def derive(variant: Variant = VARIANTS[0]) -> Derivation:
    """State and derive one variant."""
    policy = GaussianPolicy(**variant.options)
    pull = advantage * _mask * ratio * policy.scale * k * (noise + k * delta)
    gradient = pull + policy.kl_gradient
    quoted = advantage * policy.scale * k * noise + policy.kl_gradient
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="backward",
        policy="on",
        reference=REFERENCE,
        loss=_policy_loss + policy.kl_loss,
        gradient=gradient,
        weight=sp.Rational(1, 2),
        target=v_theta - gradient,
        definitions={
            **policy.definitions,
            ratio: sp.exp(log_ratio),
            divergence: policy.per_coordinate * Norm2(mean_theta - mean_old) / (2 * C2**2),
        },
        coefficients=policy.coefficients,
        within=policy.within,
        steps=(
            *policy.steps,
            ratio_gradient(policy),
            Step(
                "divergence",
                "Two Gaussians of one covariance diverge by the squared distance of their means: half of k²‖δ‖².",
                Equal(divergence, policy.scale * k**2 / 2 * Norm2(delta)),
            ),
            Step(
                "against-the-ratio",
                "The ratio depends on the noise besides, so that a clip of it stops samples by chance.",
                Equal(log_ratio, -divergence - policy.scale * k * Dot(delta, noise)),
            ),
            Step(
                "policy-gradient",
                "The mask is detached, so it multiplies the policy's gradient.",
                GradientIs(_policy_loss, pull, label=r"\left(-J\right)"),
            ),
        ),
        after=(
            *approximations(policy, gradient, quoted),
            Step(
                "free-on-policy",
                "At v_old the divergence is 0, so that nothing is masked.",
                Equal(_mask, sp.S.One, {v_theta: v_old}),
            ),
        ),
        brief_gradient=quoted,
        brief_target=v_theta - quoted,
    )
