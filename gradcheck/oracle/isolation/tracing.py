r"""Which line of the user's code it was that changed a setting: the call once more, looked at line by line."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from gradcheck.oracle.isolation.state import State
from gradcheck.oracle.isolation.words import users_own

__all__ = ["line_that_changes"]


def line_that_changes(name: str, call: Callable[[], Any]) -> str:
    """`` (file.py:12)``, after which a setting of :mod:`.state` is another; empty where none of the user's is seen."""
    state = State.now()
    own: dict[str, bool] = {}
    last: list[tuple[str, int]] = []
    found: list[tuple[str, int]] = []

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if file not in own:
            own[file] = users_own(file)
        if not own[file]:
            return None
        if last and not found and state.differs(name):
            found.append(last[0])
        last[:] = [(file, frame.f_lineno)]
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            call()
    except BaseException:
        return ""
    finally:
        sys.settrace(previous)
        state.restore()
    return f" ({Path(found[0][0]).name}:{found[0][1]})" if found else ""
