"""The right code of ``benchmarks.alarms`` is right, for every variant, preset and official clip range."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import alarms
from gradcheck.problems.building import Spec

SUBJECTS = list(alarms.subjects(0, ["float64"]))
OTHERS = [dtype for dtype in (*alarms.DTYPES, *alarms.OUTPUTS) if dtype != "float64"]


@pytest.mark.parametrize("subject", SUBJECTS, ids=str)
def test_right_code_is_not_refused(subject: alarms.Subject) -> None:
    spec = alarms.fitting(Spec(24, (2, 3), 0, policy="mixed", time="mixed", advantage="mixed"), subject.conventions)
    tally, told = alarms.batch(subject, spec, 3)
    assert tally.checks == 72
    assert told == []


@pytest.mark.parametrize("dtype", OTHERS)
def test_right_code_in_other_precisions_is_not_refused(dtype: str) -> None:
    every = list(alarms.subjects(1, [dtype]))
    for place, subject in enumerate(every[:: len(every) // 5]):
        spec = Spec(16, (3, 2), place, policy="mixed", time="mixed", advantage="mixed")
        assert alarms.batch(subject, alarms.fitting(spec, subject.conventions), 2)[1] == []


def test_wrong_code_is_refused_there() -> None:
    """The same machinery sees a gradient that is off by 1 %."""
    subject = SUBJECTS[0]
    case = alarms.oracle_case(subject.conventions, Spec(8, (2, 3), 0, policy="start"), torch.float64, "cpu")
    wanted, _ = alarms.wanted_of(subject.conventions, case)
    ratios, _ = alarms.worst_of_each(wanted, 1.01 * wanted.gradient.to(torch.float64))
    assert (ratios > alarms.THRESHOLD).any()


def test_a_part_beyond_float16_leaves_nothing_to_judge_there() -> None:
    """A sum within the range, of parts that each are rounded to it, one of which is not: right code gives infinity."""
    every = alarms.subjects(0, ["float16 output"])
    subject = next(s for s in every if s.conventions.algorithm == "rwr" and "reference='on'" in str(s))
    spec = Spec(96, (2, 3, 4, 2), 1000338, policy="off", advantage="extreme", time="middle", clip=2)
    assert alarms.batch(subject, spec, 8)[1] == []


def test_each_rounding_below_the_normal_numbers_may_lose_half_the_smallest() -> None:
    """In float16 without a loss scale, of a loss that reads the output in two places."""
    every = alarms.subjects(0, ["float16 output"])
    subject = next(s for s in every if s.conventions.algorithm == "rwr" and "reference='on'" in str(s))
    tiny = replace(subject, conventions=replace(subject.conventions, factor=1e-6))
    for seed in range(4):
        assert alarms.batch(tiny, Spec(96, (2, 3), seed, policy="off", advantage="typical"), 8)[1] == []
