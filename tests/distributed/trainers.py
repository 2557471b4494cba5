"""Trainers as people write them: right ones, and one for each mistake; the tests start them on several ranks.

Names tell what is expected: ``right_*`` conform, and the others are refused with the cause in :data:`MISTAKES`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from gradcheck.distributed import Shard, conforms

ESTIMATOR = {"std": "group", "eps": 1e-4}


def losses(model: Callable[..., Tensor], shard: Shard, **computed: Tensor) -> Tensor:
    """Flow-GRPO's loss per sample, (b,)."""
    case = shard.case(model(shard.x_t, shard.t), **computed)
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))
    std = sigma * torch.sqrt(dt)
    mean = case.x_t * (1 - sigma**2 * dt / (2 * t)) - case.v_theta * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    log_prob = torch.distributions.Normal(mean, std).log_prob(case.x_prev).flatten(1).mean(1)
    log_prob_old = torch.distributions.Normal(case.mean_old, std).log_prob(case.x_prev).flatten(1).mean(1)
    ratio = torch.exp(log_prob - log_prob_old)
    return torch.maximum(-case.advantage * ratio, -case.advantage * torch.clamp(ratio, 0.8, 1.2))


def trainer(**declared: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return conforms("flow_grpo", clip_range=0.2, log_prob_reduction="mean", **declared)


def average(model: nn.Module, divisor: float | None = None) -> None:
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= divisor or dist.get_world_size()


def accumulated(ddp: DistributedDataParallel, shard: Shard) -> Iterator[tuple[Shard, Any]]:
    """Micro-batches, each with the context in which its gradients stay here, or are averaged."""
    micro_batches = shard.micro_batches()
    for i, micro in enumerate(micro_batches):
        yield micro, contextlib.nullcontext() if i == len(micro_batches) - 1 else ddp.no_sync()


def share(shard: Shard) -> float:
    """What makes DDP's average of local sums a mean over the global batch."""
    return shard.world_size / shard.global_size


# ------------------------------------------------------------------------------------------------- right


@trainer()
def right_by_hand(model: nn.Module, shard: Shard) -> None:
    for micro in shard.micro_batches():
        (losses(model, micro).sum() / shard.global_size).backward()
    average(model, 1.0)


@trainer()
def right_ddp(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro, context in accumulated(ddp, shard):
        with context:
            (losses(ddp, micro).sum() * share(shard)).backward()


@trainer()
def right_ddp_synchronised_every_time(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro in reversed(shard.micro_batches()):
        (losses(ddp, micro).sum() * share(shard)).backward()


@trainer()
def right_fsdp2(model: nn.Module, shard: Shard) -> None:
    mesh = dist.device_mesh.init_device_mesh("cpu", (shard.world_size,))
    fully_shard(model.layers[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    micro_batches = shard.micro_batches()
    for i, micro in enumerate(micro_batches):
        model.set_requires_gradient_sync(i == len(micro_batches) - 1)
        (losses(model, micro).sum() * share(shard)).backward()


@trainer()
def right_gathered_gradients(model: nn.Module, shard: Shard) -> dict[str, Tensor]:
    """The whole batch at once, gradients summed in another order on each rank, and returned by name."""
    gradients = torch.autograd.grad(losses(model, shard).sum() / shard.global_size, list(model.parameters()))
    out = {}
    for (name, _), mine in zip(model.named_parameters(), gradients, strict=True):
        parts = [torch.empty_like(mine) for _ in range(shard.world_size)]
        dist.all_gather(parts, mine)
        out["module." + name] = sum(parts[shard.rank :] + parts[: shard.rank])
    return out


@trainer(batch_reduction="sum")
def right_sum(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro, context in accumulated(ddp, shard):
        with context:
            (losses(ddp, micro).sum() * shard.world_size).backward()


@trainer(mean_over="ranks")
def right_mean_of_rank_means(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro, context in accumulated(ddp, shard):
        with context:
            (losses(ddp, micro).sum() / len(shard)).backward()


@trainer(mean_over="micro-batches", micro_batches=4)
def right_mean_of_micro_batch_means(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro, context in accumulated(ddp, shard):
        with context:
            (losses(ddp, micro).mean() / 4).backward()


@trainer(shards="equal", micro_batches=1)
def right_equal_shards_at_once(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    losses(ddp, shard).mean().backward()


def global_advantages(shard: Shard) -> Tensor:
    """Group means and standard deviations over all ranks, whose shards differ in size."""
    table = torch.zeros(2, shard.world_size, 64, dtype=torch.float64)
    table[0, shard.rank, : len(shard)] = shard.reward
    table[1, shard.rank, : len(shard)] = 1.0 + shard.group
    dist.all_reduce(table)
    rewards, groups = table[0][table[1] > 0], table[1][table[1] > 0] - 1
    return normalised(shard, rewards, groups)


def normalised(shard: Shard, rewards: Tensor, groups: Tensor) -> Tensor:
    out = torch.empty_like(shard.reward)
    for i, (reward, group) in enumerate(zip(shard.reward, shard.group, strict=True)):
        members = rewards[groups == group]
        out[i] = (reward - members.mean()) / (members.std(correction=0) + 1e-4)
    return out


def with_advantages(model: nn.Module, shard: Shard, advantage: Tensor) -> None:
    for micro in shard.micro_batches():
        (losses(model, micro, advantage=advantage[micro.rows]).sum() / shard.global_size).backward()
    average(model, 1.0)


@trainer(advantages=ESTIMATOR)
def right_advantages(model: nn.Module, shard: Shard) -> None:
    with_advantages(model, shard, global_advantages(shard))


@trainer(advantages=ESTIMATOR, statistics="rank")
def right_advantages_of_each_rank(model: nn.Module, shard: Shard) -> None:
    with_advantages(model, shard, normalised(shard, shard.reward, shard.group))


# ------------------------------------------------------------------------------------------------- wrong


@trainer()
def mean_of_unequal_shards(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro, context in accumulated(ddp, shard):
        with context:
            (losses(ddp, micro).sum() / len(shard)).backward()


@trainer()
def mean_of_unequal_micro_batches(model: nn.Module, shard: Shard) -> None:
    ddp, steps = DistributedDataParallel(model), len(shard.micro_batches())
    for micro, context in accumulated(ddp, shard):
        with context:
            (losses(ddp, micro).mean() / steps).backward()


@trainer(advantages=ESTIMATOR)
def advantages_per_rank(model: nn.Module, shard: Shard) -> None:
    with_advantages(model, shard, normalised(shard, shard.reward, shard.group))


@trainer(advantages=ESTIMATOR)
def advantages_per_micro_batch(model: nn.Module, shard: Shard) -> None:
    parts = [normalised(micro, micro.reward, micro.group) for micro in shard.micro_batches()]
    with_advantages(model, shard, torch.cat(parts))


@trainer(advantages=ESTIMATOR)
def advantages_unbiased(model: nn.Module, shard: Shard) -> None:
    out = global_advantages(shard)  # right so far; n − 1 in the standard deviation instead of n
    table = torch.bincount(shard.group, minlength=8).to(torch.float64)
    dist.all_reduce(table)
    count = table[shard.group]
    spread = torch.zeros_like(out)
    rewards = torch.zeros(shard.world_size, 64, 2, dtype=torch.float64)
    rewards[shard.rank, : len(shard), 0], rewards[shard.rank, : len(shard), 1] = shard.reward, 1.0 + shard.group
    dist.all_reduce(rewards)
    flat = rewards.flatten(0, 1)
    for i, group in enumerate(shard.group):
        spread[i] = flat[flat[:, 1] == 1 + group, 0].std(correction=0)
    with_advantages(model, shard, out * (spread + 1e-4) / (spread * torch.sqrt(count / (count - 1)) + 1e-4))


@trainer()
def accumulation_not_averaged(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro, context in accumulated(ddp, shard):
        with context:
            losses(ddp, micro).mean().backward()


@trainer()
def accumulation_averaged_twice(model: nn.Module, shard: Shard) -> None:
    right_ddp(model, shard)
    for p in model.parameters():
        p.grad /= len(shard.micro_batches())


@trainer()
def averaged_over_ranks_twice(model: nn.Module, shard: Shard) -> None:
    right_ddp(model, shard)
    average(model)  # the average of equal gradients changes nothing …
    for p in model.parameters():
        p.grad /= shard.world_size  # … but this does


@trainer()
def summed_over_ranks(model: nn.Module, shard: Shard) -> None:
    for micro in shard.micro_batches():
        (losses(model, micro).sum() * share(shard)).backward()
    average(model, 1.0)


@trainer(batch_reduction="sum")
def averaged_though_sum(model: nn.Module, shard: Shard) -> None:
    ddp = DistributedDataParallel(model)
    for micro, context in accumulated(ddp, shard):
        with context:
            losses(ddp, micro).sum().backward()


@trainer()
def no_sync_left_on(model: nn.Module, shard: Shard) -> None:
    ddp, micro_batches = DistributedDataParallel(model), shard.micro_batches()
    for i, micro in enumerate(micro_batches):
        with ddp.no_sync() if i < len(micro_batches) else contextlib.nullcontext():
            (losses(ddp, micro).sum() * share(shard)).backward()


@trainer()
def no_sync_on_the_last(model: nn.Module, shard: Shard) -> None:
    ddp, micro_batches = DistributedDataParallel(model), shard.micro_batches()
    for i, micro in enumerate(micro_batches):
        with ddp.no_sync() if i == len(micro_batches) - 1 else contextlib.nullcontext():
            (losses(ddp, micro).sum() * share(shard)).backward()


@trainer()
def ddp_gone_before_backward(model: nn.Module, shard: Shard) -> None:
    """Nothing holds the wrapper, which takes its hooks along."""
    (losses(DistributedDataParallel(model), shard).sum() * share(shard)).backward()


@trainer()
def fsdp2_never_synchronised(model: nn.Module, shard: Shard) -> None:
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (shard.world_size,)))
    model.set_requires_gradient_sync(False)
    for micro in shard.micro_batches():
        (losses(model, micro).sum() * share(shard)).backward()


@trainer()
def zero_grad_inside_the_loop(model: nn.Module, shard: Shard) -> None:
    for micro in shard.micro_batches():
        model.zero_grad()
        (losses(model, micro).sum() / shard.global_size).backward()
    average(model, 1.0)


@trainer()
def rank_skips_a_micro_batch(model: nn.Module, shard: Shard) -> None:
    for i, micro in enumerate(shard.micro_batches()):
        if (shard.rank, i) != (1, 1):
            (losses(model, micro).sum() / shard.global_size).backward()
    average(model, 1.0)


@trainer()
def rank_left_out(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard).sum() / shard.global_size).backward()
    if shard.rank == shard.world_size - 1:
        model.zero_grad(set_to_none=False)
    average(model, 1.0)


@trainer()
def one_rank_keeps_its_own(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard).sum() / shard.global_size).backward()
    own = [p.grad.clone() for p in model.parameters()]
    average(model, 1.0)
    if shard.rank == shard.world_size - 1:
        for p, gradient in zip(model.parameters(), own, strict=True):
            p.grad = gradient


@trainer(batch_reduction="sum")
def summed_every_micro_batch(model: nn.Module, shard: Shard) -> None:
    for micro in shard.micro_batches():
        losses(model, micro).sum().backward()
        average(model, 1.0)


@trainer()
def summed_batch(model: nn.Module, shard: Shard) -> None:
    losses(model, shard).sum().backward()
    average(model, 1.0)


@trainer()
def clipped_norm(model: nn.Module, shard: Shard) -> None:
    right_ddp(model, shard)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


@trainer()
def clipped_values(model: nn.Module, shard: Shard) -> None:
    right_ddp(model, shard)
    nn.utils.clip_grad_value_(model.parameters(), 1e-4)


@trainer()
def clipped_before_the_reduction(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard).sum() / shard.global_size).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    average(model, 1.0)


@trainer()
def reduced_by_maximum(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard).sum() / shard.global_size).backward()
    for p in model.parameters():
        dist.all_reduce(p.grad, op=dist.ReduceOp.MAX)


@trainer()
def some_parameters_reduced(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard).sum() / shard.global_size).backward()
    for name, p in model.named_parameters():
        if name.endswith("weight"):
            dist.all_reduce(p.grad)


@trainer()
def reduced_to_rank_0(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard).sum() / shard.global_size).backward()
    for p in model.parameters():
        own = p.grad.clone()
        dist.all_reduce(p.grad)
        if shard.rank:
            p.grad = own


@trainer()
def reduced_in_bfloat16(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard).sum() / shard.global_size).backward()
    for p in model.parameters():
        half = p.grad.bfloat16()
        dist.all_reduce(half)
        p.grad = half.to(p.grad.dtype)


@trainer()
def steps_the_optimiser(model: nn.Module, shard: Shard) -> None:
    right_ddp(model, shard)
    torch.optim.SGD(model.parameters(), lr=1e-3).step()


@trainer()
def another_loss(model: nn.Module, shard: Shard) -> None:
    (losses(model, shard, advantage=shard.advantage**2).sum() / shard.global_size).backward()
    average(model, 1.0)


@trainer()
def another_target(model: nn.Module, shard: Shard) -> None:
    (model(shard.x_t, shard.t) - shard.x_prev).square().mean().backward()
    average(model)


MISTAKES = {
    "mean_of_unequal_shards": "rank-means",
    "mean_of_unequal_micro_batches": "micro-batch-means",
    "advantages_per_rank": "advantages-per-rank",
    "advantages_per_micro_batch": "advantages-per-micro-batch",
    "advantages_unbiased": "convention:unbiased",
    "accumulation_not_averaged": "accumulation-not-averaged",
    "accumulation_averaged_twice": "accumulation-averaged-twice",
    "averaged_over_ranks_twice": "averaged-twice-over-ranks",
    "summed_over_ranks": "summed-over-ranks",
    "averaged_though_sum": "averaged-over-ranks",
    "no_sync_left_on": "not-synchronised",
    "no_sync_on_the_last": "last-not-synchronised",
    "ddp_gone_before_backward": "not-synchronised",
    "fsdp2_never_synchronised": "no-gradient",
    "zero_grad_inside_the_loop": "last-micro-batch-only",
    "rank_skips_a_micro_batch": "micro-batch-skipped",
    "rank_left_out": "rank-missing",
    "one_rank_keeps_its_own": "rank-not-synchronised",
    "summed_every_micro_batch": "summed-every-micro-batch",
    "summed_batch": "batch-sum",
    "clipped_norm": "norm-clipped",
    "clipped_values": "value-clipped",
    "clipped_before_the_reduction": "norm-clipped-per-rank",
    "reduced_by_maximum": "reduced-by-extremes",
    "some_parameters_reduced": "parameters-apart",
    "reduced_to_rank_0": "rank-not-synchronised",  # of two ranks; of three it has a name of its own
    "reduced_in_bfloat16": "half-precision",
    "steps_the_optimiser": "stepped",
    "another_loss": "unknown",
    "another_target": "unknown",
}
"""Wrong trainer → the cause that its report names."""

if not hasattr(torch.cpu.Stream, "record_event"):  # before torch 2.7 FSDP2 needs a GPU
    del right_fsdp2, fsdp2_never_synchronised, MISTAKES["fsdp2_never_synchronised"]
