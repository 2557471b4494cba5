"""The guide's table is that of the tests, and its fields are those of the schema."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from tests.watching.own_trainer import WRONG

GUIDE = (Path(__file__).parents[2] / "docs" / "watch.md").read_text()


def test_the_table_of_bugs() -> None:
    for library in ("diffusers", "peft", "accelerate"):
        pytest.importorskip(library)
    from tests.watching.trainer_bugs import bug_table

    table = GUIDE.partition("<!-- table: trainer bugs -->\n")[2].partition("\n<!-- end of table -->")[0]
    assert table == bug_table()
    assert table.count("\n") >= 20


def test_the_table_of_another_trainers_bugs() -> None:
    table = GUIDE.partition("<!-- table: own trainer -->\n")[2].partition("\n<!-- end of table -->")[0]
    rows = [f"| {what} | `{cause}` |" for what, cause in WRONG.values()]
    assert table.splitlines() == ["| what is wrong | named |", "| --- | --- |", *rows]


def test_the_fields_are_those_of_a_line() -> None:
    schema = json.loads(files("gradcheck.watching").joinpath("line.schema.json").read_text())
    table = GUIDE.partition("## What it says")[2].partition("`watch.report.holds`")[0]
    named = set(re.findall(r"`([a-z_]+)`", " ".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    assert named == set(schema["required"]) - {"schema", "factor_value", "judged", "seconds", "rank"}
