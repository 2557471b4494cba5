"""Parts in test files: on the command line, under pytest, in reports; and the guide's example runs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

import gradcheck
from gradcheck.doors.cli import main
from gradcheck.doors.parts import PART_OBLIGATIONS
from gradcheck.errors import InputError
from parts.test_reward_map import reward_map

pytest_plugins = ["pytester"]

GUIDE = (Path(__file__).parents[2] / "docs" / "oracle-parts.md").read_text(encoding="utf-8")


def example() -> str:
    """The guide's test file."""
    found = re.search(r"```python\n# test_my_parts\.py\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found[1]


WRONG = """
import gradcheck

@gradcheck.conforms_reward_map(clip=5.0)
def test_map(a):
    return a.clamp(-5, 5) / 5

@gradcheck.conforms_reward_map(clip=5.0)
def helper(a):
    raise KeyError("clip")
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "test_my_parts.py").write_text(example(), encoding="utf-8")
    (tmp_path / "test_wrong_parts.py").write_text(WRONG, encoding="utf-8")
    return tmp_path / "test_my_parts.py", tmp_path / "test_wrong_parts.py"


def test_the_guides_example_conforms(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(files[0])]) == 0
    shown = capsys.readouterr().out
    for name in re.findall(r"^def (test_\w+)", example(), re.MULTILINE):
        assert f"{name} conforms" in shown


def test_statuses_and_reports(files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = {kind: tmp_path / f"report.{kind}" for kind in ("json", "html", "junit", "summary")}
    options = [x for kind, file in reports.items() for x in (f"--{kind}", str(file))]
    assert main(["check", f"{files[1]}::test_map", *options]) == 1
    assert "not-halved" in capsys.readouterr().out
    report = json.loads(reports["json"].read_text())
    (target,) = report["targets"]
    assert not report["holds"]
    assert (target["target"], target["declaration"]) == ("test_map", "as by default")
    assert {o["id"] for o in target["obligations"] if o["status"] == "failed"} >= {"values", "range"}
    for kind in ("html", "junit", "summary"):
        assert "test_map" in html.unescape(reports[kind].read_text(encoding="utf-8"))
    assert main(["check", f"{files[1]}::helper"]) == 2
    assert "could not be judged: helper raised KeyError" in capsys.readouterr().err


def test_one_obligation_and_another_seed(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{files[1]}::test_map", "--only", "monotone", "--seed", "7"]) == 0
    shown = capsys.readouterr().out
    assert "monotone" in shown
    assert "values" not in shown
    assert "seed 7" in shown
    assert main(["check", f"{files[1]}::test_map", "--only", "replay"]) == 2
    assert "values, range, ends, monotone, sign" in capsys.readouterr().err
    assert main(["check", f"{files[1]}::test_map", "--only", "colour"]) == 2


def test_under_pytest(pytester: pytest.Pytester, files: tuple[Path, Path]) -> None:
    """One test for each obligation; the function is judged once."""
    (pytester.path / "test_wrong_parts.py").write_text(files[1].read_text(encoding="utf-8"))
    result = pytester.runpytest_inprocess("-p", "no:xdist", "-v", "--gradcheck-json", "report.json")
    result.assert_outcomes(passed=2, failed=4)
    result.stdout.fnmatch_lines(["*test_map[[]values[]]*FAILED*", "*test_map[[]monotone[]]*PASSED*"])
    result.stdout.fnmatch_lines(["*consistent with not-halved*", "test_map: FAILED: values, range, ends, sign *"])
    report = json.loads((pytester.path / "report.json").read_text())
    assert [len(t["obligations"]) for t in report["targets"]] == [6]


DECORATORS: dict[str, dict[str, Any]] = {
    "conforms_sde_step": {"sde": "ddim"},
    "conforms_advantage": {"std": "row", "colour": "red"},
    "conforms_ema": {"decay": 2.0},
    "conforms_reward_map": {"clip": 0.0},
    "conforms_time_sampler": {"shift": 0.0},
}


@pytest.mark.parametrize("name", DECORATORS)
def test_mistakes_in_a_declaration_are_told_where_it_stands(name: str) -> None:
    with pytest.raises(InputError, match=next(reversed(DECORATORS[name]))):
        getattr(gradcheck, name)(**DECORATORS[name])(reward_map)
    with pytest.raises(InputError, match="obligations"):
        getattr(gradcheck, name)(expected_failures={"colour": "red"})(reward_map)


def test_the_guide_names_every_obligation_and_decorator() -> None:
    for word in (*PART_OBLIGATIONS, *DECORATORS):
        assert f"`{word}`" in GUIDE, word
