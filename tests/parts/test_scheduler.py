"""diffusers' ``FlowMatchEulerDiscreteScheduler``: what its steps are, and are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.parts import (
    judge_sde_step,
    shifted,
)
from gradcheck.reports.text import judgement_text
from parts.base import declared, failed
from parts.steps import make_step


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
    assert passed == {"slope", "sampling", "generator", "determinism", "time-grid"}


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
