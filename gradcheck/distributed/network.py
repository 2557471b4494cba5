"""A small velocity network, for whoever has none at hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["VelocityMLP"]


class VelocityMLP(nn.Module):
    r"""A velocity :math:`v_\theta(x_t, t)`: two hidden layers on the flattened latent and three features of the time.

    Args:
        latent: shape of one sample.
        width: of the hidden layers.
    """

    def __init__(self, latent: tuple[int, ...] = (3, 4), width: int = 16) -> None:
        super().__init__()
        size = math.prod(latent)
        self.layers = nn.Sequential(
            nn.Linear(size + 3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size)
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        r"""States (B, \*latent) at times (B,) → velocities (B, \*latent)."""
        features = torch.stack([t, torch.sin(math.pi * t), torch.cos(math.pi * t)], dim=1)
        velocity: Tensor = self.layers(torch.cat([x_t.flatten(1), features], dim=1))
        return velocity.reshape(x_t.shape).clone()  # FSDP2 puts its hook on the output, which must not be a view
