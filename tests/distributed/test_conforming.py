"""A trainer's step in a test file: ``gradcheck check`` and pytest judge it on one process, beside losses and parts."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import gradcheck.distributed
from gradcheck.distributed import judge
from gradcheck.distributed.verdicts import IDS
from gradcheck.doors.checking import CheckJob
from gradcheck.doors.cli import main
from gradcheck.oracle.subject import Settings

pytest_plugins = ["pytester"]

STEPS = """
import pytest

import gradcheck
import gradcheck.distributed


@gradcheck.conforms("awm", reduction="mean")
def loss(case):
    return (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).mean(1)).mean()


def trained(model, shard, size):
    for micro in shard.micro_batches():
        case = micro.case(model(micro.x_t, micro.t))
        each = case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).mean(1)
        (each.sum() / size(micro, shard)).backward()


@gradcheck.distributed.conforms("awm", reduction="mean")
def right(model, shard):
    trained(model, shard, lambda micro, shard: shard.global_size)


@gradcheck.distributed.conforms("awm", reduction="mean")
def each_micro_batch_averaged(model, shard):
    trained(model, shard, lambda micro, shard: len(micro))


@gradcheck.distributed.conforms("awm", reduction="mean")
def raises(model, shard):
    raise RuntimeError("no step")
"""


def _hear(heard: dict[str, Any], word: str, *data: Any) -> None:
    heard[word] = data


def test_every_step_of_a_file_is_judged(tmp_path: Path) -> None:
    (tmp_path / "test_own_steps.py").write_text(STEPS)
    settings = Settings(max_examples=2)
    file, heard = str(tmp_path / "test_own_steps.py"), [dict[str, Any]() for _ in range(4)]
    for index, each in enumerate(heard):
        only = ("equal-shards",) if index else ("gradient",)
        CheckJob(file, settings, only=only, index=index).run(partial(_hear, each))
    assert heard[0]["found"][0] == ["loss", "right", "each_micro_batch_averaged", "raises"]
    judged = [each["judgement"][0] for each in heard]
    assert [j.holds for j in judged] == [True, True, False, False]
    (result,) = judged[2].results
    assert result.diagnosis is not None
    assert result.diagnosis.name != "unknown", result.diagnosis.cause
    assert "no step" in judged[3].unjudged


TESTS = (
    STEPS.partition("@gradcheck.distributed.conforms")[0]
    + """
@gradcheck.distributed.conforms("awm", reduction="mean")
def test_right(model, shard):
    trained(model, shard, lambda micro, shard: shard.global_size)


def averaged(model, shard):
    trained(model, shard, lambda micro, shard: len(micro))


averaged_again = {"equal-shards": "known", "unequal-micro-batches": "known too"}
test_averaged = gradcheck.distributed.conforms("awm", reduction="mean")(lambda model, shard: averaged(model, shard))
test_known = gradcheck.distributed.conforms("awm", reduction="mean", expected_failures=averaged_again)(
    lambda model, shard: averaged(model, shard)
)


@pytest.mark.usefixtures("tmp_path")
@gradcheck.distributed.conforms("awm", reduction="mean", expected_failures={"equal-shards": "not any more"})
def test_holds_after_all(model, shard):
    test_right(model, shard)


@gradcheck.distributed.conforms("awm", reduction="mean")
def test_skips(model, shard):
    pytest.skip("not today")


@gradcheck.distributed.conforms("awm", reduction="mean")
def test_raises(model, shard):
    raise RuntimeError("no step")


class TestSteps:
    calls = []

    @gradcheck.distributed.conforms("awm", reduction="mean")
    def test_method(self, model, shard):
        self.calls.append(len(shard))
        trained(model, shard, lambda micro, shard: shard.global_size)

    @staticmethod
    @gradcheck.distributed.conforms("awm", reduction="mean")
    def test_static(model, shard):
        test_right(model, shard)


def test_a_step_is_judged_once():
    assert len(TestSteps.calls) == 4, "two batches of each division that one process has"
"""
)

HERE = ("parameters-untouched", "equal-shards", "unequal-micro-batches")
"""The obligations of a step on one process that is given its advantages; of the others its reports tell why not."""


def ran(pytester: pytest.Pytester, source: str, *options: str) -> tuple[pytest.RunResult, dict[str, dict[str, str]]]:
    """What pytest said, and the outcome of each obligation's test by test function."""
    pytester.makepyfile(test_own_steps=source)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist", "-v", *options)
    outcomes: dict[str, dict[str, str]] = {}
    for line in result.outlines:
        if found := re.match(r"test_own_steps\.py::([\w:]+)\[([\w-]+)\] (\w+)", line):
            name, obligation, became = found.groups()
            outcomes.setdefault(name, {})[obligation] = became
    return result, outcomes


def test_under_pytest_each_obligation_is_a_test(pytester: pytest.Pytester) -> None:
    result, outcomes = ran(pytester, TESTS, "--gradcheck-json=report.json")
    assert all(tuple(of) == IDS for of in outcomes.values())
    held = dict.fromkeys(IDS, "SKIPPED") | dict.fromkeys(HERE, "PASSED")
    wrong = held | dict.fromkeys(HERE[1:], "FAILED")
    assert outcomes == {
        "test_right": held,
        "test_averaged": wrong,
        "test_known": held | dict.fromkeys(HERE[1:], "XFAIL"),
        "test_holds_after_all": held | {"equal-shards": "FAILED"},
        "test_skips": dict.fromkeys(IDS, "SKIPPED"),
        "test_raises": dict.fromkeys(IDS, "FAILED"),
        "TestSteps::test_method": held,
        "TestSteps::test_static": held,
    }
    text = " ".join(result.stdout.str().split())
    assert "because consistent with accumulation-not-averaged: " in text
    assert "rank 0, micro-batch 1 of 3 1/2 required 1/6" in text
    assert "declared to fail (not any more), but it holds" in text
    assert "test_raises could not be judged: rank 0 raised RuntimeError: no step (test_own_steps.py:" in text
    assert "weights of each sample in the gradient" in text
    assert "Traceback" not in text
    for line in (
        "test_right: conforms (3 obligations hold, *",
        "test_averaged: FAILED: equal-shards, unequal-micro-batches (1 obligations hold, *",
        "test_known: fails as declared (1 obligations hold, *",
        "test_skips: NOT CHECKED (*",
    ):
        result.stdout.fnmatch_lines([line])
    report = json.loads((pytester.path / "report.json").read_text())
    assert [len(target["obligations"]) for target in report["targets"]] == [len(IDS)] * len(outcomes)


def test_marks_and_settings_reach_a_step(pytester: pytest.Pytester) -> None:
    """What pytest selects by marks and ids, and the command line's seed."""
    _, outcomes = ran(pytester, TESTS, "-m", "usefixtures")
    assert list(outcomes) == ["test_holds_after_all"]
    result, outcomes = ran(
        pytester, TESTS, "-k", "test_averaged and equal-shards and not unequal", "--gradcheck-seed=3"
    )
    assert list(outcomes["test_averaged"]) == ["equal-shards"]
    assert "test_own_steps.py::test_averaged \\" in result.stdout.str(), "a lambda has its name in the module"
    assert "--only equal-shards --seed 3" in result.stdout.str()
    result, outcomes = ran(pytester, TESTS, "-k", "test_right", "--gradcheck-dtype=int8")
    assert set(outcomes["test_right"].values()) == {"FAILED"}
    assert "dtype: got 'int8'" in result.stdout.str()


def test_a_declaration_that_is_none_is_one_clear_error(pytester: pytest.Pytester) -> None:
    result, outcomes = ran(pytester, TESTS.replace("equal-shards", "eqaul-shards").replace("awm", "awn", 2))
    assert not outcomes
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*algorithm: got 'awn'*"])


UPPERMOST = (
    STEPS.partition("@gradcheck.distributed.conforms")[0]
    + """
import functools


def hurried(step):
    @functools.wraps(step)
    def wrapper(model, shard):
        pass
    return wrapper


@hurried
@gradcheck.distributed.conforms("awm", reduction="mean")
def test_hidden(model, shard):
    trained(model, shard, lambda micro, shard: shard.global_size)
"""
)


def test_code_in_another_decorator_is_not_passed_over(
    pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is judged would not be what runs."""
    result, outcomes = ran(pytester, UPPERMOST)
    assert outcomes == {"test_hidden": dict.fromkeys(IDS, "FAILED")}
    assert "which must be the uppermost" in result.stdout.str()
    assert main(["check", str(pytester.path / "test_own_steps.py")]) == 2
    assert main(["distributed", str(pytester.path / "test_own_steps.py")]) == 2
    assert capsys.readouterr().err.count("which must be the uppermost") == 2


def test_a_step_leaves_no_setting_behind() -> None:
    def settings() -> tuple[Any, ...]:
        return torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_anomaly_enabled(), os.environ.get("RANK_0")

    @gradcheck.distributed.conforms("awm")
    def step(model: Any, shard: Any) -> None:
        case = shard.case(model(shard.x_t, shard.t))
        (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean().backward()
        torch.set_default_dtype(torch.float16)
        torch.set_grad_enabled(False)
        torch.autograd.set_detect_anomaly(True)
        os.environ["RANK_0"] = "mine"

    before = settings()
    assert judge(step, Settings(max_examples=1)).holds
    assert settings() == before


def test_a_step_stays_the_function_that_it_was() -> None:
    def step(model: Any, shard: Any) -> str:
        return f"{model} {shard}"

    decorated = gradcheck.distributed.conforms("awm")(step)
    assert decorated is step
    assert decorated(1, 2) == "1 2"


def test_both_doors_and_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "test_own_steps.py"
    file.write_text(TESTS)
    assert main(["check", f"{file}::test_known", "--max-examples", "2"]) == 0
    assert "test_known fails as declared: equal-shards, unequal-micro-batches" in capsys.readouterr().out
    assert main(["check", f"{file}::test_averaged", "--only", "equal-shards", "--max-examples", "2"]) == 1
    shown = capsys.readouterr().out
    assert "reproduce  run this:" in shown
    assert f"{file}::test_averaged" in shown
    assert not (tmp_path / ".gradcheck").exists()
    assert main(["unveil", f"{file}::test_right"]) == 2
    assert "which declares no loss" in capsys.readouterr().err
