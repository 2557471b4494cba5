"""The terminal that a command writes to: one that cannot show every character, or that nobody reads any more."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from derivations.writing.wrapping import is_formula, spelled, wrap_formula, wrap_words
from gradcheck.errors import did_you_mean

__all__ = ["Parser", "Progress", "coloured", "in_characters", "painted", "prose", "safe_output", "width"]

_COLOURS = {"good": "32", "bad": "1;31", "quiet": "2"}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """An error handler: what the terminal's encoding lacks, in ASCII."""
    assert isinstance(error, UnicodeEncodeError)
    return spelled(error.object[error.start : error.end]), error.end


codecs.register_error("gradcheck-spelled", _spell)


def width() -> int:
    """Columns of the terminal, or COLUMNS, or 80 where the output goes to no terminal."""
    return max(shutil.get_terminal_size((80, 24)).columns, 40)


def in_characters(text: str) -> str:
    """Text in characters that standard output can show: spelled in ASCII where its encoding has no Greek."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        "ε‖√≈θ−".encode(encoding)
    except (UnicodeError, LookupError):
        return spelled(text)
    return text


def prose(text: str) -> str:
    """Lines of a text, in characters that can be shown, those broken that are wider than the terminal.

    What is broken goes on below the place at which the line's text begins, after a label such as ``target``; a
    formula is broken at operators.
    """
    return "\n".join(piece for line in in_characters(text).split("\n") for piece in _broken(line))


def _broken(line: str) -> list[str]:
    if len(line) <= width():
        return [line]
    head = _LABEL.match(line)
    assert head is not None
    margin, body = head[0], line[head.end() :]
    if len(margin) > width() // 2:
        margin, body = line[: len(line) - len(line.lstrip())], line.lstrip()
    if is_formula(body):
        first, *rest = wrap_formula(body, width() - len(margin))
        return [margin + first, *(" " * len(margin) + one for one in rest)]
    hang = " " * len(margin) if margin.strip() else f"{margin}  "
    return wrap_words(body, width(), margin, hang)


_LABEL = re.compile(r"\s*(?:\S(?:\S| (?! ))*\s{2,})?")


def coloured(stream: TextIO | None = None) -> bool:
    """Whether colours may be written: to a terminal, unless NO_COLOR is set."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def painted(text: str, style: str) -> str:
    """Text in the colour of ``"good"``, ``"bad"`` or ``"quiet"``, where colours may be written."""
    return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m" if coloured() else text


class Progress:
    """One line on standard error that says what is being done, where that is a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = 0
        try:
            self._on = sys.stderr is not None and sys.stderr.isatty()
        except ValueError:
            self._on = False

    def __call__(self, line: str) -> None:
        """Show a line in the former one's place."""
        if self._on:
            text = in_characters(line)[: width() - 1]
            print(f"\r{text:{self._shown}}", end="", file=sys.stderr, flush=True)
            self._shown = len(text)

    def clear(self) -> None:
        """Leave the line empty, for something else to be printed."""
        if self._on and self._shown:
            print(f"\r{'':{self._shown}}\r", end="", file=sys.stderr, flush=True)
            self._shown = 0


class _Output:
    """A stream that goes on in silence once its reader has gone, so that the exit status is still the true one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self.abandon()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self.abandon()

    def abandon(self) -> None:
        """Nothing that is still to be written can fail any more, not even what Python writes as it ends."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Print what the terminal's encoding lacks in ASCII, and survive ``| head``."""
    before, opened = (sys.stdout, sys.stderr), contextlib.ExitStack()
    try:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # it was closed before the command began, ``>&-``, and nobody reads
                nowhere = opened.enter_context(open(os.devnull, "w"))  # noqa: SIM115 - the stack closes it
                setattr(sys, name, nowhere)
                continue
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.reconfigure(errors="gradcheck-spelled")
            setattr(sys, name, _Output(stream))
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):  # a full disk has been told of, or is told of by the exit status
                if isinstance(stream, _Output):
                    stream.abandon()
        sys.stdout, sys.stderr = before
        opened.close()


_LARGEST = 10**12


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = _LARGEST + 1
    if abs(number) > _LARGEST:
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted a whole number of at most 12 digits")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted a finite number")
    return number


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what was wanted."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.register("type", int, _whole)
        self.register("type", float, _number)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            wanted = f"one of {', '.join(known)}{did_you_mean(str(value), known)}"
            raise argparse.ArgumentError(action, f"got {value!r}; wanted {wanted}")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}{self._meant(message)} ({self.prog} --help says more)\n")

    def _meant(self, message: str) -> str:
        """The option that an unrecognized one is most like."""
        _, found, words = message.partition("unrecognized arguments: ")
        if not found:
            return ""
        of_command = [parser for parser in self._all() if parser.prog.split()[-1] in sys.argv[1:2]]
        options = {o for parser in of_command or self._all() for o in parser._option_string_actions if len(o) > 2}
        given = next((word.partition("=")[0] for word in words.split() if word.startswith("--")), "")
        return did_you_mean(given, sorted(options)) if given else ""

    def _all(self) -> Iterator[argparse.ArgumentParser]:
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()
