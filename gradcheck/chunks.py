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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import Dot, MeanAbs, Norm2, VectorSymbol, kind, sg
from derivations.derivation import Derivation
from derivations.torchgen import ordered_formulas
from gradcheck.bounds import Analysis, Value
from gradcheck.case import Case

__all__ = ["CHUNK", "ChunkedAnalysis", "Combination", "Latents"]

CHUNK = {"cpu": 2**15, "cuda": 2**23}
"""Numbers of one input that are looked at together: what fits a core's cache, and what fills a GPU."""

_REDUCTIONS = (Dot, Norm2, MeanAbs)


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
        shape = case.v_theta.shape
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

    def blocks(self, names: Sequence[str]) -> Iterator[tuple[slice, slice, Tensor]]:
        """Samples, coordinates, and the named latents there, (rows, names, columns), in float64.

        Each block is overwritten by the next one, so that it stays in the cache.
        """
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


# --------------------------------------------------------------------- values and bounds that are combinations


@dataclass(frozen=True)
class Combination:
    r"""Σ value[s]·s, off by at most u·Σ error[s]·\|s\|; each coefficient is (B, 1)."""

    value: Mapping[str, Tensor]
    error: Mapping[str, Tensor]

    def weights(self, names: Sequence[str], like: Tensor) -> tuple[Tensor, Tensor]:
        """Values and bounds as matrices (B, names)."""
        zero = torch.zeros_like(like)
        value, error = (torch.cat([x.get(n, zero).expand_as(like) for n in names], 1) for x in (self.value, self.error))
        return value, error


class ChunkedAnalysis(Analysis):
    """The rules of :class:`Analysis` for numbers per sample; combinations for vectors; passes for inner products."""

    def __init__(
        self, derivation: Derivation, latents: Latents, case: Case, dtype: torch.dtype, outputs: Sequence[sp.Expr]
    ) -> None:
        device = latents.observed.device
        values = {
            name: torch.as_tensor(x, dtype=torch.float64, device=device).detach().reshape(-1, 1)
            for name, x in ((name, getattr(case, name)) for name in case.names)
            if name not in latents.tensors and not (isinstance(x, Tensor) and not x.is_floating_point())
        }
        super().__init__(values, dtype, device)
        self.latents = latents
        self.column = torch.ones((latents.batch, 1), dtype=torch.float64, device=device)
        self.formulas = dict(ordered_formulas(derivation, *outputs))
        self.combinations: dict[sp.Expr, Combination] = {}
        self.levels: dict[sp.Expr, int] = {}
        pending: dict[int, list[sp.Expr]] = {}
        for expr in outputs:
            self._level(expr)
        for node, level in self.levels.items():
            if isinstance(node, _REDUCTIONS):
                pending.setdefault(level, []).append(node)
        for level in sorted(pending):
            self._reduce(pending[level])
        for expr in outputs:  # so that every clip has been looked at
            if kind(expr) == "vector":
                self.combination(expr)
            else:
                self(expr)

    def _level(self, expr: sp.Expr) -> int:
        """How many passes over the latents come before the expression is known."""
        if expr not in self.levels:
            inside = [self.formulas[expr]] if expr in self.formulas else expr.args
            deepest = max((self._level(x) for x in inside), default=0)
            self.levels[expr] = deepest + isinstance(expr, _REDUCTIONS)
        return self.levels[expr]

    def _evaluate(self, expr: sp.Expr) -> Value:
        if expr in self.formulas:
            self.define(expr, self.formulas[expr])
            return self.memo[expr]
        return super()._evaluate(expr)

    def combination(self, expr: sp.Expr) -> Combination:
        """A vector expression on the case's own latents."""
        if expr not in self.combinations:
            self.combinations[expr] = self._combine(expr)
        return self.combinations[expr]

    def _combine(self, expr: sp.Expr) -> Combination:
        if expr == 0:
            return Combination({}, {})
        if expr in self.formulas:  # what an implementation received for it was rounded once more
            found = self.combination(self.formulas[expr])
            return Combination(found.value, _merged(torch.maximum, found.error, _magnitude(found.value)))
        if isinstance(expr, VectorSymbol):
            return Combination({expr.name: self.column}, {expr.name: self.column})
        if isinstance(expr, sg):
            return self.combination(expr.args[0])
        if isinstance(expr, sp.Add):
            return self._sum([self.combination(arg) for arg in expr.args])
        if isinstance(expr, sp.Mul):
            (vector,) = (arg for arg in expr.args if kind(arg) == "vector")
            return self._scaled([arg for arg in expr.args if arg is not vector], self.combination(vector))
        raise NotImplementedError(f"no error rule for the vector {expr}")

    def _sum(self, terms: list[Combination]) -> Combination:
        value: Mapping[str, Tensor] = {}
        error: Mapping[str, Tensor] = {}
        for term in terms:
            value = _merged(torch.add, value, term.value)
            grown = {n: (len(terms) - 1) * x for n, x in _magnitude(term.value).items()}
            error = _merged(torch.add, error, _merged(torch.add, term.error, grown))
        return Combination(value, error)

    def _scaled(self, factors: list[sp.Expr], vector: Combination) -> Combination:
        q, e = self(sp.Mul(*factors, evaluate=False) if len(factors) > 1 else factors[0])
        value = {n: q * c for n, c in vector.value.items()}
        error = {n: q.abs() * d + (self.cu * e) * d for n, d in vector.error.items()}
        once = {n: (e + q.abs()) * c for n, c in _magnitude(vector.value).items()}
        return Combination(value, _merged(torch.add, error, once))

    def _reduce(self, nodes: list[sp.Expr]) -> None:
        """Values and bounds of inner products whose arguments' coefficients are known, in one pass."""
        vectors: list[sp.Expr] = list(dict.fromkeys(arg for node in nodes for arg in node.args))
        found = [self.combination(v) for v in vectors]
        names = sorted({n for c in found for n in c.error})
        w, d = (torch.stack(x, 1) for x in zip(*(c.weights(names, self.column) for c in found), strict=True))
        shape = (self.latents.batch, len(vectors), len(vectors))
        products, magnitudes, errors = (w.new_zeros(shape) for _ in range(3))
        totals = w.new_zeros(self.latents.batch, len(vectors), 2)
        averaged = any(isinstance(node, MeanAbs) for node in nodes)
        for rows, _, block in self.latents.blocks(names):
            value = w[rows] @ block
            error = d[rows] @ block.abs_()
            products[rows] += value @ value.mT
            value.abs_()
            magnitudes[rows] += value @ value.mT
            errors[rows] += error @ torch.add(value, error, alpha=self.cu / 2).mT
            if averaged:
                totals[rows] += torch.stack([value.sum(-1), error.sum(-1)], -1)
        growth = 2 + math.log2(max(self.latents.size, 1))
        for node in nodes:
            i, j = vectors.index(node.args[0]), vectors.index(node.args[-1])
            if isinstance(node, MeanAbs):
                magnitude, error = totals[:, i, :1] / self.latents.size, totals[:, i, 1:] / self.latents.size
                self.memo[node] = self.ranged(magnitude, error + growth * magnitude)
            else:
                error = errors[:, i, j] + errors[:, j, i] + growth * magnitudes[:, i, j]
                self.memo[node] = self.ranged(products[:, i, j, None], error[:, None])


def _magnitude(coefficients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: c.abs() for n, c in coefficients.items()}


def _merged(
    operation: Callable[[Tensor, Tensor], Tensor], a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Entry by entry; a name that one side lacks keeps the other's."""
    both = {n: operation(a[n], b[n]) for n in a.keys() & b.keys()}
    return {**a, **b, **both}
