r"""The error analysis for latents of any size: a few passes over chunks of coordinates, in bounded memory.

Every vector of a derivation is a linear combination :math:`\sum_s c_s s` of the tensors that the implementation
received, with one coefficient a sample, and so is its error bound, :math:`\sum_s d_s |s|`.  Coefficients, ratios and
masks are numbers per sample; only inner products look at coordinates.  So the analysis reads its inputs once for each
depth of nested inner products (two for a policy gradient), a chunk at a time, and keeps nothing of their size.

The bound is never below the dense one of :mod:`gradcheck.rounding.bounds`: it takes the magnitude of a sum for the
sum of the magnitudes.  It is two to five times as wide, and more only in components where a difference of velocities
vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from gradcheck.case import Case
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.plans import GROWTH, SIZE, Pass, planned
from gradcheck.rounding.straight import rows_of

__all__ = ["CHUNK", "ChunkedAnalysis", "Latents", "small_chunk"]

CHUNK = {"cpu": 2**15, "cuda": 2**23}
"""Numbers of one input that are looked at together: what fits a core's cache, and what fills a GPU."""
_LEAST = 2**13


def small_chunk(x: Tensor) -> int:
    """Numbers of one input to look at together so that the working memory stays well below the inputs'.

    A pass holds about ten tensors of a chunk in float64, 80 bytes for each number of it.  With a sixteenth of a latent
    that is 5 bytes for each of the latent's numbers, of which a step has four in 8 to 16 bytes.  A chunk has at least
    8192 numbers, with which a pass holds less than a MiB, since smaller ones would cost more time than they save.
    """
    return max(_LEAST, min(x.numel() // 16, CHUNK.get(x.device.type, CHUNK["cuda"])))


# -------------------------------------------------------------------------------------- reading the inputs


@dataclass(frozen=True)
class Latents:
    """The case's latents as matrices (B, D), and the observed gradient beside them."""

    tensors: Mapping[str, Tensor]
    observed: Tensor
    chunk: int

    @classmethod
    def of(cls, case: Case, observed: Tensor, chunk: int | None = None) -> Latents:
        """Those of a case; ``chunk`` is :data:`CHUNK` of the device by default."""
        shape = case.output.shape
        values = {name: getattr(case, name) for name in case.names}
        latents = {
            name: x.detach().flatten(1) for name, x in values.items() if isinstance(x, Tensor) and x.shape == shape
        }
        return cls(latents, observed.flatten(1), chunk or CHUNK.get(observed.device.type, CHUNK["cuda"]))

    @property
    def batch(self) -> int:
        return self.observed.shape[0]

    @property
    def size(self) -> int:
        return self.observed.shape[1]

    @cached_property
    def _small(self) -> dict[tuple[str, ...], Tensor]:
        """Named latents as they were read, where they are small."""
        return {}

    def _whole(self, names: Sequence[str]) -> Tensor:
        known = self._small.get(tuple(names))
        if known is None:
            known = torch.stack([self.tensors[name] for name in names], 1).to(torch.float64)
            self._small[tuple(names)] = known
        return known.clone()

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[slice, slice, Tensor]]:
        """Samples, coordinates, and the named latents there, (rows, names, columns), in float64.

        Each block is overwritten by the next one, so that it stays in the cache.  What is small is read once.
        """
        if self.observed.numel() <= min(self.chunk, CHUNK["cpu"]):
            yield slice(0, self.batch), slice(0, self.size), self._whole(names)
            return
        columns = min(self.size, self.chunk)
        rows = min(max(1, self.chunk // columns), self.batch)
        room = torch.empty(rows * len(names) * columns, dtype=torch.float64, device=self.observed.device)
        for i in range(0, self.batch, rows):
            here, j = slice(i, min(i + rows, self.batch)), 0
            for pieces in zip(*(self.tensors[name][here].split(columns, 1) for name in names), strict=True):
                there = slice(j, j + pieces[0].shape[1])
                shape = (here.stop - i, len(names), there.stop - j)
                block = room[: math.prod(shape)].view(shape)
                for part, piece in zip(block.unbind(1), pieces, strict=True):
                    part.copy_(piece)
                yield here, there, block
                j = there.stop


# ------------------------------------------------------------------------------------------- the analysis


class ChunkedAnalysis:
    """Values and bounds of expressions on a case: the program on numbers per sample, and passes over the latents.

    The numbers are few, so the program runs on the CPU wherever the latents are.

    Attributes:
        output: the name of what the network puts out.
        floor: what underflow may lose, in units of u.
        undecided: (B,), samples whose clip branch the precision does not decide.
        most: the largest number of the precision.
    """

    def __init__(
        self, derivation: Derivation, latents: Latents, case: Case, dtype: torch.dtype, outputs: Sequence[sp.Expr]
    ) -> None:
        self.latents, self.cu = latents, THRESHOLD * unit_roundoff(dtype)
        self.output = case.output_name
        values = _numbers(case, latents)
        plan = planned(derivation, tuple(values), dtype, tuple(outputs))
        values[GROWTH] = np.float64(2 + math.log2(max(latents.size, 1)))
        values[SIZE] = np.float64(latents.size)
        self.floor, self._places, self._peaks = plan.floor, plan.places, plan.peaks
        self.most = float(torch.finfo(dtype).max)
        with torch.no_grad():
            found = plan.program(values, lambda level, x: self._read(plan.passes[level], x), latents.batch)
            self.undecided = torch.from_numpy(found[0] != 0).to(latents.observed.device)
            self._found = torch.from_numpy(found.T.copy()).to(latents.observed.device)

    def names(self, *exprs: sp.Expr) -> list[str]:
        """The latents that outputs are made of."""
        return sorted({name for expr in exprs for name in self._places[expr][1]})

    def coefficients(self, expr: sp.Expr, names: Sequence[str] = ("",)) -> Tensor:
        """An output's coefficient of each latent, (B, names); a scalar's value, (B, 1)."""
        return self._columns(self._places[expr][0], names)

    def bounds(self, expr: sp.Expr, names: Sequence[str] = ("",)) -> Tensor:
        """The coefficients of an output's bound, (B, names); a scalar's bound, (B, 1)."""
        return self._columns(self._places[expr][1], names)

    def _columns(self, places: Mapping[str, int], names: Sequence[str]) -> Tensor:
        columns = [places.get(name, 1) for name in names]
        first, count = columns[0], len(columns)
        if columns == list(range(first, first + count)):  # a view costs a tenth of what picking columns does
            return self._found[:, first : first + count]
        return self._found[:, columns]

    def held(self, expr: sp.Expr, names: Sequence[str], rows: slice, block: Tensor, error: Tensor) -> Tensor:
        """Bounds of an output's components, (rows, columns); infinite where the way to one may leave a narrow range.

        Args:
            expr: the output.
            names: the latents in the block.
            rows: the samples there.
            block: the latents' magnitudes, (rows, names, columns).
            error: the components' bounds otherwise.
        """
        if expr not in self._peaks:
            return error
        sizes = (self.coefficients(expr, names)[rows, None].abs() @ block)[:, 0]
        peak = self._found[rows, self._peaks[expr], None]
        return torch.where(sizes * peak + self.cu * error < self.most, error, torch.inf)

    def _read(self, one: Pass, coefficients: list[Any]) -> list[Any]:
        """Products, magnitudes and errors of the pairs of vectors, then sums of magnitudes and errors, each (B,)."""
        batch, device = self.latents.batch, self.latents.observed.device
        table = torch.from_numpy(rows_of(coefficients, batch)).to(device)
        w, d = table.view(one.vectors, len(one.names), 2, batch).permute(2, 3, 0, 1)
        sums, totals = self._sums(one, w.contiguous(), d.contiguous())
        out = [x for pair in sums.cpu().numpy().transpose(2, 0, 1) for x in pair]
        if one.averages:
            means = totals.cpu().numpy()
            out += [means[k, :, i] for i in one.averages for k in (0, 1)]
        return out

    def _sums(self, one: Pass, w: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """One pass over the latents, on their device: sums of products, magnitudes and errors of each pair, (3, B,
        pairs); and of each vector's magnitudes and errors, (2, B, vectors)."""
        batch = self.latents.batch
        sums = w.new_zeros(3, batch, len(one.pairs))
        totals = w.new_zeros(2, batch, one.vectors)
        for rows, _, block in self.latents.blocks(one.names):
            value = w[rows].bmm(block)
            error = d[rows].bmm(block.abs_())
            if one.averages:
                totals[0, rows].add_(value.abs().sum(-1))
                totals[1, rows].add_(error.sum(-1))
            if one.pairs:
                sums[:, rows].add_(_inner(one.pairs, value, error, self.cu / 2))
        return sums, totals


def _inner(pairs: Sequence[tuple[int, int]], value: Tensor, error: Tensor, half: float) -> Tensor:
    r"""Sums over coordinates for each pair of vectors a and b, off by e_a and e_b: of ab, of \|ab\|, and of
    e_a\|b\| + \|a\|e_b + 2·half·e_a·e_b, (3, B, pairs).

    They are products and sums on their own: these fill a GPU, where a product of matrices with a few long rows does
    not, and cost half of it on a CPU; and torch adds up in pairs, which loses the least.

    Args:
        value, error: (B, vectors, columns); overwritten.
    """
    left, right = ([pair[side] for pair in pairs] for side in (0, 1))
    if left == right == list(range(value.shape[1])):
        more = torch.add(value.abs_(), error, alpha=half).mul_(error).sum(-1)
        squares = value.square_().sum(-1)
        return torch.stack([squares, squares, 2 * more])
    a, b, e_a, e_b = value[:, left], value[:, right], error[:, left], error[:, right]
    product = a * b
    more = e_a * torch.add(b.abs_(), e_b, alpha=half) + e_b * torch.add(a.abs_(), e_a, alpha=half)
    return torch.stack([product.sum(-1), product.abs_().sum(-1), more.sum(-1)])


def _numbers(case: Case, latents: Latents) -> dict[str, Any]:
    """The case's numbers: per sample (B,), or one for all; in float64, on the CPU."""
    out: dict[str, Any] = {}
    for name in case.names:
        x = getattr(case, name)
        if not isinstance(x, Tensor):
            out[name] = np.float64(x)
        elif name not in latents.tensors and x.is_floating_point():
            out[name] = x.detach().to("cpu", torch.float64).numpy()
    return out
