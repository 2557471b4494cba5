"""The part that measures: a check's time beside the loss's own, and its reading beside what a copy attains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import Entry, entry
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.streaming import compare_gradient

from .. import text
from ..speed import LOSSES, PASSES, best, latents, peak
from .rows import Row, Share

SIZES = (4_096, 65_536, 1_048_576, 16_777_216, 134_217_728, 1_000_000_000)
DRAWN = 1_048_576
"""Numbers that are drawn, on the CPU; larger problems repeat them, which changes no time."""
HEADER = (
    *("loss", "D", "loss, forward and backward", "check", "check / loss"),
    *("inputs read, GB/s", "share of a copy's", "held beyond the inputs / inputs"),
)


def copy_rate(device: str, numbers: int = 2**28) -> float:
    """Bytes per second that a copy reads and writes, float32: the ceiling of whatever reads memory."""
    x = torch.ones(numbers if device == "cuda" else numbers // 16, device=device)
    y = torch.empty_like(x)
    return 2 * x.numel() * x.element_size() / best(partial(y.copy_, x), device, 0.3)


def _large(one: Entry, size: int, device: str) -> Case:
    """A case of one sample with so many coordinates."""
    small = build(one.derivation, Spec(1, (min(size, DRAWN),), 0, policy="off", time="middle"), torch.float32, device)
    if size <= DRAWN:
        return small
    shape = small.output.shape
    values = {name: getattr(small, name) for name in small.names}
    for name, x in values.items():
        if isinstance(x, Tensor) and x.shape == shape:
            values[name] = x.detach().repeat(1, -(-size // DRAWN))[:, :size].contiguous()
    values[small.output_name] = values[small.output_name].requires_grad_()
    return Case(small.label, values)


def _row(one: Entry, size: int, device: str, ceiling: float) -> list[str]:
    case = _large(one, size, device)
    observed = gradient_of(one.loss(case), case.output)
    loss: Callable[[], object] = lambda: gradient_of(one.loss(case), case.output)  # noqa: E731
    check: Callable[[], object] = lambda: compare_gradient(one.derivation, case, observed)  # noqa: E731
    own, mine = best(loss, device, 0.3), best(check, device, 0.3)
    inputs = sum(x.numel() * x.element_size() for x in latents(case))
    read = PASSES * inputs / mine
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        check()
        held = torch.cuda.max_memory_allocated() - before
    else:
        held = peak(check)
    return [
        *(one.label, f"{size:,}", f"{1e3 * own:.3g} ms", f"{1e3 * mine:.3g} ms", f"{mine / own:.2f}"),
        *(f"{read / 1e9:.0f}", f"{read / ceiling:.0%}", f"{held / inputs:.3g}"),
    ]


def bandwidth(share: Share) -> Iterator[Row]:
    """The loss forward and backward, and the check of its gradient: one sample of D coordinates, float32."""
    if share.index:
        return
    ceiling = copy_rate(share.device)
    yield Row("copy", 1, figures=["a copy", "", "", "", "", f"{ceiling / 1e9:.0f}", "100%", ""])
    start = time.monotonic()
    for size in SIZES:
        for name in LOSSES:
            if time.monotonic() - start > share.seconds:
                yield Row("left out", 0, told=[f"{name[0]}, D = {size:,}: no time left"])
                continue
            try:
                yield Row("row", 1, figures=_row(entry(*name), size, share.device, ceiling))
            except (torch.OutOfMemoryError, MemoryError) as error:
                yield Row("left out", 0, told=[f"{name[0]}, D = {size:,}: {str(error)[:80]}"])
            if share.device == "cuda":
                torch.cuda.empty_cache()


def figures_table(rows: list[Row]) -> str:
    table = text.table(HEADER, [r.figures for r in rows if r.figures])
    left = [f"* left out: {line}" for r in rows for line in r.told]
    return "\n\n".join([table, *(["\n".join(left)] if left else [])])
