"""RWR, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import noise, reward, temperature
from wrong_versions.base import Edit, WrongTarget, WrongVersion
from wrong_versions.families import regression
from wrong_versions.shared import (
    SIGN,
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    reference,
    reference_targets,
    velocity,
)

_SYMBOLIC = "derivations/losses/rwr.py"
_NUMERIC = "gradcheck/losses/rwr.py"
_WEIGHT = "torch.exp(case.reward / case.temperature)"

WRONG_VERSIONS = (
    *regression("rwr"),
    *velocity(_NUMERIC),
    *reference(fixed=True, merged=True),
    WrongVersion(
        "reward-without-exponential",
        "The reward itself is the weight, so that bad samples are pushed away.",
        Edit(_SYMBOLIC, "weight = sp.exp(reward / temperature)", "weight = reward / temperature"),
        "weight",
        numeric=Edit(_NUMERIC, _WEIGHT, "case.reward / case.temperature"),
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
        "reward-squared",
        "The reward is the weight twice over.",
        Edit(_SYMBOLIC, "gradient = 2 * reward * each", "gradient = 2 * reward**2 * each"),
        "gradient",
        numeric=Edit(_NUMERIC, "weighted = case.reward * error", "weighted = case.reward**2 * error"),
        variant="reward",
    ),
    WrongVersion(
        "reward-centred",
        "The reward's mean is taken out: that is an advantage.",
        numeric=Edit(_NUMERIC, "weighted = case.reward *", "weighted = (case.reward - case.reward.mean()) *"),
        variant="reward",
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
)

WRONG_TARGETS = (
    SIGN,
    WrongTarget("noise", "The noise for the velocity.", lambda d: {"target": noise}),
    WrongTarget("weight-one", "The reward is left out of the weight.", lambda d: {"weight": sp.S.One}),
    WrongTarget(
        "reward-for-weight", "The reward is not exponentiated.", lambda d: {"weight": 1 + (reward / temperature) ** 2}
    ),
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    *reference_targets(),
)
