"""What public advantage estimators do besides the plain one: declared, each conforms; undeclared, it is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.parts import judge_advantage
from parts.advantages import floor, from_everyone, make_advantage, only_equal, others_mean, root, trimmed, twice
from parts.base import declared, failed

_Estimator = Callable[[Tensor, Tensor], Tensor]


def _repeated(columns: int) -> _Estimator:
    """The unbiased standard deviation of a table that holds each reward once a time step."""

    def std(own: Tensor, everyone: Tensor) -> Tensor:
        table = own[:, None].expand(-1, columns)
        return table.std() if table.numel() > 1 else own.new_zeros(())

    return make_advantage(std=std)


def _as_table(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """By a sort and a reshape, which needs groups of one size."""
    order = group_ids.argsort(stable=True)
    table = rewards[order].reshape(len(group_ids.unique()), -1)
    out = (table - table.mean(1, keepdim=True)) / (table.std(1, correction=0, keepdim=True) + 1e-4)
    return torch.empty_like(rewards).index_copy(0, order, out.flatten())


_RIGHT: dict[str, tuple[_Estimator, dict[str, Any]]] = {
    "others": (others_mean, {"mean": "others", "std": "none"}),
    "global-mean": (from_everyone, {"mean": "global", "std": "global"}),
    "floor": (floor, {"eps_at": "floor"}),
    "root": (root, {"eps_at": "root"}),
    "trimmed": (trimmed, {"trim": 0.2}),
    "twice": (twice, {"then": "batch"}),
    "columns": (_repeated(7), {"unbiased": True, "columns": 7}),
    "equal": (_as_table, {"layout": "equal"}),
    "equal-refused-otherwise": (only_equal(make_advantage()), {"layout": "equal"}),
}


@pytest.mark.parametrize("name", _RIGHT)
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_a_declared_estimator_conforms(name: str, precision: str) -> None:
    function, conventions = _RIGHT[name]
    for seed in range(2):
        assert failed(judge_advantage(function, seed=seed, working_dtype=precision, **conventions)) == {}


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("others", "mean='others', std='none'"),
        ("global-mean", "mean='global', std='global'"),
        ("floor", "eps_at='floor'"),
        ("root", "eps_at='root'"),
        ("trimmed", "trim=0.2"),
        ("twice", "then='batch'"),
        ("equal-refused-otherwise", "layout='equal'"),
    ],
)
def test_an_undeclared_one_is_told_what_to_declare(name: str, keyword: str) -> None:
    assert keyword in declared(judge_advantage(_RIGHT[name][0]))


@pytest.mark.parametrize("name", sorted(set(_RIGHT) - {"equal", "equal-refused-otherwise"}))
def test_the_plain_estimator_is_not_what_they_declare(name: str) -> None:
    _, conventions = _RIGHT[name]
    assert "values" in failed(judge_advantage(make_advantage(), **conventions))


def test_a_state_between_calls_is_seen() -> None:
    seen: list[Tensor] = []

    def running(rewards: Tensor, group_ids: Tensor) -> Tensor:
        """The mean of all batches so far."""
        seen.append(rewards.mean())
        return make_advantage(centre=lambda own, everyone: torch.stack(seen).mean())(rewards, group_ids)

    found = failed(judge_advantage(running))
    assert found["determinism"] == "changes"
    assert found["values"] == "hidden-state", "no convention is blamed for what another call gives otherwise"


def test_what_is_standardised_twice_says_what_equal_rewards_become() -> None:
    """Rounding noise that a group's ε keeps small is brought to size 1 over the batch, where all rewards are equal."""
    judgement = judge_advantage(twice, then="batch", working_dtype="float32")
    (result,) = (r for r in judgement.results if r.id == "equal-rewards")
    assert "standardised once more" in result.outcome.note


@pytest.mark.parametrize(
    ("conventions", "argument"),
    [
        ({"mean": "median"}, "mean"),
        ({"eps_at": "end"}, "eps_at"),
        ({"trim": 0.5}, "trim"),
        ({"columns": 2.0}, "columns"),
        ({"then": "again"}, "then"),
        ({"layout": "sorted"}, "layout"),
        ({"eps": math.nan}, "eps"),
    ],
)
def test_a_convention_that_cannot_be_is_refused(conventions: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError) as raised:
        judge_advantage(make_advantage(), **conventions)
    assert [name for name, _, _ in raised.value.problems] == [argument]
