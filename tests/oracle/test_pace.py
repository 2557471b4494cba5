"""A busy machine is not taken for slow code, which is not called on large problems."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.pace import Pace
from gradcheck.problems.building import Spec

LARGE = Spec(1, (40_000,), 0)


def judging(waits: list[float]) -> Judge:
    """Of a loss whose calls take so many seconds, one after the other, and the last of them from then on."""
    left = list(waits)

    def loss(case: Case) -> Tensor:
        time.sleep(left.pop(0) if len(left) > 1 else left[0])
        return (case.advantage * (case.v_theta - case.v_gt).square().flatten(1).mean(1)).mean()

    return Judge(Adapter(loss, "loss"), declare("awm"), dtype=torch.float64)


@pytest.mark.parametrize("busy", [1, 3])
def test_quick_code_on_a_busy_machine_is_tried_on_large_problems(busy: int) -> None:
    """Whose calls are held up for a while, at the larger of the sizes on which its pace is measured."""
    assert Pace(judging([0.0, 0.0, *[0.05] * busy, 0.0])).expected(LARGE) < 1
