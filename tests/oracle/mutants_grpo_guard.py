"""GRPO-Guard, written wrongly: the ratio's bias, its scale and the step's length per sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant


def guard_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probability (B,), mean, σ_t and √Δt, as the public guard script returns them."""
    sigma = case.t.view(-1, *[1] * (v.ndim - 1))
    dt = (case.t_prev - case.t).view(-1, *[1] * (v.ndim - 1))
    std_dev_t = torch.sqrt(sigma / (1 - sigma)) * case.noise_level
    sqrt_dt = torch.sqrt(-1 * dt)
    mean = case.x_t * (1 + std_dev_t**2 / (2 * sigma) * dt) + v * (1 + std_dev_t**2 * (1 - sigma) / (2 * sigma)) * dt
    std = std_dev_t * sqrt_dt
    log_prob = -((case.x_prev - mean) ** 2) / (2 * std**2) - torch.log(std) - math.log(math.sqrt(2 * math.pi))
    return log_prob.mean(dim=tuple(range(1, log_prob.ndim))), mean, std_dev_t, sqrt_dt


def surrogate(ratio: Tensor, case: Case) -> Tensor:
    clipped = torch.clamp(ratio, 1.0 - case.clip_low, 1.0 + case.clip_high)
    return torch.maximum(-case.advantage * ratio, -case.advantage * clipped)


def both_steps(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-ratio, per-sample bias, and σ_t and √Δt with one number a sample."""
    log_prob, mean, std_dev_t, sqrt_dt = guard_step(case, case.v_theta)
    with torch.no_grad():
        old_log_prob, mean_old, _, _ = guard_step(case, case.v_old)
    bias = ((mean - mean_old) ** 2 / (2 * (std_dev_t * sqrt_dt) ** 2)).flatten(1).mean(1)
    return log_prob - old_log_prob, bias, std_dev_t.flatten(), sqrt_dt.flatten()


MEAN = {"log_prob_reduction": "mean"}


@mutant("grpo_guard", fails="sample-independence", because="bias-averaged", **MEAN)
def bias_averaged_over_the_batch(case: Case) -> Tensor:
    log_prob, mean, std_dev_t, sqrt_dt = guard_step(case, case.v_theta)
    with torch.no_grad():
        old_log_prob, mean_old, _, _ = guard_step(case, case.v_old)
    bias = (mean - mean_old) ** 2 / (2 * (std_dev_t * sqrt_dt) ** 2)
    bias = bias.mean(dim=tuple(range(log_prob.ndim)))  # log_prob.ndim is 1
    bias = bias.mean()
    scale = (std_dev_t * sqrt_dt).flatten()
    ratio = torch.exp((log_prob - old_log_prob + bias) * scale)
    return (surrogate(ratio, case) / sqrt_dt.flatten() ** 2).mean()


@mutant("grpo_guard", fails="gradient", because="bias-missing", **MEAN)
def bias_forgotten(case: Case) -> Tensor:
    log_ratio, _, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp(log_ratio * std_dev_t * sqrt_dt)
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="bias-sign", **MEAN)
def bias_subtracted(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio - bias) * std_dev_t * sqrt_dt)
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="bias-twice", **MEAN)
def bias_without_half(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + 2 * bias) * std_dev_t * sqrt_dt)
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="bias-detached", **MEAN)
def bias_detached(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias.detach()) * std_dev_t * sqrt_dt)
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="plain-ratio", **MEAN)
def overwritten_by_the_plain_ratio(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    ratio = torch.exp(log_ratio)
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="scale-missing", **MEAN)
def not_rescaled(case: Case) -> Tensor:
    log_ratio, bias, _, sqrt_dt = both_steps(case)
    return (surrogate(torch.exp(log_ratio + bias), case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="scale-sigma", **MEAN)
def rescaled_without_root_dt(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t)
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="sample-independence", because="std-averaged", **MEAN)
def scale_averaged_over_the_batch(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * (std_dev_t * sqrt_dt).mean())
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="std-averaged", **MEAN)
def sigma_and_root_dt_averaged_apart(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t.mean() * sqrt_dt.mean())
    return (surrogate(ratio, case) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="dt-averaged", **MEAN)
def step_length_averaged(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    return surrogate(ratio, case).mean() / (sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="dt-averaged", **MEAN)
def root_step_length_averaged(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    return surrogate(ratio, case).mean() / sqrt_dt.mean() ** 2


@mutant("grpo_guard", fails="gradient", because="dt-missing", **MEAN)
def not_divided_by_dt(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    return surrogate(torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt), case).mean()


@mutant("grpo_guard", fails="gradient", because="root-dt", **MEAN)
def divided_by_root_dt(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    return (surrogate(torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt), case) / sqrt_dt).mean()


@mutant("grpo_guard", fails="clip", because="clip-missing", **MEAN)
def clip_forgotten(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    return (-case.advantage * ratio / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="clip", because="clip-on-plain-ratio", **MEAN)
def clip_decided_by_the_plain_ratio(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    plain = log_ratio.detach().exp()
    over = (case.advantage > 0) & (plain > 1 + case.clip_high)
    under = (case.advantage < 0) & (plain < 1 - case.clip_low)
    loss = torch.where(over | under, ratio.detach(), ratio) * -case.advantage
    return (loss / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="kl", because="convention:kl", kl="step", **MEAN)
def kl_over_sigma_alone(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    _, mean, _, _ = guard_step(case, case.v_theta)
    with torch.no_grad():
        _, mean_ref, _, _ = guard_step(case, case.v_ref)
    kl = ((mean - mean_ref) ** 2).flatten(1).mean(1) / (2 * std_dev_t**2)
    return (surrogate(ratio, case) / sqrt_dt**2 + case.kl_weight * kl).mean()


@mutant("grpo_guard", fails="kl", because="kl-over-dt", kl="step", **MEAN)
def kl_divided_by_dt_too(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    _, mean, _, _ = guard_step(case, case.v_theta)
    with torch.no_grad():
        _, mean_ref, _, _ = guard_step(case, case.v_ref)
    kl = ((mean - mean_ref) ** 2).flatten(1).mean(1) / (2 * (std_dev_t * sqrt_dt) ** 2)
    return ((surrogate(ratio, case) + case.kl_weight * kl) / sqrt_dt**2).mean()


@mutant("grpo_guard", fails="gradient", because="sign", **MEAN)
def reward_minimised(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    dt = case.t_prev - case.t  # negative
    return (surrogate(ratio, case) / dt).mean()


@mutant("grpo_guard", fails="gradient", because="convention:log_prob_reduction")
def averaged_where_the_sum_is_declared(case: Case) -> Tensor:
    log_ratio, bias, std_dev_t, sqrt_dt = both_steps(case)
    ratio = torch.exp((log_ratio + bias) * std_dev_t * sqrt_dt)
    return torch.stack([surrogate(ratio, case)[i] / case.dt[i] for i in range(len(ratio))]).mean()


@mutant("grpo_guard", fails="gradient", because="scale-without-sigma", **MEAN)
def scaled_by_root_dt_alone(case: Case) -> Tensor:
    log_ratio, bias, _, sqrt_dt = both_steps(case)
    return (surrogate(torch.exp((log_ratio + bias) * sqrt_dt), case) / sqrt_dt**2).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
