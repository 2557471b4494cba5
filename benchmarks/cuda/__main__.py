"""One command on a machine with a CUDA device: ``python -m benchmarks.cuda``, at most eight minutes.

Parts run one after the other, what matters most first; each in several processes that share the device, and each with
a time limit of its own, at which its processes are ended and what they found until then counts.  ``--device cpu`` runs
the same parts without a device, to see that they would run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from . import bandwidth, laws
from .rows import Row, Share, law_table, off


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        title: of its section on the page.
        work: what one process of it does.
        seconds: its time limit; a part that measures nothing starts no piece of work in the last fifth.
        processes: how many share the work at most.
    """

    title: str
    work: Callable[[Share], Iterator[Row]]
    seconds: float
    processes: int = 12
    table: Callable[[list[Row]], str] = law_table


PARTS = {
    "laws": Part("Losses, derived gradients, equivalent losses", laws.laws, 65),
    "same": Part("The same problems, bit for bit", laws.same, 20, 4),
    "oracle": Part("Other people's code, judged on the device", laws.oracle, 75),
    "networks": Part("At the LoRA weights of SD3 and Flux", laws.real_networks, 45),
    "watch": Part("Trainers under the watch", laws.watch, 55),
    "parts": Part("Parts that compute on the device", laws.parts, 20, 6),
    "vectors": Part("Golden vectors", laws.vectors, 35, 1),
    "bandwidth": Part("What a check costs", bandwidth.bandwidth, 50, 1, bandwidth.figures_table),
    "alarms": Part("Right code", laws.right_code, 55),
    "compiled": Part("Under torch.compile", laws.compiled, 50),
    "nccl": Part("Several devices", laws.many_devices, 60, 1),
}

RESULTS, PAGE = Path(__file__).with_name("results.json"), Path("docs/cuda.md")
_ROOT = Path(__file__).parents[2]

_TEXT = """# On CUDA

`make cuda` runs everything below on a machine with a CUDA device, in at most eight minutes, and writes this page.

{where}

{sections}
"""


def run(name: str, device: str, processes: int, seconds: float) -> list[Row]:
    """What a part's processes found within its time."""
    part = PARTS[name]
    count = min(part.processes, processes)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.jsonl" for i in range(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        workers = []
        for i, file in enumerate(files):
            arguments = [name, "--device", device, "--share", f"{i}/{count}", "--seconds", str(seconds)]
            errors = file.with_suffix(".err").open("w")
            command = [sys.executable, "-m", "benchmarks.cuda", *arguments, "--worker", str(file)]
            workers.append(subprocess.Popen(command, stdout=errors, stderr=errors, cwd=_ROOT, env=environment))
        end, late = time.monotonic() + seconds, 0
        for worker in workers:
            try:
                worker.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
                late += 1
        rows = [Row(**json.loads(line)) for file in files if file.exists() for line in file.read_text().splitlines()]
        for file, worker in zip(files, workers, strict=True):
            if worker.returncode not in (0, -9):
                rows.append(Row("a process ended early", 1, 1, told=[file.with_suffix(".err").read_text()[-600:]]))
        if late:
            rows.append(Row(f"{late} of {count} processes were ended at the limit of {seconds:.0f} s", 0))
        return rows


def work(name: str, share: Share, file: Path) -> None:
    """One process: a line for each row, so that what is killed leaves what it found."""
    torch.set_num_threads(1)
    with file.open("a") as out:
        for row in PARTS[name].work(share):
            out.write(json.dumps(row.data()) + "\n")
            out.flush()


def where(device: str) -> str:
    """When, on what, and with which versions."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"the CPU ({platform.machine()}), to try the script"
    return f"Seen on {date.today().isoformat()}: {name}, torch {torch.__version__}, Python {platform.python_version()}."


def page(results: dict[str, str], told: str) -> str:
    sections = [f"## {part.title}\n\n{results[name]}" for name, part in PARTS.items() if name in results]
    return _TEXT.format(where=told, sections="\n\n".join(sections))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--processes", type=int, default=min(12, os.cpu_count() or 1))
    parser.add_argument("--scale", type=float, default=1.0, help="of every part's time limit")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=None, help=f"the page; {PAGE} where there is a CUDA device")
    parser.add_argument("--share", default="0/1", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"PART is {', '.join(sorted(unknown))}; it must be of {', '.join(PARTS)}")
    if options.worker:
        index, count = map(int, options.share.split("/"))
        work(options.parts[0], Share(options.device, index, count, 0.8 * options.seconds), options.worker)
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("cuda: not run, torch sees no CUDA device; --device cpu tries the script")
        return 2
    results: dict[str, str] = {}
    wrong = 0
    for name in options.parts or PARTS:
        start = time.monotonic()
        rows = run(name, options.device, options.processes, options.scale * PARTS[name].seconds)
        wrong += off(rows)
        results[name] = PARTS[name].table(rows)
        data = {"where": where(options.device), "parts": results}
        options.results.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        print(f"## {name}, {time.monotonic() - start:.0f} s\n\n{results[name]}\n", flush=True)
    target = options.page or (PAGE if options.device == "cuda" else None)
    if target is not None:
        target.write_text(page(results, where(options.device)))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
