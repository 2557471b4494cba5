r"""What a declared implementation must return: the derived gradient under its conventions, with its error bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import error_gap, group_gap, partner_gap
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.derived.reads import reads
from gradcheck.oracle.arrangement import branch_shares, counts_samples, guidance_scale, others_error, unit
from gradcheck.oracle.displaced import by_guards, by_guidance, by_times, by_way_of_data
from gradcheck.oracle.problem import effective_case, output_dtype, sample_of, working_dtype
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import Comparison, compare, compare_ways, sample_masks, tied
from gradcheck.rounding.compare import branch as branch_of
from gradcheck.rounding.error_scale import LARGE, error_scale

__all__ = ["Required", "averaged_over", "detours", "output_unit", "overall_factor", "required_gradient", "required_of"]


_EDGE = 0.05
_CONVERTED = 0.25


@dataclass(frozen=True)
class Required:
    """The required gradient, on each clip branch that rounding leaves open, with the error scale: the wider one of two.

    ``output_dtype`` is the precision that the gradient is rounded to at the end, where that is lower than ``dtype``,
    and ``output_unit`` how far that puts it off, relative to it.
    """

    branches: list[tuple[Tensor, Tensor]]
    undecided: Tensor
    dtype: torch.dtype
    output_dtype: torch.dtype | None = None
    output_unit: float = 0.0

    @property
    def gradient(self) -> Tensor:
        return self.branches[0][0]

    @property
    def scale(self) -> Tensor:
        return self.branches[0][1]

    def nearest(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient and error scale, for undecided samples those of the branch that fits best."""
        gradient, scale = self.branches[0]
        undecided = (
            self.undecided.expand(len(gradient), *self.undecided.shape[1:])
            if self.undecided.ndim
            else self.undecided.expand(len(gradient))
        ).reshape(-1)
        gradient, scale = gradient.clone(), scale.clone()
        for i in undecided.nonzero().flatten().tolist():
            row = slice(i, i + 1)
            ways = self.ways(row)
            ratios = [compare(observed[row], g, s, self.dtype).ratio for g, s in ways]
            gradient[row], scale[row] = ways[ratios.index(min(ratios))]
        return gradient, scale

    def compare(self, observed: Tensor) -> Comparison:
        """Judge an observed gradient."""
        return compare_ways(observed, self.ways, self.undecided, self.dtype)

    def ways(self, rows: slice = slice(None)) -> list[tuple[Tensor, Tensor]]:
        """Some samples' branches, and the parts of both that autograd takes where rounding makes ties."""
        own = [(required[rows], scale[rows]) for required, scale in self.branches]
        return [(way, own[0][1]) for way in tied(own[0][0], own[1][0])] if len(own) == 2 else own


def required_of(conventions: Conventions, case: Case, dtype: torch.dtype | None = None) -> Required:
    """What the implementation's gradient in ``v_theta`` must be on this case, for the precision that it works in."""
    factor = overall_factor(conventions, case)
    dtype = dtype or working_dtype(conventions, case)
    alone = conventions.pairs is None and conventions.groups is None and not conventions.steps
    if not alone or len(case.output) == 1 or case.output[0].numel() <= LARGE:
        return _required_of(conventions, case, factor, dtype)
    rows = [slice(i, i + 1) for i in range(len(case.output))]
    each = (_required_of(conventions, sample_of(case, row), factor, dtype) for row in rows)
    return _together(case, rows, each)


def _together(case: Case, rows: list[slice], each: Iterator[Required]) -> Required:
    """What is required of large samples, made one by one: what is held on the way is of one of them."""
    first = None
    branches: list[tuple[Tensor, Tensor]] = []
    column = (len(case.output), *(1,) * (case.output.ndim - 1))
    undecided = torch.zeros(column, dtype=torch.bool, device=case.output.device)
    for row, one in zip(rows, each, strict=True):
        first = first or one
        while len(branches) < len(one.branches):  # of the samples before, rounding leaves no other branch open
            if not branches:
                required, scale = (torch.empty_like(case.output, dtype=torch.float64) for _ in range(2))
                branches = [(required.detach(), scale.detach())]
            else:
                branches.append((branches[0][0].clone(), branches[0][1]))
        for i, (required, scale) in enumerate(branches):
            required[row], scale[row] = one.branches[i if len(one.branches) > 1 else 0]
        undecided[row] = one.undecided
    assert first is not None
    return replace(first, branches=branches, undecided=undecided)


def _required_of(conventions: Conventions, case: Case, factor: float, dtype: torch.dtype) -> Required:
    derivation = conventions.derivation
    effective = effective_case(conventions, case)
    # Of several masks any may be open on its own: such samples are not judged.
    several = len(sample_masks(branch_of(derivation, False)[0])) > 1
    branches, undecided = [], torch.zeros((), dtype=torch.bool)
    for other in (False, True):
        raw, gradient, weight, target = branch_of(derivation, other)
        exact, w, point = evaluate(derivation, effective, gradient, weight, target, dtype=torch.float64)
        (scale,), undecided = error_scale(derivation, effective, raw, dtype=dtype)
        shape = case.output.shape
        if conventions.loss or conventions.on_top:
            scale = scale + _own_form(derivation, effective, gradient, dtype)
        wide = detours(derivation, case) * (scale + 2 * exact.abs()) + _by_target(case, w, point)
        lost, carried = by_times(derivation, effective, other, unit_roundoff(dtype))
        wide, undecided = wide + lost, undecided | carried
        wide = wide + by_way_of_data(derivation, effective, other)
        wide = wide + by_guidance(conventions, derivation, effective, other)
        if conventions.pairs is not None or conventions.groups is not None:
            wide = wide + _by_the_others(conventions, effective, gradient, dtype)
        if conventions.eps:
            moved, changed = by_guards(derivation, effective, conventions.eps, other)
            wide = wide + moved / (THRESHOLD * unit_roundoff(dtype))
            undecided = undecided | changed
        required, allowed = factor * exact.expand(shape), abs(factor) * wide.expand(shape)
        if conventions.output_dtype is not None:
            uses = evaluate(derivation, effective, *_uses(conventions, raw, other), dtype=torch.float64)
            sent = factor * _to_the_branches(conventions, case)
            allowed = _rounded_at_the_end(conventions, dtype, required, allowed, [sent * use for use in uses])
        if several:
            allowed = torch.where(undecided, torch.inf, allowed)
        branches.append((required, allowed))
        if several or not bool(undecided.any()):
            break
    if len(branches) == 2:
        (required, allowed), (other_required, other_allowed) = branches
        allowed = torch.maximum(allowed, other_allowed)
        branches = [(required, allowed), (other_required, allowed)]
    return Required(
        branches,
        undecided,
        dtype,
        output_dtype(conventions),
        output_unit(conventions),
    )


def _uses(conventions: Conventions, raw: sp.Expr, other: bool) -> tuple[sp.Expr, ...]:
    """What each place that reads the output sends back to it, on one branch of the clip."""
    if conventions.output_casts == "once":
        parts: tuple[sp.Expr, ...] = sp.Add.make_args(raw)
        return parts
    found = reads(conventions.derivation)
    return tuple(x.xreplace({m: m.other for m in sample_masks(x)}) for x in found) if other else found


def _to_the_branches(conventions: Conventions, case: Case) -> float:
    """What the outputs are sent back of a gradient in the velocity, and how much of it comes back to the velocity.

    Two guided branches are sent w and 1 − w times it; what rounding loses there comes back with each one's share.
    """
    if conventions.guidance is None:
        return 1.0
    w = guidance_scale(conventions, case)
    cond, uncond = branch_shares(conventions, case)
    return abs(w * cond) + abs((1 - w) * uncond)


def _by_the_others(conventions: Conventions, case: Case, gradient: sp.Expr, dtype: torch.dtype) -> Tensor:
    """What the gaps of the other samples of a unit may be off, which the implementation computes, times their slope."""
    derivation = conventions.derivation
    other = partner_gap if conventions.pairs is not None else group_gap
    (error,), _ = error_scale(derivation, case, derivation.inline(error_gap), dtype=dtype)
    (slope,) = evaluate(derivation, case, sp.diff(derivation.inline(gradient), other), dtype=torch.float64)
    advantage = None if conventions.groups is None else case.advantage.to(torch.float64)
    return 2 * slope.abs() * case.expand(others_error(conventions, error.flatten(), advantage))


def _own_form(derivation: Derivation, case: Case, gradient: sp.Expr, dtype: torch.dtype) -> Tensor:
    """What the derived formula itself may lose in float64, in units of ``dtype``: nobody has chosen its form."""
    (own,), _ = error_scale(derivation, case, gradient, dtype=torch.float64)
    return own * (unit_roundoff(torch.float64) / unit_roundoff(dtype))


def output_unit(conventions: Conventions) -> float:
    """How far, relative to it, a number may be off when it is rounded to what networks put out; 0 where it is not."""
    out = output_dtype(conventions)
    if out is None:
        return 0.0
    return unit_roundoff(out) * (2 if conventions.output_rounding == "stochastic" else 1)


def _rounded_at_the_end(
    conventions: Conventions, dtype: torch.dtype, required: Tensor, scale: Tensor, uses: list[Tensor]
) -> Tensor:
    r"""The error scale of a gradient that the upcast's backward pass rounds to the output's precision.

    Rounding g to the nearest number is off by u_out·\|g\|, or by half the smallest number; up or down at random, by
    twice as much.  Where a loss reads the output in n places, autograd rounds what each sends back, and every sum of
    them: n roundings of numbers up to Σ\|use\|.  This is a bound, which the threshold must not widen.  A gradient of
    which a part, or a sum of parts, may leave the dtype's range cannot be judged: what is infinite stays so.
    """
    out = output_dtype(conventions)
    assert out is not None
    own = output_unit(conventions)
    parts = sum((use.abs() for use in uses), torch.zeros_like(required))
    lost = len(uses) * own * parts
    # of a number below the normal ones, each rounding loses up to half the smallest
    least = len(uses) * torch.finfo(out).smallest_normal * torch.finfo(out).eps * (own / unit_roundoff(out)) / 2
    unit = THRESHOLD * unit_roundoff(dtype)
    fits = torch.maximum(required.abs(), parts) + lost + unit * scale < torch.finfo(out).max
    return torch.where(fits, (1 + own) * scale + (lost + least) / unit, torch.inf)


def _by_target(case: Case, weight: Tensor, point: Tensor) -> Tensor:
    r"""What the form w‖v − sg(v*)‖² loses besides, which is the one that this package recommends.

    v* is rounded to its own size, and v is subtracted from it: 2w(v − v*) is off by 2w (\|v\| + \|v*\|) however small
    the difference is.  (What v* − v lost before it was added to v, the gradient's own bound has.)  Errors of the
    gradient below 8 u w (\|v\| + \|v*\|) are not seen for it.
    """
    return 2 * weight * (case.output.detach().to(torch.float64).abs() + point.abs())


def detours(derivation: Derivation, case: Case) -> Tensor | float:
    """What an implementation may lose besides, at the ends of time, by what it computes on the way.

    Public code forms the step's mean from the score, −(x_t − (1 − t)x̂_0)/t², whose numerator cancels to order t; a
    detour through x̂_0 or ε̂ costs the same.  It is right code, so the bound grows by 1/t, counted from where the middle
    of the time axis ends.  On the variance-preserving path the detour is x̂_0 = (x_t − √(1 − ᾱ) ε̂)/√ᾱ, which costs 1/√ᾱ
    near noise.  Where the network predicts noise or data, code may go through the other one, which costs both, and
    sooner.
    """
    converts = derivation.change is not None and bool(derivation.change.made)
    edge = _CONVERTED if converts else _EDGE
    if not (converts or derivation.process == "backward"):
        return 1.0
    if derivation.path == "vp":
        signal = case.expand(case.alpha_bar.detach().to(torch.float64))
        lost = (edge / signal).sqrt().clamp(min=1.0)
        return lost * (edge / (1 - signal)).sqrt().clamp(min=1.0) if converts else lost
    t = case.expand(case.t.detach().to(torch.float64))
    noised = t if derivation.noise_at == 1 else 1 - t
    lost = (edge / noised).clamp(min=1.0)
    return lost * (edge / (1 - noised)).clamp(min=1.0) if converts else lost


def required_gradient(conventions: Conventions, case: Case) -> Tensor:
    """The derived gradient alone, in float64, (B, \\*latent)."""
    effective = effective_case(conventions, case)
    (exact,) = evaluate(conventions.derivation, effective, conventions.derivation.gradient, dtype=torch.float64)
    return overall_factor(conventions, case) * exact.expand(case.output.shape)


def overall_factor(conventions: Conventions, case: Case) -> float:
    """What multiplies every sample's effective gradient: the constant factors and the batch reduction."""
    factor = conventions.factor * conventions.policy_factor
    return factor / (averaged_over(conventions, case) if conventions.batch_reduction == "mean" else 1)


def averaged_over(conventions: Conventions, case: Case) -> float:
    """How many samples, pairs or groups the mean over the batch is of: under a mask of samples, those that count."""
    if counts_samples(conventions):
        return float(case.window.sum())
    return case.output.shape[0] // (1 if conventions.steps else unit(conventions))  # a row of steps is no unit here
