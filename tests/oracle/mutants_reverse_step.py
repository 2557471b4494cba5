"""The reverse step of Flow-GRPO and its kin, its density and its KL term, written wrongly."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .base import Mutant, mutant
from .steps import MEAN, column, judged_with, log_density, log_ratio_of, ppo, sde_step, step_with_log_prob

# ------------------------------------------------------------------------------------- the reverse step


@mutant("flow_grpo", fails="gradient", because="score-correction-missing", **MEAN)
def euler_mean(case: Case) -> Tensor:
    dt = column(case.t_prev - case.t, case.x_t)
    _, std = sde_step(case, case.v_theta)
    return judged_with(case, case.x_t + dt * case.v_theta, case.x_t + dt * case.v_old, std)


@mutant("flow_grpo", fails="gradient", because="score-correction-missing", **MEAN)
def correction_on_the_state_alone(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * (t / (1 - t)).sqrt()
    drift = lambda v: v + sigma**2 / (2 * t) * case.x_t  # noqa: E731
    return judged_with(case, case.x_t - drift(case.v_theta) * dt, case.x_t - drift(case.v_old) * dt, sigma * dt.sqrt())


@mutant("flow_grpo", fails="gradient", because="dt-sign", **MEAN)
def step_backwards(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand((case.t - case.t_prev).abs())
    sigma = case.noise_level * torch.sqrt(t / (1 - t))

    def mean(v: Tensor) -> Tensor:
        return case.x_t * (1 + sigma**2 / (2 * t) * dt) + v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt

    return judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


@mutant("flow_grpo", fails="gradient", because="std-without-dt", **MEAN)
def std_without_root_dt(case: Case) -> Tensor:
    t = case.expand(case.t)
    mean, _ = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    return judged_with(case, mean, mean_old, case.noise_level * torch.sqrt(t / (1 - t)))


@mutant("flow_grpo", fails="gradient", because="std-dt-twice", **MEAN)
def root_dt_twice(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    std = std * case.expand(case.dt).sqrt()  # the scheduler returned it with √Δt already
    return judged_with(case, mean, mean_old, std)


@mutant("flow_grpo", fails="gradient", because="std-of-dance", **MEAN)
def std_of_another_sde(case: Case) -> Tensor:
    mean, _ = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    return judged_with(case, mean, mean_old, case.noise_level * case.expand(case.dt).sqrt())


@mutant("flow_grpo", fails="gradient", because="std-of-flow", sde="dance", **MEAN)
def std_of_flow_in_dance(case: Case) -> Tensor:
    mean, _ = sde_step(case, case.v_theta, "dance")
    mean_old, _ = sde_step(case, case.v_old, "dance")
    _, std = sde_step(case, case.v_theta, "flow")
    return judged_with(case, mean, mean_old, std)


@mutant("flow_grpo", fails="gradient", because="convention:sde", **MEAN)
def dance_step(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta, "dance")
    mean_old, _ = sde_step(case, case.v_old, "dance")
    return judged_with(case, mean, mean_old, std)


@mutant("flow_grpo", fails="on-policy", because="normaliser", sde="dance", **MEAN)
def normaliser_hard_wired_to_flow(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta, "dance")
    _, flow_std = sde_step(case, case.v_theta, "flow")
    log_prob = -((case.x_prev - mean) ** 2) / (2 * std**2) - torch.log(flow_std) - math.log(2 * math.pi) / 2
    ratio = torch.exp(log_prob.flatten(1).mean(1) - case.log_prob_old)
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="on-policy", because="normaliser", **MEAN)
def normaliser_forgotten(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    log_prob = (-((case.x_prev - mean) ** 2) / (2 * std**2)).flatten(1).mean(1)
    return ppo(torch.exp(log_prob - case.log_prob_old), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="half-missing", **MEAN)
def exponent_without_half(case: Case) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        mean, std = sde_step(case, v)
        return -(((case.x_prev - mean) / std) ** 2).flatten(1).mean(1)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old.detach()))
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="std-not-squared", **MEAN)
def std_for_variance(case: Case) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        mean, std = sde_step(case, v)
        return (
            torch.einsum(
                "bd,bd->b", -((case.x_prev - mean) ** 2).flatten(1), (0.5 / std).flatten(1).expand(-1, mean[0].numel())
            )
            / mean[0].numel()
        )

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old.detach()))
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="sigma-reversed", **MEAN)
def time_runs_the_other_way_in_sigma(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt((1 - t) / t)

    def mean(v: Tensor) -> Tensor:
        return case.x_t - (v + sigma**2 / (2 * t) * (case.x_t + (1 - t) * v)) * dt

    return judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


# ------------------------------------------------------------------------------------ across the batch


@mutant("flow_grpo", fails="micro-batching", because="std-mean", **MEAN)
def std_averaged_over_the_batch(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    return judged_with(case, mean, mean_old, std.mean() * torch.ones_like(std))


@mutant("flow_grpo", fails="permutation", because="step-of-first-sample", **MEAN)
def one_time_step_for_all(case: Case) -> Tensor:
    t, dt = case.t[0], case.dt[0]
    sigma = case.noise_level * torch.sqrt(t / (1 - t))

    def mean(v: Tensor) -> Tensor:
        return case.x_t * (1 - sigma**2 / (2 * t) * dt) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt

    return judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


@mutant("flow_grpo", fails="permutation", because="step-of-first-sample", **MEAN)
def scheduler_index_of_the_first_sample(case: Case) -> Tensor:
    index = int(case.step_index[0])
    sigma, sigma_next = case.sigmas[index], case.sigmas[index + 1]
    dt = sigma_next - sigma
    std = case.noise_level * torch.sqrt(sigma / (1 - sigma))
    mean, mean_old = (
        case.x_t * (1 + std**2 / (2 * sigma) * dt) + v * (1 + std**2 * (1 - sigma) / (2 * sigma)) * dt
        for v in (case.v_theta, case.v_old)
    )
    return judged_with(case, mean, mean_old, std * torch.sqrt(-dt))


@mutant("flow_grpo", fails="sample-independence", because="log-ratio-averaged", **MEAN)
def mean_over_the_batch_too_early(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    log_prob = log_density(case.x_prev, mean, std).mean()
    old_log_prob = log_density(case.x_prev, mean_old, std).mean().detach()
    return ppo(torch.exp(log_prob - old_log_prob).expand_as(case.advantage), case.advantage, case).mean()


@mutant("flow_grpo", fails="sample-independence", because="ratio-averaged", **MEAN)
def ratio_averaged(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp().mean()
    return ppo(ratio.repeat(len(case.advantage)), case.advantage, case).mean()


@mutant("flow_grpo", fails="shapes", because="layout", **MEAN)
def sigma_for_images_only(case: Case) -> Tensor:
    ones = (1,) * max(case.x_t.ndim - 1, 3)  # an image has four axes, a video five; packed tokens have three
    t, dt = case.t.view(-1, *ones), case.dt.view(-1, *ones)
    std_dev_t = case.noise_level * torch.sqrt(t / (1 - t))

    def log_prob(v: Tensor) -> Tensor:
        mean = case.x_t * (1 - std_dev_t**2 / (2 * t) * dt) - v * (1 + std_dev_t**2 * (1 - t) / (2 * t)) * dt
        return log_density(case.x_prev, mean, std_dev_t * dt.sqrt()).flatten(1).mean(1)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    return ppo(ratio.reshape(-1)[: len(case.advantage)], case.advantage, case).mean()


@mutant("flow_grpo", fails="shapes", because="layout", **MEAN)
def log_prob_over_the_last_axes(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    log_prob = log_density(case.x_prev, mean, std)
    old_log_prob = log_density(case.x_prev, mean_old, std).detach()
    axes = (-2, -1) if log_prob.ndim == 3 else tuple(range(1, min(log_prob.ndim, 4)))
    ratio = torch.exp((log_prob - old_log_prob).mean(axes))
    advantage = column(case.advantage, ratio)
    return ppo(ratio, advantage, case).mean()


# ----------------------------------------------------------------------------------------- the KL term


def _policy_and_means(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_prob, mean, std = step_with_log_prob(case, case.v_theta)
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
        _, mean_ref, _ = step_with_log_prob(case, case.v_ref)
    return ppo(torch.exp(log_prob - old_log_prob), case.advantage, case).mean(), mean, mean_ref, std


@mutant("flow_grpo", fails="kl", because="kl-without-gradient", kl="step", **MEAN)
def kl_under_no_grad(case: Case) -> Tensor:
    policy_loss, mean, mean_ref, std = _policy_and_means(case)
    with torch.no_grad():
        kl = ((mean - mean_ref) ** 2 / (2 * std**2)).mean()
    return policy_loss + case.kl_weight * kl


@mutant("flow_grpo", fails="kl", because="convention:kl", kl="step", **MEAN)
def kl_denominator_without_dt(case: Case) -> Tensor:
    policy_loss, mean, mean_ref, std = _policy_and_means(case)
    std_dev_t = std / case.expand(case.dt).sqrt()
    kl = ((mean - mean_ref) ** 2).flatten(1).mean(1, keepdim=True) / (2 * std_dev_t.flatten(1) ** 2)
    return policy_loss + case.kl_weight * kl.mean()


@mutant("flow_grpo", fails="kl", because="kl-to-old", kl="step", **MEAN)
def kl_to_the_behaviour_model(case: Case) -> Tensor:
    policy_loss, mean, _, std = _policy_and_means(case)
    with torch.no_grad():
        mean_ref, _ = sde_step(case, case.v_old)
    return policy_loss + case.kl_weight * ((mean - mean_ref) ** 2 / (2 * std**2)).mean()


@mutant("flow_grpo", fails="kl", because="kl-times-D", kl="sigma", **MEAN)
def kl_summed_over_the_latent(case: Case) -> Tensor:
    policy_loss, mean, mean_ref, std = _policy_and_means(case)
    kl = ((mean - mean_ref) ** 2 / (2 * std**2 / case.expand(case.dt))).flatten(1).sum(1)
    return policy_loss + case.kl_weight * kl.mean()


@mutant("flow_grpo", fails="kl", because="kl-half", kl="step", **MEAN)
def kl_without_half(case: Case) -> Tensor:
    policy_loss, mean, mean_ref, std = _policy_and_means(case)
    return policy_loss + case.kl_weight * (((mean - mean_ref) / std) ** 2).mean()


@mutant("flow_grpo", fails="kl", because="kl-sign", kl="step", **MEAN)
def kl_rewarded(case: Case) -> Tensor:
    policy_loss, mean, mean_ref, std = _policy_and_means(case)
    return policy_loss - case.kl_weight * ((mean - mean_ref) ** 2 / (2 * std**2)).mean()


@mutant("flow_grpo", fails="kl", because="kl-on-velocities", kl="step", **MEAN)
def kl_between_velocities(case: Case) -> Tensor:
    policy_loss, _, _, _ = _policy_and_means(case)
    return policy_loss + case.kl_weight * functional.mse_loss(case.v_theta, case.v_ref)


@mutant("flow_grpo", fails="gradient", because="policy-detached", kl="step", **MEAN)
def prediction_detached(case: Case) -> Tensor:
    _, mean, mean_ref, std = _policy_and_means(case)
    log_prob, _, _ = step_with_log_prob(case, case.v_theta.detach())
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    policy_loss = ppo(torch.exp(log_prob - old_log_prob), case.advantage, case).mean()
    return policy_loss + case.kl_weight * ((mean - mean_ref) ** 2 / (2 * std**2)).mean()


@mutant("flow_grpo", fails="gradient", because="drift-data-for-noise", **MEAN)
def predicted_data_in_the_score(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))

    def mean(v: Tensor) -> Tensor:
        return case.x_t - (v + sigma**2 / (2 * t) * (case.x_t - t * v)) * dt

    return judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


@mutant("flow_grpo", fails="kl", because="old-and-reference-exchanged", kl="step", **MEAN)
def behaviour_and_reference_exchanged(case: Case) -> Tensor:
    policy_loss, mean, mean_ref, std = _policy_and_means(case.replace(v_old=case.v_ref, v_ref=case.v_old))
    return policy_loss + case.kl_weight * ((mean - mean_ref) ** 2 / (2 * std**2)).mean()


@mutant("flow_grpo", fails="clip", because="kl-in-max", kl="step", clip_range=0.05, **MEAN)
def kl_beside_the_clipped_term_alone(case: Case) -> Tensor:
    ratio = torch.exp(log_ratio_of(case))
    _, mean, mean_ref, std = _policy_and_means(case)
    kl = case.kl_weight * ((mean - mean_ref) ** 2 / (2 * std**2)).flatten(1).mean(1)
    clipped = -case.advantage * ratio.clamp(1 - case.clip_low, 1 + case.clip_high)
    return torch.maximum(-case.advantage * ratio, clipped + kl).mean()


@mutant("flow_grpo", fails="clip", because="clip-on-product", clip_range=0.05, **MEAN)
def advantage_inside_the_clip(case: Case) -> Tensor:
    gain = case.advantage * torch.exp(log_ratio_of(case))
    return -torch.minimum(gain, gain.clamp(1 - case.clip_low, 1 + case.clip_high)).mean()


@mutant("flow_grpo", fails="clip", because="clip-by-advantage", clip_range=0.05, **MEAN)
def wider_clip_for_greater_advantages(case: Case) -> Tensor:
    ratio, a = torch.exp(log_ratio_of(case)), case.advantage
    low, high = 1 - case.clip_low * a.abs(), 1 + case.clip_high * a.abs()
    return torch.maximum(-a * ratio, -a * torch.minimum(torch.maximum(ratio, low), high)).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
