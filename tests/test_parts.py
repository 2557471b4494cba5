"""The parts of a trainer, judged alone: right ones in two styles pass, wrong ones fail by name and with their cause."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.oracle.adapter import AdapterError
from gradcheck.oracle.parts import (
    judge_advantage,
    judge_ema,
    judge_reward_map,
    judge_sde_step,
    judge_time_sampler,
    shifted,
)
from gradcheck.oracle.parts._statistics import chi_square_interval, ks_bound, mean_bound, poisson_limit
from gradcheck.oracle.results import Judgement
from gradcheck.oracle.text import judgement_text


def failed(judgement: Judgement) -> dict[str, str]:
    """Failed obligation → named cause; the judgement's text is made too."""
    text = judgement_text(judgement)
    found = {r.id: r.diagnosis.name for r in judgement.results if not r.good and r.diagnosis is not None}
    assert all(f": {name} does not hold" in text for name in found)
    return found


def declared(judgement: Judgement) -> set[str]:
    return {r.diagnosis.declare for r in judgement.results if r.diagnosis is not None}


# ------------------------------------------------------------------------------------------- the reverse step


def column(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(-1, *(1,) * (like.ndim - 1))


def make_step(
    *,
    sigma: Callable[[Tensor, Tensor, float], Tensor] = lambda T, P, a: (
        torch.sqrt(T / (1 - torch.where(T == 1, P, T))) * a
    ),
    score: float = 1.0,
    dt_sign: float = 1.0,
    std_power: float = 0.5,
    returned: Callable[[Tensor, Tensor], Tensor] = lambda S, h: S,
    half: float = 2.0,
    two_pi: bool = True,
    reduce: str = "mean",
    draw: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
    finish: Callable[[Tensor], Tensor] = lambda x: x,
    replayed: bool = True,
    mean_of: Callable[[Tensor], Tensor] = lambda m: m,
    time_of: Callable[[Tensor], Tensor] = lambda t: t,
    cast: torch.dtype | None = None,
) -> Callable[..., Any]:
    """Flow-SDE in the style of the public implementations, with a switch for each mistake."""

    def step(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
        if cast is not None:
            v, x_t, t, t_prev = (x.to(cast) for x in (v, x_t, t, t_prev))
            x_prev = None if x_prev is None else x_prev.to(cast)
        T, P = column(time_of(t), v), column(time_of(t_prev), v)
        dt = P - T
        s = sigma(T, P, noise_level)
        c = score * s**2 / (2 * T)
        mean = x_t * (1 + c * dt) + v * (1 + c * (1 - T)) * dt
        if dt_sign < 0:
            mean = 2 * x_t - mean
        S = s * (-dt) ** std_power
        given = x_prev if replayed else None
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype) if draw is None else draw(v, generator)
        state = (mean + S * noise).detach() if given is None else given
        lp = -((state - mean) ** 2) / (half * S**2) - torch.log(S) - (math.log(2 * math.pi) / 2 if two_pi else 0.0)
        dims = tuple(range(1, v.ndim))
        return finish(state), getattr(lp, reduce)(dims), mean_of(mean), returned(S, -dt)

    return step


def distribution_style(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
    """Flow-SDE with torch.distributions, the paper's drift, and a loop over the samples."""
    means, stds = [], []
    for i in range(len(v)):
        t_now, t_next = t[i], t_prev[i]
        sigma = noise_level * (t_now / (1 - (t_next if t_now == 1 else t_now))) ** 0.5
        drift = v[i] + sigma**2 / (2 * t_now) * (x_t[i] + (1 - t_now) * v[i])
        means.append(x_t[i] - drift * (t_now - t_next))
        stds.append(sigma * (t_now - t_next).sqrt())
    mean, std = torch.stack(means), torch.stack(stds)
    normal = torch.distributions.Normal(mean, column(std, v).expand_as(mean))
    if x_prev is None:
        x_prev = (mean + column(std, v) * torch.randn(v.shape, generator=generator, dtype=v.dtype)).detach()
    return x_prev, normal.log_prob(x_prev).flatten(1).mean(1), mean, std


def cps(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
    """Coefficients-Preserving Sampling as its public code writes it: no 1/(2 C2²), no normaliser."""
    T, P = column(t, v), column(t_prev, v)
    S = P * math.sin(noise_level * math.pi / 2)
    mean = (x_t - T * v) * (1 - P) + (x_t + (1 - T) * v) * torch.sqrt(P**2 - S**2)
    if x_prev is None:
        x_prev = (mean + S * torch.randn(v.shape, generator=generator, dtype=v.dtype)).detach()
    return x_prev, -((x_prev - mean) ** 2).flatten(1).mean(1), mean, S


def constant_sigma(T: Tensor, P: Tensor, a: float) -> Tensor:
    return torch.full_like(T, a)


RIGHT_STEPS = {
    "broadcast": (make_step(), {}),
    "distribution": (distribution_style, {}),
    "dance": (make_step(sigma=constant_sigma), {"sde": "dance"}),
    "cps": (cps, {"sde": "cps", "log_prob_scale": "unit"}),
    "sigma": (make_step(returned=lambda S, h: S / h.sqrt()), {"returns_std": "sigma"}),
    "sum": (make_step(reduce="sum"), {"log_prob_reduction": "sum"}),
    "float32": (make_step(cast=torch.float32), {"working_dtype": "float32"}),
    "at-one": (
        make_step(sigma=lambda T, P, a: a * (torch.where(T == 1, P, T) / (1 - torch.where(T == 1, P, T))).sqrt()),
        {"at_one": "next"},
    ),
    "shared-time": (distribution_style, {"per_sample_time": False}),
}


@pytest.mark.parametrize("name", RIGHT_STEPS)
def test_right_steps_conform(name: str) -> None:
    step, conventions = RIGHT_STEPS[name]
    assert failed(judge_sde_step(step, seed=1, **conventions)) == {}


def no_graph(*args: Any, **named: Any) -> Any:
    with torch.no_grad():
        return make_step()(*args, **named)


def own_noise(v: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(v.shape, dtype=v.dtype)


def shared_noise(v: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(v.shape[1:], generator=generator, dtype=v.dtype).expand_as(v)


def uniform_noise(v: Tensor, generator: torch.Generator | None) -> Tensor:
    return (2 * torch.rand(v.shape, generator=generator, dtype=v.dtype) - 1) * math.sqrt(3)


def in_place(v, x_t, *rest, **named):  # type: ignore[no-untyped-def]
    found = make_step()(v, x_t.clone(), *rest, **named)
    x_t.mul_(0)
    return found


WRONG_STEPS: dict[str, tuple[Callable[..., Any], str, str]] = {
    # mistake: (function, an obligation that must fail, its cause)
    "no-correction": (make_step(score=0.0), "mean", "score-correction-missing"),
    "correction-sign": (make_step(score=-1.0), "slope", "score-sign"),
    "correction-half": (make_step(score=2.0), "mean", "score-half"),
    "dt-sign": (make_step(dt_sign=-1.0), "mean", "dt-sign"),
    "dance": (make_step(sigma=constant_sigma), "std", "convention:sde"),
    "variance": (make_step(returned=lambda S, h: S**2), "std", "returned-variance"),
    "sigma": (make_step(returned=lambda S, h: S / h.sqrt()), "std", "convention:returns_std"),
    "dt-twice": (make_step(std_power=1.0), "std", "std-dt-twice"),
    "dt-missing": (make_step(std_power=0.0), "sampling", "std-without-dt"),
    "half": (make_step(half=1.0), "log-prob", "half-missing"),
    "two-pi": (make_step(two_pi=False), "log-prob", "two-pi-missing"),
    "sum": (make_step(reduce="sum"), "log-ratio", "convention:log_prob_reduction"),
    "rounded": (make_step(finish=lambda x: x.to(torch.bfloat16).to(x.dtype)), "replay", "stored-rounded"),
    "resampled": (make_step(replayed=False), "replay", "resampled"),
    "detached": (make_step(mean_of=lambda m: m.detach()), "slope", "detached"),
    "no-grad": (no_graph, "log-prob-gradient", "detached"),
    "own-noise": (make_step(draw=own_noise), "generator", "generator-ignored"),
    "shared-noise": (make_step(draw=shared_noise), "sampling", "noise-shared"),
    "uniform-noise": (make_step(draw=uniform_noise), "sampling", "noise-not-normal"),
    "no-noise": (make_step(draw=lambda v, g: torch.zeros_like(v)), "sampling", "no-noise"),
    "shared-time": (make_step(time_of=lambda t: t[:1].expand_as(t)), "mean", "times-shared"),
    "at-one": (make_step(sigma=lambda T, P, a: a * (T / (1 - T)).sqrt()), "time-grid", "pole"),
    "float32": (make_step(cast=torch.float32), "mean", "convention:working_dtype"),
}


def wrong_cps(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
    """The predicted noise kept whole, so that the step adds noise on top of it."""
    T, P = column(t, v), column(t_prev, v)
    S = P * math.sin(noise_level * math.pi / 2)
    mean = (x_t - T * v) * (1 - P) + (x_t + (1 - T) * v) * P
    if x_prev is None:
        x_prev = (mean + S * torch.randn(v.shape, generator=generator, dtype=v.dtype)).detach()
    return x_prev, -((x_prev - mean) ** 2).flatten(1).mean(1), mean, S


def test_a_cps_step_that_keeps_all_noise() -> None:
    found = failed(judge_sde_step(wrong_cps, sde="cps", log_prob_scale="unit"))
    assert found["mean"] == found["slope"] == "noise-budget"


def test_exchanged_times_are_named() -> None:
    def step(v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, *rest: Any, **named: Any) -> Any:
        return make_step(sigma=constant_sigma)(v, x_t, t_prev, t, *rest, **named)

    def mean_alone(*args: Any, **named: Any) -> Any:
        return cps(*args[:2], args[3], args[2], *args[4:], **named)

    assert failed(judge_sde_step(mean_alone, sde="cps", log_prob_scale="unit"))["std"] == "times-exchanged"
    assert "mean" in failed(judge_sde_step(step, sde="dance"))


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_wrong_steps_fail_by_name(name: str) -> None:
    step, obligation, cause = WRONG_STEPS[name]
    assert failed(judge_sde_step(step)).get(obligation) == cause


def test_a_wrong_declaration_of_a_step_is_named() -> None:
    assert declared(judge_sde_step(cps)) & {"sde='cps'", "log_prob_scale='unit'"}
    assert "log_prob_normaliser='none'" in declared(
        judge_sde_step(lambda *a, **k: _without_normaliser(*a, **k), log_prob_normaliser="full")
    )
    assert "at_one='next'" in declared(judge_sde_step(RIGHT_STEPS["at-one"][0]))


def _without_normaliser(*args: Any, **named: Any) -> Any:
    x_prev, log_prob, mean, std = make_step(two_pi=False)(*args, **named)
    return x_prev, log_prob + column(std, mean).log().flatten(1).mean(1), mean, std


def test_inputs_and_shapes_of_a_step() -> None:
    judgement = judge_sde_step(in_place)
    assert failed(judgement)["mean"] == "in-place"
    assert "x_t in place" in judgement_text(judgement)
    four_axes = judge_sde_step(_four_axes)
    assert "shape" in judgement_text(four_axes)
    assert not failed(judge_sde_step(_four_axes, latents=((2, 3, 4), (3, 5, 2))))


def _four_axes(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
    """Times reshaped for images alone: a packed latent broadcasts to four axes, without an error or with one."""
    T, P = t.reshape(-1, 1, 1, 1), t_prev.reshape(-1, 1, 1, 1)
    S = noise_level * (T / (1 - torch.where(T == 1, P, T))).sqrt() * (T - P).sqrt()
    c = S**2 / (2 * T)
    mean = x_t * (1 - c) - v * (T - P + c * (1 - T))
    noise = torch.randn(mean.shape, generator=generator, dtype=v.dtype)
    state = (mean + S * noise).detach() if x_prev is None else x_prev
    lp = torch.distributions.Normal(mean, S.expand_as(mean)).log_prob(state).flatten(1).mean(1)
    return state, lp, mean, S


def test_schedules_must_fall_to_zero() -> None:
    assert "time-grid" in failed(judge_sde_step(make_step(), schedule=(0.9, 0.5, 0.5, 0.0)))
    assert not failed(judge_sde_step(make_step(), schedule=(0.9, 0.5, 0.2, 0.0)))


# ------------------------------------------------------------------------------------------- diffusers' scheduler


def scheduler_step(
    v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None, *, stochastic=True, per_token=False
):  # type: ignore[no-untyped-def]
    """One step of diffusers' scheduler on the grid (t, t_prev); it has no mean, std, log-probability or replay."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=stochastic)
    scheduler.set_timesteps(sigmas=[float(t[0]), float(t_prev[0])])
    tokens = scheduler.timesteps[:1].expand(v.shape[:2]) if per_token else None
    found = scheduler.step(v, scheduler.timesteps[0], x_t, generator=generator, per_token_timesteps=tokens)
    return found.prev_sample, None, None, None


REAL = {"per_sample_time": False, "working_dtype": "float32"}


def schedule_of(shift: float, steps: int) -> Tensor:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    sigmas: Tensor = scheduler.sigmas
    return sigmas


def test_the_stochastic_scheduler_is_cps_with_all_noise_fresh() -> None:
    grid = tuple(schedule_of(3.0, 10).tolist())
    judgement = judge_sde_step(scheduler_step, sde="cps", noise_level=1.0, schedule=grid, **REAL)
    assert judgement.holds, judgement_text(judgement)
    passed = {r.id for r in judgement.results if r.status == "passed"}
    assert passed == {"slope", "sampling", "generator", "time-grid"}


@pytest.mark.parametrize("sde", ["flow", "dance", "cps"])
def test_the_stochastic_scheduler_is_no_other_step(sde: str) -> None:
    judgement = judge_sde_step(scheduler_step, sde=sde, **REAL)
    assert set(failed(judgement)) == {"slope", "sampling", "time-grid"}
    assert declared(judgement) >= {"sde='cps', noise_level=1.0"}


def test_the_stochastic_schedulers_mean_is_a_flow_sdes_and_its_noise_is_not() -> None:
    """The mean (1 − t')(x − t·v) is Flow-SDE's with σ² = 2tt'/Δt, whose standard deviation would be √(2tt')."""
    g = torch.Generator().manual_seed(0)
    v, x_t = (torch.randn((2, 5), generator=g, dtype=torch.float64) for _ in range(2))
    t, t_prev = torch.tensor([0.9, 0.4], dtype=torch.float64), torch.tensor([0.7, 0.1], dtype=torch.float64)
    step = make_step(sigma=lambda T, P, a: (2 * T * P / (T - P)).sqrt())
    _, _, mean, std = step(v, x_t, t, t_prev)
    torch.testing.assert_close(mean, (1 - t_prev[:, None]) * (x_t - t[:, None] * v))
    torch.testing.assert_close(std, (2 * t * t_prev).sqrt()[:, None])
    assert bool((std > t_prev[:, None]).all())


def test_the_scheduler_does_not_scale_its_noise() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    states = []
    for scale in (0.0, 1.0):
        scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
        scheduler.set_timesteps(4)
        v, x_t = torch.ones(2, 3), torch.zeros(2, 3)
        generator = torch.Generator().manual_seed(0)
        states.append(scheduler.step(v, scheduler.timesteps[1], x_t, s_noise=scale, generator=generator).prev_sample)
    assert torch.equal(*states)


def test_the_deterministic_scheduler_is_cps_without_noise() -> None:
    def step(*args: Any, **named: Any) -> Any:
        return scheduler_step(*args, **named, stochastic=False)

    assert judge_sde_step(step, sde="cps", noise_level=0.0, **REAL).holds


def test_the_scheduler_steps_the_other_way_with_times_per_token() -> None:
    """With ``per_token_timesteps`` Δt has the other sign: callers there must hand in −v."""

    def step(v: Tensor, *args: Any, **named: Any) -> Any:
        return scheduler_step(v, *args, **named, stochastic=False, per_token=True)

    def negated(v: Tensor, *args: Any, **named: Any) -> Any:
        return step(-v, *args, **named)

    conventions = {"sde": "cps", "noise_level": 0.0, "latents": ((5, 4),), **REAL}
    assert "slope" in failed(judge_sde_step(step, **conventions))
    assert judge_sde_step(negated, **conventions).holds


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_the_schedulers_time_grid(shift: float) -> None:
    sigmas = schedule_of(shift, 20).to(torch.float64)
    assert sigmas[0] <= 1
    assert sigmas[-1] == 0
    assert bool((sigmas.diff() < 0).all())
    # the grid's least point has been shifted once before the whole grid is
    least = float(shifted(torch.tensor(1e-3, dtype=torch.float64), shift))
    expected = shifted(torch.linspace(1, least, 20, dtype=torch.float64), shift)
    torch.testing.assert_close(sigmas[:-1], expected, rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------------------- the advantage


def make_advantage(
    *,
    std: Callable[[Tensor, Tensor], Tensor] = lambda own, everyone: own.std(correction=0),
    divide: Callable[[Tensor], Tensor] = lambda s: s + 1e-4,
    centre: Callable[[Tensor, Tensor], Tensor] = lambda own, everyone: own.mean(),
    sign: float = 1.0,
    clamp: float = math.inf,
) -> Callable[[Tensor, Tensor], Tensor]:
    """A loop over the groups, with a switch for each mistake."""

    def advantage(rewards: Tensor, group_ids: Tensor) -> Tensor:
        out = torch.empty_like(rewards)
        for i in set(group_ids.tolist()):
            own = rewards[group_ids == i]
            out[group_ids == i] = sign * (own - centre(own, rewards)) / divide(std(own, rewards))
        return out.clamp(-clamp, clamp)

    return advantage


def scattered(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """The same by scatter_add, in one pass over the squares."""
    _, index = torch.unique(group_ids, return_inverse=True)
    count = torch.bincount(index).to(rewards.dtype)
    mean = torch.zeros_like(count).scatter_add(0, index, rewards) / count
    square = torch.zeros_like(count).scatter_add(0, index, rewards**2) / count
    std = (square - mean**2).clamp(min=0).sqrt()
    return (rewards - mean[index]) / (std[index] + 1e-4)


def reshaped(rewards: Tensor, group_ids: Tensor) -> Tensor:
    table = rewards.reshape(len(set(group_ids.tolist())), -1)
    return ((table - table.mean(1, keepdim=True)) / (table.std(1, correction=0, keepdim=True) + 1e-4)).flatten()


def wrong_axis(rewards: Tensor, group_ids: Tensor) -> Tensor:
    table = rewards.reshape(len(set(group_ids.tolist())), -1)
    return ((table - table.mean(0)) / (table.std(0, correction=0) + 1e-4)).flatten()


def unbiased_std(own: Tensor, everyone: Tensor) -> Tensor:
    return own.std() if len(own) > 1 else own.new_zeros(())


RIGHT_ADVANTAGES = {
    "loop": (make_advantage(), {}),
    "scatter": (scattered, {}),
    "reshape": (reshaped, {"layout": "contiguous"}),
    "global": (make_advantage(std=lambda own, everyone: everyone.std(correction=0)), {"std": "global"}),
    "none": (make_advantage(divide=torch.ones_like), {"std": "none"}),
    "unbiased": (make_advantage(std=unbiased_std), {"unbiased": True}),
    "clamped": (make_advantage(clamp=1.5), {"clamp": 1.5}),
    "float32": (lambda r, i: make_advantage()(r.float(), i), {"working_dtype": "float32"}),
}


@pytest.mark.parametrize("name", RIGHT_ADVANTAGES)
def test_right_advantages_conform(name: str) -> None:
    function, conventions = RIGHT_ADVANTAGES[name]
    for seed in range(3):
        assert failed(judge_advantage(function, seed=seed, **conventions)) == {}


def tiny_eps(rewards: Tensor, group_ids: Tensor) -> Tensor:
    return make_advantage(divide=lambda s: s + 1e-8)(rewards, group_ids)


def writes(rewards: Tensor, group_ids: Tensor) -> Tensor:
    found = make_advantage()(rewards, group_ids)
    rewards.zero_()
    return found


WRONG_ADVANTAGES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, str]]] = {
    # mistake: (function, declaration, obligations that must fail with their causes)
    "variance": (make_advantage(divide=lambda s: s**2 + 1e-4), {}, {"values": "variance", "scale": "variance"}),
    "global-mean": (
        make_advantage(centre=lambda own, everyone: everyone.mean()),
        {},
        {"values": "mean-global", "zero-mean": "mean-global"},
    ),
    "no-mean": (make_advantage(centre=lambda o, e: o.new_zeros(())), {}, {"shift": "mean-missing"}),
    "global-std": (RIGHT_ADVANTAGES["global"][0], {}, {"values": "convention:std"}),
    "wrong-axis": (wrong_axis, {"layout": "contiguous"}, {"values": "wrong-axis"}),
    "unbiased": (make_advantage(std=unbiased_std), {}, {"values": "convention:unbiased"}),
    "eps-inside": (
        make_advantage(std=lambda o, e: (o.var(correction=0) + 1e-4).sqrt(), divide=lambda s: s),
        {},
        {"values": "eps-in-root"},
    ),
    "eps-floor": (make_advantage(divide=lambda s: s.clamp(min=1e-4)), {}, {"values": "eps-floor"}),
    "eps": (tiny_eps, {}, {"values": "convention:eps"}),
    "tiny-eps": (tiny_eps, {"eps": 1e-8}, {"equal-rewards": "eps-below-rounding"}),
    "no-eps": (make_advantage(divide=lambda s: s), {"eps": 0.0}, {"equal-rewards": "zero-over-zero"}),
    "sign": (make_advantage(sign=-1.0), {}, {"values": "sign"}),
    "unclamped": (make_advantage(), {"clamp": 1.0}, {"values": "convention:clamp"}),
    "positions": (reshaped, {}, {"permutation": "position"}),
    "one-member": (make_advantage(std=lambda o, e: o.std()), {"unbiased": True}, {"single-member": "std-of-one"}),
}


@pytest.mark.parametrize("name", WRONG_ADVANTAGES)
@pytest.mark.filterwarnings("ignore:std")
def test_wrong_advantages_fail_by_name(name: str) -> None:
    function, conventions, causes = WRONG_ADVANTAGES[name]
    found = failed(judge_advantage(function, **conventions))
    assert {k: found.get(k) for k in causes} == causes


def test_groups_taken_from_places() -> None:
    def sixes(rewards: Tensor, group_ids: Tensor) -> Tensor:
        return make_advantage()(rewards, torch.arange(len(rewards)) // 6)

    found = failed(judge_advantage(sixes))
    assert found["group-sizes"] == found["permutation"] == "position"
    assert "rewards in place" in judgement_text(judge_advantage(writes))


# ------------------------------------------------------------------------------------------- the moving average


def make_ema(
    decay: Callable[[int], float] = lambda n: 0.9,
    *,
    exchanged: bool = False,
    alias: bool = False,
    live_too: bool = False,
) -> Callable[..., Any]:
    def update(shadow: list[Tensor], live: list[Tensor], step: int) -> list[Tensor]:
        d = 1 - decay(step) if exchanged else decay(step)
        if alias and d == 0:
            return live
        for s, p in zip(shadow, live, strict=True):
            s.mul_(d).add_(p, alpha=1 - d)
            if live_too:
                p.copy_(s)
        return shadow

    return update


def lerp(shadow: list[Tensor], live: list[Tensor], step: int) -> None:
    for s, p in zip(shadow, live, strict=True):
        s.sub_((1 - 0.9) * (s - p))


def warmup(n: int) -> float:
    return min((1 + n) / (10 + n), 0.9999)


def store(shadow: list[Tensor], live: list[Tensor]) -> list[Tensor]:
    saved = [p.clone() for p in live]
    for s, p in zip(shadow, live, strict=True):
        p.copy_(s)
    return saved


def store_alias(shadow: list[Tensor], live: list[Tensor]) -> list[Tensor]:
    """flow_grpo's: on the CPU ``.cpu()`` is no copy, so that what is kept is overwritten with the average."""
    saved = [p.detach().cpu() for p in live]
    for s, p in zip(shadow, live, strict=True):
        p.copy_(s)
    return saved


def exchange(shadow: list[Tensor], live: list[Tensor]) -> list[Tensor]:
    saved = store(shadow, live)
    for s, kept in zip(shadow, saved, strict=True):
        s.copy_(kept)
    return saved


def restore(saved: list[Tensor], live: list[Tensor]) -> None:
    for kept, p in zip(saved, live, strict=True):
        p.copy_(kept)


def test_right_averages_conform() -> None:
    for dtype in (None, "float32"):
        assert not failed(judge_ema(make_ema(), decay=0.9, store=store, restore=restore, working_dtype=dtype))
        assert not failed(judge_ema(lerp, decay=0.9, working_dtype=dtype))
        assert not failed(judge_ema(make_ema(warmup), decay="warmup", working_dtype=dtype))
    assert not failed(judge_ema(lambda s, p, n: [torch.lerp(b, a, 0.9) for a, b in zip(s, p, strict=True)], decay=0.9))


@pytest.mark.parametrize(
    ("function", "named", "causes"),
    [
        (make_ema(exchanged=True), {}, {"value": "exchanged", "schedule": "exchanged"}),
        (make_ema(), {"decay": "warmup"}, {"schedule": "convention:decay"}),
        (make_ema(lambda n: warmup(n + 1)), {"decay": "warmup"}, {"schedule": "step-from-one"}),
        (lambda s, p, n: None, {}, {"value": "frozen"}),
        (lambda s, p, n: [x.clone() for x in p], {}, {"value": "copied"}),
        (make_ema(live_too=True), {}, {"untouched-live": "live-changed"}),
        (make_ema(lambda n: 0.0, alias=True), {"decay": "nft-zero"}, {"aliasing": "alias"}),
        (make_ema(), {"store": store_alias, "restore": restore}, {"restore": "alias"}),
        (make_ema(), {"store": exchange, "restore": restore}, {"swap": "alias"}),
    ],
)
def test_wrong_averages_fail_by_name(
    function: Callable[..., Any], named: dict[str, Any], causes: dict[str, str]
) -> None:
    found = failed(judge_ema(function, **{"decay": 0.9, **named}))
    assert {k: found.get(k) for k in causes} == causes


# ------------------------------------------------------------------------------------------- the map to r


def reward_map(a: Tensor) -> Tensor:
    return a.clamp(-5, 5) / 5 / 2 + 0.5


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_right_maps_conform(dtype: str | None) -> None:
    assert not failed(judge_reward_map(reward_map, working_dtype=dtype))
    assert not failed(judge_reward_map(lambda a: ((1 + a / 5) / 2).clamp(0, 1), working_dtype=dtype))
    assert not failed(judge_reward_map(lambda a: reward_map(a.clamp(min=0)), mode="positive_only", working_dtype=dtype))


@pytest.mark.parametrize(
    ("function", "obligation", "cause"),
    [
        (lambda a: a / 10 + 0.5, "range", "unclipped"),
        (lambda a: a.clamp(-1, 1) / 2 + 0.5, "ends", "convention:clip"),
        (lambda a: 1 - reward_map(a), "monotone", "reversed"),
        (lambda a: 1 - reward_map(a), "sign", "reversed"),
        (lambda a: a.clamp(-5, 5) / 5, "values", "not-halved"),
        (lambda a: a.clamp(-5, 5) / 10, "sign", "half-missing"),
        (torch.sigmoid, "values", "sigmoid"),
        (lambda a: a, "range", "advantage"),
        (lambda a: reward_map(a.sign()), "values", "convention:mode"),
    ],
)
def test_wrong_maps_fail_by_name(function: Callable[[Tensor], Tensor], obligation: str, cause: str) -> None:
    assert failed(judge_reward_map(function)).get(obligation) == cause


# ------------------------------------------------------------------------------------------- the times


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


@pytest.mark.parametrize(
    ("function", "named", "obligation", "cause"),
    [
        (make_times(1 / 3), {}, "distribution", "shift-inverted"),
        (make_times(1.0), {}, "distribution", "shift-ignored"),
        (make_times(9.0), {}, "distribution", "shift-twice"),
        (make_times(5.0), {}, "distribution", "convention:shift"),
        (lambda n, g: 1 - make_times(mean=0.5)(n, g), {"mean": 0.5}, "distribution", "ends-exchanged"),
        (make_times(mean=-0.5), {"mean": 0.5}, "distribution", "mean-sign"),
        (lambda n, g: shifted(uniform(n, g), 3.0), {}, "distribution", "convention:distribution"),
        (lambda n, g: 1000 * make_times()(n, g), {}, "range", "not-times"),
        (lambda n, g: torch.randn(n, generator=g), {"shift": 1.0}, "range", "not-times"),
        (lambda n, g: (0.5 + 0.3 * torch.randn(n, generator=g)).clamp(0, 1), {}, "range", "clamped"),
        (lambda n, g: make_times()(1, g), {}, "shape", "layout"),
        (lambda n, g: make_times()(n, torch.Generator()), {}, "generator", "reseeded"),
        (lambda n, g: torch.sigmoid(torch.randn(n)), {"shift": 1.0}, "generator", "generator-ignored"),
    ],
)
def test_wrong_samplers_fail_by_name(
    function: Callable[..., Tensor], named: dict[str, float], obligation: str, cause: str
) -> None:
    assert failed(judge_time_sampler(function, **{"shift": 3.0, **named})).get(obligation) == cause  # type: ignore[arg-type]


def test_indistinguishable_causes_are_all_told() -> None:
    """Around 0 a logit-normal is symmetric, so an inverted shift is the same as exchanged ends."""
    judgement = judge_time_sampler(make_times(1 / 3), shift=3.0)
    assert "noise and data are exchanged" in judgement_text(judgement)


# ------------------------------------------------------------------------------------------- declarations and bounds


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
    judgement = judge_advantage(tiny_eps, eps=1e-8, expected_failures={"equal-rewards": "as published"})
    assert judgement.holds


def test_the_bounds_of_the_statistical_tests() -> None:
    """Beside what is known: z = 6.109 at 1e-9, and a chi-square's normal limit; each bound is the wider one."""
    assert mean_bound(10_000, 1e-9) == pytest.approx(0.06109, rel=1e-3)
    low, high = chi_square_interval(100_000, 1e-9)
    normal = 6.109 * math.sqrt(200_000)
    assert normal < 100_000 - low < 1.1 * normal
    assert normal < high - 100_000 < 1.1 * normal
    assert ks_bound(65_536, 1e-9) == pytest.approx(math.sqrt(math.log(2e9) / 131_072))
    assert poisson_limit(1e-3, 1e-9) == 3
