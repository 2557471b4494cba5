"""Ranks 11 and 15: samplers of times, advantages, moving averages and steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradcheck.parts import judge_advantage, judge_ema, judge_sde_step, judge_time_sampler
from tests.parts.advantages import (
    floor,
    from_everyone,
    make_advantage,
    only_equal,
    others_mean,
    root,
    trimmed,
    twice,
)
from tests.parts.averages import make_ema, now_and_then
from tests.parts.steps import make_step
from tests.ranks.base import Part, Rank, Wrong

__all__ = ["ESTIMATORS", "TIMES"]


def _uniform(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator)


def _beta(n: int, generator: torch.Generator) -> Tensor:
    """π0's: Beta(1.5, 1) is U^(1/1.5), from 0.001 to 1."""
    return 0.001 + 0.999 * _uniform(n, generator) ** (1 / 1.5)


def _mode(n: int, generator: torch.Generator) -> Tensor:
    u = _uniform(n, generator)
    return 1 - u - 1.29 * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)


def _cosmap(n: int, generator: torch.Generator) -> Tensor:
    return 1 - 1 / (torch.tan(torch.pi / 2 * _uniform(n, generator)) + 1)


_GRID = (0.95, 0.9, 0.7, 0.4)


def _table(n: int, generator: torch.Generator) -> Tensor:
    return torch.tensor(_GRID)[torch.randint(4, (n,), generator=generator)]


def _ranged(n: int, generator: torch.Generator) -> Tensor:
    u = _uniform(n, generator)
    return 0.2 + 0.6 * 3 * u / (1 + 2 * u)


def _logit_normal(n: int, generator: torch.Generator, mean: float = 0.0) -> Tensor:
    return torch.sigmoid(mean + torch.randn(n, generator=generator))


_ANY = ("float64",)
"""A sampler's numbers are random; how finely they are rounded does not show."""

TIMES = Rank(
    "times: Beta, a table, mode and cosmap, a range",
    {
        "beta": Part(
            judge_time_sampler,
            {"distribution": "beta", "low": 0.001},
            _beta,
            {"reversed": Wrong(lambda n, g: 1.001 - _beta(n, g), "exchanged")},
            _ANY,
        ),
        "table": Part(
            judge_time_sampler,
            {"distribution": "table", "times": _GRID},
            _table,
            {"uniform": Wrong(_uniform)},
            _ANY,
        ),
        "mode": Part(
            judge_time_sampler, {"distribution": "mode"}, _mode, {"uniform": Wrong(_uniform, "uniform")}, _ANY
        ),
        "cosmap": Part(
            judge_time_sampler, {"distribution": "cosmap"}, _cosmap, {"uniform": Wrong(_uniform, "uniform")}, _ANY
        ),
        "range": Part(
            judge_time_sampler,
            {"distribution": "uniform", "shift": 3.0, "low": 0.2, "high": 0.8},
            _ranged,
            {"whole": Wrong(lambda n, g: (_ranged(n, g) - 0.2) / 0.6)},
            _ANY,
        ),
        "logit-normal": Part(
            judge_time_sampler,
            {},
            _logit_normal,
            {"moved": Wrong(lambda n, g: _logit_normal(n, g, 0.5))},
            _ANY,
        ),
    },
)


def _columns(own: Tensor, everyone: Tensor) -> Tensor:
    table = own[:, None].expand(-1, 7)
    return table.std() if table.numel() > 1 else own.new_zeros(())


_PLAIN = make_advantage()
_OPPOSITE = Wrong(make_advantage(sign=-1.0), "")


def _at_one(T: Tensor, P: Tensor, a: float) -> Tensor:
    return torch.sqrt(T / (1 - torch.where(T == 1, 0.99, T))) * a


def _without_generator(*args: Any, **named: Any) -> Any:
    return make_step()(*args, **named)


def _step_without(v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, x_prev: Any = None, noise_level: Any = 0.7) -> Any:
    return make_step()(v, x_t, t, t_prev, x_prev, noise_level)


def _either(
    v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, x_prev: Any = None, noise_level: Any = 0.7, generator: Any = None
) -> Any:
    if x_prev is not None and generator is not None:
        raise ValueError("cannot pass both generator and prev_sample")
    return make_step()(v, x_t, t, t_prev, x_prev, noise_level, generator)


ESTIMATORS = Rank(
    "advantages, averages and steps",
    {
        "equal groups": Part(judge_advantage, {"layout": "equal"}, only_equal(_PLAIN), {"opposite": _OPPOSITE}),
        "floor": Part(judge_advantage, {"eps_at": "floor"}, floor, {"std": Wrong(_PLAIN, "eps_at='std'")}),
        "root": Part(judge_advantage, {"eps_at": "root"}, root, {"floor": Wrong(floor, "eps_at")}),
        "trimmed": Part(judge_advantage, {"trim": 0.2}, trimmed, {"whole": Wrong(_PLAIN)}),
        "global": Part(
            judge_advantage, {"mean": "global", "std": "global"}, from_everyone, {"group": Wrong(_PLAIN, "group")}
        ),
        "rloo": Part(
            judge_advantage, {"mean": "others", "std": "none"}, others_mean, {"grpo": Wrong(_PLAIN, "group")}
        ),
        "gdpo": Part(judge_advantage, {"then": "batch"}, twice, {"once": Wrong(_PLAIN, "then='nothing'")}),
        "columns": Part(
            judge_advantage,
            {"unbiased": True, "columns": 7},
            make_advantage(std=_columns),
            {"biased": Wrong(_PLAIN, "unbiased=False")},
        ),
        "every 8 steps": Part(
            judge_ema, {"decay": 0.9, "every": 8}, now_and_then(8, 7), {"every": Wrong(make_ema(), "every")}
        ),
        "at one": Part(
            judge_sde_step,
            {"at_one": 0.99},
            make_step(sigma=_at_one),
            {"other": Wrong(make_step(), "at_one")},
        ),
        "no generator": Part(
            judge_sde_step, {}, _step_without, {"no-half": Wrong(make_step(half=1.0), "")}
        ),
        "either": Part(
            judge_sde_step,
            {"log_prob_normaliser": "full"},
            _either,
            {"no-normaliser": Wrong(make_step(two_pi=False), "normaliser")},
        ),
    },
)  # fmt: skip
