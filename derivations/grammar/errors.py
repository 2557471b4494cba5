"""What is wrong with an expression, and where: a message with a caret under the place."""

from __future__ import annotations

from dataclasses import dataclass
from unicodedata import combining, east_asian_width

__all__ = ["ParseError", "Span"]

_SHOWN = 100
"""Characters of a long line that an error shows."""


@dataclass(frozen=True)
class Span:
    """A piece of source text, from ``start`` up to ``end``."""

    source: str
    start: int
    end: int

    def to(self, other: Span) -> Span:
        """From this piece's start to the other's end."""
        return Span(self.source, self.start, other.end)


class ParseError(ValueError):
    """An expression cannot be read or makes no sense.

    Attributes:
        message: one line that says why.
        span: the offending place.
    """

    def __init__(self, message: str, span: Span) -> None:
        self.message, self.span = message, span
        super().__init__(message, span)

    def __str__(self) -> str:
        return f"{self.message}\n{self.shown()}"

    def shown(self) -> str:
        """The offending line, with carets under the place; what cannot be printed is replaced, so nothing moves."""
        source, start, end = self.span.source, self.span.start, self.span.end
        first = max(source.rfind("\n", 0, start), source.rfind(";", 0, start)) + 1
        last = min((i for i in (source.find("\n", start), source.find(";", start)) if i >= 0), default=len(source))
        if start >= last:  # the separator itself, or the end
            last = start
        end = max(min(end, last), start + 1)
        left = max(first, min(start - _SHOWN // 2, last - _SHOWN))
        right = min(last, left + _SHOWN)
        cut_left, cut_right = "…" if left > first else "", "…" if right < last else ""
        body = source[left:right]
        if not cut_left:
            stripped = body.lstrip()
            left += min(len(body) - len(stripped), max(start - left, 0))
            body = source[left:right]
        line = cut_left + "".join(map(_printable, body)) + cut_right
        before = len(cut_left) + sum(map(_width, source[left:start]))
        marked = max(sum(map(_width, source[start : min(end, right)])), 1)
        return f"  {line.rstrip()}\n  {' ' * before}{'^' * marked}"


def _printable(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() and not combining(character) else "\N{REPLACEMENT CHARACTER}"


def _width(character: str) -> int:
    return 2 if character.isprintable() and east_asian_width(character) in "WF" else 1
