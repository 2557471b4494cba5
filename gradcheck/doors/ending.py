"""How a command ends that is told to end: it leaves no process behind, and its status says which signal it was."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

__all__ = ["EndedError", "in_order", "status_of"]

_NAMES = ("SIGTERM", "SIGHUP")
"""What ends a process at once, where it isn't caught; Python itself makes an exception of an interrupt alone."""


class EndedError(KeyboardInterrupt):
    """A signal asks this process to end; whatever lets an interrupt through lets this through."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status, as shells give it: 130 for an interrupt, 143 for SIGTERM."""
    return 128 + (error.number if isinstance(error, EndedError) else signal.SIGINT)


@contextmanager
def in_order() -> Iterator[None]:
    """Inside, a signal that would end this process at once is raised, once, so that its children are ended first."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        for other in caught:
            signal.signal(other, signal.SIG_IGN)  # `timeout` sends two
        raise EndedError(number)

    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    caught = [number for number in known if signal.getsignal(number) is signal.SIG_DFL]  # and not under nohup
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)
