"""One wrong function, at least, for each cause that the judges of the parts can name, and what they must say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gradcheck.judging.results import Judgement
from gradcheck.parts import (
    judge_advantage,
    judge_ema,
    judge_reward_map,
    judge_sde_step,
    judge_time_sampler,
    shifted,
)
from parts.advantages import (
    make_advantage,
    only_equal,
    others_mean,
    reshaped,
    tiny_eps,
    trimmed,
    twice,
    unbiased_std,
    writes,
    wrong_axis,
)
from parts.averages import counting, exchange, make_ema, now_and_then, restore, store_alias, warmup
from parts.steps import (
    column,
    constant_sigma,
    cps,
    in_place,
    make_cps,
    make_step,
    no_graph,
    over_root,
    own_noise,
    shared_noise,
    uniform_noise,
    without_normaliser,
)
from parts.test_reward_map import reward_map
from parts.test_time_sampler import make_times, uniform

__all__ = ["JUDGES", "MUTANTS", "Mutant"]

JUDGES: dict[str, Callable[..., Judgement]] = {
    "sde_step": judge_sde_step,
    "advantage": judge_advantage,
    "ema": judge_ema,
    "reward_map": judge_reward_map,
    "time_sampler": judge_time_sampler,
}


@dataclass(frozen=True)
class Mutant:
    """A wrong function.

    Attributes:
        part: a name of :data:`JUDGES`.
        function: the wrong one.
        causes: obligations that must fail, and the cause that must be named first.
        declared: conventions.
    """

    part: str
    function: Callable[..., Any]
    causes: Mapping[str, str]
    declared: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.part, *dict.fromkeys(self.causes.values())])


_HALF_LOG_TWO_PI = math.log(2 * math.pi) / 2


def _dense(constant: Callable[[Tensor, Tensor], Tensor], square: float = 1.0) -> Callable[..., Any]:
    """A step whose log-density is −square·(x − μ)²/(2S²) − constant, per coordinate."""
    return make_step(density=lambda r, S, h: -square * r / (2 * S**2) - constant(r, S))


def _full(r: Tensor, S: Tensor) -> Tensor:
    return torch.log(S) + _HALF_LOG_TWO_PI


def _not_reduced(r: Tensor, S: Tensor) -> Tensor:
    return r[0].numel() * _full(r, S)


def _cps_of_exchanged_times(*args: Any, **named: Any) -> Any:
    return cps(*args[:2], args[3], args[2], *args[4:], **named)


def _cps_without_a_sine(*args: Any, noise_level: float = 0.7, **named: Any) -> Any:
    return cps(*args, noise_level=math.asin(noise_level) * 2 / math.pi, **named)


def _next_at_one(T: Tensor, P: Tensor, a: float) -> Tensor:
    t = torch.where(T == 1, P, T)
    return a * (t / (1 - t)).sqrt()


def _other_mean(mean: Callable[..., Tensor]) -> Callable[..., Any]:
    """A step with a mean of v, x_t, t, Δt and σ_t; the rest follows it."""

    def step(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
        T, P = column(t, v), column(t_prev, v)
        sigma = _next_in_denominator(T, P, noise_level)
        S, mu = sigma * (T - P).sqrt(), mean(v, x_t, T, T - P, sigma)
        if x_prev is None:
            x_prev = (mu + S * torch.randn(v.shape, generator=generator, dtype=v.dtype)).detach()
        log_prob = -((x_prev - mu) ** 2) / (2 * S**2) - _full(x_prev, S)
        return x_prev, log_prob.flatten(1).mean(1), mu, S

    return step


def _next_in_denominator(T: Tensor, P: Tensor, a: float) -> Tensor:
    return a * (T / (1 - torch.where(T == 1, P, T))).sqrt()


def _level_of_its_own(*args: Any, noise_level: float = 0.7, **named: Any) -> Any:
    return make_step()(*args, noise_level=noise_level, **named)


def _image_only(v: Tensor, x_t: Tensor, t: Tensor, *rest: Any, **named: Any) -> Any:
    x_prev, log_prob, mean, std = make_step()(v, x_t, t, *rest, **named)
    return x_prev, log_prob.mean(), mean, std


_CPS = {"sde": "cps", "log_prob_scale": "unit"}


def _score(of: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """Another score in the drift: a function of v, x, t and t'; σ_t² multiplies it."""
    return _other_mean(lambda v, x, t, h, s: x - (v + s**2 * of(v, x, t, t - h)) * h)


_STEPS: tuple[tuple[Callable[..., Any], str, str, dict[str, Any]], ...] = (
    (make_step(score=0.0), "mean", "score-correction-missing", {}),
    (make_step(score=-1.0), "slope", "score-sign", {}),
    (make_step(score=2.0), "mean", "score-half", {}),
    (make_step(dt_sign=-1.0), "mean", "dt-sign", {}),
    (make_step(sigma=constant_sigma), "std", "convention:sde", {}),
    (make_step(returned=lambda S, h: S**2), "std", "returned-variance", {}),
    (make_step(returned=lambda S, h: S / h.sqrt()), "std", "convention:returns_std", {}),
    (make_step(std_power=1.0), "std", "std-dt-twice", {}),
    (make_step(std_power=0.0), "sampling", "std-without-dt", {}),
    (make_step(spread=lambda S: S**2), "sampling", "std-squared", {}),
    (make_step(half=1.0), "log-prob", "half-missing", {}),
    (_other_mean(lambda v, x, t, h, s: x - (v + s**2 / (2 * t) * (1 - t) * v) * h), "mean", "score-x-missing", {}),
    (_other_mean(lambda v, x, t, h, s: x - (v + s**2 / (2 * t) * x) * h), "mean", "score-v-missing", {}),
    (_other_mean(lambda v, x, t, h, s: x - (v + s / (2 * t) * (x + (1 - t) * v)) * h), "mean", "sigma-not-squared", {}),
    (_score(lambda v, x, t, p: (x - t * v) / (2 * t)), "mean", "score-data-for-noise", {}),
    (_score(lambda v, x, t, p: (x + t * v) / (2 * t)), "mean", "score-time-reversed", {}),
    (_score(lambda v, x, t, p: (x + (1 - p) * v) / (2 * t)), "mean", "score-time-of-next", {}),
    (_score(lambda v, x, t, p: (x + (1 - t) * v) / (2 * t**2)), "mean", "score-over-time-twice", {}),
    (_score(lambda v, x, t, p: (x + (1 - t) * v) / 2), "mean", "score-not-over-time", {}),
    (_score(lambda v, x, t, p: (x + (1 - t) * v) / (2 * (1 - t))), "mean", "score-over-time-reversed", {}),
    (_score(lambda v, x, t, p: (x + (1 - t) * v) / (2 * p)), "mean", "score-over-next-time", {}),
    (make_step(sigma=lambda T, P, a: a * (P / (1 - P)).sqrt()), "std", "sigma-of-next-time", {}),
    (make_step(draw=lambda v, g: 2**0.5 * torch.randn(v.shape, generator=g).to(v)), "sampling", "noise-scaled", {}),
    (
        make_step(density=lambda r, S, h: -r / (2 * S**4) - _full(r, S)),
        "log-prob",
        "distance-over-variance-squared",
        {},
    ),
    (
        make_step(density=lambda r, S, h: (-r / (2 * S**2) - _full(r, S)) / math.log(10)),
        "log-prob",
        "log-prob-base-ten",
        {},
    ),
    (over_root, "log-prob", "log-prob-over-root", {}),
    (make_step(sigma=lambda T, P, a: a * T / (1 - torch.where(T == 1, P, T))), "std", "sigma-without-root", {}),
    (make_step(sigma=lambda T, P, a: a * ((1 - T) / T).sqrt()), "std", "sigma-inverted", {}),
    (make_step(sigma=lambda T, P, a: a * T.sqrt()), "std", "sigma-without-denominator", {}),
    (lambda *args, **named: make_step()(*args, **{**named, "noise_level": 0.65}), "std", "convention:noise_level", {}),
    (make_step(density=lambda r, S, h: -r / (2 * S) - _full(r, S)), "log-prob", "distance-over-std", {}),
    (_dense(lambda r, S: S.log() + 2 * _HALF_LOG_TWO_PI), "log-prob", "two-pi-whole", {}),
    (_dense(lambda r, S: S.log() + math.log(math.pi) / 2), "log-prob", "pi-alone", {}),
    (make_step(two_pi=False), "log-prob", "two-pi-missing", {}),
    (
        _dense(lambda r, S: S.log() + torch.log(torch.sqrt(2 * torch.as_tensor(math.pi, dtype=torch.float32)))),
        "log-prob",
        "two-pi-float32",
        {},
    ),
    (_dense(lambda r, S: 0 * S + _HALF_LOG_TWO_PI), "log-prob", "log-std-missing", {}),
    (_dense(lambda r, S: -_full(r, S)), "log-prob", "normaliser-sign", {}),
    (_dense(_not_reduced), "log-prob", "normaliser-not-reduced", {}),
    (_dense(_full, square=-1.0), "log-ratio", "square-sign", {}),
    (_dense(lambda r, S: -_full(r, S), square=-1.0), "log-prob", "log-prob-sign", {}),
    (
        make_step(density=lambda r, S, h: -r / (2 * S**2 / h) - torch.log(S / h.sqrt()) - _HALF_LOG_TWO_PI),
        "log-ratio",
        "log-prob-without-dt",
        {},
    ),
    (make_step(reduce="sum"), "log-ratio", "convention:log_prob_reduction", {}),
    (cps, "log-prob", "convention:log_prob_scale", {"sde": "cps"}),
    (without_normaliser, "log-prob", "convention:log_prob_normaliser", {}),
    (make_step(finish=lambda x: x.to(torch.bfloat16).to(x.dtype)), "replay", "stored-rounded", {}),
    (make_step(replayed=False), "replay", "resampled", {}),
    (make_step(mean_of=lambda m: m.detach()), "slope", "detached", {}),
    (no_graph, "log-prob-gradient", "detached", {}),
    (make_step(draw=own_noise), "generator", "generator-ignored", {}),
    (make_step(draw=shared_noise), "sampling", "noise-shared", {}),
    (make_step(draw=uniform_noise), "sampling", "noise-not-normal", {}),
    (make_step(draw=lambda v, g: torch.zeros_like(v)), "sampling", "no-noise", {}),
    (make_step(time_of=lambda t: t[:1].expand_as(t)), "mean", "times-shared", {}),
    (_cps_of_exchanged_times, "std", "times-exchanged", _CPS),
    (make_step(sigma=lambda T, P, a: a * (T / (1 - T)).sqrt()), "time-grid", "pole", {}),
    (make_step(sigma=_next_at_one), "time-grid", "convention:at_one", {}),
    (make_step(cast=torch.float32), "mean", "convention:working_dtype", {}),
    (make_cps(kept=lambda T, P, S: P), "mean", "noise-budget", _CPS),
    (make_cps(kept=lambda T, P, S: P - S), "mean", "noise-budget", _CPS),
    (make_cps(kept=lambda T, P, S: (T**2 - S**2).sqrt()), "mean", "noise-budget", _CPS),
    (make_cps(signal=lambda T, P: 1 - T), "mean", "signal-before-the-step", _CPS),
    (make_cps(std=lambda T, P: T), "std", "std-time-before", _CPS),
    (_cps_without_a_sine, "std", "noise-level-angle", _CPS),
    (_dense(lambda r, S: (S**2).log() + _HALF_LOG_TWO_PI), "log-prob", "log-std-twice", {}),
    (in_place, "mean", "in-place", {}),
    (_image_only, "mean", "layout", {}),
)

_ADVANTAGES: tuple[tuple[Callable[..., Any], dict[str, str], dict[str, Any]], ...] = (
    (make_advantage(divide=lambda s: s**2 + 1e-4), {"values": "variance", "scale": "variance"}, {}),
    (
        make_advantage(centre=lambda own, everyone: everyone.mean()),
        {"values": "mean-global", "zero-mean": "mean-global"},
        {},
    ),
    (make_advantage(centre=lambda o, e: o.new_zeros(())), {"shift": "mean-missing"}, {}),
    (make_advantage(std=lambda own, everyone: everyone.std(correction=0)), {"values": "convention:std"}, {}),
    (wrong_axis, {"values": "wrong-axis"}, {"layout": "contiguous"}),
    (make_advantage(std=unbiased_std), {"values": "convention:unbiased"}, {}),
    (
        make_advantage(std=lambda o, e: (o.var(correction=0) + 1e-4).sqrt(), divide=lambda s: s),
        {"values": "eps-in-root"},
        {},
    ),
    (make_advantage(divide=lambda s: s.clamp(min=1e-4)), {"values": "eps-floor"}, {}),
    (tiny_eps, {"values": "convention:eps", "equal-rewards": "convention:eps"}, {}),
    (
        make_advantage(divide=lambda s: torch.where(s < 1e-5, s + 1e-8, s + 1e-4)),
        {"equal-rewards": "eps-below-rounding"},
        {},
    ),
    (make_advantage(divide=lambda s: s), {"equal-rewards": "zero-over-zero"}, {"eps": 0.0}),
    (make_advantage(sign=-1.0), {"values": "sign"}, {}),
    (others_mean, {"values": "convention:mean"}, {"std": "none"}),
    (make_advantage(), {"values": "convention:mean"}, {"mean": "others"}),
    (trimmed, {"values": "convention:trim"}, {}),
    (twice, {"values": "convention:then"}, {}),
    (make_advantage(), {"values": "convention:then"}, {"then": "batch"}),
    (make_advantage(), {"values": "eps-added"}, {"eps_at": "floor"}),
    (only_equal(make_advantage()), {"group-sizes": "equal-groups"}, {"smallest_group": 2}),
    (lambda r, i: make_advantage()(r + 1e-9 * torch.randn(r.shape).to(r), i), {"determinism": "changes"}, {}),
    (make_advantage(), {"values": "convention:clamp"}, {"clamp": 1.0}),
    (reshaped, {"permutation": "position"}, {}),
    (
        lambda r, i: make_advantage()(r, torch.arange(len(r)) // 6),
        {"permutation": "position", "group-sizes": "position"},
        {},
    ),
    (
        lambda r, i: make_advantage()(r, i) * (1.1 if bool(((i[:, None] == i).sum(1) == 1).any()) else 1.0),
        {"single-member": "beside-a-lone-member"},
        {},
    ),
    (make_advantage(std=lambda o, e: o.std()), {"single-member": "std-of-one"}, {"unbiased": True}),
    (
        lambda r, i: torch.where((i[:, None] == i).sum(1) == 1, 1.0, make_advantage()(r, i)),
        {"single-member": "lone-member"},
        {"working_dtype": "float32", "eps": 1e-4},
    ),
    (lambda r, i: make_advantage()(r.float(), i), {"values": "convention:working_dtype"}, {}),
    (writes, {"values": "in-place"}, {}),
    (lambda r, i: make_advantage()(r, i)[None], {"values": "layout"}, {}),
)


def _ranks(rewards: Tensor, group_ids: Tensor) -> Tensor:
    places = torch.zeros_like(rewards)
    for i in group_ids.unique():
        places[group_ids == i] = rewards[group_ids == i].argsort().argsort().to(rewards)
    return make_advantage()(places, group_ids)


def _strided(rewards: Tensor, group_ids: Tensor) -> Tensor:
    table = rewards.reshape(-1, len(group_ids.unique()))
    return ((table - table.mean(0)) / (table.std(0, correction=0) + 1e-4)).flatten()


def _first_std(rewards: Tensor, group_ids: Tensor) -> Tensor:
    std = rewards[group_ids == group_ids.min()].std(correction=0)
    return make_advantage(std=lambda own, everyone: std)(rewards, group_ids)


def _mean_alone_divided(rewards: Tensor, group_ids: Tensor) -> Tensor:
    out = rewards.clone()
    for i in group_ids.unique():
        own = rewards[group_ids == i]
        out[group_ids == i] = own - own.mean() / (own.std(correction=0) + 1e-4)
    return out


def _of_groups(divisor: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """An estimator that divides by something of all groups' means and standard deviations."""

    def estimator(rewards: Tensor, group_ids: Tensor) -> Tensor:
        _, inverse = group_ids.unique(return_inverse=True)
        groups = [rewards[inverse == k] for k in range(int(inverse.max()) + 1)]
        means, stds = torch.stack([g.mean() for g in groups]), torch.stack([g.std(correction=0) for g in groups])
        by = torch.as_tensor(divisor(means, stds)).expand_as(stds)
        return (rewards - means[inverse]) / (by + 1e-4)[inverse]

    return estimator


def _sorted(rewards: Tensor, group_ids: Tensor) -> Tensor:
    order = group_ids.argsort(stable=True)
    return make_advantage()(rewards[order], group_ids[order])


_LIKE_STATISTICS: tuple[tuple[Callable[..., Any], str, dict[str, Any]], ...] = (
    (make_advantage(centre=lambda o, e: o.median()), "median", {}),
    (make_advantage(centre=lambda o, e: o.min(), std=lambda o, e: o.max() - o.min()), "min-max", {}),
    (make_advantage(centre=lambda o, e: o.max()), "max", {}),
    (make_advantage(std=lambda o, e: (o**2).mean().sqrt()), "squares", {}),
    (_ranks, "ranks", {}),
    (_first_std, "std-of-first-group", {}),
    (_strided, "strided", {"layout": "contiguous"}),
    (make_advantage(divide=lambda s: s + 0.37), "convention:eps", {}),
    (make_advantage(clamp=1.7), "convention:clamp", {}),
    (make_advantage(clamp=2.5), "convention:clamp", {}),
    (make_advantage(std=lambda o, e: o.std(correction=0) / len(o) ** 0.5), "standard-error", {}),
    (make_advantage(std=lambda o, e: (o - o.mean()).abs().mean()), "mean-deviation", {}),
    (make_advantage(std=lambda o, e: (o - o.mean()).abs().max()), "largest-deviation", {}),
    (make_advantage(divide=lambda s: 1 / (s + 1e-4)), "multiplied", {}),
    (lambda r, i: make_advantage(divide=lambda s: s)(r, i) + 1e-4, "eps-outside", {}),
    (_mean_alone_divided, "mean-alone-divided", {}),
    (lambda r, i: make_advantage()(r, i) / (i[:, None] == i).sum(1), "over-size", {}),
    (lambda r, i: make_advantage()(r, i).clamp(min=0), "positive-alone", {}),
    (lambda r, i: make_advantage()(r, i).abs(), "absolute", {}),
    (_of_groups(lambda means, stds: stds.roll(1)), "std-of-previous-group", {}),
    (_of_groups(lambda means, stds: stds.roll(-1)), "std-of-next-group", {}),
    (_of_groups(lambda means, stds: means.std(correction=0)), "std-of-means", {}),
    (_of_groups(lambda means, stds: stds.mean()), "mean-of-stds", {}),
    (lambda r, i: make_advantage()(r.bfloat16(), i).to(r), "half-precision", {}),
)


def _std_of_centred(rewards: Tensor, group_ids: Tensor) -> Tensor:
    centred = make_advantage(divide=torch.ones_like)(rewards, group_ids)
    return centred / (centred.std(correction=0) + 1e-4)


def _first_tensor_alone(shadow: list[Tensor], live: list[Tensor], step: int) -> None:
    make_ema()(shadow[:1], live[:1], step)


def _all_but_the_last(shadow: list[Tensor], live: list[Tensor], step: int) -> None:
    make_ema()(shadow[:-1], live[:-1], step)


def _all(cause: str) -> dict[str, str]:
    return {"value": cause, "schedule": cause}


def _of_matrices(shadow: list[Tensor], live: list[Tensor], step: int) -> list[Tensor]:
    """Updates the matrices, and returns them alone."""
    updated: list[Tensor] = make_ema()([x for x in shadow if x.ndim > 1], [x for x in live if x.ndim > 1], step)
    return updated


def _in(shadow: Tensor, live: Tensor, dtype: torch.dtype) -> Tensor:
    return (0.9 * shadow.to(dtype) + 0.1 * live.to(dtype)).to(shadow)


_AVERAGES: tuple[tuple[Callable[..., Any], dict[str, str], dict[str, Any]], ...] = (
    (make_ema(exchanged=True), {"value": "exchanged", "schedule": "exchanged"}, {}),
    (make_ema(), {"schedule": "convention:decay"}, {"decay": "warmup"}),
    (make_ema(lambda n: warmup(n + 1)), {"schedule": "step-from-one"}, {"decay": "warmup"}),
    (make_ema(lambda n: warmup(max(n - 1, 0))), {"schedule": "step-behind"}, {"decay": "warmup"}),
    (lambda s, p, n: None, {"value": "frozen"}, {}),
    (lambda s, p, n: [x.clone() for x in p], {"value": "copied"}, {}),
    (make_ema(live_too=True), {"untouched-live": "live-changed"}, {}),
    (make_ema(lambda n: 0.0, alias=True), {"aliasing": "alias"}, {"decay": "nft-zero"}),
    (make_ema(), {"restore": "alias"}, {"store": store_alias, "restore": restore}),
    (make_ema(), {"swap": "alias"}, {"store": exchange, "restore": restore}),
    (make_ema(), {"schedule": "convention:every"}, {"every": 8}),
    (_first_tensor_alone, {"value": "first-alone"}, {}),
    (_all_but_the_last, {"value": "last-left-out"}, {}),
    (make_ema(lambda n: 0.9 if n else 0.0), {"schedule": "first-copied"}, {}),
    (now_and_then(8, 7), {"value": "convention:every", "schedule": "convention:every"}, {}),
    (now_and_then(8, 0), {"schedule": "convention:every"}, {"every": 8}),
    (counting(), {"determinism": "changes"}, {"decay": "warmup"}),
    (
        lambda s, p, n: _of_matrices(s, p, n) and None,
        _all("matrices-alone"),
        {},
    ),
    (_of_matrices, {**_all("returned-form"), "untouched-live": "returned-form", "aliasing": "returned-form"}, {}),
    (make_ema(lambda n: 0.9**2), _all("twice"), {}),
    (lambda s, p, n: [0.9 * a + b for a, b in zip(s, p, strict=True)], _all("live-whole"), {}),
    (lambda s, p, n: [0.9 * a for a in s], _all("live-missing"), {}),
    (lambda s, p, n: [a + 0.1 * b for a, b in zip(s, p, strict=True)], _all("shadow-whole"), {}),
    (make_ema(lambda n: 1.1), _all("away"), {}),
    (lambda s, p, n: [0.9 * a - 0.1 * b for a, b in zip(s, p, strict=True)], _all("sign"), {}),
    (make_ema(lambda n: 0.9 if n else 1.0), {"schedule": "first-skipped"}, {}),
    (make_ema(lambda n: 0.9 ** (n + 1)), _all("decay-power"), {}),
    (make_ema(lambda n: n / (n + 1)), _all("running-mean"), {}),
    (make_ema(lambda n: min(0.001 * n, 1.0)), {"schedule": "never-capped"}, {"decay": "nft-linear"}),
    (
        make_ema(lambda n: 0.0 if n < 75 else min(0.0075 * n, 0.999)),
        {"schedule": "rise-late"},
        {"decay": "nft-late"},
    ),
    (lambda s, p, n: [_in(a, b, torch.float16) for a, b in zip(s, p, strict=True)], _all("half-precision"), {}),
    (
        lambda s, p, n: [_in(a, b, torch.float32) for a, b in zip(s, p, strict=True)],
        _all("convention:working_dtype"),
        {},
    ),
)

_MAPS: tuple[tuple[Callable[[Tensor], Tensor], str, str], ...] = (
    (lambda a: a / 10 + 0.5, "range", "unclipped"),
    (lambda a: a.clamp(-1, 1) / 2 + 0.5, "ends", "convention:clip"),
    (lambda a: 1 - reward_map(a), "monotone", "reversed"),
    (lambda a: 1 - reward_map(a), "sign", "reversed"),
    (lambda a: a.clamp(-5, 5) / 5, "values", "not-halved"),
    (lambda a: a.clamp(-5, 5) / 10, "sign", "half-missing"),
    (lambda a: a.clamp(-5, 5) / 2 + 0.5, "values", "not-divided"),
    (torch.sigmoid, "values", "sigmoid"),
    (lambda a: a, "range", "advantage"),
    (lambda a: (a / 5 + 0.5).clamp(0, 1), "values", "map-not-halved"),
    (lambda a: reward_map(a.abs()), "sign", "absolute"),
    (lambda a: a.clamp(-5, 5), "values", "clipped-advantage"),
    (lambda a: (a / 10 + 0.5).clamp(min=0), "range", "negative-cut"),
    (lambda a: (a / 10 + 0.5).clamp(max=1), "range", "lower-uncut"),
    (lambda a: a.clamp(0, 5) / 5, "sign", "positive-share"),
    (lambda a: (a.clamp(-5, 5) / 5 + 0.5) / 2, "range", "parentheses"),
    (lambda a: a.clamp(-5, 5) / 5 + 1, "range", "one-added"),
    (lambda a: (a / 5).clamp(-5, 5) / 2 + 0.5, "ends", "clipped-after"),
    (lambda a: torch.sigmoid(2 * a / 5), "ends", "tanh"),
    (lambda a: torch.sigmoid(a / 5), "ends", "sigmoid-scaled"),
    (lambda a: torch.distributions.Normal(0.0, 1.0).cdf(a), "values", "normal-cdf"),
    (lambda a: (a - a.amin()) / (a.amax() - a.amin() + (a.amax() == a.amin())), "values", "min-max"),
    (lambda a: reward_map(a).round(), "ends", "step"),
    (lambda a: (a > 0).to(a), "sign", "step"),
    (lambda a: (a >= 0).to(a), "ends", "step-at-zero"),
    (lambda a: reward_map(a.bfloat16()).to(a), "values", "half-precision"),
    (lambda a: a.clamp(-4, 4) / 8 + 0.5, "ends", "convention:clip"),
    (lambda a: {"r": a}, "determinism", "returned-form"),
    (lambda a: reward_map(a.sign()), "values", "convention:mode"),
    (lambda a: reward_map(a.float()), "values", "convention:working_dtype"),
    (lambda a: reward_map(a)[None], "values", "layout"),
    (lambda a: a.clamp_(-5, 5) / 10 + 0.5, "values", "in-place"),
    (lambda a: reward_map(a) + 1e-17 * torch.rand(()), "determinism", "changes"),
)

_BETA = {"distribution": "beta", "shift": 1.0}
_TWO = {"distribution": "table", "times": (0.0, 1.0), "shift": 1.0}
_SAMPLERS: tuple[tuple[Callable[..., Tensor], dict[str, Any], str, str], ...] = (
    (make_times(1 / 3), {}, "distribution", "shift-inverted"),
    (make_times(1.0), {}, "distribution", "shift-ignored"),
    (lambda n, g: (lambda u: 3 * u / (1 + 3 * u))(make_times(1.0)(n, g)), {}, "distribution", "shift-without-one"),
    (lambda n, g: torch.sigmoid(uniform(n, g)), {"shift": 1.0}, "distribution", "uniform-logit"),
    (lambda n, g: uniform(n, g) ** 2, {"distribution": "uniform", "shift": 1.0}, "distribution", "squared"),
    (lambda n, g: uniform(n, g).sqrt(), {"distribution": "uniform", "shift": 1.0}, "distribution", "root"),
    (lambda n, g: 3 * uniform(n, g), {"distribution": "uniform"}, "range", "outside"),
    (lambda n, g: (1000 * uniform(n, g)).long(), {"distribution": "uniform"}, "generator", "returned-form"),
    (make_times(9.0), {}, "distribution", "shift-twice"),
    (make_times(5.0), {}, "distribution", "convention:shift"),
    (lambda n, g: 1 - make_times(mean=0.5)(n, g), {"mean": 0.5}, "distribution", "ends-exchanged"),
    (make_times(mean=-0.5), {"mean": 0.5}, "distribution", "mean-sign"),
    (make_times(std=0.49), {"std": 0.7}, "distribution", "variance-for-std"),
    (make_times(), {"std": 0.7}, "distribution", "convention:std"),
    (make_times(std=1.6), {}, "distribution", "convention:std"),
    (lambda n, g: make_times()(1, g).expand(n), {}, "distribution", "one-time"),
    (make_times(), {"mean": 0.5}, "distribution", "convention:mean"),
    (lambda n, g: shifted(uniform(n, g), 3.0), {}, "distribution", "convention:distribution"),
    (lambda n, g: uniform(n, g), _BETA, "distribution", "convention:distribution"),
    (
        lambda n, g: 0.1 + 0.9 * (1 - uniform(n, g) ** (1 / 1.5)),
        {**_BETA, "low": 0.1},
        "distribution",
        "exponents-exchanged",
    ),
    (lambda n, g: uniform(n, g), {**_BETA, "a": 1.0, "low": 0.2}, "distribution", "range-ignored"),
    (lambda n, g: 0.02 + 0.98 * uniform(n, g), {**_BETA, "a": 1.0}, "distribution", "convention:low"),
    (lambda n, g: (uniform(n, g) < 0.5).float(), {**_TWO, "weights": (1, 3)}, "distribution", "convention:weights"),
    (lambda n, g: 1000 * make_times()(n, g), {}, "range", "not-times"),
    (lambda n, g: torch.randn(n, generator=g), {"shift": 1.0}, "range", "not-times"),
    (lambda n, g: (0.5 + 0.3 * torch.randn(n, generator=g)).clamp(0, 1), {}, "range", "clamped"),
    (lambda n, g: (1 + torch.randint(0, 10, (n,), generator=g)) / 10, {}, "range", "grid"),
    (lambda n, g: uniform(n, g) / 2, {**_BETA, "a": 1.0}, "distribution", "convention:low"),
    (lambda n, g: make_times()(1, g), {}, "shape", "layout"),
    (lambda n, g: make_times()(n, torch.Generator()), {}, "generator", "reseeded"),
    (lambda n, g: torch.sigmoid(torch.randn(n)), {"shift": 1.0}, "generator", "generator-ignored"),
)

MUTANTS: tuple[Mutant, ...] = (
    *(Mutant("sde_step", f, {obligation: cause}, named) for f, obligation, cause, named in _STEPS),
    *(Mutant("advantage", f, causes, named) for f, causes, named in _ADVANTAGES),
    *(Mutant("advantage", f, {"values": cause}, named) for f, cause, named in _LIKE_STATISTICS),
    Mutant("advantage", _std_of_centred, {"values": "std-of-centred"}),
    Mutant("advantage", _sorted, {"permutation": "sorted", "single-member": "sorted"}),
    Mutant("advantage", lambda r, i: {"advantages": r}, {"values": "returned-form", "determinism": "returned-form"}),
    *(Mutant("ema", f, causes, {"decay": 0.9, **named}) for f, causes, named in _AVERAGES),
    *(Mutant("reward_map", f, {obligation: cause}) for f, obligation, cause in _MAPS),
    *(
        Mutant("time_sampler", f, {obligation: cause}, {"shift": 3.0, **named})
        for f, named, obligation, cause in _SAMPLERS
    ),
)
