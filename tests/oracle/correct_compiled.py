"""Right implementations that torch.compile has compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from gradcheck.case import Case

from .base import Correct, correct
from .steps import MEAN, column


@cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compiled where it is first called: importing the compiler takes seconds, and few tests need it."""
    return torch.compile(function, backend="aot_eager", dynamic=True)


def _quietly(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The compiler looks at .grad of its inputs, and torch warns where they are no leaves.

    It compiles anew for each precision and for each size of 1 (a batch, a latent), which is more than its limit.
    """
    compiled = _compiled(function)
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # torch < 2.7
    with warnings.catch_warnings(), torch._dynamo.config.patch({limit: 64}):
        warnings.simplefilter("ignore")
        return compiled(*inputs)


def _flow_loss(
    v: Tensor, v_old: Tensor, x: Tensor, x_prev: Tensor, t: Tensor, dt: Tensor, advantage: Tensor, level: Tensor
) -> Tensor:
    t, dt = column(t, v), column(dt, v)
    variance = level**2 * t / (1 - t)
    gain, offset = dt * (1 + variance * (1 - t) / (2 * t)), x * (1 - variance * dt / (2 * t))
    new, old = ((x_prev - offset + gain * u) ** 2 for u in (v, v_old))
    ratio = torch.exp(((old - new) / (2 * variance * dt)).flatten(1).mean(1))
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2)).mean()


@correct("flow_grpo", clip_range=0.2, **MEAN)
def compiled(case: Case) -> Tensor:
    level = torch.as_tensor(case.noise_level, dtype=case.t.dtype)
    inputs = (case.v_theta, case.v_old, case.x_t, case.x_prev, case.t, case.dt, case.advantage, level)
    return _quietly(_flow_loss, *(x.flatten(1) if x.ndim > 1 else x for x in inputs))


def _nft_loss(v: Tensor, v_old: Tensor, v_gt: Tensor, r: Tensor, beta: Tensor) -> Tensor:
    step = beta * (v - v_old)
    good, bad = ((v_old + s * step - v_gt).square().flatten(1).sum(1) for s in (1, -1))
    return (r * good + (1 - r) * bad).mean()


@correct("diffusion_nft")
def compiled_contrast(case: Case) -> Tensor:
    beta = torch.as_tensor(case.beta, dtype=case.v_gt.dtype)
    latents = (x.flatten(1) for x in (case.v_theta, case.v_old, case.v_gt))
    return _quietly(_nft_loss, *latents, case.reward_prob, beta)


CORRECT: tuple[Correct, ...] = tuple(x for x in list(globals().values()) if isinstance(x, Correct))
"""All of this file, in its order."""
