r"""AWR, advantage-weighted regression: flow matching weighted by the exponentiated advantage, up to a greatest weight.

.. math:: \mathcal{L} = \min\big(e^{A/\tau},\ w_{\max}\big)\, \|v_\theta - v_{\mathrm{gt}}\|^2

Proved: like RWR it pulls to v_gt, whatever the advantage; above the clip, unlike under PPO's, a sample pulls as hard as
at it; advantages may be shifted as one likes, up to a constant factor, where nothing is clipped.  The weight is free of
the model, so that its kink is none of the loss's.
Source: Peng et al., arXiv:1910.00177, with flow matching where it has a log-likelihood.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.claims import Equal, Parallel
from derivations.derivation import Step
from derivations.losses import _forward
from derivations.losses._forward import held, matching, mixture_step, on_noised_data, per_coordinate, reference_weight
from derivations.losses._lines import with_reference
from derivations.notation import advantage, temperature, v_gt, v_theta, weight_max
from derivations.variant import Variant


@on_noised_data
def _assemble(options: Options) -> Stated:
    clipped = sp.Min(sp.exp(advantage / temperature), weight_max)
    weight = clipped * per_coordinate(options)
    pull = held(matching(weight), reference_weight(options))
    return Stated(
        pull,
        after=(
            Step(
                "never-away",
                "Good or bad, a sample pulls towards its v_gt: nothing is ever pushed away.",
                Parallel(-matching(weight).gradient, v_gt - v_theta, 2 * weight),
            ),
            *_weight_steps(clipped),
            *mixture_step(weight, v_gt, reference_weight(options)),
        ),
    )


ALGORITHM = Algorithm(
    name="awr",
    title="AWR",
    reference="""@article{peng2019awr,
  title={Advantage-Weighted Regression: Simple and Scalable Off-Policy Reinforcement Learning},
  author={Peng, Xue Bin and Kumar, Aviral and Zhang, Grace and Levine, Sergey},
  journal={arXiv:1910.00177}, year={2019}}""",
    process="forward",
    policy="on",
    options=_forward.OPTIONS,
    variants=(
        Variant(
            "paper",
            "the weighted squared error, summed over coordinates",
            line="min(exp(A/tau), weight_max)*norm2(v_theta - v_gt)",
        ),
        Variant(
            "mean",
            "averaged over coordinates",
            {"reduction": "mean"},
            line="min(exp(A/tau), weight_max)*mse(v_theta, v_gt)",
        ),
        with_reference("min(exp(A/tau), weight_max)*norm2(v_theta - v_gt)"),
    ),
    assemble=_assemble,
)


def _weight_steps(clipped: sp.Expr) -> tuple[Step, ...]:
    above, below, shift = sp.Symbol("s", positive=True), sp.Symbol("u", positive=True), sp.Symbol("b", real=True)
    plain = sp.exp(advantage / temperature)
    return (
        Step(
            "above-the-clip",
            "Beyond the clip the weight is w_max, however good the sample: this clip, unlike PPO's, silences nothing.",
            Equal(clipped, weight_max, {advantage: temperature * sp.log(weight_max + above)}),
        ),
        Step(
            "below-the-clip",
            "Under it the weight is the exponential, as RWR has it.",
            Equal(clipped, plain, {weight_max: plain + below}),
        ),
        Step(
            "baseline",
            "There a constant that is added to every advantage multiplies every weight alike.",
            Equal(plain.xreplace({advantage: advantage + shift}), sp.exp(shift / temperature) * plain),
        ),
    )
