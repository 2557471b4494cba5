r"""Wrong normalisations as weights of the samples on each rank.

Each is a product of three choices: what the mean is over, which samples and ranks are lost, and a factor too many or
too few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gradcheck.distributed.declaration import Declaration
from gradcheck.distributed.problems import Layout
from gradcheck.distributed.reference import weights

__all__ = ["BASES", "Choice", "hypotheses", "predicted"]


@dataclass(frozen=True)
class Choice:
    """One of a hypothesis's three choices; ``size`` says how much it presumes."""

    name: str
    cause: str
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
    for base in _bases(declaration):
        for mask in _masks(layout):
            for factor in _factors(declaration, layout):
                choices = [base, mask, factor]
                if any(c.size for c in choices):
                    yield choices


def _declared_base(declaration: Declaration) -> str:
    return declaration.mean_over if declaration.conventions.batch_reduction == "mean" else "sum"


def _bases(declaration: Declaration) -> Iterator[Choice]:
    declared = _declared_base(declaration)
    yield Choice(declared, "", 0)
    for name, (over, cause) in BASES.items():
        if over != declared:
            keyword = "batch_reduction='sum'" if over == "sum" else f"mean_over={over!r}"
            if declared == "sum":
                keyword = f"batch_reduction='mean', {keyword}" if over != "samples" else "batch_reduction='mean'"
            yield Choice(name, cause, 2, keyword)


def _masks(layout: Layout) -> Iterator[Choice]:
    ranks, steps = len(layout.sizes), layout.steps
    yield Choice("all", "", 0)
    if ranks > 1:
        yield Choice(
            "not-synchronised",
            "each rank keeps its own gradient: no_sync() is left on for the last micro-batch, the DDP wrapper is gone "
            "before backward(), or nothing is reduced at all",
            3,
        )
        yield Choice("not-reduced", "each rank keeps its own share: nothing is reduced over the ranks", 3)
    if steps > 1:
        yield Choice("last-micro-batch-only", "only the last micro-batch counts: zero_grad() inside the loop", 3)
        yield Choice("first-micro-batch-only", "only the first micro-batch counts", 3)
        if ranks > 1:
            yield Choice(
                "last-not-synchronised",
                "the last micro-batch stays on its own rank: no_sync() is on for it and off for an earlier one",
                4,
            )
            yield Choice(
                "summed-every-micro-batch",
                "the accumulated gradient is summed over the ranks after every micro-batch, so that earlier ones are "
                "summed again",
                4,
            )
    yield Choice(
        "outer-product",
        "every micro-batch's mean is the sum over its samples: (B,) is broadcast against (B, 1), a mask for instance",
        3,
    )
    if steps > 1:
        yield Choice(
            "largest-micro-batch",
            "every micro-batch is divided by the size of the largest, and shorter ones count for less",
            3,
        )
    for r in range(ranks if ranks > 1 else 0):
        yield Choice(f"rank-missing:{r}", f"rank {r}'s samples have no weight: it is left out of the reduction", 4)
        cause = f"rank {r} keeps its own gradient, and the other ranks have the reduced one"
        yield Choice(f"rank-not-synchronised:{r}", cause, 5)
    for r in range(ranks):
        for m in range(steps if steps > 1 and ranks * steps > 2 else 0):
            cause = f"rank {r} skips its micro-batch {m + 1} of {steps}: those samples have no weight"
            yield Choice(f"micro-batch-skipped:{r}:{m}", cause, 5)


def _factors(declaration: Declaration, layout: Layout) -> Iterator[Choice]:
    ranks, steps = len(layout.sizes), layout.steps
    mean = declaration.conventions.batch_reduction == "mean"
    yield Choice("once", "", 0)
    if steps > 1:
        yield Choice(
            "accumulation-not-averaged", "the division by the number of accumulated micro-batches is missing", 2
        )
        cause = "it is divided by the number of accumulated micro-batches " + (
            "twice" if mean else "though it is a sum"
        )
        yield Choice("accumulation-averaged-twice" if mean else "accumulation-averaged", cause, 2)
    if ranks > 1:
        yield Choice("summed-over-ranks", "gradients are summed over the ranks where they must be averaged", 2)
        cause = "averaged over the ranks twice: DDP or the reduction averages, and the trainer divides again"
        if not mean:
            cause = "averaged over the ranks (as DDP does) where the sum is declared"
        yield Choice("averaged-twice-over-ranks" if mean else "averaged-over-ranks", cause, 2)
    yield Choice("sign", "the sign is reversed: the loss is maximised", 3)
    yield Choice("factor-2", "everything is twice what it must be", 4)
    yield Choice("factor-half", "everything is half of what it must be", 4)


def predicted(declaration: Declaration, layout: Layout, choices: list[Choice]) -> Tensor:
    """The weights, (W, B), that a hypothesis gives the samples on each rank."""
    base, mask, factor = choices
    over = BASES[base.name][0] if base.name in BASES else base.name
    ranks, steps = len(layout.sizes), layout.steps
    factors = {
        "accumulation-not-averaged": steps,
        "accumulation-averaged-twice": 1 / steps,
        "accumulation-averaged": 1 / steps,
        "summed-over-ranks": ranks,
        "averaged-twice-over-ranks": 1 / ranks,
        "averaged-over-ranks": 1 / ranks,
        "sign": -1.0,
        "factor-2": 2.0,
        "factor-half": 0.5,
    }
    return weights(layout, over) * factors.get(factor.name, 1.0) * _masked(layout, mask.name)


@lru_cache(maxsize=100)
def _masked(layout: Layout, name: str) -> Tensor:
    rank, step, ranks = layout.rank, layout.step, len(layout.sizes)
    own = (torch.arange(ranks)[:, None] == rank[None]).to(torch.float64)
    everywhere = torch.ones_like(own)
    last = (step == layout.steps - 1).to(torch.float64)
    kind, *numbers = name.split(":")
    r, m = (*map(int, numbers), -1, -1)[:2]
    if kind == "rank-missing":
        return everywhere * (rank != r)
    if kind == "rank-not-synchronised":
        return torch.where((torch.arange(ranks) == r)[:, None], own, everywhere)
    if kind == "micro-batch-skipped":
        return everywhere * ~((rank == r) & (step == m))
    own_size = torch.tensor([[float(((rank == a) & (step == b)).sum()) for a, b in zip(rank, step, strict=True)]])
    largest = torch.tensor([float(own_size[0, rank == a].max()) for a in rank])
    return {
        "outer-product": everywhere * own_size,
        "largest-micro-batch": everywhere * len(rank) / (ranks * largest * layout.steps),
        "not-synchronised": own * ranks,
        "not-reduced": own,
        "last-micro-batch-only": everywhere * last,
        "first-micro-batch-only": everywhere * (step == 0),
        "last-not-synchronised": everywhere * (1 - last) + own * ranks * last,
        "summed-every-micro-batch": everywhere * float(ranks) ** (layout.steps - 1 - step),
    }.get(kind, everywhere)
