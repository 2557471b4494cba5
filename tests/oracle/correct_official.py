"""The public official implementations, transcribed from their formulas with their own constants: what presets must say.

Nothing here is read from a preset: a constant that a preset has wrong makes its transcription fail.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Correct, correct
from .steps import column, dance_step, flow_step, log_density

ADV_CLIP_MAX = 5.0


def clipped(ratio: Tensor, advantage: Tensor, below: float, above: float) -> Tensor:
    advantage = advantage.clamp(-ADV_CLIP_MAX, ADV_CLIP_MAX)
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1.0 - below, 1.0 + above))


def mean_log_prob(case: Case, mean: Tensor, std: Tensor) -> Tensor:
    log_prob = log_density(case.x_prev, mean, std)
    return log_prob.mean(dim=tuple(range(1, log_prob.ndim)))


@correct("flow_grpo", preset="flow_grpo-official")
def flow_grpo_script(case: Case) -> Tensor:
    log_prob, old = (mean_log_prob(case, *flow_step(case, v)) for v in (case.v_theta, case.v_old))
    return clipped(torch.exp(log_prob - old), case.advantage, 1e-4, 1e-4).mean()


@correct("flow_grpo", preset="flow_grpo-official-kl")
def flow_grpo_script_with_kl(case: Case) -> Tensor:
    """The divergence is over 2 s², where s is the standard deviation without its √Δt."""
    (mean, std), (mean_ref, _) = (flow_step(case, v) for v in (case.v_theta, case.v_ref))
    log_prob, old = mean_log_prob(case, mean, std), mean_log_prob(case, *flow_step(case, case.v_old))
    s = std / torch.sqrt(column(case.dt, std))
    kl = ((mean - mean_ref) ** 2).mean(dim=tuple(range(1, mean.ndim)), keepdim=True) / (2 * s**2)
    return clipped(torch.exp(log_prob - old), case.advantage, 1e-4, 1e-4).mean() + case.kl_weight * kl.mean()


@correct("flow_grpo", preset="dance_grpo-official")
def dance_grpo_script(case: Case) -> Tensor:
    log_prob, old = (mean_log_prob(case, *dance_step(case, v)) for v in (case.v_theta, case.v_old))
    return clipped(torch.exp(log_prob - old), case.advantage, 1e-4, 1e-4).mean()


@correct("flow_grpo", preset="cps-official")
def cps_script(case: Case) -> Tensor:
    """The log-probability is −(x' − μ)² alone."""
    t, t_prev = column(case.t, case.x_t), column(case.t_prev, case.x_t)
    std = t_prev * math.sin(case.noise_level * math.pi / 2)

    def log_prob(v: Tensor) -> Tensor:
        x_0_hat, noise_hat = case.x_t - t * v, case.x_t + v * (1 - t)
        mean = x_0_hat * (1 - t_prev) + noise_hat * torch.sqrt(t_prev**2 - std**2)
        return (-((case.x_prev - mean) ** 2)).flatten(1).mean(1)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    return clipped(ratio, case.advantage, case.clip_low, case.clip_high).mean()


@correct("ddpo", preset="ddpo-official")
def ddpo_script(case: Case) -> Tensor:
    """The scheduler's step with η = 1, on predicted noise."""
    a, a_prev = column(case.alpha_bar, case.x_t), column(case.alpha_bar_prev, case.x_t)
    variance = (1 - a_prev) / (1 - a) * (1 - a / a_prev)

    def log_prob(noise: Tensor) -> Tensor:
        x_0_hat = (case.x_t - (1 - a) ** 0.5 * noise) / a**0.5
        mean = a_prev**0.5 * x_0_hat + (1 - a_prev - variance) ** 0.5 * noise
        return mean_log_prob(case, mean, variance**0.5)

    ratio = torch.exp(log_prob(case.noise_theta) - log_prob(case.noise_old).detach())
    return clipped(ratio, case.advantage, 1e-4, 1e-4).mean()


@correct("grpo_guard", preset="grpo_guard-official")
def grpo_guard_script(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    axes = tuple(range(1, mean.ndim))
    root, s = torch.sqrt(case.dt), (std / torch.sqrt(column(case.dt, std))).flatten()
    bias = ((mean - mean_old.detach()) ** 2).mean(axes) / (2 * (root * s) ** 2)
    log_ratio = mean_log_prob(case, mean, std) - mean_log_prob(case, mean_old, std).detach()
    ratio = torch.exp((log_ratio + bias) * (root * s))
    return (clipped(ratio, case.advantage, 2e-6, 2e-6) / root**2).mean()


@correct("awm", preset="awm-official")
def awm_script(case: Case) -> Tensor:
    """A clip range of 1 on both sides: the ratio is clamped to [0, 2]."""
    target = (case.noise - case.x_0).double()
    axes = tuple(range(1, target.ndim))
    log_prob, old = (-((v.double() - target) ** 2).mean(dim=axes) for v in (case.v_theta, case.v_old))
    ratio = torch.exp(log_prob - old.detach())
    return torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(0.0, 2.0)).mean()


@correct("diffusion_nft", preset="diffusion_nft-official")
def diffusion_nft_script(case: Case) -> Tensor:
    """The policy term is over β and times 5; the reference term is neither."""
    t, beta, r = column(case.t, case.v_old), case.beta, case.reward_prob
    x_t = (1 - t) * case.x_0 + t * case.noise
    axes = tuple(range(1, x_t.ndim))

    def error(v: Tensor) -> Tensor:
        x_0_hat = x_t - t * v
        with torch.no_grad():
            weight = torch.abs(x_0_hat.double() - case.x_0.double()).mean(dim=axes, keepdim=True).clip(min=0.00001)
        return ((x_0_hat - case.x_0) ** 2 / weight).mean(dim=axes)

    positive = beta * case.v_theta + (1 - beta) * case.v_old.detach()
    negative = (1.0 + beta) * case.v_old.detach() - beta * case.v_theta
    policy = r * error(positive) / beta + (1.0 - r) * error(negative) / beta
    reference = ((case.v_theta - case.v_ref) ** 2).mean(dim=axes)
    return (policy * ADV_CLIP_MAX).mean() + case.kl_weight * torch.mean(reference)


@correct("flow_grpo", preset="temp_flow_grpo-official")
def temp_flow_script(case: Case) -> Tensor:
    """Steps that add more noise count more: the policy term times the step's deviation over their mean."""
    (mean, std), old = flow_step(case, case.v_theta), mean_log_prob(case, *flow_step(case, case.v_old))
    policy = clipped(torch.exp(mean_log_prob(case, mean, std) - old), case.advantage, 1e-4, 1e-4)
    return (policy * std.flatten() / case.noise_norm).mean()


@correct("flow_grpo", preset="flow_factory")
def flow_factory_trainer(case: Case) -> Tensor:
    """Its penalty compares the two networks' outputs."""
    log_prob, old = (mean_log_prob(case, *flow_step(case, v)) for v in (case.v_theta, case.v_old))
    penalty = ((case.v_theta - case.v_ref) ** 2).flatten(1).mean(1)
    return (clipped(torch.exp(log_prob - old), case.advantage, 1e-4, 1e-4) + case.kl_weight * penalty).mean()


@correct("grpo_guard", preset="flow_factory-guard")
def flow_factory_guard(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    log_ratio = mean_log_prob(case, mean, std) - mean_log_prob(case, mean_old, std)
    shift = ((mean - mean_old) ** 2 / (2 * std**2)).flatten(1).mean(1)
    ratio = torch.exp((log_ratio + shift) * std.flatten())
    return clipped(ratio, case.advantage, case.clip_low, case.clip_high).mean()


@correct("flow_grpo", preset="rlinf")
def rlinf_actor(case: Case) -> Tensor:
    """log-ratios within ±20, and no loss above 3|A| for a bad action."""
    log_prob, old = (
        log_density(case.x_prev, *flow_step(case, v)).flatten(1).sum(1) for v in (case.v_theta, case.v_old)
    )
    ratio, a = torch.exp(torch.clamp(log_prob - old, -20.0, 20.0)), case.advantage
    first, second = -a * ratio, -a * torch.clamp(ratio, 1 - case.clip_low, 1 + case.clip_high)
    policy, cap = torch.maximum(first, second), torch.sign(a) * 3.0 * a
    return torch.where(cap < policy, cap, policy).mean()


@correct("flow_grpo", preset="unirl")
def unirl_policy(case: Case) -> Tensor:
    """Rows of denoising steps (B, T), some of them masked: one sum over all steps that count."""
    steps = Case(case.label, {n: _joined(case, n) for n in case.names})
    log_prob, old = (mean_log_prob(steps, *flow_step(steps, v)) for v in (steps.v_theta, steps.v_old))
    advantage = case.advantage[:, None].expand_as(case.mask).flatten()
    policy = clipped(torch.exp(log_prob - old), advantage, 1e-4, 1e-4)
    return (policy * steps.mask).sum() / steps.mask.sum()


def _joined(case: Case, name: str) -> Tensor | float:
    """Rows of steps one after the other, (B·T, …)."""
    x = getattr(case, name)
    return x.flatten(0, 1) if isinstance(x, Tensor) and x.shape[:2] == case.mask.shape else x


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
