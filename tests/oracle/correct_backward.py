"""Right implementations of the other losses on reverse steps: Flow-DPPO, DDPO and GRPO-Guard."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from gradcheck.case import Case

from .base import Correct, correct
from .steps import MEAN, Step, column, dance_step, flow_step, log_density, mean_log_ratio, ppo, score_step


@correct("flow_dppo", divergence_max=0.01, **MEAN)
def divergence_in_the_clips_place(case: Case) -> Tensor:
    """The kept samples selected by ``torch.where``, the divergence by torch's own."""
    (mean, std), (mean_old, _) = flow_step(case, case.v_theta), flow_step(case, case.v_old)
    ratio = torch.exp(mean_log_ratio(case, flow_step))
    divergence = kl_divergence(Normal(mean_old, std), Normal(mean, std)).flatten(1).mean(1).detach()
    outwards = torch.where(case.advantage > 0, ratio > 1, ratio < 1)
    kept = torch.where(outwards & (divergence > 0.01), ratio.detach(), ratio)
    return -(case.advantage * kept).mean()


# ---------------------------------------------------------------------------------------------- DDPO


def ddim_step(case: Case, model_output: Tensor, eta: float, v_prediction: bool = False) -> tuple[Tensor, Tensor]:
    """As a scheduler's ``step`` with its log-probability has it, the noise first and the data out of it."""
    alpha_prod_t, alpha_prod_t_prev = column(case.alpha_bar, case.x_t), column(case.alpha_bar_prev, case.x_t)
    beta_prod_t, beta_prod_t_prev = 1 - alpha_prod_t, 1 - alpha_prod_t_prev
    pred_epsilon = alpha_prod_t**0.5 * model_output + beta_prod_t**0.5 * case.x_t if v_prediction else model_output
    pred_original_sample = (case.x_t - beta_prod_t**0.5 * pred_epsilon) / alpha_prod_t**0.5
    variance = (beta_prod_t_prev / beta_prod_t) * (1 - alpha_prod_t / alpha_prod_t_prev)
    std_dev_t = eta * variance**0.5
    pred_sample_direction = (1 - alpha_prod_t_prev - std_dev_t**2) ** 0.5 * pred_epsilon
    return alpha_prod_t_prev**0.5 * pred_original_sample + pred_sample_direction, std_dev_t


@correct("ddpo", preset="ddpo-official")
def official_ddpo(case: Case) -> Tensor:
    advantages = torch.clamp(case.advantage, -case.adv_clip_max, case.adv_clip_max)
    (mean, std), (mean_old, _) = (ddim_step(case, noise, 1.0) for noise in (case.noise_theta, case.noise_old))
    axes = tuple(range(1, mean.ndim))
    new, old = log_density(case.x_prev, mean, std).mean(axes), log_density(case.x_prev, mean_old, std).mean(axes)
    ratio = torch.exp(new - old.detach())
    unclipped_loss = -advantages * ratio
    clipped_loss = -advantages * torch.clamp(ratio, 1.0 - case.clip_range, 1.0 + case.clip_range)
    return torch.mean(torch.maximum(unclipped_loss, clipped_loss))


@correct("ddpo", **MEAN)
def ddpo_with_v_prediction(case: Case) -> Tensor:
    ratio = mean_log_ratio(case, lambda case, v: ddim_step(case, v, case.noise_level, v_prediction=True)).exp()
    return ppo(ratio, case.advantage, case).mean()


@correct("ddpo", kl="step", **MEAN)
def ddpo_held_at_the_reference(case: Case) -> Tensor:
    (mean, std), (mean_ref, _) = (
        ddim_step(case, v, case.noise_level, v_prediction=True) for v in (case.v_theta, case.v_ref)
    )
    ratio = mean_log_ratio(case, lambda case, v: ddim_step(case, v, case.noise_level, v_prediction=True)).exp()
    kl = ((mean - mean_ref.detach()) / std).square().flatten(1).mean(1) / 2
    return (ppo(ratio, case.advantage, case) + case.kl_weight * kl).mean()


@correct("ddpo")
def ddpo_in_angles(case: Case) -> Tensor:
    """The step's mean as a rotation and what the noise takes off it."""
    a, a_prev = column(case.alpha_bar, case.v_theta), column(case.alpha_bar_prev, case.v_theta)
    std = case.noise_level * torch.sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
    kept = torch.sqrt(1 - a_prev - std**2)
    slope = torch.sqrt(a_prev * (1 - a)) - torch.sqrt(a) * kept
    shift = slope / std * (case.v_theta - case.v_old)
    return ppo(torch.exp(-(shift * case.noise + shift**2 / 2).flatten(1).sum(1)), case.advantage, case).mean()


# ---------------------------------------------------------------------------------------- GRPO-Guard


def guard(case: Case, step: Step) -> tuple[Tensor, Tensor]:
    """Corrected log-ratio of means over coordinates, and Δt."""
    mean, std = step(case, case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case, case.v_old)
    axes = tuple(range(1, mean.ndim))
    new, old = (log_density(case.x_prev, m, std).mean(axes) for m in (mean, mean_old))
    bias = ((mean - mean_old) ** 2 / (2 * std**2)).mean(axes)
    return (new - old + bias) * std.flatten(), case.dt


@correct("grpo_guard", preset="grpo_guard-official")
def official_guard(case: Case) -> Tensor:
    log_ratio, dt = guard(case, flow_step)
    advantages = torch.clamp(case.advantage, -case.adv_clip_max, case.adv_clip_max)
    return torch.mean(ppo(torch.exp(log_ratio), advantages, case) / torch.sqrt(dt) ** 2)


@correct("grpo_guard", **MEAN)
def guard_by_the_score(case: Case) -> Tensor:
    log_ratio, dt = guard(case, score_step)
    return (ppo(log_ratio.exp(), case.advantage, case) / dt).mean()


@correct("grpo_guard")
def guard_in_closed_form(case: Case) -> Tensor:
    pull = torch.einsum("bd,bd->b", (case.v_theta - case.v_old).flatten(1), case.noise.flatten(1))
    return (ppo(torch.exp(-case.C1 * pull), case.advantage, case) / case.dt).mean()


@correct("grpo_guard", **MEAN)
def guard_per_sample_loop(case: Case) -> Tensor:
    log_ratio, dt = guard(case, flow_step)
    rows = [ppo(log_ratio[i : i + 1].exp(), case.advantage[i : i + 1], case) / dt[i] for i in range(len(dt))]
    return torch.stack(rows).mean()


@correct("grpo_guard")
def guard_with_inner_products(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    mean_old, _ = flow_step(case, case.v_old)
    noise = (case.x_prev - mean_old) / std
    log_ratio = ((mean - mean_old) * noise).flatten(1).sum(1)
    return (ppo(log_ratio.exp(), case.advantage, case) / (case.t - case.t_prev)).mean()


@correct("grpo_guard", kl="step")
def guard_with_kl(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    mean_old, mean_ref = (flow_step(case, v)[0].detach() for v in (case.v_old, case.v_ref))
    log_ratio = ((mean - mean_old) * (case.x_prev - mean_old) / std).flatten(1).sum(1)
    kl = (0.5 * ((mean - mean_ref) / std) ** 2).flatten(1).sum(1)
    return torch.mean(ppo(log_ratio.exp(), case.advantage, case) / case.dt + case.kl_weight * kl)


@correct("grpo_guard", sde="dance", **MEAN)
def guard_on_dance(case: Case) -> Tensor:
    log_ratio, dt = guard(case, dance_step)
    return (ppo(log_ratio.exp(), case.advantage, case) / dt).mean()


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
