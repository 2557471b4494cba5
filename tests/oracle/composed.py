"""Wrong implementations put together from a style, as trainers have one, and mistakes, each a method of its own.

A mistake says what its right cause must speak of, in words chosen without regard to the names that causes have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.judging.results import Result

from .base import Correct, judged

Part = Callable[..., Any]


@dataclass(frozen=True)
class Style:
    """How a trainer writes it.

    Attributes:
        name: told in a mutant's name.
        dtype: that it computes in.
        stored: whether what the behaviour model computed is taken from the case, or computed anew.
        clip: the clip range that it holds itself; None to read the case's.
        reduction: over a sample's coordinates.
        axes: how many the latents have, where it takes one rank alone.
        kind: of reverse step.
        declared: besides these.
    """

    name: str
    dtype: torch.dtype = torch.float64
    stored: bool = True
    clip: float | None = None
    reduction: str = "mean"
    axes: int | None = None
    kind: str = "flow"
    declared: Mapping[str, Any] = field(default_factory=dict)

    def cast(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)

    def column(self, case: Case, x: Tensor) -> Tensor:
        x = self.cast(x)
        return case.expand(x) if self.axes is None else x.view(-1, *(1,) * self.axes)

    def reduce(self, x: Tensor) -> Tensor:
        if self.axes is not None:
            axes = tuple(range(1, self.axes + 1))
            return x.mean(axes) if self.reduction == "mean" else x.sum(axes)
        return x.flatten(1).mean(1) if self.reduction == "mean" else x.flatten(1).sum(1)

    def edges(self, case: Case) -> tuple[float, float]:
        low, high = (case.clip_low, case.clip_high) if self.clip is None else (self.clip, self.clip)
        return 1 - low, 1 + high

    def conventions(self, reduced: str, clipped: bool) -> dict[str, Any]:
        """What it declares, where the reduction's keyword is ``reduced``."""
        found = {reduced: self.reduction, **self.declared}
        if self.axes is not None:
            found["latent_axes"] = self.axes
        if self.dtype != torch.float64:
            found["working_dtype"] = str(self.dtype).removeprefix("torch.")
        if clipped and self.clip is not None:
            found["clip_range"] = self.clip
        return found


class Trainer:
    """A loss, in a style."""

    algorithm = ""
    reduced = "reduction"
    clipped = False
    extra: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, style: Style) -> None:
        self.style = style

    def conventions(self) -> dict[str, Any]:
        return {**self.style.conventions(self.reduced, self.clipped), **self.extra}

    def advantage(self, c: Case) -> Tensor:
        return self.style.cast(c.advantage)

    def clamp(self, c: Case, r: Tensor) -> Tensor:
        return r.clamp(*self.style.edges(c))

    def surrogate(self, c: Case, r: Tensor, a: Tensor) -> Tensor:
        return torch.maximum(-a * r, -a * self.clamp(c, r))

    def reduce(self, x: Tensor) -> Tensor:
        return self.style.reduce(x)

    def per_sample(self, c: Case) -> Tensor:
        raise NotImplementedError

    def penalty(self, c: Case) -> Tensor:
        return torch.zeros_like(c.v_theta.flatten(1)[:, 0])

    def batch(self, c: Case, each: Tensor) -> Tensor:
        return each.mean()

    def __call__(self, c: Case) -> Tensor:
        return self.batch(c, self.per_sample(c) + self.penalty(c))


@dataclass(frozen=True)
class Wrong:
    """A mistake: methods that take others' places, and what its cause must speak of (a regular expression)."""

    words: str
    parts: Mapping[str, Part]


def wrong(words: str, **parts: Part) -> Wrong:
    return Wrong(words, parts)


@dataclass(frozen=True)
class Composed(Correct):
    """A wrong implementation.

    Attributes:
        words: a regular expression for each mistake; what is told as the cause must match every one.
    """

    words: tuple[str, ...]

    def right(self, told: str) -> bool:
        return all(re.search(word, told, re.IGNORECASE | re.DOTALL) for word in self.words)


def composed(trainer: type[Trainer], style: Style, mistakes: Mapping[str, Wrong]) -> Composed:
    """The implementation that makes all these mistakes."""
    parts = {name: part for mistake in mistakes.values() for name, part in mistake.parts.items()}
    if len(parts) != sum(len(mistake.parts) for mistake in mistakes.values()):
        raise ValueError(f"{' and '.join(mistakes)} replace the same method")
    loss = type(trainer.__name__, (trainer,), parts)(style)
    name = f"{trainer.__name__}-{style.name}-{'+'.join(mistakes)}"
    return Composed(name, trainer.algorithm, loss.conventions(), loss, tuple(m.words for m in mistakes.values()))


def in_turn(
    trainer: type[Trainer], styles: Iterable[Style], mistakes: Iterable[Mapping[str, Wrong]]
) -> tuple[Composed, ...]:
    """Each in one style; a mistake that shows in some styles alone is given in a dictionary of its own."""
    return tuple(composed(trainer, s, m) for s, m in zip(cycle(styles), mistakes, strict=False))


def each(mistakes: Mapping[str, Wrong]) -> tuple[Mapping[str, Wrong], ...]:
    return tuple({name: mistake} for name, mistake in mistakes.items())


def pairs(mistakes: Mapping[str, Wrong], names: str) -> tuple[Mapping[str, Wrong], ...]:
    """Those written ``a+b``, apart from each other by spaces."""
    return tuple({name: mistakes[name] for name in pair.split("+")} for pair in names.split())


def first_failure(one: Composed, max_examples: int) -> Result | None:
    """What a user is shown in full: the first obligation that fails."""
    for only in (("gradient",), ()):
        for result in judged(one, max_examples, only).results:
            if not result.good:
                return result
    return None
