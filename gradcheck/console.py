"""The terminal that a command writes to: one that cannot show every character, or that nobody reads any more."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

__all__ = ["Parser", "safe_output"]


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
    """Print what the terminal's encoding lacks as escapes, and survive ``| head``."""
    before = sys.stdout, sys.stderr
    try:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                continue
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")
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

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help says more)\n")
