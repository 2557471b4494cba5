"""The reverse step: right ones conform, wrong ones fail by name and with their cause."""

from __future__ import annotations

import pytest
import torch

from gradcheck.parts import (
    judge_sde_step,
)
from gradcheck.reports.text import judgement_text
from parts.base import declared, failed
from parts.steps import constant_sigma, cps, distribution_style, in_place, make_step, without_normaliser

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


def test_a_wrong_declaration_of_a_step_is_named() -> None:
    assert declared(judge_sde_step(cps)) & {"sde='cps'", "log_prob_scale='unit'"}
    assert "log_prob_normaliser='none'" in declared(judge_sde_step(without_normaliser, log_prob_normaliser="full"))
    assert "at_one='next'" in declared(judge_sde_step(RIGHT_STEPS["at-one"][0]))


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


def test_noise_that_is_there_is_not_said_to_be_missing() -> None:
    """Without noise the required log-density is infinite on the grid, which explains any failure there."""
    for wrong in (make_step(spread=lambda S: S / 2), make_step(std_power=0.0)):
        assert "no-noise" not in failed(judge_sde_step(wrong)).values()
