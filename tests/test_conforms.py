"""The decorator and the command, as a user meets them: a file of their own, run by pytest and without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradcheck.case import Case
from gradcheck.catalogue import ALGORITHMS
from gradcheck.cli import main
from gradcheck.conventions import PRESETS, declare
from gradcheck.errors import InputError
from gradcheck.oracle.reference import oracle_case
from gradcheck.oracle.runner import judge
from gradcheck.oracle.target import Settings, Target
from gradcheck.problems import Spec

pytest_plugins = ["pytester"]

RIGHT = """
import gradcheck

@gradcheck.conforms("awm")
def test_awm(case):
    v_gt = case.noise - case.x_0
    return (case.advantage * ((case.v_theta - v_gt) ** 2).flatten(1).sum(1)).mean()
"""
WRONG = RIGHT.replace("case.noise - case.x_0", "case.x_0 - case.noise")


def outcomes(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(test_mine=source)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--gradcheck-max-examples=3", *options)


def test_a_right_loss_passes_each_obligation(pytester: pytest.Pytester) -> None:
    result = outcomes(pytester, RIGHT, "-v")
    counts = result.parseoutcomes()
    assert "failed" not in counts
    assert counts["passed"] >= 10
    result.stdout.fnmatch_lines(["gradcheck: 3 cases for each obligation on cpu*"])
    result.stdout.fnmatch_lines(["*test_mine.py::test_awm[[]gradient[]] PASSED*"])
    result.stdout.fnmatch_lines(["test_awm: conforms (* obligations hold, largest test ratio *"])


def test_a_wrong_loss_is_told_what_is_wrong(pytester: pytest.Pytester) -> None:
    result = outcomes(pytester, WRONG)
    assert result.ret == 1
    text = result.stdout.str()
    assert "[gradcheck] test_awm: gradient does not hold" in text
    assert "the regression target is x_0 − ε; it must be ε − x_0" in text
    assert "Traceback" not in text
    assert "runner.py" not in text, "our frames are trimmed"


def test_it_works_under_xdist(pytester: pytest.Pytester) -> None:
    result = outcomes(pytester, WRONG, "-n", "2", "--gradcheck-json=report.json")
    result.stdout.fnmatch_lines(["test_awm: FAILED: *gradient*"])
    assert (pytester.path / "report.json").exists()


@pytest.mark.parametrize(
    ("source", "held"),
    [
        (WRONG.replace('("awm")', '("awm", expected_failures={"gradient": "known"})'), False),
        (RIGHT.replace('("awm")', '("awm", expected_failures={"gradient": "known"})'), False),
    ],
    ids=["others fail", "it holds after all"],
)
def test_expected_failures_are_strict(pytester: pytest.Pytester, source: str, held: bool) -> None:
    result = outcomes(pytester, source)
    assert (result.ret == 0) == held
    if "noise - case.x_0" in source:
        result.stdout.fnmatch_lines(["*declared to fail (known), but it holds*"])
    else:
        assert result.parseoutcomes()["xfailed"] == 1


def test_starting_pytest_costs_nothing(pytester: pytest.Pytester) -> None:
    """The plugin itself imports neither torch nor SymPy."""
    pytester.makepyfile(
        test_light="import sys\ndef test_it():\n    assert not {'torch', 'sympy', 'matplotlib'} & set(sys.modules)\n"
    )
    assert pytester.runpytest_subprocess("-p", "no:cacheprovider").ret == 0


def check(tmp_path: Path, source: str, *options: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    file = tmp_path / "mine.py"
    file.write_text(source)
    target = f"{file}::test_awm"
    status = main(["check", target, "--max-examples", "3", *options])
    out, err = capsys.readouterr()
    return status, out, err


def test_check_without_pytest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(tmp_path, RIGHT, capsys=capsys)
    assert status == 0
    assert "test_awm conforms" in out
    status, out, _ = check(tmp_path, WRONG, capsys=capsys)
    assert status == 1
    assert "the regression target is x_0 − ε" in out


def test_every_printed_script_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure's script runs as it stands, and fails for the reason that it says."""
    _, out, _ = check(tmp_path, WRONG, capsys=capsys)
    script = out.partition("save and run this:\n")[2].partition("\n[gradcheck]")[0]
    lines = [line[4:] for line in script.splitlines() if line.startswith("    ")]
    file = tmp_path / "reproduce.py"
    file.write_text("\n".join(lines))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, cwd=tmp_path)
    assert "AssertionError: the gradient obligation fails" in done.stderr
    assert "observed" in done.stdout


def test_an_undecorated_function_is_declared_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = RIGHT.replace('@gradcheck.conforms("awm")\n', "").replace(".sum(1))", ".mean(1))")
    status, out, _ = check(tmp_path, plain, "--algorithm", "awm", "--declare", "reduction=mean", capsys=capsys)
    assert status == 0, out
    status, out, _ = check(tmp_path, plain, "--algorithm", "awm", capsys=capsys)
    assert status == 1
    assert "declare reduction='mean'" in out, "a convention, not a bug, and it says which"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["nofile.py::x"], "a file that exists"),
        (["no.such.module:x"], "ModuleNotFoundError"),
        (["tests"], "file.py, file.py::function or package.module:function"),
        (["mine.py::other"], "which has no 'other'"),
        (["mine.py::plain"], "declares nothing"),
        (["mine.py", "--only", "gradients"], "one of determinism"),
        (["mine.py", "--device", "tpu"], "cpu, cuda or all"),
        (["mine.py", "--dtype", "int8"], "float64, float32"),
        (["mine.py", "--declare", "a=b"], "--algorithm or --preset with it"),
        (["mine.py", "--algorithm", "awm", "--declare", "reduction"], "KEY=VALUE"),
        (["mine.py", "--algorithm", "awm", "--declare", "reduction=median"], "'sum', 'mean'"),
        (["mine.py", "--json", "/no/such/folder/x.json"], "a file in a folder that exists"),
        (["mine.py", "--baseline", "nothing.json"], "nothing.json"),
    ],
)
def test_what_is_not_understood_exits_with_2(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RIGHT + "\ndef plain(case):\n    return None\n")
    assert main(["check", *options]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in err + out


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"algorithm": "flow_grop"}, "algorithm"),
        ({"preset": "flux"}, "preset"),
        ({"algorithm": "awm", "preset": "flow_grpo-official"}, "algorithm"),
        ({}, "algorithm"),
        ({"algorithm": "flow_grpo", "log_prob_reduction": "max"}, "log_prob_reduction"),
        ({"algorithm": "flow_grpo", "clip_range": "wide"}, "clip_range"),
        ({"algorithm": "flow_grpo", "clip_range": 2.0}, "clip_low"),
        ({"algorithm": "flow_grpo", "noise_level": -1.0}, "noise_level"),
        ({"algorithm": "flow_grpo", "batch_reduction": "median"}, "batch_reduction"),
        ({"algorithm": "flow_grpo", "working_dtype": "float8"}, "working_dtype"),
        ({"algorithm": "flow_grpo", "adv_clip_max": -5}, "adv_clip_max"),
        ({"algorithm": "flow_grpo", "factor": 0}, "factor"),
        ({"algorithm": "awm", "beta": 1.0}, "beta"),
    ],
)
def test_bad_declarations(arguments: dict[str, object], name: str) -> None:
    with pytest.raises(InputError, match=rf"\[gradcheck\] {name}: got .+; wanted .+"):
        declare(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_declarations_that_can_be_kept(preset: str) -> None:
    """The catalogue's own loss, put into the preset's conventions, conforms to it."""
    conventions = declare(preset=preset)
    assert conventions.derivation.prove().holds
    numeric = next(torch_side for symbolic, torch_side in ALGORITHMS if conventions.algorithm == symbolic.NAME)

    def loss(case: Case) -> torch.Tensor:
        if conventions.adv_clip_max is not None:
            limit = conventions.adv_clip_max
            case = case.replace(advantage=case.advantage.clamp(-limit, limit))
        value: torch.Tensor = numeric.loss(case, **conventions.options)
        return conventions.factor * value.mean()

    found = judge(Target(loss, preset, conventions), Settings(max_examples=3))
    assert [r.id for r in found.results if not r.good] == []


def test_what_cannot_be_judged_is_never_called_conforming(pytester: pytest.Pytester) -> None:
    broken = RIGHT.replace("    v_gt =", "    raise KeyError('sigmas')\n    v_gt =")
    result = outcomes(pytester, broken, "-k", "gradient or clip", "--gradcheck-json=report.json")
    result.stdout.fnmatch_lines(["test_awm: FAILED: *gradient*"])
    result.stdout.fnmatch_lines(["*could not be judged: test_awm raised KeyError: 'sigmas'*"])
    assert '"holds": true' not in (pytester.path / "report.json").read_text()


def test_causes_are_named_for_code_that_casts_to_float32_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    casting = WRONG.replace('("awm")', '("awm", working_dtype="float32")').replace(
        "case.v_theta", "case.v_theta.float()"
    )
    status, out, _ = check(tmp_path, casting, capsys=capsys)
    assert status == 1
    assert "the regression target is x_0 − ε; it must be ε − x_0" in out


def test_clip_range_is_offered_for_a_declared_symmetric_clip_alone() -> None:
    def names(**declared: object) -> tuple[str, ...]:
        conventions = declare("flow_grpo", **declared)  # type: ignore[arg-type]
        return oracle_case(conventions, Spec(2, (3,), 0), torch.float64, "cpu").names

    assert "clip_range" in names(clip_range=0.2)
    assert "clip_range" not in names(clip_range=(0.1, 0.2))
    assert "clip_range" not in names()


def test_the_grids_times_give_back_the_step_to_the_last_bit() -> None:
    for dtype in (torch.float64, torch.float32):
        for seed in range(20):
            case = oracle_case(declare("flow_grpo"), Spec(5, (3,), seed), dtype, "cpu")
            assert torch.equal(case.t - case.t_prev, case.dt)
