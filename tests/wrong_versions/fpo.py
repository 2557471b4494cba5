"""FPO, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import advantage, ratio, v_gt, v_old, v_theta
from wrong_versions.base import COMMON, LEMMAS, Edit, WrongTarget, WrongVersion

_SYMBOLIC = "derivations/losses/fpo.py"
_NUMERIC = "gradcheck/losses/fpo.py"
_ERROR = "cfm = latent_reduce((case.v_theta - velocity) ** 2, reduction)"
_RATIO = "torch.exp(cfm_old - cfm)"
_GRADIENT = "gradient = 2 * advantage * mask * ratio * per_coordinate * (v_theta - v_gt)"
_TARGET = "target=v_theta + advantage * mask * ratio * (v_gt - v_theta)"

WRONG_VERSIONS = (
    WrongVersion(
        "sign",
        "The objective is minimised: good samples are pushed away.",
        Edit(_SYMBOLIC, "loss=surrogate,", "loss=-surrogate,"),
        "gradient",
        numeric=Edit(_NUMERIC, "return ppo_loss(", "return -ppo_loss("),
    ),
    WrongVersion(
        "factor-two",
        "The gradient lacks the square's 2.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace("2 * ", "")),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "return ppo_loss(", "return 0.5 * ppo_loss("),
    ),
    WrongVersion(
        "gradient-direction",
        "v_gt − v_theta where v_theta − v_gt is the gradient.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace("(v_theta - v_gt)", "(v_gt - v_theta)")),
        "gradient",
    ),
    WrongVersion(
        "ratio-upside-down",
        "The old error is subtracted from the new one, so that the ratio falls where the fit improves.",
        Edit(_SYMBOLIC, "log_ratio: log_prob_theta - log_prob_old", "log_ratio: log_prob_old - log_prob_theta"),
        "log-ratio",
        numeric=Edit(_NUMERIC, _RATIO, "torch.exp(cfm - cfm_old)"),
    ),
    WrongVersion(
        "ratio-of-losses",
        "The quotient of the two losses stands in place of the exponential of their difference.",
        Edit(_SYMBOLIC, "ratio: sp.exp(log_ratio)", "ratio: error_old / error"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "cfm_old / cfm"),
    ),
    WrongVersion(
        "ratio-not-exponentiated",
        "The exponential is replaced by its first two terms.",
        Edit(_SYMBOLIC, "ratio: sp.exp(log_ratio)", "ratio: 1 + log_ratio"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "1 + cfm_old - cfm"),
    ),
    WrongVersion(
        "half-error",
        "Both errors are halved, as a Gaussian's log-density would have it.",
        Edit(
            _SYMBOLIC,
            "per_coordinate * Norm2(v_theta - v_gt), per_coordinate * Norm2(v_old - v_gt)",
            "per_coordinate * Norm2(v_theta - v_gt) / 2, per_coordinate * Norm2(v_old - v_gt) / 2",
        ),
        "log-ratio",
        numeric=Edit(_NUMERIC, _RATIO, "torch.exp((cfm_old - cfm) / 2)"),
    ),
    WrongVersion(
        "errors-of-different-draws",
        "The old error belongs to another sample's draw.",
        numeric=Edit(_NUMERIC, _RATIO, "torch.exp(cfm_old.roll(1) - cfm)"),
    ),
    WrongVersion(
        "error-averaged-over-batch",
        "The ratio is one for the whole batch.",
        numeric=Edit(_NUMERIC, _RATIO, "torch.exp((cfm_old - cfm).mean()).expand(len(cfm))"),
    ),
    WrongVersion(
        "old-error-of-live-model",
        "The old error is the trained model's own, so that the ratio is always 1.",
        Edit(_SYMBOLIC, "per_coordinate * Norm2(v_old - v_gt)", "per_coordinate * Norm2(v_theta - v_gt)"),
        "log-ratio",
        numeric=Edit(_NUMERIC, "(case.v_old - velocity)", "(case.v_theta - velocity)"),
    ),
    WrongVersion(
        "prediction-detached",
        "The ratio is detached, so that nothing trains.",
        numeric=Edit(_NUMERIC, _RATIO, _RATIO + ".detach()"),
    ),
    WrongVersion(
        "not-squared",
        "The norms are not squared.",
        Edit(
            _SYMBOLIC,
            "error, error_old = per_coordinate * Norm2(v_theta - v_gt),",
            "error, error_old = per_coordinate * sp.sqrt(Norm2(v_theta - v_gt)),",
        ),
        "log-ratio",
        numeric=Edit(_NUMERIC, _ERROR, _ERROR + ".sqrt()"),
    ),
    WrongVersion(
        "noise-and-data-exchanged",
        "v_gt is x_0 − noise: time's direction is reversed.",
        Edit(_SYMBOLIC, "v_gt: noise - x_0", "v_gt: x_0 - noise"),
        "velocity",
        numeric=Edit(_NUMERIC, "velocity = case.noise - case.x_0", "velocity = case.x_0 - case.noise"),
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * per_coordinate", "")),
        "surrogate-gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    WrongVersion(
        "sum-averaged",
        "Coordinates are averaged where they were to be added up: an extra 1/D.",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.mean(1)"),
    ),
    WrongVersion(
        "ratio-missing",
        "The gradient lacks the ratio.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * ratio", "")),
        "surrogate-gradient",
    ),
    WrongVersion(
        "clip-ignored",
        "The gradient lacks the clip's mask.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * mask", "")),
        "gradient",
        numeric=Edit(COMMON, "return torch.maximum(unclipped, clipped)", "return unclipped"),
    ),
    WrongVersion(
        "clip-on-the-wrong-side",
        "The clip is active on the other side of the range.",
        Edit(_SYMBOLIC, "mask = ClipMask(advantage,", "mask = ClipMask(-advantage,"),
        "gradient",
        numeric=Edit(COMMON, "torch.maximum(unclipped, clipped)", "torch.minimum(unclipped, clipped)"),
    ),
    WrongVersion(
        "min-for-max",
        "The surrogate takes the greater of r A and clip(r) A.",
        Edit(LEMMAS, "surrogate = -sp.Min(", "surrogate = -sp.Max("),
        "value-negative-below",
        "L4",
    ),
    WrongVersion(
        "clip-ranges-exchanged",
        "The lower and the upper clip range are exchanged.",
        Edit(
            _SYMBOLIC,
            "mask = ClipMask(advantage, ratio, clip_low, clip_high)",
            "mask = ClipMask(advantage, ratio, clip_high, clip_low)",
        ),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "case.clip_low, case.clip_high)", "case.clip_high, case.clip_low)"),
    ),
    WrongVersion(
        "advantage-missing",
        "Every sample counts alike.",
        Edit(_SYMBOLIC, "surrogate = Surrogate(advantage,", "surrogate = Surrogate(sp.S.One,"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "case.advantage, case.clip_low", "torch.ones_like(cfm), case.clip_low"),
    ),
    WrongVersion(
        "closed-form",
        "The closed form of the ratio lacks its cross term's 2.",
        Edit(_SYMBOLIC, "(Norm2(delta) + 2 * Dot(delta, Delta))", "(Norm2(delta) + Dot(delta, Delta))"),
        "log-ratio",
    ),
    WrongVersion(
        "highest-ratio",
        "The highest ratio is said to grow with the step instead of with the behaviour model's error.",
        Edit(_SYMBOLIC, "per_coordinate * Norm2(Delta), {v_theta", "per_coordinate * Norm2(delta) / 2, {v_theta"),
        "highest-ratio",
    ),
    WrongVersion(
        "log-ratio-repels",
        "The ratio's logarithm is said to push away from v_gt.",
        Edit(_SYMBOLIC, "2 * per_coordinate * (v_gt - v_theta), label", "2 * per_coordinate * (v_theta - v_gt), label"),
        "log-ratio-gradient",
    ),
    WrongVersion(
        "quoted-without-two",
        "The quoted on-policy gradient lacks the 2.",
        Edit(_SYMBOLIC, "quoted = 2 * advantage *", "quoted = advantage *"),
        "on-policy",
    ),
    WrongVersion(
        "draws-not-shared",
        "Each of several draws is said to pull with its full weight.",
        Edit(_SYMBOLIC, "per_coordinate / draws * (v_theta - v_gt)", "per_coordinate * (v_theta - v_gt)"),
        "several-draws",
    ),
    WrongVersion(
        "target-reversed",
        "The target lies on the other side of v_theta.",
        Edit(_SYMBOLIC, _TARGET, _TARGET.replace("(v_gt - v_theta)", "(v_theta - v_gt)")),
        "target",
    ),
    WrongVersion(
        "target-from-old",
        "The target is measured from v_old.",
        Edit(_SYMBOLIC, _TARGET, _TARGET.replace("target=v_theta", "target=v_old")),
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
    WrongTarget("flow-matching", "v_gt itself, whatever the advantage.", lambda d: {"target": v_gt}),
    WrongTarget("from-old", "The step starts at v_old.", lambda d: {"target": d.target - v_theta + v_old}),
    WrongTarget(
        "quoted",
        "The on-policy target for the exact one.",
        lambda d: {"target": v_theta + advantage * (v_gt - v_theta)},
    ),
    WrongTarget(
        "ratio-missing", "The target lacks the ratio.", lambda d: {"target": v_theta - d.gradient / (2 * ratio)}
    ),
    WrongTarget("weight-without-D", "The weight lacks 1/D.", lambda d: {"weight": sp.S.One}, "mean"),
)
