r"""Wrong normalisations as weights of the samples on each rank.

Each is a product of three choices: what the mean is over, which samples and ranks are lost, and a factor too many or
too few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor

from gradcheck.distributed.declaration import Declaration
from gradcheck.distributed.problems import Layout
from gradcheck.distributed.required import weights

__all__ = ["BASES", "Choice", "hypotheses", "predicted"]


@dataclass(frozen=True)
class Choice:
    """One of a hypothesis's three choices.

    Attributes:
        name, cause: as reports say it.
        weigh: by what it multiplies the samples' weights: (B,) for all ranks, (W, B) on each, or one number.
        size: how much it presumes.
        declare: the keyword to declare, if it is a convention.
    """

    name: str
    cause: str
    weigh: Callable[[Layout], Tensor | float]
    size: int = 1
    declare: str = ""


BASES = {
    "rank-means": ("ranks", "each rank takes the mean of its own shard, whatever its size, and these are averaged"),
    "micro-batch-means": ("micro-batches", "each micro-batch's mean counts the same, whatever its size"),
    "sample-mean": ("samples", "it is the mean over the samples of the global batch"),
    "batch-sum": ("sum", "it is the sum over the global batch, not divided by its size"),
}
"""Name of a normalisation → what it counts, and what that does, in words."""


def hypotheses(declaration: Declaration, layout: Layout) -> Iterator[list[Choice]]:
    """Every combination of a mean, a loss and a factor."""
    masks, factors = list(_masks(layout)), list(_factors(declaration, layout))
    for base in _bases(declaration):
        for mask in masks:
            for factor in factors:
                choices = [base, mask, factor]
                if any(c.size for c in choices):
                    yield choices


def predicted(layout: Layout, choices: list[Choice]) -> Tensor:
    """The weights, (W, B), that a hypothesis gives the samples on each rank."""
    found = _everywhere(layout)
    for choice in choices:
        found = found * choice.weigh(layout)
    return found


# ----------------------------------------------------------------------------------- what the mean is over


def _bases(declaration: Declaration) -> Iterator[Choice]:
    declared = declaration.mean_over if declaration.conventions.batch_reduction == "mean" else "sum"
    yield Choice(declared, "", partial(weights, mean_over=declared), 0)
    for name, (over, cause) in BASES.items():
        if over != declared:
            keyword = "batch_reduction='sum'" if over == "sum" else f"mean_over={over!r}"
            if declared == "sum":
                keyword = f"batch_reduction='mean', {keyword}" if over != "samples" else "batch_reduction='mean'"
            yield Choice(name, cause, partial(weights, mean_over=over), 2, keyword)


# -------------------------------------------------------------------------- which samples and ranks are lost


def _masks(layout: Layout) -> Iterator[Choice]:
    ranks, steps = len(layout.sizes), layout.steps
    yield Choice("all", "", _everywhere, 0)
    if ranks > 1:
        yield Choice(
            "not-synchronised",
            "each rank keeps its own gradient: no_sync() is left on for the last micro-batch, the DDP wrapper is gone "
            "before backward(), or nothing is reduced at all",
            lambda d: _own(d) * len(d.sizes),
            3,
        )
        yield Choice("not-reduced", "each rank keeps its own share: nothing is reduced over the ranks", _own, 3)
    if steps > 1:
        yield Choice("last-micro-batch-only", "only the last micro-batch counts: zero_grad() inside the loop", _last, 3)
        yield Choice("first-micro-batch-only", "only the first micro-batch counts", lambda d: (d.step == 0) * 1.0, 3)
        if ranks > 1:
            yield Choice(
                "last-not-synchronised",
                "the last micro-batch stays on its own rank: no_sync() is on for it and off for an earlier one",
                lambda d: 1 - _last(d) + _own(d) * len(d.sizes) * _last(d),
                4,
            )
            yield Choice(
                "summed-every-micro-batch",
                "the accumulated gradient is summed over the ranks after every micro-batch, so that earlier ones are "
                "summed again",
                lambda d: float(len(d.sizes)) ** (d.steps - 1 - d.step),
                4,
            )
    yield Choice(
        "outer-product",
        "every micro-batch's mean is the sum over its samples: (B,) is broadcast against (B, 1), a mask for instance",
        _own_size,
        3,
    )
    if steps > 1:
        yield Choice(
            "largest-micro-batch",
            "every micro-batch is divided by the size of the largest, and shorter ones count for less",
            lambda d: d.total / (len(d.sizes) * d.steps * _largest(d)),
            3,
        )
    for r in range(ranks if ranks > 1 else 0):
        cause = f"rank {r}'s samples have no weight: it is left out of the reduction"
        yield Choice(f"rank-missing:{r}", cause, partial(_without, r, None), 4)
        cause = f"rank {r} keeps its own gradient, and the other ranks have the reduced one"
        yield Choice(f"rank-not-synchronised:{r}", cause, partial(_alone, r), 5)
        if ranks == 2:
            continue  # of two, the other one keeps its own
        cause = (
            f"only rank {r} has the reduced gradient, and the other ranks keep their own: dist.reduce for all_reduce"
        )
        yield Choice(f"reduced-to-one-rank:{r}", cause, partial(_only, r), 6)
    for r in range(ranks):
        for m in range(steps if steps > 1 and ranks * steps > 2 else 0):
            cause = f"rank {r} skips its micro-batch {m + 1} of {steps}: those samples have no weight"
            yield Choice(f"micro-batch-skipped:{r}:{m}", cause, partial(_without, r, m), 5)


@lru_cache(maxsize=100)
def _own(layout: Layout) -> Tensor:
    """1 for each rank's own samples, (W, B)."""
    return (torch.arange(len(layout.sizes))[:, None] == layout.rank[None]).to(torch.float64)


@lru_cache(maxsize=100)
def _everywhere(layout: Layout) -> Tensor:
    return torch.ones_like(_own(layout))


def _last(layout: Layout) -> Tensor:
    return (layout.step == layout.steps - 1).to(torch.float64)


@lru_cache(maxsize=100)
def _own_size(layout: Layout) -> Tensor:
    """The size of each sample's micro-batch, (B,)."""
    sizes = [layout.sizes[r][m] for r, m in zip(layout.rank.tolist(), layout.step.tolist(), strict=True)]
    return torch.tensor(sizes, dtype=torch.float64)


@lru_cache(maxsize=100)
def _largest(layout: Layout) -> Tensor:
    """That of the largest on its rank."""
    return torch.tensor([max(layout.sizes[r]) for r in layout.rank.tolist()], dtype=torch.float64)


def _without(rank: int, step: int | None, layout: Layout) -> Tensor:
    lost = (layout.rank == rank) if step is None else (layout.rank == rank) & (layout.step == step)
    return (~lost).to(torch.float64)


def _alone(rank: int, layout: Layout) -> Tensor:
    own, everywhere = _own(layout), _everywhere(layout)
    return torch.where((torch.arange(len(own)) == rank)[:, None], own, everywhere)


def _only(rank: int, layout: Layout) -> Tensor:
    own, everywhere = _own(layout), _everywhere(layout)
    return torch.where((torch.arange(len(own)) == rank)[:, None], everywhere, own)


# ---------------------------------------------------------------------------- a factor too many or too few


def _factors(declaration: Declaration, layout: Layout) -> Iterator[Choice]:
    ranks, steps = len(layout.sizes), layout.steps
    mean = declaration.conventions.batch_reduction == "mean"
    yield Choice("once", "", lambda d: 1.0, 0)
    if steps > 1:
        cause = "the division by the number of accumulated micro-batches is missing"
        yield Choice("accumulation-not-averaged", cause, lambda d: d.steps, 2)
        cause = "it is divided by the number of accumulated micro-batches " + (
            "twice" if mean else "though it is a sum"
        )
        name = "accumulation-averaged-twice" if mean else "accumulation-averaged"
        yield Choice(name, cause, lambda d: 1 / d.steps, 2)
    if ranks > 1:
        cause = "gradients are summed over the ranks where they must be averaged"
        yield Choice("summed-over-ranks", cause, lambda d: len(d.sizes), 2)
        cause = "averaged over the ranks twice: DDP or the reduction averages, and the trainer divides again"
        if not mean:
            cause = "averaged over the ranks (as DDP does) where the sum is declared"
        name = "averaged-twice-over-ranks" if mean else "averaged-over-ranks"
        yield Choice(name, cause, lambda d: 1 / len(d.sizes), 2)
    yield Choice("sign", "the sign is reversed: the loss is maximised", lambda d: -1.0, 3)
    yield Choice("factor-2", "everything is twice what it must be", lambda d: 2.0, 4)
    yield Choice("factor-half", "everything is half of what it must be", lambda d: 0.5, 4)
