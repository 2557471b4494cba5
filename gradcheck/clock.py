"""A limit on the time that a piece of work may take, in any thread and on any system.

An exception is raised in the working thread, which meets it at its next instruction of Python.  What waits inside one
call of the system or of C, such as a long ``sleep``, is not interrupted before that call returns; on the main thread an
alarm signal does better (:mod:`gradcheck.judging.isolation.limits`), and a process of its own does best.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
def deadline(
    seconds: float | None,
    stop: type[BaseException] = _Stopped,
    seen: Callable[[FrameType | None], None] = lambda frame: None,
) -> Iterator[None]:
    """Raise :class:`DeadlineError` if the block takes longer; ``None`` sets no limit.

    Args:
        seconds: of the clock.
        stop: what is raised inside, without arguments, for code that catches everything and has to know it.
        seen: is told the frame that the thread was in when its time was up.
    """
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
                    seen(sys._current_frames().get(ident))
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(worker, ctypes.py_object(stop))
                    wait = 1.0

    def end() -> None:
        while True:
            try:
                done.set()
                with lock:  # from here on none is sent
                    pass
                # One that was sent and not yet raised is met here.  It is not taken back by sending None: in Python
                # 3.11 that leaves the thread's flag up for ever, and the first function called under a profiler,
                # debugger or coverage then never returns.
                for _ in range(100):
                    pass
                return
            except stop:
                continue

    threading.Thread(target=watch, name="gradcheck-deadline", daemon=True).start()
    try:
        try:
            yield
        finally:
            end()
    except stop:
        end()
        raise DeadlineError(f"more than {seconds:g} s") from None
