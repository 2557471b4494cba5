r"""Diffusion-DPO, in its flow-matching form: of two samples, the one that people preferred is to be fitted better.

.. math:: \mathcal{L} = -\log\sigma\big(-\beta_{\mathrm{DPO}} (g_w - g_l)\big), \qquad
          g = \|v_\theta - v_{\mathrm{gt}}\|^2 - \|v_{\mathrm{ref}} - v_{\mathrm{gt}}\|^2

It is stated as one sample of the pair sees it: with its preference y, 1 for the winner and −1 for the loser, and with
the other one's gap g' as a given number.  The gradient in this sample's velocity is the pair's own; the value is the
pair's too, so that adding up both samples' losses counts it twice.

Proved: the gradient 2 β y q (v_theta − v_gt), exact, q being the probability with which the model ranks the pair
wrongly.  This is advantage-weighted matching with the advantage β y q; the two advantages of a pair add up to 0.
The authors' code averages over coordinates and writes β/2 for this β.
Source: Wallace et al., arXiv:2311.12908, Eq. 14, with velocities where it has noise.
"""

from __future__ import annotations

import sympy as sp

from derivations.calculus import Norm2
from derivations.claims import Equal, GradientIs
from derivations.derivation import Derivation, Step
from derivations.identities import velocity_step
from derivations.notation import (
    D,
    beta_dpo,
    error_gap,
    misorder_prob,
    noise,
    partner_gap,
    preference,
    v_gt,
    v_ref,
    v_theta,
    x_0,
)
from derivations.variant import Variant, choose

NAME = "diffusion_dpo"
TITLE = "Diffusion-DPO"
REFERENCE = """@inproceedings{wallace2024diffusiondpo,
  title={Diffusion Model Alignment Using Direct Preference Optimization},
  author={Wallace, Bram and others},
  booktitle={CVPR}, year={2024}, note={arXiv:2311.12908}}"""

OPTIONS = {"reduction": ("sum", "mean")}
"""What an implementation may declare, the default first."""

VARIANTS = (
    Variant("paper", "one sample of a pair, squared errors summed over coordinates"),
    Variant("mean", "squared errors averaged over coordinates, in the partner's gap too", {"reduction": "mean"}),
)


def _loss(y: sp.Expr, own: sp.Expr, other: sp.Expr) -> sp.Expr:
    """−log σ(−β y (own − other)), as a sample with the preference y sees it."""
    return sp.log(1 + sp.exp(beta_dpo * y * (own - other)))


def _misorder(y: sp.Expr, own: sp.Expr, other: sp.Expr) -> sp.Expr:
    """σ(β y (own − other))."""
    return 1 / (1 + sp.exp(-beta_dpo * y * (own - other)))


def derive(variant: Variant = VARIANTS[0]) -> Derivation:
    """State and derive one variant."""
    reduction = choose("reduction", variant.options.get("reduction", "sum"), "sum", "mean")
    per_coordinate = 1 / D if reduction == "mean" else sp.S.One
    loss = _loss(preference, error_gap, partner_gap)
    pull = beta_dpo * preference * misorder_prob
    gradient = 2 * pull * per_coordinate * (v_theta - v_gt)
    return Derivation(
        name=NAME,
        variant=variant,
        title=TITLE,
        process="forward",
        policy="off",
        reference=REFERENCE,
        loss=loss,
        gradient=gradient,
        weight=per_coordinate,
        target=v_theta + pull * (v_gt - v_theta),
        definitions={
            v_gt: noise - x_0,
            error_gap: per_coordinate * (Norm2(v_theta - v_gt) - Norm2(v_ref - v_gt)),
            misorder_prob: _misorder(preference, error_gap, partner_gap),
        },
        steps=(
            velocity_step(),
            *_pair_steps(loss),
            Step(
                "gap-gradient",
                "The gap has the flow-matching gradient: the reference's error is a constant.",
                GradientIs(error_gap, 2 * per_coordinate * (v_theta - v_gt), label="g"),
            ),
        ),
        after=(
            Step(
                "winner",
                "The winner is pulled towards its v_gt, …",
                Equal(v_theta + beta_dpo * misorder_prob * (v_gt - v_theta), v_theta + pull * (v_gt - v_theta), _WON),
            ),
            Step(
                "loser",
                "… and the loser is pushed away from its own, as by a negative advantage.",
                Equal(v_theta - beta_dpo * misorder_prob * (v_gt - v_theta), v_theta + pull * (v_gt - v_theta), _LOST),
            ),
            Step(
                "at-the-reference",
                "Before training the model is its reference: it ranks by the toss of a coin, and pulls by ±β/2.",
                Equal(pull, beta_dpo * preference / 2, {v_theta: v_ref, partner_gap: sp.S.Zero}),
            ),
        ),
    )


_WON, _LOST = {preference: sp.S.One}, {preference: sp.S.NegativeOne}


def _pair_steps(loss: sp.Expr) -> tuple[Step, ...]:
    """What makes one sample's view the pair's: the winner has the gap g_w, the loser g_l."""
    won, lost = sp.symbols("g_w g_l", real=True)
    winner, loser = (sp.S.One, won, lost), (sp.S.NegativeOne, lost, won)
    return (
        Step(
            "likelihood",
            "The loss is −log of the probability with which the model ranks the pair as people did.",
            Equal(sp.exp(-loss), 1 - misorder_prob),
        ),
        Step("one-pair", "The winner and the loser see the same loss, …", Equal(_loss(*winner), _loss(*loser))),
        Step(
            "zero-sum",
            "… and what they count for, β y q, adds up to 0, as the advantages of a group do.",
            Equal(beta_dpo * winner[0] * _misorder(*winner) + beta_dpo * loser[0] * _misorder(*loser), sp.S.Zero),
        ),
    )
