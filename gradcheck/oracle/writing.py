"""Writing reports to files, whichever were asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gradcheck.errors import InputError
from gradcheck.oracle.reports.html import to_html
from gradcheck.oracle.reports.json_report import to_json
from gradcheck.oracle.reports.junit import to_junit
from gradcheck.oracle.reports.markdown import to_markdown
from gradcheck.oracle.results import Judgement

if TYPE_CHECKING:
    from gradcheck.oracle.runner import Settings

__all__ = ["check_writable", "write_reports"]


def check_writable(files: Mapping[str, str | Path | None]) -> None:
    """Refuse a report file in a folder that does not exist, before any work is done.

    Raises:
        InputError: naming each such option.
    """
    bad = [(f"--{kind}", str(file), "a file in a folder that exists") for kind, file in files.items() if file and not Path(file).resolve().parent.is_dir()]
    if bad:
        raise InputError(*bad)


def write_reports(judgements: Sequence[Judgement], settings: Settings, files: Mapping[str, str | Path | None]) -> list[Path]:
    """Write the reports that were asked for, and say which."""
    check_writable(files)
    texts = {
        "json": lambda: json.dumps(to_json(judgements, settings), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "html": lambda: to_html(judgements, settings),
        "junit": lambda: to_junit(judgements),
        "summary": lambda: to_markdown(judgements),
    }
    written = []
    for kind, file in files.items():
        if file:
            Path(file).write_text(texts[kind](), encoding="utf-8")
            written.append(Path(file))
    return written
