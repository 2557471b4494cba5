"""Training steps of policy-gradient and forward-process losses as trainers write them, right unless told otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GRID = torch.linspace(1, 0, 11)
NOISE_LEVEL, CLIP = 0.7, 1e-2


def column(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, 1, 1)


def sde_step(v: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, level: float = NOISE_LEVEL) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of Flow-SDE's step."""
    t, dt = column(t), column(t - t_prev)
    sigma = level * torch.sqrt(t / (1 - t))
    mean = x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return mean, sigma * torch.sqrt(dt)


def log_prob(v: Tensor, x_prev: Tensor, *step: Any) -> Tensor:
    mean, std = sde_step(v, *step)
    dense = -((x_prev - mean) ** 2) / (2 * std**2) - torch.log(std) - 0.5 * math.log(2 * math.pi)
    return dense.flatten(1).mean(1)


class PolicyStep:
    """One Flow-GRPO step: what the trainer has at hand, and its loss.

    Attributes:
        call: what is handed to the watch.
    """

    def __init__(
        self,
        seed: int = 0,
        off: float = 0.01,
        dtype: torch.dtype = torch.float32,
        batch: int = 4,
        latent: tuple[int, ...] = (8, 6, 5),
        leaf: bool = True,
    ) -> None:
        g = torch.Generator().manual_seed(seed)

        def normal() -> Tensor:
            return torch.randn((batch, *latent), generator=g)

        index = 1 + torch.randperm(8, generator=g)[:batch]
        t, t_prev = GRID[index], GRID[index + 1]
        x_t, v_old = normal(), normal().to(dtype)
        mean, std = sde_step(v_old.float(), x_t, t, t_prev)
        self.noise = normal()
        v = (v_old.float() + off * normal()).to(dtype).requires_grad_()
        self.call: dict[str, Any] = {
            "v_theta": v if leaf else v * 1.0,
            "v_old": v_old,
            "x_t": x_t,
            "x_prev": mean + std * self.noise,
            "t": t,
            "t_prev": t_prev,
            "advantage": torch.randn(batch, generator=g),
            "noise_level": NOISE_LEVEL,
        }

    def loss(self, **changed: Any) -> Tensor:
        """The mean of PPO's surrogate, of what the trainer has, or of something else."""
        c = {**self.call, **changed}
        step = (c["x_prev"], c["x_t"], c["t"], c["t_prev"], c["noise_level"])
        ratio = torch.exp(log_prob(c["v_theta"].float(), *step) - log_prob(c["v_old"].float(), *step).detach())
        a = c["advantage"]
        return torch.maximum(-a * ratio, -a * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()


DECLARED: dict[str, Any] = {"log_prob_reduction": "mean", "clip_range": CLIP}


class ForwardStep:
    """One DiffusionNFT step in velocities, β = ½."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32, latent: tuple[int, ...] = (3, 5, 4)) -> None:
        g = torch.Generator().manual_seed(seed)
        batch = 4

        def normal() -> Tensor:
            return torch.randn((batch, *latent), generator=g)

        x_0, noise, t = normal(), normal(), 0.1 + 0.8 * torch.rand(batch, generator=g)
        self.call: dict[str, Any] = {
            "v_theta": normal().to(dtype).requires_grad_(),
            "v_old": normal().to(dtype),
            "x_0": x_0,
            "noise": noise,
            "x_t": (1 - column(t)) * x_0 + column(t) * noise,
            "t": t,
            "reward_prob": torch.rand(batch, generator=g),
            "beta": 0.5,
        }

    def loss(self, read: Callable[[Tensor], Tensor] = lambda v: v.float(), **changed: Any) -> Tensor:
        c = {**self.call, **changed}
        v_gt, old, beta, r = c["noise"] - c["x_0"], c["v_old"].float(), c["beta"], c["reward_prob"]
        v = read(c["v_theta"])
        plus, minus = (1 - beta) * old + beta * v, (1 + beta) * old - beta * v
        errors = [((x - v_gt) ** 2).flatten(1).sum(1) for x in (plus, minus)]
        return (r * errors[0] + (1 - r) * errors[1]).mean()
