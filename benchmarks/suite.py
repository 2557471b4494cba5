"""What ``.ci/run`` takes, step by step, and where the time goes: ``python -m benchmarks.suite``.

The steps' processor time says what an idle machine would need, whatever else ran meanwhile.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from . import text

ENVIRONMENT = "an environment of its own"
STEPS = {
    ENVIRONMENT: "{venv}/.ready",
    "lint and types": "lint",
    "all tests": "test",
    "a sample of them with other kernels, twice": "kernels",
}
"""Step → its target of ``make``."""
GOALS = {"`make test`": 240, "`.ci/run`": 360}
"""Seconds, on two cores."""
_SHOWN = 4000
"""Characters of a step's output that are shown where it fails."""
FEW = 12
"""Files that are named; the others are summed."""

Times = tuple[float, float]
"""Wall and processor time, in seconds."""


def measured(junit: Path) -> dict[str, Times]:
    """Run every step, and write what the tests took to a file.

    Raises:
        subprocess.CalledProcessError: a test fails.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        venv = f"{folder}/venv"
        for name, target in STEPS.items():
            command = ["make", target.format(venv=venv), f"VENV={venv}"]
            more = [f"ARGS=--junitxml={junit}"] if target == "test" else []
            start, before = time.perf_counter(), _processor()
            ran = subprocess.run([*command, *more], stdout=subprocess.PIPE, text=True)
            if ran.returncode:
                print(ran.stdout[-_SHOWN:], flush=True)
                raise subprocess.CalledProcessError(ran.returncode, command)
            found[name] = time.perf_counter() - start, _processor() - before
    return found


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def by_file(junit: Path) -> list[tuple[str, int, float]]:
    """Each file's tests and their seconds, the longest first."""
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for case in ET.parse(junit).iter("testcase"):
        file = (case.get("classname") or "").replace(".", "/") + ".py"
        seconds[file] += float(case.get("time") or 0)
        tests[file] += 1
    return [(file, tests[file], taken) for file, taken in seconds.most_common()]


def tables(times: dict[str, Times], junit: Path) -> str:
    """Two Markdown tables: the steps, and the share of each file in the tests' time."""
    rows = [(name, f"{wall:.0f} s", f"{processor:.0f} s", "") for name, (wall, processor) in times.items()]
    for name, goal in GOALS.items():
        of_it = [taken for step, taken in times.items() if step != ENVIRONMENT or name == "`.ci/run`"]
        wall, processor = (sum(x) for x in zip(*of_it, strict=True))
        rows.append((f"**{name}**", f"**{wall:.0f} s**", f"**{processor:.0f} s**", f"{goal} s"))
    files = by_file(junit)
    whole = sum(taken for *_, taken in files)
    shares = [(file, f"{tests:,}", f"{100 * taken / whole:.1f} %") for file, tests, taken in files[:FEW]]
    others = files[FEW:]
    rest = f"{100 * sum(taken for *_, taken in others) / whole:.1f} %"
    shares.append((f"{len(others)} other files", f"{sum(tests for _, tests, _ in others):,}", rest))
    steps = text.table(("step", "measured", "processor time, all cores", "goal"), rows)
    return f"{steps}\n\n{text.table(('file', 'tests', 'share of the time'), shares)}"


def noted(texts: Sequence[str]) -> dict[str, Times]:
    """Times of steps that ran before, each as ``WALL,PROCESSOR`` in the steps' order."""
    return {name: (float(a), float(b)) for name, (a, b) in zip(STEPS, (x.split(",") for x in texts), strict=True)}


def suite_tables(times: Sequence[str] = (), junit: Path | None = None) -> str:
    """The tables, of a run now or of one that was noted."""
    if times and junit is not None:
        return tables(noted(times), junit)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "junit.xml"
        return tables(measured(file), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    print(suite_tables())


if __name__ == "__main__":
    main()
