"""Right losses on reverse steps as trainers have them: classes, closures, chunks, casts, records, distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional

from gradcheck.case import Case

from .base import Correct, correct
from .steps import MEAN, column, cps_step, dance_step, flow_step, log_density, mean_log_ratio, ppo, score_step


def tensors(case: Case) -> list[str]:
    return [n for n in case.names if isinstance(getattr(case, n), Tensor) and getattr(case, n).is_floating_point()]


def rows(case: Case, some: slice) -> Case:
    """Some samples, as a chunk of a trainer's batch."""
    names = [n for n in case.names if isinstance(getattr(case, n), Tensor) and n != "sigmas"]
    return case.replace(**{n: getattr(case, n)[some] for n in names})


def flow_loss(case: Case) -> Tensor:
    return ppo(mean_log_ratio(case, flow_step).exp(), case.advantage, case)


# --------------------------------------------------------------------------------------------- structure


class Scheduler:
    """A step with memory of its last standard deviation."""

    def __init__(self, noise_level: float) -> None:
        self.noise_level, self.std = noise_level, torch.zeros(())

    def step(self, velocity: Tensor, sample: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        sigma, dt = column(sigma, sample), column(sigma_next - sigma, sample)
        std_dev = self.noise_level * (sigma / (1 - sigma)).sqrt()
        self.std = std_dev * (-dt).sqrt()
        drift = velocity + std_dev**2 / (2 * sigma) * (sample + (1 - sigma) * velocity)
        return sample + drift * dt

    def log_prob(self, sample: Tensor, mean: Tensor) -> Tensor:
        return log_density(sample, mean, self.std).flatten(1).mean(1)


@correct("flow_grpo", **MEAN)
def scheduler_object(case: Case) -> Tensor:
    scheduler = Scheduler(case.noise_level)
    steps = [scheduler.step(v, case.x_t, case.t, case.t_prev) for v in (case.v_theta, case.v_old.detach())]
    new, old = (scheduler.log_prob(case.x_prev, mean) for mean in steps)
    return ppo(torch.exp(new - old), case.advantage, case).mean()


@dataclass
class Policy:
    """A Gaussian, made lazily."""

    mean: Tensor
    std: Tensor

    @property
    def distribution(self) -> Independent:
        return Independent(Normal(self.mean, self.std.expand_as(self.mean)), self.mean.ndim - 1)

    def log_ratio(self, other: Policy, x: Tensor) -> Tensor:
        return self.distribution.log_prob(x) - other.distribution.log_prob(x).detach()


@correct("flow_grpo")
def policy_dataclass(case: Case) -> Tensor:
    policy, old = (Policy(*score_step(case, v)) for v in (case.v_theta, case.v_old))
    return ppo(policy.log_ratio(old, case.x_prev).exp(), case.advantage, case).mean()


class PPOLoss(nn.Module):
    """With submodules for the pieces."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.clip = nn.Hardtanh(1 - low, 1 + high)

    def forward(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        return -torch.minimum(ratio * advantage, self.clip(ratio) * advantage)


@correct("flow_grpo", **MEAN)
def module_of_modules(case: Case) -> Tensor:
    loss = PPOLoss(case.clip_low, case.clip_high)
    return loss(mean_log_ratio(case, flow_step).exp(), case.advantage).mean()


@correct("flow_grpo", **MEAN)
def closures_and_partials(case: Case) -> Tensor:
    log_prob: Callable[[Tensor], Tensor] = partial(_mean_log_prob, case)
    terms = [log_prob(case.v_theta), log_prob(case.v_old).detach()]
    ratio = torch.exp(reduce(torch.sub, terms))
    return ppo(ratio, case.advantage, case).mean()


def _mean_log_prob(case: Case, v: Tensor) -> Tensor:
    return log_density(case.x_prev, *flow_step(case, v)).flatten(1).mean(1)


@correct("flow_grpo", **MEAN)
def chunks_of_two(case: Case) -> Tensor:
    batch = len(case.v_theta)
    parts = [flow_loss(rows(case, slice(i, i + 2))).sum() for i in range(0, batch, 2)]
    return torch.stack(parts).sum() / batch


@correct("flow_grpo", **MEAN)
def gradients_accumulated_by_weights(case: Case) -> Tensor:
    """The mean of micro-batches' means, each by its size."""
    batch = len(case.v_theta)
    halves = [part for part in (slice(0, batch // 2), slice(batch // 2, batch)) if part.start < part.stop]
    return reduce(torch.add, [flow_loss(rows(case, p)).mean() * ((p.stop - p.start) / batch) for p in halves])


@correct("flow_grpo", batch_reduction="sum", **MEAN)
def generator_of_samples(case: Case) -> Tensor:
    every = (flow_loss(rows(case, slice(i, i + 1))) for i in range(len(case.v_theta)))
    return sum(loss.sum() for loss in every)  # type: ignore[return-value]


@correct("flow_grpo", **MEAN)
def positives_and_negatives_apart(case: Case) -> Tensor:
    ratio, a = mean_log_ratio(case, flow_step).exp(), case.advantage
    good = torch.clamp(a, min=0) * torch.clamp(ratio, max=1 + case.clip_high)
    bad = torch.clamp(a, max=0) * torch.clamp(ratio, min=1 - case.clip_low)
    return -(good + bad).mean()


@correct("flow_grpo", **MEAN)
def clip_by_relu(case: Case) -> Tensor:
    ratio, a = mean_log_ratio(case, flow_step).exp(), case.advantage
    over = functional.relu(ratio - (1 + case.clip_high)) * functional.relu(a)
    under = functional.relu((1 - case.clip_low) - ratio) * functional.relu(-a)
    return (-a * ratio + over + under).mean()


@correct("flow_grpo", **MEAN)
def clip_between_tensors(case: Case) -> Tensor:
    ratio = mean_log_ratio(case, flow_step).exp()
    low, high = torch.full_like(ratio, 1 - case.clip_low), torch.full_like(ratio, 1 + case.clip_high)
    bounded = torch.where(ratio < low, low, torch.where(ratio > high, high, ratio))
    return torch.fmax(-case.advantage * ratio, -case.advantage * bounded).mean()


# -------------------------------------------------------------------------------------------- log-densities


@correct("flow_grpo", **MEAN)
def gaussian_nll(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    nll = partial(functional.gaussian_nll_loss, full=True, reduction="none", eps=1e-30)
    new, old = (-nll(m, case.x_prev, (std**2).expand_as(m)).flatten(1).mean(1) for m in (mean, mean_old.detach()))
    return ppo(torch.exp(new - old), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def mse_over_the_variance(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    errors = [functional.mse_loss(m, case.x_prev, reduction="none").flatten(1).mean(1) for m in (mean, mean_old)]
    return ppo(torch.exp((errors[1].detach() - errors[0]) / (2 * std.flatten() ** 2)), case.advantage, case).mean()


@correct("flow_grpo")
def distances_of_samples(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    new, old = (torch.linalg.vector_norm((case.x_prev - m).flatten(1), dim=1) ** 2 for m in (mean, mean_old))
    return ppo(torch.exp((old.detach() - new) / (2 * std.flatten() ** 2)), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def noise_read_back(case: Case) -> Tensor:
    """The noise that would have made the sampled state, under each model."""
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    new, old = ((case.x_prev - m) / std for m in (mean, mean_old.detach()))
    return ppo(torch.exp(((old**2 - new**2) / 2).flatten(1).mean(1)), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def stored_log_prob(case: Case) -> Tensor:
    mean, std = score_step(case, case.v_theta)
    log_prob = Normal(mean, std).log_prob(case.x_prev).mean(dim=tuple(range(1, mean.ndim)))
    return ppo((log_prob - case.log_prob_old).exp(), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def einsum_of_scaled_errors(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (dance_like(case, v) for v in (case.v_theta, case.v_old))
    new, old = (((case.x_prev - m) / std).flatten(1) for m in (mean, mean_old))
    log_ratio = torch.einsum("bd,bd->b", old - new, old + new) / (2 * new.shape[1])
    return ppo(log_ratio.exp(), case.advantage, case).mean()


def dance_like(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    """Flow-SDE: the Euler step, then the score's term."""
    sigma, dt = column(case.t, v), column(case.dt, v)
    std = case.noise_level * torch.sqrt(sigma) / torch.sqrt(1 - sigma)
    mean = torch.sub(case.x_t, dt * v)
    return torch.addcmul(mean, case.x_t + (1 - sigma) * v, -dt * std**2 / (2 * sigma)), std * torch.sqrt(dt)


@correct("flow_grpo", sde="dance", **MEAN)
def dance_by_matmul(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (dance_step(case, v) for v in (case.v_theta, case.v_old))
    new, old = ((case.x_prev - m).flatten(1) for m in (mean, mean_old))
    squares = [torch.bmm(x[:, None], x[:, :, None]).flatten() for x in (new, old)]
    return ppo(torch.exp((squares[1] - squares[0]) / (2 * std.flatten() ** 2 * case.D)), case.advantage, case).mean()


@correct("flow_grpo", sde="wan", kl="step", **MEAN)
def wan_with_its_divergence(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.t - case.t_prev)
    sigma = torch.lerp(torch.full_like(t, case.sigma_min), torch.full_like(t, case.noise_level), t)
    variance = sigma**2 * dt

    def mean(v: Tensor) -> Tensor:
        return case.x_t - dt * (v + sigma**2 / (2 * t) * (case.x_t + (1 - t) * v))

    new, old, ref = mean(case.v_theta), mean(case.v_old).detach(), mean(case.v_ref).detach()
    log_ratio = (((case.x_prev - old) ** 2 - (case.x_prev - new) ** 2) / (2 * variance)).flatten(1).mean(1)
    kl = ((new - ref) ** 2 / (2 * variance)).flatten(1).mean(1)
    return (ppo(log_ratio.exp(), case.advantage, case) + case.kl_weight * kl).mean()


@correct("flow_grpo", sde="cps", log_prob_scale="unit", **MEAN)
def cps_in_one_product(case: Case) -> Tensor:
    (mean, _), (mean_old, _) = (cps_step(case, v) for v in (case.v_theta, case.v_old.detach()))
    log_ratio = ((mean - mean_old) * (2 * case.x_prev - mean - mean_old)).flatten(1).mean(1)
    return ppo(log_ratio.exp(), case.advantage, case).mean()


@correct("flow_grpo", kl="step", **MEAN)
def divergence_of_distributions(case: Case) -> Tensor:
    (mean, std), (mean_ref, _) = (flow_step(case, v) for v in (case.v_theta, case.v_ref))
    kl = kl_divergence(Normal(mean, std), Normal(mean_ref.detach(), std)).flatten(1).mean(1)
    return (flow_loss(case) + case.kl_weight * kl).mean()


@correct("flow_grpo", kl="step", policy_factor=4.0, **MEAN)
def policy_term_times_four(case: Case) -> Tensor:
    (mean, std), (mean_ref, _) = (flow_step(case, v) for v in (case.v_theta, case.v_ref))
    kl = (((mean - mean_ref.detach()) / std) ** 2 / 2).flatten(1).mean(1)
    return 4 * flow_loss(case).mean() + case.kl_weight * kl.mean()


# ---------------------------------------------------------------------------------------------- small numbers


@correct("flow_grpo", eps=1e-8, **MEAN)
def guarded_standard_deviation(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    new, old = (log_density(case.x_prev, m, std + 1e-8).flatten(1).mean(1) for m in (mean, mean_old.detach()))
    return ppo(torch.exp(new - old), case.advantage, case).mean()


@correct("grpo_guard", eps=1e-10, **MEAN)
def guarded_variance(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old.detach()))
    shift = (case.x_prev - mean_old) ** 2 - (case.x_prev - mean) ** 2 + (mean - mean_old) ** 2
    log_ratio = (shift / (2 * std**2 + 1e-10)).flatten(1).mean(1) * std.flatten()
    return (ppo(log_ratio.exp(), case.advantage, case) / case.dt).mean()


@correct("ddpo", eps=1e-8, **MEAN)
def guarded_ddim(case: Case) -> Tensor:
    a, b = case.expand(case.alpha_bar), case.expand(case.alpha_bar_prev)
    std = case.noise_level * torch.sqrt((1 - b) / (1 - a) * (1 - a / b))

    def log_prob(v: Tensor) -> Tensor:
        x_0, noise = a.sqrt() * case.x_t - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * case.x_t
        mean = b.sqrt() * x_0 + (1 - b - std**2).sqrt() * noise
        return (-((case.x_prev - mean) ** 2) / (2 * (std**2 + 1e-8))).flatten(1).mean(1)

    return ppo(torch.exp(log_prob(case.v_theta) - log_prob(case.v_old)), case.advantage, case).mean()


# ------------------------------------------------------------------------------------------ times and precision


@correct("flow_grpo", **MEAN)
def time_that_rises(case: Case) -> Tensor:
    """Inside, 0 is noise and 1 is data: t − t_prev comes out as (1 − t_prev) − (1 − t)."""
    s, s_next = 1 - case.t, 1 - case.t_prev
    t, dt = column(1 - s, case.x_t), column(s_next - s, case.x_t)
    sigma = case.noise_level * torch.sqrt((1 - column(s, case.x_t)) / column(s, case.x_t))
    keep, gain = 1 - sigma**2 * dt / (2 * t), dt * (1 + sigma**2 * (1 - t) / (2 * t))
    new, old = (
        log_density(case.x_prev, case.x_t * keep - v * gain, sigma * dt.sqrt()) for v in (case.v_theta, case.v_old)
    )
    return ppo(torch.exp((new - old.detach()).flatten(1).mean(1)), case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def times_in_thousands(case: Case) -> Tensor:
    sigma = case.timestep / 1000.0
    own = case.replace(t=sigma, dt=sigma - case.t_prev)
    return ppo(mean_log_ratio(own, score_step).exp(), case.advantage, case).mean()


@correct("grpo_guard", **MEAN)
def guard_in_rising_time(case: Case) -> Tensor:
    s = 1 - case.t
    dt = (1 - case.t_prev) - s
    own = case.replace(t=1 - s, dt=dt)
    (mean, std), (mean_old, _) = (flow_step_of(own, v) for v in (case.v_theta, case.v_old.detach()))
    inner = ((mean - mean_old) * (case.x_prev - mean_old) / std).flatten(1).mean(1)
    return (ppo(inner.exp(), case.advantage, case) / dt).mean()


def flow_step_of(case: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    t, dt = column(case.t, v), column(case.dt, v)
    sigma = case.noise_level * torch.rsqrt((1 - t) / t)
    return case.x_t - dt * (v + sigma**2 / (2 * t) * (case.x_t + (1 - t) * v)), sigma * dt.sqrt()


def single(case: Case) -> Case:
    return case.replace(**{n: getattr(case, n).float() for n in tensors(case)})


@correct("flow_grpo", working_dtype="float32", clip_range=1e-4, **MEAN)
def float32_with_the_official_clip(case: Case) -> Tensor:
    return flow_loss(single(case)).mean()


@correct("grpo_guard", working_dtype="float32", clip_range=2e-6, **MEAN)
def float32_guard_with_the_official_clip(case: Case) -> Tensor:
    own = single(case)
    (mean, std), (mean_old, _) = (flow_step(own, v) for v in (own.v_theta, own.v_old.detach()))
    new, old = (log_density(own.x_prev, m, std).flatten(1).mean(1) for m in (mean, mean_old))
    bias = ((mean - mean_old) ** 2 / (2 * std**2)).flatten(1).mean(1)
    return (ppo(torch.exp((new - old + bias) * std.flatten()), own.advantage, own) / own.dt).mean()


@correct("awm", working_dtype="float32", clip="ppo", reduction="mean", clip_range=1.0)
def float32_awm(case: Case) -> Tensor:
    own = single(case)
    new, old = ((v - own.v_gt).square().flatten(1).mean(1) for v in (own.v_theta, own.v_old))
    return ppo(torch.exp(old.detach() - new), own.advantage, own).mean()


@correct("flow_grpo", **MEAN)
def float64_inside(case: Case) -> Tensor:
    double = case.replace(**{n: getattr(case, n).double() for n in tensors(case)})
    return flow_loss(double).mean().to(case.v_theta.dtype)


# ------------------------------------------------------------------------------------- other losses and modes


@correct("grpo_guard", **MEAN)
def guard_class(case: Case) -> Tensor:
    class Ratio(nn.Module):
        def forward(self, mean: Tensor, mean_old: Tensor, std: Tensor) -> Tensor:
            new, old = (Normal(m, std).log_prob(case.x_prev).flatten(1).mean(1) for m in (mean, mean_old))
            bias = kl_divergence(Normal(mean_old, std), Normal(mean, std)).flatten(1).mean(1)
            return torch.exp((new - old + bias) * std.flatten())

    (mean, std), (mean_old, _) = (score_step(case, v) for v in (case.v_theta, case.v_old.detach()))
    return (ppo(Ratio()(mean, mean_old, std), case.advantage, case) / case.dt).mean()


@correct("flow_dppo", **MEAN)
def mask_as_weights(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = (flow_step(case, v) for v in (case.v_theta, case.v_old))
    ratio = mean_log_ratio(case, flow_step).exp()
    apart = functional.mse_loss(mean, mean_old, reduction="none").flatten(1).mean(1) / (2 * std.flatten() ** 2)
    outwards = case.advantage * (ratio - 1) > 0
    weights = 1 - (outwards & (apart > case.divergence_max)).to(ratio)
    return -(case.advantage * weights.detach() * ratio).mean()


@correct("ddpo", **MEAN)
def ddpo_by_independent(case: Case) -> Tensor:
    a, b = (column(x, case.x_t) for x in (case.alpha_bar, case.alpha_bar_prev))
    std = case.noise_level * ((1 - b) / (1 - a)).sqrt() * (1 - a / b).sqrt()

    def policy(v: Tensor) -> Independent:
        x_0, noise = a**0.5 * case.x_t - (1 - a) ** 0.5 * v, a**0.5 * v + (1 - a) ** 0.5 * case.x_t
        mean = torch.addcmul(b**0.5 * x_0, (1 - b - std**2) ** 0.5, noise)
        return Independent(Normal(mean, std.expand_as(mean)), mean.ndim - 1)

    log_ratio = policy(case.v_theta).log_prob(case.x_prev) - policy(case.v_old.detach()).log_prob(case.x_prev)
    return ppo(torch.exp(log_ratio / case.D), case.advantage, case).mean()


@correct("flow_grpo", batch_reduction="none", factor=2.0, **MEAN)
def twice_per_sample(case: Case) -> Tensor:
    return 2 * flow_loss(case)


@correct("flow_grpo", **MEAN)
def gradient_of_the_log_prob_given(case: Case) -> Tensor:
    """sg(m r A)·log p in the surrogate's place."""
    log_ratio = mean_log_ratio(case, flow_step)
    ratio, a = log_ratio.exp().detach(), case.advantage
    off = ((a > 0) & (ratio > 1 + case.clip_high)) | ((a < 0) & (ratio < 1 - case.clip_low))
    return -(torch.where(off, 0.0, ratio * a) * log_ratio).mean()


@correct("flow_grpo", **MEAN)
def square_to_the_step_against_noise(case: Case) -> Tensor:
    """½‖v − sg(v − A m r k (ε + kδ)/D)‖²."""
    k, delta = case.expand(case.C1 / case.C2), case.v_theta - case.v_old
    log_ratio = -(k * delta * case.noise + (k * delta) ** 2 / 2).flatten(1).mean(1)
    ratio, a = log_ratio.exp(), case.advantage
    off = ((a > 0) & (ratio > 1 + case.clip_high)) | ((a < 0) & (ratio < 1 - case.clip_low))
    pull = case.expand(torch.where(off, 0.0, a * ratio)) * k * (case.noise + k * delta) / case.D
    target = (case.v_theta - pull).detach()
    return ((case.v_theta - target) ** 2).flatten(1).sum(1).mean() / 2


@correct("flow_grpo", inputs_detached=False, **MEAN)
def no_grad_around_what_is_old(case: Case) -> Tensor:
    x_t, x_prev = case.x_t.detach(), case.x_prev.detach()
    own = case.replace(x_t=x_t, x_prev=x_prev)
    mean, std = flow_step(own, case.v_theta)
    with torch.no_grad():
        old = log_density(x_prev, *flow_step(own, case.v_old)).flatten(1).mean(1)
    ratio = torch.exp(log_density(x_prev, mean, std).flatten(1).mean(1) - old)
    return ppo(ratio, case.advantage, case).mean()  # the advantage is data


@correct("flow_grpo", **MEAN)
def exponential_guarded_from_above(case: Case) -> Tensor:
    log_ratio = mean_log_ratio(case, score_step)
    ratio = torch.exp(torch.clamp(log_ratio, max=math.log(torch.finfo(log_ratio.dtype).max) - 1))
    return ppo(ratio, case.advantage, case).mean()


@correct("flow_grpo", **MEAN)
def dictionary_of_metrics(case: Case) -> Tensor:
    log_ratio = mean_log_ratio(case, flow_step)
    ratio = log_ratio.exp()
    metrics = {
        "approx_kl": 0.5 * (log_ratio.detach() ** 2).mean(),
        "clipfrac": ((ratio - 1).abs() > case.clip_high).float().mean(),
        "loss": ppo(ratio, case.advantage, case).mean(),
    }
    return metrics["loss"]


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
