"""What the oracle found: plain frozen data; every report is a view of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from gradcheck.devices import Device, DtypeName
from gradcheck.problems.building import Spec
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import Comparison

__all__ = ["KERNEL", "Diagnosis", "Judgement", "Outcome", "OutcomeStatus", "Raised", "Result", "Status", "of_kernel"]

OutcomeStatus = Literal["passed", "failed", "skipped", "unjudged"]
"""What a check says; ``unjudged``: nothing can be said about it."""

Status = Literal[OutcomeStatus, "expected-failure", "unexpected-pass"]
"""What became of an obligation, with what was declared of it."""

KERNEL = ("gradient", "equal-shards")
"""A loss's and a trainer's obligation without which nothing is said to conform: its gradient on ordinary problems."""


def of_kernel(rows: Iterable[tuple[str, str, Status]]) -> list[Status]:
    """What became of it on every device that is there: the statuses, of rows of id, device and status."""
    rows = list(rows)
    there = {device for _, device, status in rows if status != "skipped"} or {device for _, device, _ in rows}
    return [status for name, device, status in rows if name in KERNEL and device in there]


@dataclass(frozen=True)
class Diagnosis:
    """What a failure is consistent with.

    Attributes:
        cause: a sentence; the named mistake, or that none fits.
        name: its id, ``"unknown"`` if none fits.
        declare: the keyword to declare if this is a convention rather than a mistake, else empty.
        observed, required: the gradient on the field's directions, as formulas where they were recognised.
        shown_alone: nothing is wrong beyond rounding but on the problem that is shown, so that the cause may lie in
            what failed there.
        rows: what these are of: a word, and the rest.
    """

    name: str
    cause: str
    declare: str = ""
    observed: tuple[tuple[str, str], ...] = ()
    required: tuple[tuple[str, str], ...] = ()
    shown_alone: bool = False
    rows: tuple[str, str] = ("gradient", "on the field's directions")


@dataclass(frozen=True)
class Outcome:
    """What one obligation's check saw.

    Attributes:
        status: ``passed``, ``failed``, ``skipped``, or ``unjudged`` if nothing can be said about it.
        examples: problems tried.
        ratio: largest test ratio; up to :data:`THRESHOLD` passes.
        detail: for a failure, what differs, in a line; for a skip, or where nothing can be said, why.
        comparison: the figures behind it, if it is about numbers.
        spec: the smallest problem on which it failed.
        note: something worth telling though it is no failure.
        ratios: every problem's test ratio, for the histogram.
        meaning: what the two compared numbers are, where they are not just the implementation's gradient and the
            derived one.
        resolution: the smallest f for which an implementation whose gradient is wrong by the factor 1 + f throughout
            would have been refused, by one problem at least; ``None`` where no numbers were compared, infinite where
            the precision left nothing to see.
    """

    status: OutcomeStatus
    examples: int = 0
    ratio: float = 0.0
    detail: str = ""
    comparison: Comparison | None = None
    spec: Spec | None = None
    note: str = ""
    ratios: tuple[float, ...] = ()
    meaning: str = ""
    resolution: float | None = None


@dataclass(frozen=True)
class Raised(Outcome):
    """A failure that is nothing but what the implementation raised; the detail says on which problem, too.

    Attributes:
        raised: the exception, in words.
        on: the problem on which it raised, while others may pass; empty where it wasn't a problem's.
    """

    raised: str = ""
    on: str = ""


@dataclass(frozen=True)
class Result:
    """One obligation: what it says, and what became of it."""

    id: str
    statement: str
    catches: str
    outcome: Outcome
    device: Device
    dtype: DtypeName
    diagnosis: Diagnosis | None = None
    script: str = ""
    shell: bool = False
    """Whether the script is a command for a shell, and no Python."""
    expected: str = ""
    """The reason why it was declared to fail; empty if it wasn't."""
    seconds: float = 0.0
    """What checking, and explaining a failure, took."""

    @property
    def status(self) -> Status:
        """What became of it, beside what was expected."""
        if self.expected and self.outcome.status == "failed":
            return "expected-failure"
        if self.expected and self.outcome.status == "passed":
            return "unexpected-pass"
        return self.outcome.status

    @property
    def good(self) -> bool:
        return self.status in ("passed", "skipped", "expected-failure")


@dataclass(frozen=True)
class Judgement:
    """Everything about one implementation; where it could not be judged, what was seen up to there."""

    subject: str
    declaration: str
    results: tuple[Result, ...]
    reference: str
    seed: int
    seconds: float
    printed: str = ""
    threshold: float = field(default=THRESHOLD)

    @property
    def holds(self) -> bool:
        return not self.unjudged and all(result.good for result in self.results)

    @property
    def unjudged(self) -> str:
        """Why it could not be judged; empty if it was.

        Nothing is right that was not looked at: one obligation must have held, and the gradient, unless it was not
        asked for, must have been compared.
        """
        told = next((r.outcome.detail for r in self.results if r.status == "unjudged"), "")
        if told or any(not r.good for r in self.results):
            return told
        if "skipped" in of_kernel((r.id, r.device, r.status) for r in self.results):
            skipped = next(r for r in self.results if r.id in KERNEL and r.status == "skipped")
            return f"its gradient was not compared: {skipped.outcome.detail}"
        if not any(r.status == "passed" for r in self.results):
            reasons = dict.fromkeys(r.outcome.detail for r in self.results if r.status == "skipped")
            reason = "; ".join(reasons) or "everything that was checked fails as declared"
            return f"no obligation was seen to hold: {reason}"
        return ""
