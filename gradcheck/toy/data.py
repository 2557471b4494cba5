r"""The data: a ring of Gaussians in the plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MODES", "RADIUS", "WIDTH", "centres", "draw", "on_data"]

MODES = 8
"""Number of modes."""

RADIUS = 2.0
"""Distance of the modes from the origin."""

WIDTH = 0.15
"""Standard deviation of one mode, in each coordinate."""


def centres(dtype: torch.dtype = torch.float32) -> Tensor:
    """The modes' centres, (MODES, 2), the first at an angle of 0."""
    angle = torch.arange(MODES, dtype=torch.float64) * (2 * math.pi / MODES)
    return (RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)).to(dtype)


def draw(n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw n points, (n, 2), every mode being as likely as any other."""
    mode = torch.randint(MODES, (n,), generator=generator)
    spread = torch.randn((n, 2), generator=generator, dtype=torch.float64)
    return (centres(torch.float64)[mode] + WIDTH * spread).to(dtype)


def on_data(x: Tensor, widths: float = 4.0) -> Tensor:
    r"""Fraction of points, (…, N, 2) → (…), within so many standard deviations of some mode.

    Of the data themselves, 1 − exp(−widths²/2) are: all but 3 in 10 000 at the default.
    """
    distance = (x[..., None, :] - centres(x.dtype).to(x.device)).norm(dim=-1).amin(-1)
    return (distance < widths * WIDTH).to(torch.float64).mean(-1)
