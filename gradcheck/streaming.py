r"""A gradient on latents of any size, judged in chunks (:mod:`gradcheck.chunks`); it holds less than its inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from derivations.calculus import ClipMask
from derivations.derivation import Derivation
from gradcheck.bounds import THRESHOLD, unit_roundoff
from gradcheck.case import Case
from gradcheck.chunks import ChunkedAnalysis, Combination, Latents
from gradcheck.compare import TIES, Comparison, branch, error_ratios, judgeable, with_ties

__all__ = ["compare_gradient", "sample_ratios"]


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
        chunk: numbers of one input to look at together; by default :data:`gradcheck.chunks.CHUNK` of the device.

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
        latents = Latents.of(case, observed.detach(), chunk)
        branches = [branch(derivation, False)]
        if branches[0][1].has(ClipMask):
            branches.append(branch(derivation, True))
        outputs = [expr for raw, gradient, *_ in branches for expr in (gradient, raw)]
        run = ChunkedAnalysis(derivation, latents, case, dtype, outputs)
        undecided = run.undecided.reshape(-1).expand(latents.batch)
        if not bool(undecided.any()):
            branches = branches[:1]
        combined = [(run.combination(gradient), run.combination(raw)) for raw, gradient, *_ in branches]
        wide = torch.ones(latents.batch, 1, dtype=torch.float64, device=observed.device)
        found = _Worst.none(2 + len(TIES) if len(branches) == 2 else 1, case.v_theta.shape, undecided)
        _look(found, latents, combined, run.floor, factor, wide if widen is None else widen.reshape(-1, 1), dtype)
        return found


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
    latents: Latents,
    ways: list[tuple[Combination, Combination]],
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
