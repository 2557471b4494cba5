r"""The time that one call may take: from outside where a process watches, else by an alarm that insists.

In a process of its own (:mod:`.child`) a call only says when it must have ended; whoever watches ends the process.
Elsewhere, on the main thread of systems that have it, the alarm signal interrupts Python code, and in other threads an
exception from outside does (:mod:`gradcheck.clock`).  What is raised is no :class:`Exception`, so that ``except
Exception`` in a retry loop does not swallow it, and it comes again and again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from gradcheck.clock import DeadlineError, deadline
from gradcheck.judging.isolation.words import frame_place

__all__ = ["TimeUp", "Watch", "overdue", "time_limit", "watched", "watched_by"]

Watch = Callable[[float], None]
"""Is told the moment (of ``time.monotonic``) by which the call must have ended, and 0 once it has."""

_watch: list[Watch] = []
_copied: list[Callable[[], None]] = []
_exit = os._exit


class TimeUp(BaseException):
    """A call took too long; the message says where it was."""


def watched_by(watch: Watch, copied: Callable[[], None]) -> None:
    """From now on this process is ended from outside, which ``copied`` tells of a copy that a call has made of it."""
    _watch[:], _copied[:] = [watch], [copied]


def watched() -> bool:
    """Whether somebody outside ends this process where it hangs."""
    return bool(_watch)


def overdue(what: str, seconds: float, where: str = "") -> str:
    """What is said of a call that did not end."""
    return f"{what} took longer than the {seconds:g} s that --timeout allows{where}"


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Bound the time of what is inside.

    Raises:
        TimeUp: its time was up, and nobody watches this process.
    """
    process = os.getpid()
    try:
        with _outside(seconds) if _watch else _alarm(seconds):
            yield
    finally:
        if os.getpid() != process:  # a copy that the call made by fork() must not judge too
            for tell in _copied:
                tell()
            _exit(0)


@contextlib.contextmanager
def _outside(seconds: float) -> Iterator[None]:
    _watch[0](time.monotonic() + seconds)
    try:
        yield
    finally:
        _watch[0](0.0)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        places: list[str] = []

        class Late(TimeUp):
            def __init__(self) -> None:
                super().__init__(overdue("one call", seconds, "".join(places[:1])))

        try:
            with deadline(seconds, Late, lambda frame: places.append(frame_place(frame))):
                yield
        except DeadlineError:
            raise Late from None
        return

    def interrupt(signum: int, frame: Any) -> None:
        raise TimeUp(overdue("one call", seconds, frame_place(frame)))

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
