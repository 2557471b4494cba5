r"""Two gradients that are one, of which nothing else is known: how far rounding may put them apart."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.judging.adapter import AdapterError
from gradcheck.oracle.judge import (
    Judge,
    Look,
    look,
)
from gradcheck.oracle.problem import per_sample, working_dtype
from gradcheck.oracle.required import Required
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff


def two_roundings(wanted: Required, observed: Tensor) -> Tensor:
    """The error scale of two evaluations of the same gradient, by the bound of the declared loss."""
    size = observed.abs().to(torch.float64)
    lost = 0.0  # by each where it is rounded to what the network puts out
    if wanted.output_dtype is not None:
        lost = wanted.output_unit / (THRESHOLD * unit_roundoff(wanted.dtype))
    return 2 * wanted.scale + (4 + 2 * lost) * size


_SWAYS = 6
_SWAY = 4.0
_REACH = 8.0


def own_rounding(judge: Judge, case: Case) -> Tensor:
    r"""The error scale of two evaluations of a gradient of which nothing is known: what it shows by itself.

    The latents, and the other numbers that are no times, are moved by up to ``_SWAY`` units of roundoff, ``_SWAYS``
    times.  That draws every rounding behind them anew, so that the gradient moves by as much as two evaluations of it
    differ (in the order of a sum, or in the last bit of an exponential), and by what its condition makes of the inputs'
    own rounding.  Of a few draws the largest may fall short of what can happen; ``_REACH`` times the largest move of
    any component of the sample does not, as the moves of a sample's components have mostly one cause, its coefficient.
    A dependence on other samples is no rounding: it is larger by many orders of magnitude, and stays a failure.

    Returns:
        (B, 1, …, 1), in units of u; 0 for code that refuses a moved case, which a look-up of its numbers may do.
    """
    unit = unit_roundoff(working_dtype(judge.conventions, case))
    generator = torch.Generator().manual_seed(judge.seed)
    first = judge.observe(case).gradient.to(torch.float64)
    moved = torch.zeros_like(first)
    for _ in range(_SWAYS):
        near = case.replace(**{name: _swayed(getattr(case, name), unit, generator) for name in _swaying(case)})
        try:
            moved = torch.maximum(moved, (judge.observe(near).gradient.to(torch.float64) - first).abs())
        except AdapterError:
            return torch.zeros_like(first)[:, :1]
    most = moved.flatten(1).amax(1).nan_to_num(0.0, 0.0, 0.0)
    return _REACH / unit * most.reshape(-1, *(1,) * (first.ndim - 1))


_EXACT = {
    "sigmas",
    "t",
    "t_prev",
    "dt",
    "timestep",
    "step_index",
    "alpha_bar",
    "alpha_bar_prev",
    "preference",
    "window",
    "mask",
}
"""What code looks up or compares with, so that its numbers must stay."""


def _swaying(case: Case) -> list[str]:
    return [n for n in per_sample(case) if n not in _EXACT and getattr(case, n).is_floating_point()]


def _swayed(x: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    sway = 1 + _SWAY * unit * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)
    return (x.detach().to(torch.float64) * sway.to(x.device)).to(x.dtype)


def of_two(judge: Judge, case: Case, wanted: Required, observed: Tensor) -> Tensor:
    """The error scale of two evaluations of a gradient, by the declared loss's bound or by what it shows itself."""
    return torch.maximum(two_roundings(wanted, observed), own_rounding(judge, case))


def same_twice(
    judge: Judge, case: Case, first: Tensor, second: Tensor, rows: list[int], wanted: Required | None = None
) -> Look:
    """Compare two gradients that are one, of which nothing else is known: it may be another loss than the declared one.

    Args:
        judge: the implementation.
        case: that ``first`` is the gradient on.
        first: of all of its samples.
        second: of the samples in ``rows``, in that order.
        rows: which they are.
        wanted: what is required on the case, where it is known.
    """
    wanted = wanted or judge.required(case)
    found = look(second, first[rows], two_roundings(wanted, first)[rows], wanted.dtype)
    if found.holds or not bool(second.isfinite().all()):
        return found
    return look(second, first[rows], of_two(judge, case, wanted, first)[rows], wanted.dtype)
