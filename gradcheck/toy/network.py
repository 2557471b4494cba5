r"""A small velocity network, in as many copies as there are seeds; all copies are evaluated at once.

A weight of a stack of S networks has shape (S, in, out) and a bias (S, 1, out), so that one batched product serves
all seeds.  No operation mixes seeds: the gradient of a sum over seeds is every seed's own gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Draws", "activations", "flat", "initial", "replicate", "velocity"]

HIDDEN = (64, 64, 64)
_INPUTS = 5  # x, t, and one turn of t on a circle's half


class Draws:
    """Random numbers with one generator for each seed, so that a seed's numbers depend on itself alone."""

    def __init__(self, seeds: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.dtype = dtype

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, (S, \\*shape)."""
        return torch.stack([torch.randn(shape, generator=g, dtype=self.dtype) for g in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from [0, 1), (S, \\*shape)."""
        return torch.stack([torch.rand(shape, generator=g, dtype=self.dtype) for g in self.generators])


def initial(draws: Draws, hidden: Sequence[int] = HIDDEN) -> list[Tensor]:
    """Fresh parameters: weight, bias, weight, bias …, each with the seeds' axis first."""
    sizes = (_INPUTS, *hidden, 2)
    out = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        out.append(draws.normal(fan_in, fan_out) / math.sqrt(fan_in))
        out.append(torch.zeros_like(out[-1][:, :1]))
    return out


def replicate(parameters: Sequence[Tensor], copies: int) -> list[Tensor]:
    """Each of S networks that many times in a row: (S, …) → (S·copies, …), detached copies."""
    return [p.detach().repeat_interleave(copies, dim=0) for p in parameters]


def velocity(parameters: Sequence[Tensor], x: Tensor, t: Tensor | float) -> Tensor:
    """v(x, t), (S, N, 2), of states x, (S, N, 2), at times t, (S, N) or one number."""
    return activations(parameters, x, t)[-1][1]


def activations(parameters: Sequence[Tensor], x: Tensor, t: Tensor | float) -> list[tuple[Tensor, Tensor]]:
    """For each linear layer its input, (S, N, in), and its output before the nonlinearity, (S, N, out)."""
    time = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[:-1])[..., None]
    layer_input = torch.cat([x, time, torch.cos(math.pi * time), torch.sin(math.pi * time)], dim=-1)
    out: list[tuple[Tensor, Tensor]] = []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        if out:
            layer_input = torch.nn.functional.silu(out[-1][1])
        out.append((layer_input, torch.baddbmm(bias, layer_input, weight)))
    return out


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Every seed's parameters (or gradients) in one row: (S, P)."""
    return torch.cat([x.flatten(1) for x in tensors], dim=1)
