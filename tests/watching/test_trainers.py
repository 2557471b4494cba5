"""The example trainers are right, and with one line wrong each they are caught where that acts first."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from examples.trainers.forward import ForwardTrainer
from examples.trainers.policy import PolicyTrainer
from gradcheck.watching.watcher import WatchError
from tests.watching.trainer_bugs import BUGS, SMALL


@pytest.mark.parametrize("name", BUGS)
def test_a_wrong_trainer_is_caught_and_named(name: str) -> None:
    bug = BUGS[name]
    trainer = bug.make("cpu")
    trainer.watch._strict = True  # so that the run ends there
    with pytest.raises(WatchError):
        trainer.train()
    lines = list(trainer.watch.report.lines)
    first = trainer.watch.report.first_wrong
    assert first is not None, trainer.watch.report
    assert bug.cause in first.causes, first
    assert lines.index(first) < bug.calls, f"named at the {lines.index(first)}th judged step"


@pytest.mark.parametrize("method", ["flow_grpo", "grpo_guard", "awm", "diffusion_nft"])
@pytest.mark.parametrize("network", ["sd3", "flux"])
def test_a_right_trainer_conforms(method: str, network: str) -> None:
    kind = PolicyTrainer if method in ("flow_grpo", "grpo_guard") else ForwardTrainer
    dtype = "bfloat16" if network == "flux" else "float32"
    trainer = kind(replace(SMALL, network=network, dtype=dtype), method)
    trainer.train()
    report = trainer.watch.report
    assert report.holds, report
    assert report.verdicts["unjudged"] == 0
    assert "old-model" not in report.unchecked, "it was seen to move"
    assert max(report.resolutions()) <= 0.01
