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

from derivations.algorithm import Algorithm, Options, Stated
from derivations.calculus import Dot, Norm2, Unless, sg
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step
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

_mask = Unless(advantage * (ratio - 1), divergence - divergence_max)
_policy_loss = -advantage * ratio * sg(_mask)


def _assemble(options: Options) -> Stated:
    policy = GaussianPolicy(**options)
    pull = advantage * _mask * ratio * policy.scale * k * (noise + k * delta)
    whole = policy.held(_policy_loss, pull)
    return policy.stated(
        whole,
        definitions={
            ratio: sp.exp(log_ratio),
            divergence: policy.per_coordinate * Norm2(mean_theta - mean_old) / (2 * C2**2),
        },
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
            *approximations(policy, whole.gradient),
            Step(
                "free-on-policy",
                "At v_old the divergence is 0, so that nothing is masked.",
                Equal(_mask, sp.S.One, {v_theta: v_old}),
            ),
        ),
    )


ALGORITHM = Algorithm(
    name="flow_dppo",
    title="Flow-DPPO",
    reference="""@article{ping2026flowdppo,
  title={Flow-DPPO},
  author={Ping and Zhou and Qi and Luo and Bo and Pang},
  journal={arXiv:2606.11025}, year={2026}}""",
    process="backward",
    policy="on",
    options={name: allowed for name, allowed in _OPTIONS.items() if name not in ("log_prob_scale", "time_weight")},
    variants=(
        Variant(
            "paper",
            "the true Gaussian log-density of the Flow-SDE step, and its KL divergence",
            line=DIVERGENCE.format(d="norm2(mean_theta - mean_old)") + DPPO,
        ),
        Variant(
            "mean",
            "log-density and divergence averaged over coordinates",
            {"log_prob_reduction": "mean"},
            line=LOG_MEAN + DIVERGENCE.format(d="mean((mean_theta - mean_old)**2)") + DPPO,
        ),
        Variant(
            "kl",
            "averaged, with the KL divergence to the reference model's step",
            {"log_prob_reduction": "mean", "kl": "step"},
            line=LOG_MEAN + DIVERGENCE.format(d="mean((mean_theta - mean_old)**2)") + DPPO + KL_MEAN,
        ),
        Variant(
            "cps", "on the CPS step", {"sde": "cps"}, line=DIVERGENCE.format(d="norm2(mean_theta - mean_old)") + DPPO
        ),
    ),
    assemble=_assemble,
)
