"""What could not have been refused is not said to be right, by whichever door it is asked."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import gradcheck
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.conventions import declare
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.judge import Judge, Look, compare_over
from gradcheck.oracle.problem import oracle_case
from gradcheck.parts._calls import compared
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import compare, gradient_of

_HALF = (None, torch.float32, torch.bfloat16, torch.float16)


def _problem(e: Entry) -> tuple[Case, Tensor]:
    case = build(e.derivation, Spec(3, (4, 5), 2, policy="off", time="middle", advantage="typical"))
    return case, gradient_of(e.loss(case), case.output).detach()


@pytest.mark.parametrize("e", CATALOGUE, ids=lambda e: e.label)
def test_a_gradient_holds_only_where_none_at_all_would_not(e: Entry) -> None:
    """In every precision: no gradient, or the opposite one, is never said to hold where another one is required."""
    case, right = _problem(e)
    assert bool(right.any())
    given = {name: getattr(case, name) for name in e.derivation.given}
    case = gradcheck.make_case(e.algorithm.name, e.variant, **given)
    for dtype in _HALF:
        judge = lambda g, dtype=dtype: gradcheck.compare_gradient(  # noqa: E731
            e.algorithm.name, case, g, e.variant, working_dtype=dtype
        )
        own, none = judge(right), judge(0 * right)
        assert not none.holds, dtype
        assert own.holds or own.reason, (dtype, own)
        assert bool(own.reason) == (not own.resolution < 1)


def test_a_gradient_that_must_be_zero_is_judged() -> None:
    """No factor shows in it, and any other gradient is refused."""
    e = entry("awm")
    case, _ = _problem(e)
    case = gradcheck.make_case(
        "awm", **{n: getattr(case, n) for n in e.derivation.given} | {"advantage": 0 * case.advantage}
    )
    found = gradcheck.compare_gradient("awm", case, torch.zeros_like(case.v_theta))
    assert found.holds
    assert found.resolution == math.inf
    assert not gradcheck.compare_gradient("awm", case, torch.ones_like(case.v_theta)).holds


def test_what_is_not_a_number_is_seen_to_be_none() -> None:
    """Bounds or requirements of NaN or infinity leave nothing to judge, of zeros either."""
    zero, one = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    for required, scale in (
        (one, one * math.nan),
        (one, one * math.inf),
        (one * math.nan, one),
        (zero, one * math.inf),
        (one, 1e9 * one),
    ):
        found = compare(0 * one, required, scale, torch.float32)
        assert found.lost, (required, scale)
    assert not compare(zero, zero, one, torch.float32).lost
    assert not compare(one, one, one, torch.float32).lost


@pytest.mark.parametrize("lost", [True, False])
def test_an_obligation_and_a_part_of_which_nothing_is_seen_are_not_passed(lost: bool) -> None:
    one = torch.ones(2, 3, dtype=torch.float64)
    found = compare(one, one, one * (math.inf if lost else 1.0), torch.float32)
    conventions = declare("awm")
    judge = Judge(Adapter(lambda case: case.v_theta.sum(), "loss", "mean", 60.0), conventions, max_examples=2)
    outcome = compare_over(judge, judge.specs(), lambda case: Look(found, torch.float32, None))
    assert outcome.status == ("skipped" if lost else "passed")
    assert compared([found, found]).status == outcome.status
    mixed = [found, replace(found, lost=False)]
    assert compared(mixed).status == "passed"


def test_a_training_step_that_is_lost_is_unjudged(tmp_path: Any) -> None:
    """The whole of an RLHF-sized log-probability in bfloat16: the watch says that it saw nothing."""
    conventions = declare("flow_grpo", working_dtype="bfloat16")
    case = oracle_case(conventions, Spec(3, (64, 8), 1, policy="off", time="middle"), torch.float32, "cpu")
    v = case.v_theta.detach().requires_grad_()
    watch = gradcheck.watch("flow_grpo", working_dtype="bfloat16", log=tmp_path / "log.jsonl")
    names = ("v_old", "x_t", "x_prev", "t", "t_prev", "advantage", "noise_level", "clip_low", "clip_high")
    watch(v_theta=v, **{name: getattr(case, name) for name in names})
    (0 * v).sum().backward()  # type: ignore[no-untyped-call]
    (line,) = watch.report.lines
    assert line.verdict == "unjudged", line
