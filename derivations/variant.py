"""A variant of an algorithm: a name, a sentence, and the options that make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Variant", "choose", "chosen"]


@dataclass(frozen=True)
class Variant:
    """One form of an algorithm.

    Attributes:
        name: ``"paper"`` for the form that the paper states.
        summary: one sentence that says what it is and who uses it.
        options: keyword arguments of the algorithm's ``derive``, and likewise of its torch loss.
    """

    name: str
    summary: str
    options: Mapping[str, str] = field(default_factory=dict)


def choose(argument: str, value: str, *allowed: str) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        ValueError: it is not; the message names the argument and lists what is.
    """
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, but is {value!r}")
    return value


def chosen(variant: Variant, options: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Every option's value: the variant's own, or the default, which stands first.

    Raises:
        ValueError: a value is not allowed.
    """
    return {name: choose(name, variant.options.get(name, allowed[0]), *allowed) for name, allowed in options.items()}
