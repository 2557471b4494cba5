"""What a check says: the faults that it found, or why it could not be made."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Checked", "Fault"]


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a step: its id, and the sentence."""

    name: str
    sentence: str


@dataclass(frozen=True)
class Checked:
    """The outcome of one check.

    Attributes:
        name: of the check.
        faults: what it found.
        unchecked: why it could not be made; told once.
    """

    name: str
    faults: tuple[Fault, ...] = ()
    unchecked: str = ""

    @property
    def status(self) -> str:
        return "fails" if self.faults else self.unchecked or "holds"
