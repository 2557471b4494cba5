"""A reverse step whose standard deviation is kept from 0: where, how, and by which number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradcheck.parts import judge_sde_step

Guard = Callable[[Tensor], Tensor]


def as_it_is(s: Tensor) -> Tensor:
    return s


def step(
    sigma_guard: Guard = as_it_is,
    everywhere: Guard = as_it_is,
    log_prob: Guard = as_it_is,
    exponent: Guard = as_it_is,
    returned: Guard = as_it_is,
    kind: str = "dance",
) -> Callable[..., tuple[Tensor, ...]]:
    """A step of the Dance or CPS kind with guards in their places."""

    def function(
        v: Tensor,
        x_t: Tensor,
        t: Tensor,
        t_prev: Tensor,
        x_prev: Tensor | None = None,
        noise_level: float = 0.7,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, ...]:
        t, t_prev = (s.reshape(-1, *(1,) * (v.ndim - 1)) for s in (t, t_prev))
        dt = t - t_prev
        if kind == "cps":
            std = t_prev * math.sin(noise_level * math.pi / 2)
            mean = (x_t - t * v) * (1 - t_prev) + (x_t + (1 - t) * v) * (t_prev**2 - std**2).sqrt()
        else:
            std = sigma_guard(noise_level * torch.ones_like(t)) * dt.sqrt()
            mean = x_t - dt * (v + noise_level**2 / (2 * t) * (x_t + (1 - t) * v))
        std = everywhere(std)
        if x_prev is None:
            x_prev = (mean + std * torch.randn(v.shape, generator=generator, dtype=v.dtype)).detach()
        s = log_prob(std)
        density = -((x_prev - mean) ** 2) / (2 * exponent(s) ** 2) - s.log() - math.log(2 * math.pi) / 2
        return x_prev, density.flatten(1).mean(1), mean, returned(std)

    return function


@pytest.mark.parametrize(
    ("where", "guard", "name", "words", "kind"),
    [
        (
            "log_prob",
            lambda s: s.clamp(min=0.1),
            "std-floor",
            "log-probability is clamped from below, to at least 0.1",
            "cps",
        ),
        ("log_prob", lambda s: s + 0.003, "std-shifted", "in the log-probability has 0.003 added to it", "dance"),
        ("exponent", lambda s: (s**2 + 1e-6).sqrt(), "std-shifted", "exponent has 1e-06 added to its square", "cps"),
        (
            "everywhere",
            lambda s: s.clamp(min=0.07),
            "std-floor",
            "deviation is clamped from below, to at least 0.07",
            "dance",
        ),
        ("returned", lambda s: s + 1e-8, "std-shifted", "that is returned has 1e-08 added to it", "dance"),
        (
            "sigma_guard",
            lambda s: s.clamp(min=0.6),
            "std-floor",
            "has its σ_t clamped from below, to at least 0.6",
            "dance",
        ),
    ],
)
def test_a_guard_of_the_standard_deviation_is_named_with_its_number(
    where: str, guard: Guard, name: str, words: str, kind: str
) -> None:
    judgement = judge_sde_step(step(**{where: guard}, kind=kind), sde=kind)  # type: ignore[arg-type]
    told = {r.id: r.diagnosis for r in judgement.results if r.diagnosis is not None}
    first = told["std"] if where in ("everywhere", "returned", "sigma_guard") else told["log-prob"]
    assert first.name == name, first.cause
    assert words in first.cause
    assert {d.cause for d in told.values() if d.name != "unknown"} == {first.cause}


def test_a_guard_is_not_blamed_for_another_mistake_nor_named_in_a_right_step() -> None:
    """Two mistakes in two obligations: each has its own cause."""

    def both(v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, *more: Tensor, **given: float) -> tuple[Tensor, ...]:
        x_prev, density, mean, std = step(log_prob=lambda s: s.clamp(min=0.1))(v, x_t, t, t_prev, *more, **given)
        return x_prev, density, mean, std**2

    told = {r.id: r.diagnosis for r in judge_sde_step(both, sde="dance").results if r.diagnosis is not None}
    assert (told["std"].name, told["log-prob"].name) == ("returned-variance", "std-floor")
    assert judge_sde_step(step(), sde="dance").holds
