"""Losses that declare the same are judged on the same problems, which are made once, and as if each were alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.conventions import Conventions, declare
from gradcheck.judging.results import Judgement
from gradcheck.oracle import drawn
from gradcheck.oracle.runner import Settings, Subject, judge
from gradcheck.problems.building import Spec

LOSS = entry("grpo_guard", "mean").loss
DECLARED = {"log_prob_reduction": "mean", "batch_reduction": "sum"}
FEW = Settings(max_examples=2)
ONLY = ("gradient", "equivalence", "permutation", "micro-batching")


def right(case: Case) -> Tensor:
    return LOSS(case).sum()


def spoiling(case: Case) -> Tensor:
    """Right, but it overwrites all that it was handed, once it has copies."""
    tensors = {name: x for name in case.names if isinstance(x := getattr(case, name), Tensor)}
    loss = right(case.replace(**{name: x.clone() for name, x in tensors.items()}))
    for x in tensors.values():
        x.data.zero_()
    return loss


def judged(function: object, conventions: Conventions) -> Judgement:
    found = judge(Subject(function, "loss", conventions), FEW, ONLY)  # type: ignore[arg-type]
    return replace(found, seconds=0, results=tuple(replace(r, seconds=0) for r in found.results))


def alone(function: object, conventions: Conventions) -> Judgement:
    drawn._drawn.cache_clear()
    return judged(function, conventions)


def test_problems_are_drawn_once_for_all_losses_of_a_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    judged(right, declare("grpo_guard", **DECLARED))

    def refused(*given: object) -> Case:
        raise AssertionError(f"drawn again: {given}")

    monkeypatch.setattr(drawn, "oracle_case", refused)
    assert judged(right, declare("grpo_guard", **DECLARED)).holds


def test_a_judgement_is_the_same_whatever_was_judged_before() -> None:
    """Code that overwrites its inputs, or another declaration."""
    conventions = declare("grpo_guard", **DECLARED)
    wanted = alone(right, conventions)
    assert wanted.holds
    alone(spoiling, conventions)
    assert judged(right, conventions) == wanted
    alone(right, declare("grpo_guard", clip_range=0.1, **DECLARED))
    assert judged(right, conventions) == wanted


def test_declarations_that_differ_share_no_problem() -> None:
    """Not even those whose numbers compare equal: ``guidance=True`` reads the scale from the case, 1 is the scale."""
    spec = Spec(2, (3,), 0)
    cases = [
        drawn.drawn(declare("awm", **given), spec, torch.float64, "cpu")  # type: ignore[arg-type]
        for given in ({}, {"guidance": True}, {"guidance": 1.0}, {"adv_clip_max": 5.0})
    ]
    assert len({id(case) for case in cases}) == 4


def test_what_was_made_of_a_problem_is_not_taken_for_another() -> None:
    conventions = declare("awm")
    case = drawn.drawn(conventions, Spec(2, (3,), 0), torch.float64, "cpu")

    def total(conventions: Conventions, case: Case) -> float:
        return float(case.output.detach().sum()) * conventions.factor

    found = drawn.made(total, conventions, case)
    assert drawn.made(total, conventions, case) is found
    assert drawn.made(total, replace(conventions, factor=3.0), case) == 3 * found
    moved = case.replace(v_theta=torch.zeros_like(case.output))
    assert drawn.made(total, conventions, moved) == 0


def test_large_problems_are_not_kept() -> None:
    spec = Spec(1, (2**16 + 1,), 0)
    first, second = (drawn.drawn(declare("awm"), spec, torch.float32, "cpu") for _ in range(2))
    assert first is not second
