r"""Two samplers on one grid of times, from 1 (noise) down to 0 (data).

The *deterministic* one follows the velocity, x ← x − Δt v.  The *stochastic* one adds noise at every step and
corrects the drift for it, so that the states keep their distribution; its step is the Flow-SDE of
:mod:`derivations.steps.sde`, whose formulas are evaluated here.  Its coefficient σ_t diverges at t = 1, and noise at
the very end would blur the finished sample: the first and the last step are deterministic, and only the steps between
have a density that a policy gradient can differentiate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp
import torch
from torch import Tensor

from derivations import notation
from derivations.steps.sde import reverse_step
from gradcheck.errors import InputError

__all__ = ["Rollout", "Velocity", "coefficients", "grid", "ode", "sde"]

Velocity = Callable[[Tensor, float], Tensor]
r"""States (\*any, 2) and a time → velocities of the states' shape."""


def grid(steps: int) -> list[float]:
    """Equally spaced times from 1 to 0.

    Raises:
        InputError: fewer than three steps, so that none would be stochastic.
    """
    if steps < 3:
        raise InputError(("steps", repr(steps), "3 or more"))
    return [1 - i / steps for i in range(steps)] + [0.0]


@lru_cache(maxsize=1)
def _formulas() -> Callable[[float, float, float], tuple[float, float, float]]:
    step = reverse_step("flow")
    sigma = step.formulas[notation.sigma_t]
    wanted = [step.formulas[s].xreplace({notation.sigma_t: sigma}) for s in (notation.C1, notation.C2)]
    offset = step.formulas[notation.mean_offset].xreplace({notation.x_t: sp.S.One, notation.sigma_t: sigma})
    arguments = (notation.t, notation.dt, notation.noise_level)
    function: Callable[[float, float, float], tuple[float, float, float]] = sp.lambdify(
        arguments, (offset, *wanted), "math"
    )
    return function


def coefficients(t: float, dt: float, noise_level: float) -> tuple[float, float, float]:
    """The Flow-SDE's step is x_prev = a·x_t − C1·v + C2·noise: returns a, C1 and C2."""
    return _formulas()(t, dt, noise_level)


def ode(velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """Finished samples from noise x, both (…, 2)."""
    times = grid(steps)
    for t, after in itertools.pairwise(times):
        x = x - (t - after) * velocity(x, t)
    return x


@dataclass(frozen=True)
class Rollout:
    """One stochastic run of the sampler, with its K stochastic steps.

    Attributes:
        x_0: finished samples, (…, 2).
        x_t, noise, v_old, x_prev: each step's state, fresh noise, velocity and next state, (…, K, 2).
        t, dt: times and lengths of those steps, (K,).
    """

    x_0: Tensor
    x_t: Tensor
    noise: Tensor
    v_old: Tensor
    x_prev: Tensor
    t: Tensor
    dt: Tensor


def sde(velocity: Velocity, x: Tensor, noise: Tensor, steps: int, noise_level: float) -> Rollout:
    """Sample stochastically.

    Args:
        velocity: of the behaviour model, the one that samples.
        x: initial noise, (…, 2).
        noise: of the steps, (…, steps − 2, 2).
        steps: of the grid.
        noise_level: η in σ_t = η √(t/(1 − t)).
    """
    times = grid(steps)
    record: dict[str, list[Tensor]] = {"x_t": [], "v_old": [], "x_prev": []}
    for i, (t, after) in enumerate(itertools.pairwise(times)):
        v = velocity(x, t)
        if i in (0, steps - 1):
            x = x - (t - after) * v
            continue
        a, c1, c2 = coefficients(t, t - after, noise_level)
        new = a * x - c1 * v + c2 * noise[..., i - 1, :]
        for name, value in zip(record, (x, v, new), strict=True):
            record[name].append(value)
        x = new
    stacked = {name: torch.stack(values, dim=-2) for name, values in record.items()}
    between = torch.tensor(times, dtype=x.dtype, device=x.device)
    return Rollout(x_0=x, noise=noise, t=between[1:-2], dt=(between[:-1] - between[1:])[1:-1], **stacked)
