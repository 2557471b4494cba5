"""Diffusion-DPO, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import beta_dpo, misorder_prob, partner_gap, preference, v_gt, v_ref, v_theta
from wrong_versions.base import COMMON, Edit, WrongTarget, WrongVersion

_SYMBOLIC = "derivations/losses/diffusion_dpo.py"
_NUMERIC = "gradcheck/losses/diffusion_dpo.py"
_LOSS = "return sp.log(1 + sp.exp(beta_dpo * y * (own - other)))"
_GAP = "Norm2(v_theta - v_gt) - Norm2(v_ref - v_gt)"
_RETURN = "return -logsigmoid(-case.beta_dpo * (winner - loser))"
_GRADIENT = "gradient = 2 * pull * per_coordinate * (v_theta - v_gt)"
_TARGET = "target=v_theta + pull * (v_gt - v_theta)"

WRONG_VERSIONS = (
    WrongVersion(
        "sign",
        "The loss is maximised: the model learns to rank every pair wrongly.",
        Edit(_SYMBOLIC, "loss=loss,", "loss=-loss,"),
        "gradient",
        numeric=Edit(_NUMERIC, _RETURN, _RETURN.replace("return -", "return ")),
    ),
    WrongVersion(
        "winner-and-loser-exchanged",
        "The loser is fitted, and the winner pushed away.",
        Edit(_SYMBOLIC, "loss = _loss(preference,", "loss = _loss(-preference,"),
        "likelihood",
        numeric=Edit(_NUMERIC, "case.preference > 0", "case.preference < 0"),
    ),
    WrongVersion(
        "sign-inside",
        "The minus inside the sigmoid is missing.",
        Edit(_SYMBOLIC, _LOSS, _LOSS.replace("sp.exp(beta_dpo", "sp.exp(-beta_dpo")),
        "likelihood",
        numeric=Edit(_NUMERIC, _RETURN, _RETURN.replace("(-case.beta_dpo", "(case.beta_dpo")),
    ),
    WrongVersion(
        "preference-ignored",
        "Every sample is taken for its pair's winner.",
        Edit(_SYMBOLIC, _LOSS, _LOSS.replace(" * y", "")),
        "likelihood",
        numeric=Edit(_NUMERIC, "won = case.preference > 0", "won = case.preference > -2"),
    ),
    WrongVersion(
        "loser-left-out",
        "Only winners train: losers are not pushed away.",
        numeric=Edit(_NUMERIC, _RETURN, _RETURN + " * won"),
    ),
    WrongVersion(
        "factor-two",
        "The gradient lacks the square's 2.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace("2 * ", "")),
        "gradient",
        numeric=Edit(_NUMERIC, "case.beta_dpo * (winner", "case.beta_dpo / 2 * (winner"),
    ),
    WrongVersion(
        "gradient-direction",
        "v_gt − v_theta where v_theta − v_gt is the gradient.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace("(v_theta - v_gt)", "(v_gt - v_theta)")),
        "gradient",
    ),
    WrongVersion(
        "confidence-for-doubt",
        "The weight is the probability of the right order, so that learnt pairs pull hardest.",
        Edit(_SYMBOLIC, "return 1 / (1 + sp.exp(-beta_dpo", "return 1 / (1 + sp.exp(beta_dpo"),
        "likelihood",
    ),
    WrongVersion(
        "doubt-missing",
        "The gradient lacks the probability: learnt pairs pull for ever.",
        Edit(_SYMBOLIC, "pull = beta_dpo * preference * misorder_prob", "pull = beta_dpo * preference"),
        "gradient",
        numeric=Edit(_NUMERIC, _RETURN, "return case.beta_dpo * (winner - loser)"),
    ),
    WrongVersion(
        "log-missing",
        "The probability itself is the loss, without its logarithm.",
        Edit(_SYMBOLIC, _LOSS, "return 1 - 1 / (1 + sp.exp(beta_dpo * y * (own - other)))"),
        "likelihood",
        numeric=Edit(_NUMERIC, _RETURN, "return torch.sigmoid(case.beta_dpo * (winner - loser))"),
    ),
    WrongVersion(
        "squared-margin",
        "The margin is regressed to 1/2, which is IPO's loss.",
        numeric=Edit(_NUMERIC, _RETURN, "return (case.beta_dpo * (loser - winner) - 0.5) ** 2"),
    ),
    WrongVersion(
        "hinge",
        "Pairs that are ranked right are dropped.",
        numeric=Edit(_NUMERIC, _RETURN, "return torch.relu(case.beta_dpo * (winner - loser))"),
    ),
    WrongVersion(
        "beta-missing",
        "β is left out.",
        numeric=Edit(_NUMERIC, "-case.beta_dpo * (winner", "-(winner"),
    ),
    WrongVersion(
        "beta-outside",
        "β multiplies the logarithm instead of the margin.",
        Edit(_SYMBOLIC, _LOSS, "return beta_dpo * sp.log(1 + sp.exp(y * (own - other)))"),
        "likelihood",
        numeric=Edit(_NUMERIC, _RETURN, "return -case.beta_dpo * logsigmoid(loser - winner)"),
    ),
    WrongVersion(
        "reference-missing",
        "The gap is the model's error alone.",
        Edit(_SYMBOLIC, f"({_GAP})", "Norm2(v_theta - v_gt)"),
        "at-the-reference",
        numeric=Edit(_NUMERIC, " - error_ref", ""),
    ),
    WrongVersion(
        "reference-exchanged",
        "The trained model's error is subtracted from the reference's.",
        Edit(_SYMBOLIC, _GAP, "Norm2(v_ref - v_gt) - Norm2(v_theta - v_gt)"),
        "gap-gradient",
        numeric=Edit(_NUMERIC, "(winner - loser)", "(loser - winner)"),
    ),
    WrongVersion(
        "reference-is-trained",
        "The reference is the trained model itself, so that every gap is 0.",
        Edit(_SYMBOLIC, _GAP, "Norm2(v_theta - v_gt) - Norm2(v_theta - v_gt)"),
        "gap-gradient",
        numeric=Edit(_NUMERIC, "(case.v_ref - velocity)", "(case.v_theta - velocity)"),
    ),
    WrongVersion(
        "partner-added",
        "The pair's gaps are added up instead of compared.",
        Edit(
            _SYMBOLIC, "_misorder(preference, error_gap, partner_gap)", "_misorder(preference, error_gap, -partner_gap)"
        ),
        "likelihood",
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
        "margin-averaged-over-batch",
        "The sigmoid sees the batch's mean margin.",
        numeric=Edit(_NUMERIC, "(winner - loser))", "(winner - loser).mean().expand(len(won)))"),
    ),
    WrongVersion(
        "prediction-detached",
        "The network's velocity is detached, so that nothing trains.",
        numeric=Edit(_NUMERIC, "(case.v_theta - velocity)", "(case.v_theta.detach() - velocity)"),
    ),
    WrongVersion(
        "noise-and-data-exchanged",
        "v_gt is x_0 − noise.",
        Edit(_SYMBOLIC, "v_gt: noise - x_0", "v_gt: x_0 - noise"),
        "velocity",
        numeric=Edit(_NUMERIC, "velocity = case.noise - case.x_0", "velocity = case.x_0 - case.noise"),
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * per_coordinate", "")),
        "gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    WrongVersion(
        "sum-averaged",
        "Coordinates are averaged where they were to be added up: an extra 1/D.",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.mean(1)"),
    ),
    WrongVersion(
        "pair-sees-two-losses",
        "The winner's and the loser's views of a pair are confused.",
        Edit(
            _SYMBOLIC,
            "loser = (sp.S.One, won, lost), (sp.S.NegativeOne, lost, won)",
            "loser = (sp.S.One, won, lost), (sp.S.One, lost, won)",
        ),
        "one-pair",
    ),
    WrongVersion(
        "not-zero-sum",
        "The loser is said to count for as much as the winner, with the same sign.",
        Edit(_SYMBOLIC, "beta_dpo * loser[0] * _misorder(*loser)", "beta_dpo * _misorder(*loser)"),
        "zero-sum",
    ),
    WrongVersion(
        "gap-gradient",
        "The reference's error is said to have a gradient.",
        Edit(
            _SYMBOLIC, "2 * per_coordinate * (v_theta - v_gt), label", "2 * per_coordinate * (v_theta - v_ref), label"
        ),
        "gap-gradient",
    ),
    WrongVersion(
        "winner-halved",
        "The winner is said to be pulled half of the way.",
        Edit(_SYMBOLIC, "Equal(v_theta + beta_dpo * misorder_prob", "Equal(v_theta + beta_dpo / 2 * misorder_prob"),
        "winner",
    ),
    WrongVersion(
        "loser-matched",
        "The loser is said to be pulled towards its v_gt.",
        Edit(_SYMBOLIC, "Equal(v_theta - beta_dpo * misorder_prob", "Equal(v_theta + beta_dpo * misorder_prob"),
        "loser",
    ),
    WrongVersion(
        "certain-at-the-reference",
        "The untrained model is said to rank every pair wrongly for certain.",
        Edit(_SYMBOLIC, "beta_dpo * preference / 2, {v_theta", "beta_dpo * preference, {v_theta"),
        "at-the-reference",
    ),
    WrongVersion(
        "target-reversed",
        "The target lies on the other side of v_theta.",
        Edit(_SYMBOLIC, _TARGET, _TARGET.replace("(v_gt - v_theta)", "(v_theta - v_gt)")),
        "target",
    ),
    WrongVersion(
        "target-from-reference",
        "The target is measured from v_ref.",
        Edit(_SYMBOLIC, _TARGET, _TARGET.replace("v_theta", "v_ref")),
        "equivalence",
    ),
    WrongVersion(
        "weight-half",
        "Weight 1/2 with weight 1's target.",
        Edit(_SYMBOLIC, "weight=per_coordinate,", "weight=per_coordinate / 2,"),
        "equivalence",
    ),
)

WRONG_TARGETS = (
    WrongTarget("sign", "The target lies on the other side.", lambda d: {"target": 2 * v_theta - d.target}),
    WrongTarget("flow-matching", "v_gt itself, for winners and losers.", lambda d: {"target": v_gt}),
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
    WrongTarget("weight-without-D", "The weight lacks 1/D.", lambda d: {"weight": sp.S.One}, "mean"),
    WrongTarget(
        "weight-is-preference", "Losers have no weight.", lambda d: {"weight": (1 + preference) / 2 * d.weight}
    ),
)
