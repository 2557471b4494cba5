"""What a process prepares for several losses of one declaration is what each would have made for itself."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.conventions import declare
from gradcheck.judging.results import Judgement
from gradcheck.oracle import drawn
from gradcheck.oracle.preparing import PrepareJob
from gradcheck.oracle.runner import Settings, Subject, judge

DECLARED = declare("grpo_guard", log_prob_reduction="mean", batch_reduction="sum")
FEW = Settings(max_examples=2)


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(drawn, "_PACKED", {})
    drawn._drawn.cache_clear()
    yield
    drawn._drawn.cache_clear()


def right(case: Case) -> Tensor:
    return entry("grpo_guard", "mean").loss(case).sum()


def prepared(job: PrepareJob) -> list[tuple[str, bytes]]:
    problems: list[tuple[str, bytes]] = []
    job.run(lambda word, some: problems.extend(some))
    return problems


def judged() -> Judgement:
    found = judge(Subject(right, "loss", DECLARED), FEW)
    return replace(found, seconds=0, results=tuple(replace(r, seconds=0) for r in found.results))


def test_with_what_was_prepared_a_judgement_is_the_same_and_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = judged()
    drawn._drawn.cache_clear()
    problems = prepared(PrepareJob(DECLARED.describe(), FEW))
    drawn._drawn.cache_clear()
    drawn.handed_over(problems)

    def refused(*given: object) -> Case:
        raise AssertionError(f"made again: {given}")

    monkeypatch.setattr(drawn, "oracle_case", refused)
    monkeypatch.setattr("gradcheck.oracle.required._required_of", refused)
    assert judged() == alone
    assert alone.holds


@pytest.mark.parametrize(
    "given",
    [
        {"algorithm": "diffusion_dpo", "pairs": "halves"},
        {"algorithm": "dgpo", "groups": 4},
        {"algorithm": "flow_grpo", "steps": True, "clip_range": 1e-4, "adv_clip_max": 5.0},
        {"algorithm": "awm", "guidance": True},
        {"algorithm": "awm", "output_dtype": "bfloat16"},
        {"algorithm": "diffusion_nft", "prediction": "epsilon"},
        {"loss": "advantage*norm2(v_theta - v_gt)", "batch_reduction": "none"},
    ],
    ids=str,
)
def test_what_prepares_is_right_code(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would make the problems that are looked at after a failure."""
    shrunk: list[object] = []
    monkeypatch.setattr("gradcheck.oracle.judge._smallest", lambda *given: shrunk.append(given))
    assert len(prepared(PrepareJob(declare(**given).describe(), replace(FEW, max_examples=1)))) > 10
    assert not shrunk


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.bool, torch.int64])
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x,
        lambda x: x.transpose(0, 2),
        lambda x: x[:, ::2],
        lambda x: x[:1].expand(4, -1, -1),
        lambda x: x[0, 0, 0],
        lambda x: x[:0],
    ],
)
def test_a_tensor_arrives_as_it_was(dtype: torch.dtype, layout: Any) -> None:
    x = layout((torch.arange(24.0).reshape(2, 3, 4) - 7).to(dtype)).detach()
    x.requires_grad_(dtype.is_floating_point)
    case = drawn._Drawn(drawn._Declared.by(DECLARED), "one", "label", {"v_theta": x})
    _, quantities, _ = pickle.loads(drawn._bytes_of(case))
    y = quantities["v_theta"]
    assert (y.dtype, y.shape, y.stride(), y.requires_grad) == (x.dtype, x.shape, x.stride(), x.requires_grad)
    assert torch.equal(x, y)


LOSSES = """
import gradcheck, os

def loss(case):
    return (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean()
""" + "".join(f"\n@gradcheck.conforms('awm')\ndef test_{i}(case):\n    return loss(case)\n" for i in range(4))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_file_of_many_losses_is_judged_on_problems_that_one_process_makes(tmp_path: Path, jobs: str) -> None:
    (tmp_path / "test_mine.py").write_text(LOSSES)
    script = (
        "import sys\nfrom gradcheck.doors import checking, cli\n"
        "real = checking.handed_over\n"
        "def told(problems):\n    print('PREPARED', len(problems), file=sys.stderr)\n    real(problems)\n"
        "checking.handed_over = told\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", script, "check", str(tmp_path / "test_mine.py"), "--brief", f"--jobs={jobs}"]
    done = subprocess.run([*command, "--max-examples=2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("PREPARED") > 5
