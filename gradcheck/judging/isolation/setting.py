"""One setting of the process: how to read it, to put it back, and to call what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Setting", "changed", "is_left"]


@dataclass(frozen=True)
class Setting:
    """One setting: how to read it, to put it back, and to call what became of it."""

    get: Callable[[], Any]
    put: Callable[[Any], Any]
    words: Callable[[Any, Any], str]


def changed(what: str) -> Callable[[Any, Any], str]:
    """In words: from which value to which."""
    return lambda before, after: f"changed {what} from {before} to {after}"


def is_left(what: str) -> Callable[[Any, Any], str]:
    """In words: what is left as it was not found."""
    return lambda before, after: f"left {what}"
