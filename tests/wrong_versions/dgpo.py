"""DGPO, got wrong."""

from __future__ import annotations

from derivations.notation import advantage, group_gap, misorder_prob, v_gt, v_ref, v_theta
from derivations.notation import beta_dpo as beta
from wrong_versions.base import FORWARD_TORCH, Edit, WrongTarget, WrongVersion
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

_SYMBOLIC = "derivations/losses/dgpo.py"
_NUMERIC = "gradcheck/losses/dgpo.py"
_OWN = "Preference(_margin(advantage, error_gap, group_gap), beta_dpo * advantage,"
_HALVES = "torch.where(case.advantage > 0, weighted, -weighted)"

WRONG_VERSIONS = (
    *ranking("dgpo", "margin"),
    *velocity(FORWARD_TORCH),
    *reference(),
    WrongVersion(
        "halves-exchanged",
        "The bad samples are fitted, and the good ones pushed away.",
        Edit(_SYMBOLIC, _OWN, _OWN.replace("_margin(advantage", "_margin(-advantage")),
        "gradient",
        numeric=Edit(_NUMERIC, "case.advantage > 0", "case.advantage < 0"),
    ),
    WrongVersion(
        "advantage-unsigned",
        "Every sample is taken for a good one.",
        Edit(_SYMBOLIC, _OWN, _OWN.replace("_margin(advantage", "_margin(advantage**2")),
        "gradient",
        numeric=Edit(_NUMERIC, _HALVES, "weighted"),
    ),
    WrongVersion(
        "advantage-missing",
        "Every sample of a half counts alike.",
        Edit(_SYMBOLIC, "return beta_dpo * (own * gap + others)", "return beta_dpo * (gap + others)"),
        "gradient",
        numeric=Edit(_NUMERIC, "case.advantage.abs() * gap", "gap"),
    ),
    WrongVersion(
        "bad-samples-dropped",
        "Bad samples are left out of the group's sum.",
        numeric=Edit(_NUMERIC, "weighted, -weighted)", "weighted, 0 * weighted)"),
    ),
    WrongVersion(
        "group-missing",
        "The sample knows nothing of its group.",
        numeric=Edit(_NUMERIC, " + case.group_gap", ""),
    ),
    WrongVersion(
        "group-subtracted",
        "The rest of the group is subtracted.",
        Edit(_SYMBOLIC, "(own * gap + others)", "(own * gap - others)"),
        "one-group",
        numeric=Edit(_NUMERIC, "+ case.group_gap", "- case.group_gap"),
    ),
    WrongVersion(
        "group-of-another",
        "The rest of the group is another group's.",
        numeric=Edit(_NUMERIC, "+ case.group_gap", "+ case.group_gap.roll(1)"),
    ),
    WrongVersion(
        "advantage-on-the-group",
        "The advantage multiplies the whole group's sum.",
        Edit(_SYMBOLIC, "(own * gap + others)", "(own * (gap + others))"),
        "one-group",
        numeric=Edit(
            _NUMERIC, "margin = " + _HALVES + " + case.group_gap", "margin = case.advantage * (gap + case.group_gap)"
        ),
    ),
    WrongVersion(
        "sigmoid-of-each",
        "Every sample has a sigmoid of its own, and the rest of the group moves none.",
        numeric=Edit(_NUMERIC, "margin = " + _HALVES + " + case.group_gap", "margin = " + _HALVES),
    ),
    WrongVersion(
        "share-without-advantage",
        "The margin has the advantage, and what stands for AWM's has not.",
        Edit(_SYMBOLIC, _OWN, _OWN.replace("beta_dpo * advantage,", "beta_dpo,")),
        "gradient",
    ),
    WrongVersion(
        "advantages-not-centred",
        "What a group's samples count for is said to add up to 0 whatever their advantages are.",
        Edit(_SYMBOLIC, "advantages = rewards - Dot(rewards, ones) / size * ones", "advantages = rewards"),
        "zero-sum",
    ),
    WrongVersion(
        "common-part-counts",
        "What all gaps have in common is said to vanish whatever the advantages add up to.",
        Edit(_SYMBOLIC, "advantages = rewards - Dot(rewards, ones) / size * ones", "advantages = rewards"),
        "common-part",
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
        "advantage-missing",
        "Bad samples are pulled to their v_gt too.",
        lambda d: {"target": v_theta + beta * misorder_prob * (v_gt - v_theta)},
    ),
    WrongTarget("doubt-missing", "AWM's own target.", lambda d: {"target": v_theta + advantage * (v_gt - v_theta)}),
    WrongTarget(
        "group-missing",
        "The target knows nothing of the group.",
        lambda d: {"target": d.inline(d.target).xreplace({group_gap: 0 * group_gap})},
    ),
)
