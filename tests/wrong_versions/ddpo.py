"""DDPO, got wrong: its step and its reductions.  What it shares with Flow-GRPO stands in that table."""

from __future__ import annotations

from wrong_versions.base import COMMON, DDIM, POLICY, Edit, WrongVersion
from wrong_versions.families import POLICY_TARGETS, QUOTED_SIGN, policy_gradient

_SYMBOLIC = "derivations/losses/ddpo.py"
_NUMERIC = "gradcheck/losses/ddpo.py"
_GRADIENT = "pull = advantage * mask * ratio * policy.scale * k * (noise + k * delta)"
_STEP = "torch.sqrt(a_prev) * x_0_hat + torch.sqrt(1 - a_prev - std**2) * noise_hat, std"

WRONG_VERSIONS = (
    *policy_gradient(),
    WrongVersion(
        "objective-minimised",
        "The objective J is minimised where −J is the loss.",
        Edit(_SYMBOLIC, "policy.held(surrogate,", "policy.held(-surrogate,"),
        "gradient",
        numeric=Edit(_NUMERIC, "policy_loss = ppo_loss(", "policy_loss = -ppo_loss("),
    ),
    WrongVersion(
        "ratio-missing",
        "The ratio is left out of the gradient.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * ratio", "")),
        "surrogate-gradient",
        numeric=Edit(_NUMERIC, "torch.exp(log_prob - log_prob_old)", "torch.exp(log_prob - log_prob.detach())"),
    ),
    WrongVersion(
        "clip-ignored",
        "The gradient lacks its mask.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * mask", "")),
        "gradient",
        numeric=Edit(COMMON, "return torch.maximum(unclipped, clipped)", "return unclipped"),
    ),
    WrongVersion(
        "advantage-missing",
        "The gradient lacks the advantage.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace("advantage * ", "")),
        "gradient",
        numeric=Edit(_NUMERIC, "case.advantage,", "torch.ones_like(case.advantage),"),
    ),
    WrongVersion(
        "drift-term-dropped",
        "The gradient lacks kδ.",
        Edit(_SYMBOLIC, "k * (noise + k * delta)", "k * noise"),
        "gradient",
    ),
    WrongVersion(
        "mean-summed",
        "Coordinates are added up where they were to be averaged: 1/D is missing.",
        Edit(_SYMBOLIC, _GRADIENT, _GRADIENT.replace(" * policy.scale", "")),
        "surrogate-gradient",
        numeric=Edit(COMMON, 'flat.mean(1) if reduction == "mean" else flat.sum(1)', "flat.sum(1)"),
        variant="mean",
    ),
    WrongVersion(
        "slope-in-velocity",
        "The slope in the predicted noise is that in the velocity.",
        Edit(_SYMBOLIC, "-C1 / sp.sqrt(alpha_bar) *", "-C1 *"),
        "noise-prediction",
    ),
    QUOTED_SIGN,
    WrongVersion(
        "std-of-the-chain",
        "The standard deviation is the noising chain's, √β, where the posterior's is meant.",
        Edit(DDIM, "sp.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * sp.sqrt(1 -", "sp.sqrt(1 -"),
        "ddpm-variance",
        "sde-ddim",
        Edit(COMMON, "torch.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))", "torch.sqrt(1 - a / a_prev)"),
    ),
    WrongVersion(
        "std-without-level",
        "The sampler's η is left out.",
        Edit(DDIM, "C2: noise_level * sp.sqrt(", "C2: sp.sqrt("),
        "no-noise",
        "sde-ddim",
        Edit(COMMON, "std = eta * torch.sqrt((1 - a_prev)", "std = torch.sqrt((1 - a_prev)"),
    ),
    WrongVersion(
        "noise-not-taken-off",
        "The predicted noise keeps all of 1 − ᾱ', and the step's noise comes on top.",
        Edit(DDIM, "_kept = sp.sqrt(1 - alpha_bar_prev - C2**2)", "_kept = sp.sqrt(1 - alpha_bar_prev)"),
        "noise-budget",
        "sde-ddim",
        Edit(COMMON, _STEP, _STEP.replace(" - std**2", "")),
    ),
    WrongVersion(
        "predictions-exchanged",
        "x̂_0 and ε̂ are exchanged in the mean.",
        Edit(DDIM, "_signal_prev * _x_0_hat + _kept * _noise_hat", "_signal_prev * _noise_hat + _kept * _x_0_hat"),
        "signal",
        "sde-ddim",
        Edit(
            COMMON,
            "* x_0_hat + torch.sqrt(1 - a_prev - std**2) * noise_hat",
            "* noise_hat + torch.sqrt(1 - a_prev - std**2) * x_0_hat",
        ),
    ),
    WrongVersion(
        "signal-before",
        "The data coefficient is the one of x before the step.",
        numeric=Edit(COMMON, _STEP, _STEP.replace("torch.sqrt(a_prev) *", "torch.sqrt(a) *")),
    ),
    WrongVersion(
        "velocity-read-as-noise",
        "The velocity is taken for the predicted noise.",
        numeric=Edit(COMMON, "noise_hat = torch.sqrt(a) * v + torch.sqrt(1 - a) * x_t", "noise_hat = v"),
    ),
    WrongVersion(
        "kl-without-variance",
        "The reference term is not divided by the step's variance.",
        Edit(POLICY, '{"step": 2 * C2**2,', '{"step": sp.Integer(2),'),
        "kl-gradient",
        numeric=Edit(COMMON, "/ (2 * variance), reduction", "/ 2, reduction"),
        variant="kl",
    ),
    WrongVersion(
        "std-averaged",
        "The standard deviation is averaged over a batch of mixed time steps.",
        numeric=Edit(COMMON, _STEP, _STEP + ".mean(0, True)"),
    ),
    WrongVersion(
        "precision-unscaled",
        "The density's factor 1/(2 C2²) is left out.",
        Edit(POLICY, 'if self.log_prob_scale == "gaussian" else', 'if self.log_prob_scale == "none" else'),
        "precision",
        numeric=Edit(COMMON, 'if scale == "unit":', "if scale:"),
    ),
)

WRONG_TARGETS = POLICY_TARGETS
