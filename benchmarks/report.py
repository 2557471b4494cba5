"""Writes ``docs/benchmarks.md``: ``python -m benchmarks.report``; the GPU's table where there is one."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from pathlib import Path

import torch

from . import sharpness, speed, startup

PAGE = """# Benchmarks

Measured on {date} with torch {torch}, Python {python}, on {cores} CPU cores ({machine}); one thread.
`make bench` writes this page anew. Times are ratios within one run, since machines differ and are noisy.

## Starting and proving

| | measured | goal |
| --- | --- | --- |
{startup}

## Cost of a check

A check of one gradient on tensors that are there, in units of the forward and backward pass of the loss itself,
float32, one sample of D coordinates. `torch.autograd.gradcheck` does its work in float64, slow mode with every
coordinate in turn (up to D = {slow}), fast mode along random directions (up to D = {fast:,}). Reading alone is the
time in which one thread reads the check's inputs as often as it does. Goal: at most 1.5 for large D; memory that
does not grow with D.

### CPU

{cpu}

### CUDA

{cuda}

## False alarms

Right gradients, each sample judged alone: {orders} evaluation orders (by hand, generated from the formula, the closed
form in the same precision, coordinates in reverse, in micro-batches), every variant, 16 to 1,000,000 coordinates.
“Cannot be judged” counts components for which the precision leaves nothing to compare: the log-probability
of a step whose standard deviation is tiny, in bfloat16, for instance. A test ratio up to 4 passes.

{alarms}

## Sensitivity

Gradients that are wrong by a relative 10⁻ᵏ: the largest k for which the error is refused in every try, and in half of
them. D = 16, inside the clip, amid the time axis; five losses. `assert_close` compares with the closed form in the same
precision, at its default tolerances.

{sensitivity}

A check in float32 or bfloat16 sees what the precision leaves of the loss: where a sample's log-probability has lost
its digits, no error in its gradient is small enough to be told from rounding, and none is called wrong.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checks", type=int, default=1_000_000)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    cuda = "Not measured: torch sees no CUDA device. `make bench` fills it where there is one."
    if torch.cuda.is_available():
        cuda = f"{torch.cuda.get_device_name()}\n\n{speed.speed_table('cuda')}"
    page = PAGE.format(
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        python=platform.python_version(),
        cores=os.cpu_count(),
        machine=platform.machine(),
        startup="\n".join(f"| {what} | {measured} | {goal} |" for what, measured, goal in startup.figures()),
        slow=speed.SLOW,
        fast=speed.FAST,
        cpu=speed.speed_table("cpu"),
        cuda=cuda,
        orders=len(sharpness.ORDERS),
        alarms=sharpness.false_alarm_table(sharpness.false_alarms(options.checks)),
        sensitivity=sharpness.sensitivity_table(options.tries),
    )
    options.out.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
