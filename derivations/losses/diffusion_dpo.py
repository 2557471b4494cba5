r"""Diffusion-DPO, in its flow-matching form: of two samples, the one that people preferred is to be fitted better.

.. math:: \mathcal{L} = -\log\sigma\big(-\beta_{\mathrm{DPO}} (g_w - g_l)\big), \qquad
          g = \|v_\theta - v_{\mathrm{gt}}\|^2 - \|v_{\mathrm{ref}} - v_{\mathrm{gt}}\|^2

It is stated as one sample of the pair sees it: with its preference y, 1 for the winner and −1 for the loser, and with
the other one's gap g' as a given number.  The gradient in this sample's velocity is the pair's own; the value is the
pair's too, so that adding up both samples' losses counts it twice.

Proved: the gradient 2 β y q (v_theta − v_gt), exact, q being the probability with which the model ranks the pair
wrongly.  This is advantage-weighted matching with the advantage β y q; the two advantages of a pair add up to 0.
Online, pairs are made and ranked while the model trains, and the gap may be taken against the model that made them,
v_old, in place of the frozen reference: then nothing holds the model to its start, and at
v_old every pair is undecided.
The authors' code averages over coordinates and writes β/2 for this β.
Source: Wallace et al., arXiv:2311.12908, Eq. 14, with velocities where it has noise.
"""

from __future__ import annotations

import sympy as sp

from derivations.algorithm import Algorithm, Options, Stated
from derivations.claims import Equal
from derivations.derivation import Step
from derivations.losses import _forward
from derivations.losses._forward import on_noised_data
from derivations.losses._lines import gap, pair, with_reference
from derivations.losses._preference import Preference, doubt, negative_log_likelihood
from derivations.notation import (
    beta_dpo,
    error_gap,
    misorder_prob,
    partner_gap,
    preference,
    v_gt,
    v_old,
    v_ref,
    v_theta,
)
from derivations.variant import Variant


def _margin(y: sp.Expr, own: sp.Expr, other: sp.Expr) -> sp.Expr:
    """β y (own − other), as a sample with the preference y sees it."""
    return beta_dpo * y * (own - other)


@on_noised_data
def _assemble(options: Options) -> Stated:
    online = options["anchor"] == "behaviour"
    margin = _margin(preference, error_gap, partner_gap)
    own = Preference(margin, beta_dpo * preference, options, v_old if online else v_ref)
    return Stated(
        own.pull,
        definitions=own.definitions,
        steps=(own.likelihood_step, *_pair_steps(), own.gap_step),
        after=(*_branch_steps(own), own.start_step(partner_gap)),
        policy="on" if online else "off",
    )


ALGORITHM = Algorithm(
    name="diffusion_dpo",
    title="Diffusion-DPO",
    reference="""@inproceedings{wallace2024diffusiondpo,
  title={Diffusion Model Alignment Using Direct Preference Optimization},
  author={Wallace, Bram and others},
  booktitle={CVPR}, year={2024}, note={arXiv:2311.12908}}""",
    process="forward",
    policy="off",
    options={**_forward.OPTIONS, "anchor": ("reference", "behaviour")},
    variants=(
        Variant(
            "paper", "one sample of a pair, squared errors summed over coordinates", line=pair(gap("norm2({v} - v_gt)"))
        ),
        Variant(
            "mean",
            "squared errors averaged over coordinates, in the partner's gap too",
            {"reduction": "mean"},
            line=pair(gap("mean(({v} - v_gt)**2)")),
        ),
        Variant(
            "online",
            "the gap taken against the behaviour model, as pairs are made",
            {"anchor": "behaviour"},
            line=pair(gap("norm2({v} - v_gt)", "v_old")),
        ),
        with_reference(pair(gap("norm2({v} - v_gt)"))),
    ),
    assemble=_assemble,
)


def _pair_steps() -> tuple[Step, ...]:
    """What makes one sample's view the pair's: the winner has the gap g_w, the loser g_l."""
    won, lost = sp.symbols("g_w g_l", real=True)
    winner, loser = _margin(sp.S.One, won, lost), _margin(sp.S.NegativeOne, lost, won)
    return (
        Step(
            "one-pair",
            "The winner and the loser see the same loss, …",
            Equal(negative_log_likelihood(winner), negative_log_likelihood(loser)),
        ),
        Step(
            "zero-sum",
            "… and what they count for, β y q, adds up to 0, as the advantages of a group do.",
            Equal(beta_dpo * doubt(winner) - beta_dpo * doubt(loser), sp.S.Zero),
        ),
    )


def _branch_steps(own: Preference) -> tuple[Step, ...]:
    towards = beta_dpo * misorder_prob * (v_gt - v_theta)
    point = v_theta + own.advantage * (v_gt - v_theta)
    return (
        Step(
            "winner",
            "The winner is pulled towards its v_gt, …",
            Equal(v_theta + towards, point, {preference: sp.S.One}),
        ),
        Step(
            "loser",
            "… and the loser is pushed away from its own, as by a negative advantage.",
            Equal(v_theta - towards, point, {preference: sp.S.NegativeOne}),
        ),
    )
