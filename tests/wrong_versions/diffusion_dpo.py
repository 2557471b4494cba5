"""Diffusion-DPO, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import beta_dpo, misorder_prob, partner_gap, preference, v_gt, v_ref, v_theta
from wrong_versions.base import FORWARD_TORCH, PREFERENCE, Edit, WrongTarget, WrongVersion
from wrong_versions.families import ranking
from wrong_versions.shared import (
    FLOW_MATCHING,
    SIGN,
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    reference,
    reference_targets,
    velocity,
)

_SYMBOLIC = "derivations/losses/diffusion_dpo.py"
_NUMERIC = "gradcheck/losses/diffusion_dpo.py"
_LOSS = "-logsigmoid(-case.beta_dpo * (winner - loser))"
_OWN = "margin = _margin(preference, error_gap, partner_gap)"
_MARGIN = "return beta_dpo * y * (own - other)"

WRONG_VERSIONS = (
    *ranking("diffusion_dpo", "(winner - loser)"),
    *velocity(FORWARD_TORCH),
    *reference(),
    WrongVersion(
        "winner-and-loser-exchanged",
        "The loser is fitted, and the winner pushed away.",
        Edit(_SYMBOLIC, _OWN, _OWN.replace("(preference", "(-preference")),
        "gradient",
        numeric=Edit(_NUMERIC, "case.preference > 0", "case.preference < 0"),
    ),
    WrongVersion(
        "preference-ignored",
        "Every sample is taken for its pair's winner.",
        Edit(_SYMBOLIC, _MARGIN, _MARGIN.replace(" * y", "")),
        "gradient",
        numeric=Edit(_NUMERIC, "won = case.preference > 0", "won = case.preference > -2"),
    ),
    WrongVersion(
        "share-without-beta",
        "The margin has β, and the advantage that stands for it has not.",
        Edit(_SYMBOLIC, "Preference(margin, beta_dpo * preference,", "Preference(margin, preference,"),
        "gradient",
    ),
    WrongVersion(
        "loser-left-out",
        "Only winners train: losers are not pushed away.",
        numeric=Edit(_NUMERIC, _LOSS, _LOSS + " * won"),
    ),
    WrongVersion(
        "partner-added",
        "The pair's gaps are added up instead of compared.",
        Edit(_SYMBOLIC, _MARGIN, _MARGIN.replace("own - other", "own + other")),
        "one-pair",
        numeric=Edit(_NUMERIC, "torch.where(won, case.partner_gap, gap)", "torch.where(won, -case.partner_gap, gap)"),
    ),
    WrongVersion(
        "partner-of-another-pair",
        "The partner's gap belongs to another pair.",
        numeric=Edit(
            _NUMERIC, "winner, loser = ", "case = case.replace(partner_gap=case.partner_gap.roll(1)); winner, loser = "
        ),
    ),
    WrongVersion(
        "online-gap-live",
        "The behaviour model is the trained one itself, so that every gap is 0.",
        Edit(PREFERENCE, "- Norm2(self.anchor - v_gt)", "- Norm2(v_theta - v_gt)"),
        "gap-gradient",
        numeric=Edit(_NUMERIC, "else case.v_old", "else case.v_theta.detach()"),
        variant="online",
    ),
    WrongVersion(
        "undecided-online",
        "On-policy every pair is said to be ranked wrongly for certain.",
        Edit(PREFERENCE, "self.share / 2, {v_theta", "self.share, {v_theta"),
        "on-policy",
        variant="online",
    ),
    WrongVersion(
        "pair-sees-two-losses",
        "The winner's and the loser's views of a pair are confused.",
        Edit(_SYMBOLIC, "_margin(sp.S.NegativeOne, lost, won)", "_margin(sp.S.One, lost, won)"),
        "one-pair",
    ),
    WrongVersion(
        "not-zero-sum",
        "The loser is said to count for as much as the winner, with the same sign.",
        Edit(_SYMBOLIC, "doubt(winner) - beta_dpo", "doubt(winner) + beta_dpo"),
        "zero-sum",
    ),
    WrongVersion(
        "winner-halved",
        "The winner is said to be pulled half of the way.",
        Edit(_SYMBOLIC, "Equal(v_theta + towards", "Equal(v_theta + towards / 2"),
        "winner",
    ),
    WrongVersion(
        "loser-matched",
        "The loser is said to be pulled towards its v_gt.",
        Edit(_SYMBOLIC, "Equal(v_theta - towards", "Equal(v_theta + towards"),
        "loser",
    ),
)

WRONG_TARGETS = (
    SIGN,
    FLOW_MATCHING,
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    *reference_targets(),
    WrongTarget("from-reference", "The step starts at v_ref.", lambda d: {"target": d.target - v_theta + v_ref}),
    WrongTarget(
        "preference-missing",
        "Losers are pulled to their v_gt too.",
        lambda d: {"target": v_theta + beta_dpo * misorder_prob * (v_gt - v_theta)},
    ),
    WrongTarget(
        "doubt-missing",
        "The probability is left out.",
        lambda d: {"target": d.target.xreplace({misorder_prob: sp.S.One})},
    ),
    WrongTarget(
        "partner-missing",
        "The target knows nothing of the partner.",
        lambda d: {"target": d.inline(d.target).xreplace({partner_gap: sp.S.Zero})},
    ),
    WrongTarget(
        "weight-is-preference", "Losers have no weight.", lambda d: {"weight": (1 + preference) / 2 * d.weight}
    ),
)
