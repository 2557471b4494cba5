"""The decorator and the command, as a user meets them: a file of their own, run by pytest and without it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.conventions import PRESETS, declare
from gradcheck.doors.cli import main
from gradcheck.errors import InputError
from gradcheck.judging.results import Outcome
from gradcheck.losses._parameterisation import in_velocities
from gradcheck.oracle import pace
from gradcheck.oracle.problem import oracle_case
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec
from gradcheck.reports.text import failure_text

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
    """Of a run in this process, which has imported torch already."""
    pytester.makepyfile(test_mine=source)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "--gradcheck-max-examples=3", *options)


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
    assert "the regression target is x_0 − ε; it must be ε − x_0" in " ".join(text.split()), "wrapped at 80 columns"
    assert "Traceback" not in text
    assert "runner.py" not in text, "our frames are trimmed"


LARGE = RIGHT.replace("    v_gt", "    assert case.v_theta.shape[1:] == (3, 8, 9)\n    v_gt")


def test_both_doors_take_the_latents_size(pytester: pytest.Pytester, capsys: pytest.CaptureFixture[str]) -> None:
    result = outcomes(pytester, LARGE, "--gradcheck-latent=3,8,9", "-k", "gradient and not stop")
    assert result.parseoutcomes() == {"passed": 1, "deselected": 17}
    file = str(pytester.path / "test_mine.py")
    assert main(["check", file, "--latent", "3x8x9", "--only", "gradient", "--max-examples", "3"]) == 0
    assert main(["check", file, "--latent", "3,wide", "--only", "gradient"]) == 2
    assert "latent: got '3,wide'" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["torch.no_grad()", "torch.inference_mode()", "torch.device('meta')"])
def test_a_fixture_that_leaves_gradients_out_or_moves_tensors_does_not_decide(
    pytester: pytest.Pytester, mode: str
) -> None:
    fixture = f"@pytest.fixture(autouse=True)\ndef mode():\n    with {mode}:\n        yield\n"
    pytester.makeconftest(f"import pytest, torch\n\n{fixture}")
    found = outcomes(pytester, RIGHT, "-k", "gradient").parseoutcomes()
    assert "passed" in found, found
    assert not found.keys() & {"failed", "errors"}, found


def test_it_works_under_xdist(pytester: pytest.Pytester) -> None:
    result = outcomes(pytester, WRONG, "-n", "2", "-k", "gradient", "--gradcheck-json=report.json")
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


def test_a_file_is_judged_as_it_is_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it was changed by as many characters in the second of its last check, by which byte code is known."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "test_it.py"
    assert len(RIGHT) == len(WRONG)
    for text, wanted in ((RIGHT, 0), (WRONG, 1)):
        file.write_text(text)
        os.utime(file, (1e9, 1e9))
        assert main(["check", str(file), "--only", "gradient"]) == wanted
    capsys.readouterr()


def test_check_without_pytest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = check(tmp_path, RIGHT, capsys=capsys)
    assert status == 0
    assert "test_awm conforms" in out
    status, out, _ = check(tmp_path, WRONG, capsys=capsys)
    assert status == 1
    assert "the regression target is x_0 − ε" in out


def test_every_printed_script_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure's script runs as it stands, and fails for the reason that it says."""
    monkeypatch.chdir(tmp_path)
    _, out, _ = check(tmp_path, WRONG, capsys=capsys)
    (file,) = re.findall(r"reproduce  python (\S+)$", out, re.MULTILINE)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=tmp_path)
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
        (["mine.py::test_amw"], "did you mean 'test_awm'?"),
        (["mine.py::plain"], "declares nothing"),
        (["mine.py", "--only", "gradients"], "an obligation; the guide"),
        (["mine.py", "--only", "gradients"], "did you mean 'gradient'?"),
        (["mine.py", "--device", "tpu"], "cpu, cuda or all"),
        (["mine.py", "--dtype", "int8"], "float64, float32"),
        (["mine.py", "--declare", "a=b"], "--algorithm, --loss or --preset with it"),
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


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ({"algorithm": "flow_grop"}, "flow_grpo"),
        ({"preset": "flow_grpo_oficial"}, "flow_grpo-official"),
        ({"algorithm": "awm", "reducton": "mean"}, "reduction"),
        ({"algorithm": "awm", "reduction": "maen"}, "mean"),
        ({"algorithm": "flow_grpo", "clip_rage": 0.2}, "clip_range"),
    ],
)
def test_the_likely_name_is_suggested(arguments: dict[str, object], meant: str) -> None:
    with pytest.raises(InputError, match=rf"; did you mean '{meant}'.*\?$"):
        declare(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"algorithm": "Flow-GRPO"}, {"algorithm": "flow_grpo"}),
        ({"algorithm": "diffusion nft"}, {"algorithm": "diffusion_nft"}),
        ({"preset": "Flow_GRPO_official"}, {"preset": "flow_grpo-official"}),
        ({"algorithm": "awm", "reduction": "Mean"}, {"algorithm": "awm", "reduction": "mean"}),
        (
            {"algorithm": "flow_grpo", "log-prob-reduction": "mean"},
            {"algorithm": "flow_grpo", "log_prob_reduction": "mean"},
        ),
        ({"algorithm": "flow_grpo", "cliprange": 0.2}, {"algorithm": "flow_grpo", "clip_range": 0.2}),
    ],
)
def test_case_hyphens_and_spaces_do_not_matter(given: dict[str, Any], meant: dict[str, Any]) -> None:
    assert declare(**given) == declare(**meant)


def test_an_unknown_name_is_never_answered_with_a_wall_of_names() -> None:
    for arguments in ({"algorithm": "nothing"}, {"preset": "nothing"}, {"algorithm": "flow_grpo", "nothing": 1}):
        with pytest.raises(InputError) as caught:
            declare(**arguments)  # type: ignore[arg-type]
        assert str(caught.value).count(",") <= 12


def test_the_likely_obligation_and_quantity_are_suggested() -> None:
    with pytest.raises(InputError, match=r"did you mean 'on-policy'\?"):
        Subject(lambda case: None, "mine", declare("awm"), {"on_policy": "known"})
    case = oracle_case(declare("flow_grpo"), Spec(2, (3,), 0), torch.float64, "cpu")
    with pytest.raises(AttributeError, match=r"has no quantity 'advantages'; .*; did you mean 'advantage'\?"):
        _ = case.advantages
    with pytest.raises(AttributeError, match=r"has no quantity 'zzz'; [^?]*$"):
        _ = case.zzz


_ANOTHER_LOSS = {"flow_factory", "flow_factory-guard", "rlinf", "unirl", "fpo-official"}
"""Presets with a piece of their own, which the catalogue's loss has not."""


@pytest.mark.parametrize("preset", [name for name in PRESETS if name not in _ANOTHER_LOSS])
def test_presets_are_declarations_that_can_be_kept(preset: str) -> None:
    """The catalogue's own loss, put into the preset's conventions, conforms to it."""
    conventions = declare(preset=preset)
    assert conventions.derivation.prove().holds
    by_hand = entry(conventions.algorithm).by_hand

    def loss(case: Case) -> torch.Tensor:
        if conventions.adv_clip_max is not None:
            limit = conventions.adv_clip_max
            case = case.replace(advantage=case.advantage.clamp(-limit, limit))
        if conventions.prediction != "v":
            path = conventions.derivation.path
            case = in_velocities(case, prediction=conventions.prediction, noise_at=conventions.noise_at, path=path)
        if conventions.policy_factor != 1:  # of the policy term alone: the KL's weight is taken out of it again
            case = case.replace(kl_weight=case.kl_weight / conventions.policy_factor)
        value: torch.Tensor = by_hand(case, **conventions.options)
        return conventions.factor * conventions.policy_factor * value.mean()

    found = judge(Subject(loss, preset, conventions), Settings(max_examples=3))
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
    assert "the regression target is x_0 − ε; it must be ε − x_0" in " ".join(out.split())


CASTING = """
import torch, gradcheck

@gradcheck.conforms("awm", clip="ppo", reduction="mean", working_dtype="float32")
def test_awm(case):
    v, v_gt, v_old, a = (x.float() for x in (case.v_theta, case.v_gt, case.v_old, case.advantage))
    new, old = (((x - v_gt) ** 2).flatten(1).mean(1) for x in (v, v_old))
    ratio = torch.exp(old - new)
    clipped = ratio.clamp(1 - case.clip_low, 1 + case.clip_high)
    return torch.maximum(-a * ratio, -a * clipped).mean()
"""


@pytest.mark.parametrize(
    ("right", "wrong", "cause"),
    [
        ("", "", ""),
        ("torch.maximum", "torch.minimum", "max-for-min"),
        ("torch.maximum", "2 * torch.maximum", "factor-2"),
        ("torch.maximum", "1.7 * torch.maximum", "factor"),
        ("clip_high)", "clip_low)", "clip-symmetric"),
        ("ratio.clamp(1 - case.clip_low, 1 + case.clip_high)", "ratio.clamp(0.7, 1.4)", "convention:clip_range"),
    ],
    ids=lambda x: x if "torch" not in x else "",
)
def test_float32_hides_no_cause(
    right: str, wrong: str, cause: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = CASTING.replace(right, wrong) if right else CASTING
    status, out, _ = check(tmp_path, source, capsys=capsys)
    assert status == (1 if cause else 0), out
    assert set(re.findall(r"  \[([a-z:_0-9-]+)\]$", out, re.MULTILINE)) == ({cause} if cause else set())


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


BROKEN = RIGHT.replace("    v_gt =", "    print('looking the step up')\n    raise KeyError('sigmas')\n    v_gt =")


def test_what_cannot_be_judged_is_in_every_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {kind: tmp_path / f"report.{kind}" for kind in ("json", "html", "junit", "summary")}
    options = [part for kind, file in files.items() for part in (f"--{kind}", str(file))]
    status, out, err = check(tmp_path, BROKEN, *options, capsys=capsys)
    assert status == 2
    assert "test_awm could not be judged: test_awm raised KeyError: 'sigmas' (mine.py:" in err
    assert "looking the step up" in out
    for file in files.values():
        text = file.read_text(encoding="utf-8")
        assert "raised KeyError: " in text
        assert "looking the step up" in text
    (told,) = json.loads(files["json"].read_text())["targets"]
    assert [o["status"] for o in told["obligations"]] == ["unjudged"]


def test_what_was_seen_before_it_broke_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    breaks = WRONG.replace("    v_gt =", "    assert case.v_theta.ndim > 2\n    v_gt =")
    status, out, _ = check(tmp_path, breaks, "--seed", "1", capsys=capsys)
    assert status == 1, "the others go on"
    assert "raises on batch" in " ".join(out.split())
    assert "raised AssertionError" in " ".join(out.split())


def test_several_failures_fit_a_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(WRONG + "".join(WRONG.replace("test_awm", f"test_{i}") for i in "bc") + RIGHT.replace("awm(", "d("))
    assert main(["check", str(file), "--max-examples", "3"]) == 1
    brief = capsys.readouterr().out
    assert brief.count("reproduce  python ") == 3, "the first failure of each target"
    for target in ("test_awm", "test_b", "test_c"):
        assert f"[gradcheck] {target}: gradient does not hold" in brief
        assert f"{target}: equivalence does not hold" not in brief
    assert "everything in full: --verbose, one of them: --only equivalence" in brief
    ends = [" ".join(line.split()[:2]) for line in brief.strip().splitlines()[-4:]]
    assert ends == ["test_awm does", "test_b does", "test_c does", "test_d conforms"]
    assert "  determinism" not in brief, "what holds is not listed where there are several"
    assert len(brief.splitlines()) < 3 * 55 + 10
    assert main(["check", str(file), "--max-examples", "3", "--verbose"]) == 1
    full = capsys.readouterr().out
    assert full.count("equivalence does not hold") == 3
    assert "  determinism" in full


def test_what_was_used_is_told() -> None:
    found = {r.id: r for r in judge(_subject("awm"), Settings(max_examples=3)).results}
    assert (found["gradient"].dtype, found["precision"].dtype) == ("float64", "float32")
    assert found["gradient"].seconds > 0


def _subject(algorithm: str, factor: float = 1.0, **declared: str) -> Subject:
    """The catalogue's own loss times a factor."""
    by_hand = entry(algorithm).by_hand
    conventions = declare(algorithm, **declared)

    def loss(case: Case) -> torch.Tensor:
        value: torch.Tensor = by_hand(case, **conventions.options)
        return factor * value.mean()

    return Subject(loss, algorithm, conventions)


@pytest.mark.parametrize("algorithm", ["awm", "diffusion_nft", "flow_grpo", "grpo_guard"])
@pytest.mark.parametrize("factor", [-1.0, 2.0])
def test_bfloat16_hides_no_wrong_sign_and_no_factor(algorithm: str, factor: float) -> None:
    """Where its bounds leave nothing to judge, that is said, and nothing conforms."""
    name = "log_prob_reduction" if "grpo" in algorithm else "reduction"
    subject = _subject(algorithm, factor, working_dtype="bfloat16", **{name: "mean"})
    judgement = judge(subject, Settings(max_examples=5), only=("gradient", "on-policy"))
    assert not judgement.holds
    (gradient, *_) = judgement.results
    if "grpo" in algorithm:  # log-probabilities are differences of large squares
        assert (gradient.status, judgement.unjudged) == ("unjudged", gradient.outcome.detail)
        assert "in bfloat16, rounding may change every component by more than its size" in judgement.unjudged
    else:
        assert gradient.status == "failed"


def test_what_bfloat16_leaves_to_judge_is_told() -> None:
    subject = _subject("diffusion_nft", working_dtype="bfloat16", reduction="mean")
    judgement = judge(subject, Settings(max_examples=5), only=("gradient",))
    assert judgement.holds
    assert re.search(r"in bfloat16 only \d+ % of the components can be judged", judgement.results[0].outcome.note)
    sharp = judge(_subject("diffusion_nft", reduction="mean"), Settings(max_examples=5), only=("gradient",))
    assert sharp.results[0].outcome.note == ""


@pytest.mark.parametrize(
    ("algorithm", "declared"), [("awm", {"clip": "ppo"}), ("diffusion_nft", {"weighting": "adaptive"})]
)
def test_a_mean_over_the_latent_is_told_to_be_declared(algorithm: str, declared: dict[str, str]) -> None:
    """The default is the papers' sum, and public code has the mean."""
    conventions = declare(algorithm, **declared)
    subject = _subject(algorithm, **declared, reduction="mean")
    found = judge(Subject(subject.function, "mine", conventions), Settings(max_examples=5), only=("gradient",))
    text = failure_text(found.results[0], "mine", "")
    because = " ".join(text.partition("  because ")[2].partition("  demanded ")[0].split())
    assert "if that is meant, declare reduction='mean'" in because


def test_strided_memory_reaches_the_implementation() -> None:
    seen: list[bool] = []

    def loss(case: Case) -> torch.Tensor:
        seen.append(min(case.v_theta.stride()) > 1 and case.v_theta.stride(0) < max(case.v_theta.stride()))
        return right(case)

    def right(case: Case) -> torch.Tensor:
        return (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean()

    def views(case: Case) -> torch.Tensor:
        return right(case) + 0 * case.v_theta.view(-1).sum()

    assert judge(Subject(loss, "mine", declare("awm")), Settings(max_examples=3), only=("shapes",)).holds
    assert any(seen), "with gaps, and transposed"
    (result,) = judge(Subject(views, "mine", declare("awm")), Settings(max_examples=3), only=("shapes",)).results
    assert result.status == "passed", "a loud refusal is no wrong gradient"
    assert "not judged on latents that are not contiguous, which it refuses: mine raised" in result.outcome.note


def public_fpo(case: Case, clamp: float = 3.0) -> torch.Tensor:
    """Errors in the noise that follows from the velocity, averaged, and their difference clamped."""

    def error(v: torch.Tensor) -> torch.Tensor:
        return ((case.x_t + (1 - case.expand(case.t)) * v - case.noise) ** 2).flatten(1).mean(1)

    ratio = (error(case.v_old) - error(case.v_theta)).clamp(-clamp, clamp).exp()
    clipped = ratio.clamp(1 - case.clip_low, 1 + case.clip_high)
    return torch.maximum(-case.advantage * ratio, -case.advantage * clipped).mean()


def test_fpo_s_public_form_is_a_preset() -> None:
    conventions = declare(preset="fpo-official")
    assert conventions.derivation.prove().holds
    found = judge(Subject(public_fpo, "fpo", conventions), Settings(max_examples=3))
    assert [r.id for r in found.results if not r.good] == []
    other = judge(Subject(lambda case: public_fpo(case, 30.0), "fpo", conventions), Settings(max_examples=3))
    assert not other.holds


def test_code_whose_time_grows_with_the_square_of_the_size_is_judged_on_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Right code that goes through all pairs of coordinates: the large latents are left out, and that is told.

    The clock is the test's own: on a machine that does other things, too, a true one tells another time.
    """
    clock = [0.0]
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def loss(case: Case, seconds: float = 4e-9) -> torch.Tensor:
        error = (case.v_theta - case.v_gt) ** 2
        clock[0] += seconds * error[0].numel() ** 2  # 16 ms on 2,000 numbers, 1.6 s on 20,000
        return (case.advantage * error.flatten(1).sum(1)).mean()

    def outcome(function: Any) -> Outcome:
        (result,) = judge(
            Subject(function, "slow", declare("awm")), Settings(max_examples=2, timeout=2.0), ("shapes",)
        ).results
        return result.outcome

    slow, quick = outcome(loss), outcome(lambda case: loss(case, 0.0))
    assert slow.status == quick.status == "passed"
    assert "not judged on 4 of 10 large shapes, on which a call would take about" in slow.note
    assert "large shapes" not in quick.note


def test_a_batch_size_may_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Code that divides by the seven samples of its own batches is right on those; pairs come in whole ones."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import gradcheck\n"
        "@gradcheck.conforms('awm')\n"
        "def test_seven(case):\n"
        "    error = (case.v_theta - case.v_gt) ** 2\n"
        "    return (case.advantage * error.flatten(1).sum(1)).sum() / 7\n"
    )
    arguments = ["check", str(file), "--only", "gradient", "--isolation", "none"]
    assert main([*arguments, "--batch", "7"]) == 0
    assert main(arguments) == 1
    capsys.readouterr()
    seen = set()

    def paired(case: Case) -> torch.Tensor:
        seen.add(len(case.v_theta))
        return (0 * case.v_theta).sum()

    subject = Subject(paired, "paired", declare("diffusion_dpo", pairs="halves"))
    judge(subject, Settings(max_examples=1, batch=7), ("determinism",))
    assert seen == {8}
