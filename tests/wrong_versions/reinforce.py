"""REINFORCE, got wrong: what it shares with Flow-GRPO's step stands in that table."""

from __future__ import annotations

from wrong_versions.base import COMMON, POLICY, Edit, WrongVersion
from wrong_versions.families import POLICY_TARGETS, QUOTED_SIGN, policy_gradient

_SYMBOLIC = "derivations/losses/reinforce.py"
_NUMERIC = "gradcheck/losses/reinforce.py"
_PULL = "pull = advantage * policy.scale * k * (noise + k * delta)"
_LOSS = "policy_loss = -case.advantage * log_prob"

WRONG_VERSIONS = (
    *policy_gradient(),
    WrongVersion(
        "objective-minimised",
        "The objective is minimised.",
        Edit(_SYMBOLIC, "held(-advantage * log_prob_theta", "held(advantage * log_prob_theta"),
        "gradient",
        numeric=Edit(_NUMERIC, _LOSS, _LOSS.replace("-case", "case")),
    ),
    WrongVersion(
        "advantage-missing",
        "Every sample counts alike.",
        Edit(_SYMBOLIC, _PULL, _PULL.replace("advantage * ", "")),
        "gradient",
        numeric=Edit(_NUMERIC, _LOSS, "policy_loss = -log_prob"),
    ),
    WrongVersion(
        "advantage-averaged",
        "The advantage is averaged over the batch.",
        numeric=Edit(_NUMERIC, _LOSS, _LOSS.replace("case.advantage", "case.advantage.mean()")),
    ),
    WrongVersion(
        "probability-for-its-logarithm",
        "The probability takes the logarithm's place.",
        Edit(_SYMBOLIC, "held(-advantage * log_prob_theta", "held(-advantage * sp.exp(log_prob_theta)"),
        "gradient",
        numeric=Edit(_NUMERIC, _LOSS, _LOSS.replace("* log_prob", "* log_prob.exp()")),
    ),
    WrongVersion(
        "drift-term-dropped",
        "The gradient lacks kδ.",
        Edit(_SYMBOLIC, "k * (noise + k * delta)\n", "k * noise\n"),
        "gradient",
    ),
    WrongVersion(
        "noise-sign",
        "The gradient goes the noise's other way.",
        Edit(_SYMBOLIC, "k * (noise + k * delta)\n", "k * (k * delta - noise)\n"),
        "gradient",
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(_SYMBOLIC, _PULL, _PULL.replace(" * policy.scale", "")),
        "gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    QUOTED_SIGN,
    WrongVersion(
        "landing-by-the-noise",
        "The velocity that lands on the sampled state is v_old less the noise itself.",
        Edit(_SYMBOLIC, "landing = v_old - C2 / C1 * noise", "landing = v_old - noise"),
        "landing",
    ),
    WrongVersion(
        "fixed-point-half",
        "The squared distance to the fixed point has half its weight.",
        Edit(_SYMBOLIC, "advantage * policy.precision * C1**2", "advantage * policy.precision * C1**2 / 2"),
        "fixed-point",
    ),
    WrongVersion(
        "ratio-forgotten",
        "The unclipped ratio's loss is said to pull no harder.",
        Edit(_SYMBOLIC, "sp.exp(log_ratio) * pull", "pull"),
        "against-a-ratio",
    ),
    WrongVersion(
        "std-averaged",
        "The standard deviation is averaged over a batch of mixed time steps.",
        numeric=Edit(
            _NUMERIC, "mean, std = step(case.v_theta)", "mean, std = step(case.v_theta); std = std.mean(0, True)"
        ),
    ),
    WrongVersion(
        "kl-without-variance",
        "The reference term is not divided by the step's variance.",
        Edit(POLICY, '{"step": 2 * C2**2,', '{"step": sp.Integer(2),'),
        "kl-gradient",
        numeric=Edit(COMMON, "/ (2 * variance), reduction", "/ 2, reduction"),
        variant="kl",
    ),
)

WRONG_TARGETS = tuple(target for target in POLICY_TARGETS if target.name != "quoted-ratio")  # it has no ratio
