r"""REINFORCE: the score-function estimator on the Gaussian reverse step, with no ratio and no clip.

.. math:: \mathcal{L} = -A \log p_\theta(x_{t-\Delta t} \mid x_t)

Proved: the exact gradient A k (ε + kδ), which is Flow-GRPO's with r = 1 and m = 1 whatever δ is; that both agree at
v_theta = v_old; and that for A > 0 the loss is a squared distance to one fixed point, the velocity whose step lands on
the sampled state.  An update of samples that an older model drew is biased: nothing weighs them by r, and nothing stops
the pull where the trained model has moved away.
Source: Williams, Machine Learning 8, 1992; on the steps of a diffusion sampler it is DDPO-SF of Black et al.,
arXiv:2305.13301.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.calculus import Norm2
from derivations.claims import Approximates, Equal, EqualUpToConstant, GradientIs
from derivations.derivation import Step
from derivations.losses import _policy_gradient
from derivations.losses._lines import KL, LOG_MEAN
from derivations.losses._policy_gradient import GaussianPolicy
from derivations.notation import (
    C1,
    C2,
    advantage,
    delta,
    k,
    log_prob_theta,
    log_ratio,
    mean_theta,
    noise,
    v_old,
    v_theta,
    x_prev,
)
from derivations.variant import Variant


def _assemble(options: Options) -> Stated:
    policy = GaussianPolicy(**options)
    pull = advantage * policy.scale * k * (noise + k * delta)
    whole = policy.held(-advantage * log_prob_theta, pull)
    return policy.stated(
        whole,
        steps=policy.steps,
        after=(*_on_policy(whole.gradient, policy.quoted), *_fixed_point(policy), _against_a_ratio(policy, pull)),
    )


ALGORITHM = Algorithm(
    name="reinforce",
    title="REINFORCE",
    reference="""@article{williams1992reinforce,
  title={Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning},
  author={Williams, Ronald J.},
  journal={Machine Learning}, volume={8}, pages={229--256}, year={1992}}""",
    process="backward",
    policy="on",
    options={name: _policy_gradient.OPTIONS[name] for name in ("sde", "log_prob_reduction", "log_prob_scale", "kl")},
    variants=(
        Variant(
            "paper", "the true Gaussian log-density of the Flow-SDE step (DDPO-SF on a flow)", line="-A*log_prob_theta"
        ),
        Variant(
            "mean",
            "log-density averaged over coordinates",
            {"log_prob_reduction": "mean"},
            line=LOG_MEAN + "-A*log_prob_theta",
        ),
        Variant(
            "kl", "with the KL divergence to the reference model's step", {"kl": "step"}, line="-A*log_prob_theta" + KL
        ),
    ),
    assemble=_assemble,
)


def _on_policy(gradient: sp.Expr, quoted: sp.Expr) -> tuple[Step, ...]:
    at = {v_theta: v_old}
    return (
        Step(
            "approximate-gradient",
            "On-policy (δ = 0) what is left is the noise, weighted by the advantage.",
            Approximates(gradient, quoted, at),
        ),
        Step(
            "approximate-target",
            "So the velocity is pulled against the noise where the advantage is positive.",
            Approximates(v_theta - gradient, v_theta - quoted, at),
        ),
    )


def _fixed_point(policy: GaussianPolicy) -> tuple[Step, ...]:
    """The velocity whose step has its mean at the sampled state."""
    landing = v_old - C2 / C1 * noise
    return (
        Step(
            "landing",
            "One velocity's step has its mean at the sampled state: v_old − ε/k.",
            Equal(x_prev - mean_theta, C1 * (v_theta - landing)),
        ),
        Step(
            "fixed-point",
            "So the policy's term is a squared distance to that one point: a good sample pulls to it, a bad one "
            "pushes away from it, without end.",
            EqualUpToConstant(
                -advantage * log_prob_theta,
                advantage * policy.precision * C1**2 * Norm2(v_theta - landing),
                advantage * policy.normaliser,
            ),
        ),
    )


def _against_a_ratio(policy: GaussianPolicy, pull: sp.Expr) -> Step:
    return Step(
        "against-a-ratio",
        "The unclipped ratio's loss pulls the same way, r times as hard: REINFORCE leaves the correction for the older "
        "model out.",
        GradientIs(-advantage * sp.exp(log_ratio), sp.exp(log_ratio) * pull, label=r"\left(-A r\right)"),
    )
