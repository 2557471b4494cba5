r"""RWR, reward-weighted regression: flow matching on the model's own samples, weighted by the exponentiated reward.

.. math:: \mathcal{L} = e^{R/\tau} \|v_\theta - v_{\mathrm{gt}}\|^2

Proved: the target is v_gt itself, whatever the reward; the reward decides how hard it pulls, never where to.  So it
stays in AWR, which has the advantage in the reward's place and the weight clipped at w_max.
Source: Peters & Schaal, ICML 2007; Lee et al., arXiv:2302.12192 (for diffusion models); AWR: Peng et al.,
arXiv:1910.00177.
"""

from __future__ import annotations

import sympy as sp

from derivations.calculus import Norm2
from derivations.claims import Equal, GradientIs, Parallel
from derivations.derivation import Derivation, Step
from derivations.identities import velocity_step
from derivations.notation import D, advantage, noise, reward, temperature, v_gt, v_theta, x_0
from derivations.variant import Variant, choose

NAME = "rwr"
TITLE = "RWR"
REFERENCE = """@inproceedings{peters2007rwr,
  title={Reinforcement Learning by Reward-Weighted Regression for Operational Space Control},
  author={Peters, Jan and Schaal, Stefan},
  booktitle={ICML}, year={2007}}"""

OPTIONS = {"reduction": ("sum", "mean")}
"""What an implementation may declare, the default first."""

VARIANTS = (
    Variant("paper", "the weighted squared error, summed over coordinates"),
    Variant("mean", "averaged over coordinates", {"reduction": "mean"}),
)


def derive(variant: Variant = VARIANTS[0]) -> Derivation:
    """State and derive one variant."""
    reduction = choose("reduction", variant.options.get("reduction", "sum"), "sum", "mean")
    weight = sp.exp(reward / temperature) / (D if reduction == "mean" else 1)
    gradient = 2 * weight * (v_theta - v_gt)
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="forward",
        policy="on",
        reference=REFERENCE,
        loss=weight * Norm2(v_theta - v_gt),
        gradient=gradient,
        weight=weight,
        target=v_gt,
        definitions={v_gt: noise - x_0},
        steps=(velocity_step(),),
        after=(
            Step(
                "never-away",
                "A bad sample pulls less than a good one, and in the same direction: nothing is ever pushed away.",
                Parallel(-gradient, v_gt - v_theta, 2 * weight),
            ),
            *_advantage_weighted(1 / D if reduction == "mean" else sp.S.One),
        ),
    )


def _advantage_weighted(per_coordinate: sp.Expr) -> tuple[Step, ...]:
    """AWR: the weight min(exp(A/τ), w_max)."""
    most, over = sp.symbols("w_max s", positive=True)
    clipped = sp.Min(sp.exp(advantage / temperature), most)
    pull = 2 * clipped * per_coordinate * (v_theta - v_gt)
    return (
        Step(
            "awr",
            "AWR, with the advantage in the reward's place and the weight clipped at w_max, pulls to v_gt as well.",
            GradientIs(clipped * per_coordinate * Norm2(v_theta - v_gt), pull, label=r"\mathcal{L}_{\mathrm{AWR}}"),
        ),
        Step(
            "awr-clip",
            "Beyond the clip the weight is w_max, however good the sample: this clip, unlike PPO's, silences nothing.",
            Equal(clipped, most, {advantage: temperature * sp.log(most + over)}),
        ),
    )
