r"""RWR, reward-weighted regression: flow matching on the model's own samples, weighted by the exponentiated reward.

.. math:: \mathcal{L} = e^{R/\tau} \|v_\theta - v_{\mathrm{gt}}\|^2

Proved: the target is v_gt itself, whatever the reward; the reward decides how hard it pulls, never where to.
Source: Peters & Schaal, ICML 2007, for the exponential.  Lee et al. (arXiv:2302.12192), who brought reward weighting to
diffusion models, weigh by the reward itself, not by its exponential: the target is the same, the weight is not.
"""

from __future__ import annotations

import sympy as sp

from derivations.claims import Parallel
from derivations.derivation import Derivation, Step
from derivations.identities import velocity_step
from derivations.losses import _forward
from derivations.losses._forward import matching, mixture_step, per_coordinate, reference_weight
from derivations.notation import noise, reward, temperature, v_gt, v_theta, x_0
from derivations.variant import Variant, chosen

NAME = "rwr"
TITLE = "RWR"
REFERENCE = """@inproceedings{peters2007rwr,
  title={Reinforcement Learning by Reward-Weighted Regression for Operational Space Control},
  author={Peters, Jan and Schaal, Stefan},
  booktitle={ICML}, year={2007}}"""

OPTIONS = _forward.OPTIONS
"""What an implementation may declare, the default first."""

VARIANTS = (
    Variant("paper", "the weighted squared error, summed over coordinates"),
    Variant("mean", "averaged over coordinates", {"reduction": "mean"}),
    Variant("reference", "with a squared distance to the reference velocity", {"reference": "on"}),
)


def derive(variant: Variant = VARIANTS[0]) -> Derivation:
    """State and derive one variant."""
    options = chosen(variant, OPTIONS)
    weight = sp.exp(reward / temperature) * per_coordinate(options)
    pull = matching(weight).held(reference_weight(options))
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="forward",
        policy="on",
        reference=REFERENCE,
        loss=pull.loss,
        gradient=pull.gradient,
        weight=pull.weight,
        target=pull.target,
        definitions={v_gt: noise - x_0},
        steps=(velocity_step(),),
        after=(
            Step(
                "never-away",
                "Good or bad, a sample pulls towards its v_gt: nothing is ever pushed away.",
                Parallel(-matching(weight).gradient, v_gt - v_theta, 2 * weight),
            ),
            *mixture_step(weight, v_gt, reference_weight(options)),
        ),
    )
