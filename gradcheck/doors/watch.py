"""``gradcheck watch report`` and ``gradcheck replay``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gradcheck.console import prose

__all__ = ["add_arguments", "add_replay"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is done with the log of a watched run."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="what the logs of a watched run say")
    report.add_argument("files", nargs="+", type=Path, metavar="FILE", help="gradcheck-watch.jsonl, and other ranks'")
    report.add_argument("--html", type=Path, metavar="PAGE", help="write a page that shows it over the steps")
    report.set_defaults(run=_report)


def add_replay(parser: argparse.ArgumentParser) -> None:
    """A step that ``watch.save`` wrote."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what watch.save wrote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdict as JSON")
    parser.set_defaults(run=_replay)


def _report(arguments: argparse.Namespace) -> int:
    """0 no judged step is wrong, 1 one is, 2 none could be judged."""
    from gradcheck.reports.writing import check_writable
    from gradcheck.watching.lines import Report, read_lines
    from gradcheck.watching.page import to_html

    check_writable({"html": arguments.html})
    lines = [line for file in arguments.files for line in read_lines(file)]
    report = Report.of(sorted(lines, key=lambda x: (x.step, x.rank)))
    print(prose(str(report)))
    if arguments.html is not None:
        arguments.html.write_text(to_html(report, arguments.files[0].name) + "\n", encoding="utf-8")
    return 0 if report.holds else 1 if report.verdicts["wrong"] else 2


def _replay(arguments: argparse.Namespace) -> int:
    """0 the step conforms, 1 it is wrong, 2 it cannot be judged."""
    from gradcheck.reports.writing import check_writable
    from gradcheck.watching.explaining import explained
    from gradcheck.watching.saving import replayed

    check_writable({"json": arguments.json})
    line, context, given, gradient = replayed(arguments.folder)
    print(prose(explained(line, context, given, gradient)))
    if arguments.json is not None:
        text = json.dumps(json.loads(line.to_json()), indent=2, ensure_ascii=False)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return {"conforms": 0, "wrong": 1, "unjudged": 2}[line.verdict]
