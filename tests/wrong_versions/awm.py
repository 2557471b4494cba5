"""AWM, got wrong."""

from __future__ import annotations

from derivations.notation import D, advantage, ratio, v_gt, v_old, v_theta
from wrong_versions.base import FORWARD, Edit, WrongTarget, WrongVersion
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

_SYMBOLIC = "derivations/losses/awm.py"
_NUMERIC = "gradcheck/losses/awm.py"
_ERROR = "error = latent_reduce((case.v_theta - v_gt) ** 2, reduction)"
_RATIO = "torch.exp(log_ratio)"
_LOSS = "loss = advantage * each * Norm2(v_theta - v_gt)"
_MATCHING = "matching = 2 * advantage * each * (v_theta - v_gt)"
_TARGET = "target = v_theta + advantage * (v_gt - v_theta)"

WRONG_VERSIONS = (
    *velocity(_NUMERIC),
    *clipped("awm", "clipped"),
    *reference(merged=True),
    WrongVersion(
        "elbo-without-half",
        "The reference term is over σ_t², not over 2σ_t².",
        Edit(_SYMBOLIC, "per_coordinate(options) / (2 * sigma_t**2)", "per_coordinate(options) / sigma_t**2"),
        "comparison",
        numeric=Edit(_NUMERIC, "/ (2 * sigma**2)", "/ sigma**2"),
        variant="clipped-elbo",
    ),
    WrongVersion(
        "elbo-standard-deviation",
        "σ_t stands where its square is meant.",
        Edit(_SYMBOLIC, "per_coordinate(options) / (2 * sigma_t**2)", "per_coordinate(options) / (2 * sigma_t)"),
        "comparison",
        numeric=Edit(_NUMERIC, "/ (2 * sigma**2)", "/ (2 * sigma)"),
        variant="clipped-elbo",
    ),
    WrongVersion(
        "ema-without-gradient",
        "The term to the EMA copy trains nothing.",
        numeric=Edit(_NUMERIC, "(case.v_theta - case.v_old)", "(case.v_theta.detach() - case.v_old)"),
        variant="clipped-ema",
    ),
    WrongVersion(
        "reference-held-clipped",
        "The clipped form's target forgets the reference term's share of the gradient.",
        Edit(FORWARD, "pull.target - back / (2 * pull.weight)", "pull.target"),
        "target",
        variant="clipped-reference",
    ),
    WrongVersion(
        "sign",
        "The loss is maximised: good samples are pushed away.",
        Edit(_SYMBOLIC, "pull = Pull(loss, matching", "pull = Pull(-loss, matching"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss = case.advantage * error", "policy_loss = -case.advantage * error"),
    ),
    WrongVersion(
        "factor-two",
        "The gradient lacks the square's 2.",
        Edit(_SYMBOLIC, _MATCHING, _MATCHING.replace("2 * ", "")),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss = case.advantage * error", "policy_loss = 0.5 * case.advantage * error"),
    ),
    WrongVersion(
        "gradient-direction",
        "v_gt − v_theta where v_theta − v_gt is the gradient.",
        Edit(_SYMBOLIC, _MATCHING, _MATCHING.replace("(v_theta - v_gt)", "(v_gt - v_theta)")),
        "gradient",
    ),
    WrongVersion(
        "not-squared",
        "The norm is not squared.",
        Edit(_SYMBOLIC, _LOSS, _LOSS.replace("Norm2(v_theta - v_gt)", "sp.sqrt(Norm2(v_theta - v_gt))")),
        "matching-gradient",
        numeric=Edit(_NUMERIC, _ERROR, _ERROR + ".sqrt()"),
    ),
    WrongVersion(
        "old-velocity-in-loss",
        "The error is the behaviour model's, which trains nothing; only the reference term does.",
        Edit(_SYMBOLIC, _LOSS, _LOSS.replace("Norm2(v_theta", "Norm2(v_old")),
        "matching-gradient",
        numeric=Edit(_NUMERIC, _ERROR, _ERROR.replace("case.v_theta", "case.v_theta.detach()")),
        variant="reference",
    ),
    WrongVersion(
        "prediction-detached",
        "The network's velocity is detached, so that nothing trains.",
        numeric=Edit(_NUMERIC, _ERROR, _ERROR.replace("case.v_theta", "case.v_theta.detach()")),
    ),
    WrongVersion(
        "clipped-prediction-detached",
        "The same in the clipped form.",
        numeric=Edit(_NUMERIC, _RATIO, _RATIO + ".detach()"),
        variant="clipped",
    ),
    WrongVersion(
        "mean-over-batch-too-early",
        "The squared error is averaged over the batch before the advantage multiplies it.",
        numeric=Edit(_NUMERIC, "policy_loss = case.advantage * error", "policy_loss = case.advantage * error.mean()"),
    ),
    WrongVersion(
        "advantage-broadcast",
        "(B,) against (B, 1): every advantage meets every error.",
        numeric=Edit(
            _NUMERIC, "policy_loss = case.advantage * error", "policy_loss = (case.advantage[:, None] * error).mean(0)"
        ),
    ),
    WrongVersion(
        "advantage-missing",
        "Plain flow matching: every sample counts alike.",
        Edit(_SYMBOLIC, _LOSS, _LOSS.replace("advantage * ", "")),
        "matching-gradient",
        numeric=Edit(_NUMERIC, "policy_loss = case.advantage * error", "policy_loss = error"),
    ),
    WrongVersion(
        "r-for-A",
        "The optimality probability (1 + A)/2 stands where the advantage belongs.",
        Edit(_SYMBOLIC, _LOSS, _LOSS.replace("advantage *", "(1 + advantage) / 2 *")),
        "gradient",
        numeric=Edit(
            _NUMERIC, "policy_loss = case.advantage * error", "policy_loss = (1 + case.advantage) / 2 * error"
        ),
    ),
    WrongVersion(
        "bad-samples-dropped",
        "Negative advantages are clamped away.",
        numeric=Edit(
            _NUMERIC, "policy_loss = case.advantage * error", "policy_loss = case.advantage.clamp(min=0) * error"
        ),
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
        Edit(_SYMBOLIC, _TARGET, _TARGET.replace("v_theta", "v_old")),
        "equivalence",
    ),
    WrongVersion(
        "weight-half",
        "Weight 1/2 with weight 1's target.",
        Edit(_SYMBOLIC, "Pull(loss, matching, each,", "Pull(loss, matching, each / 2,"),
        "equivalence",
    ),
    WrongVersion(
        "weight-is-advantage",
        "The advantage is the weight, so bad samples have a negative one.",
        Edit(_SYMBOLIC, "Pull(loss, matching, each,", "Pull(loss, matching, each * advantage,"),
        "weight",
    ),
    WrongVersion(
        "good-sample",
        "A = 1 is said to pull to 2 v_gt − v_theta.",
        Edit(_SYMBOLIC, "Equal(target, v_gt, {", "Equal(target, 2 * v_gt - v_theta, {"),
        "good-sample",
    ),
    WrongVersion(
        "bad-sample",
        "A = −1 is said to pull to 2 v_theta + v_gt.",
        Edit(
            _SYMBOLIC,
            "2 * v_theta - v_gt, {advantage: sp.S.NegativeOne}",
            "2 * v_theta + v_gt, {advantage: sp.S.NegativeOne}",
        ),
        "bad-sample",
    ),
    WrongVersion(
        "ratio-missing",
        "The clipped form's gradient lacks the ratio.",
        Edit(_SYMBOLIC, "own = advantage * mask * ratio *", "own = advantage * mask *"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "1 + log_ratio"),
        variant="clipped",
    ),
    WrongVersion(
        "old-log-prob-of-live-model",
        "The old log-density is the trained model's own, so that the ratio is always 1.",
        Edit(_SYMBOLIC, "log_prob_old: log_prob(v_old)", "log_prob_old: log_prob(v_theta)"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "(case.v_old - v_gt)", "(case.v_theta - v_gt)"),
        variant="clipped",
    ),
    WrongVersion(
        "log-density-sign",
        "The log-density grows with the error.",
        Edit(_SYMBOLIC, "return -_discrepancy(", "return _discrepancy("),
        "log-prob-gradient",
        numeric=Edit(_NUMERIC, "return -error\n", "return error\n"),
        variant="clipped",
    ),
    WrongVersion(
        "log-density-halved",
        "The log-density is half of the squared error.",
        Edit(_SYMBOLIC, '"uniform": omega * m', '"uniform": omega * m / 2'),
        "comparison",
        numeric=Edit(_NUMERIC, "return -error\n", "return -error / 2\n"),
        variant="clipped",
    ),
    WrongVersion(
        "log-density-detached",
        "The policy's log-density is detached, and only the reference term trains.",
        Edit(_SYMBOLIC, "ratio: sp.exp(log_ratio)", "ratio: sp.exp(sp.Symbol('log_ratio_held', real=True))"),
        "DerivationError",
        numeric=Edit(_NUMERIC, _RATIO, _RATIO + ".detach()"),
        variant="clipped-reference",
    ),
    WrongVersion(
        "omega-missing",
        "The time weighting is left out.",
        Edit(_SYMBOLIC, "own = advantage * mask * ratio * 2 * effective *", "own = advantage * mask * ratio * 2 *"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "return -error * case.t\n", "return -error\n"),
        variant="clipped-t",
    ),
    WrongVersion(
        "omega-of-one-minus-t",
        "t and 1 − t are exchanged in the time weighting.",
        Edit(_SYMBOLIC, '"t": t,', '"t": 1 - t,'),
        "comparison",
        numeric=Edit(_NUMERIC, "return -error * case.t\n", "return -error * (1 - case.t)\n"),
        variant="clipped-t",
    ),
    WrongVersion(
        "omega-not-squared",
        "ω = t where it is t².",
        Edit(_SYMBOLIC, '"t2": t**2', '"t2": t'),
        "comparison",
        numeric=Edit(_NUMERIC, "return -error * case.t**2", "return -error * case.t"),
        variant="clipped-t2",
    ),
    WrongVersion(
        "omega-averaged",
        "The time weighting is averaged over a batch of mixed time steps.",
        numeric=Edit(_NUMERIC, "return -error * case.t\n", "return -error * case.t.mean()\n"),
        variant="clipped-t",
    ),
    WrongVersion(
        "huber-without-root",
        "The Huber-like log-density lacks its square root.",
        Edit(_SYMBOLIC, "(sp.sqrt(m + _FLOOR) - sp.sqrt(_FLOOR))", "m"),
        "comparison",
        numeric=Edit(_NUMERIC, "torch.sqrt(error + 1e-10)", "error"),
        variant="clipped-huber",
    ),
    WrongVersion(
        "huber-slope",
        "The slope of the Huber-like log-density is taken for that of the squared error.",
        Edit(_SYMBOLIC, "slope = sp.diff(_discrepancy(", "slope = 2 * sp.diff(_discrepancy("),
        "log-prob-gradient",
        variant="clipped-huber",
    ),
    WrongVersion(
        "ghuber-power",
        "The generalised Huber's outer 1/p is left out.",
        Edit(_SYMBOLIC, '"ghuber": t / _POWER *', '"ghuber": t *'),
        "comparison",
        numeric=Edit(_NUMERIC, "* case.t / 0.25", "* case.t"),
        variant="clipped-ghuber",
    ),
    WrongVersion(
        "quoted-without-two",
        "The quoted on-policy gradient lacks the 2.",
        Edit(_SYMBOLIC, "quoted = advantage * 2 * effective", "quoted = advantage * effective"),
        "on-policy",
        variant="clipped",
    ),
)

WRONG_TARGETS = (
    SIGN,
    FLOW_MATCHING,
    WEIGHT_HALF,
    WEIGHT_WITHOUT_D,
    *reference_targets(),
    WrongTarget(
        "from-old", "The step starts at v_old.", lambda d: {"target": d.target - v_theta + v_old}, "clipped-reference"
    ),
    WrongTarget(
        "reference-forgotten",
        "The target forgets the reference.",
        lambda d: {"target": v_theta + advantage * (v_gt - v_theta)},
        "reference",
    ),
    WrongTarget(
        "ratio-missing",
        "The target lacks the ratio.",
        lambda d: {"target": v_theta - D / 2 * d.gradient / ratio},
        "clipped",
    ),
)
