"""What a check holds of large latents, and what a process keeps of what it saw: ``python -m benchmarks.memory``."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import gradcheck
from gradcheck.catalogue import CATALOGUE, entry
from gradcheck.conventions import declare
from gradcheck.oracle.required import required_of
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.streaming import compare_gradient

from . import text
from .speed import LOSSES, latents, peak

VIDEO, BATCH = (16, 21, 60, 104), 4
GOAL = "2"
TIMES = 10_000
EXPRESSION = "advantage * mean((v_theta - v_gt)**2) + 0.{:05d}*mean((v_theta - v_ref)**2)"


def held(name: str, variant: str, latent: Sequence[int]) -> tuple[float, float, float]:
    """MiB of a case's latents; and what a comparison with the derived gradient holds besides, and what the judge of
    ``gradcheck check`` does, in units of them."""
    one = entry(name, variant)
    case = build(one.derivation, Spec(BATCH, tuple(latent), 0, policy="off", time="middle"), torch.float32)
    gradient = gradient_of(one.loss(case), case.output)
    declaration = declare(name, batch_reduction="sum", **dict(one.derivation.variant.options))
    inputs = sum(x.numel() * x.element_size() for x in latents(case))
    shares = []
    for check in (
        lambda: compare_gradient(one.derivation, case, gradient),
        lambda: required_of(declaration, case).compare(gradient),
    ):
        assert check().holds
        shares.append(peak(check) / inputs)
    return inputs / 2**20, shares[0], shares[1]


def resident() -> float:
    """MiB of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def growth(run: Callable[[int], object], times: int, warm: int) -> float:
    """MiB by which the process grows between the ``warm``-th call and the last one."""
    for i in range(warm):
        run(i)
    before = resident()
    for i in range(warm, times):
        run(i)
    return resident() - before


def judgements() -> Callable[[int], object]:
    problems = []
    for one in CATALOGUE[::4]:
        for dtype in (torch.float32, torch.float64):
            case = build(one.derivation, Spec(2, (3, 4), 0), dtype)
            problems.append((one.derivation, case, gradient_of(one.loss(case), case.output)))
    return lambda i: compare_gradient(*problems[i % len(problems)])


def derivations() -> Callable[[int], object]:
    return lambda i: gradcheck.derive(EXPRESSION.format(i + 1))


def table(derived: int) -> str:
    """Of the memory, with the goals; ``derived`` losses are typed and derived, each another one."""
    rows = []
    for name, variant in LOSSES:
        inputs, compared, judged = held(name, variant, VIDEO)
        shown = f"{name}[{variant}], {BATCH} × {' × '.join(map(str, VIDEO))}"
        rows.append((f"{shown}, inputs of {inputs:.0f} MiB: one comparison / inputs", f"{compared:.3f}", GOAL))
        rows.append((f"{shown}: the judge of `gradcheck check` / inputs", f"{judged:.2f}", GOAL))
    grown = growth(judgements(), TIMES, 500)
    rows.append((f"growth over {TIMES:,} judgements of small losses, from the 500th on", f"{grown:.1f} MiB", "0 MiB"))
    grown = growth(derivations(), derived, derived // 2)
    rows.append((f"growth over {derived:,} losses that are derived, in the second half", f"{grown:.1f} MiB", "0 MiB"))
    return text.table(("", "measured", "goal"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--derived", type=int, default=TIMES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(table(options.derived))


if __name__ == "__main__":
    main()
