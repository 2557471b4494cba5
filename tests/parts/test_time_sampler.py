"""The sampler of times: right ones conform, wrong ones fail by name and with their cause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.judging.check import Wrong
from gradcheck.parts import (
    judge_time_sampler,
    shifted,
)
from gradcheck.parts._statistics import FALSE_ALARM, beta_cdf, ks_bound, ks_distance
from gradcheck.parts.time_sampler import check_distribution, check_range, time_sampler_part
from gradcheck.reports.text import judgement_text
from parts.base import failed


def make_times(
    shift: float = 3.0, mean: float = 0.0, std: float = 1.0, dtype: torch.dtype = torch.float32
) -> Callable[[int, torch.Generator], Tensor]:
    def times(n: int, generator: torch.Generator) -> Tensor:
        sigma = torch.sigmoid(mean + std * torch.randn(n, generator=generator, dtype=dtype))
        return shift * sigma / (1 + (shift - 1) * sigma)

    return times


def by_quantiles(n: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    return 3 / (3 + torch.exp(-torch.special.ndtri(u)))


def uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator)


def test_right_samplers_conform() -> None:
    for seed in range(4):
        assert not failed(judge_time_sampler(make_times(), shift=3.0, seed=seed))
        assert not failed(judge_time_sampler(by_quantiles, shift=3.0, seed=seed))
        assert not failed(judge_time_sampler(uniform, distribution="uniform", seed=seed))
    assert not failed(judge_time_sampler(make_times(1.0, 0.5, 1.7), mean=0.5, std=1.7))
    assert not failed(judge_time_sampler(lambda n, g: shifted(uniform(n, g), 5.0), distribution="uniform", shift=5.0))


def test_indistinguishable_causes_are_all_told() -> None:
    """Around 0 a logit-normal is symmetric, so an inverted shift is the same as exchanged ends."""
    judgement = judge_time_sampler(make_times(1 / 3), shift=3.0)
    assert "noise and data are exchanged" in judgement_text(judgement)


def _beta(n: int, generator: torch.Generator) -> Tensor:
    """π0's: Beta(1.5, 1) is U^(1/1.5), from 0.001 to 1."""
    return 0.001 + 0.999 * uniform(n, generator) ** (1 / 1.5)


def _mode(n: int, generator: torch.Generator) -> Tensor:
    u = uniform(n, generator)
    return 1 - u - 1.29 * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)


def _cosmap(n: int, generator: torch.Generator) -> Tensor:
    return 1 - 1 / (torch.tan(torch.pi / 2 * uniform(n, generator)) + 1)


_TABLE = (0.95, 0.9, 0.7, 0.4)


def _table(n: int, generator: torch.Generator) -> Tensor:
    return torch.tensor(_TABLE)[torch.randint(4, (n,), generator=generator)]


def _often(n: int, generator: torch.Generator) -> Tensor:
    weights = torch.tensor([1.0, 1.0, 2.0, 4.0])
    return torch.tensor(_TABLE)[torch.multinomial(weights, n, replacement=True, generator=generator)]


def _ranged(n: int, generator: torch.Generator) -> Tensor:
    return 0.2 + 0.6 * shifted(uniform(n, generator), 3.0)


_DECLARED: dict[str, tuple[Callable[[int, torch.Generator], Tensor], dict[str, Any]]] = {
    "beta": (_beta, {"distribution": "beta", "low": 0.001}),
    "mode": (_mode, {"distribution": "mode"}),
    "cosmap": (_cosmap, {"distribution": "cosmap"}),
    "table": (_table, {"distribution": "table", "times": _TABLE}),
    "weights": (_often, {"distribution": "table", "times": _TABLE, "weights": (1, 1, 2, 4)}),
    "range": (_ranged, {"distribution": "uniform", "shift": 3.0, "low": 0.2, "high": 0.8}),
}


@pytest.mark.parametrize("name", _DECLARED)
def test_other_distributions_conform_where_they_are_declared(name: str) -> None:
    function, conventions = _DECLARED[name]
    for seed in range(3):
        assert not failed(judge_time_sampler(function, seed=seed, **conventions))
    for other, (wrong, _) in _DECLARED.items():
        if other != name:
            subject = time_sampler_part(wrong, **conventions).subject
            with pytest.raises(Wrong):
                assert not (check_range(subject), check_distribution(subject)), other


@pytest.mark.parametrize("exponents", [(1.5, 1.0), (2.0, 3.0), (0.5, 0.5), (30.0, 4.0)])
def test_the_beta_distribution_is_its_samples(exponents: tuple[float, float]) -> None:
    """Against torch's sampler, by way of gamma variables: the distance stays below the bound that judges use."""
    torch.manual_seed(0)
    sample = torch.distributions.Beta(*(torch.tensor(x, dtype=torch.float64) for x in exponents)).sample((1 << 16,))
    assert ks_distance(beta_cdf(sample, *exponents)) < 0.4 * ks_bound(1 << 16, FALSE_ALARM)


@pytest.mark.parametrize(
    ("conventions", "argument"),
    [
        ({"distribution": "normal"}, "distribution"),
        ({"distribution": "table"}, "times"),
        ({"distribution": "table", "times": (0.1, 2.0)}, "times"),
        ({"distribution": "table", "times": (0.1, 0.2), "weights": (1,)}, "weights"),
        ({"distribution": "table", "times": (0.1, 0.2), "shift": 3.0}, "shift"),
        ({"times": (0.1,)}, "times"),
        ({"low": 0.9, "high": 0.1}, "low"),
        ({"distribution": "mode", "scale": 2.0}, "scale"),
    ],
)
def test_times_that_cannot_be_are_refused(conventions: dict[str, Any], argument: str) -> None:
    with pytest.raises(InputError) as raised:
        judge_time_sampler(uniform, **conventions)
    assert [name for name, _, _ in raised.value.problems] == [argument]
