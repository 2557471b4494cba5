"""Right implementations in the styles of the field: none of them may raise an alarm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import vmap
from torch.nn import functional

from gradcheck.case import Case

from .base import Correct, correct

MEAN = {"log_prob_reduction": "mean"}


# ------------------------------------------------------------------- reverse steps, as people write them


def column(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(x.shape + (1,) * (like.ndim - x.ndim))


def flow_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """diffusers' order: dt < 0, and the state's and the velocity's coefficients apart."""
    sigma, dt = column(case.t, v), column(case.t_prev - case.t, v)
    std_dev_t = torch.sqrt(sigma / (1 - sigma)) * case.noise_level
    mean = case.x_t * (1 + std_dev_t**2 / (2 * sigma) * dt) + v * (1 + std_dev_t**2 * (1 - sigma) / (2 * sigma)) * dt
    return mean, std_dev_t * torch.sqrt(-1 * dt)


def score_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """By way of the score and the drift."""
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * (t / (1 - t)) ** 0.5
    score = -(case.x_t + (1 - t) * v) / t
    return case.x_t - dt * (v - sigma**2 / 2 * score), sigma * dt**0.5


def dance_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """DanceGRPO's order: the Euler step first, the score's term after it."""
    sigma, dsigma = column(case.t, v), -column(case.dt, v)
    mean = case.x_t + dsigma * v
    score = -(case.x_t + (1 - sigma) * v) / sigma
    mean = mean - 0.5 * case.noise_level**2 * score * dsigma
    return mean, case.noise_level * torch.sqrt(-dsigma)


def cps_step(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    t, t_prev = column(case.t, v), column(case.t - case.dt, v)
    std = t_prev * math.sin(case.noise_level * math.pi / 2)
    x_0_hat, noise_hat = case.x_t - t * v, case.x_t + (1 - t) * v
    return x_0_hat * (1 - t_prev) + noise_hat * torch.sqrt(t_prev**2 - std**2), std


Step = Callable[[Case, Tensor], tuple[Tensor, Tensor]]


def log_prob(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - math.log(math.sqrt(2 * math.pi))


def mean_log_ratio(case: Case, step: Step) -> Tensor:
    mean, std = step(case, case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case, case.v_old)
    new, old = log_prob(case.x_prev, mean, std), log_prob(case.x_prev, mean_old, std)
    axes = tuple(range(1, new.ndim))
    return new.mean(axes) - old.mean(axes)


def ppo(ratio: Tensor, advantage: Tensor, case: Case) -> Tensor:
    unclipped = -advantage * ratio
    clipped = -advantage * torch.clamp(ratio, 1.0 - case.clip_low, 1.0 + case.clip_high)
    return torch.maximum(unclipped, clipped)


# ---------------------------------------------------------------------------------------- Flow-GRPO


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
        new = log_prob(case.x_prev[i], mean[i], std[i]).mean()
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
    new = log_prob(case.x_prev, mean, std).flatten(1).mean(1)
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
        log_prob(case.x_prev, case.x_t * keep + v * gain, std_dev_t * (-dt).sqrt()).flatten(1).mean(1)
        for v in (case.v_theta, case.v_old.detach())
    )
    return ppo(torch.exp(new - old), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def classifier_free_guidance(case: Case) -> Tensor:
    guidance_scale = 4.5
    text, unconditional = case.v_theta * 1.0, case.v_theta
    v = unconditional + guidance_scale * (text - unconditional)
    mean, std = flow_step(case, v)
    new = log_prob(case.x_prev, mean, std).flatten(1).mean(1)
    return ppo(torch.exp(new - case.log_prob_old), case.advantage, case).mean()


@correct("flow_grpo", inputs_detached=False, **MEAN)
def detaches_by_itself(case: Case) -> Tensor:
    x_prev = case.x_prev.detach()
    mean, std = flow_step(case, case.v_theta)
    with torch.no_grad():
        mean_old, _ = flow_step(case, case.v_old)
    log_ratio = log_prob(x_prev, mean, std).flatten(1).mean(1) - log_prob(x_prev, mean_old, std).flatten(1).mean(1)
    return ppo(log_ratio.exp(), case.advantage.detach(), case).mean()


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


# ---------------------------------------------------------------------------------------- GRPO-Guard


def guard(case: Case, step: Step) -> tuple[Tensor, Tensor]:
    """Corrected log-ratio of means over coordinates, and Δt."""
    mean, std = step(case, case.v_theta)
    with torch.no_grad():
        mean_old, _ = step(case, case.v_old)
    axes = tuple(range(1, mean.ndim))
    new, old = (log_prob(case.x_prev, m, std).mean(axes) for m in (mean, mean_old))
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


# ------------------------------------------------------------------------------------- forward process


def mse(a: Tensor, b: Tensor) -> Tensor:
    return functional.mse_loss(a, b, reduction="none").flatten(1).mean(1)


@correct("awm")
def weighted_squares(case: Case) -> Tensor:
    return (case.advantage * (case.v_theta - (case.noise - case.x_0)).square().flatten(1).sum(1)).mean()


@correct("awm", reduction="mean")
def weighted_mse(case: Case) -> Tensor:
    return torch.dot(case.advantage, mse(case.v_theta, case.noise - case.x_0)) / len(case.advantage)


@correct("awm", reduction="mean")
def expanded_square(case: Case) -> Tensor:
    v = case.v_theta.flatten(1)
    inner = torch.bmm(v[:, None], v[:, :, None]) - 2 * torch.bmm(v[:, None], case.v_gt.flatten(1)[:, :, None])
    return (case.advantage * inner.flatten() / v.shape[1]).mean()


@correct("awm", reduction="mean")
def detached_target_form(case: Case) -> Tensor:
    target = (case.v_theta + case.expand(case.advantage) * (case.v_gt - case.v_theta)).detach()
    return mse(case.v_theta, target).mean()


@correct("awm", reduction="mean", reference="on")
def weighted_mse_with_reference(case: Case) -> Tensor:
    pull, hold = mse(case.v_theta, case.v_gt), mse(case.v_theta, case.v_ref)
    return torch.stack([case.advantage * pull, case.kl_weight * hold]).sum(0).mean()


@correct("awm", preset="awm-official", clip_range=(0.7, 1.0))
def official_awm(case: Case) -> Tensor:
    target = (case.noise - case.x_0).double()
    log_p = -((case.v_theta.double() - target) ** 2).mean(dim=tuple(range(1, target.ndim)))
    old_log_p = -((case.v_old.double() - target) ** 2).mean(dim=tuple(range(1, target.ndim)))
    ratio = torch.exp(log_p - old_log_p.detach())
    return torch.mean(ppo(ratio, case.advantage, case))


def awm_clipped(case: Case, weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    new, old = weigh(mse(case.v_theta, case.v_gt), case.t), weigh(mse(case.v_old, case.v_gt), case.t)
    return ppo(torch.exp(old.detach() - new), case.advantage, case).mean()


@correct("awm", clip="ppo", reduction="mean", omega="t")
def clipped_awm_t(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: t * error)


@correct("awm", clip="ppo", reduction="mean", omega="t2")
def clipped_awm_t2(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: error * t * t)


@correct("awm", clip="ppo", reduction="mean", omega="huber")
def clipped_awm_huber(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: (torch.sqrt(error + 1e-10) - 1e-5) * t)


@correct("awm", clip="ppo", reduction="mean", omega="ghuber")
def clipped_awm_ghuber(case: Case) -> Tensor:
    return awm_clipped(case, lambda error, t: 4 * t * ((error + 1e-10).pow(0.25) - 1e-10**0.25))


@correct("diffusion_nft")
def as_in_the_paper(case: Case) -> Tensor:
    v_plus = (1 - case.beta) * case.v_old + case.beta * case.v_theta
    v_minus = (1 + case.beta) * case.v_old - case.beta * case.v_theta
    good, bad = ((v - case.v_gt).pow(2).flatten(1).sum(1) for v in (v_plus, v_minus))
    return (case.reward_prob * good + (1 - case.reward_prob) * bad).mean()


@correct("diffusion_nft", reduction="mean")
def by_lerp(case: Case) -> Tensor:
    v_plus = torch.lerp(case.v_old, case.v_theta, case.beta)
    v_minus = torch.lerp(case.v_old, case.v_theta, -case.beta)
    r = case.reward_prob
    return (r * mse(v_plus, case.v_gt) + (1 - r) * mse(v_minus, case.v_gt)).mean()


@correct("diffusion_nft")
def as_one_regression(case: Case) -> Tensor:
    a = case.expand(2 * case.reward_prob - 1)
    target = case.v_old + a / case.beta * (case.v_gt - case.v_old)
    return case.beta**2 * (case.v_theta - target.detach()).square().flatten(1).sum(1).mean()


def nft_adaptive(case: Case) -> Tensor:
    t = case.t.view(-1, *[1] * (case.x_0.ndim - 1))
    xt = (1 - t) * case.x_0 + t * case.noise
    old = case.v_old.detach()
    total = []
    for share, prediction in (
        (case.reward_prob, case.beta * case.v_theta + (1 - case.beta) * old),
        (1 - case.reward_prob, (1.0 + case.beta) * old - case.beta * case.v_theta),
    ):
        x0_prediction = xt - t * prediction
        with torch.no_grad():
            weight = torch.abs(x0_prediction.double() - case.x_0.double())
            weight = weight.mean(dim=tuple(range(1, weight.ndim)), keepdim=True).clip(min=0.00001)
        error = ((x0_prediction - case.x_0) ** 2 / weight).mean(dim=tuple(range(1, case.x_0.ndim)))
        total.append(share * error / case.beta)
    return total[0] + total[1]


@correct("diffusion_nft", preset="diffusion_nft-official")
def official_nft(case: Case) -> Tensor:
    adv_clip_max = 5.0
    policy_loss = (nft_adaptive(case) * adv_clip_max).mean()
    kl = ((case.v_theta - case.v_ref) ** 2).mean(dim=tuple(range(1, case.v_ref.ndim)))
    return policy_loss + adv_clip_max * torch.mean(case.kl_weight * kl)


@correct("diffusion_nft", reduction="mean", weighting="adaptive")
def adaptive(case: Case) -> Tensor:
    return nft_adaptive(case).mean()


@correct("diffusion_nft", reduction="mean", weighting="adaptive")
def adaptive_with_weights_given(case: Case) -> Tensor:
    step = case.beta * (case.v_theta - case.v_old)
    gap = case.v_old - case.v_gt
    good, bad = (gap + step).square().flatten(1).mean(1), (gap - step).square().flatten(1).mean(1)
    r = case.reward_prob
    return (case.t**2 / case.beta * (r * good / case.w_plus + (1 - r) * bad / case.w_minus)).mean()


@correct("diffusion_nft", reduction="mean", reference="on")
def nft_with_reference(case: Case) -> Tensor:
    step = case.beta * (case.v_theta - case.v_old)
    r = case.reward_prob
    loss = r * mse(case.v_old + step, case.v_gt) + (1 - r) * mse(case.v_old - step, case.v_gt)
    return torch.mean(loss) + case.kl_weight * functional.mse_loss(case.v_theta, case.v_ref)


@correct("rwr")
def weighted_regression(case: Case) -> Tensor:
    weights = torch.exp(case.reward / case.temperature)
    return (weights * (case.v_theta - case.v_gt).square().flatten(1).sum(1)).mean()


@correct("rwr", reduction="mean")
def regression_to_scaled_residuals(case: Case) -> Tensor:
    root = case.expand(torch.exp(case.reward / (2 * case.temperature)))
    return functional.mse_loss(root * case.v_theta, root * (case.noise - case.x_0))


@correct("fpo", clip_range=0.05)
def flow_policy(case: Case) -> Tensor:
    """With the two errors' difference as a product, which loses no digits near the old model."""
    step = case.v_theta - case.v_old.detach()
    log_ratio = -(step * (case.v_theta + case.v_old.detach() - 2 * case.v_gt)).flatten(1).sum(1)
    ratio = log_ratio.exp()
    return -torch.min(ratio * case.advantage, ratio.clamp(0.95, 1.05) * case.advantage).mean()


@correct("diffusion_dpo", reduction="mean", beta_dpo=0.5)
def preference_as_written_by_its_authors(case: Case) -> Tensor:
    """Their β of 1 is halved inside the sigmoid."""
    model_error = (case.v_theta - case.v_gt).pow(2).flatten(1).mean(1)
    reference_error = (case.v_ref - case.v_gt).pow(2).flatten(1).mean(1)
    own = model_error - reference_error
    difference = torch.where(case.preference > 0, own - case.partner_gap, case.partner_gap - own)
    return -functional.logsigmoid(-0.5 * 1.0 * difference).mean()


# --------------------------------------------------------------------------------------- compiled ones


def _quietly(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The compiler looks at .grad of its inputs, and torch warns where they are no leaves.

    It compiles anew for each precision and for each size of 1 (a batch, a latent), which is more than its limit.
    """
    with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=64):
        warnings.simplefilter("ignore")
        return function(*inputs)


def _flow_loss(
    v: Tensor, v_old: Tensor, x: Tensor, x_prev: Tensor, t: Tensor, dt: Tensor, advantage: Tensor, level: Tensor
) -> Tensor:
    t, dt = column(t, v), column(dt, v)
    variance = level**2 * t / (1 - t)
    gain, offset = dt * (1 + variance * (1 - t) / (2 * t)), x * (1 - variance * dt / (2 * t))
    new, old = ((x_prev - offset + gain * u) ** 2 for u in (v, v_old))
    ratio = torch.exp(((old - new) / (2 * variance * dt)).flatten(1).mean(1))
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()


_compiled_flow_loss = torch.compile(_flow_loss, backend="aot_eager", dynamic=True)


@correct("flow_grpo", clip_range=0.2, **MEAN)
def compiled(case: Case) -> Tensor:
    level = torch.as_tensor(case.noise_level, dtype=case.t.dtype)
    inputs = (case.v_theta, case.v_old, case.x_t, case.x_prev, case.t, case.dt, case.advantage, level)
    return _quietly(_compiled_flow_loss, *(x.flatten(1) if x.ndim > 1 else x for x in inputs))


def _nft_loss(v: Tensor, v_old: Tensor, v_gt: Tensor, r: Tensor, beta: Tensor) -> Tensor:
    step = beta * (v - v_old)
    good, bad = ((v_old + s * step - v_gt).square().flatten(1).sum(1) for s in (1, -1))
    return (r * good + (1 - r) * bad).mean()


_compiled_nft_loss = torch.compile(_nft_loss, backend="aot_eager", dynamic=True)


@correct("diffusion_nft")
def compiled_contrast(case: Case) -> Tensor:
    beta = torch.as_tensor(case.beta, dtype=case.v_gt.dtype)
    latents = (x.flatten(1) for x in (case.v_theta, case.v_old, case.v_gt))
    return _quietly(_compiled_nft_loss, *latents, case.reward_prob, beta)


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
