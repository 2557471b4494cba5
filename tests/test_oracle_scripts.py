"""Every failure prints a script that runs as it stands and shows that failure."""

from __future__ import annotations

import functools
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gradcheck.conventions import declare
from gradcheck.doors.loading import load_found
from gradcheck.judging.results import Judgement, Result
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.reports.text import failure_text

MODULE = """
from __future__ import annotations
import dataclasses, torch, gradcheck

@dataclasses.dataclass
class Options:  # looks its own module up, as a script's import must allow
    scale: float = 2.0

calls = []

def error_of(case):
    return ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).sum(1)

def right(case):
    return (case.advantage * error_of(case)).mean()

@gradcheck.conforms("awm", compare_values=True)
def twice(case):
    return Options().scale * right(case)

@gradcheck.conforms("awm", batch_reduction="sum", adv_clip_max=1e9)
def shared(case):
    return ((case.advantage * error_of(case)).sum() + 1e-3 * right(case) * case.x_0.mean())

@gradcheck.conforms("awm")
def by_place(case):
    weight = 1 + 1e-3 * torch.arange(len(case.v_theta))
    return (weight * case.advantage * error_of(case)).mean()

@gradcheck.conforms("awm")
def counts_calls(case):
    calls.append(1)
    return right(case) * (1 + 1e-3 * len(calls))

@gradcheck.conforms("awm")
def draws(case):
    return right(case) * (1 + 1e-3 * torch.rand(()))

@gradcheck.conforms("awm")
def writes(case):
    loss = (case.advantage.clone() * error_of(case)).mean()
    case.advantage.mul_(0.5)
    return loss

@gradcheck.conforms("awm")
def seeds(case):
    torch.manual_seed(1234)
    return right(case)

@gradcheck.conforms("awm")
def half(case):
    return (case.advantage * error_of(case) + (case.v_theta - case.v_theta.half())[0].sum()).mean()

@gradcheck.conforms("awm")
def memory(case):
    v = case.v_theta
    flat = torch.as_strided(v, (v.numel(),), (1,)) if v.is_contiguous() else torch.as_strided(v, (len(v),), (1,))
    return right(case) + 0.1 * flat.sum() - 0.1 * v.sum()

@gradcheck.conforms("awm", clip="ppo", clip_range=0.2, inputs_detached=False)
def live(case):
    old = ((case.v_old - case.v_gt) ** 2).flatten(1).sum(1)
    ratio = torch.exp(old - error_of(case))
    return torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(0.8, 1.2)).mean()

@gradcheck.conforms("awm", clip="ppo", clip_range=0.2)
def overflows(case):
    old = ((case.v_old - case.v_gt) ** 2).flatten(1).sum(1)
    log_ratio = old - error_of(case)
    ratio = torch.exp(log_ratio)
    loss = torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(0.8, 1.2))
    return (loss + torch.where(log_ratio.abs() > 1e9, torch.exp(1e4 * log_ratio.abs()), 0)).mean()

@gradcheck.conforms("awm", clip="ppo", clip_range=0.2, omega="t")
def floors(case):
    old = ((case.v_old - case.v_gt) ** 2).flatten(1).sum(1)
    ratio = torch.exp(case.t.clamp(min=0.03) * (old - error_of(case)))
    return torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(0.8, 1.2)).mean()

@gradcheck.conforms("awm")
def large_only(case):
    wrong = 2.0 if case.v_theta.numel() > 100 else 1.0
    return wrong * right(case)

@gradcheck.conforms("awm")
def frozen(case):  # right, and wrong under the compiler
    return right(case) * (2.0 if torch.compiler.is_compiling() else 1.0)

@gradcheck.conforms("awm", clip="ppo", clip_range=0.2, reference="on")
def unclipped(case):
    old = ((case.v_old - case.v_gt) ** 2).flatten(1).sum(1)
    ratio = torch.exp(old - error_of(case))
    reference = ((case.v_theta - case.v_ref) ** 2).flatten(1).sum(1)
    return (-case.advantage * ratio + 2 * case.kl_weight * reference).mean()
"""
SETTINGS = Settings(max_examples=5)


@pytest.fixture(scope="module", autouse=True)
def _quick_compiler() -> Iterator[None]:
    """Inductor takes a minute, and what is wrong here is wrong before it is reached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        yield


@pytest.fixture(scope="module")
def judgements(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judgement]:
    file = tmp_path_factory.mktemp("scripts") / "mine.py"
    file.write_text(MODULE)
    out = {}
    for subject in (found.subject for found in load_found(str(file), None)):
        settings = Settings(max_examples=5, compiled=subject.name == "frozen")
        out[subject.name] = judge(subject, settings, only=("compiled",) if subject.name == "frozen" else ())
    return out


def failures(judgements: dict[str, Judgement]) -> Iterator[tuple[str, Result]]:
    for name, judgement in judgements.items():
        for result in judgement.results:
            if result.status == "failed":
                yield name, result


def test_every_obligation_fails_somewhere_here(judgements: dict[str, Judgement]) -> None:
    failing = {r.id for _, r in failures(judgements)}
    assert {o.id for o in OBLIGATIONS} - failing == set()


def test_each_script_runs_and_fails_as_it_says(
    judgements: dict[str, Judgement],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    for name, result in failures(judgements):
        file = tmp_path / f"{name}-{result.id}.py"
        file.write_text(result.script, encoding="utf-8")
        torch.compiler.reset()
        with pytest.raises(AssertionError, match=f"the {result.id} obligation fails"):
            runpy.run_path(str(file))
        assert capsys.readouterr().out.strip(), f"{file.name} shows nothing"
        sys.path[:] = path


def test_a_script_is_a_program_of_its_own(judgements: dict[str, Judgement], tmp_path: Path) -> None:
    result = next(r for _, r in failures(judgements) if r.id == "sample-independence")
    file = tmp_path / "reproduce.py"
    file.write_text(result.script, encoding="utf-8")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, cwd=tmp_path)
    assert "AssertionError: the sample-independence obligation fails" in done.stderr
    assert "observed" in done.stdout


def test_a_right_implementation_passes_the_script_of_a_wrong_one(
    judgements: dict[str, Judgement],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The assertion is about the implementation: with the right one in its place it holds."""
    for name, result in failures(judgements):
        if name in ("twice", "by_place", "counts_calls", "draws", "writes", "seeds", "half", "large_only", "memory"):
            changed = result.script.replace(f"judged.{name}", "judged.right")
            assert changed != result.script
            file = tmp_path / "right.py"
            file.write_text(changed, encoding="utf-8")
            runpy.run_path(str(file))


def test_across_the_batch_the_implementation_is_compared_with_itself(
    judgements: dict[str, Judgement], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong alike in every batch passes these scripts."""
    chosen = {("shared", "sample-independence"), ("by_place", "permutation"), ("by_place", "micro-batching")}
    done = set()
    for name, result in failures(judgements):
        if (name, result.id) in chosen:
            file = tmp_path / "alike.py"
            file.write_text(result.script.replace(f"judged.{name}", "judged.twice"), encoding="utf-8")
            runpy.run_path(str(file))
            done.add((name, result.id))
    assert done == chosen


def test_literal_tensors_where_they_can_be_pasted(judgements: dict[str, Judgement]) -> None:
    for name, result in failures(judgements):
        assert ("oracle_case" in result.script) == (name == "large_only"), (name, result.id)


def test_what_is_compared_is_told_in_words(judgements: dict[str, Judgement]) -> None:
    words = {
        "sample-independence": "same sample: observed beside other samples than required",
        "permutation": "observed with the last sample of the batch put first",
        "micro-batching": "observed with the batch in two halves",
        "value": "observed is the loss that was returned",
        "equivalence": "required is the gradient of weight",
        "compiled": "under torch.compile",
    }
    told: set[str] = set()
    for name, result in failures(judgements):
        if result.id in words:
            assert words[result.id] in " ".join(failure_text(result, name, "").split())
            told.add(result.id)
    assert told == set(words)


def test_a_function_that_cannot_be_imported_is_asked_for() -> None:
    found = judge(Subject(lambda case: 0 * case.v_theta.sum(), "mine", declare("awm")), SETTINGS, only=("gradient",))
    assert "# put your function 'mine' here" in found.results[0].script
