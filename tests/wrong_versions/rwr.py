"""RWR, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import noise, reward, temperature, v_gt, v_theta
from wrong_versions.base import COMMON, Edit, WrongTarget, WrongVersion

_SYMBOLIC = "derivations/losses/rwr.py"
_NUMERIC = "gradcheck/losses/rwr.py"
_WEIGHT = "torch.exp(case.reward / case.temperature)"

WRONG_VERSIONS = (
    WrongVersion(
        "sign",
        "The loss is maximised.",
        Edit(_SYMBOLIC, "loss=weight *", "loss=-weight *"),
        "gradient",
        numeric=Edit(_NUMERIC, "return torch.exp(", "return -torch.exp("),
    ),
    WrongVersion(
        "factor-two",
        "The gradient lacks the square's 2.",
        Edit(_SYMBOLIC, "gradient = 2 * weight", "gradient = weight"),
        "gradient",
        numeric=Edit(_NUMERIC, "return torch.exp(", "return 0.5 * torch.exp("),
    ),
    WrongVersion(
        "gradient-direction",
        "v_gt − v_theta where v_theta − v_gt is the gradient.",
        Edit(_SYMBOLIC, "gradient = 2 * weight * (v_theta - v_gt)", "gradient = 2 * weight * (v_gt - v_theta)"),
        "never-away",
    ),
    WrongVersion(
        "reward-without-exponential",
        "The reward itself is the weight, so that bad samples are pushed away.",
        Edit(_SYMBOLIC, "weight = sp.exp(reward / temperature)", "weight = reward / temperature"),
        "weight",
        numeric=Edit(_NUMERIC, _WEIGHT, "case.reward / case.temperature"),
    ),
    WrongVersion(
        "reward-missing",
        "Every sample counts alike.",
        Edit(_SYMBOLIC, "loss=weight *", "loss="),
        "gradient",
        numeric=Edit(_NUMERIC, "return torch.exp(case.reward / case.temperature) * error", "return error"),
    ),
    WrongVersion(
        "reward-sign",
        "Bad samples weigh more than good ones.",
        Edit(_SYMBOLIC, "sp.exp(reward / temperature)", "sp.exp(-reward / temperature)"),
        "comparison",
        numeric=Edit(_NUMERIC, "case.reward / case.temperature", "-case.reward / case.temperature"),
    ),
    WrongVersion(
        "temperature-inverted",
        "The reward is multiplied by the temperature.",
        Edit(_SYMBOLIC, "reward / temperature", "reward * temperature"),
        "comparison",
        numeric=Edit(_NUMERIC, "case.reward / case.temperature", "case.reward * case.temperature"),
    ),
    WrongVersion(
        "temperature-missing",
        "The temperature is left out.",
        numeric=Edit(_NUMERIC, "case.reward / case.temperature", "case.reward"),
    ),
    WrongVersion(
        "reward-averaged",
        "The reward is averaged over the batch.",
        numeric=Edit(_NUMERIC, "case.reward / case.temperature", "case.reward.mean() / case.temperature"),
    ),
    WrongVersion(
        "reward-normalised",
        "The weights are a softmax over the batch, though the loss is stated for each sample.",
        numeric=Edit(_NUMERIC, _WEIGHT, "torch.softmax(case.reward / case.temperature, 0)"),
    ),
    WrongVersion(
        "mean-over-batch-too-early",
        "The error is averaged over the batch before the weight multiplies it.",
        numeric=Edit(_NUMERIC, "* error\n", "* error.mean()\n"),
    ),
    WrongVersion(
        "noise-and-data-exchanged",
        "v_gt is x_0 − noise.",
        Edit(_SYMBOLIC, "definitions={v_gt: noise - x_0}", "definitions={v_gt: x_0 - noise}"),
        "velocity",
        numeric=Edit(_NUMERIC, "(case.noise - case.x_0)", "(case.x_0 - case.noise)"),
    ),
    WrongVersion(
        "prediction-detached",
        "The network's velocity is detached, so that nothing trains.",
        numeric=Edit(_NUMERIC, "(case.v_theta - (", "(case.v_theta.detach() - ("),
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(_SYMBOLIC, "loss=weight *", "loss=D * weight *"),
        "gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    WrongVersion(
        "sum-averaged",
        "Coordinates are averaged where they were to be added up: an extra 1/D.",
        Edit(_SYMBOLIC, "gradient = 2 * weight", "gradient = 2 * weight / D"),
        "gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.mean(1)"),
    ),
    WrongVersion(
        "awr-gradient",
        "AWR's gradient is said to have the weight unclipped.",
        Edit(_SYMBOLIC, "pull = 2 * clipped *", "pull = 2 * sp.exp(advantage / temperature) *"),
        "awr",
    ),
    WrongVersion(
        "awr-clip-below",
        "AWR's weight is said to be at least w_max.",
        Edit(_SYMBOLIC, "clipped = sp.Min(", "clipped = sp.Max("),
        "awr-clip",
    ),
    WrongVersion(
        "target-reversed",
        "The target is the noise instead of the velocity.",
        Edit(_SYMBOLIC, "target=v_gt", "target=noise"),
        "target",
    ),
    WrongVersion(
        "weight-doubled",
        "The squared distance has twice the weight.",
        Edit(_SYMBOLIC, "weight=weight,", "weight=2 * weight,"),
        "equivalence",
    ),
)

WRONG_TARGETS = (
    WrongTarget("sign", "The target lies on the other side.", lambda d: {"target": 2 * v_theta - v_gt}),
    WrongTarget("noise", "The noise for the velocity.", lambda d: {"target": noise}),
    WrongTarget("weight-one", "The reward is left out of the weight.", lambda d: {"weight": sp.S.One}),
    WrongTarget("weight-doubled", "Twice the weight.", lambda d: {"weight": 2 * d.weight}),
    WrongTarget(
        "weight-without-D", "The weight lacks 1/D.", lambda d: {"weight": sp.exp(reward / temperature)}, "mean"
    ),
)
