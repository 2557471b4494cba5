"""Right implementations of Flow-GRPO in the styles of the field: none of them may raise an alarm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import vmap

from gradcheck.case import Case

from .base import Correct, correct
from .steps import MEAN, column, cps_step, dance_step, flow_step, log_density, mean_log_ratio, ppo, score_step


@correct("flow_grpo", **MEAN)
def as_diffusers(case: Case) -> Tensor:
    return ppo(mean_log_ratio(case, flow_step).exp(), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def by_the_score(case: Case) -> Tensor:
    return ppo(mean_log_ratio(case, score_step).exp(), case.advantage, case).mean()


@correct("flow_grpo")
def normal_distribution(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    mean_old, _ = flow_step(case, case.v_old)
    new = Normal(mean, std).log_prob(case.x_prev).flatten(1).sum(1)
    old = Normal(mean_old, std).log_prob(case.x_prev).flatten(1).sum(1)
    return ppo(torch.exp(new - old.detach()), case.advantage, case).mean()


@correct("flow_grpo")
def independent_normal(case: Case) -> Tensor:
    axes = case.x_t.ndim - 1
    policy, old = (
        Independent(Normal(mean, std.expand_as(mean)), axes)
        for mean, std in (flow_step(case, case.v_theta), flow_step(case, case.v_old))
    )
    ratio = (policy.log_prob(case.x_prev) - old.log_prob(case.x_prev)).exp()
    return ppo(ratio, case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def einsum_over_tokens(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    mean_old, _ = flow_step(case, case.v_old)
    new, old = ((case.x_prev - m).flatten(1) for m in (mean, mean_old))
    difference = torch.einsum("bd,bd->b", old, old) - torch.einsum("bd,bd->b", new, new)
    ratio = torch.exp(difference / (2 * std.flatten() ** 2 * new.shape[1]))
    return ppo(ratio, case.advantage, case).mean()


@correct("flow_grpo")
def difference_of_squares_factored(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    mean_old, _ = flow_step(case, case.v_old)
    change = (mean - mean_old) / std
    residual = (case.x_prev - mean_old) / std
    log_ratio = (change * residual - 0.5 * change**2).flatten(1).sum(1)
    return ppo(torch.exp(log_ratio), case.advantage, case).mean()


@correct("flow_grpo")
def closed_form_in_the_velocities(case: Case) -> Tensor:
    k = case.expand(case.C1 / case.C2)
    shift = k * (case.v_theta - case.v_old)
    log_ratio = -(shift * case.noise + shift.square() / 2).flatten(1).sum(1)
    return ppo(log_ratio.exp(), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def one_sample_at_a_time(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    total = case.v_theta.new_zeros(())
    for i in range(len(mean)):
        new = log_density(case.x_prev[i], mean[i], std[i]).mean()
        ratio = torch.exp(new - case.log_prob_old[i])
        a = case.advantage[i]
        total = total - torch.min(ratio * a, ratio.clamp(1 - case.clip_low, 1 + case.clip_high) * a)
    return total / len(mean)


@correct("flow_grpo", batch_reduction="none", **MEAN)
def per_sample_losses(case: Case) -> Tensor:
    return ppo(mean_log_ratio(case, flow_step).exp(), case.advantage, case)


@correct("flow_grpo", batch_reduction="sum", **MEAN)
def batch_summed(case: Case) -> Tensor:
    losses = [
        ppo(r[None], a[None], case) for r, a in zip(mean_log_ratio(case, flow_step).exp(), case.advantage, strict=True)
    ]
    return torch.cat(losses).sum()


@correct("flow_grpo", factor=0.25, **MEAN)
def gradient_accumulation(case: Case) -> Tensor:
    return ppo(mean_log_ratio(case, flow_step).exp(), case.advantage, case).mean() / 4


@correct("flow_grpo", **MEAN)
def recorded_old_log_prob(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    new = log_density(case.x_prev, mean, std).flatten(1).mean(1)
    return ppo(torch.exp(new - case.log_prob_old), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def min_of_objectives(case: Case) -> Tensor:
    ratio = torch.exp(mean_log_ratio(case, score_step))
    surrogate = torch.stack([ratio, ratio.clip(1 - case.clip_low, 1 + case.clip_high)]) * case.advantage
    return -surrogate.amin(0).mean()


@correct("flow_grpo", **MEAN)
def clip_by_masking(case: Case) -> Tensor:
    ratio = torch.exp(mean_log_ratio(case, flow_step))
    off = ((case.advantage > 0) & (ratio > 1 + case.clip_high)) | ((case.advantage < 0) & (ratio < 1 - case.clip_low))
    return -(case.advantage * torch.where(off, ratio.detach(), ratio)).mean()


@correct("flow_grpo", **MEAN)
def constants_and_metrics_added(case: Case) -> Tensor:
    log_ratio = mean_log_ratio(case, flow_step)
    loss = ppo(log_ratio.exp(), case.advantage, case)
    clip_fraction = (log_ratio.exp() - 1).abs().gt(case.clip_high).float().mean()
    return loss.mean() + 0.5 * (log_ratio.detach() ** 2).mean() + clip_fraction + 3.0


@correct("flow_grpo", **MEAN)
def double_where(case: Case) -> Tensor:
    log_ratio = mean_log_ratio(case, flow_step)
    fine = log_ratio < 30
    ratio = torch.where(fine, torch.exp(torch.where(fine, log_ratio, 0.0)), math.exp(30.0))
    return ppo(ratio, case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def expm1_of_the_log_ratio(case: Case) -> Tensor:
    ratio = torch.expm1(mean_log_ratio(case, flow_step)) + 1
    return ppo(ratio, case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def vectorised_by_vmap(case: Case) -> Tensor:
    def one(v: Tensor, v_old: Tensor, x: Tensor, x_prev: Tensor, t: Tensor, dt: Tensor) -> Tensor:
        sigma2 = case.noise_level**2 * t / (1 - t)
        gain = dt * (1 + sigma2 * (1 - t) / (2 * t))
        offset = x * (1 - sigma2 * dt / (2 * t))
        new, old = ((x_prev - offset + gain * u).square().mean() for u in (v, v_old))
        return (old - new) / (2 * sigma2 * dt)

    log_ratio = vmap(one)(case.v_theta, case.v_old, case.x_t, case.x_prev, case.t, case.dt)
    return ppo(log_ratio.exp(), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def looked_up_in_the_scheduler(case: Case) -> Tensor:
    sigma, sigma_next = case.sigmas[case.step_index], case.sigmas[case.step_index + 1]
    sigma, dt = column(sigma, case.x_t), column(sigma_next - sigma, case.x_t)
    std_dev_t = torch.sqrt(sigma / (1 - sigma)) * case.noise_level
    gain, keep = (1 + std_dev_t**2 * (1 - sigma) / (2 * sigma)) * dt, 1 + std_dev_t**2 / (2 * sigma) * dt
    new, old = (
        log_density(case.x_prev, case.x_t * keep + v * gain, std_dev_t * (-dt).sqrt()).flatten(1).mean(1)
        for v in (case.v_theta, case.v_old.detach())
    )
    return ppo(torch.exp(new - old), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def classifier_free_guidance(case: Case) -> Tensor:
    guidance_scale = 4.5
    text, unconditional = case.v_theta * 1.0, case.v_theta
    v = unconditional + guidance_scale * (text - unconditional)
    mean, std = flow_step(case, v)
    new = log_density(case.x_prev, mean, std).flatten(1).mean(1)
    return ppo(torch.exp(new - case.log_prob_old), case.advantage, case).mean()


@correct("flow_grpo", inputs_detached=False, **MEAN)
def detaches_by_itself(case: Case) -> Tensor:
    x_prev = case.x_prev.detach()
    mean, std = flow_step(case, case.v_theta)
    with torch.no_grad():
        mean_old, _ = flow_step(case, case.v_old)
    new, old = (log_density(x_prev, m, std).flatten(1).mean(1) for m in (mean, mean_old))
    return ppo((new - old).exp(), case.advantage.detach(), case).mean()


@correct("flow_grpo", compare_values=True, **MEAN)
def with_its_value(case: Case) -> Tensor:
    return ppo(mean_log_ratio(case, flow_step).exp(), case.advantage, case).mean()


@correct("flow_grpo", working_dtype="float32", **MEAN)
def inputs_cast_to_float32(case: Case) -> Tensor:
    names = [n for n in case.names if isinstance(getattr(case, n), Tensor) and getattr(case, n).is_floating_point()]
    single = case.replace(**{n: getattr(case, n).float() for n in names})
    return ppo(mean_log_ratio(single, flow_step).exp(), single.advantage, single).mean()


@correct("flow_grpo", **MEAN)
def under_autocast(case: Case) -> Tensor:
    # element-wise arithmetic keeps its precision under autocast; only matrix products would lose it
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return ppo(mean_log_ratio(case, flow_step).exp(), case.advantage, case).mean()


class GRPOLoss(nn.Module):
    """As a trainer's module, with its settings in buffers."""

    def __init__(self, adv_clip_max: float) -> None:
        super().__init__()
        self.register_buffer("adv_clip_max", torch.tensor(adv_clip_max, dtype=torch.float64))

    def forward(self, ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
        limit = self.adv_clip_max.to(advantage)  # type: ignore[operator]
        advantage = torch.minimum(torch.maximum(advantage, -limit), limit)
        return torch.max(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high)).mean()


@correct("flow_grpo", adv_clip_max=5.0, **MEAN)
def module_with_buffers(case: Case) -> Tensor:
    ratio = mean_log_ratio(case, flow_step).exp()
    return GRPOLoss(case.adv_clip_max)(ratio, case.advantage, case.clip_low, case.clip_high)


@correct("flow_grpo", preset="flow_grpo-official")
def official(case: Case) -> Tensor:
    advantages = torch.clamp(case.advantage, -case.adv_clip_max, case.adv_clip_max)
    ratio = torch.exp(mean_log_ratio(case, flow_step))
    unclipped_loss = -advantages * ratio
    clipped_loss = -advantages * torch.clamp(ratio, 1.0 - case.clip_range, 1.0 + case.clip_range)
    return torch.mean(torch.maximum(unclipped_loss, clipped_loss))


@correct("flow_grpo", preset="flow_grpo-official-kl")
def official_with_kl(case: Case) -> Tensor:
    advantages = torch.clamp(case.advantage, -case.adv_clip_max, case.adv_clip_max)
    ratio = torch.exp(mean_log_ratio(case, flow_step))
    policy_loss = torch.mean(ppo(ratio, advantages, case))
    mean, std = flow_step(case, case.v_theta)
    with torch.no_grad():
        mean_ref, _ = flow_step(case, case.v_ref)
    std_dev_t = std / column(case.dt, std).sqrt()
    kl = ((mean - mean_ref) ** 2).mean(dim=tuple(range(1, mean.ndim)), keepdim=True) / (2 * std_dev_t**2)
    return policy_loss + case.kl_weight * torch.mean(kl)


@correct("flow_grpo", preset="dance_grpo-official")
def official_dance(case: Case) -> Tensor:
    advantages = torch.clamp(case.advantage, -case.adv_clip_max, case.adv_clip_max)
    return ppo(torch.exp(mean_log_ratio(case, dance_step)), advantages, case).mean()


@correct("flow_grpo", preset="cps-official")
def official_cps(case: Case) -> Tensor:
    mean, _ = cps_step(case, case.v_theta)
    mean_old, _ = cps_step(case, case.v_old)
    axes = tuple(range(1, mean.ndim))
    ratio = torch.exp(((case.x_prev - mean_old) ** 2).mean(axes) - ((case.x_prev - mean) ** 2).mean(axes))
    return ppo(ratio, case.advantage.clamp(-case.adv_clip_max, case.adv_clip_max), case).mean()


@correct("flow_grpo", sde="cps")
def cps_with_its_density(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (cps_step(case, v) for v in (case.v_theta, case.v_old))
    log_ratio = Normal(mean, std).log_prob(case.x_prev) - Normal(mean_old, std).log_prob(case.x_prev)
    return ppo(log_ratio.flatten(1).sum(1).exp(), case.advantage, case).mean()


@correct("flow_grpo", kl="step")
def kl_of_distributions(case: Case) -> Tensor:
    mean, std = flow_step(case, case.v_theta)
    mean_old, _ = flow_step(case, case.v_old)
    mean_ref, _ = flow_step(case, case.v_ref)
    policy = Normal(mean, std)
    log_ratio = (policy.log_prob(case.x_prev) - Normal(mean_old, std).log_prob(case.x_prev)).flatten(1).sum(1)
    kl = kl_divergence(policy, Normal(mean_ref, std)).flatten(1).sum(1)
    return (ppo(log_ratio.exp(), case.advantage, case) + case.kl_weight * kl).mean()


@correct("flow_grpo", time_weight="noise", noise_norm=0.3, **MEAN)
def weighed_by_noise(case: Case) -> Tensor:
    """TempFlow-GRPO: the trainer holds its grid's mean of σ_t √Δt."""
    _, std = flow_step(case, case.v_theta)
    weights = std.detach().flatten() / 0.3
    return (weights * ppo(mean_log_ratio(case, flow_step).exp(), case.advantage, case)).mean()


@correct("flow_grpo", time_weight="window", kl="step", **MEAN)
def mixed_ode_and_sde(case: Case) -> Tensor:
    """MixGRPO: the steps outside the window are left out before anything is computed; the mean is over the batch."""
    inside = case.window > 0
    if not bool(inside.any()):
        return 0 * case.v_theta.sum()
    names = [n for n in case.names if isinstance(getattr(case, n), Tensor) and n != "sigmas"]
    trained = case.replace(**{n: getattr(case, n)[inside] for n in names})
    (mean, std), (mean_ref, _) = (flow_step(trained, v) for v in (trained.v_theta, trained.v_ref))
    kl = ((mean - mean_ref) ** 2 / (2 * std**2)).flatten(1).mean(1)
    loss = ppo(mean_log_ratio(trained, flow_step).exp(), trained.advantage, trained) + case.kl_weight * kl
    return loss.sum() / len(case.window)


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
