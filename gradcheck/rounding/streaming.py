"""A gradient on latents of any size, judged in chunks; it holds less than its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import Each, Mask, Total
from derivations.derivation import Derivation
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.chunks import ChunkedAnalysis, Latents
from gradcheck.rounding.compare import TIES, Comparison, branch, error_ratios, judgeable, tied
from gradcheck.rounding.error_scale import error_scale

__all__ = ["Judged", "compare_gradient", "judge_gradient", "sample_ratios"]


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
    r"""Compare a gradient in the network's output with the derived one, within the error bound of the precision.

    Args:
        derivation: says what the gradient must be.
        case: what the implementation received, latents of shape (B, \*latent), of any size.
        observed: the gradient that it computed, of the output's shape.
        factor: what multiplies every sample's gradient, 1/B for a loss that is averaged over the batch.
        dtype: the precision that the implementation worked in; the case's own by default.
        widen: (B,), a factor by which the bound of each sample is wider.
        chunk: numbers of one input to look at together; by default :data:`gradcheck.rounding.chunks.CHUNK` of the
        device.

    Returns:
        The worst component and its test ratio, as :func:`gradcheck.rounding.compare.compare_branches` gives them.
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
    return found.chosen(found.ratio), found.chosen(found.judged) / math.prod(found.shape[1:])


@dataclass(frozen=True)
class Judged:
    """A comparison, sample by sample.

    Attributes:
        comparison: the worst component, as :func:`compare_gradient` gives it.
        ratios: (B,), each sample's worst test ratio.
        resolution: (B,), the least relative error of each sample's gradient that would have been refused; infinite
            where nothing of it would be seen.  Where rounding leaves the clip's branch open, that of the one that fits.
        numbers: the values of the scalar expressions that were asked for, (B,) each.
    """

    comparison: Comparison
    ratios: Tensor
    resolution: Tensor
    numbers: tuple[Tensor, ...]


def judge_gradient(
    derivation: Derivation,
    case: Case,
    observed: Tensor,
    *,
    factor: float,
    dtype: torch.dtype,
    output_dtype: torch.dtype | None = None,
    widen: Tensor | None = None,
    uses: Sequence[sp.Expr] = (),
    by_target: bool = False,
    scalars: Sequence[sp.Expr] = (),
    chunk: int | None = None,
) -> Judged:
    r"""As :func:`compare_gradient`, sample by sample, for a network that works in a precision of its own.

    Args:
        output_dtype: what the network puts out, where that is lower than ``dtype``.  Its gradient g is rounded to it
            once, to nearest: with \|g − required\| ≤ b, what is observed is off by b + u_out·(\|required\| + b), and by
            half the smallest number of ``output_dtype``.
        uses: vectors whose sum is the gradient, where the loss reads the output in several places: what each of them
            sends back is rounded to ``output_dtype``, and so is every sum of them, by up to u_out·Σ\|use\| each.
        by_target: allow for what the form w‖v − sg(v*)‖² loses: 2w (\|v\| + \|v*\|), however small the difference.
        scalars: scalar expressions whose values are wanted besides.
        chunk: as in :func:`compare_gradient`.
    """
    found = _judge(derivation, case, observed, factor, dtype, widen, chunk, output_dtype, uses, by_target, scalars)
    return Judged(found.comparison(), found.chosen(found.ratio), found.chosen(found.resolution), found.numbers)


def _judge(
    derivation: Derivation,
    case: Case,
    observed: Tensor,
    factor: float,
    dtype: torch.dtype | None,
    widen: Tensor | None,
    chunk: int | None,
    output_dtype: torch.dtype | None = None,
    uses: Sequence[sp.Expr] = (),
    by_target: bool = False,
    scalars: Sequence[sp.Expr] = (),
) -> _Worst:
    dtype = dtype or case.output.dtype
    with torch.no_grad():
        latents = Latents.of(case, observed.detach(), chunk)
        branches = _branches(derivation)
        pull = branches[0][2:] if by_target else ()
        outputs = [expr for raw, gradient, *_ in branches for expr in (gradient, raw)]
        if _of_coordinates(derivation, (*outputs, *uses, *scalars)):
            whole = _Whole(derivation, case, latents.observed, dtype)
            return whole.judged(branches, factor, widen, output_dtype, uses, pull, scalars)
        run = ChunkedAnalysis(derivation, latents, case, dtype, [*outputs, *uses, *scalars, *pull])
        if not bool(run.undecided.any()):
            branches = branches[:1]
        ways = [(gradient, raw) for raw, gradient, *_ in branches]
        count = 2 + len(TIES) if len(branches) == 2 else 1
        found = _Worst.none(count, case.output.shape, run.undecided)
        _look(found, latents, run, ways, factor, widen, dtype, output_dtype, uses, pull)
        if not bool(found.usual):  # some number leaves the precision's range: once more, with care for each component
            found = replace(_Worst.none(count, case.output.shape, run.undecided), careful=True)
            _look(found, latents, run, ways, factor, widen, dtype, output_dtype, uses, pull)
        found.numbers = tuple(run.coefficients(expr)[:, 0] for expr in scalars)
        return found


@lru_cache(maxsize=300)
def _branches(derivation: Derivation) -> list[tuple[sp.Expr, ...]]:
    """Raw gradient, gradient, weight and target, on the clip's branch and on the other one if there is a clip."""
    own = branch(derivation, False)
    return [own, branch(derivation, True)] if own[1].has(Mask) else [own]


@lru_cache(maxsize=300)
def _of_coordinates(derivation: Derivation, exprs: tuple[sp.Expr, ...]) -> bool:
    """Whether an expression holds functions of coordinates."""
    return any(derivation.inline(expr).has(Total, Each) for expr in exprs)


# ------------------------------------------------------------------------------------------ the comparison


@dataclass(frozen=True)
class _Whole:
    """The same without chunks, for functions of coordinates: no combination of latents with a number a sample each."""

    derivation: Derivation
    case: Case
    observed: Tensor
    dtype: torch.dtype

    def judged(
        self,
        branches: list[tuple[sp.Expr, ...]],
        factor: float,
        widen: Tensor | None,
        output_dtype: torch.dtype | None,
        uses: Sequence[sp.Expr],
        pull: Sequence[sp.Expr],
        scalars: Sequence[sp.Expr],
    ) -> _Worst:
        scales, undecided = error_scale(self.derivation, self.case, *(raw for raw, *_ in branches), dtype=self.dtype)
        batch, size = self.observed.shape
        undecided = undecided.expand(batch, *(1,) * (self.case.output.ndim - 1)).reshape(-1)
        if not bool(undecided.any()):
            branches, scales = branches[:1], scales[:1]
        more = torch.zeros_like(self.observed, dtype=torch.float64)
        if pull:
            weight, target = (self._rows(x) for x in pull)
            more = 2 * weight * (self.case.output.detach().flatten(1).abs() + target.abs())
        found = []
        for (_, gradient, *_), scale in zip(branches, scales, strict=True):
            error = scale.expand(self.case.output.shape).flatten(1)
            error = error if widen is None else error * widen.reshape(-1, 1)
            found.append((factor * self._rows(gradient), abs(factor) * (error + more)))
        parts = [(factor * self._rows(use)).abs() for use in uses]
        used = _sent(torch.stack(parts).sum(0), len(parts), output_dtype) if parts else None
        out = _Worst.none(2 + len(TIES) if len(branches) == 2 else 1, self.case.output.shape, undecided)
        out.careful = True
        out.numbers = tuple(self._rows(expr)[:, 0] for expr in scalars)
        everything = slice(0, batch), slice(0, size)
        _note(out, everything, self.observed.to(torch.float64), found, used, self.dtype, output_dtype)
        return out

    def _rows(self, expr: sp.Expr) -> Tensor:
        """An expression's values, (B, D)."""
        (value,) = evaluate(self.derivation, self.case, expr, dtype=torch.float64)
        return value.expand(self.case.output.shape).flatten(1)


@dataclass
class _Worst:
    """For each way that the clip may have gone, each sample's worst component.

    Whether all numbers are finite is asked once, after the last chunk: each question makes a GPU's queue run dry.
    """

    worst: Tensor  # (5, ways, B): its ratio, its place, what was observed and required there, the bound
    judged: Tensor  # (ways, B)
    resolution: Tensor  # (ways, B)
    undecided: Tensor  # (B,)
    shape: torch.Size
    usual: Tensor  # (), whether everything is within the precision's range
    numbers: tuple[Tensor, ...] = ()  # (B,) each
    careful: bool = False
    open: tuple[int, ...] = ()  # the samples that are undecided, where there is more than one way

    @classmethod
    def none(cls, ways: int, shape: torch.Size, undecided: Tensor) -> _Worst:
        worst = torch.full((5, ways, shape[0]), -1.0, dtype=torch.float64, device=undecided.device)
        judged, resolution = torch.zeros_like(worst[0]), torch.full_like(worst[0], torch.inf)
        usual = torch.ones((), dtype=torch.bool, device=undecided.device)
        places = tuple(undecided.nonzero().flatten().tolist()) if ways > 1 else ()
        return cls(worst, judged, resolution, undecided, shape, usual, open=places)

    @property
    def ratio(self) -> Tensor:
        return self.worst[0]

    def worst_of(
        self, observed: Tensor, required: Tensor, scale: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, int, Tensor]:
        """As :func:`_worst_of_any` where everything is within the range, at half the cost; notes whether it is."""
        best, place = (observed - required).abs_().div_(scale).max(-1)
        best = best / unit_roundoff(dtype)
        size = required.abs()
        reach = scale.amax() * (THRESHOLD * unit_roundoff(dtype)) + size.amax()
        self.usual &= best.amax() + reach < torch.finfo(dtype).max
        return best, place, required.shape[-1], size.div_(scale).amax(-1)

    @cached_property
    def _way(self) -> Tensor:
        """(B,): the way by which each sample is judged, the one that fits best where rounding does not decide."""
        return torch.where(self.undecided, self.ratio.argmin(0), 0)

    def chosen(self, found: Tensor) -> Tensor:
        """(ways, B) → (B,), each sample by the way by which it is judged."""
        return found.gather(0, self._way[None])[0] if self.open else found[0]

    def comparison(self) -> Comparison:
        judged, ratios = self.chosen(self.judged), self.chosen(self.ratio)
        resolution = float(self.resolution[0].masked_fill(self.undecided, torch.inf).min())
        sample = int(ratios.argmax())
        way = int(self._way[sample]) if self.open else 0
        ratio, place, observed, required, bound = self.worst[:, way, sample].tolist()
        return Comparison(
            ratio=ratio,
            index=(sample, *_unravelled(int(place), self.shape[1:])),
            observed=observed,
            required=required,
            bound=bound,
            judged=float(judged.sum()) / math.prod(self.shape),
            resolution=resolution,
            lost=not resolution < 1 and bool(self._asked().any()),
        )

    def _asked(self) -> Tensor:
        """(B,): whether anything but 0 is required: that it is 0 throughout is known where all is judged."""
        return (self.judged[0] < math.prod(self.shape[1:])) | (self.resolution[0] != torch.inf) | self.undecided


def _unravelled(place: int, shape: torch.Size) -> tuple[int, ...]:
    out: tuple[int, ...] = ()
    for size in reversed(shape):
        place, i = divmod(place, size)
        out = (i, *out)
    return out


def _look(
    out: _Worst,
    latents: Latents,
    run: ChunkedAnalysis,
    ways: list[tuple[sp.Expr, sp.Expr]],
    factor: float,
    widen: Tensor | None,
    dtype: torch.dtype,
    output_dtype: torch.dtype | None,
    uses: Sequence[sp.Expr],
    pull: Sequence[sp.Expr],
) -> None:
    """Compare chunk by chunk with each way's gradient, within its bound."""
    names = run.names(*(expr for pair in ways for expr in pair), *uses, *pull[1:])
    pulled = _pulled(run, names, pull, factor) if pull else None
    parts = [run.coefficients(use, names) * factor for use in uses]
    w = torch.stack([run.coefficients(gradient, names) for gradient, _ in ways], 1) * factor
    d = torch.stack([run.bounds(raw, names) for _, raw in ways], 1) * abs(factor)
    if widen is not None:
        d = d * widen.reshape(-1, 1, 1)
    for rows, columns, block in latents.blocks(names):
        value = w[rows].bmm(block)
        sent = (torch.stack([part[rows] for part in parts], 1) @ block).abs_().sum(1) if uses else None
        used = None if sent is None else _sent(sent, len(uses), output_dtype)
        error = d[rows].bmm(block.abs_()).add_(run.floor * abs(factor))
        if pulled is not None:
            error += pulled[rows, None] @ block
        observed = latents.observed[rows, columns].to(torch.float64)
        found = [(value[:, i], run.held(raw, names, rows, block, error[:, i])) for i, (_, raw) in enumerate(ways)]
        _note(out, (rows, columns), observed, found, used, dtype, output_dtype)


def _note(
    out: _Worst,
    where: tuple[slice, slice],
    observed: Tensor,
    found: list[tuple[Tensor, Tensor]],
    used: Tensor | None,
    dtype: torch.dtype,
    output_dtype: torch.dtype | None,
) -> None:
    """Compare a block of samples and coordinates with what each branch requires there, and within which error scale."""
    rows, columns = where
    required, scale = found[0]
    if len(found) > 1:
        scale = torch.maximum(scale, found[1][1])
    _keep(out, (slice(0, 1), rows, columns), observed, required[None], scale, used, dtype, output_dtype)
    there = [i for i in out.open if rows.start <= i < rows.stop]
    if len(found) == 1 or not there:
        return
    # what else may have been the branch is looked at where rounding does not decide it
    some = torch.tensor([i - rows.start for i in there], device=observed.device)
    observed, scale, use = observed[some], scale[some], None if used is None else used[some]
    every = torch.stack(tied(required[some], found[1][0][some])[1:])
    together = max(1, _TOGETHER // observed.numel())
    for i in range(0, len(every), together):
        ways = slice(i + 1, min(i + together, len(every)) + 1)
        part = every[i : i + together]
        _keep(out, (ways, some + rows.start, columns), observed, part, scale, use, dtype, output_dtype)


_TOGETHER = 2**14
"""Numbers of several ways that are looked at together: more would save no time, and take room."""


def _keep(
    out: _Worst,
    where: tuple[slice, slice | Tensor, slice],
    observed: Tensor,
    required: Tensor,
    scale: Tensor,
    used: Tensor | None,
    dtype: torch.dtype,
    output_dtype: torch.dtype | None,
) -> None:
    """Keep the worst of samples under some ways, whose ``required`` is (ways, samples, columns); the rest is as of one
    way, (samples, columns)."""
    ways, rows, columns = where
    if output_dtype is not None:
        scale = _rounded_once_more(required, scale, used, dtype, output_dtype)
    best, place, judged, signal = (_worst_of_any if out.careful else out.worst_of)(observed, required, scale, dtype)
    there = place[..., None]
    values = [x.expand_as(required).gather(2, there)[..., 0] for x in (observed, required, scale)]
    values[2] *= THRESHOLD * unit_roundoff(dtype)
    worst = torch.stack([best, place + columns.start, *values])
    out.judged[ways, rows] += judged
    least = THRESHOLD * unit_roundoff(dtype) / signal
    if observed.shape[1] == math.prod(out.shape[1:]):  # there is nothing before it to compare with
        out.worst[:, ways, rows], out.resolution[ways, rows] = worst, least
        return
    before = out.worst[:, ways, rows]
    out.worst[:, ways, rows] = torch.where(best > before[0], worst, before)
    out.resolution[ways, rows] = torch.minimum(out.resolution[ways, rows], least)


def _pulled(run: ChunkedAnalysis, names: Sequence[str], pull: Sequence[sp.Expr], factor: float) -> Tensor:
    """Coefficients of what a squared distance to a detached target loses, on the latents' magnitudes, (B, names)."""
    weight, target = pull
    size = run.coefficients(target, names).abs()
    size[:, names.index(run.output)] += 1
    return 2 * abs(factor) * run.coefficients(weight) * size


def _sent(sizes: Tensor, count: int, output_dtype: torch.dtype | None) -> Tensor:
    """The size of numbers up to ``sizes`` that are rounded so many times, each by u of it: of one below the normal ones
    as if it were the smallest of those."""
    return count * (sizes + (0.0 if output_dtype is None else torch.finfo(output_dtype).smallest_normal))


def _rounded_once_more(
    required: Tensor, scale: Tensor, used: Tensor | None, dtype: torch.dtype, output_dtype: torch.dtype
) -> Tensor:
    """The error scale of a gradient that was rounded to the network's own dtype at the end, or in the parts used;
    infinite where it, or a part of it, may leave that dtype's range."""
    unit, narrow = THRESHOLD * unit_roundoff(dtype), torch.finfo(output_dtype)
    size = required.abs() if used is None else required.abs() + used
    rounding = (size + unit * scale) * unit_roundoff(output_dtype) + narrow.smallest_normal * narrow.eps / 2
    return torch.where(size + unit * scale + rounding < narrow.max, scale + rounding / unit, torch.inf)


def _worst_of_any(
    observed: Tensor, required: Tensor, scale: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each sample: its largest test ratio, where that is, how many components were judged, and the largest
    ``|required| / e`` of those."""
    size = required.abs()
    best, place = error_ratios(observed, required, scale, dtype).max(-1)
    judged = judgeable(required, scale, dtype)
    return best, place, judged.sum(-1), torch.where(judged & (size > 0), size / scale, 0.0).amax(-1)
