"""The settings of Python, of NumPy and of the operating system that a call can leave changed."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without enumerations, which cost a tenth of a millisecond
import contextlib
import gc
import os
import signal
import sys
import threading
import warnings
from typing import Any

import numpy as np

from gradcheck.judging.isolation.setting import Setting, changed, is_left
from gradcheck.judging.isolation.words import plain

__all__ = ["PYTHON"]


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that is gone"


def _put_cwd(value: str) -> None:
    with contextlib.suppress(OSError):
        os.chdir(value)


def _environment() -> dict[Any, Any]:
    raw = getattr(os.environ, "_data", None)  # a tenth of the time, and the oracle asks before and after every call
    return dict(os.environ) if raw is None else dict(raw)


def _put_environment(value: dict[Any, Any]) -> None:
    wanted = {os.fsdecode(name): os.fsdecode(text) for name, text in value.items()}
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def _environment_words(before: dict[Any, Any], after: dict[Any, Any]) -> str:
    names = sorted(os.fsdecode(n) for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    return f"changed the environment: {plain(', '.join(names[:5]))}"


_SIGNALS = sorted(map(int, signal.valid_signals()))


def _handlers() -> dict[int, Any]:
    return {s: _signal.getsignal(s) for s in _SIGNALS}


def _put_handlers(value: dict[int, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for s, handler in value.items():
        if handler is not None and _signal.getsignal(s) is not handler:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(s, handler)


def _handler_words(before: dict[int, Any], after: dict[int, Any]) -> str:
    known = {int(s): s.name for s in signal.Signals}
    names = [known.get(s, f"signal {s}") for s in _SIGNALS if before[s] is not after[s]]
    return f"changed the handler of {', '.join(names[:3])}"


def _put_alarm(value: bool) -> None:
    if not value:
        signal.setitimer(signal.ITIMER_REAL, 0)


_FILES = {1: "standard output", 2: "standard error"}
_duplicates: dict[tuple[int, Any], int] = {}


def _files() -> dict[int, Any]:
    """What descriptors 1 and 2 are; a duplicate of each is kept, to put back."""
    found = {}
    for number in _FILES:
        try:
            status = os.fstat(number)
        except OSError:
            continue
        found[number] = key = (status.st_dev, status.st_ino)
        if (number, key) not in _duplicates and len(_duplicates) < 16:
            _duplicates[number, key] = os.dup(number)
    return found


def _put_files(value: dict[int, Any]) -> None:
    for number, key in value.items():
        duplicate = _duplicates.get((number, key))
        if duplicate is not None:
            with contextlib.suppress(OSError):
                os.dup2(duplicate, number)


def _file_words(before: dict[int, Any], after: dict[int, Any]) -> str:
    closed = [_FILES[n] for n in before if n not in after]
    return f"closed {' and '.join(closed)}" if closed else "replaced standard output or standard error"


_STREAMS = ("stdin", "stdout", "stderr")


def _streams() -> tuple[tuple[Any, bool], ...]:
    return tuple((x, bool(getattr(x, "closed", False))) for x in (getattr(sys, name) for name in _STREAMS))


def _put_streams(value: tuple[tuple[Any, bool], ...]) -> None:
    for name, (stream, _) in zip(_STREAMS, value, strict=True):
        setattr(sys, name, stream)


def _stream_words(before: tuple[tuple[Any, bool], ...], after: tuple[tuple[Any, bool], ...]) -> str:
    closed = [f"sys.{n}" for n, a, b in zip(_STREAMS, before, after, strict=True) if b[1] and not a[1]]
    replaced = [f"sys.{n}" for n, a, b in zip(_STREAMS, before, after, strict=True) if a[0] is not b[0]]
    return f"closed {', '.join(closed)}" if closed else f"replaced {', '.join(replaced)}"


_SYS_HOOKS = ("excepthook", "unraisablehook", "displayhook")


def _sys_hooks() -> tuple[Any, ...]:
    return (*(getattr(sys, name) for name in _SYS_HOOKS), threading.excepthook, warnings.showwarning)


def _put_sys_hooks(value: tuple[Any, ...]) -> None:
    for name, hook in zip(_SYS_HOOKS, value, strict=False):
        setattr(sys, name, hook)
    threading.excepthook, warnings.showwarning = value[-2:]


def _put_filters(value: list[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]
    if hasattr(warnings, "_filters_mutated"):
        warnings._filters_mutated()


PYTHON: dict[str, Setting] = {
    "NumPy's errors": Setting(np.geterr, lambda value: np.seterr(**value), changed("NumPy's error handling")),
    "warnings": Setting(lambda: list(warnings.filters), _put_filters, lambda a, b: "changed the warnings filters"),
    "cwd": Setting(_cwd, _put_cwd, changed("the working directory")),
    "environment": Setting(_environment, _put_environment, _environment_words),
    "signals": Setting(_handlers, _put_handlers, _handler_words),
    "files": Setting(_files, _put_files, _file_words),
    "streams": Setting(_streams, _put_streams, _stream_words),
    "hooks": Setting(_sys_hooks, _put_sys_hooks, lambda a, b: "replaced a hook of sys, threading or warnings"),
    "trace": Setting(sys.gettrace, sys.settrace, is_left("a trace function on")),
    "profile": Setting(sys.getprofile, sys.setprofile, is_left("a profile function on")),
    "switch interval": Setting(sys.getswitchinterval, sys.setswitchinterval, changed("Python's switch interval")),
    "gc": Setting(
        gc.isenabled, lambda on: gc.enable() if on else gc.disable(), changed("whether garbage is collected")
    ),
}
"""Setting of the process → how it is read, put back, and told."""

if hasattr(signal, "ITIMER_REAL"):
    PYTHON["alarm"] = Setting(
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, _put_alarm, is_left("an alarm that will go off")
    )
