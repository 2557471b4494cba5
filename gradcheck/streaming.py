r"""The same comparison for latents of any size: a few passes over chunks of coordinates, in bounded memory.

Every vector of a derivation is a linear combination :math:`\sum_s c_s s` of the tensors that the implementation
received, with one coefficient a sample, and so is its error bound, :math:`\sum_s d_s |s|`.  Coefficients, ratios and
masks are numbers per sample; only inner products and the last comparison look at coordinates.  So a check reads its
inputs once for each depth of nested inner products (two for a policy gradient) and once more to compare, a chunk at
a time, and keeps nothing of their size.

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

from derivations.calculus import ClipMask, Dot, MeanAbs, Norm2, VectorSymbol, kind, sg
from derivations.derivation import Derivation
from derivations.torchgen import ordered_formulas
from gradcheck.bounds import THRESHOLD, Analysis, Value, unit_roundoff
from gradcheck.case import Case
from gradcheck.compare import Comparison, branch, error_ratios, judgeable, with_ties

__all__ = ["CHUNK", "compare_gradient", "lean_error_scale", "sample_ratios"]

CHUNK = {"cpu": 2**15, "cuda": 2**23}
"""Numbers of one input that are looked at together: what fits a core's cache, and what fills a GPU."""

_REDUCTIONS = (Dot, Norm2, MeanAbs)


def compare_gradient(
    derivation: Derivation,
    case: Case,
    observed: Tensor,
    *,
    factor: float = 1.0,
    dtype: torch.dtype | None = None,
    widen: Tensor | None = None,
    chunk: int | None = None,
) -> Comparison:
    r"""Compare a gradient in ``v_theta`` with the derived one, within the error bound of the precision.

    Args:
        derivation: says what the gradient must be.
        case: what the implementation received, latents of shape (B, \*latent), of any size.
        observed: the gradient that it computed, of v_theta's shape.
        factor: what multiplies every sample's gradient, 1/B for a loss that is averaged over the batch.
        dtype: the precision that the implementation worked in; the case's own by default.
        widen: (B,), a factor by which the bound of each sample is wider.
        chunk: numbers of one input to look at together; by default :data:`CHUNK` of the device.

    Returns:
        The worst component and its test ratio, as :func:`gradcheck.compare.compare_branches` gives them.
    """
    return _judge(derivation, case, observed, factor, dtype, widen, chunk).comparison()


def sample_ratios(
    derivation: Derivation,
    case: Case,
    observed: Tensor,
    *,
    factor: float = 1.0,
    dtype: torch.dtype | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The worst test ratio of each sample as :func:`compare_gradient` finds it, and the fraction of its components that
    the precision allows to judge; both (B,)."""
    found = _judge(derivation, case, observed, factor, dtype, None, chunk)
    ratio, judged = (x.gather(0, found.way()[None])[0] for x in (found.ratio, found.judged))
    return ratio, judged / math.prod(found.shape[1:])


def lean_error_scale(
    derivation: Derivation, case: Case, *exprs: sp.Expr, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    """:func:`gradcheck.bounds.error_scale` for large latents: nothing of their size is held but the results."""
    with torch.no_grad():
        latents = _Latents.of(case, case.v_theta, CHUNK.get(case.v_theta.device.type, CHUNK["cuda"]))
        run = _Streamed(derivation, latents, case, dtype, exprs)
        column = (latents.batch, *(1,) * (case.v_theta.ndim - 1))
        errors = []
        for expr in exprs:
            if kind(expr) == "vector":
                errors.append(_written_out(latents, run.combination(expr), run.floor).reshape(case.v_theta.shape))
            else:
                errors.append((run(expr)[1] + run.floor).expand(latents.batch, 1).reshape(column))
        return tuple(errors), run.undecided.reshape(-1, *(1,) * (case.v_theta.ndim - 1))


def _written_out(latents: _Latents, found: _Combination, floor: float) -> Tensor:
    out = torch.empty(latents.observed.shape, dtype=torch.float64, device=latents.observed.device)
    names = sorted(found.error)
    _, weights = found.weights(names, out.new_ones(latents.batch, 1))
    for rows, columns, block in latents.blocks(names):
        out[rows, columns] = (weights[rows, None] @ block.abs_())[:, 0] + floor
    return out


def _judge(
    derivation: Derivation,
    case: Case,
    observed: Tensor,
    factor: float,
    dtype: torch.dtype | None,
    widen: Tensor | None,
    chunk: int | None,
) -> _Worst:
    dtype = dtype or case.v_theta.dtype
    with torch.no_grad():
        latents = _Latents.of(case, observed.detach(), chunk or CHUNK.get(case.v_theta.device.type, CHUNK["cuda"]))
        branches = [branch(derivation, False)]
        if branches[0][1].has(ClipMask):
            branches.append(branch(derivation, True))
        outputs = [expr for raw, gradient, *_ in branches for expr in (gradient, raw)]
        run = _Streamed(derivation, latents, case, dtype, outputs)
        undecided = run.undecided.reshape(-1).expand(latents.batch)
        if not bool(undecided.any()):
            branches = branches[:1]
        combined = [(run.combination(gradient), run.combination(raw)) for raw, gradient, *_ in branches]
        wide = torch.ones(latents.batch, 1, dtype=torch.float64, device=observed.device)
        found = _Worst.none(3 if len(branches) == 2 else 1, case.v_theta.shape, undecided)
        _look(found, latents, combined, run.floor, factor, wide if widen is None else widen.reshape(-1, 1), dtype)
        return found


# -------------------------------------------------------------------------------------- reading the inputs


@dataclass(frozen=True)
class _Latents:
    """The case's latents as matrices (B, D), and the observed gradient beside them."""

    tensors: Mapping[str, Tensor]
    observed: Tensor
    chunk: int

    @classmethod
    def of(cls, case: Case, observed: Tensor, chunk: int) -> _Latents:
        shape = case.v_theta.shape
        values = {name: getattr(case, name) for name in case.names}
        latents = {
            name: x.detach().flatten(1) for name, x in values.items() if isinstance(x, Tensor) and x.shape == shape
        }
        return cls(latents, observed.flatten(1), chunk)

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
class _Combination:
    """Σ value[s]·s, off by at most u·Σ error[s]·|s|; each coefficient is (B, 1)."""

    value: Mapping[str, Tensor]
    error: Mapping[str, Tensor]

    def weights(self, names: Sequence[str], like: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(like)
        value, error = (torch.cat([x.get(n, zero).expand_as(like) for n in names], 1) for x in (self.value, self.error))
        return value, error


class _Streamed(Analysis):
    """The rules of :class:`Analysis` for numbers per sample; combinations for vectors; passes for inner products."""

    def __init__(
        self, derivation: Derivation, latents: _Latents, case: Case, dtype: torch.dtype, outputs: Sequence[sp.Expr]
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
        self.combinations: dict[sp.Expr, _Combination] = {}
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

    def combination(self, expr: sp.Expr) -> _Combination:
        """A vector expression on the case's own latents."""
        if expr not in self.combinations:
            self.combinations[expr] = self._combine(expr)
        return self.combinations[expr]

    def _combine(self, expr: sp.Expr) -> _Combination:
        if expr == 0:
            return _Combination({}, {})
        if expr in self.formulas:  # what an implementation received for it was rounded once more
            found = self.combination(self.formulas[expr])
            return _Combination(found.value, _merged(torch.maximum, found.error, _magnitude(found.value)))
        if isinstance(expr, VectorSymbol):
            return _Combination({expr.name: self.column}, {expr.name: self.column})
        if isinstance(expr, sg):
            return self.combination(expr.args[0])
        if isinstance(expr, sp.Add):
            return self._sum([self.combination(arg) for arg in expr.args])
        if isinstance(expr, sp.Mul):
            (vector,) = (arg for arg in expr.args if kind(arg) == "vector")
            return self._scaled([arg for arg in expr.args if arg is not vector], self.combination(vector))
        raise NotImplementedError(f"no error rule for the vector {expr}")

    def _sum(self, terms: list[_Combination]) -> _Combination:
        value: Mapping[str, Tensor] = {}
        error: Mapping[str, Tensor] = {}
        for term in terms:
            value = _merged(torch.add, value, term.value)
            grown = {n: (len(terms) - 1) * x for n, x in _magnitude(term.value).items()}
            error = _merged(torch.add, error, _merged(torch.add, term.error, grown))
        return _Combination(value, error)

    def _scaled(self, factors: list[sp.Expr], vector: _Combination) -> _Combination:
        q, e = self(sp.Mul(*factors, evaluate=False) if len(factors) > 1 else factors[0])
        value = {n: q * c for n, c in vector.value.items()}
        error = {n: q.abs() * d + (self.cu * e) * d for n, d in vector.error.items()}
        once = {n: (e + q.abs()) * c for n, c in _magnitude(vector.value).items()}
        return _Combination(value, _merged(torch.add, error, once))

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


# ------------------------------------------------------------------------------------------ the comparison


@dataclass
class _Worst:
    """For each way that the clip may have gone, each sample's worst component: its ratio, place and numbers."""

    ratio: Tensor  # (ways, B), and so are the others
    place: Tensor
    observed: Tensor
    required: Tensor
    bound: Tensor
    judged: Tensor
    undecided: Tensor  # (B,)
    shape: torch.Size

    @classmethod
    def none(cls, ways: int, shape: torch.Size, undecided: Tensor) -> _Worst:
        zero = torch.zeros(ways, shape[0], dtype=torch.float64, device=undecided.device)
        return cls(zero - 1, zero.long(), zero.clone(), zero.clone(), zero.clone(), zero.clone(), undecided, shape)

    def way(self) -> Tensor:
        """(B,): the way by which each sample is judged, the one that fits best where rounding does not decide."""
        return torch.where(self.undecided, self.ratio.argmin(0), 0)

    def comparison(self) -> Comparison:
        way = self.way()
        rows = torch.arange(len(way), device=way.device)
        sample = int(self.ratio[way, rows].argmax())
        at = int(way[sample]), sample
        place = torch.unravel_index(self.place[at].cpu(), self.shape[1:])
        return Comparison(
            ratio=float(self.ratio[at]),
            index=(sample, *(int(i) for i in place)),
            observed=float(self.observed[at]),
            required=float(self.required[at]),
            bound=float(self.bound[at]),
            judged=float(self.judged[way, rows].sum() / math.prod(self.shape)),
        )


def _look(
    out: _Worst,
    latents: _Latents,
    ways: list[tuple[_Combination, _Combination]],
    floor: float,
    factor: float,
    widen: Tensor,
    dtype: torch.dtype,
) -> None:
    """Compare chunk by chunk."""
    names = sorted({n for pair in ways for c in pair for n in c.error})
    like = widen.new_ones(latents.batch, 1)
    w = torch.stack([gradient.weights(names, like)[0] for gradient, _ in ways], 1) * factor
    d = torch.stack([raw.weights(names, like)[1] for _, raw in ways], 1) * abs(factor) * widen[:, :, None]
    for rows, columns, block in latents.blocks(names):
        value = w[rows] @ block
        error = (d[rows] @ block.abs_()).add_(floor * abs(factor))
        observed = latents.observed[rows, columns]
        found = [(value[:, i], error[:, i]) for i in range(len(ways))]
        for i, (required, scale) in enumerate(with_ties(found) if len(found) == 2 else found):
            ratio, judged = _judged_ratios(observed, required, scale, dtype)
            best, place = ratio.max(1)
            sample = torch.arange(len(best), device=best.device)
            new = best > out.ratio[i, rows]
            bound = THRESHOLD * unit_roundoff(dtype) * scale[sample, place]
            for field, x in (
                (out.ratio, best),
                (out.place, place + columns.start),
                (out.observed, observed[sample, place].to(torch.float64)),
                (out.required, required[sample, place]),
                (out.bound, bound),
            ):
                field[i, rows] = torch.where(new, x, field[i, rows])
            out.judged[i, rows] += judged


def _judged_ratios(observed: Tensor, required: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The test ratios, and how many components of each sample were judged."""
    quick = (observed - required).abs_().div_(scale).mul_(1 / unit_roundoff(dtype))
    reach = scale.amax(1) * (THRESHOLD * unit_roundoff(dtype)) + required.abs().amax(1)
    if bool((quick.amax() + reach.amax() < torch.finfo(dtype).max).all()):  # the usual case: everything is finite
        return quick, reach.new_full(reach.shape, required.shape[1])
    return error_ratios(observed, required, scale, dtype), judgeable(required, scale, dtype).sum(1)
