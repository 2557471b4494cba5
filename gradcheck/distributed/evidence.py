"""What problems require beside what each rank has: who differs, and how each sample weighs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor, nn

from gradcheck.distributed.declaration import Trainer
from gradcheck.distributed.required import Required
from gradcheck.oracle.subject import Settings
from gradcheck.rounding.bounds import THRESHOLD

__all__ = ["Claim", "Evidence", "Observed", "number_text", "weights_table"]


@dataclass(frozen=True)
class Evidence:
    """One problem: what is required, and what each rank has.

    Attributes:
        law: what is required.
        observed: the gradients, (W, P), in float64.
        absent: for each rank the parameters without a gradient.
        network, dtype: to work the problem out under other advantages.
    """

    law: Required
    observed: Tensor
    absent: tuple[tuple[str, ...], ...]
    network: nn.Module
    dtype: torch.dtype

    @cached_property
    def ratios(self) -> Tensor:
        """Test ratios against the law, (W, P)."""
        return self.against(self.law.weights)

    @property
    def wrong(self) -> bool:
        return float(self.ratios.max()) > THRESHOLD

    def against(self, sample_weights: Tensor, law: Required | None = None) -> Tensor:
        """Test ratios against weights of the samples, (B,), or of the samples on each rank, (W, B)."""
        rows = sample_weights.expand(len(self.observed), -1)
        law = law or self.law
        return torch.stack([law.ratios(seen, row) for seen, row in zip(self.observed, rows, strict=True)])

    @cached_property
    def disagreement(self) -> Tensor:
        """How far every two ranks are apart, (W, W), in units of their rounding error."""
        allowed = self.law.u * (self.law.weights.abs() @ self.law.errors)
        size = self.observed.abs().nan_to_num(0.0, 0.0, 0.0)
        apart = (self.observed[:, None] - self.observed[None]).abs()
        scale = allowed + 4 * self.law.u * (size[:, None] + size[None])
        ratios = torch.where(apart == 0, 0.0, apart / scale)
        both = self.observed.isfinite()
        ratios = torch.where(both[:, None] & both[None], ratios, torch.inf)
        return ratios.amax(2)

    @property
    def disagree(self) -> bool:
        return float(self.disagreement.max()) > THRESHOLD

    def odd_one(self) -> tuple[int, list[int], int]:
        """The rank that differs from most others (rank 0's view if all do), those, and the component where it does."""
        differs = self.disagreement > THRESHOLD
        counts = differs.sum(1)
        rank = int(counts.argmax()) if int(counts.max()) > int(counts.min()) else len(counts) - 1
        others = [r for r in range(len(counts)) if bool(differs[rank, r])]
        component = int((self.observed[rank] - self.observed[others[0]]).abs().nan_to_num(math.inf).argmax())
        return rank, others, component

    def who_differs(self) -> str:
        """In words, which ranks differ."""
        differs = self.disagreement > THRESHOLD
        rank, others, _ = self.odd_one()
        count = len(differs)
        if count == 2:
            return "the two ranks differ"
        if len(others) == count - 1 and int(differs.sum()) == 2 * (count - 1):
            return f"rank {rank} differs from all others, which agree"
        if int(differs.sum()) == count * (count - 1):
            return "every rank has another gradient"
        return "ranks that differ: " + ", ".join(
            f"{a} and {b}" for a in range(count) for b in range(a + 1, count) if bool(differs[a, b])
        )


@dataclass(frozen=True)
class Claim:
    """What a trainer may do in place of what it declares.

    Attributes:
        weights: those of a problem's samples, (B,), or of the samples on each rank, (W, B).
        law: the problem's law, where the samples contribute something else; ``None`` where they contribute nothing.
    """

    weights: Callable[[Evidence], Tensor]
    law: Callable[[Evidence], Required | None] = lambda e: e.law

    def fits(self, e: Evidence) -> bool:
        """Whether every rank has the gradient that it predicts."""
        law = self.law(e)
        return law is not None and float(e.against(self.weights(e), law).max()) <= THRESHOLD

    def alike(self, e: Evidence) -> bool:
        """Whether every rank has the same gradient by it."""
        rows = self.weights(e)
        return rows.ndim == 1 or bool((rows == rows[:1]).all())


@dataclass(frozen=True)
class Observed:
    """A trainer's step, and what it left on the ranks; what the obligations are about.

    Attributes:
        trainer, settings: what was judged, and how thoroughly.
        size: of the run, in processes.
        evidence: every problem's.
        untouched: whether every rank's parameters are as they were.
        claim: what is required in place of the declared law; ``None``: that law.
    """

    trainer: Trainer
    settings: Settings
    size: int
    evidence: tuple[Evidence, ...] = ()
    untouched: bool = True
    claim: Claim | None = None

    def of(self, obligation: str) -> list[Evidence]:
        """The problems of one obligation."""
        return [e for e in self.evidence if e.law.problem.obligation == obligation]


def weights_table(e: Evidence) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...], bool]:
    """The samples' weights by rank and micro-batch, observed and required, if they can be read off the gradient."""
    per_rank = [e.law.observed_weights(seen) for seen in e.observed]
    if any(found is None for found in per_rank):
        return (), (), False
    layout, agree = e.law.problem.layout, not e.disagree
    observed, wanted = [], []
    for r, shard in enumerate(layout.sizes):
        for m, rows in enumerate(layout.rows(r)):
            name = f"rank {r}, micro-batch {m + 1} of {len(shard)}"
            seen = [_one(found[rows.start : rows.stop]) for found in per_rank if found is not None]
            text = seen[0] if agree or len(set(seen)) == 1 else " | ".join(seen)
            observed.append((name, text))
            wanted.append((name, _one(e.law.weights[rows.start : rows.stop])))
    return tuple(observed), tuple(wanted), True


def _one(values: Tensor) -> str:
    """One number if the samples share it."""
    numbers = list(dict.fromkeys(number_text(x) for x in values.tolist() if not math.isnan(x)))
    return ", ".join(numbers) or "not seen"


def number_text(x: float) -> str:
    """A fraction where it is one."""
    fraction = Fraction(x).limit_denominator(2000)
    if abs(x) < 1e-7:
        return "0"
    return str(fraction) if abs(float(fraction) - x) <= 1e-7 * abs(x) else f"{x:.4g}"
