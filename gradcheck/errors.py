"""The one family of errors that bad input raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["GradcheckError", "InputError", "did_you_mean"]


class GradcheckError(Exception):
    """Base class of everything that this package raises on purpose."""


class InputError(GradcheckError, ValueError):
    """An argument is not what it must be.

    The message names the argument, what was given and what is wanted; several mistakes come together,
    one a line.
    """

    def __init__(self, *problems: tuple[str, str, str]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"[gradcheck] {name}: got {got}; wanted {wanted}" for name, got, wanted in problems))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'X'?"`` for the known name that is most like it, or nothing."""
    close = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
