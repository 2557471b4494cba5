"""A variant of an algorithm: a name, a sentence, the options that make it, and its line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Variant", "choose"]


@dataclass(frozen=True)
class Variant:
    """One form of an algorithm.

    Attributes:
        name: ``"paper"`` for the form that the paper states.
        summary: one sentence that says what it is and who uses it.
        options: what it chooses of the algorithm's options; keyword arguments of the torch loss, too.
        line: the loss in one line, as ``gradcheck derive`` reads it; a test proves that it gives the same derivation.
    """

    name: str
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)
    line: str = ""


def choose(argument: str, value: str, *allowed: str) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        ValueError: it is not; the message names the argument and lists what is.
    """
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, but is {value!r}")
    return value
