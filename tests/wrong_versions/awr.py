"""AWR, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import advantage, noise, temperature
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

_SYMBOLIC = "derivations/losses/awr.py"
_NUMERIC = "gradcheck/losses/awr.py"
_CLIPPED = "clipped = sp.Min(sp.exp(advantage / temperature), weight_max)"
_EXP = "torch.exp(case.advantage / case.temperature)"
_WEIGHT = f"torch.clamp({_EXP}, max=case.weight_max)"

WRONG_VERSIONS = (
    *regression("awr"),
    *velocity(_NUMERIC),
    *reference(fixed=True, merged=True),
    WrongVersion(
        "clip-missing",
        "The weight grows without bound.",
        Edit(_SYMBOLIC, _CLIPPED, "clipped = sp.exp(advantage / temperature)"),
        "above-the-clip",
        numeric=Edit(_NUMERIC, _WEIGHT, _EXP),
    ),
    WrongVersion(
        "clip-below",
        "The weight is at least w_max.",
        Edit(_SYMBOLIC, _CLIPPED, _CLIPPED.replace("Min", "Max")),
        "above-the-clip",
        numeric=Edit(_NUMERIC, "max=case.weight_max", "min=case.weight_max"),
    ),
    WrongVersion(
        "clip-before-exponential",
        "The exponent is clipped at w_max.",
        Edit(_SYMBOLIC, _CLIPPED, "clipped = sp.exp(sp.Min(advantage / temperature, weight_max))"),
        "above-the-clip",
        numeric=Edit(_NUMERIC, _WEIGHT, "torch.exp((case.advantage / case.temperature).clamp(max=case.weight_max))"),
    ),
    WrongVersion(
        "clip-silences",
        "Beyond the clip a sample has no gradient, as under PPO's.",
        numeric=Edit(_NUMERIC, _WEIGHT, f"{_EXP} * ({_EXP} < case.weight_max)"),
    ),
    WrongVersion(
        "clip-doubled",
        "The weight is clipped at twice w_max.",
        Edit(_SYMBOLIC, "temperature), weight_max)", "temperature), 2 * weight_max)"),
        "above-the-clip",
        numeric=Edit(_NUMERIC, "max=case.weight_max", "max=2 * case.weight_max"),
    ),
    WrongVersion(
        "advantage-without-exponential",
        "The advantage itself is the weight.",
        Edit(_SYMBOLIC, _CLIPPED, "clipped = sp.Min(advantage / temperature, weight_max)"),
        "weight",
        numeric=Edit(_NUMERIC, _EXP, "(case.advantage / case.temperature)"),
    ),
    WrongVersion(
        "advantage-sign",
        "Bad samples weigh more than good ones.",
        Edit(_SYMBOLIC, _CLIPPED, _CLIPPED.replace("(advantage", "(-advantage")),
        "below-the-clip",
        numeric=Edit(_NUMERIC, "case.advantage / case.temperature", "-case.advantage / case.temperature"),
    ),
    WrongVersion(
        "temperature-inverted",
        "The advantage is multiplied by the temperature.",
        Edit(_SYMBOLIC, _CLIPPED, _CLIPPED.replace("/", "*")),
        "below-the-clip",
        numeric=Edit(_NUMERIC, "case.advantage / case.temperature", "case.advantage * case.temperature"),
    ),
    WrongVersion(
        "temperature-missing",
        "The temperature is left out.",
        numeric=Edit(_NUMERIC, "case.advantage / case.temperature", "case.advantage"),
    ),
    WrongVersion(
        "advantage-normalised",
        "The weights are a softmax over the batch, though the loss is stated for each sample.",
        numeric=Edit(_NUMERIC, _EXP, "torch.softmax(case.advantage / case.temperature, 0)"),
    ),
    WrongVersion(
        "baseline-free",
        "A shift of the advantages is said to change nothing at all.",
        Edit(_SYMBOLIC, "sp.exp(shift / temperature) * plain", "plain"),
        "baseline",
    ),
)

WRONG_TARGETS = (
    SIGN,
    WrongTarget("noise", "The noise for the velocity.", lambda d: {"target": noise}),
    WrongTarget("weight-one", "The advantage is left out of the weight.", lambda d: {"weight": sp.S.One}),
    WrongTarget("unclipped", "The weight is not clipped.", lambda d: {"weight": sp.exp(advantage / temperature)}),
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    *reference_targets(),
)
