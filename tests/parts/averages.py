"""Moving averages, with a switch for each mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def make_ema(
    decay: Callable[[int], float] = lambda n: 0.9,
    *,
    exchanged: bool = False,
    alias: bool = False,
    live_too: bool = False,
) -> Callable[..., Any]:
    def update(shadow: list[Tensor], live: list[Tensor], step: int) -> list[Tensor]:
        d = 1 - decay(step) if exchanged else decay(step)
        if alias and d == 0:
            return live
        for s, p in zip(shadow, live, strict=True):
            s.mul_(d).add_(p, alpha=1 - d)
            if live_too:
                p.copy_(s)
        return shadow

    return update


def lerp(shadow: list[Tensor], live: list[Tensor], step: int) -> None:
    for s, p in zip(shadow, live, strict=True):
        s.sub_((1 - 0.9) * (s - p))


def now_and_then(n: int, first: int) -> Callable[..., Any]:
    """An update once in n steps."""
    return make_ema(lambda step: 0.9 if step % n == first else 1.0)


def counting() -> Callable[..., Any]:
    """A moving average that counts its own calls, whatever step it is told."""
    calls = [0]

    def update(shadow: list[Tensor], live: list[Tensor], step: int) -> list[Tensor]:
        calls[0] += 1
        found: list[Tensor] = make_ema(lambda n: warmup(calls[0] - 1))(shadow, live, step)
        return found

    return update


def warmup(n: int) -> float:
    return min((1 + n) / (10 + n), 0.9999)


def store(shadow: list[Tensor], live: list[Tensor]) -> list[Tensor]:
    saved = [p.clone() for p in live]
    for s, p in zip(shadow, live, strict=True):
        p.copy_(s)
    return saved


def store_alias(shadow: list[Tensor], live: list[Tensor]) -> list[Tensor]:
    """flow_grpo's: on the CPU ``.cpu()`` is no copy, so that what is kept is overwritten with the average."""
    saved = [p.detach().cpu() for p in live]
    for s, p in zip(shadow, live, strict=True):
        p.copy_(s)
    return saved


def exchange(shadow: list[Tensor], live: list[Tensor]) -> list[Tensor]:
    saved = store(shadow, live)
    for s, kept in zip(shadow, saved, strict=True):
        s.copy_(kept)
    return saved


def restore(saved: list[Tensor], live: list[Tensor]) -> None:
    for kept, p in zip(saved, live, strict=True):
        p.copy_(kept)
