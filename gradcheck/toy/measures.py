r"""What is measured of a model: its samples, its drift from the base model, and the noise of a method's gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.toy.network import Draws, flat, replicate, velocity
from gradcheck.toy.rewards import reward
from gradcheck.toy.sampling import ode, sde
from gradcheck.toy.training import Settings, Trainer

__all__ = ["GradientNoise", "gradient_noise", "gradients", "reward_gradients", "samples", "sliced_wasserstein"]

_DIRECTIONS = 64


@torch.no_grad()
def samples(parameters: Sequence[Tensor], start: Tensor, steps: int = 20) -> Tensor:
    """Finished samples, (S, N, 2), of the deterministic sampler from noise (N, 2), the same for every seed."""
    return ode(lambda x, t: velocity(parameters, x, t), start.expand(len(parameters[0]), -1, -1), steps)


def sliced_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    r"""Distance of two samples, (…, N, 2) and (N, 2) → (…).

    The root mean square, over directions in the plane, of the distance that the points' projections have to be moved
    for one sample to become the other: 0 for equal distributions, and √(‖shift‖²/2) for a shift of all points.
    """
    angle = torch.arange(_DIRECTIONS, dtype=a.dtype, device=a.device) * (math.pi / _DIRECTIONS)
    directions = torch.stack([angle.cos(), angle.sin()])
    left, right = ((x @ directions).sort(dim=-2).values for x in (a, b))
    return (left - right).square().mean((-2, -1)).sqrt()


def gradients(trainer: Trainer, seed: int, copies: int, rollouts: int = 0) -> Tensor:
    """Gradients of independent rollouts at the parameters of a trainer's first seed, (copies, P).

    Each is the gradient of an iteration's first update.  The trainer is left as it is.

    Args:
        trainer: with its behaviour model.
        seed: of the first rollout; the others have the seeds that follow.
        copies: number of rollouts.
        rollouts: samples of each; the method's own number by default.
    """
    first, method = [p[:1] for p in trainer.old], trainer.method
    twin = Trainer(method.but(samples=rollouts or method.samples), first, range(seed, seed + copies), trainer.settings)
    twin.parameters = [p.requires_grad_() for p in replicate([p[:1] for p in trainer.parameters], copies)]
    loss = twin.losses(twin.case(twin.batch(twin.collect()))).sum()
    return flat(torch.autograd.grad(loss, twin.parameters)).to(torch.float64)


def reward_gradients(
    parameters: Sequence[Tensor], seed: int, copies: int, samples: int, settings: Settings, stochastic: bool = False
) -> Tensor:
    r"""Gradients of the mean reward itself, through the sampler, (copies, P): what no trainer of images can have.

    Args:
        parameters: the first seed's count.
        seed: of the first estimate's noise.
        copies: independent estimates.
        samples: of each estimate.
        settings: the sampler's steps and noise level.
        stochastic: differentiate the stochastic sampler, in its stochastic steps alone, which is the gradient that a
            policy gradient estimates; by default, the deterministic sampler.
    """
    leaves = [p.requires_grad_() for p in replicate([p[:1] for p in parameters], copies)]
    fixed = [p.detach() for p in leaves]
    draws = Draws(range(seed, seed + copies), leaves[0].dtype)
    start = draws.normal(samples, 2)
    if stochastic:
        noise = draws.normal(samples, settings.rows, 2)
        ends = (1.0, 1 / settings.steps)

        def of_step(x: Tensor, t: float) -> Tensor:
            return velocity(fixed if any(math.isclose(t, end) for end in ends) else leaves, x, t)

        x_0 = sde(of_step, start, noise, settings.steps, settings.noise_level).x_0
    else:
        x_0 = ode(lambda x, t: velocity(leaves, x, t), start, settings.steps)
    found = torch.autograd.grad(reward(x_0).mean(1).sum(), leaves)
    return flat(found).to(torch.float64)


@dataclass(frozen=True)
class GradientNoise:
    r"""How much of a batch's gradient is signal.

    Attributes:
        signal: ‖E g‖², estimated without bias from independent batches.
        noise: E‖g − E g‖², the total variance of one batch's gradient.
        samples: of one batch.
        alignment: cosine of −E g and the gradient of the reward; 1 if the method climbs straight.
    """

    signal: float
    noise: float
    samples: int
    alignment: float

    @property
    def critical_batch(self) -> float:
        """Samples that a batch needs for its gradient's noise to be no larger than its signal."""
        return self.samples * self.noise / self.signal if self.signal > 0 else math.inf

    @property
    def step_alignment(self) -> float:
        """Cosine that one batch's gradient has with the gradient of the reward, in the root mean square."""
        return self.alignment * math.sqrt(max(self.signal, 0.0) / (self.signal + self.noise))


def gradient_noise(found: Tensor, samples: int, ascent: Tensor) -> GradientNoise:
    """Statistics of independent gradients, (M, P), beside independent gradients of the reward, (M', P).

    Raises:
        InputError: fewer than two gradients of either.
    """
    if min(len(found), len(ascent)) < 2:
        raise InputError(("gradients", f"{len(found)} and {len(ascent)}", "two or more of each"))
    signal, noise = _moments(found)
    length, _ = _moments(ascent)
    inner = float(-(found.mean(0) * ascent.mean(0)).sum())
    alignment = inner / math.sqrt(signal * length) if signal > 0 and length > 0 else math.nan
    return GradientNoise(signal, noise, samples, alignment)


def _moments(g: Tensor) -> tuple[float, float]:
    """‖E g‖² without bias (the mean's own variance is subtracted), and the total variance."""
    noise = float(g.var(0).sum())
    return float((g.mean(0) ** 2).sum()) - noise / len(g), noise
