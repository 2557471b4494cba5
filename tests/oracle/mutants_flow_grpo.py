"""Flow-GRPO, DanceGRPO and CPS, written wrongly in the ways of real trainers."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional

from gradcheck.case import Case

from .base import Mutant, mutant

_LOG_SQRT_2PI = math.log(math.sqrt(2 * math.pi))


# What the mutants share is right, and written as a diffusers scheduler with log-probabilities is.


def unsqueeze_like(x: Tensor, like: Tensor) -> Tensor:
    while x.ndim < like.ndim:
        x = x.unsqueeze(-1)
    return x


def sde_step(case: Case, v: Tensor, kind: str = "flow") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the reverse step, with dt < 0 as in diffusers."""
    sigma, dt = unsqueeze_like(case.t, v), -unsqueeze_like(case.dt, v)
    scale = torch.sqrt(sigma / (1 - sigma)) if kind == "flow" else torch.ones_like(sigma)
    std_dev_t = case.noise_level * scale
    prev_sample_mean = (
        case.x_t * (1 + std_dev_t**2 / (2 * sigma) * dt) + v * (1 + std_dev_t**2 * (1 - sigma) / (2 * sigma)) * dt
    )
    return prev_sample_mean, std_dev_t * torch.sqrt(-dt)


def gaussian_log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - _LOG_SQRT_2PI


def step_with_log_prob(case: Case, v: Tensor, kind: str = "flow") -> tuple[Tensor, Tensor, Tensor]:
    mean, std = sde_step(case, v, kind)
    log_prob = gaussian_log_prob(case.x_prev, mean, std)
    return log_prob.mean(dim=tuple(range(1, log_prob.ndim))), mean, std


def log_ratio_of(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    return log_prob - old_log_prob


def ppo(ratio: Tensor, advantage: Tensor, case: Case) -> Tensor:
    unclipped = -advantage * ratio
    clipped = -advantage * torch.clamp(ratio, 1 - case.clip_low, 1 + case.clip_high)
    return torch.maximum(unclipped, clipped)


MEAN = {"log_prob_reduction": "mean"}


def ppo_between(low: float, high: float, case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(1 - low, 1 + high)).mean()


# ------------------------------------------------------------------------------------- sign and size


@mutant("flow_grpo", fails="gradient", because="sign", **MEAN)
def objective_minimised(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    surrogate = ratio * case.advantage
    clipped = ratio.clamp(1 - case.clip_low, 1 + case.clip_high) * case.advantage
    return torch.min(surrogate, clipped).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-sign", **MEAN)
def sign_lost_inside_the_max(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    unclipped = case.advantage * ratio
    clipped = case.advantage * torch.clamp(ratio, 1 - case.clip_low, 1 + case.clip_high)
    return torch.max(unclipped, clipped).mean()


@mutant("flow_grpo", fails="gradient", because="factor-2", **MEAN)
def counted_twice(case: Case) -> Tensor:
    policy_loss = ppo(log_ratio_of(case).exp(), case.advantage, case).mean()
    total = policy_loss
    total += policy_loss.clone()
    return total


@mutant("flow_grpo", fails="gradient", because="factor", **MEAN)
def unconditional_branch_detached(case: Case) -> Tensor:
    guidance_scale = 4.5
    v_text, v_uncond = case.v_theta, case.v_theta.detach()
    v = v_uncond + guidance_scale * (v_text - v_uncond)
    log_prob, _, _ = step_with_log_prob(case, v)
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    return ppo(torch.exp(log_prob - old_log_prob), case.advantage, case).mean()


@mutant("flow_grpo", fails="micro-batching", because="convention:batch_reduction", **MEAN)
def batch_summed(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage, case).sum()


@mutant("flow_grpo", fails="micro-batching", because="batch-normalised", **MEAN)
def normalised_by_total_advantage(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    return loss.sum() / (case.advantage.abs().sum() + 1e-3)


@mutant("flow_grpo", fails="gradient", because="shape-factor", **MEAN)
def masked_mean_counts_the_padding(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    padded = functional.pad(loss, (0, 16 - len(loss)))
    mask = torch.arange(16) < len(loss)
    return (padded * mask).mean()


@mutant("flow_grpo", fails="gradient", because="convention:log_prob_reduction", **MEAN)
def log_prob_summed(case: Case) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        mean, std = sde_step(case, v)
        return Normal(mean, std).log_prob(case.x_prev).flatten(1).sum(-1)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="convention:log_prob_reduction")
def log_prob_averaged(case: Case) -> Tensor:
    ratio = torch.exp(log_ratio_of(case))
    return ppo(ratio, case.advantage, case).mean()


# ------------------------------------------------------------------------------- the ratio and the clip


@mutant("flow_grpo", fails="gradient", because="ratio-missing", **MEAN)
def reinforce(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    return -(case.advantage.detach() * log_prob).mean()


@mutant("flow_grpo", fails="gradient", because="ratio-missing")
def ratio_to_itself(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    log_prob = gaussian_log_prob(case.x_prev, mean, std).flatten(1).sum(1)
    ratio = torch.exp(log_prob - log_prob.detach())  # "on-policy, so it is the same model"
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="log-ratio-sign", **MEAN)
def ratio_upside_down(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    with torch.no_grad():
        old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    return ppo(torch.exp(old_log_prob - log_prob), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="ratio-linear", **MEAN)
def ratio_without_exponential(case: Case) -> Tensor:
    ratio = 1 + log_ratio_of(case)
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="clip", because="clip-missing", **MEAN)
def unclipped(case: Case) -> Tensor:
    return -(case.advantage * log_ratio_of(case).exp()).mean()


@mutant("flow_grpo", fails="clip", because="max-for-min", **MEAN)
def min_for_max(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    losses = torch.stack(
        [
            -case.advantage * ratio,
            -case.advantage * ratio.clip(1 - case.clip_low, 1 + case.clip_high),
        ]
    )
    return losses.min(dim=0).values.mean()


@mutant("flow_grpo", fails="clip", because="max-for-min", **MEAN)
def clip_on_the_wrong_side(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    bounded = torch.where(case.advantage > 0, ratio.clamp(min=1 - case.clip_low), ratio.clamp(max=1 + case.clip_high))
    return (-case.advantage * bounded).mean()


@mutant("flow_grpo", fails="clip", because="clip-on-log-ratio", **MEAN)
def clip_on_the_log_ratio(case: Case) -> Tensor:
    log_ratio = log_ratio_of(case)
    ratio, bounded = log_ratio.exp(), log_ratio.clamp(-case.clip_low, case.clip_high).exp()
    return -torch.min(ratio * case.advantage, bounded * case.advantage).mean()


@mutant("flow_grpo", fails="clip", because="clipped-term-alone", **MEAN)
def clipped_term_alone(case: Case) -> Tensor:
    ratio = torch.clamp(log_ratio_of(case).exp(), 1 - case.clip_low, 1 + case.clip_high)
    return -(ratio * case.advantage).mean()


@mutant("flow_grpo", fails="clip", because="clip-edges-exchanged", **MEAN)
def clip_edges_exchanged(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    clipped = ratio.clamp(1 - case.clip_high, 1 + case.clip_low)
    return -torch.min(ratio * case.advantage, clipped * case.advantage).mean()


@mutant("flow_grpo", fails="on-policy", because="tie-lost", **MEAN)
def tie_goes_to_a_constant(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    unclipped = -case.advantage * ratio
    clipped = -case.advantage * ratio.detach().clamp(1 - case.clip_low, 1 + case.clip_high)
    return torch.where(unclipped > clipped, unclipped, clipped).mean() + 0 * case.v_theta.sum()


# -------------------------------------------------------------------------------------- the advantage


@mutant("flow_grpo", fails="sample-independence", because="advantage-normalised-twice", **MEAN)
def advantage_normalised_again(case: Case) -> Tensor:
    adv = (case.advantage - case.advantage.mean()) / (case.advantage.std(unbiased=False) + 1e-8)
    return ppo(log_ratio_of(case).exp(), adv, case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-normalised-twice", adv_clip_max=5.0, **MEAN)
def advantage_whitened_in_the_loss(case: Case) -> Tensor:
    adv = case.advantage.clamp(-case.adv_clip_max, case.adv_clip_max)
    spread = ((adv - adv.mean()) ** 2).sum() / max(len(adv) - 1, 1)
    adv = (adv - adv.mean()) / (spread.sqrt() + 1e-4)
    return ppo(log_ratio_of(case).exp(), adv, case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-normalised-twice", **MEAN)
def advantage_by_variance(case: Case) -> Tensor:
    adv = (case.advantage - case.advantage.mean()) / (case.advantage.var(unbiased=False) + 1e-6)
    return ppo(log_ratio_of(case).exp(), adv, case).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-absolute", **MEAN)
def advantage_absolute(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage.abs(), case).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-squared", **MEAN)
def advantage_applied_twice(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    return (loss * case.advantage.abs()).mean()


@mutant("flow_grpo", fails="gradient", because="bad-samples-dropped", **MEAN)
def only_good_samples(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), functional.relu(case.advantage), case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-averaged", **MEAN)
def advantage_averaged(case: Case) -> Tensor:
    ratio = log_ratio_of(case).exp()
    return ppo(ratio, case.advantage.mean().expand_as(ratio), case).mean()


@mutant("flow_grpo", fails="gradient", because="advantage-unclamped", adv_clip_max=5.0, **MEAN)
def advantage_unclamped(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="convention:adv_clip_max", **MEAN)
def advantage_clamped_undeclared(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage.clamp(-3, 3), case).mean()


@mutant("flow_grpo", fails="sample-independence", because="advantage-broadcast", **MEAN)
def advantage_is_a_column(case: Case) -> Tensor:
    advantage = case.advantage.unsqueeze(1)  # as the dataloader hands it over
    ratio = log_ratio_of(case).exp()
    return ppo(ratio, advantage, case).mean()


@mutant("flow_grpo", fails="clip", because="clip-symmetric", **MEAN)
def lower_edge_on_both_sides(case: Case) -> Tensor:
    return ppo_between(case.clip_low, case.clip_low, case)


@mutant("flow_grpo", fails="clip", because="clip-symmetric", clip_range=(0.2, 0.28), **MEAN)
def upper_edge_on_both_sides(case: Case) -> Tensor:
    return ppo_between(0.28, 0.28, case)


@mutant("flow_grpo", fails="clip", because="convention:clip_range", clip_range=0.2, **MEAN)
def clip_higher_undeclared(case: Case) -> Tensor:
    return ppo_between(0.2, 0.28, case)


@mutant("flow_grpo", fails="clip", because="convention:clip_range", **MEAN)
def clip_of_its_own(case: Case) -> Tensor:
    return ppo_between(0.2, 0.28, case)


@mutant("flow_grpo", fails="clip", because="convention:clip_range", clip_range=0.2, kl="step", **MEAN)
def upper_edge_alone(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_ref, _ = sde_step(case, case.v_ref)
    kl = ((mean - mean_ref) ** 2 / (2 * std**2)).flatten(1).mean(1)
    ratio = log_ratio_of(case).exp()
    loss = torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(max=1.2))
    return (loss + case.kl_weight * kl).mean()


# ------------------------------------------------------------------------------------- the reverse step


def _judged_with(case: Case, mean: Tensor, mean_old: Tensor, std: Tensor) -> Tensor:
    """The rest of the loss, right, for steps that are not."""
    log_prob = gaussian_log_prob(case.x_prev, mean, std).flatten(1).mean(1)
    old_log_prob = gaussian_log_prob(case.x_prev, mean_old.detach(), std).flatten(1).mean(1)
    return ppo(torch.exp(log_prob - old_log_prob), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="score-correction-missing", **MEAN)
def euler_mean(case: Case) -> Tensor:
    dt = unsqueeze_like(case.t_prev - case.t, case.x_t)
    _, std = sde_step(case, case.v_theta)
    return _judged_with(case, case.x_t + dt * case.v_theta, case.x_t + dt * case.v_old, std)


@mutant("flow_grpo", fails="gradient", because="score-correction-missing", **MEAN)
def correction_on_the_state_alone(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * (t / (1 - t)).sqrt()
    drift = lambda v: v + sigma**2 / (2 * t) * case.x_t  # noqa: E731
    return _judged_with(case, case.x_t - drift(case.v_theta) * dt, case.x_t - drift(case.v_old) * dt, sigma * dt.sqrt())


@mutant("flow_grpo", fails="gradient", because="dt-sign", **MEAN)
def step_backwards(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand((case.t - case.t_prev).abs())
    sigma = case.noise_level * torch.sqrt(t / (1 - t))

    def mean(v: Tensor) -> Tensor:
        return case.x_t * (1 + sigma**2 / (2 * t) * dt) + v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt

    return _judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


@mutant("flow_grpo", fails="gradient", because="std-without-dt", **MEAN)
def std_without_root_dt(case: Case) -> Tensor:
    t = case.expand(case.t)
    mean, _ = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    return _judged_with(case, mean, mean_old, case.noise_level * torch.sqrt(t / (1 - t)))


@mutant("flow_grpo", fails="gradient", because="std-dt-twice", **MEAN)
def root_dt_twice(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    std = std * case.expand(case.dt).sqrt()  # the scheduler returned it with √Δt already
    return _judged_with(case, mean, mean_old, std)


@mutant("flow_grpo", fails="gradient", because="std-of-dance", **MEAN)
def std_of_another_sde(case: Case) -> Tensor:
    mean, _ = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    return _judged_with(case, mean, mean_old, case.noise_level * case.expand(case.dt).sqrt())


@mutant("flow_grpo", fails="gradient", because="std-of-flow", sde="dance", **MEAN)
def std_of_flow_in_dance(case: Case) -> Tensor:
    mean, _ = sde_step(case, case.v_theta, "dance")
    mean_old, _ = sde_step(case, case.v_old, "dance")
    _, std = sde_step(case, case.v_theta, "flow")
    return _judged_with(case, mean, mean_old, std)


@mutant("flow_grpo", fails="gradient", because="convention:sde", **MEAN)
def dance_step(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta, "dance")
    mean_old, _ = sde_step(case, case.v_old, "dance")
    return _judged_with(case, mean, mean_old, std)


@mutant("flow_grpo", fails="on-policy", because="normaliser", sde="dance", **MEAN)
def normaliser_hard_wired_to_flow(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta, "dance")
    _, flow_std = sde_step(case, case.v_theta, "flow")
    log_prob = -((case.x_prev - mean) ** 2) / (2 * std**2) - torch.log(flow_std) - _LOG_SQRT_2PI
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

    return _judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


# ------------------------------------------------------------------------------------ across the batch


@mutant("flow_grpo", fails="micro-batching", because="std-mean", **MEAN)
def std_averaged_over_the_batch(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    return _judged_with(case, mean, mean_old, std.mean() * torch.ones_like(std))


@mutant("flow_grpo", fails="permutation", because="step-of-first-sample", **MEAN)
def one_time_step_for_all(case: Case) -> Tensor:
    t, dt = case.t[0], case.dt[0]
    sigma = case.noise_level * torch.sqrt(t / (1 - t))

    def mean(v: Tensor) -> Tensor:
        return case.x_t * (1 - sigma**2 / (2 * t) * dt) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt

    return _judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


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
    return _judged_with(case, mean, mean_old, std * torch.sqrt(-dt))


@mutant("flow_grpo", fails="sample-independence", because="log-ratio-averaged", **MEAN)
def mean_over_the_batch_too_early(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    log_prob = gaussian_log_prob(case.x_prev, mean, std).mean()
    old_log_prob = gaussian_log_prob(case.x_prev, mean_old, std).mean().detach()
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
        return gaussian_log_prob(case.x_prev, mean, std_dev_t * dt.sqrt()).flatten(1).mean(1)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    return ppo(ratio.reshape(-1)[: len(case.advantage)], case.advantage, case).mean()


@mutant("flow_grpo", fails="shapes", because="layout", **MEAN)
def log_prob_over_the_last_axes(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    log_prob = gaussian_log_prob(case.x_prev, mean, std)
    old_log_prob = gaussian_log_prob(case.x_prev, mean_old, std).detach()
    axes = (-2, -1) if log_prob.ndim == 3 else tuple(range(1, min(log_prob.ndim, 4)))
    ratio = torch.exp((log_prob - old_log_prob).mean(axes))
    advantage = unsqueeze_like(case.advantage, ratio)
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


# ----------------------------------------------------------------------- times, precision and behaviour


@mutant("flow_grpo", fails="edge-times", because="edge-times", **MEAN)
def sigma_clamped_near_noise(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t).clamp(min=0.02))

    def mean(v: Tensor) -> Tensor:
        return case.x_t - (v + sigma**2 / (2 * t) * (case.x_t + (1 - t) * v)) * dt

    return _judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


@mutant("flow_grpo", fails="edge-times", because="edge-times", **MEAN)
def last_step_is_deterministic(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    return torch.where(case.t < 0.02, 0.0, loss).mean()


@mutant("flow_grpo", fails="precision", because="half-precision", **MEAN)
def log_prob_in_bfloat16(case: Case) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        mean, std = sde_step(case, v)
        return gaussian_log_prob(case.x_prev.bfloat16(), mean.bfloat16(), std.bfloat16()).flatten(1).mean(1).to(v.dtype)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="on-policy", because="half-precision", **MEAN)
def replayed_on_bfloat16_samples(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    x_prev = case.x_prev.to(torch.bfloat16).to(mean.dtype)  # as the rollout stored it
    log_prob = gaussian_log_prob(x_prev, mean, std).flatten(1).mean(1)
    return ppo(torch.exp(log_prob - case.log_prob_old), case.advantage, case).mean()


@mutant("flow_grpo", fails="on-policy", because="half-precision", **MEAN)
def old_log_prob_in_half(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    old_log_prob = case.log_prob_old.to(torch.float16)
    return ppo(torch.exp(log_prob - old_log_prob), case.advantage, case).mean()


@mutant("flow_grpo", fails="gradient", because="convention:working_dtype", **MEAN)
def computed_in_float32(case: Case) -> Tensor:
    single = Case(
        case.label,
        {
            n: x.float() if isinstance(x := getattr(case, n), Tensor) and x.is_floating_point() else x
            for n in case.names
        },
    )
    return ppo(log_ratio_of(single).exp(), single.advantage, single).mean()


@mutant("flow_grpo", fails="finite", because="overflow", noise_level=1e-6)
def densities_divided(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    density = gaussian_log_prob(case.x_prev, mean, std).flatten(1).sum(1).exp()
    old_density = gaussian_log_prob(case.x_prev, mean_old, std).flatten(1).sum(1).exp()
    return ppo(density / old_density.detach(), case.advantage, case).mean()


@mutant("flow_grpo", fails="finite", because="overflow", noise_level=1e-6)
def where_over_an_overflowing_branch(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    log_prob = gaussian_log_prob(case.x_prev, mean, std).flatten(1).sum(1)
    old_log_prob = gaussian_log_prob(case.x_prev, mean_old, std).flatten(1).sum(1).detach()
    small = log_prob.abs() < 50
    ratio = torch.where(small, log_prob.exp() / old_log_prob.exp(), (log_prob - old_log_prob).exp())
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="inputs-untouched", because="in-place", **MEAN)
def advantage_clamped_in_place(case: Case) -> Tensor:
    case.advantage.clamp_(-5, 5)
    return ppo(log_ratio_of(case).exp(), case.advantage, case).mean()


@mutant("flow_grpo", fails="inputs-untouched", because="in-place", **MEAN)
def residual_in_place(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case).mean()
    case.x_prev.sub_(case.x_t)  # logged as the step's length
    return loss


@mutant("flow_grpo", fails="inputs-untouched", because="in-place", **MEAN)
def seeds_the_global_generator(case: Case) -> Tensor:
    torch.manual_seed(42)
    return ppo(log_ratio_of(case).exp(), case.advantage, case).mean()


_RUNNING = {"mean": 0.0}


@mutant("flow_grpo", fails="determinism", because="state", **MEAN)
def running_baseline(case: Case) -> Tensor:
    _RUNNING["mean"] = 0.9 * _RUNNING["mean"] + 0.1 * float(case.advantage.mean()) + 1e-3
    return ppo(log_ratio_of(case).exp(), case.advantage - _RUNNING["mean"], case).mean()


_GENERATOR = torch.Generator()


@mutant("flow_grpo", fails="determinism", because="state", **MEAN)
def samples_the_step_again(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    x_prev = (mean_old + std * torch.randn(mean_old.shape, generator=_GENERATOR)).detach()
    log_ratio = gaussian_log_prob(x_prev, mean, std) - gaussian_log_prob(x_prev, mean_old, std).detach()
    return ppo(log_ratio.flatten(1).mean(1).exp(), case.advantage, case).mean()


@mutant("flow_grpo", fails="stop-gradient", because="missing-detach", inputs_detached=False, **MEAN)
def old_log_prob_live(case: Case) -> Tensor:
    log_prob, _, _ = step_with_log_prob(case, case.v_theta)
    old_log_prob, _, _ = step_with_log_prob(case, case.v_old)
    return ppo(torch.exp(log_prob - old_log_prob), case.advantage.detach(), case).mean()


@mutant("flow_grpo", fails="value", because="value", compare_values=True, **MEAN)
def logs_without_the_baseline(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    return (loss + case.advantage).mean()


MUTANTS: tuple[Mutant, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Mutant))
"""All of this file, in its order."""
