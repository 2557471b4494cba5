"""One command on a machine with a CUDA device: ``python -m benchmarks.cuda``, at most eight minutes.

Parts run one after the other, what matters most first; each in several processes that share the device, and each with
a time limit of its own, at which a process that is still at work is ended; what it found until then counts.
``--device cpu`` runs the same parts without a device, to see that they would run.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from . import bandwidth, laws
from .rows import Row, Share, law_table, off, summed


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        title: of its section on the page.
        work: what one process of it does.
        seconds: its time limit; a part that measures nothing starts no piece of work in the last fifth.
        processes: how many share the work at most.
        table: of its rows.
        told: what the page says of it, if not the first lines of ``work``.
    """

    title: str
    work: Callable[[Share], Iterator[Row]]
    seconds: float
    processes: int = 99
    table: Callable[[list[Row]], str] = law_table
    told: str = ""


PARTS = {
    "laws": Part("Losses, derived gradients, equivalent losses", laws.laws, 65),
    "same": Part("The same problems, bit for bit", laws.same, 20, 4),
    "oracle": Part("Other people's code, judged on the device", laws.oracle, 75),
    "networks": Part("At the LoRA weights of SD3 and Flux", laws.real_networks, 45),
    "watch": Part("Trainers under the watch", laws.watch, 55),
    "parts": Part("Parts that compute on the device", laws.parts, 20, 6),
    "vectors": Part("Golden vectors", laws.vectors, 35),
    "bandwidth": Part("What a check costs", bandwidth.bandwidth, 50, 1, bandwidth.figures_table),
    "alarms": Part("Right code", laws.right_code, 55),
    "compiled": Part("Under torch.compile", laws.compiled, 50),
    "nccl": Part("Several devices", laws.many_devices, 60, 1),
}

_PROCESSES = 5
"""Processes take turns on a GPU: more of them do no more small operations in a second."""
RESULTS, PAGE = Path(__file__).with_name("results.json"), Path("docs/cuda.md")
_ROOT = Path(__file__).parents[2]

_TEXT = """# On CUDA

`make cuda` checks and measures everything on this page on a machine with a CUDA device, in at most eight minutes, and
writes it anew. It runs with the torch that is installed there. The networks and trainers need `diffusers` and `peft`;
without them these two parts say so. Where nothing can be fetched, bring their wheels along:

    pip download --no-deps --only-binary=:all: --python-version 3.12 -d wheels diffusers importlib_metadata
    pip install --no-index --no-deps wheels/*.whl     # there

`make cuda ARGS="--device cpu"` tries the script itself on a machine without a GPU.

{where}

{notes}

{sections}
"""


class Worker:
    """A process that does its share of one part after another, so that it imports and derives once."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        self.errors = tempfile.NamedTemporaryFile("w+", suffix=".err")  # noqa: SIM115 - lives as long as the process
        command = [sys.executable, "-m", "benchmarks.cuda", "--worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, cwd=_ROOT, env=environment
        )

    def begin(self, name: str, share: Share, file: Path) -> None:
        assert self.process.stdin is not None
        task = {"name": name, "share": asdict(share), "file": str(file)}
        self.process.stdin.write((json.dumps(task) + "\n").encode())
        self.process.stdin.flush()

    def ended(self, until: float) -> bool:
        """Whether it says in time that it is through with the part."""
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
        assert self.process.stdout is not None
        return bool(ready) and bool(self.process.stdout.readline())

    def why(self) -> str:
        """The end of what it wrote to standard error, if it ended by itself."""
        if self.process.poll() is None:
            return ""
        return Path(self.errors.name).read_text()[-600:] or f"exit status {self.process.returncode}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def run(name: str, device: str, workers: list[Worker], seconds: float) -> list[Row]:
    """What a part's processes found within its time; those that did not end are replaced."""
    count = min(PARTS[name].processes, len(workers))
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jsonl" for i in range(count)]
        until = time.monotonic() + seconds
        for i, file in enumerate(files):
            workers[i].begin(name, Share(device, i, count, 0.8 * seconds), file)
        rows, late = [], 0
        for i in range(count):
            if workers[i].ended(until):
                continue
            why = workers[i].why()
            late += not why
            rows += [Row("a process ended", 1, 1, told=[why])] if why else []
            workers[i].kill()
            workers[i] = Worker()
        found = [Row(**json.loads(line)) for file in files if file.exists() for line in file.read_text().splitlines()]
    rows += [Row(f"{late} of {count} processes were still at work after {seconds:.0f} s", 0)] if late else []
    return found + rows


def serve() -> None:
    """What a process does: a line for each row, so that what is killed leaves what it found."""
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a loss prints is no answer
    for line in sys.stdin:
        task = json.loads(line)
        with Path(task["file"]).open("a") as out:
            for row in PARTS[task["name"]].work(Share(**task["share"])):
                out.write(json.dumps(row.data()) + "\n")
                out.flush()
        print("end", file=answers, flush=True)


def where(device: str) -> str:
    """When, on what, and with which versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"the CPU ({platform.machine()}), to try the script"
    return f"Seen on {date.today().isoformat()}: {name}, torch {torch.__version__}, Python {platform.python_version()}."


def page(results: dict[str, Any]) -> str:
    """The page of a file of results; its notes are written by whoever looked at what was off."""
    sections = []
    for name, part in PARTS.items():
        if name in results["parts"]:
            found = part.table([Row(**row) for row in results["parts"][name]])
            sections.append(f"## {part.title}\n\n{part.told or inspect.getdoc(part.work)}\n\n{found}")
    notes = "\n".join(f"* {note}" for note in results["notes"])
    return _TEXT.format(where=results["where"], notes=notes, sections="\n\n".join(sections))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--processes", type=int, default=min(_PROCESSES, os.cpu_count() or 1))
    parser.add_argument("--scale", type=float, default=1.0, help="of every part's time limit")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=None, help=f"the page; {PAGE} where there is a CUDA device")
    parser.add_argument("--write", action="store_true", help="write the page from the results that are there, and stop")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"PART is {', '.join(sorted(unknown))}; it must be of {', '.join(PARTS)}")
    if options.worker:
        serve()
        return 0
    if options.write:
        PAGE.write_text(page(json.loads(RESULTS.read_text())))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("cuda: not run, torch sees no CUDA device; --device cpu tries the script")
        return 2
    results: dict[str, Any] = {"where": where(options.device), "notes": [], "parts": {}}
    wrong, workers = 0, [Worker() for _ in range(options.processes)]
    for name in options.parts or PARTS:
        start = time.monotonic()
        rows = run(name, options.device, workers, options.scale * PARTS[name].seconds)
        wrong += off(rows)
        kept = rows if any(row.figures for row in rows) else summed(rows)
        results["parts"][name] = [row.data() for row in kept]
        options.results.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print(f"## {name}, {time.monotonic() - start:.0f} s\n\n{PARTS[name].table(kept)}\n", flush=True)
    for worker in workers:
        worker.kill()
    target = options.page or (PAGE if options.device == "cuda" else None)
    if target is not None:
        target.write_text(page(results))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
