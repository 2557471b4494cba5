r"""What the hand-written losses share: steps, log-densities, PPO's surrogate, the KL term, as trainers write them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gradcheck.case import Case

__all__ = [
    "Kl",
    "Path",
    "Prediction",
    "Reduction",
    "Reference",
    "Scale",
    "Step",
    "ddim_step",
    "expand",
    "gaussian_log_prob",
    "held_to_reference",
    "latent_reduce",
    "ppo_loss",
    "sampler_step",
    "sde_step",
]

Reduction = Literal["sum", "mean"]
"""Over everything but the batch."""

Step = Literal["flow", "dance", "cps", "wan"]
"""A reverse step of the rectified path."""

Scale = Literal["gaussian", "unit"]
"""With a log-density's factor 1/(2 std²), or without it."""

Kl = Literal["none", "step", "sigma"]
Reference = Literal["off", "on"]
Prediction = Literal["v", "epsilon", "x0"]
Path = Literal["rectified", "vp"]


def expand(scalar: Tensor, latent: Tensor) -> Tensor:
    """(B,) → (B, 1, …, 1)."""
    return scalar.view(-1, *([1] * (latent.dim() - 1)))


def latent_reduce(x: Tensor, reduction: Reduction) -> Tensor:
    """Sum or mean over everything but the batch: (B, \\*latent) → (B,)."""
    flat = x.flatten(1)
    return flat.mean(1) if reduction == "mean" else flat.sum(1)


def sde_step(
    kind: Step, v: Tensor, x_t: Tensor, t: Tensor, dt: Tensor, noise_level: float, sigma_min: float | None = None
) -> tuple[Tensor, Tensor]:
    """Mean (B, \\*latent) and standard deviation (B, 1, …, 1) of one reverse step from t to t − dt.

    Only Wan's step takes ``sigma_min``.
    """
    t, dt = expand(t, x_t), expand(dt, x_t)
    if kind == "cps":
        t_prev = t - dt
        std = t_prev * math.sin(noise_level * math.pi / 2)
        x_0_hat, noise_hat = x_t - t * v, x_t + (1 - t) * v
        return (1 - t_prev) * x_0_hat + torch.sqrt(t_prev**2 - std**2) * noise_hat, std
    if kind == "wan":
        assert sigma_min is not None
        sigma = sigma_min + (noise_level - sigma_min) * t
    else:
        sigma = noise_level * torch.sqrt(t / (1 - t)) if kind == "flow" else torch.full_like(t, noise_level)
    mean = x_t * (1 - sigma**2 / (2 * t) * dt) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return mean, sigma * torch.sqrt(dt)


def sampler_step(case: Case, sde: Step) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The case's reverse step as a function of the velocity, which gives what :func:`sde_step` gives."""
    sigma_min = case.sigma_min if sde == "wan" else None
    return lambda v: sde_step(sde, v, case.x_t, case.t, case.dt, case.noise_level, sigma_min)


def ddim_step(v: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Mean (B, \\*latent) and standard deviation (B, 1, …, 1) of one DDIM step, with v = √ᾱ ε − √(1−ᾱ) x_0."""
    a, a_prev = expand(alpha_bar, x_t), expand(alpha_bar_prev, x_t)
    x_0_hat = torch.sqrt(a) * x_t - torch.sqrt(1 - a) * v
    noise_hat = torch.sqrt(a) * v + torch.sqrt(1 - a) * x_t
    std = eta * torch.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    return torch.sqrt(a_prev) * x_0_hat + torch.sqrt(1 - a_prev - std**2) * noise_hat, std


def gaussian_log_prob(x: Tensor, mean: Tensor, std: Tensor, reduction: Reduction, scale: Scale = "gaussian") -> Tensor:
    """Log-density of a diagonal Gaussian, (B,); ``scale="unit"`` keeps the bare squared error."""
    if scale == "unit":
        return latent_reduce(-((x - mean) ** 2), reduction)
    log_prob = -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - math.log(math.sqrt(2 * math.pi))
    return latent_reduce(log_prob, reduction)


def ppo_loss(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """The clipped surrogate in the form that trainers minimise, (B,)."""
    unclipped = -advantage * ratio
    clipped = -advantage * torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
    return torch.maximum(unclipped, clipped)


def held_to_reference(
    policy_loss: Tensor,
    case: Case,
    kl: Kl,
    step: Callable[[Tensor], tuple[Tensor, Tensor]],
    mean: Tensor,
    std: Tensor,
    reduction: Reduction,
) -> Tensor:
    """The policy's loss (B,), and unless ``kl="none"`` the KL term to the reference model's step.

    The squared distance of the two means is over 2 std² with ``kl="step"``, else over 2 σ_t², where std² = σ_t² Δt.
    """
    if kl == "none":
        return policy_loss
    with torch.no_grad():
        mean_ref, _ = step(case.v_ref)
    variance = std**2 if kl == "step" else std**2 / expand(case.dt, std)
    return policy_loss + case.kl_weight * latent_reduce((mean - mean_ref) ** 2 / (2 * variance), reduction)
