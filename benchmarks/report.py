"""Writes ``docs/benchmarks.md``: ``python -m benchmarks.report``."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from pathlib import Path

import torch

from . import alarms, peers, sharpness, speed, startup, suite, text

PARTS = ("startup", "cpu", "peers", "alarms", "sensitivity", "tests")

PAGE = """# Benchmarks

`make bench` measures and writes this page anew. Times are ratios within one run, since machines differ and are noisy.
Each table says when it was measured. Where other work ran on the machine meanwhile, processor time tells more than the
clock.

## Starting and proving

Each row is the best of three fresh processes; what takes long runs once. Processor time is that of all processes
together.

{startup}

Where a goal is missed, this is what takes the time:

* Proofs: of 6.1 s of processor time, a third goes into the order of 94 approximations, which is read off a Taylor
  expansion, a quarter each into 472 equalities and 340 gradients, and an eighth into premises (domains, signs,
  denominators). All of it is SymPy's own algebra.
* One loss: `gradcheck check` imports torch and SymPy, which is 1.3 units, and this package, which is 0.6. The
  rest goes into some 190 problems, at about 12 ms of processor time each: half of it into the required gradient and its
  error bound, a fifth into drawing the problem, a fifth into calling the loss and looking at what it left behind.
* Twenty losses: each is judged on as many problems as if it were alone, in a process of its own, as many at once as
  there are cores. Nothing is shared between them but the imports.
* `make verify`: 6 s are the proofs; the rest are the random problems of every entry in two precisions, and those at the
  parameters of diffusers' networks.

## Cost of a check

A check of one gradient on tensors that are there, in units of the forward and backward pass of the loss itself,
float32, one sample of D coordinates. `torch.autograd.gradcheck` does its work in float64, slow mode with every
coordinate in turn (up to D = {slow}), fast mode along random directions (up to D = {fast:,}). Reading alone is the
time in which one thread reads the check's inputs as often as it does. Goal: at most 1.5 for large D; memory that
does not grow with D.

For small D a check is a fixed number of small operations, and so is the loss: some 200 of torch's for reading and
comparing, beside 50 to 110 in the loss's forward and backward pass, and on a handful of numbers per sample a program
of some hundred operations in NumPy, which is recorded once for each derivation. For large D it is the reading of the
latents: about a quarter each goes into their conversion to float64 and into the products.

{cpu}

On a GPU: [the page on CUDA](cuda.md).

## Beside other checkers

All look at the same losses in float64, on the same problems: two samples of D coordinates, inside the clip, amid the
time axis. The time is that of one whole check, the loss's own backward pass counted in, in units of its forward and
backward pass in torch. The smallest error is the least e for which a backward pass that is off by a factor 1 + e in one
sample is refused, to within a factor of two. Differences by hand are central ones with a step of 10⁻⁶, compared with
`torch.allclose`. JAX checks the same loss in JAX, compiled, in reverse mode. All have their default tolerances.
`python -m benchmarks.peers` prints the table by itself.

{peers}

The other checkers compare a loss's backward pass with its own forward pass. A loss that is wrong, but differentiated
rightly, passes them all: one with the opposite sign, a missing factor, another clip. The last column shows it for the
sign. gradcheck knows what the gradient must be, so it needs no differences, and is limited by rounding alone.

## False alarms

Right gradients, each sample judged alone: every variant, preset and official clip range, 1 to 1,000,000 coordinates, in
styles that are drawn anew for each batch (reverse steps, densities, squared errors, clips and preferences as people
write them, in torch's own functions: `benchmarks/styles.py`), against the derived gradient and the equivalent loss's.
“Casts to float32” is code that declares `working_dtype="float32"`, on cases in float64. “Cannot be judged” counts
components for which the precision leaves nothing to compare: the log-probability of a step whose standard deviation is
tiny, in bfloat16, for instance. A test ratio up to 4 passes. `python -m benchmarks.alarms` runs it by itself, and goes
on where it was stopped.

{alarms}

## Sensitivity

Gradients that are wrong by a relative 10⁻ᵏ: the largest k for which the error is refused in every try, and in half of
them. D = 16, inside the clip, amid the time axis; five losses. `assert_close` compares with the closed form in the same
precision, at its default tolerances.

{sensitivity}

A check in float32 or bfloat16 sees what the precision leaves of the loss: where a sample's log-probability has lost
its digits, no error in its gradient is small enough to be told from rounding, and none is called wrong.

## The project's own tests

What `make test` takes, where the goal is four minutes on two cores.

{tests}
"""


BUSY = 1.5


RESULTS = Path(__file__).with_name("results.json")


def measure(part: str, options: argparse.Namespace) -> str:
    """The table of one part of the page; of alarms and of tests as they were counted, if they were."""
    if part == "startup":
        header = ("", "measured", "in processor time", "goal")
        return text.table(header, startup.figures())
    if part == "peers":
        return peers.peers_table()
    if part == "cpu":
        return speed.speed_table(part)
    if part == "alarms":
        return alarms.table(alarms.totals(options.tally) if options.tally else alarms.counted(options.checks))
    if part == "tests":
        return suite.suite_tables(options.times, options.junit)
    return sharpness.sensitivity_table(options.tries)


def where() -> str:
    """When and on what it was measured."""
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    load = os.getloadavg()[0]  # 1 of it is the measurement's own
    busy = f" Other work ran on the machine, its load was {load:.0f}." if load > BUSY else ""
    return f"Measured on {datetime.date.today().isoformat()}: {versions}, {machine}, one thread.{busy}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all that can be, by default")
    parser.add_argument("--checks", type=int, default=1_000_000)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--tally", nargs="*", type=Path, default=(), help="alarms as benchmarks.alarms counted them")
    parser.add_argument("--times", nargs="*", default=(), help="WALL,PROCESSOR of each step of `make test` that ran")
    parser.add_argument("--junit", type=Path, help="what its tests took")
    parser.add_argument("--page", action="store_true", help="write the page of what was measured, and measure nothing")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"PART is {', '.join(sorted(unknown))}; it must be of {', '.join(PARTS)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in () if options.page else options.parts or PARTS:
        table = measure(part, options)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}  # another run may have written meanwhile
        results[part] = f"{where()}\n\n{table}"
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        print(f"## {part}\n\n{results[part]}\n", flush=True)
    absent = {part: f"Not measured yet: `make bench ARGS={part}` fills it." for part in PARTS}
    page = PAGE.format(**{**absent, **results}, slow=speed.SLOW, fast=speed.FAST)
    options.out.write_text(page)


if __name__ == "__main__":
    main()
