"""Writing reports to files, whichever were asked for."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcheck.errors import InputError
from gradcheck.extras import need
from gradcheck.judging.results import Judgement, Result

if TYPE_CHECKING:
    from gradcheck.oracle.subject import Settings

__all__ = ["SCRIPTS", "check_writable", "save_script", "write_reports", "write_text"]


def check_writable(files: Mapping[str, str | Path | None]) -> None:
    """Refuse a report file that cannot be written, before any work is done.

    Raises:
        InputError: naming each such option, or a report whose library is not installed.
    """
    if files.get("html"):
        need("matplotlib", "--html")
    given = {kind: Path(file) for kind, file in files.items() if file}
    bad = []
    for kind, file in given.items():
        wanted = _unwritable(file)
        if wanted:
            bad.append((f"--{kind}", str(file), wanted))
        elif any(file == other for name, other in given.items() if name < kind):
            bad.append((f"--{kind}", f"{file}, which another report is written to", "a file of its own"))
    if bad:
        raise InputError(*bad)


def _unwritable(file: Path) -> str:
    """What is wanted in a file's place; empty if it can be written, as far as one can tell."""
    try:
        if not file.resolve().parent.is_dir():
            return "a file in a folder that exists"
        if file.is_dir():
            return "a file, not a folder"
        writable = os.access(file, os.W_OK) if file.exists() else os.access(file.resolve().parent, os.W_OK)
    except (OSError, ValueError):  # a loop of links, or a name that no file can have
        writable = False
    return "" if writable else "a file that can be written"


def write_text(option: str, file: Path, text: str) -> None:
    """Write a report.

    Raises:
        InputError: it cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError((option, f"{file} ({error.strerror or error})", "a file that can be written")) from None


SCRIPTS = Path(".gradcheck")
"""The folder in the working directory that failures' scripts are written to."""

_saved: dict[Path, str] = {}


def save_script(subject: str, result: Result) -> Path | None:
    """Write the script that reproduces a failure to a file; ``None`` if it cannot be written.

    The file is named after the implementation and the obligation, so that the next run writes the same one; a second
    implementation of the same name in one run gets a number.
    """
    name = re.sub(r"[^\w.]+", "-", f"{subject}-{result.id}" + (f"-{result.device}" if result.device != "cpu" else ""))
    for number in range(1, 100):
        file = SCRIPTS / f"{name.strip('-.')[:120]}{'' if number == 1 else f'-{number}'}.py"
        if _saved.setdefault(file.absolute(), result.script) == result.script:
            break
    try:
        SCRIPTS.mkdir(exist_ok=True)
        ignored = SCRIPTS / ".gitignore"
        if not ignored.exists():
            ignored.write_text("*\n", encoding="utf-8")
        file.write_text(result.script, encoding="utf-8")
    except OSError:
        return None
    return file


def write_reports(
    judgements: Sequence[Judgement],
    settings: Settings,
    files: Mapping[str, str | Path | None],
    pictures: Mapping[Any, Any] | None = None,
) -> list[Path]:
    """Write the reports that were asked for, and say which.

    ``pictures`` are the gradients to draw in the page, from :func:`gradcheck.reports.failure_directions`.
    """
    check_writable(files)
    written = []
    for kind, file in files.items():
        if file:
            text = _html(judgements, settings, pictures) if kind == "html" else _WRITERS[kind](judgements, settings)
            write_text(f"--{kind}", Path(file), text)
            written.append(Path(file))
    return written


# Each imports what it needs when it is asked for: plots are slow to load.


def _json(judgements: Sequence[Judgement], settings: Settings) -> str:
    from gradcheck.reports.json_report import to_json

    return json.dumps(to_json(judgements, settings), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _html(judgements: Sequence[Judgement], settings: Settings, pictures: Mapping[Any, Any] | None) -> str:
    from gradcheck.reports.html import to_html

    return to_html(judgements, settings, pictures)


def _junit(judgements: Sequence[Judgement], settings: Settings) -> str:
    from gradcheck.reports.junit import to_junit

    return to_junit(judgements, settings)


def _summary(judgements: Sequence[Judgement], settings: Settings) -> str:
    from gradcheck.reports.markdown import to_markdown

    return to_markdown(judgements, settings)


_WRITERS: dict[str, Callable[[Sequence[Judgement], Settings], str]] = {
    "json": _json,
    "junit": _junit,
    "summary": _summary,
}
