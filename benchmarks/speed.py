"""What a check costs, in units of the forward and backward pass of the loss that it judges.

``python -m benchmarks.speed --device cpu`` prints the table: time against D, beside ``torch.autograd.gradcheck``, and
the memory that a check holds at once against the size of its inputs.  The ceiling is the time in which the device reads
the inputs as often as the check does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gradcheck.case import Case
from gradcheck.catalogue import Entry, entry
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.streaming import compare_gradient

from . import text

LOSSES = (("flow_grpo", "mean"), ("grpo_guard", "mean"), ("awm", "clipped"), ("diffusion_nft", "adaptive"))
SIZES = ((1, 16), (1, 256), (1, 4096), (8, 4096), (64, 4096), (1, 65_536), (1, 1_048_576), (1, 10_000_000))
"""Samples, and D of each."""
SLOW, FAST = 256, 65_536  # the largest D at which torch's own check is tried
PASSES = 3  # over the inputs: the log-probabilities, or what is inside of them, and the comparison


def best(run: Callable[[], object], device: str, seconds: float = 1.0) -> float:
    """Shortest time of a call, in seconds, among those that fit into a budget; three at least.

    On a CPU that is processor time, of one thread, which others' work on the machine changes least.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    run()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        _wait(device)
        start = clock()
        run()
        _wait(device)
        times.append(clock() - start)
    return min(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Counting(TorchDispatchMode):
    """Counts the bytes of tensors that are alive at once, of those that are made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in known:
                size = x.untyped_storage().nbytes()
                self.alive += size
                self.peak = max(self.peak, self.alive)
                finalize(x, self._free, size)
        return out

    def _free(self, size: int) -> None:
        self.alive -= size


def peak(run: Callable[[], object]) -> int:
    """Bytes that a call holds at once beyond its inputs."""
    with Counting() as counting:
        run()
    return counting.peak


def latents(case: Case) -> list[Tensor]:
    values = (getattr(case, name) for name in case.names)
    return [x.detach() for x in values if isinstance(x, Tensor) and x.shape == case.v_theta.shape]


def torch_check(one: Entry, case: Case, fast: bool) -> Callable[[], object]:
    """``torch.autograd.gradcheck`` of the same loss, which needs float64."""
    values = {n: getattr(case, n) for n in case.names}
    double = Case(case.label, {n: x.double() if isinstance(x, Tensor) else x for n, x in values.items()})
    v = double.v_theta.detach().requires_grad_()
    return lambda: torch.autograd.gradcheck(
        lambda x: one.loss(double.replace(v_theta=x)), v, raise_exception=False, fast_mode=fast
    )


def goal(size: int) -> str:
    """What a check may cost at most, in units of the loss's forward and backward pass."""
    return "" if size < 4096 else "2" if size < 1_000_000 else "1.2"


def row(one: Entry, batch: int, size: int, device: str) -> tuple[str, ...]:
    case = build(one.derivation, Spec(batch, (size,), 0, policy="off", time="middle"), torch.float32, device)
    own = best(lambda: gradient_of(one.loss(case), case.v_theta), device)
    observed = gradient_of(one.loss(case), case.v_theta)

    def check() -> object:
        return compare_gradient(one.derivation, case, observed)

    mine = best(check, device)
    slow = best(torch_check(one, case, fast=False), device, 0.3) / own if batch == 1 and size <= SLOW else None
    fast = best(torch_check(one, case, fast=True), device, 0.3) / own if batch == 1 and size <= FAST else None
    inputs = latents(case)
    read = best(lambda: [x.sum() for x in inputs], device, 0.3) * PASSES
    held = peak(check) / sum(x.numel() * x.element_size() for x in inputs)
    return (
        one.label,
        str(batch),
        f"{size:,}",
        f"{mine / own:.2f}",
        goal(size),
        "" if slow is None else f"{slow:.0f}",
        "" if fast is None else f"{fast:.1f}",
        f"{100 * read / mine:.0f} %",
        f"{held:.3g}",
    )


def speed_table(device: str, sizes: tuple[tuple[int, int], ...] = SIZES) -> str:
    header = (
        "loss",
        "samples",
        "D",
        "check / (forward + backward)",
        "goal",
        "`torch.autograd.gradcheck`, slow",
        "fast",
        "reading alone / check",
        "memory held / inputs",
    )
    return text.table(header, [row(entry(*label), *size, device) for label in LOSSES for size in sizes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(speed_table(options.device))


if __name__ == "__main__":
    main()
