"""Writes ``docs/benchmarks.md``: ``python -m benchmarks.report``."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch

from . import alarms, memory, peers, sharpness, speed, startup, suite, text

TIMED = ("startup", "cpu", "peers", "tests")
"""What measures times: one after the other, with the machine to itself."""
COUNTED = ("memory", "alarms", "sensitivity")
"""What does not: as many at once as there are cores."""
PARTS = (*TIMED, *COUNTED)

PAGE = """# Benchmarks

`make bench` measures and writes this page anew, in one to two hours on two cores. Times are ratios within one run,
since machines differ and are noisy. Each table says when it was measured. Where other work ran on the machine
meanwhile, processor time tells more than the clock.

The tables are of one run, on a machine that imports torch in 2.3 s. One that does so in 1.2 s had, on the same day:
proofs 8.5, one loss 2.2, twenty losses 6.4, `make verify` 14 s, `make test` 856 s. Seconds in the text are of that one.

## Starting and proving

Each row is the best of three fresh processes; what takes long runs once. Processor time is that of all processes
together.

{startup}

Where a goal is missed, this is what takes the time:

* Proofs: of 2.2 s of processor time, a quarter goes into importing SymPy and the statements, and a tenth into stating
  the losses. Of the rest the 487 equalities take half, 353 gradients a fifth and 100 approximations a seventh. In all
  of them it is the premises (domains, signs, denominators) and SymPy's own construction of expressions; deciding that
  something is 0 takes a tenth.
* One loss: `gradcheck check` imports torch and SymPy, which is 1.0 units without the search for garbage that Python
  makes meanwhile, and this package, which is 0.4. The rest goes into some 190 problems, at 8 to 9 ms of processor
  time each: a third of it into the required gradient and its error bound, more than a quarter into drawing the
  problem, a sixth into calling the loss and looking at what it left behind.
* Twenty losses: each is judged on as many problems as if it were alone, in a process of its own, as many at once as
  there are cores. The problems, and what is required on them, are made once for losses that declare the same, which
  leaves two fifths of the judgement to each: 245 calls with their backward passes, each between two looks at the
  process's state, the comparisons, and a tenth for importing the file. Twenty times that, on two cores, is more than
  the goal.
* `make verify` shares its work among as many processes as there are cores. Of the processor time two thirds go into
  the random problems, in two precisions (not quite half of that into required gradients and their bounds, a fifth
  into hypothesis, which chooses the problems), a sixth into the networks (half of it to import peft and to build
  them), and a tenth into proofs.

## Cost of a check

A check of one gradient on tensors that are there, in units of the forward and backward pass of the loss itself,
float32, samples of D coordinates. `torch.autograd.gradcheck` does its work in float64, slow mode with every
coordinate in turn (one sample, up to D = {slow}), fast mode along random directions (up to D = {fast:,}). Reading alone
is the time in which one thread reads the check's inputs as often as it does. All is processor time.

{cpu}

Where a goal is missed, this is what takes the time:

* D = 4,096: some 120 small operations of torch, and a program of 200 to 700 operations on numbers, which is recorded
  once for each derivation. That is 0.4 ms at any small D, a third of it the program and the sums that it asks for, a
  third the comparison. AWM's own forward and backward pass takes 0.1 ms.
* D = 65,536 and 10⁶, and several samples of 4,096: for each 32,768 coordinates one sees 200 µs for the sums that the
  importance ratio and its bound need, and 250 µs for the comparison, of which 75 go into the test ratio itself. Both
  read the latents as float64, four of them, 10 to 20 µs a time, and combine them with coefficients twice, for the
  values and for the bounds: 15 µs for each vector, which is what the cache's bandwidth gives. The loss, in float32,
  takes 100 µs (AWM) to 300 µs for as many coordinates. float32 would not do: a bound must be surer than what it judges.
  Nor can the second reading be saved, for the gradient's coefficients are known after the first.
* From 10⁷ on the loss's own intermediate results leave the cache, and a check's never do.

On a GPU: [the page on CUDA](cuda.md).

### Memory

Held at most, beside the inputs, by a check of latents of a video, in float32; and by how much a process grows. What is
remembered of losses is full after some 300 of them, and what SymPy remembers, 1,000 of each kind, not much later: a
process that derives loss after loss grows by some 20 MiB until then, and no further.

{memory}

The judge of `gradcheck check` looks at one sample at a time, and keeps the required gradient and its error scale, in
float64. Where rounding leaves it open on which side of its clip a sample is, it keeps what is required on both sides:
then it holds 1.7 times the inputs, and of AWM, which has five latents to the others' eight or nine, 2.4 times.

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
tiny, in bfloat16, for instance. A test ratio up to 4 passes. That of a preference comes close to 4 beyond z = 20, where
torch's `softplus` leaves e⁻ᶻ out: that is no rounding but a number that is known, and the bound adds it to what
rounding may do. `python -m benchmarks.alarms` runs it by itself, and goes on where it was stopped.

{alarms}

## Sensitivity

Gradients that are wrong by a relative 10⁻ᵏ: the largest k for which the error is refused in every try, and in half of
them. D = 16, inside the clip, amid the time axis; five losses. `assert_close` compares with the closed form in the same
precision, at its default tolerances.

{sensitivity}

A check in float32 or bfloat16 sees what the precision leaves of the loss: where a sample's log-probability has lost
its digits, no error in its gradient is small enough to be told from rounding, and none is called wrong.

## The project's own tests

What `make test` takes, and `.ci/run`, which makes an environment for it first, on two cores.

{tests}

The goal is missed by far: some 11,000 tests prove, draw problems and judge code, no thing is done twice, and no file
takes more than a twentieth of the time. Of the dozen that take most, half look for the cause of a failure, which tries
some hundred mistakes on each of several problems; the others execute notebooks, or start processes of their own. What
else could be thinned is what `make whole` runs.
"""


BUSY = 0.3
"""Cores that may be at work on something else."""

RESULTS = Path(__file__).with_name("results.json")


def measure(part: str, options: argparse.Namespace) -> str:
    """The table of one part of the page; of alarms and of tests as they were counted, if they were."""
    if part == "startup":
        header = ("", "measured", "in processor time", "goal")
        return text.table(header, startup.figures())
    if part == "peers":
        return peers.peers_table()
    if part == "memory":
        return memory.table(options.derived)
    if part == "cpu":
        return speed.speed_table(part)
    if part == "alarms":
        return alarms.table(alarms.totals(options.tally) if options.tally else alarms.counted(options.checks))
    if part == "tests":
        return suite.suite_tables(options.times, options.junit)
    return sharpness.sensitivity_table(options.tries)


def where() -> str:
    """When and on what it is measured, asked before it starts."""
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    before = _worked()
    time.sleep(_LOOK)
    others = (_worked() - before) / _LOOK  # and no average of the system's, which remembers what ran minutes ago
    busy = f" Other work ran on the machine, on {others:.1f} of its cores." if others > BUSY else ""
    return f"Measured on {datetime.date.today().isoformat()}: {versions}, {machine}, one thread.{busy}"


_LOOK = 3.0
"""Seconds."""


def _worked() -> float:
    """Seconds that the machine's cores have worked."""
    ticks = Path("/proc/stat").read_text().split()[1:4]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def _measured(parts: Sequence[str], options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Each part and its table, as it is done."""
    for part in TIMED:
        if part in parts:
            yield part, measure(part, options)
    counted = [part for part in COUNTED if part in parts]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as processes:
        work = {processes.submit(measure, part, options): part for part in counted}
        for done in as_completed(work):
            yield work[done], done.result()


def _results() -> dict[str, str]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all that can be, by default")
    parser.add_argument("--checks", type=int, default=1_000_000)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--derived", type=int, default=memory.TIMES, help="losses that are derived in one process")
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
    described = where()
    for part, table in () if options.page else _measured(options.parts or PARTS, options):
        results = _results()  # another run may have written meanwhile
        results[part] = f"{described}\n\n{table}"
        RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        print(f"## {part}\n\n{results[part]}\n", flush=True)
    absent = {part: f"Not measured yet: `make bench ARGS={part}` fills it." for part in PARTS}
    page = PAGE.format(**{**absent, **_results()}, slow=speed.SLOW, fast=speed.FAST)
    options.out.write_text(page)


if __name__ == "__main__":
    main()
