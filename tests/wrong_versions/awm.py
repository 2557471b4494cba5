"""AWM, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import D, advantage, ratio, v_gt, v_old, v_ref, v_theta
from wrong_versions.base import COMMON, LEMMAS, Edit, WrongTarget, WrongVersion

_SYMBOLIC = "derivations/losses/awm.py"
_NUMERIC = "gradcheck/losses/awm.py"
_ERROR = "error = latent_reduce((case.v_theta - v_gt) ** 2, reduction)"
_RATIO = "torch.exp(log_ratio)"

WRONG_VERSIONS = (
    WrongVersion(
        "sign",
        "The loss is maximised: good samples are pushed away.",
        Edit(_SYMBOLIC, "loss=matching + to_ref", "loss=-matching + to_ref"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss = case.advantage * error", "policy_loss = -case.advantage * error"),
    ),
    WrongVersion(
        "factor-two",
        "The gradient lacks the square's 2.",
        Edit(_SYMBOLIC, "gradient = 2 * advantage *", "gradient = advantage *"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss = case.advantage * error", "policy_loss = 0.5 * case.advantage * error"),
    ),
    WrongVersion(
        "gradient-direction",
        "v_gt − v_theta where v_theta − v_gt is the gradient.",
        Edit(
            _SYMBOLIC,
            "gradient = 2 * advantage * per_coordinate * (v_theta - v_gt)",
            "gradient = 2 * advantage * per_coordinate * (v_gt - v_theta)",
        ),
        "gradient",
    ),
    WrongVersion(
        "not-squared",
        "The norm is not squared.",
        Edit(
            _SYMBOLIC,
            "matching = advantage * per_coordinate * Norm2(v_theta - v_gt)",
            "matching = advantage * per_coordinate * sp.sqrt(Norm2(v_theta - v_gt))",
        ),
        "matching-gradient",
        numeric=Edit(_NUMERIC, _ERROR, _ERROR + ".sqrt()"),
    ),
    WrongVersion(
        "noise-and-data-exchanged",
        "v_gt is x_0 − noise: time's direction is reversed.",
        Edit(_SYMBOLIC, "definitions={v_gt: noise - x_0},", "definitions={v_gt: x_0 - noise},"),
        "velocity",
        numeric=Edit(_NUMERIC, "v_gt = case.noise - case.x_0", "v_gt = case.x_0 - case.noise"),
    ),
    WrongVersion(
        "noise-as-target",
        "The network's velocity is compared with the noise: a noise-prediction loss.",
        Edit(_SYMBOLIC, "definitions={v_gt: noise - x_0},", "definitions={v_gt: noise},"),
        "velocity",
        numeric=Edit(_NUMERIC, "v_gt = case.noise - case.x_0", "v_gt = case.noise"),
    ),
    WrongVersion(
        "old-velocity-in-loss",
        "The error is the behaviour model's, which trains nothing; only the reference term does.",
        Edit(
            _SYMBOLIC,
            "matching = advantage * per_coordinate * Norm2(v_theta - v_gt)",
            "matching = advantage * per_coordinate * Norm2(v_ref - v_gt)",
        ),
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
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(_SYMBOLIC, "matching = advantage * per_coordinate *", "matching = advantage *"),
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
        Edit(_SYMBOLIC, "matching = advantage * per_coordinate *", "matching = per_coordinate *"),
        "matching-gradient",
        numeric=Edit(_NUMERIC, "policy_loss = case.advantage * error", "policy_loss = error"),
    ),
    WrongVersion(
        "r-for-A",
        "The optimality probability (1 + A)/2 stands where the advantage belongs.",
        Edit(_SYMBOLIC, "matching = advantage * per_coordinate *", "matching = (1 + advantage) / 2 * per_coordinate *"),
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
        Edit(
            _SYMBOLIC,
            "target = v_theta + advantage * (v_gt - v_theta)",
            "target = v_theta + advantage * (v_theta - v_gt)",
        ),
        "target",
    ),
    WrongVersion(
        "target-from-old",
        "The target is measured from v_old.",
        Edit(
            _SYMBOLIC, "target = v_theta + advantage * (v_gt - v_theta)", "target = v_old + advantage * (v_gt - v_old)"
        ),
        "equivalence",
    ),
    WrongVersion(
        "weight-half",
        "Weight 1/2 with weight 1's target.",
        Edit(_SYMBOLIC, "weight=per_coordinate,", "weight=per_coordinate / 2,", times=2),
        "equivalence",
    ),
    WrongVersion(
        "weight-is-advantage",
        "The advantage is the weight, so bad samples have a negative one.",
        Edit(_SYMBOLIC, "weight=per_coordinate,", "weight=per_coordinate * advantage,", times=2),
        "weight",
    ),
    WrongVersion(
        "good-sample",
        "A = 1 is said to pull to 2 v_gt − v_theta.",
        Edit(
            _SYMBOLIC,
            "Equal(v_theta + advantage * (v_gt - v_theta), v_gt, {",
            "Equal(v_theta + advantage * (v_gt - v_theta), 2 * v_gt - v_theta, {",
        ),
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
        "mixture-constant",
        "Lemma L3's constant is not divided by the total weight.",
        Edit(_SYMBOLIC, "constant = advantage * kl_weight / total *", "constant = advantage * kl_weight *"),
        "mixture",
        variant="reference",
    ),
    WrongVersion(
        "mixture-centre",
        "The two centres' weights are exchanged.",
        Edit(
            _SYMBOLIC,
            "centre = (advantage * v_gt + kl_weight * v_ref)",
            "centre = (kl_weight * v_gt + advantage * v_ref)",
        ),
        "mixture",
        variant="reference",
    ),
    WrongVersion(
        "reference-missing",
        "The reference term is left out.",
        Edit(_SYMBOLIC, "* (v_theta - v_gt) + from_ref", "* (v_theta - v_gt)"),
        "gradient",
        numeric=Edit(_NUMERIC, 'if reference == "off":', "if reference:"),
        variant="reference",
    ),
    WrongVersion(
        "reference-without-gradient",
        "The reference term moves the value and trains nothing.",
        numeric=Edit(
            _NUMERIC, "latent_reduce((case.v_theta - case.v_ref)", "latent_reduce((case.v_theta.detach() - case.v_ref)"
        ),
        variant="reference",
    ),
    WrongVersion(
        "reference-is-old-model",
        "v_old for v_ref: the model is held to its behaviour copy.",
        Edit(
            _SYMBOLIC,
            "to_reference = kl_weight * per_coordinate * Norm2(v_theta - v_ref)",
            "to_reference = kl_weight * per_coordinate * Norm2(v_theta - v_old)",
        ),
        "gradient",
        numeric=Edit(_NUMERIC, "case.v_theta - case.v_ref", "case.v_theta - case.v_old"),
        variant="clipped-reference",
    ),
    WrongVersion(
        "reference-factor",
        "The reference term's gradient lacks the square's 2.",
        Edit(_SYMBOLIC, "from_reference = 2 * kl_weight", "from_reference = kl_weight"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss + case.kl_weight *", "policy_loss + 0.5 * case.kl_weight *"),
        variant="reference",
    ),
    WrongVersion(
        "ratio-missing",
        "The clipped form's gradient lacks the ratio.",
        Edit(_SYMBOLIC, "pull = advantage * mask * ratio *", "pull = advantage * mask *"),
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
        Edit(_SYMBOLIC, "pull = advantage * mask * ratio * 2 * effective *", "pull = advantage * mask * ratio * 2 *"),
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
        "clip-ignored",
        "The gradient lacks the clip's mask.",
        Edit(_SYMBOLIC, "pull = advantage * mask *", "pull = advantage *"),
        "surrogate-gradient",
        numeric=Edit(COMMON, "return torch.maximum(unclipped, clipped)", "return unclipped"),
        variant="clipped",
    ),
    WrongVersion(
        "clip-on-the-wrong-side",
        "The clip is active on the other side of the range.",
        Edit(_SYMBOLIC, "mask = ClipMask(advantage,", "mask = ClipMask(-advantage,"),
        "gradient",
        numeric=Edit(COMMON, "torch.maximum(unclipped, clipped)", "torch.minimum(unclipped, clipped)"),
        variant="clipped",
    ),
    WrongVersion(
        "min-for-max",
        "The surrogate takes the greater of r A and clip(r) A.",
        Edit(LEMMAS, "surrogate = -sp.Min(", "surrogate = -sp.Max("),
        "value-negative-below",
        "L4",
        variant="clipped",
    ),
    WrongVersion(
        "clip-ranges-exchanged",
        "The lower and the upper clip range are exchanged.",
        Edit(
            _SYMBOLIC,
            "mask = ClipMask(advantage, ratio, clip_low, clip_high)",
            "mask = ClipMask(advantage, ratio, clip_high, clip_low)",
        ),
        "gradient",
        numeric=Edit(_NUMERIC, "case.clip_low, case.clip_high)", "case.clip_high, case.clip_low)"),
        variant="clipped",
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
    WrongTarget("flow-matching", "v_gt itself, whatever the advantage.", lambda d: {"target": v_gt}),
    WrongTarget("sign", "The target lies on the other side.", lambda d: {"target": 2 * v_theta - d.target}),
    WrongTarget(
        "from-old", "The step starts at v_old.", lambda d: {"target": d.target - v_theta + v_old}, "clipped-reference"
    ),
    WrongTarget("weight-half", "Weight 1/2 with weight 1's target.", lambda d: {"weight": sp.Rational(1, 2)}),
    WrongTarget("weight-without-D", "The weight lacks 1/D.", lambda d: {"weight": sp.S.One}, "mean"),
    WrongTarget(
        "reference-forgotten",
        "The target forgets the reference.",
        lambda d: {"target": v_theta + advantage * (v_gt - v_theta)},
        "reference",
    ),
    WrongTarget(
        "reference-for-data", "v_ref for v_gt.", lambda d: {"target": d.target.xreplace({v_gt: v_ref})}, "reference"
    ),
    WrongTarget(
        "ratio-missing",
        "The target lacks the ratio.",
        lambda d: {"target": v_theta - D / 2 * d.gradient / ratio},
        "clipped",
    ),
)
