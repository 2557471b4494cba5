"""Declarations, and functions that cannot be judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from gradcheck.errors import InputError
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.results import Judgement
from gradcheck.parts import (
    judge_advantage,
    judge_ema,
    judge_reward_map,
    judge_sde_step,
    judge_time_sampler,
)
from gradcheck.parts._statistics import chi_square_interval, ks_bound, mean_bound, poisson_limit
from parts.advantages import reshaped, scattered
from parts.averages import lerp, store
from parts.steps import cps
from parts.test_reward_map import reward_map
from parts.test_time_sampler import uniform


@pytest.mark.parametrize(
    "judge",
    [
        lambda: judge_sde_step(cps, sde="ddim"),
        lambda: judge_sde_step(cps, sde="cps", returns_std="sigma"),
        lambda: judge_sde_step(cps, colour="red"),
        lambda: judge_sde_step(cps, expected_failures={"colour": "red"}),
        lambda: judge_advantage(scattered, std="row", eps=-1.0),
        lambda: judge_ema(lerp, decay="slow"),
        lambda: judge_ema(lerp, decay=1.5),
        lambda: judge_ema(lerp, store=store),
        lambda: judge_reward_map(reward_map, clip=0.0),
        lambda: judge_time_sampler(uniform, shift=0.0, distribution="beta"),
    ],
)
def test_declarations_are_checked(judge: Callable[[], Judgement]) -> None:
    with pytest.raises(InputError, match="wanted"):
        judge()


def test_functions_that_raise_cannot_be_judged() -> None:
    def raises(*args: Any, **named: Any) -> Any:
        raise KeyError("sigma")

    for judge in (judge_sde_step, judge_advantage, judge_ema, judge_reward_map, judge_time_sampler):
        with pytest.raises(AdapterError, match="raised KeyError"):
            judge(raises)


def test_failures_may_be_expected() -> None:
    expected = dict.fromkeys(("permutation", "group-sizes"), "groups are always contiguous")
    judgement = judge_advantage(reshaped, expected_failures=expected)
    assert {r.id for r in judgement.results if r.status == "expected-failure"} == set(expected)


def test_the_bounds_of_the_statistical_tests() -> None:
    """Beside what is known: z = 6.109 at 1e-9, and a chi-square's normal limit; each bound is the wider one."""
    assert mean_bound(10_000, 1e-9) == pytest.approx(0.06109, rel=1e-3)
    low, high = chi_square_interval(100_000, 1e-9)
    normal = 6.109 * math.sqrt(200_000)
    assert normal < 100_000 - low < 1.1 * normal
    assert normal < high - 100_000 < 1.1 * normal
    assert ks_bound(65_536, 1e-9) == pytest.approx(math.sqrt(math.log(2e9) / 131_072))
    assert poisson_limit(1e-3, 1e-9) == 3
