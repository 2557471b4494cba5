"""Flow-GRPO with trouble at the edges of time, in its precision, its state and its graph."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Mutant, mutant
from .steps import MEAN, judged_with, log_density, log_ratio_of, ppo, sde_step, step_with_log_prob


@mutant("flow_grpo", fails="edge-times", because="edge-times", **MEAN)
def sigma_clamped_near_noise(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t).clamp(min=0.02))

    def mean(v: Tensor) -> Tensor:
        return case.x_t - (v + sigma**2 / (2 * t) * (case.x_t + (1 - t) * v)) * dt

    return judged_with(case, mean(case.v_theta), mean(case.v_old), sigma * dt.sqrt())


@mutant("flow_grpo", fails="edge-times", because="edge-times", **MEAN)
def last_step_is_deterministic(case: Case) -> Tensor:
    loss = ppo(log_ratio_of(case).exp(), case.advantage, case)
    return torch.where(case.t < 0.02, 0.0, loss).mean()


@mutant("flow_grpo", fails="precision", because="half-precision", **MEAN)
def log_prob_in_bfloat16(case: Case) -> Tensor:
    def log_prob(v: Tensor) -> Tensor:
        mean, std = sde_step(case, v)
        return log_density(case.x_prev.bfloat16(), mean.bfloat16(), std.bfloat16()).flatten(1).mean(1).to(v.dtype)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old).detach())
    return ppo(ratio, case.advantage, case).mean()


@mutant("flow_grpo", fails="on-policy", because="half-precision", **MEAN)
def replayed_on_bfloat16_samples(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    x_prev = case.x_prev.to(torch.bfloat16).to(mean.dtype)  # as the rollout stored it
    log_prob = log_density(x_prev, mean, std).flatten(1).mean(1)
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
    density = log_density(case.x_prev, mean, std).flatten(1).sum(1).exp()
    old_density = log_density(case.x_prev, mean_old, std).flatten(1).sum(1).exp()
    return ppo(density / old_density.detach(), case.advantage, case).mean()


@mutant("flow_grpo", fails="finite", because="overflow", noise_level=1e-6)
def where_over_an_overflowing_branch(case: Case) -> Tensor:
    mean, std = sde_step(case, case.v_theta)
    mean_old, _ = sde_step(case, case.v_old)
    log_prob = log_density(case.x_prev, mean, std).flatten(1).sum(1)
    old_log_prob = log_density(case.x_prev, mean_old, std).flatten(1).sum(1).detach()
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
    x_prev = (mean_old + std * torch.randn(mean_old.shape, generator=_GENERATOR).to(mean_old)).detach()
    log_ratio = log_density(x_prev, mean, std) - log_density(x_prev, mean_old, std).detach()
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
