"""FPO, got wrong."""

from __future__ import annotations

from derivations.notation import advantage, ratio, v_gt, v_old, v_theta
from wrong_versions.base import Edit, WrongTarget, WrongVersion
from wrong_versions.shared import (
    FLOW_MATCHING,
    SIGN,
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    clipped,
    reference,
    reference_targets,
    velocity,
)

_SYMBOLIC = "derivations/losses/fpo.py"
_NUMERIC = "gradcheck/losses/fpo.py"
_ERROR = "cfm = latent_reduce((case.v_theta - velocity) ** 2, reduction)"
_RATIO = "torch.exp(cfm_old - cfm)"
_GRADIENT = "gradient = 2 * advantage * mask * ratio * each * (v_theta - v_gt)"
_TARGET = "target = v_theta + advantage * mask * ratio * each / weight * (v_gt - v_theta)"

WRONG_VERSIONS = (
    *velocity(_NUMERIC),
    *clipped("fpo"),
    *reference(),
    WrongVersion(
        "sign",
        "The objective is minimised: good samples are pushed away.",
        Edit(_SYMBOLIC, "pull = held(Pull(surrogate,", "pull = held(Pull(-surrogate,"),
        "gradient",
        numeric=Edit(_NUMERIC, "= ppo_loss(", "= -ppo_loss("),
    ),
    WrongVersion(
        "factor-two",
        "The gradient lacks the square's 2.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace("2 * ", "")),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "= ppo_loss(", "= 0.5 * ppo_loss("),
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
            "each * Norm2(v_theta - v_gt), each * Norm2(v_old - v_gt)",
            "each * Norm2(v_theta - v_gt) / 2, each * Norm2(v_old - v_gt) / 2",
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
        Edit(_SYMBOLIC, "each * Norm2(v_old - v_gt)", "each * Norm2(v_theta - v_gt)"),
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
            "error, error_old = each * Norm2(v_theta - v_gt),",
            "error, error_old = each * sp.sqrt(Norm2(v_theta - v_gt)),",
        ),
        "log-ratio",
        numeric=Edit(_NUMERIC, _ERROR, _ERROR + ".sqrt()"),
    ),
    WrongVersion(
        "ratio-missing",
        "The gradient lacks the ratio.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * ratio", "")),
        "surrogate-gradient",
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
        Edit(_SYMBOLIC, "each * Norm2(Delta) - each", "each * Norm2(delta) / 2 - each"),
        "highest-ratio",
    ),
    WrongVersion(
        "log-ratio-repels",
        "The ratio's logarithm is said to push away from v_gt.",
        Edit(_SYMBOLIC, "2 * each * (v_gt - v_theta), label", "2 * each * (v_theta - v_gt), label"),
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
        Edit(_SYMBOLIC, "each / draws * (v_theta - v_gt)", "each * (v_theta - v_gt)"),
        "several-draws",
    ),
    WrongVersion(
        "noise-error-unscaled",
        "The error in the noise is taken for the velocity's: (1 − t)² is missing.",
        Edit(_SYMBOLIC, "each *= (1 - t) ** 2", "each *= 1"),
        "log-ratio",
        numeric=Edit(_NUMERIC, "(1 - expand(case.t, v)) * v", "v"),
        variant="noise",
    ),
    WrongVersion(
        "noise-error-in-data",
        "t for 1 − t: that is the error in the data, but for its sign.",
        Edit(_SYMBOLIC, "each *= (1 - t) ** 2", "each *= t**2"),
        "log-ratio",
        numeric=Edit(_NUMERIC, "(1 - expand(case.t, v)) * v", "expand(case.t, v) * v"),
        variant="noise",
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
        Edit(_SYMBOLIC, _TARGET, _TARGET.replace("= v_theta", "= v_old")),
        "equivalence",
    ),
    WrongVersion(
        "weight-half",
        "Weight 1/2 with weight 1's target.",
        Edit(_SYMBOLIC, "gradient, weight, target)", "gradient, weight / 2, target)"),
        "equivalence",
    ),
)

WRONG_TARGETS = (
    SIGN,
    FLOW_MATCHING,
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    *reference_targets(),
    WrongTarget("from-old", "The step starts at v_old.", lambda d: {"target": d.target - v_theta + v_old}),
    WrongTarget(
        "quoted",
        "The on-policy target for the exact one.",
        lambda d: {"target": v_theta + advantage * (v_gt - v_theta)},
    ),
    WrongTarget(
        "ratio-missing", "The target lacks the ratio.", lambda d: {"target": v_theta - d.gradient / (2 * ratio)}
    ),
)
