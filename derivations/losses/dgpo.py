r"""DGPO, direct group preference optimisation: a group's good samples are to be fitted better than its bad ones.

.. math:: \mathcal{L} = -\log\sigma\Big(-\beta_{\mathrm{DPO}} \sum_i A_i g_i\Big), \qquad
          g = \|v_\theta - v_{\mathrm{gt}}\|^2 - \|v_{\mathrm{ref}} - v_{\mathrm{gt}}\|^2

The paper writes the sum as that over the good samples less that over the bad ones, each with the weight \|A\|.  It is
stated as one sample of the group sees it: with its own A·g, and with the sum s over the others as a given number.  The
gradient in this sample's velocity is the group's own; the value is the group's too, so that adding up the losses of G
samples counts it G times.

Proved: the gradient 2 β A q (v_theta − v_gt), exact, q being the probability with which the model ranks the group
wrongly.  So it is AWM by a factor β q that the group has in common; with two samples and A = ±1 it is Diffusion-DPO
(:mod:`derivations.coincidences`).  Advantages add up to 0 over a group, so that what all of its gaps have in common
counts for nothing.
Source: Luo et al., arXiv:2510.08425.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.calculus import Dot, Norm2, VectorSymbol
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step
from derivations.losses import _forward
from derivations.losses._forward import on_noised_data, per_coordinate
from derivations.losses._lines import gap, group, with_reference
from derivations.losses._preference import Preference, doubt, negative_log_likelihood
from derivations.notation import advantage, beta_dpo, error_gap, group_gap, misorder_prob, v_gt, v_theta
from derivations.variant import Variant


def _margin(own: sp.Expr, gap: sp.Expr, others: sp.Expr) -> sp.Expr:
    """β (A g + s), as a sample with the advantage A and the gap g sees it."""
    return beta_dpo * (own * gap + others)


@on_noised_data
def _assemble(options: Options) -> Stated:
    each = per_coordinate(options)
    own = Preference(_margin(advantage, error_gap, group_gap), beta_dpo * advantage, options)
    return Stated(
        own.pull,
        definitions=own.definitions,
        steps=(own.likelihood_step, *_group_steps(), _mean_step(each), own.gap_step),
        after=(own.start_step(group_gap),),
    )


ALGORITHM = Algorithm(
    name="dgpo",
    title="DGPO",
    reference="""@article{luo2025dgpo,
  title={Reinforcing Diffusion Models by Direct Group Preference Optimization},
  author={Luo, Yihong and Hu, Tianyang and Tang, Jing},
  journal={arXiv:2510.08425}, year={2025}}""",
    process="forward",
    policy="on",
    options=_forward.OPTIONS,
    variants=(
        Variant(
            "paper",
            "one sample of a group, squared errors summed over coordinates",
            line=group(gap("norm2({v} - v_gt)")),
        ),
        Variant(
            "mean",
            "squared errors averaged over coordinates, in the group's other gaps too",
            {"reduction": "mean"},
            line=group(gap("mean(({v} - v_gt)**2)")),
        ),
        with_reference(group(gap("norm2({v} - v_gt)"))),
    ),
    assemble=_assemble,
)


def _mean_step(each: sp.Expr) -> Step:
    size = sp.Symbol("G", positive=True)
    mean = _margin(advantage, error_gap, group_gap) / size
    return Step(
        "mean-over-the-group",
        "Where the mean over the G samples stands in place of the sum, as in the public code, it is all the same with "
        "β/G for β, in q too.",
        GradientIs(
            negative_log_likelihood(mean),
            2 * advantage * (beta_dpo / size) * doubt(mean) * each * (v_theta - v_gt),
            label=r"\mathcal{L}_{1/G}",
        ),
    )


def _group_steps() -> tuple[Step, ...]:
    """What makes one sample's view the group's.

    The whole group's rewards, gaps and ones are vectors over its members; its advantages are the centred rewards.
    """
    a, b, s = sp.symbols("A_1 A_2 s", real=True)
    g, h, shift = sp.symbols("g_1 g_2 b", real=True)
    rewards, gaps, ones, size = (
        VectorSymbol("R"),
        VectorSymbol("gaps"),
        VectorSymbol("ones"),
        sp.Symbol("G", positive=True),
    )
    advantages = rewards - Dot(rewards, ones) / size * ones
    rest, others = sp.symbols("s_1 s_2", real=True)  # what each of two samples sees of the group
    first, second = _margin(a, g, rest), _margin(b, h, others)
    return (
        Step(
            "one-group",
            "Two samples of a group see the same loss, and so the same q: their advantages alone tell how hard, and "
            "which way, each is pulled.",
            Equal(
                negative_log_likelihood(first), negative_log_likelihood(second), {rest: b * h + s, others: a * g + s}
            ),
        ),
        Step(
            "zero-sum",
            "Over the group, what they count for adds up to 0, as their advantages do.",
            Equal(beta_dpo * misorder_prob * Dot(advantages, ones), sp.S.Zero, {Norm2(ones): size}),
        ),
        Step(
            "common-part",
            "What all gaps have in common, the reference's normaliser for instance, meets advantages that add up to 0.",
            Equal(Dot(advantages, gaps + shift * ones), Dot(advantages, gaps), {Norm2(ones): size}),
        ),
    )
