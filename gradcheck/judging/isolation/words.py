r"""What strangers' code says and where it stands, in words that are safe to print."""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

from gradcheck.shadowed import shadowing

__all__ = ["cut", "frame_place", "name_of_type", "otherwise_found", "place", "plain", "said", "users_own"]

_PACKAGES = tuple(Path(__file__).resolve().parents[3] / name for name in ("gradcheck", "derivations"))
_LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[key]).resolve()) for key in ("stdlib", "platstdlib", "purelib", "platlib")
)
_MOST = 2000
"""Characters of one message."""

_ESCAPES = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]"  # colours, the cursor, the screen
    "|\x1b[\\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\\\)?"  # titles, links, what the clipboard is given
    "|\x1b[ -/]*[0-~]"
    "|\x9b[0-?]*[ -/]*[@-~]"
)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def plain(text: str) -> str:
    """Text without terminal escape sequences; other control characters, and halves of surrogate pairs, as escapes."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n"))
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", text)


def cut(text: str, most: int = _MOST) -> str:
    """Text of at most that many characters, and how many more there were."""
    return text if len(text) <= most else f"{text[:most]}\n… and {len(text) - most} more characters\n"


def said(error: BaseException) -> str:
    """``ValueError: its message``, whatever the exception does when it is printed."""
    name = name_of_type(error)
    try:
        text = str.__add__("", str(error))  # never a subclass of str
    except BaseException:
        return f"{name} (its message cannot be printed)"
    text = cut(plain(text))
    return f"{name}: {text}" if text else name


def name_of_type(value: object) -> str:
    """The name of a value's class."""
    try:
        return plain(str.__add__("", type(value).__name__))
    except BaseException:
        return "object"


def users_own(file: str) -> bool:
    """Whether a file is the user's: neither ours, nor Python's, nor an installed library's."""
    path = Path(file)
    try:
        if not path.is_file():
            return False
        real = path.resolve()
    except (OSError, ValueError):
        return False
    torch = sys.modules.get("torch")
    borrowed = [Path(torch.__file__).parents[1]] if torch is not None and torch.__file__ else []  # another environment
    if any(folder in real.parents or folder in path.parents for folder in borrowed):
        return False
    library = str(real).startswith(_LIBRARIES) or "site-packages" in real.parts or "dist-packages" in real.parts
    return not library and not any(package in real.parents for package in _PACKAGES)


def place(error: BaseException) -> str:
    """`` (file.py:12)``, the deepest line of the user's own code that raised; empty where there is none."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno and users_own(error.filename):
        return f" ({Path(error.filename).name}:{error.lineno})"
    try:
        steps = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    except BaseException:
        return ""
    return _last(steps)


def otherwise_found(error: BaseException) -> str:
    """``; Python finds another module …``, if that may be why an import failed; else empty."""
    if not isinstance(error, (ImportError, AttributeError)):
        return ""
    try:
        found = plain(shadowing(error)).removeprefix("[gradcheck] ")
    except BaseException:
        return ""
    return f"; {found}" if found else ""


def frame_place(frame: FrameType | None) -> str:
    """The same for where a thread is now."""
    return _last([(f.f_code.co_filename, line) for f, line in reversed(list(traceback.walk_stack(frame)))])


def _last(steps: Iterable[tuple[str, int | None]]) -> str:
    own = [(file, line) for file, line in steps if users_own(file)]
    return f" ({plain(Path(own[-1][0]).name)}:{own[-1][1]})" if own else ""
