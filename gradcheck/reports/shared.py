"""What several reports say in the same words."""

from __future__ import annotations

import datetime
import math
import platform
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch

from gradcheck.devices import Device
from gradcheck.judging.results import KERNEL, Diagnosis, Judgement, Outcome, Result, Status
from gradcheck.rounding.compare import Comparison

__all__ = [
    "against",
    "because",
    "clean",
    "decomposition",
    "devices_of",
    "environment",
    "explained_first",
    "failures",
    "number",
    "overall",
    "place",
    "remark",
    "several_devices",
    "sharpness",
    "tally",
    "timestamp",
    "verdict",
]


def environment(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The versions and devices behind a report."""
    return {
        "gradcheck": version("gradcheck-rl"),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "torch": str(torch.__version__),
        "numpy": version("numpy"),
        "sympy": version("sympy"),
        "devices": {device: _device_name(device) for device in devices_of(judgements)},
    }


def devices_of(judgements: Sequence[Judgement]) -> list[Device]:
    """Every device that something was checked on, in order."""
    return list(dict.fromkeys(r.device for j in judgements for r in j.results))


def _device_name(device: Device) -> str:
    if device.startswith("cuda") and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine() if device == "cpu" else ""


def timestamp() -> str:
    """Now, in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def verdict(judgement: Judgement) -> str:
    """Whether one implementation conforms, in a clause."""
    if judgement.unjudged:
        return "could not be judged"
    if judgement.holds and any(r.id in KERNEL and r.status == "expected-failure" for r in judgement.results):
        return "fails as declared"
    return "conforms" if judgement.holds else "does not conform"


def overall(judgements: Sequence[Judgement]) -> str:
    """Whether all do, in a clause."""
    if not judgements:
        return "nothing was judged"
    if len(judgements) == 1:
        return f"{judgements[0].subject} {verdict(judgements[0])}"
    found = [verdict(j) for j in judgements]
    of = f"of {len(judgements)} implementations"
    words = (
        ("does not conform", "do not conform"),
        ("could not be judged", "could not be judged"),
        ("fails as declared", "fail as declared"),
    )
    told = [f"{n} {of} {one if n == 1 else more}" for one, more in words if (n := found.count(one))]
    return ", ".join(told) or f"all {len(judgements)} implementations conform"


def tally(judgement: Judgement) -> str:
    """How many obligations were checked, and how they came out."""
    words: dict[Status, str] = {
        "passed": "hold",
        "failed": "fail",
        "expected-failure": "fail as declared",
        "unexpected-pass": "declared to fail hold",
        "skipped": "not checked",
        "unjudged": "could not be judged",
    }
    counts = {status: sum(r.status == status for r in judgement.results) for status in words}
    parts = [f"{n} {words[status]}" for status, n in counts.items() if n]
    cases = sum(r.outcome.examples for r in judgement.results)
    return (
        f"{len(judgement.results)} obligations: {', '.join(parts) or 'none'}; {cases} cases, {judgement.seconds:.1f} s"
    )


def failures(judgement: Judgement) -> list[Result]:
    """What makes it not conform: undeclared failures, passes that were declared to fail, what cannot be judged."""
    return [r for r in judgement.results if not r.good]


def explained_first(judgement: Judgement) -> Iterator[tuple[Result, bool]]:
    """Every failure, and whether it is the first of its cause on its device."""
    seen: set[tuple[str, str]] = set()
    for r in failures(judgement):
        cause = (r.diagnosis.name if r.diagnosis else r.id, r.device)
        yield r, cause not in seen
        seen.add(cause)


def several_devices(judgement: Judgement) -> bool:
    """Whether a judgement was made on more than one device."""
    return len({r.device for r in judgement.results}) > 1


def place(comparison: Comparison) -> str:
    """Where two gradients differ most, and by how much."""
    c = comparison
    coordinate = f", coordinate {c.index[1:]}" if len(c.index) > 1 else ""
    where = f"sample {c.index[0]}{coordinate}" if c.index else "the value"
    return f"{where}: difference {abs(c.observed - c.required):.3g}, rounding explains {c.bound:.2g}"


def remark(r: Result) -> str:
    """What there is to tell about one obligation, in a line."""
    if r.status == "expected-failure":
        return f"declared: {r.expected}"
    if r.status == "unexpected-pass":
        return f"declared to fail ({r.expected}), but it holds: remove it from expected_failures"
    return "; ".join(part for part in (r.outcome.detail, r.outcome.note) if part)


def because(diagnosis: Diagnosis) -> str:
    """The cause, worded as a hypothesis."""
    return diagnosis.cause if diagnosis.name == "unknown" else f"consistent with {diagnosis.name}: {diagnosis.cause}"


def decomposition(diagnosis: Diagnosis) -> list[tuple[str, str, str]]:
    """Direction, the implementation's coefficient, the required one; a side that lacks a direction has 0 there."""
    yours, wanted = dict(diagnosis.observed), dict(diagnosis.required)
    return [(name, yours.get(name, "0"), wanted.get(name, "0")) for name in dict.fromkeys([*wanted, *yours])]


def number(x: float, digits: int = 2) -> str:
    """A figure for people."""
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    return f"{x:.{digits}g}"


def against(outcome: Outcome, threshold: float) -> str:
    """The worst test ratio beside the threshold; empty where no numbers were compared."""
    if not outcome.ratios:
        return ""
    return f"{number(outcome.ratio)} {'≤' if outcome.ratio <= threshold else '>'} {threshold:g}"


def sharpness(outcome: Outcome) -> str:
    """The smallest relative error that would have been seen; empty where 0 was required, or no number."""
    f = outcome.resolution
    return number(f) if f is not None and math.isfinite(f) else ""


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Control characters, which neither XML nor HTML allows, as escapes."""
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text)
