"""Steps that cannot be judged; the last ones leave other ranks waiting, so each of those needs processes of its own."""

from __future__ import annotations

import torch
from torch import nn

from gradcheck.distributed import Shard, VelocityMLP, conforms
from tests.distributed.trainers import average, losses, trainer


@trainer()
def every_rank_raises(model: nn.Module, shard: Shard) -> None:
    shard.v_theta  # noqa: B018 - the name is the mistake


@trainer()
def one_rank_raises(model: nn.Module, shard: Shard) -> None:
    if shard.rank == 1:
        raise ValueError("no reward model here")
    (losses(model, shard).sum() / shard.global_size).backward()


@trainer()
def wrong_return(model: nn.Module, shard: Shard) -> float:
    return 1.0


@trainer()
def wrong_shape(model: nn.Module, shard: Shard) -> dict[str, torch.Tensor]:
    return {name: p.detach().flatten() for name, p in model.named_parameters()}


@conforms("awm", network=lambda: nn.Bilinear(3, 3, 2))
def wrong_network(model: nn.Module, shard: Shard) -> None:
    """Never called."""


class Mixing(VelocityMLP):
    """A network whose samples see one another."""

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return super().forward(x_t - x_t.mean(0), t)


@conforms("awm", network=Mixing)
def mixing_network(model: nn.Module, shard: Shard) -> None:
    """Never called."""


@trainer()
def rank_0_raises_before_the_reduction(model: nn.Module, shard: Shard) -> None:
    losses(model, shard).sum().backward()
    if shard.rank == 0:
        raise RuntimeError("out of patience")
    average(model)


@trainer()
def skips_the_reduction(model: nn.Module, shard: Shard) -> None:
    losses(model, shard).sum().backward()
    if shard.rank == 0:
        average(model)
