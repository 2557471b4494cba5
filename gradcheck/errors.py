"""The one family of errors that bad input raises."""

from __future__ import annotations

__all__ = ["GradcheckError", "InputError"]


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
