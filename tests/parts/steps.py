"""Reverse steps, with a switch for each mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def column(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(-1, *(1,) * (like.ndim - 1))


def make_step(
    *,
    sigma: Callable[[Tensor, Tensor, float], Tensor] = lambda T, P, a: (
        torch.sqrt(T / (1 - torch.where(T == 1, P, T))) * a
    ),
    score: float = 1.0,
    spread: Callable[[Tensor], Tensor] = lambda S: S,
    dt_sign: float = 1.0,
    std_power: float = 0.5,
    returned: Callable[[Tensor, Tensor], Tensor] = lambda S, h: S,
    density: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
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
        S = spread(s * (-dt) ** std_power)
        given = x_prev if replayed else None
        noise = torch.randn(v.shape, generator=generator, dtype=v.dtype) if draw is None else draw(v, generator)
        state = (mean + S * noise).detach() if given is None else given
        lp = -((state - mean) ** 2) / (half * S**2) - torch.log(S) - (math.log(2 * math.pi) / 2 if two_pi else 0.0)
        if density is not None:
            lp = density((state - mean) ** 2, S, -dt)
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


def make_cps(
    *,
    std: Callable[[Tensor, Tensor], Tensor] = lambda T, P: P,
    signal: Callable[[Tensor, Tensor], Tensor] = lambda T, P: 1 - P,
    kept: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda T, P, S: (P**2 - S**2).sqrt(),
) -> Callable[..., Any]:
    """CPS with another deviation, share of the predicted data, or share of the predicted noise."""

    def step(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
        T, P = column(t, v), column(t_prev, v)
        S = std(T, P) * math.sin(noise_level * math.pi / 2)
        mean = (x_t - T * v) * signal(T, P) + (x_t + (1 - T) * v) * kept(T, P, S)
        if x_prev is None:
            x_prev = (mean + S * torch.randn(v.shape, generator=generator, dtype=v.dtype)).detach()
        return x_prev, -((x_prev - mean) ** 2).flatten(1).mean(1), mean, S

    return step


def over_root(*args: Any, **named: Any) -> Any:
    """The log-probability is the sum over √D."""
    x_prev, log_prob, mean, std = make_step(reduce="sum")(*args, **named)
    return x_prev, log_prob / mean[0].numel() ** 0.5, mean, std


def without_normaliser(*args: Any, **named: Any) -> Any:
    x_prev, log_prob, mean, std = make_step(two_pi=False)(*args, **named)
    return x_prev, log_prob + column(std, mean).log().flatten(1).mean(1), mean, std
