r"""Latents that are combinations of others, with coefficients read off the derivation: means, the sampled state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import quantity
from gradcheck.case import Case
from gradcheck.compiled import evaluate

__all__ = ["coefficients", "combined", "residual", "solved"]

_CHUNK = 2**17
"""Numbers of one latent that are looked at together."""

Combination = Mapping[str, Tensor]
"""Latent → its coefficient, (B,), float64, on the CPU."""


def coefficients(
    derivation: Derivation, symbol: sp.Symbol, samples: Mapping[str, Tensor], numbers: Mapping[str, float]
) -> dict[str, Tensor]:
    """A vector of the derivation as a combination of the given latents.

    It is linear in them, so its value on latents of as many coordinates as there are latents, each 1 in its own
    coordinate and 0 elsewhere, holds every coefficient.

    Raises:
        KeyError: a quantity is missing.
    """
    latents = sorted(s.name for s in derivation.inputs(symbol) if quantity(s.name).axes == "latent")
    batch = len(next(iter(samples.values())))
    size = len(latents)
    units = torch.eye(size, dtype=torch.float64, device="cpu")[:, None].expand(size, batch, size)
    values: dict[str, Tensor | float] = {**numbers, **samples, derivation.output.name: torch.zeros_like(units[0])}
    values |= dict(zip(latents, units, strict=True))
    (found,) = evaluate(derivation, Case(derivation.label, values), symbol, dtype=torch.float64)
    columns = found.expand(batch, size).unbind(1)
    return {name: column.clone() for name, column in zip(latents, columns, strict=True)}


def combined(terms: Combination, latents: Mapping[str, Tensor], over: Tensor | None = None) -> Tensor:
    r"""Σ c·x over the coordinates, divided by ``over`` (B,), (B, \*latent) in float64; a block at a time."""
    first = next(iter(latents.values()))
    out = torch.empty(first.shape, dtype=torch.float64, device=first.device)
    rows = out.view(first.shape[0], -1)
    flat = {name: latents[name].reshape(first.shape[0], -1) for name in terms}
    columns = {name: (c if over is None else c / over).to(first.device)[:, None] for name, c in terms.items()}
    for block in _blocks(rows):
        here = rows[block].zero_()
        for name, c in columns.items():
            here.addcmul_(flat[name][block].to(torch.float64), c[block[0]])
    return out


def _blocks(rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Samples and coordinates that are looked at together."""
    batch, size = rows.shape
    some = max(1, _CHUNK // size)
    for i in range(0, batch, some):
        for j in range(0, size, _CHUNK):
            yield slice(i, i + some), slice(j, j + _CHUNK)


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
    for block in _blocks(own):
        x = own[block].to(torch.float64)
        difference, size = x.clone(), x.abs()
        for name, c in columns.items():
            part = rows[name][block].to(torch.float64) * c[block[0]]
            difference -= part
            size += part.abs_()
        worst[block[0]] = torch.maximum(worst[block[0]], (difference.abs() / size.clamp(min=1e-300)).amax(1))
        squares[block[0]] += difference.square().sum(1)
    return worst.cpu(), (squares / own.shape[1]).cpu()
