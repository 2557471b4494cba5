"""What is reported of a judged step, one JSON line each, and what is kept of all of them."""

from __future__ import annotations

import json
import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from gradcheck.errors import InputError

__all__ = ["SCHEMA_VERSION", "VERDICTS", "Report", "StepLine", "read_lines"]

SCHEMA_VERSION = 1
"""Of the JSON lines."""

Verdict = Literal["conforms", "wrong", "unjudged"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""What is said of a judged step."""

_KEPT = 10_000


@dataclass(frozen=True)
class StepLine:
    """One judged step.

    Attributes:
        step: the call's number, from 0, or the one that it was given.
        verdict: one of :data:`VERDICTS`.
        causes: ids of what is wrong, a declaration that would explain it first; empty where nothing is.
        because: the sentence.
        ratio: the gradient's test ratio, the largest difference over what rounding explains; up to 4 passes.
        resolution: the least relative error of the whole gradient that would have been refused.
        factor: the constant by which the gradient is that of the declared loss, as a formula in the numbers that were
            given: ``"1/accumulation"``, ``"loss_scale"``, ``"1"`` …
        factor_value: its number.
        importance_ratio: least and largest importance ratio of the batch, for losses that have one.
        judged: the fraction of the gradient's components on which the precision allows a judgement.
        checks: the other checks: name → ``"holds"``, ``"fails"`` or why it could not be made.
        seconds: what judging took.
        rank: of the process.
    """

    step: int
    verdict: Verdict
    causes: tuple[str, ...] = ()
    because: str = ""
    ratio: float | None = None
    resolution: float | None = None
    factor: str | None = None
    factor_value: float | None = None
    importance_ratio: tuple[float, float] | None = None
    judged: float | None = None
    checks: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    rank: int = 0

    def to_json(self) -> str:
        """One line; numbers that JSON cannot hold are ``null``."""
        return json.dumps({"schema": SCHEMA_VERSION, **_plain(asdict(self))}, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    return value


@dataclass
class Report:
    """What was seen so far.

    Attributes:
        lines: the latest steps, at most ten thousand.
        verdicts: how many steps had which verdict.
        first_wrong: the first step that is wrong.
        unchecked: what could not be checked, and why; each is told once.
        told: whether it was printed as it is; the end of the run does not print it again then.
    """

    lines: deque[StepLine] = field(default_factory=lambda: deque(maxlen=_KEPT))
    verdicts: Counter[str] = field(default_factory=Counter)
    first_wrong: StepLine | None = None
    unchecked: dict[str, str] = field(default_factory=dict)
    told: bool = False

    @classmethod
    def of(cls, lines: Iterable[StepLine]) -> Report:
        report = cls()
        for line in lines:
            report.add(line)
        return report

    def add(self, line: StepLine) -> None:
        self.told = False
        self.lines.append(line)
        self.verdicts[line.verdict] += 1
        if line.verdict == "wrong" and self.first_wrong is None:
            self.first_wrong = line

    @property
    def holds(self) -> bool:
        """Whether at least one step was judged and none was wrong."""
        return self.verdicts["wrong"] == 0 and self.verdicts["conforms"] > 0

    @property
    def judged(self) -> int:
        """Steps on which something could be said."""
        return self.verdicts["conforms"] + self.verdicts["wrong"]

    def resolutions(self) -> list[float]:
        """Of the judged steps, in ascending order."""
        return sorted(x.resolution for x in self.lines if x.verdict != "unjudged" and x.resolution is not None)

    def __str__(self) -> str:
        from gradcheck.watching.text import summary

        self.told = True
        return summary(self)

    __repr__ = __str__


def read_lines(path: Path) -> list[StepLine]:
    """The lines of a log.

    Raises:
        InputError: there is no such file, or a line is none of ours.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(("FILE", str(path), f"a log that gradcheck.watch wrote ({error.strerror})")) from None
    lines = []
    for number, row in enumerate(text.splitlines(), 1):
        if row.strip():
            lines.append(_read(path, number, row))
    if not lines:
        raise InputError(("FILE", f"{path}, which is empty", "a log with at least one judged step"))
    return lines


def _read(path: Path, number: int, row: str) -> StepLine:
    try:
        data = json.loads(row)
        schema = data.pop("schema")
        data["causes"] = tuple(data["causes"])
        data["importance_ratio"] = data["importance_ratio"] and tuple(data["importance_ratio"])
        line = StepLine(**data)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(("FILE", f"line {number} of {path}: {row:.60}", "a line that gradcheck.watch wrote")) from None
    if schema != SCHEMA_VERSION or line.verdict not in VERDICTS:
        raise InputError(("FILE", f"line {number} of {path}", f"a line of schema {SCHEMA_VERSION}"))
    return line
