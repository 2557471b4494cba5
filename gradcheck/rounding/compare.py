r"""The comparison: two gradients, and the largest ratio of their difference to what rounding explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import Mask, coordinatewise
from derivations.derivation import Derivation
from gradcheck.case import Case
from gradcheck.catalogue import Entry
from gradcheck.derived.compiled import evaluate
from gradcheck.derived.equivalent import squared_distance
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.error_scale import LARGE, error_scale

__all__ = [
    "NOTHING_SEEN",
    "TIES",
    "Comparison",
    "EntryComparison",
    "branch",
    "compare",
    "compare_branches",
    "compare_entry",
    "compare_ways",
    "error_ratios",
    "gradient_of",
    "judgeable",
    "required_gradients",
    "sample_masks",
    "tied",
    "value_scale",
    "with_ties",
]


NOTHING_SEEN = (
    "cannot be judged: in this precision rounding may change every component by its size or more, or decides on which "
    "side of its clip each sample is"
)
"""What is said of a comparison that is lost."""


@dataclass(frozen=True)
class Comparison:
    """How far two tensors are apart, in units of their rounding error.

    Attributes:
        ratio: the largest ``|observed − required| / (u·e)``; up to :data:`THRESHOLD` it passes.
        index: where that is, the sample first.
        observed, required: the two values there.
        bound: the largest difference that would have passed there.
        judged: the fraction of components on which the precision allows a judgement at all.
        resolution: the smallest f for which a gradient wrong by the factor 1 + f or 1 − f is refused: the least
            ``THRESHOLD·u·e / |required|`` of the components that are judged, those apart whose clip's branch the
            precision leaves open.  Infinite where none is left: no factor at all would be seen.
        lost: whether nothing was seen, though something is required: rounding may change every component by its size or
            more, so that a gradient of 0 would have passed as well, or leaves every branch open.
        reason: why nothing can be said, where this is the answer to a question; empty where something can.
    """

    ratio: float
    index: tuple[int, ...]
    observed: float
    required: float
    bound: float
    judged: float
    resolution: float
    lost: bool = False
    reason: str = ""

    @property
    def holds(self) -> bool:
        return self.ratio <= THRESHOLD and not self.reason


def compare(observed: Tensor, required: Tensor, scale: Tensor, dtype: torch.dtype) -> Comparison:
    """Compare componentwise against the error scale e of :func:`gradcheck.rounding.error_scale.error_scale`."""
    return _worst(observed, required, scale, error_ratios(observed, required, scale, dtype), dtype)


def error_ratios(observed: Tensor, required: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``|observed − required| / (u·e)``, componentwise; infinite where one is not finite, 0 where nothing is judged."""
    a, b = observed.detach().to(torch.float64), required.detach().to(torch.float64)
    difference = (a - b).abs()
    ratios = torch.where(difference == 0, 0.0, difference / (unit_roundoff(dtype) * scale))
    ratios = torch.where(a.isfinite() & b.isfinite(), ratios, torch.inf)
    return torch.where(judgeable(b, scale, dtype), ratios, 0.0)


def judgeable(required: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Where the precision allows a judgement: the bound is finite, and the value within the dtype's range."""
    return required.abs() + THRESHOLD * unit_roundoff(dtype) * scale < torch.finfo(dtype).max


def _worst(
    observed: Tensor,
    required: Tensor,
    scale: Tensor,
    ratios: Tensor,
    dtype: torch.dtype,
    undecided: Tensor | None = None,
) -> Comparison:
    scale = scale.expand(ratios.shape)
    exact = required.detach().to(torch.float64)
    judged = judgeable(exact, scale, dtype)
    bound = THRESHOLD * unit_roundoff(dtype) * scale
    seen = judged & (exact != 0) if undecided is None else judged & (exact != 0) & ~undecided
    index = tuple(int(i) for i in torch.unravel_index(ratios.argmax(), ratios.shape))
    resolution = float(torch.where(seen, bound / exact.abs(), torch.inf).min())
    asked = bool((~judged | (exact != 0)).any()) or (undecided is not None and bool(undecided.any()))
    return Comparison(
        ratio=float(ratios[index]),
        index=index,
        observed=float(observed[index]),
        required=float(required[index]),
        bound=float(bound[index]),
        judged=float(judged.to(torch.float64).mean()),
        resolution=resolution,
        lost=asked and not resolution < 1,
    )


def compare_branches(
    observed: Tensor, branches: list[tuple[Tensor, Tensor]], undecided: Tensor, dtype: torch.dtype
) -> Comparison:
    """Compare with the first branch; where the clip's branch is undecided, with whichever fits the sample better."""
    required, scale = branches[0]
    ratios = error_ratios(observed, required, scale, dtype)
    for other, other_scale in branches[1:]:
        theirs = error_ratios(observed, other, other_scale, dtype)
        column = (ratios.shape[0], *(1,) * (ratios.ndim - 1))
        better = undecided & (theirs.flatten(1).amax(1) < ratios.flatten(1).amax(1)).reshape(column)
        ratios, required = torch.where(better, theirs, ratios), torch.where(better, other, required)
        scale = torch.where(better, other_scale, scale)
    return _worst(observed, required, scale, ratios, dtype, undecided)


def compare_ways(
    observed: Tensor,
    ways: Callable[[slice], list[tuple[Tensor, Tensor]]],
    undecided: Tensor,
    dtype: torch.dtype,
) -> Comparison:
    """As :func:`compare_branches`, with the ways that some samples may go made when they are asked for: of large
    latents one sample is held at a time."""
    if len(observed) == 1 or observed[0].numel() <= LARGE:
        return compare_branches(observed, ways(slice(None)), undecided, dtype)
    column = undecided.expand(len(observed), *undecided.shape[1:])
    rows = [slice(i, i + 1) for i in range(len(observed))]
    found = [compare_branches(observed[row], ways(row), column[row], dtype) for row in rows]
    worst = max(range(len(found)), key=lambda i: found[i].ratio)  # the first of several, as argmax takes it
    resolution = min(c.resolution for c in found)
    return replace(
        found[worst],
        index=(worst, *found[worst].index[1:]),
        judged=sum(c.judged for c in found) / len(found),
        resolution=resolution,
        lost=not resolution < 1 and any(c.lost for c in found),
    )


def gradient_of(loss: Tensor, v: Tensor) -> Tensor:
    """Gradient of the summed per-sample loss; zero where the loss does not depend on the velocity."""
    if not loss.requires_grad:
        return torch.zeros_like(v)
    (gradient,) = torch.autograd.grad(loss.sum(), v, allow_unused=True, materialize_grads=True)
    return gradient


@dataclass(frozen=True)
class EntryComparison:
    """The two comparisons of one problem.

    Attributes:
        gradient: autograd of the original loss against the derived gradient, evaluated in float64: the sharp one.
        equivalence: autograd of the original loss against autograd of the equivalent loss, both in the case's
            precision.  Its bound holds the output's size too, which the squared distance subtracts from the target.
    """

    gradient: Comparison
    equivalence: Comparison

    @property
    def holds(self) -> bool:
        return self.gradient.holds and self.equivalence.holds

    @property
    def ratio(self) -> float:
        return max(self.gradient.ratio, self.equivalence.ratio)


def compare_entry(entry: Entry, case: Case) -> EntryComparison:
    """Judge one catalogue entry on one case, at its output."""
    dtype = case.output.dtype
    observed = gradient_of(entry.loss(case), case.output)
    exact, equivalent = [], []
    for other_branch in (False, True):
        gradient, bound, required, pull, undecided = required_gradients(entry.derivation, case, other_branch)
        exact.append((gradient, bound))
        equivalent.append((required, bound + pull))
        if not bool(undecided.any()):
            break
    else:
        exact, equivalent = (with_ties(branches) for branches in (exact, equivalent))
    return EntryComparison(
        compare_branches(observed, exact, undecided, dtype), compare_branches(observed, equivalent, undecided, dtype)
    )


TIES = (0.5, 0.75, 0.25)
"""How much of a branch autograd takes where rounding makes a tie: half; and half of a half where the clip's own minimum
ties with its bound and the surrogate's with the clipped term."""


def with_ties(branches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Both branches, under the wider bound; and the parts of both that autograd takes where rounding makes ties."""
    (a, scale_a), (b, scale_b) = branches
    scale = torch.maximum(scale_a, scale_b)
    return [(way, scale) for way in tied(a, b)]


def tied(a: Tensor, b: Tensor) -> list[Tensor]:
    """Both branches, and the parts of both that autograd takes where rounding makes ties."""
    return [a, b, *(part * a + (1 - part) * b for part in TIES)]


def required_gradients(
    derivation: Derivation, case: Case, other_branch: bool, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The derived gradient and the equivalent loss's, with the error scales of each, and the undecided samples.

    ``dtype`` is the precision that is judged, the case's own by default; the equivalent loss is computed in the case's.
    """
    raw_gradient, gradient, weight, target = branch(derivation, other_branch)
    v = case.output.detach().to(torch.float64)
    w, point, exact = evaluate(derivation, case, weight, target, gradient, dtype=torch.float64)
    (raw, w_error, point_error), undecided = error_scale(derivation, case, raw_gradient, weight, target, dtype=dtype)
    distance = (v - point).abs()
    pull = 2 * (w * (point_error + v.abs() + distance) + (w_error + 2 * w) * distance)
    with torch.no_grad():
        own_w, own_point = evaluate(derivation, case, weight, target)
    required = gradient_of(squared_distance(case.output, own_w, own_point), case.output)
    return exact.expand(v.shape), raw.expand(v.shape), required, pull, undecided


def value_scale(derivation: Derivation, case: Case, loss: sp.Expr, dtype: torch.dtype) -> Tensor:
    """The error scale of a loss's value: where a mask in it is undecided, as wide as the value jumps there."""
    other = loss.xreplace({m: m.other for m in sample_masks(loss)})
    (scale, other_scale), undecided = error_scale(derivation, case, loss, other, dtype=dtype)
    if other == loss:
        return scale
    here, there = evaluate(derivation, case, loss, other, dtype=torch.float64)
    jump = (here - there).abs() / (THRESHOLD * unit_roundoff(dtype))
    return torch.where(undecided, torch.maximum(scale, other_scale) + jump, scale)


@lru_cache(maxsize=300)
def branch(derivation: Derivation, other: bool) -> tuple[sp.Expr, ...]:
    """Raw gradient, gradient, weight and target, on the clip's own branch or on the other one."""
    exprs = (derivation.raw_gradient, derivation.gradient, derivation.weight, derivation.target)
    return tuple(e.xreplace({m: m.other for m in sample_masks(e)}) for e in exprs) if other else exprs


@lru_cache(maxsize=300)
def sample_masks(expr: sp.Expr) -> frozenset[sp.Expr]:
    """The masks that hold for whole samples; those of single coordinates are allowed for in the bound."""
    return frozenset(m for m in expr.atoms(Mask) if not coordinatewise(m))
