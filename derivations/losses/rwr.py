r"""RWR, reward-weighted regression: flow matching on the model's own samples, weighted by the exponentiated reward.

.. math:: \mathcal{L} = e^{R/\tau} \|v_\theta - v_{\mathrm{gt}}\|^2

Proved: the target is v_gt itself, whatever the reward; the reward decides how hard it pulls, never where to.
Source: Peters & Schaal, ICML 2007, for the exponential.  Lee, Liu, Ryu and others (arXiv:2302.12192), who brought
reward weighting to text-to-image models, weigh by the reward itself, which their reward model keeps between 0 and 1.
That variant is AWM with the reward in the advantage's place: with no baseline, and so with flow matching on top.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Pull, Stated
from derivations.calculus import Norm2
from derivations.claims import Equal, Parallel
from derivations.derivation import Step
from derivations.losses import _forward
from derivations.losses._forward import held, matching, mixture_step, on_noised_data, per_coordinate, reference_weight
from derivations.losses._lines import with_reference
from derivations.notation import reward, temperature, v_gt, v_theta
from derivations.variant import Variant


@on_noised_data
def _assemble(options: Options) -> Stated:
    pull, after = _WEIGHTED_BY[options["weighting"]](options)
    return Stated(pull, after=after)


ALGORITHM = Algorithm(
    name="rwr",
    title="RWR",
    reference="""@inproceedings{peters2007rwr,
  title={Reinforcement Learning by Reward-Weighted Regression for Operational Space Control},
  author={Peters, Jan and Schaal, Stefan},
  booktitle={ICML}, year={2007}}""",
    process="forward",
    policy="on",
    options={**_forward.OPTIONS, "weighting": ("exponential", "reward")},
    variants=(
        Variant(
            "paper", "the weighted squared error, summed over coordinates", line="exp(R/tau)*norm2(v_theta - v_gt)"
        ),
        Variant("mean", "averaged over coordinates", {"reduction": "mean"}, line="exp(R/tau)*mse(v_theta, v_gt)"),
        with_reference("exp(R/tau)*norm2(v_theta - v_gt)"),
        Variant(
            "reward",
            "weighted by the reward itself, averaged (Lee et al.)",
            {"reduction": "mean", "weighting": "reward"},
            line="R*mse(v_theta, v_gt)",
        ),
    ),
    assemble=_assemble,
)


def _by_exponential(options: Options) -> tuple[Pull, tuple[Step, ...]]:
    weight = sp.exp(reward / temperature) * per_coordinate(options)
    plain = matching(weight)
    return held(plain, reference_weight(options)), (
        Step(
            "never-away",
            "Good or bad, a sample pulls towards its v_gt: nothing is ever pushed away.",
            Parallel(-plain.gradient, v_gt - v_theta, 2 * weight),
        ),
        *mixture_step(weight, v_gt, reference_weight(options)),
    )


def _by_reward(options: Options) -> tuple[Pull, tuple[Step, ...]]:
    each, shift = per_coordinate(options), sp.Symbol("b", real=True)
    gradient = 2 * reward * each * (v_theta - v_gt)
    plain = Pull(reward * each * Norm2(v_theta - v_gt), gradient, each, v_theta + reward * (v_gt - v_theta))
    return held(plain, reference_weight(options)), (
        Step(
            "reward-one",
            "A reward of 1 is plain flow matching …",
            Equal(plain.target, v_gt, {reward: sp.S.One}),
        ),
        Step(
            "reward-zero",
            "… and with a reward of 0 nothing pulls.",
            Equal(plain.target, v_theta, {reward: sp.S.Zero}),
        ),
        Step(
            "no-baseline",
            "A constant b that is added to every reward adds b times the flow-matching gradient: only that holds "
            "the model to its own samples, and an advantage has it taken out.",
            Equal(gradient.xreplace({reward: reward + shift}), gradient + 2 * shift * each * (v_theta - v_gt)),
        ),
    )


_WEIGHTED_BY = {"exponential": _by_exponential, "reward": _by_reward}
