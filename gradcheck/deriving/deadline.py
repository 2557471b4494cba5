"""A limit on the time that a piece of work may take, in any thread and on any system.

SymPy's own work is Python code, and its numbers are kept small by the grammar's limits, so an exception that is raised
in the working thread stops it at the next instruction.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["DeadlineError", "deadline"]


class _Stopped(BaseException):
    pass


class DeadlineError(Exception):
    """The work took longer than it may."""


def _may_raise(ident: int) -> bool:
    """Whether the thread is outside destructors and the collector's callbacks, which swallow exceptions noisily.

    The thread waits for the interpreter's lock while this looks, and meets the exception where it then goes on.
    """
    frame = sys._current_frames().get(ident)
    callbacks = {getattr(callback, "__code__", None) for callback in gc.callbacks}
    while frame is not None:
        code = frame.f_code
        if code in callbacks or code.co_name == "__del__" or code.co_filename == weakref.__file__:
            return False
        frame = frame.f_back
    return True


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise :class:`DeadlineError` if the block takes longer; ``None`` sets no limit."""
    if seconds is None:
        yield
        return
    done, lock = threading.Event(), threading.Lock()
    ident = threading.get_ident()
    worker = ctypes.c_ulong(ident)

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):  # again and again: something may swallow one
            wait = 0.002
            with lock:
                if not done.is_set() and _may_raise(ident):
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(worker, ctypes.py_object(_Stopped))
                    wait = 1.0

    def end() -> None:
        done.set()
        with lock:  # from here on none is sent; one that was sent and not yet raised is taken back
            ctypes.pythonapi.PyThreadState_SetAsyncExc(worker, None)

    threading.Thread(target=watch, name="gradcheck-deadline", daemon=True).start()
    try:
        try:
            yield
        finally:
            end()
    except _Stopped:
        end()
        raise DeadlineError(f"more than {seconds:g} s") from None
