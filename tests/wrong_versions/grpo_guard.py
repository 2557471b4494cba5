"""GRPO-Guard, got wrong."""

from __future__ import annotations

import sympy as sp

from derivations.notation import C2, delta, k, noise, ratio, v_old, v_theta
from wrong_versions.base import COMMON, POLICY, SDE, Edit, WrongTarget, WrongVersion
from wrong_versions.families import KL_WITHOUT_GRADIENT, policy_gradient

_SYMBOLIC = "derivations/losses/grpo_guard.py"
_NUMERIC = "gradcheck/losses/grpo_guard.py"
_RATIO = "ratio = torch.exp((log_prob - log_prob_old + bias) * std.flatten())"
_BIAS = "bias = latent_reduce((mean - mean_old) ** 2 / (2 * std**2), log_prob_reduction)"

WRONG_VERSIONS = (
    *policy_gradient(kl=False),
    WrongVersion(
        "objective-minimised",
        "The objective J is minimised where −J is the loss.",
        Edit(_SYMBOLIC, "policy.held(surrogate,", "policy.held(-surrogate,"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss = ppo_loss(", "policy_loss = -ppo_loss("),
    ),
    WrongVersion(
        "bias-missing",
        "The bias is not added back.",
        Edit(_SYMBOLIC, "C2 * (policy.definitions[log_ratio] + bias)", "C2 * policy.definitions[log_ratio]"),
        "log-ratio",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp((log_prob - log_prob_old) * std.flatten())"),
    ),
    WrongVersion(
        "bias-sign",
        "The bias is subtracted once more.",
        Edit(_SYMBOLIC, "(policy.definitions[log_ratio] + bias)", "(policy.definitions[log_ratio] - bias)"),
        "log-ratio",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp((log_prob - log_prob_old - bias) * std.flatten())"),
    ),
    WrongVersion(
        "bias-doubled",
        "The bias lacks its 1/2.",
        Edit(_SYMBOLIC, "Norm2(mean_theta - mean_old) / (2 * C2**2)", "Norm2(mean_theta - mean_old) / C2**2"),
        "bias",
        numeric=Edit(_NUMERIC, _BIAS, "bias = latent_reduce((mean - mean_old) ** 2 / std**2, log_prob_reduction)"),
    ),
    WrongVersion(
        "bias-over-std",
        "The bias is over the standard deviation instead of the variance.",
        Edit(_SYMBOLIC, "Norm2(mean_theta - mean_old) / (2 * C2**2)", "Norm2(mean_theta - mean_old) / (2 * C2)"),
        "bias",
        numeric=Edit(_NUMERIC, _BIAS, "bias = latent_reduce((mean - mean_old) ** 2 / (2 * std), log_prob_reduction)"),
    ),
    WrongVersion(
        "bias-over-sigma",
        "The bias is over 2σ_t²: Δt is missing.",
        numeric=Edit(
            _NUMERIC, _BIAS, "bias = latent_reduce((mean - mean_old)**2 * case.expand(case.dt) / (2 * std**2), 'sum')"
        ),
    ),
    WrongVersion(
        "bias-averaged-over-batch",
        "The bias is averaged over the whole batch: the reduction's axes came from the log-probability's rank.",
        numeric=Edit(_NUMERIC, _BIAS, _BIAS + ".mean().expand_as(log_prob)"),
    ),
    WrongVersion(
        "bias-summed",
        "The bias is added up over coordinates where the log-probability is averaged.",
        Edit(_SYMBOLIC, "bias = policy.per_coordinate * Norm2(", "bias = Norm2("),
        "log-ratio",
        numeric=Edit(_NUMERIC, _BIAS, "bias = latent_reduce((mean - mean_old) ** 2 / (2 * std**2), 'sum')"),
        variant="mean",
    ),
    WrongVersion(
        "bias-detached",
        "The bias moves the ratio's value and has no gradient.",
        numeric=Edit(_NUMERIC, _BIAS, _BIAS + ".detach()"),
    ),
    WrongVersion(
        "bias-to-reference",
        "The bias is the distance to the reference model's mean instead of the behaviour model's.",
        Edit(_SYMBOLIC, "Norm2(mean_theta - mean_old) /", "Norm2(mean_theta - policy.definitions[mean_old] / 2) /"),
        "bias",
        numeric=Edit(
            _NUMERIC,
            _BIAS,
            "bias = latent_reduce((mean - step(case.v_ref)[0]) ** 2 / (2 * std**2), log_prob_reduction)",
        ),
        variant="kl",
    ),
    WrongVersion(
        "bias-of-velocities",
        "The bias is taken between the velocities instead of the means: C1² is missing.",
        Edit(_SYMBOLIC, "Norm2(mean_theta - mean_old) /", "Norm2(delta) /"),
        "bias",
        numeric=Edit(_NUMERIC, _BIAS, "bias = latent_reduce((case.v_theta - case.v_old) ** 2 / (2 * std**2), 'sum')"),
    ),
    WrongVersion(
        "ratio-plain",
        "The normalised ratio is overwritten by the plain one.",
        Edit(_SYMBOLIC, "log_ratio: log_ratio_norm, ratio: sp.exp(log_ratio)", "ratio: sp.exp(log_ratio)"),
        "ratio-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp(log_prob - log_prob_old)"),
    ),
    WrongVersion(
        "ratio-missing",
        "The gradient lacks the ratio.",
        Edit(
            _SYMBOLIC,
            "pull = policy.weighting * advantage * mask * ratio *",
            "pull = policy.weighting * advantage * mask *",
        ),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = 1 + (log_prob - log_prob_old + bias) * std.flatten()"),
    ),
    WrongVersion(
        "ratio-inverted",
        "The ratio is old over new.",
        Edit(_SYMBOLIC, "ratio: sp.exp(log_ratio)}", "ratio: sp.exp(-log_ratio)}"),
        "ratio-gradient",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp(-(log_prob - log_prob_old + bias) * std.flatten())"),
    ),
    WrongVersion(
        "normaliser-missing",
        "The log-ratio is not multiplied by C2.",
        Edit(_SYMBOLIC, "log_ratio_norm = C2 * (", "log_ratio_norm = ("),
        "log-ratio",
        numeric=Edit(_NUMERIC, _RATIO, "ratio = torch.exp(log_prob - log_prob_old + bias)"),
    ),
    WrongVersion(
        "normaliser-squared",
        "The log-ratio is multiplied by the variance.",
        Edit(_SYMBOLIC, "log_ratio_norm = C2 * (", "log_ratio_norm = C2**2 * ("),
        "log-ratio",
        numeric=Edit(_NUMERIC, "+ bias) * std.flatten())", "+ bias) * std.flatten()**2)"),
    ),
    WrongVersion(
        "normaliser-is-sigma",
        "The log-ratio is multiplied by σ_t instead of σ_t √Δt.",
        Edit(_SYMBOLIC, "log_ratio_norm = C2 * (", "log_ratio_norm = C2 / sp.sqrt(dt) * ("),
        "ratio-gradient",
        numeric=Edit(_NUMERIC, "+ bias) * std.flatten())", "+ bias) * std.flatten() / case.dt.sqrt())"),
    ),
    WrongVersion(
        "normaliser-averaged",
        "The standard deviation is averaged over a batch of mixed time steps before it multiplies the log-ratio.",
        numeric=Edit(_NUMERIC, "+ bias) * std.flatten())", "+ bias) * std.mean())"),
    ),
    WrongVersion(
        "normaliser-of-another-sde",
        "The normaliser is hard-wired to Flow-SDE's standard deviation.",
        numeric=Edit(
            _NUMERIC,
            "+ bias) * std.flatten())",
            "+ bias) * case.noise_level * torch.sqrt(case.t / (1 - case.t) * case.dt))",
        ),
        variant="dance",
    ),
    WrongVersion(
        "dt-missing",
        "The loss is not divided by Δt.",
        Edit(_SYMBOLIC, "clip_low, clip_high) / dt", "clip_low, clip_high)"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "case.clip_high) / case.dt", "case.clip_high)"),
    ),
    WrongVersion(
        "dt-squared",
        "The gradient is divided by Δt².",
        Edit(
            _SYMBOLIC,
            "pull = policy.weighting * advantage * mask * ratio * policy.scale * C1 / dt",
            "pull = policy.weighting * advantage * mask * ratio * policy.scale * C1 / dt**2",
        ),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "case.clip_high) / case.dt", "case.clip_high) / case.dt**2"),
    ),
    WrongVersion(
        "dt-averaged",
        "The division is by the batch's mean Δt.",
        numeric=Edit(_NUMERIC, "case.clip_high) / case.dt", "case.clip_high) / case.dt.mean()"),
    ),
    WrongVersion(
        "dt-divides-kl",
        "The KL term is divided by Δt, too.",
        Edit(_SYMBOLIC, "held(surrogate, pull)", "held(surrogate + policy.kl_loss / dt - policy.kl_loss, pull)"),
        "gradient",
        numeric=Edit(COMMON, "policy_loss + case.kl_weight *", "policy_loss + case.kl_weight / case.dt *"),
        variant="kl",
    ),
    WrongVersion(
        "velocity-term-left",
        "A term in v_theta − v_old is left in the gradient, as in Flow-GRPO's.",
        Edit(
            _SYMBOLIC,
            "pull = policy.weighting * advantage * mask * ratio * policy.scale * C1 / dt * noise",
            "pull = policy.weighting * advantage * mask * ratio * policy.scale * C1 / dt * (noise + k * delta)",
        ),
        "gradient",
    ),
    WrongVersion(
        "C2-for-C1",
        "The standard deviation stands where the mean's slope belongs.",
        Edit(
            _SYMBOLIC,
            "pull = policy.weighting * advantage * mask * ratio * policy.scale * C1",
            "pull = policy.weighting * advantage * mask * ratio * policy.scale * C2",
        ),
        "surrogate-gradient",
    ),
    WrongVersion(
        "k-for-C1",
        "The gradient is Flow-GRPO's, not multiplied by C2.",
        Edit(
            _SYMBOLIC,
            "Equal(policy.scale * C1 / dt * noise, C2 / dt *",
            "Equal(policy.scale * C1 / dt * noise, 1 / dt *",
        ),
        "against-flow-grpo",
    ),
    WrongVersion(
        "score-correction-missing",
        "C1 = Δt, as for the ODE.",
        Edit(SDE, "C1: dt * (1 + (1 - t) * sigma_t**2 / (2 * t))", "C1: dt"),
        "mean-slope",
        "sde-flow",
        Edit(COMMON, "v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt", "v * dt"),
    ),
    WrongVersion(
        "clip-ignored",
        "The gradient lacks the clip's mask.",
        Edit(_SYMBOLIC, "pull = policy.weighting * advantage * mask *", "pull = policy.weighting * advantage *"),
        "surrogate-gradient",
        numeric=Edit(COMMON, "return torch.maximum(unclipped, clipped)", "return unclipped"),
    ),
    WrongVersion(
        "min-for-max",
        "Of −r A and −clip(r) A the smaller one is taken.",
        Edit(POLICY, "mask = ClipMask(advantage,", "mask = ClipMask(-advantage,"),
        "gradient",
        numeric=Edit(COMMON, "torch.maximum(unclipped, clipped)", "torch.minimum(unclipped, clipped)"),
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(
            _SYMBOLIC,
            "pull = policy.weighting * advantage * mask * ratio * policy.scale *",
            "pull = policy.weighting * advantage * mask * ratio *",
        ),
        "gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    KL_WITHOUT_GRADIENT,
    WrongVersion(
        "half-missing-in-density",
        "The Gaussian's exponent is over C2² instead of 2 C2².",
        Edit(POLICY, "1 / (2 * C2**2) if", "1 / C2**2 if"),
        "precision",
        numeric=Edit(COMMON, "/ (2 * std**2) - torch.log", "/ std**2 - torch.log"),
    ),
    WrongVersion(
        "prediction-detached",
        "The ratio is computed without gradients, so that nothing trains.",
        numeric=Edit(_NUMERIC, _RATIO, _RATIO + ".detach()"),
    ),
    WrongVersion(
        "policy-detached",
        "The ratio is detached; only the KL term trains.",
        numeric=Edit(_NUMERIC, _RATIO, _RATIO + ".detach()"),
        variant="kl",
    ),
    WrongVersion(
        "advantage-missing",
        "The gradient lacks the advantage.",
        Edit(_SYMBOLIC, "pull = policy.weighting * advantage * mask *", "pull = policy.weighting * mask *"),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "(ratio, case.advantage,", "(ratio, torch.ones_like(case.advantage),"),
    ),
    WrongVersion(
        "window-ignored",
        "The steps outside the window train too.",
        Edit(POLICY, '"window": window}', '"window": sp.S.One}'),
        "outside-the-window",
        numeric=Edit(_NUMERIC, 'case.window if time_weight == "window" else torch', "torch"),
        variant="window",
    ),
    WrongVersion(
        "quoted-without-dt",
        "The quoted target lacks 1/Δt.",
        Edit(
            _SYMBOLIC,
            "quoted = policy.weighting * advantage * policy.scale * C1 / dt *",
            "quoted = policy.weighting * advantage * policy.scale * C1 *",
        ),
        "approximate-target",
    ),
    WrongVersion(
        "direction-reversed",
        "The direction-only target lies on the other side.",
        Edit(_SYMBOLIC, "Parallel(-advantage", "Parallel(advantage"),
        "direction-only",
    ),
)

WRONG_TARGETS = (
    WrongTarget("sign", "The target lies on the other side of v_theta.", lambda d: {"target": 2 * v_theta - d.target}),
    WrongTarget("weight-one", "Weight 1 with weight 1/2's target.", lambda d: {"weight": sp.S.One}),
    WrongTarget(
        "quoted", "The quoted target, without ratio and mask.", lambda d: {"target": v_theta - d.gradient / ratio}
    ),
    WrongTarget(
        "velocity-term-left",
        "A term in δ, as in Flow-GRPO's target.",
        lambda d: {"target": d.target.xreplace({noise: noise + k * delta})},
    ),
    WrongTarget(
        "plain-scale", "Flow-GRPO's scale: k instead of C1/Δt.", lambda d: {"target": v_theta - d.gradient / C2}
    ),
    WrongTarget("from-old", "The step starts at v_old.", lambda d: {"target": d.target - v_theta + v_old}, "mean"),
)
