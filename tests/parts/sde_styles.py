"""One reverse step written in many ways, all of them right: other orders of evaluation, other parameterisations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["KINDS", "STYLES", "column", "single_inside_double", "styled"]

Mean = Callable[[str, Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def column(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(-1, *(1,) * (like.ndim - 1))


SIGMA_MIN = 0.05


def sigma_of(kind: str, t: Tensor, t_prev: Tensor, level: float) -> Tensor:
    if kind == "flow":
        return level * torch.sqrt(t / (1 - torch.where(t == 1, t_prev, t)))
    if kind == "wan":
        return SIGMA_MIN + (level - SIGMA_MIN) * t
    return torch.full_like(t, level)


def std_of(kind: str, t: Tensor, t_prev: Tensor, level: float) -> Tensor:
    if kind == "cps":
        return t_prev * math.sin(level * math.pi / 2)
    return sigma_of(kind, t, t_prev, level) * torch.sqrt(t - t_prev)


def coefficients(kind: str, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the predicted data and noise in the mean, and the standard deviation."""
    std = std_of(kind, t, t_prev, level)
    kept = torch.sqrt(t_prev**2 - std**2) if kind == "cps" else t_prev - std**2 / (2 * t)
    return 1 - t_prev, kept, std


def canonical(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """As the sources write it."""
    if kind == "cps":
        return predictions(kind, v, x, t, t_prev, level)
    s, dt = sigma_of(kind, t, t_prev, level), t_prev - t
    mean = x * (1 + s**2 / (2 * t) * dt) + v * (1 + s**2 * (1 - t) / (2 * t)) * dt
    return mean, s * torch.sqrt(-dt)


def drift(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The velocity and a correction along the score −ε̂/t."""
    std = std_of(kind, t, t_prev, level)
    score = -(x + (1 - t) * v) / t
    if kind == "cps":
        kept = torch.sqrt(t_prev**2 - std**2)
        return x + (t_prev - t) * v + (t_prev - kept) * t * score, std
    return x - v * (t - t_prev) + std**2 / 2 * score, std


def predictions(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """a·x̂_0 + b·ε̂, as DDIM is written."""
    a, b, std = coefficients(kind, t, t_prev, level)
    return a * (x - t * v) + b * (x + (1 - t) * v), std


def noise_prediction(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """For a network that predicts ε̂: the velocity is (ε̂ − x)/(1 − t)."""
    noise = x + (1 - t) * v
    again = torch.where(t == 1, v, (noise - x) / torch.where(t == 1, torch.ones_like(t), 1 - t))
    return canonical(kind, again, x, t, t_prev, level)


def data_prediction(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """For a network that predicts x̂_0: the velocity is (x − x̂_0)/t."""
    return canonical(kind, (x - (x - t * v)) / t, x, t, t_prev, level)


def score_of_data(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """The score from the predicted data, −(x − (1 − t)x̂_0)/t²."""
    data, std = x - t * v, std_of(kind, t, t_prev, level)
    noise = (x - (1 - t) * data) / t
    if kind == "cps":
        return (1 - t_prev) * data + torch.sqrt(t_prev**2 - std**2) * noise, std
    return x + v * (t_prev - t) + 0.5 * std**2 * (-(x - (1 - t) * data) / t**2), std


def grid(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Δt from the differences of a grid that holds both times."""
    steps = torch.stack([t, t_prev]).diff(dim=0)[0]
    return canonical(kind, v, x, t, t + steps, level)


def complement(kind: str, v: Tensor, x: Tensor, t: Tensor, t_prev: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """With data at 1 and noise at 0, as flow matching is written elsewhere."""
    s, s_prev = 1 - t, 1 - t_prev
    std = std_of(kind, t, t_prev, level)
    if kind == "cps":
        kept = torch.sqrt((1 - s_prev) ** 2 - std**2)
        return s_prev * (x - (1 - s) * v) + kept * (x + s * v), std
    return x - (s_prev - s) * v - std**2 / (2 * (1 - s)) * (x + s * v), std


STYLES: dict[str, Mean] = {
    f.__name__: f
    for f in (
        canonical,
        drift,
        predictions,
        noise_prediction,
        data_prediction,
        score_of_data,
        grid,
        complement,
    )
}
KINDS = ("flow", "dance", "cps", "wan")


def squares(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -((x - mean) ** 2) / (2 * std**2) - torch.log(std) - math.log(math.sqrt(2 * math.pi))


def standardised(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return -0.5 * (((x - mean) / std).square() + 2 * std.log() + math.log(2 * math.pi))


def library(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(x)


def styled(kind: str, style: str, dtype: torch.dtype | None = None) -> Callable[..., Any]:
    """The step of a kind in a style; the density's style goes with it.  With a dtype, everything is cast to it."""
    names = list(STYLES)
    density = (squares, standardised, library)[names.index(style) % (2 if kind == "cps" else 3)]

    def step(
        v: Tensor,
        x_t: Tensor,
        t: Tensor,
        t_prev: Tensor,
        x_prev: Tensor | None = None,
        noise_level: float = 0.7,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own = v.dtype
        if dtype is not None:
            v, x_t, t, t_prev = (x.to(dtype) for x in (v, x_t, t, t_prev))
        mean, std = STYLES[style](kind, v, x_t, column(t, v), column(t_prev, v), noise_level)
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype)
        state = (mean + std * noise).detach() if x_prev is None else x_prev.to(v.dtype)
        log_prob = density(state, mean, std).flatten(1).mean(1)
        return state.to(own), log_prob.to(own), mean.to(own), std.to(own)

    return step


def single_inside_double(kind: str) -> Callable[..., Any]:
    """A step that casts to float32 inside and returns what it was given."""
    return styled(kind, "canonical", torch.float32)
