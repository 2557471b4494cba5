r"""Which line of the user's code it was that changed a setting: the call once more, looked at line by line."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from gradcheck.judging.isolation.state import State
from gradcheck.judging.isolation.words import users_own

__all__ = ["line_that_changes"]


def line_that_changes(name: str, call: Callable[[], Any]) -> str:
    """`` (file.py:12)``, after which a setting of :mod:`.state` is another; empty where none of the user's is seen."""
    with contextlib.redirect_stdout(io.StringIO()):
        return _line_that_changes(name, call)


def _line_that_changes(name: str, call: Callable[[], Any]) -> str:
    state = State.now()
    own: dict[str, bool] = {}
    lines: dict[FrameType, int] = {}
    found: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if file not in own:
            own[file] = users_own(file)
        if not own[file]:
            return None
        at: FrameType | None = frame
        while at is not None and at not in lines:  # a function that has just been called: its caller's line
            at = at.f_back
        if at is not None and not found and state.differs(name):
            found.append((at.f_code.co_filename, lines[at]))
        lines[frame] = frame.f_lineno
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except BaseException:
        return ""
    finally:
        sys.settrace(previous)
        state.restore()
    return f" ({Path(found[0][0]).name}:{found[0][1]})" if found else ""
