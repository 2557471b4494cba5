r"""The few tensor operations that generated code calls.

Latents have shape (B, \*latent); every result that is one number a sample has shape (B, 1, …, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "clip_mask",
    "dot",
    "expand",
    "mean_abs",
    "norm2",
    "other_mask",
    "other_unless",
    "softplus",
    "surrogate",
    "total",
    "unless",
]


def _latent_dims(x: Tensor) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product over the latent coordinates of each sample."""
    return (a * b).sum(_latent_dims(a), keepdim=True)


def norm2(a: Tensor) -> Tensor:
    """Squared norm over the latent coordinates of each sample."""
    return (a * a).sum(_latent_dims(a), keepdim=True)


def total(a: Tensor) -> Tensor:
    """Sum of the coordinates of each sample."""
    return a.sum(_latent_dims(a), keepdim=True)


def mean_abs(a: Tensor) -> Tensor:
    """Mean absolute coordinate of each sample."""
    return a.abs().mean(_latent_dims(a), keepdim=True)


def clip_mask(advantage: Tensor, ratio: Tensor, clip_low: Tensor | float, clip_high: Tensor | float) -> Tensor:
    """PPO's gradient mask: 0 where the clip is active, else 1."""
    off = ((advantage > 0) & (ratio > 1 + clip_high)) | ((advantage < 0) & (ratio < 1 - clip_low))
    return (~off).to(ratio.dtype)


def other_mask(advantage: Tensor, ratio: Tensor, clip_low: Tensor | float, clip_high: Tensor | float) -> Tensor:
    """1 − :func:`clip_mask`."""
    return 1 - clip_mask(advantage, ratio, clip_low, clip_high)


def softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ), to the last digit on either side and without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


def unless(*conditions: Tensor) -> Tensor:
    """1, unless every condition is positive; then 0."""
    first, *rest = conditions
    off = first > 0
    for condition in rest:
        off = off & (condition > 0)
    return (~off).to(first.dtype)


def other_unless(*conditions: Tensor) -> Tensor:
    """1 − :func:`unless`."""
    return 1 - unless(*conditions)


def surrogate(advantage: Tensor, ratio: Tensor, clip_low: Tensor | float, clip_high: Tensor | float) -> Tensor:
    """PPO's clipped surrogate, to be minimised: −min(rA, clip(r)A)."""
    low, high = (torch.as_tensor(x, dtype=ratio.dtype, device=ratio.device) for x in (clip_low, clip_high))
    clipped = torch.minimum(torch.maximum(ratio, 1 - low), 1 + high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def expand(scalar: Tensor, latent: Tensor) -> Tensor:
    """Give a per-sample scalar (B,) the rank of a latent, (B, 1, …, 1); one of rows of steps, (B, T), likewise."""
    return scalar.reshape(*scalar.shape, *(1,) * (latent.ndim - scalar.ndim))
