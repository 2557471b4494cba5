"""What each function of a loss, right or wrong, is in torch."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp
import torch
from torch import Tensor
from torch.nn.functional import softplus

from derivations.calculus import Dot, Each, MeanAbs, Norm2, Surrogate, Unless, sg
from gradcheck.oracle.mistakes.functions import (
    AllPairs,
    BatchFirst,
    BatchGreatest,
    BatchMean,
    BatchStd,
    Bounded,
    Coordinatewise,
    Crossed,
    DualClip,
    FourthPowers,
    Huber,
    Leaky,
    LogClipped,
    Masked,
    MaskedBy,
    MaxSurrogate,
    Neighbour,
    OneSided,
    Outer,
    PseudoHuber,
    Reversed,
    Rounded,
    SmallHalf,
    Sorted,
    TieLost,
    TimeRounded,
)

__all__ = ["CLIPPED", "COMPARED", "RULES", "total"]


def _clip(r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(r, 1 - low), 1 + high)


def _surrogate(a: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return -torch.minimum(r * a, _clip(r, low, high) * a)


def _tie_lost(a: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    clipped = -_clip(r, low, high).detach() * a
    return torch.where(-r * a > clipped, -r * a, clipped)


def _crossed(a: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    every_a, every_r = a.flatten()[:, None], r.flatten()[None, :]
    clipped = _clip(every_r, low.flatten()[None, :], high.flatten()[None, :])  # a clip may be each sample's own
    losses = -torch.minimum(every_r * every_a, clipped * every_a)
    return losses.mean(0).reshape(r.shape)


def _dual(a: Tensor, r: Tensor, low: Tensor, high: Tensor, most: Tensor) -> Tensor:
    plain = _surrogate(a, r, low, high)
    return torch.where(a < 0, torch.minimum(plain, -most * a), plain)


def _masked_by(a: Tensor, r: Tensor, other: Tensor, low: Tensor, high: Tensor) -> Tensor:
    off = ((a > 0) & (other > 1 + high)) | ((a < 0) & (other < 1 - low))
    return torch.where(off, r.detach(), r) * -a


def _outer(a: Tensor, x: Tensor, y: Tensor, s: Tensor, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
    scale, of = s.flatten()[:, None], x.flatten()[None, :]
    r = torch.exp(scale * of + y.flatten()[None, :] / scale)
    row = lambda of_each: of_each.flatten()[None, :]  # noqa: E731
    losses = _surrogate(row(a), r, row(low), row(high)) * row(weight)
    return losses.mean(0).reshape(x.shape)


def _huber(x: Tensor, delta: Tensor) -> Tensor:
    size = x.abs()
    each = torch.where(size <= delta, x**2 / 2, delta * (size - delta / 2))
    return each.sum(tuple(range(1, x.ndim)), keepdim=True)


def _coordinatewise(a: Tensor, x: Tensor, y: Tensor, w: Tensor, low: Tensor, high: Tensor, each: Tensor) -> Tensor:
    losses = _surrogate(a, torch.exp(w * (y**2 - x**2)), low, high)
    return each * losses.sum(tuple(range(1, x.ndim)), keepdim=True)


def _first_half(x: Tensor, _: Tensor) -> Tensor:
    flat = x.flatten(1)
    kept = flat[:, : max(1, flat.shape[1] // 2)]
    scaled = (kept**2).mean(1) * flat.shape[1]
    return scaled.reshape(-1, *(1,) * (x.ndim - 1))


def _masked(x: Tensor, which: Tensor, weight: Tensor) -> Tensor:
    """The squared norm; the first or last (odd) index of the first or last (from 2 on) axis is weighed."""
    place = int(which)
    axis, index = (1, -1)[place // 2], (0, -1)[place % 2]
    weights = torch.ones_like(x)
    weights.select(axis, index).mul_(weight)
    return _dot(weights * x, x)


def _all_pairs(beta: Tensor, gap: Tensor, preference: Tensor) -> Tensor:
    own, y = gap.flatten(), preference.flatten()
    others = y[:, None] != y[None, :]
    losses = softplus(beta.flatten()[:1] * y[:, None] * (own[:, None] - own.detach()[None, :]))
    return ((losses * others).sum(1) / others.sum(1)).reshape(gap.shape)


def _leaky(a: Tensor, r: Tensor, low: Tensor, high: Tensor, slope: Tensor) -> Tensor:
    clipped = _clip(r, low, high)
    return -torch.minimum(r * a, (clipped + slope * (r - clipped)) * a)


def _on_a_table(t: Tensor, steps: Tensor, how: Tensor) -> Tensor:
    n = float(steps.flatten()[0])
    return (torch.floor(t * n) if float(how.flatten()[0]) < 0 else torch.round(t * n)) / n


CLIPPED = (Surrogate, MaxSurrogate, OneSided, TieLost, DualClip)
"""The arguments begin with (A, r, ε⁻, ε⁺); more of them are edges too."""

COMPARED = (*CLIPPED, Unless)
"""What compares numbers, so that rounding may decide it."""


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(tuple(range(1, max(a.ndim, b.ndim))), keepdim=True)


def total(x: Tensor) -> Tensor:
    """The sum over each sample's coordinates, (B, 1, …, 1)."""
    return x.sum(tuple(range(1, x.ndim)), keepdim=True)


def _sum(first: Tensor, *rest: Tensor) -> Tensor:
    for x in rest:
        first = first + x
    return first


def _product(first: Tensor, *rest: Tensor) -> Tensor:
    for x in rest:
        first = first * x
    return first


def _power(base: Tensor, exponent: Tensor | float) -> Tensor:
    if isinstance(exponent, float):
        if exponent == -1:
            return base.reciprocal()
        if exponent == 0.5:
            return base.sqrt()
    return base**exponent


def _least(first: Tensor, *rest: Tensor) -> Tensor:
    for x in rest:
        first = torch.minimum(first, x)
    return first


def _greatest(first: Tensor, *rest: Tensor) -> Tensor:
    for x in rest:
        first = torch.maximum(first, x)
    return first


RULES: dict[type, Callable[..., Tensor]] = {
    sp.Add: _sum,
    sp.Mul: _product,
    sp.Pow: _power,
    sp.exp: torch.exp,
    sp.log: torch.log,
    sp.sin: torch.sin,
    sp.cos: torch.cos,
    sp.Max: _greatest,
    sp.Min: _least,
    sp.sign: torch.sign,
    sp.Abs: torch.abs,
    sg: Tensor.detach,
    Dot: _dot,
    Norm2: lambda x: _dot(x, x),
    MeanAbs: lambda x: x.abs().mean(tuple(range(1, x.ndim)), keepdim=True),
    Each: lambda x: x,
    BatchMean: lambda x: x.mean(0, keepdim=True).expand(x.shape),
    BatchGreatest: lambda x: x.amax(0, keepdim=True).expand(x.shape) if x.ndim else x,
    BatchFirst: lambda x: x[:1].expand(x.shape) if x.ndim else x,
    Neighbour: lambda x, by: x.roll(int(by), 0) if x.ndim else x,
    Reversed: lambda x: x.flip(0) if x.ndim else x,
    Sorted: lambda x, sign: x.sort(0, descending=float(sign.flatten()[0]) < 0).values if x.ndim else x,
    Rounded: lambda x: (x > 0.5).to(x.dtype),
    TimeRounded: _on_a_table,
    AllPairs: _all_pairs,
    Surrogate: _surrogate,
    MaxSurrogate: lambda a, r, low, high: -torch.maximum(r * a, _clip(r, low, high) * a),
    OneSided: lambda a, r, low, high: -_clip(r, low, high) * a,
    TieLost: _tie_lost,
    DualClip: _dual,
    Crossed: _crossed,
    MaskedBy: _masked_by,
    Outer: _outer,
    LogClipped: lambda a, x, low, high: (
        -torch.minimum(x.exp() * a, torch.minimum(torch.maximum(x, -low), high).exp() * a)
    ),
    Bounded: lambda x, low, high: torch.minimum(torch.maximum(x, low), high),
    Coordinatewise: _coordinatewise,
    Huber: _huber,
    PseudoHuber: lambda x, delta: (delta**2 * ((1 + (x / delta) ** 2).sqrt() - 1)).sum(
        tuple(range(1, x.ndim)), keepdim=True
    ),
    FourthPowers: lambda x: _dot(x**2, x**2),
    Masked: _masked,
    BatchStd: lambda x, unbiased: x.std(0, correction=int(unbiased), keepdim=True).expand(x.shape),
    Leaky: _leaky,
    SmallHalf: _first_half,
}
"""Function of a loss → how its value is computed from its arguments'."""
