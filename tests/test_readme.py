"""The README keeps its word: its table is the derivations', its example fails as it says, and it is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradcheck.catalogue import closing_table
from gradcheck.doors.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_it_is_short() -> None:
    assert len(README.split()) < 900, "what does not fit belongs into docs/ or CONTRIBUTING.md"


def test_the_rows_are_the_derivations() -> None:
    table = README.partition("<!-- rows of: gradcheck table -->\n")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    derived = {cells[1].strip(): cells[5].strip() for cells in (r.split("|") for r in closing_table().splitlines()[2:])}
    assert len(rows) == 4
    for loss, target, _ in rows:
        assert target == derived[loss], "see `gradcheck table`"


def test_the_files_named_exist() -> None:
    paths = re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", README)
    paths += re.findall(r"`((?:derivations|gradcheck|tests|docs|notebooks|examples)/[\w/.]*)`", README)
    assert len(paths) > 20
    for path in paths:
        assert (ROOT / path).exists(), path


def test_the_example_fails_as_it_says_and_is_right_once_mended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (quoted,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "test_my_losses.py"
    file.write_text(example)
    assert main(["check", str(file)]) == 1
    answer = [_without_digits(line) for line in capsys.readouterr().out.splitlines()]
    for line in quoted.splitlines():
        if line.strip() != "…":
            assert any(seen.startswith(_without_digits(line)) for seen in answer), line
    (mend,) = re.findall(r"Remove `([^`]+)`, and `test_my_awm conforms`", README)
    file.write_text(example.replace(f", {mend}", ""))
    assert main(["check", str(file)]) == 0
    assert "test_my_awm conforms" in capsys.readouterr().out


def _without_digits(line: str) -> str:
    """A line without the last digits of its numbers, which differ between processors."""
    return re.sub(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", "#", line).rstrip()
