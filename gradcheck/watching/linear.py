r"""Latents that are combinations of others, with coefficients read off the derivation: means, the sampled state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from gradcheck.rounding.chunks import small_chunk
from gradcheck.rounding.plans import values_of

__all__ = ["blocks_of", "coefficients", "combined", "residual", "solved"]

Combination = Mapping[str, Tensor]
"""Latent → its coefficient, (B,), float64, on the CPU."""


def coefficients(
    derivation: Derivation,
    symbol: sp.Symbol,
    samples: Mapping[str, Tensor],
    numbers: Mapping[str, float],
    beside: Sequence[sp.Symbol] = (),
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """A vector of the derivation as a combination of the given latents, and numbers per sample beside it, (B,) each.

    Raises:
        KeyError: a quantity is missing.
    """
    values: dict[str, Any] = {name: np.float64(x) for name, x in numbers.items()}
    values |= {name: x.numpy() for name, x in samples.items()}
    program, places = values_of(derivation, tuple(values), (symbol, *beside))
    batch = len(next(iter(samples.values())))
    rows = torch.from_numpy(program(values, _nothing_read, batch))
    terms = dict(zip(places[0], rows, strict=False))
    return terms, list(rows[len(places[0]) :])


def _nothing_read(level: int, handed: list[Any]) -> list[Any]:
    raise AssertionError("a combination of latents holds no inner product")


def combined(terms: Combination, latents: Mapping[str, Tensor], over: Tensor | None = None) -> Tensor:
    r"""Σ c·x over the coordinates, divided by ``over`` (B,), (B, \*latent) in float64; a block at a time."""
    first = next(iter(latents.values()))
    out = torch.empty(first.shape, dtype=torch.float64, device=first.device)
    rows = out.view(first.shape[0], -1)
    flat = {name: latents[name].reshape(first.shape[0], -1) for name in terms}
    columns = {name: (c if over is None else c / over).to(first.device)[:, None] for name, c in terms.items()}
    for block in blocks_of(rows):
        here = rows[block].zero_()
        for name, c in columns.items():
            here.addcmul_(flat[name][block].to(torch.float64), c[block[0]])
    return out


def blocks_of(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and coordinates that are looked at together."""
    batch, size = rows.shape
    chunk = small_chunk(rows)
    some = max(1, chunk // size)
    for i in range(0, batch, some):
        for j in range(0, size, chunk):
            yield slice(i, i + some), slice(j, j + chunk)


def solved(terms: Combination, unknown: str, latents: Mapping[str, Tensor], value: Tensor) -> Tensor:
    """The unknown latent of Σ c·x = value."""
    known = {name: -c for name, c in terms.items() if name != unknown}
    one = torch.ones_like(terms[unknown])
    return combined({**known, "": one}, {**latents, "": value}, over=terms[unknown])


def residual(terms: Combination, latents: Mapping[str, Tensor], value: Tensor) -> tuple[Tensor, Tensor]:
    """How far a latent is from Σ c·x: the largest difference over the size of all that it is made of, and the mean
    square of the difference, of each sample; (B,) each, float64, on the CPU."""
    batch = value.shape[0]
    rows = {name: latents[name].reshape(batch, -1) for name in terms}
    own = value.detach().reshape(batch, -1)
    worst, squares = torch.zeros(2, batch, dtype=torch.float64, device=own.device)
    columns = {name: c.to(own.device)[:, None] for name, c in terms.items()}
    for block in blocks_of(own):
        x = own[block].to(torch.float64)
        difference, size = x.clone(), x.abs()
        for name, c in columns.items():
            part = rows[name][block].to(torch.float64) * c[block[0]]
            difference -= part
            size += part.abs_()
        worst[block[0]] = torch.maximum(worst[block[0]], (difference.abs() / size.clamp(min=1e-300)).amax(1))
        squares[block[0]] += difference.square().sum(1)
    return worst.cpu(), (squares / own.shape[1]).cpu()
