"""``make cuda`` would run where there is a device: each part does a piece of its work here, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.cuda import laws
from benchmarks.cuda.__main__ import PAGE, PARTS, RESULTS, page
from benchmarks.cuda.rows import Row, Share, law_table, off, summed
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.derived.equivalent import equivalent_loss
from gradcheck.problems.building import Spec, build

ROOT = Path(__file__).parents[1]
ONE_PIECE = Share("cpu", 0, 10**9)


@pytest.mark.parametrize("name", ["laws", "same", "oracle", "networks", "watch", "parts", "vectors", "nccl"])
@pytest.mark.filterwarnings("ignore")
def test_a_piece_of_each_part_is_as_it_must_be(name: str) -> None:
    rows = list(PARTS[name].work(ONE_PIECE))
    assert off(rows) == 0, law_table(rows)
    assert rows


def test_a_part_sees_what_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = next(e for e in CATALOGUE if e.label == "awm")
    monkeypatch.setattr(laws, "CATALOGUE", [wrong])
    monkeypatch.setattr(type(wrong), "loss", lambda self, case: 2 * case.advantage * case.v_theta.flatten(1).sum(1))
    rows = list(laws.laws(ONE_PIECE))
    assert off(rows) == 1
    assert "awm" in law_table(rows)


def test_a_piece_that_raises_does_not_end_the_part() -> None:
    def fails() -> Row:
        raise RuntimeError("no memory")

    row = laws._piece("a kind", fails)
    assert (row.checks, row.off) == (1, 1)
    assert "no memory" in row.told[0]


def test_rows_of_a_kind_are_summed() -> None:
    rows = [Row("a", 2, 0, 1.5), Row("b", 1, 1, told=["x"]), Row("a", 3, 1, 0.5)]
    a, b = summed(rows)
    assert (a.checks, a.off, a.worst) == (5, 1, 1.5)
    assert (b.off, b.told) == (1, ["x"])


def test_the_page_is_the_one_of_the_results() -> None:
    assert (ROOT / PAGE).read_text() == page(json.loads(RESULTS.read_text()))


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_losses_stay_on_the_device_of_their_case(entry: Entry) -> None:
    """On torch's device without numbers, which like a GPU mixes with no other and gives no number away."""
    case = build(entry.derivation, Spec(3, (2, 3), 0), torch.float32, "meta")
    for loss in (entry.loss(case), equivalent_loss(entry.derivation, case)):
        (gradient,) = torch.autograd.grad(loss.sum(), case.output, retain_graph=True)
        assert gradient.device.type == "meta"
