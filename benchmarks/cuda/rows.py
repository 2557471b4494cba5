"""What a part finds: a row for each piece of work, summed by what was looked at."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from .. import text

__all__ = ["Row", "Share", "law_table", "off", "summed"]


@dataclass(frozen=True)
class Share:
    """Which pieces of work a process does, and on which device.

    Attributes:
        device: ``"cuda"`` or ``"cpu"``.
        index, count: it does the pieces index, index + count, index + 2·count …
        seconds: after which it starts no further piece.
    """

    device: str
    index: int = 0
    count: int = 1
    seconds: float = math.inf

    def of(self, pieces: Iterable[Any]) -> list[Any]:
        """Its own pieces, in an order in which those that time allows are of every kind."""
        every = list(pieces)
        random.Random(0).shuffle(every)
        return every[self.index :: self.count]


@dataclass
class Row:
    """What came out of one piece of work, or of several of a kind.

    Attributes:
        what: of which kind it is; rows of one kind are summed.
        checks: how many there were.
        off: of those, how many did not come out as they must: right code refused, wrong code passed.
        worst: the largest test ratio of right code; up to 4 passes.
        told: what was off, in words.
        figures: cells of a table of measurements.
    """

    what: str
    checks: int = 1
    off: int = 0
    worst: float = 0.0
    told: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)

    def add(self, other: Row) -> None:
        self.checks += other.checks
        self.off += other.off
        self.worst = max(self.worst, other.worst)
        self.told += other.told

    def data(self) -> dict[str, Any]:
        return asdict(self)


def summed(rows: Iterable[Row]) -> list[Row]:
    """One row of each kind, in the order in which kinds were met."""
    found: dict[str, Row] = {}
    for row in rows:
        found.setdefault(row.what, Row(row.what, 0)).add(row)
    return list(found.values())


def off(rows: Iterable[Row]) -> int:
    return sum(row.off for row in rows)


def _shortened(told: Iterable[str], most: int = 5) -> list[str]:
    """Different ones, of each the beginning."""
    lines = list(dict.fromkeys(text.partition("\n")[0][:140] for text in told))
    return lines[:most] + ([f"and {len(lines) - most} more"] if len(lines) > most else [])


def law_table(rows: Iterable[Row]) -> str:
    """A line for each kind, and under it what was off."""
    kinds = summed(rows)
    lines = [(r.what, f"{r.checks:,}", f"{r.off:,}", f"{r.worst:.2f}" if r.worst else "") for r in kinds]
    table = text.table(("what", "checks", "unexpected", "worst test ratio"), lines)
    told = [f"* {r.what}: {line}" for r in kinds for line in _shortened(r.told)]
    return "\n\n".join([table, *(["\n".join(told)] if told else [])])
