"""What is written down: lines by their schema, the summary, the page, and a step that is judged again elsewhere."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import gradcheck
from gradcheck.doors.cli import main
from tests.watching.steps import DECLARED, GRID, PolicyStep

SCHEMA = json.loads(files("gradcheck.watching").joinpath("line.schema.json").read_text())


def run(*wrong: int, steps: int = 4, **options: Any) -> gradcheck.Watch:
    watch = gradcheck.watch("flow_grpo", every=1, sigmas=GRID, **DECLARED, **options)
    for i in range(steps):
        step = PolicyStep(i)
        watch(**step.call)
        (step.loss() * (-1 if i in wrong else 1)).backward()
    return watch


def test_every_line_obeys_the_schema(tmp_path: Path) -> None:
    watch = run(2)
    watch(v_theta=torch.zeros(2, 3))
    rows = [json.loads(row) for row in (tmp_path / "gradcheck-watch.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in rows] == ["conforms", "conforms", "wrong", "conforms", "unjudged"]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows:
        jsonschema.validate(row, SCHEMA)
    assert rows[2]["causes"] == ["sign"]
    assert "maximised" in rows[2]["because"]
    assert watch.report.holds is False
    assert watch.report.verdicts == {"conforms": 3, "wrong": 1, "unjudged": 1}


def test_a_run_without_a_judged_step_does_not_hold() -> None:
    assert gradcheck.watch("awm", log=None).report.holds is False


def test_the_first_failure_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run(1, 2, log=None)
    err = [row for row in capsys.readouterr().err.splitlines() if "is wrong" in row]
    assert len(err) == 1
    assert err[0].startswith("[gradcheck] watch: step 1 is wrong (sign): ")


@pytest.mark.parametrize(("wrong", "status"), [((), 0), ((2,), 1)])
def test_the_page(wrong: tuple[int, ...], status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*wrong)
    assert main(["watch", "report", "gradcheck-watch.jsonl", "--html", "page.html"]) == status
    assert ("every judged step conforms" in capsys.readouterr().out) is not bool(wrong)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<circle") == 12, "ratio, resolution and importance ratio of four steps"
    assert "step 2: " in page
    assert ("bad" if wrong else "good") in page
    assert "http" not in page.replace("http-equiv", ""), "it loads nothing"


def test_a_reason_is_text_on_the_page(tmp_path: Path) -> None:
    line = dict.fromkeys(SCHEMA["required"]) | {"schema": 1, "step": 0, "verdict": "wrong", "causes": ["<b>"]}
    line |= {"because": "<script>", "checks": {}, "seconds": 0.0, "rank": 0}
    (tmp_path / "log.jsonl").write_text(json.dumps(line) + "\n")
    assert main(["watch", "report", "log.jsonl", "--html", "page.html"]) == 1
    assert "<script>" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", "which is empty"), ("{}\n", "line 1 of"), ("no json\n", "line 1 of"), ('{"schema": 9}\n', "line 1 of")],
)
def test_a_file_that_is_no_log(text: str, wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    assert main(["watch", "report", "log.jsonl"]) == 2
    assert wanted in capsys.readouterr().err
    assert main(["watch", "report", "none.jsonl"]) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_judged_again_elsewhere(dtype: torch.dtype, capsys: pytest.CaptureFixture[str]) -> None:
    watch = gradcheck.watch("flow_grpo", every=1, sigmas=GRID, **DECLARED)
    step = PolicyStep(5, 0.3, dtype)
    watch(**step.call)
    step.loss(advantage=step.call["advantage"].roll(1)).backward()
    watch.save("kept")
    assert main(["replay", "kept", "--json", "again.json"]) == 1
    out = capsys.readouterr().out
    assert "wrong (advantage-order" in out
    assert "· (ε)" in out, "the gradient on the field's own directions"
    again = json.loads(Path("again.json").read_text())
    jsonschema.validate(again, SCHEMA)
    (line,) = watch.report.lines
    assert again["ratio"] == line.ratio
    assert again["causes"] == list(line.causes)


def test_the_first_wrong_step_is_kept_until_it_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    watch = run(1)
    step = PolicyStep(9)
    watch(**step.call)  # its backward pass has not run: the last judged step is gone
    watch.save("kept")
    assert main(["replay", "kept"]) == 1
    assert "wrong (sign)" in capsys.readouterr().out


def test_the_next_step_is_saved_where_none_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    watch = gradcheck.watch("flow_grpo", every=100, **DECLARED)
    step = PolicyStep(0)
    watch(**step.call)
    watch.save("kept")
    assert not Path("kept").exists()
    step.loss().backward()
    assert main(["replay", "kept"]) == 0


def test_a_folder_without_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path)]) == 2
    assert "a folder that watch.save wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"algorithm": "flow_grop"}, "did you mean 'flow_grpo'"),
        ({"algorithm": "awm", "every": 0}, "every: got 0"),
        ({"algorithm": "awm", "accumulation": -1}, "accumulation: got -1"),
        ({"algorithm": "awm", "model": 3}, "model: got a int"),
        ({"algorithm": "awm", "parameters": [1]}, "parameters: got item 0 is a int"),
        ({"algorithm": "awm", "ema_decay": 2}, "ema_decay: got 2"),
        ({"algorithm": "awm", "bete": 0.5}, "bete"),
        ({}, "algorithm: got nothing"),
    ],
)
def test_a_wrong_declaration_is_refused_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(gradcheck.InputError, match=told):
        gradcheck.watch(**arguments)
