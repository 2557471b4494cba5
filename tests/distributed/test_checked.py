"""``gradcheck check`` judges a trainer's step beside losses, on one process: nothing in a file is passed over."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gradcheck.oracle.isolation.checking import CheckJob
from gradcheck.oracle.target import Settings

STEPS = """
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
    (tmp_path / "test_steps.py").write_text(STEPS)
    settings = Settings(max_examples=2)
    file, heard = str(tmp_path / "test_steps.py"), [dict[str, Any]() for _ in range(4)]
    for index, each in enumerate(heard):
        only = ("equal-shards",) if index else ("gradient",)
        CheckJob(file, settings, only=only, index=index).run(partial(_hear, each))
    assert heard[0]["found"] == (["loss", "right", "each_micro_batch_averaged", "raises"],)
    assert ["trainer" in each for each in heard] == [False, True, True, True]
    judged = [each["judgement"][0] for each in heard]
    assert [j.holds for j in judged] == [True, True, False, False]
    (result,) = judged[2].results
    assert result.diagnosis is not None
    assert result.diagnosis.name != "unknown", result.diagnosis.cause
    assert "no step" in judged[3].unjudged
