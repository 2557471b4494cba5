"""docs/derive.md: its commands print what it shows, its Python runs, and its tables are complete."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import gradcheck
from derivations.grammar.names import ALIASES, FUNCTIONS
from gradcheck.doors.cli import main

GUIDE = (Path(__file__).parents[2] / "docs" / "derive.md").read_text()
COMMANDS = re.findall(r"```sh\n(gradcheck derive [^\n]*)\n```\n\n```text\n(.*?)\n```", GUIDE, re.DOTALL)


def steady(text: str) -> str:
    """Without the figures that another version of torch may change."""
    return re.sub(r"largest difference \S+ of", "largest difference … of", text)


@pytest.mark.parametrize(("command", "output"), COMMANDS, ids=[c[:50] for c, _ in COMMANDS])
def test_a_command_prints_what_the_guide_shows(
    command: str, output: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(shlex.split(command)[1:])
    shown = capsys.readouterr()
    assert steady((shown.out + shown.err).rstrip("\n")) == steady(output)


def test_the_guide_shows_commands() -> None:
    assert len(COMMANDS) >= 4


def test_the_python_of_the_guide_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    exec(compile(block, "docs/derive.md", "exec"), {})


def test_every_json_field_is_in_the_guide() -> None:
    data = gradcheck.derive("norm2(v_theta - v_gt)", problems=2).to_json()
    table = GUIDE.partition("## JSON")[2]
    rows = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert set(data) == rows
    for field in ("terms", "proof", "checks", "definitions"):
        described = next(row for row in table.splitlines() if row.startswith(f"| `{field}`"))
        for name in data[field][0]:
            assert f"`{name}`" in described, (field, name)


def test_names_and_functions_of_the_guide_exist() -> None:
    table = GUIDE.partition("## Writing a loss")[2].partition("## Reading")[0]
    functions = set(re.findall(r"`?\b([a-z_0-9]+)\(", table)) - {"ratio"}
    assert functions <= set(FUNCTIONS)
    assert set(FUNCTIONS.values()) <= set(re.findall(r"\b([a-z_0-9]+)\b", table))
    for short, name in (("A", "advantage"), ("R", "reward"), ("tau", "temperature"), ("r", "reward_prob")):
        assert ALIASES[short] == name
