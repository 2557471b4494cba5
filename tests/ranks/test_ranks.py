"""Every rank's right code conforms, and its wrong code is refused by name: a small part of ``tests.ranks.table``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradcheck.conventions import declare
from gradcheck.oracle.mistakes import KINDS
from tests.derive.outside import OUTSIDE
from tests.ranks.base import PRECISIONS, Loss
from tests.ranks.formulas import ppo, ratio
from tests.ranks.table import RANKS, Task, main, run, tasks
from tests.ranks.weighting import GUARDS

SUBJECTS = [(number, name) for number, rank in enumerate(RANKS, 1) for name in rank.subjects]


def test_there_are_fifteen_each_with_wrong_code() -> None:
    assert len(RANKS) == 15
    assert all(one.every_wrong for rank in RANKS for one in rank.subjects.values())


@pytest.mark.parametrize(("rank", "name"), SUBJECTS)
def test_right_code_conforms(rank: int, name: str) -> None:
    """In one precision each; the gradient of a loss, and all of a part."""
    one = RANKS[rank - 1].subjects[name]
    precision = one.precisions[(rank + len(name)) % len(one.precisions)]
    only = ("gradient",) if isinstance(one, Loss) else ()
    judgement = one.judgement(one.right, precision, 1, 3, only)
    assert judgement.holds, [(r.id, r.outcome.detail) for r in judgement.results if not r.good]


_TRIED = [
    *((1, "density", "none"), (2, "samples", "mean"), (2, "samples", "doubled"), (3, "step", "detached")),
    *((4, "dual", "none"), (5, "floor", "none"), (6, "tokens", "percent"), (7, "awm", "first")),
    *((8, "k1", "k2"), (8, "two", "twice"), (9, "sft", "without"), (10, "learned", "sign")),
    *((11, "beta", "reversed"), (12, "reinforce", "squared"), (13, "unclipped", "summed")),
    *((14, "guard-undivided", "divided"), (15, "root", "floor"), (15, "at one", "other")),
]


@pytest.mark.parametrize(("rank", "name", "wrong"), _TRIED)
def test_wrong_code_is_refused_and_named(rank: int, name: str, wrong: str) -> None:
    task = Task(rank, name, wrong, "float64", 1)
    verdict, causes = run(task, 3)
    assert verdict == ("named" if task.of.every_wrong[wrong].named else "refused"), causes


@pytest.mark.parametrize(("factor", "name"), [(-1.0, "sign"), (2.0, "factor-2"), (0.5, "factor-half")])
def test_a_factor_has_its_name_behind_a_bfloat16_output_too(factor: float, name: str) -> None:
    """Where rounding leaves two digits of it, −1.00083 is −1."""
    one = RANKS[5].subjects["tokens"]
    judgement = one.judgement(lambda c: factor * one.right(c), "bfloat16", 0, 2, ("gradient",))
    (result,) = judgement.results
    assert result.diagnosis is not None
    assert result.diagnosis.name == name


def test_a_sum_for_a_mean_has_its_name_behind_a_bfloat16_output_too() -> None:
    _, causes = run(Task(13, "unclipped", "summed", "bfloat16", 0), 2)
    assert causes[0].startswith("sum-for-mean")


def test_what_a_declared_small_number_changes_is_not_taken_for_an_error_of_its_own() -> None:
    """It shifts a float32 gradient by more than rounding does, and on every move of the inputs alike."""
    one = GUARDS.subjects["small number"]
    assert one.judgement(one.right, "float32", 6, 4, ("gradient",)).holds


def test_a_loss_that_defines_its_own_ratio_has_causes_sought() -> None:
    """It holds no log-probability, of which several named mistakes are made."""
    one = Loss({"loss": "ratio = exp(C2*(mse(x_prev, mean_old) - mse(x_prev, mean_theta))); -ratio*A"}, lambda c: c.t)
    judgement = one.judgement(lambda c: ppo(c.advantage, ratio(c)), "float64", 0, 2, ("gradient",))
    (result,) = judgement.results
    assert result.status == "failed"
    assert result.diagnosis is not None
    assert "gradcheck failed" not in result.diagnosis.cause


def test_every_kind_of_mistake_can_be_asked_of_every_loss() -> None:
    """Also of one that has a ratio and no clip, two clips, or no log-probability."""
    losses = [one.declared for rank in RANKS for one in rank.subjects.values() if isinstance(one, Loss)]
    losses += [{"loss": one.line, "given": one.given or None} for one in OUTSIDE.values()]
    asked = [(declare(**declared).derivation, kind) for declared in losses for kind in KINDS]
    assert sum(len(list(kind(derivation))) for derivation, kind in asked) > 1000


def test_a_stopped_run_of_the_table_goes_on(tmp_path: Path, capsys: Any) -> None:
    """What the tally holds is not judged again; an alarm that it holds is told, and fails the run."""
    tally = tmp_path / "tally.jsonl"
    arguments = ["--seeds", "1", "--wrong-seeds", "0", "--match", "11/mode/", "--tally", str(tally)]
    assert main(arguments) == 0
    assert "| 11 times: Beta, a table, mode and cosmap, a range | 1 | 0 | 0 | 0 | 0 | 0 |" in capsys.readouterr().out
    ((key, verdict, _),) = map(json.loads, tally.read_text().splitlines())
    assert verdict == "right"
    tally.write_text(json.dumps([key, "alarm", ["told"]]) + "\n")
    assert main(arguments) == 1
    assert "| 1 | 1 | 0 |" in capsys.readouterr().out


def test_every_seed_goes_round_all_ranks_first() -> None:
    order = [t.seed for t in tasks(3, 0)]
    assert order == sorted(order)
    assert {t.precision for t in tasks(1, 0)} == set(PRECISIONS)
    assert {t.rank for t in tasks(1, 0)} == set(range(1, 16))
