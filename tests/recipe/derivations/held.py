r"""A policy gradient whose importance weight is bounded and detached, as CISPO has it."""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.calculus import sg
from derivations.losses._policy_gradient import GaussianPolicy, ratio_gradient
from derivations.notation import advantage, clip_high, delta, k, log_prob_theta, log_ratio, noise, ratio
from derivations.variant import Variant


def _assemble(options: Options) -> Stated:
    policy = GaussianPolicy(**options)
    weight = sg(sp.Min(ratio, 1 + clip_high))
    gradient = weight * advantage * policy.scale * k * (noise + k * delta)
    return policy.stated(
        policy.held(-weight * advantage * log_prob_theta, gradient),
        steps=policy.steps,
        after=(ratio_gradient(policy),),
        definitions={ratio: sp.exp(log_ratio)},
    )


ALGORITHM = Algorithm(
    name="held",
    title="A bounded and detached importance weight",
    reference="@misc{held, title={A trial of the recipe}}",
    process="backward",
    policy="off",
    options={"log_prob_reduction": ("sum", "mean"), "kl": ("none", "step")},
    variants=(Variant("paper", "bounded from above", line="-A*sg(min(ratio, 1 + clip_high))*log_prob_theta"),),
    assemble=_assemble,
)
