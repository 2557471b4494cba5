"""Losses that are right on ordinary problems, and wrong in one regime: large sizes, ratios, margins, equal inputs …

Each takes a right loss and spoils it in that regime alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .steps import MEAN, flow_step, log_density, mean_log_ratio, ppo

Loss = Callable[[Case], Tensor]


@dataclass(frozen=True)
class Spoilt:
    """A wrong loss: its algorithm, the obligation that must fail, and what it declares."""

    name: str
    algorithm: str
    obligation: str
    function: Loss
    declared: dict[str, Any] = field(default_factory=dict)


def mse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).flatten(1).mean(1)


# ------------------------------------------------------------------------------------------ right losses, per sample


def squares(case: Case) -> Tensor:
    return case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)


def surrogate(case: Case, change: Callable[[Tensor], Tensor] = lambda log_ratio: log_ratio) -> Tensor:
    return ppo(torch.exp(change(mean_log_ratio(case, flow_step))), case.advantage, case)


def matching_ratio(case: Case, change: Callable[[Tensor], Tensor] = lambda log_ratio: log_ratio) -> Tensor:
    return ppo(torch.exp(change(mse(case.v_old, case.v_gt) - mse(case.v_theta, case.v_gt))), case.advantage, case)


def preference_margin(case: Case) -> Tensor:
    own = mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt)
    return case.beta_dpo * case.preference * (own - case.partner_gap)


def group_margin(case: Case) -> Tensor:
    own = mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt)
    return case.beta_dpo * (case.advantage * own + case.group_gap)


def contrast(case: Case) -> Tensor:
    step, r = case.beta * (case.v_theta - case.v_old), case.reward_prob
    return r * mse(case.v_old + step, case.v_gt) + (1 - r) * mse(case.v_old - step, case.v_gt)


def held(case: Case) -> Tensor:
    return surrogate(case) + case.kl_weight * step_divergence(case)


def step_divergence(case: Case) -> Tensor:
    (mean, std), (mean_ref, _) = flow_step(case, case.v_theta), flow_step(case, case.v_ref)
    return ((mean - mean_ref) ** 2 / (2 * std**2)).flatten(1).sum(1)


# ------------------------------------------------------------------------------------------------------ ways to spoil


def chunks_averaged(n: int) -> Callable[[Tensor], Tensor]:
    return lambda loss: torch.stack([c.mean() for c in loss.split(n)]).mean()


def whole_chunks(n: int) -> Callable[[Tensor], Tensor]:
    return lambda loss: loss[: max(len(loss) // n, 1) * n].sum() / len(loss)


def larger_than(n: int, factor: float) -> Loss:
    return lambda case: squares(case).mean() * (factor if case.v_theta[0].numel() > n else 1)


def rank_larger_than(rank: int, n: int) -> Loss:
    def loss(case: Case) -> Tensor:
        big = case.v_theta.ndim == rank and case.v_theta[0].numel() > n
        return squares(case).mean() * (0.5 if big else 1)

    return loss


def tail_dropped(n: int) -> Loss:
    """Coordinates from the n-th on are left out, as where a buffer is full."""
    return lambda case: (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1)[:, :n].sum(1)).mean()


def dual(limit: float) -> Loss:
    def loss(case: Case) -> Tensor:
        found = surrogate(case)
        return torch.where(case.advantage < 0, torch.minimum(found, -limit * case.advantage), found).mean()

    return loss


def where(condition: Callable[[Case], Tensor], per_sample: Loss) -> Loss:
    """Without the samples of which something holds."""
    return lambda case: torch.where(condition(case), 0.0, per_sample(case)).mean()


def problem(condition: Callable[[Case], bool], per_sample: Loss) -> Loss:
    """Twice as much on problems of which something holds."""
    return lambda case: per_sample(case).mean() * (2 if condition(case) else 1)


def mean_of_chosen(per_sample: Loss, chosen: Callable[[Case], Tensor]) -> Loss:
    """The mean over some, NaN where there are none, and the rest, put together."""

    def loss(case: Case) -> Tensor:
        which = chosen(case).to(case.advantage.dtype)
        found = per_sample(case)
        return (found * which).sum() / which.sum() * which.mean() + (found * (1 - which)).mean()

    return loss


def root_distance(case: Case) -> Tensor:
    """½ k² d², with the distance itself taken first: its slope is 0/0 where both models are one."""
    (mean, std), (mean_ref, _) = flow_step(case, case.v_theta), flow_step(case, case.v_ref)
    distance = ((mean - mean_ref) ** 2 / (2 * std**2)).flatten(1).sum(1).sqrt()
    return (surrogate_sum(case) + case.kl_weight * distance**2).mean()


def surrogate_sum(case: Case) -> Tensor:
    (mean, std), (mean_old, _) = flow_step(case, case.v_theta), flow_step(case, case.v_old)
    logs = [log_density(case.x_prev, m, std).flatten(1).sum(1) for m in (mean, mean_old.detach())]
    return ppo(torch.exp(logs[0] - logs[1]), case.advantage, case)


def leaky_clip(case: Case) -> Tensor:
    ratio = torch.exp(mean_log_ratio(case, flow_step))
    leaky = torch.where((ratio - 1).abs() > 0.2, 1 + 0.01 * (ratio - 1), ratio)
    return torch.maximum(-case.advantage * ratio, -case.advantage * leaky).mean()


def distinct_times(case: Case) -> Tensor:
    """Each time's mean, averaged over the times: right where they all differ."""
    loss = surrogate(case)
    return torch.stack([loss[case.t == t].mean() for t in case.t.unique()]).mean()


def looked_up(case: Case) -> Tensor:
    """The last sample of a time gets the gradient of all that share it."""
    loss, place = surrogate(case), {float(t): i for i, t in enumerate(case.t)}
    return loss[[place[float(t)] for t in case.t]].mean()


def level_clamped(low: float, high: float) -> Loss:
    return lambda case: surrogate(case.replace(noise_level=min(max(case.noise_level, low), high))).mean()


def banded(low: float, high: float) -> Callable[[Case], Tensor]:
    return lambda case: (case.t > low) & (case.t < high)


CLIPPED = {**MEAN, "clip_range": 0.2}
AWM = {"clip": "ppo", "reduction": "mean", "clip_range": 0.2}
DPO = {"reduction": "mean"}


def _regimes() -> list[Spoilt]:
    found: list[Spoilt] = []

    def add(name: str, algorithm: str, obligation: str, function: Loss, **declared: Any) -> None:
        found.append(Spoilt(name, algorithm, obligation, function, declared))

    for n in (6, 7, 8, 12, 16, 32, 64, 100, 128):
        for how, spoil in (("averaged", chunks_averaged(n)), ("whole", whole_chunks(n))):
            add(f"chunks of {n}, {how}", "awm", "shapes", lambda c, s=spoil: s(squares(c)))
    for n in (256, 1000, 4096, 10_000, 16_384, 30_000):
        add(f"a factor beyond {n} numbers", "awm", "shapes", larger_than(n, 2.0))
    for n in (256, 1024, 16_384):
        add(f"numbers after {n} left out", "awm", "shapes", tail_dropped(n))
    for rank in (2, 3, 4, 5):
        add(f"large latents of {rank - 1} axes", "awm", "shapes", rank_larger_than(rank, 1000))
    for limit in (2.8, 3.0, 5.0, 10.0, 20.0):
        add(f"a dual clip at {limit}", "flow_grpo", "clip", dual(limit), **CLIPPED)
        cap = math.log(limit)
        add(
            f"ratios capped at {limit}",
            "flow_grpo",
            "clip",
            lambda c, m=cap: surrogate(c, lambda x: x.clamp(max=m)).mean(),
            **CLIPPED,
        )
        add(
            f"ratios capped at {limit}, matching",
            "awm",
            "clip",
            lambda c, m=cap: matching_ratio(c, lambda x: x.clamp(max=m)).mean(),
            **AWM,
        )
    for size in (3.0, 5.0, 10.0, 20.0):
        add(
            f"log-ratios clamped at {size}",
            "flow_grpo",
            "clip",
            lambda c, m=size: surrogate(c, lambda x: x.clamp(-m, m)).mean(),
            **CLIPPED,
        )
        add(
            f"log-ratios clamped at {size}, matching",
            "awm",
            "clip",
            lambda c, m=size: matching_ratio(c, lambda x: x.clamp(-m, m)).mean(),
            **AWM,
        )
        add(
            f"small ratios floored at e^-{size}",
            "flow_grpo",
            "clip",
            lambda c, m=size: surrogate(c, lambda x: x.clamp(min=-m)).mean(),
            **CLIPPED,
        )
    add("a leaky clip", "flow_grpo", "clip", leaky_clip, **CLIPPED)
    add(
        "log(sigmoid)",
        "diffusion_dpo",
        "finite",
        lambda c: -torch.log(torch.sigmoid(-preference_margin(c))).mean(),
        **DPO,
    )
    add("log(1 + exp)", "diffusion_dpo", "finite", lambda c: torch.log1p(torch.exp(preference_margin(c))).mean(), **DPO)
    add("log(sigmoid), groups", "dgpo", "finite", lambda c: -torch.log(torch.sigmoid(-group_margin(c))).mean(), **DPO)
    add("log(1 + exp), groups", "dgpo", "finite", lambda c: torch.log1p(torch.exp(group_margin(c))).mean(), **DPO)
    for most in (10.0, 20.0, 50.0, 100.0):
        add(
            f"margins clamped at {most}",
            "diffusion_dpo",
            "gradient",
            lambda c, m=most: functional.softplus(preference_margin(c).clamp(-m, m)).mean(),
            **DPO,
        )
        add(
            f"margins clamped at {most}, groups",
            "dgpo",
            "gradient",
            lambda c, m=most: functional.softplus(group_margin(c).clamp(-m, m)).mean(),
            **DPO,
        )
    add(
        "log(sigmoid + 1e-8)",
        "diffusion_dpo",
        "gradient",
        lambda c: -torch.log(torch.sigmoid(-preference_margin(c)) + 1e-8).mean(),
        **DPO,
    )
    for high in (5.0, 15.0, 60.0):
        add(
            f"exponents clamped at {high}",
            "rwr",
            "gradient",
            lambda c, m=high: (torch.exp((c.reward / c.temperature).clamp(-m, m)) * mse(c.v_theta, c.v_gt)).mean(),
            **DPO,
        )
    add(
        "weights of at least 1e-6",
        "rwr",
        "gradient",
        lambda c: (torch.exp(c.reward / c.temperature).clamp(min=1e-6) * mse(c.v_theta, c.v_gt)).mean(),
        **DPO,
    )
    add(
        "rewards less their maximum",
        "rwr",
        "gradient",
        lambda c: (
            torch.exp((c.reward - c.reward.max()) / c.temperature)
            * math.e ** min(float(c.reward.max() / c.temperature), 20)
            * mse(c.v_theta, c.v_gt)
        ).mean(),
        **DPO,
    )
    add("a mean over good samples", "awm", "gradient", mean_of_chosen(squares, lambda c: c.advantage > 0))
    add("a mean over bad samples", "awm", "gradient", mean_of_chosen(squares, lambda c: c.advantage < 0))
    add("small advantages dropped", "awm", "gradient", where(lambda c: c.advantage.abs() < 1e-6, squares))
    add(
        "advantages of at most 100",
        "awm",
        "gradient",
        lambda c: squares(c.replace(advantage=c.advantage.clamp(-100, 100))).mean(),
    )
    add("advantages of 1 as flags", "awm", "gradient", where(lambda c: c.advantage == 1, squares))
    add(
        "equal advantages skipped",
        "awm",
        "gradient",
        problem(lambda c: len(c.advantage) > 1 and c.advantage.unique().numel() == 1, squares),
    )
    add(
        "good probabilities of 1 - 1e-9 dropped",
        "diffusion_nft",
        "gradient",
        where(lambda c: ((c.reward_prob - 0.5).abs() < 1e-6) & (c.reward_prob != 0.5), contrast),
        **DPO,
    )
    add("a mean over each time", "flow_grpo", "gradient", distinct_times, **CLIPPED)
    add("samples looked up by their time", "flow_grpo", "gradient", looked_up, **CLIPPED)
    add("noise levels of at least 0.05", "flow_grpo", "gradient", level_clamped(0.05, 1.0), **CLIPPED)
    add("noise levels of at most 0.95", "flow_grpo", "gradient", level_clamped(0.0, 0.95), **CLIPPED)
    for low, high in ((0.01, 0.05), (0.95, 0.99), (0.01, 0.04), (0.96, 0.99)):
        add(
            f"no loss for t from {low} to {high}",
            "flow_grpo",
            "gradient",
            where(banded(low, high), surrogate),
            **CLIPPED,
        )
    add("a root of the divergence", "flow_grpo", "kl", root_distance, kl="step", clip_range=0.2)
    return found


SPOILT: tuple[Spoilt, ...] = tuple(_regimes())
"""All of them."""
