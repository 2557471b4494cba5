"""The obligations of a moving average, and the function beside what it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradcheck.judging.check import Wrong
from gradcheck.judging.results import Diagnosis, Outcome
from gradcheck.parts._calls import FORM, calling, compared, distinct, half_precision, repeated, tensor_result
from gradcheck.rounding.compare import Comparison, compare

__all__ = [
    "SCHEDULES",
    "Subject",
    "alias",
    "check_aliasing",
    "check_determinism",
    "check_live",
    "check_restore",
    "check_schedule",
    "check_swap",
    "check_value",
    "half_precision_cause",
    "schedule",
    "swaps",
]

SCHEDULES: dict[str, Callable[[int], float]] = {
    "warmup": lambda n: min((1 + n) / (10 + n), 0.9999),
    "nft-zero": lambda n: 0.0,
    "nft-linear": lambda n: min(0.001 * n, 0.5),
    "nft-late": lambda n: 0.0 if n < 75 else min(0.0075 * (n - 75), 0.999),
}
"""Decays by step (or epoch) that public trainers use."""

_STEPS = (0, 1, 2, 7, 8, 9, 49, 74, 75, 76, 99, 100, 208, 600, 100_000)
_SHAPES = ((3, 4), (5,), (), (2, 3, 2))
_Decay = Callable[[int], float]


@dataclass(frozen=True)
class Subject:
    """A function, and the requirement that it is compared with."""

    function: Callable[..., Any]
    name: str
    decay: _Decay
    seed: int
    dtype: torch.dtype
    store: Callable[..., Any] | None = None
    restore: Callable[..., Any] | None = None
    mistake: str = ""
    every: tuple[int, int] = (1, 0)
    declared_every: tuple[int, int] = (1, 0)
    """Whose steps the function is called at, whatever it is compared with."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of which some update the average, and some don't."""
        n, first = self.declared_every
        own = () if n == 1 else (first, n - 1, n, n + 1, n + first, 2 * n - 1, 2 * n, 10 * n + first, 100 * n + first)
        return tuple(dict.fromkeys((*_STEPS, *own)))

    def kept(self, step: int) -> float:
        """What the shadow keeps at a step: d, or all of it between two updates."""
        n, first = self.every
        return self.decay(step) if step % n == first else 1.0

    def updates(self, count: int) -> list[int]:
        """Some steps at which the average must be updated."""
        n, first = self.declared_every
        return [n * i + first for i in range(count)]

    def weights(self, seed: int) -> list[Tensor]:
        g = torch.Generator().manual_seed(2_017 * self.seed + seed)
        return [torch.randn(shape, generator=g, dtype=torch.float64).to(self.dtype) for shape in _SHAPES]

    def update(self, shadow: list[Tensor], live: list[Tensor], step: int, elsewhere: int = 0) -> list[Tensor]:
        """The new shadow; it may be the old list's own tensors."""
        with calling(self.name, self.seed, elsewhere), torch.no_grad():
            found = self.function(shadow, live, step)
            new = shadow if found is None else list(found)
            if len(new) != len(live):
                raise Wrong(f"{len(new)} tensors come back; {len(live)} are required", FORM)
            return [
                tensor_result(x, tuple(y.shape), f"tensor {i}") for i, (x, y) in enumerate(zip(new, live, strict=True))
            ]

    def outputs(self, h: float) -> list[Tensor | None]:
        """One update of tensors that are scaled by 1 + h."""
        shadow, live = ([x * (1 + h) for x in self.weights(seed)] for seed in (1, 2))
        return [_flat(self.update(shadow, live, self.updates(11)[10]))]

    def compare(self, step: int) -> Comparison:
        shadow, live = self.weights(2 * step), self.weights(2 * step + 1)
        old, new = _flat(shadow), _flat(live)
        observed = _flat(self.update(shadow, live, step))
        d = self.kept(step)
        right = d * old + (1 - d) * new
        required = _MISTAKEN[self.mistake](old, new, d) if self.mistake in _MISTAKEN and d < 1 else right
        if self.mistake in _LEFT_OUT:
            kept = _LEFT_OUT[self.mistake]
            changed = torch.cat([torch.full((x.numel(),), i in kept(live)) for i, x in enumerate(live)])
            required = torch.where(changed, required, old)
        return compare(observed, required, 2 * (old.abs() + new.abs()), self.dtype)


_MISTAKEN: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "exchanged": lambda old, new, d: (1 - d) * old + d * new,
    "frozen": lambda old, new, d: old,
    "copied": lambda old, new, d: new,
    "twice": lambda old, new, d: d**2 * old + (1 - d**2) * new,
    "live-whole": lambda old, new, d: d * old + new,
    "live-missing": lambda old, new, d: d * old,
    "shadow-whole": lambda old, new, d: old + (1 - d) * new,
    "away": lambda old, new, d: old + (1 - d) * (old - new),
    "sign": lambda old, new, d: d * old - (1 - d) * new,
}
"""What wrong code makes of the shadow, the live tensors and d."""

_LEFT_OUT: dict[str, Callable[[list[Tensor]], list[int]]] = {
    "first-alone": lambda live: [0],
    "last-left-out": lambda live: list(range(len(live) - 1)),
    "matrices-alone": lambda live: [i for i, x in enumerate(live) if x.ndim > 1],
}
"""Which tensors are updated."""


def schedule(decay: float | str | _Decay) -> _Decay:
    """The decay by step that a declaration means."""
    if isinstance(decay, str):
        return SCHEDULES[decay]
    if callable(decay):
        return decay
    constant = float(decay)
    return lambda step: constant


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([x.detach().to(torch.float64).flatten() for x in tensors])


def half_precision_cause(subject: Subject) -> Diagnosis | None:
    return half_precision(_flat(subject.update(subject.weights(1), subject.weights(2), subject.updates(11)[10])))


def check_value(subject: Subject) -> Outcome:
    n, first = subject.declared_every
    return compared(subject.compare(n * i + first) for i in (10, 11))


def check_schedule(subject: Subject) -> Outcome:
    def each() -> Iterator[Comparison]:
        for step in subject.steps:
            one = subject.compare(step)
            if not one.holds:
                shadow, live = subject.weights(1), subject.weights(2)
                old, new = _flat(shadow), _flat(live)
                i = int((old - new).abs().argmax())
                seen = float((_flat(subject.update(shadow, live, step)) - new)[i] / (old - new)[i])
                shown, wanted = distinct(seen, subject.kept(step))
                raise Wrong(f"at step {step} it behaves like a decay of {shown}; {wanted} is required")
            yield one

    return compared(each())


def check_live(subject: Subject) -> Outcome:
    for step in subject.updates(4):
        shadow, live = subject.weights(3), subject.weights(4)
        subject.update(shadow, live, step)
        if not torch.equal(_flat(live), _flat(subject.weights(4))):
            raise Wrong("the update changes the live parameters")
    return Outcome("passed", 4)


def check_aliasing(subject: Subject) -> Outcome:
    for step in (*subject.updates(3), subject.updates(76)[75]):
        shadow, live = subject.weights(5), subject.weights(6)
        new = subject.update(shadow, live, step)
        kept = _flat(new).clone()
        for x in live:
            x.add_(1)
        if not torch.equal(_flat(new), kept):
            raise Wrong(f"after the update at step {step} the shadow shares memory with the live parameters")
    return Outcome("passed", 4)


def check_determinism(subject: Subject) -> Outcome:
    def call(i: int, k: int) -> Tensor:
        return _flat(subject.update(subject.weights(9 + i), subject.weights(19 + i), subject.updates(3)[i], k))

    return repeated(call, "averages")


def check_swap(subject: Subject) -> Outcome:
    shadow, live, _ = _swapped(subject)
    if not torch.equal(_flat(live), _flat(shadow)) or not torch.equal(_flat(shadow), _flat(subject.weights(7))):
        raise Wrong("after store, the live parameters are not the average, or the average has changed")
    return Outcome("passed", 1)


def check_restore(subject: Subject) -> Outcome:
    assert subject.restore is not None
    shadow, live, saved = _swapped(subject)
    with calling(subject.name, subject.seed), torch.no_grad():
        subject.restore(saved, live)
    if not torch.equal(_flat(live), _flat(subject.weights(8))):
        what = "still the average" if torch.equal(_flat(live), _flat(subject.weights(7))) else "something else"
        raise Wrong(f"after store and restore the live parameters are {what}; what they were before is required")
    if not torch.equal(_flat(shadow), _flat(subject.weights(7))):
        raise Wrong("after store and restore the average has changed")
    return Outcome("passed", 1)


def _swapped(subject: Subject) -> tuple[list[Tensor], list[Tensor], Any]:
    assert subject.store is not None
    shadow, live = subject.weights(7), subject.weights(8)
    with calling(subject.name, subject.seed), torch.no_grad():
        return shadow, live, subject.store(shadow, live)


def swaps(subject: Subject) -> str | None:
    return "no store and restore were given" if subject.store is None else None


def alias(subject: Subject) -> Diagnosis:
    return Diagnosis(
        "alias", "a tensor is kept by reference where a copy is needed: what is kept changes with the parameters"
    )
