r"""The base model: flow matching on the ring, min ‖v(x_t, t) − (noise − x_0)‖²."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradcheck.toy import data
from gradcheck.toy.network import HIDDEN, Draws, initial, velocity

__all__ = ["pretrain"]


def pretrain(
    updates: int = 4000,
    batch: int = 512,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    hidden: tuple[int, ...] = HIDDEN,
    learning_rate: float = 3e-3,
) -> list[Tensor]:
    """Train one network; its parameters have a seeds' axis of length 1.

    Adam, with a learning rate that falls to 0 along a cosine; the same arguments give the same network.
    """
    draws = Draws([seed], dtype)
    parameters = [p.requires_grad_() for p in initial(draws, hidden)]
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    for i in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * i / updates))
        x_0 = data.draw(batch, draws.generators[0], dtype)[None]
        noise, t = draws.normal(batch, 2), draws.uniform(batch)
        x_t = (1 - t[..., None]) * x_0 + t[..., None] * noise
        loss = ((velocity(parameters, x_t, t) - (noise - x_0)) ** 2).sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return [p.detach() for p in parameters]
