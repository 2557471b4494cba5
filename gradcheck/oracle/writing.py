"""Writing reports to files, whichever were asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcheck.errors import InputError
from gradcheck.extras import need
from gradcheck.oracle.results import Judgement

if TYPE_CHECKING:
    from gradcheck.oracle.target import Settings

__all__ = ["check_writable", "write_reports"]


def check_writable(files: Mapping[str, str | Path | None]) -> None:
    """Refuse a report file in a folder that does not exist, before any work is done.

    Raises:
        InputError: naming each such option, or a report whose library is not installed.
    """
    if files.get("html"):
        need("matplotlib", "--html")
    bad = [
        (f"--{kind}", str(file), "a file in a folder that exists")
        for kind, file in files.items()
        if file and not Path(file).resolve().parent.is_dir()
    ]
    if bad:
        raise InputError(*bad)


def write_reports(
    judgements: Sequence[Judgement],
    settings: Settings,
    files: Mapping[str, str | Path | None],
    pictures: Mapping[Any, Any] | None = None,
) -> list[Path]:
    """Write the reports that were asked for, and say which.

    ``pictures`` are the gradients to draw in the page, from :func:`gradcheck.oracle.reports.failure_directions`.
    """
    check_writable(files)
    written = []
    for kind, file in files.items():
        if file:
            text = _html(judgements, settings, pictures) if kind == "html" else _WRITERS[kind](judgements, settings)
            Path(file).write_text(text, encoding="utf-8")
            written.append(Path(file))
    return written


# Each imports what it needs when it is asked for: plots are slow to load.


def _json(judgements: Sequence[Judgement], settings: Settings) -> str:
    from gradcheck.oracle.reports.json_report import to_json

    return json.dumps(to_json(judgements, settings), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _html(judgements: Sequence[Judgement], settings: Settings, pictures: Mapping[Any, Any] | None) -> str:
    from gradcheck.oracle.reports.html import to_html

    return to_html(judgements, settings, pictures)


def _junit(judgements: Sequence[Judgement], settings: Settings) -> str:
    from gradcheck.oracle.reports.junit import to_junit

    return to_junit(judgements, settings)


def _summary(judgements: Sequence[Judgement], settings: Settings) -> str:
    from gradcheck.oracle.reports.markdown import to_markdown

    return to_markdown(judgements, settings)


_WRITERS: dict[str, Callable[[Sequence[Judgement], Settings], str]] = {
    "json": _json,
    "junit": _junit,
    "summary": _summary,
}
