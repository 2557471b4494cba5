r"""The error analysis for latents of any size: a few passes over chunks of coordinates, in bounded memory.

Every vector of a derivation is a linear combination :math:`\sum_s c_s s` of the tensors that the implementation
received, with one coefficient a sample, and so is its error bound, :math:`\sum_s d_s |s|`.  Coefficients, ratios and
masks are numbers per sample; only inner products look at coordinates.  So the analysis reads its inputs once for each
depth of nested inner products (two for a policy gradient), a chunk at a time, and keeps nothing of their size.

The bound is never below the dense one of :mod:`gradcheck.bounds`: it takes the magnitude of a sum for the sum of
the magnitudes.  It is two to five times as wide, and more only in components where a difference of velocities vanishes.
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
from gradcheck.bounds import THRESHOLD, unit_roundoff
from gradcheck.case import Case
from gradcheck.plans import GROWTH, SIZE, Pass, planned
from gradcheck.straight import rows_of

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
    def _whole(self) -> Tensor:
        return torch.stack(tuple(self.tensors.values()), 1).to(torch.float64)

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[slice, slice, Tensor]]:
        """Samples, coordinates, and the named latents there, (rows, names, columns), in float64.

        Each block is overwritten by the next one, so that it stays in the cache.  What is small is read once.
        """
        if self.observed.numel() <= min(self.chunk, CHUNK["cpu"]):
            order = list(self.tensors)
            yield slice(0, self.batch), slice(0, self.size), self._whole[:, [order.index(name) for name in names]]
            return
        columns = min(self.size, self.chunk)
        rows = min(max(1, self.chunk // columns), self.batch)
        room = torch.empty(rows * len(names) * columns, dtype=torch.float64, device=self.observed.device)
        for i in range(0, self.batch, rows):
            for j in range(0, self.size, columns):
                here, there = slice(i, min(i + rows, self.batch)), slice(j, min(j + columns, self.size))
                shape = (here.stop - i, len(names), there.stop - j)
                block = room[: math.prod(shape)].view(shape)
                for k, name in enumerate(names):
                    block[:, k] = self.tensors[name][here, there]
                yield here, there, block


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
        products, magnitudes, errors = sums.cpu().numpy()
        out: list[Any] = []
        for i, j in one.pairs:
            out += [products[:, i, j], magnitudes[:, i, j], errors[:, i, j] + errors[:, j, i]]
        if one.averages:
            means = totals.cpu().numpy()
            out += [means[k, :, i] for i in one.averages for k in (0, 1)]
        return out

    def _sums(self, one: Pass, w: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        """One pass over the latents, on their device: sums of products, magnitudes and errors of each pair of vectors,
        (3, B, vectors, vectors); and of each vector's magnitudes and errors, (2, B, vectors)."""
        batch = self.latents.batch
        sums = w.new_zeros(3, batch, one.vectors, one.vectors)
        totals = w.new_zeros(2, batch, one.vectors)
        for rows, _, block in self.latents.blocks(one.names):
            value = w[rows] @ block
            error = d[rows] @ block.abs_()
            sums[0, rows].add_(products(value, value))
            value.abs_()
            sums[1, rows].add_(products(value, value))
            sums[2, rows].add_(products(error, torch.add(value, error, alpha=self.cu / 2)))
            if one.averages:
                totals[0, rows].add_(value.sum(-1))
                totals[1, rows].add_(error.sum(-1))
        return sums, totals


def products(a: Tensor, b: Tensor, in_pieces: bool | None = None) -> Tensor:
    """Inner products of the rows of two matrices a sample, (B, i, D) and (B, j, D) → (B, i, j).

    A GPU multiplies a few long rows with few of its cores.  Cut into pieces that are multiplied side by side, and then
    added, it took 0.15 ms in place of 0.49 (three rows of 2²³ numbers in float64 on an H200); so there by default.
    """
    whole = a.shape[-1] - a.shape[-1] % _PIECE
    if not (a.is_cuda if in_pieces is None else in_pieces) or a.shape[0] > 1 or not whole:
        return a @ b.mT
    left, right = (x[..., :whole].unflatten(-1, (-1, _PIECE)).transpose(1, 2) for x in (a, b))
    return (left @ right.mT).sum(1) + a[..., whole:] @ b[..., whole:].mT


_PIECE = 2**13


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
