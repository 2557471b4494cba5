"""Ranks 1 to 5: weights of the time, masks, guidance, clips and clamps, guards."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradcheck.case import Case
from tests.ranks.base import Loss, Rank, Wrong
from tests.ranks.formulas import AWM, GRPO, LOG_RATIO, PPO, log_prob, log_ratio, mean, mse, over_mask, ppo, ratio, step

__all__ = ["CLIPS", "GUARDS", "GUIDANCE", "MASKS", "TIME_WEIGHTS"]


def _error(c: Case) -> Tensor:
    return c.advantage * mse(c.v_theta, c.v_gt)


def _snr(c: Case) -> Tensor:
    return ((1 - c.t) / c.t) ** 2


def _logit_normal(t: Tensor) -> Tensor:
    return torch.exp(-(torch.log(t / (1 - t)) ** 2) / 2) / (t * (1 - t) * math.sqrt(2 * math.pi))


TIME_WEIGHTS = Rank(
    "a weight of the time",
    {
        "min-snr": Loss(
            {**AWM, "weight": "min(5, (1-t)**2/t**2)"},
            lambda c: _snr(c).clamp(max=5) * _error(c),
            {"max-for-min": Wrong(lambda c: _snr(c).clamp(min=5) * _error(c)), "none": Wrong(_error, "weight=None")},
        ),
        "density": Loss(
            {**AWM, "weight": "exp(-log(t/(1-t))**2/2)/(t*(1-t)*sqrt(2*pi))"},
            lambda c: _logit_normal(c.t) * _error(c),
            {"none": Wrong(_error, "weight=None"), "squared": Wrong(lambda c: _logit_normal(c.t) ** 2 * _error(c))},
        ),
        "inverse": Loss(
            {**GRPO, "weight": "1/(t**2 + 0.01)"},
            lambda c: ppo(c.advantage, ratio(c)) / (c.t**2 + 0.01),
            {"none": Wrong(lambda c: ppo(c.advantage, ratio(c)), "weight=None")},
        ),
        "discount": Loss(
            {**GRPO, "weight": "exp(-0.5*t)"},
            lambda c: torch.exp(-0.5 * c.t) * ppo(c.advantage, ratio(c)),
            {"of-the-other-end": Wrong(lambda c: torch.exp(-0.5 * (1 - c.t)) * ppo(c.advantage, ratio(c)))},
        ),
    },
)


def _masked_ratio(c: Case, everywhere: bool = True) -> Tensor:
    def own(v: Tensor, masked: bool) -> Tensor:
        mu, std = step(c, v)
        each = -((c.x_prev - mu) ** 2) / (2 * std**2)
        return over_mask(c, each) if masked else mean(each)

    return (own(c.v_theta, True) - own(c.v_old, everywhere)).exp()


def _of_tokens(c: Case) -> Tensor:
    return ((c.v_theta - c.v_gt) ** 2).mean(2) * c.mask


def _counted(c: Case, each: Tensor) -> Tensor:
    return (each * c.mask).sum() / c.mask.sum()


def _rows(c: Case) -> Tensor:
    return ppo(c.advantage[:, None], ratio(c))


MASKS = Rank(
    "masks",
    {
        "coordinates": Loss(
            {**AWM, "mask": "coordinates"},
            lambda c: c.advantage * over_mask(c, (c.v_theta - c.v_gt) ** 2),
            {
                "mean": Wrong(
                    lambda c: c.advantage * mean(c.mask * (c.v_theta - c.v_gt) ** 2), "mask_reduction='mean'"
                ),
                "forgotten": Wrong(_error),
            },
        ),
        "coordinates of a step": Loss(
            {**GRPO, "mask": "coordinates"},
            lambda c: ppo(c.advantage, _masked_ratio(c)),
            {"half": Wrong(lambda c: ppo(c.advantage, _masked_ratio(c, False)))},
        ),
        "tokens": Loss(
            {**AWM, "mask": "tokens", "latent_axes": 2},
            lambda c: c.advantage * _of_tokens(c).sum(1) / c.mask.sum(1),
            {"mean": Wrong(lambda c: c.advantage * _of_tokens(c).mean(1), "mask_reduction='mean'")},
        ),
        "samples": Loss(
            {**AWM, "mask": "samples"},
            lambda c: _counted(c, _error(c)),
            {
                "mean": Wrong(lambda c: (c.mask * _error(c)).mean(), "mask_reduction='mean'"),
                "forgotten": Wrong(_error),
            },
        ),
        "padded rows": Loss(
            {**GRPO, "steps": True, "mask": "samples"},
            lambda c: _counted(c, _rows(c)),
            {"mean": Wrong(lambda c: (c.mask * _rows(c)).mean(), "mask_reduction='mean'")},
        ),
    },
)


def _guided(c: Case, w: float, live: bool = True) -> Tensor:
    base = c.v_uncond if live else c.v_uncond.detach()
    return base + w * (c.v_cond - base)


def _guided_ppo(c: Case, v: Tensor) -> Tensor:
    return ppo(c.advantage, (log_prob(c, v) - log_prob(c, c.v_old)).exp())


GUIDANCE = Rank(
    "guidance, both branches live",
    {
        "step": Loss(
            {**GRPO, "guidance": 4.0},
            lambda c: _guided_ppo(c, _guided(c, 4.0)),
            {"detached": Wrong(lambda c: _guided_ppo(c, _guided(c, 4.0, live=False)), "guidance-detached")},
        ),
        "regression": Loss(
            {**AWM, "guidance": True},
            lambda c: c.advantage * mse(_guided(c, c.guidance_scale), c.v_gt),
            {
                "detached": Wrong(
                    lambda c: c.advantage * mse(_guided(c, c.guidance_scale, live=False), c.v_gt), "guidance-detached"
                ),
                "conditional": Wrong(lambda c: c.advantage * mse(c.v_cond, c.v_gt)),
            },
        ),
    },
)


def _dual(c: Case, limit: float) -> Tensor:
    loss = ppo(c.advantage, ratio(c))
    return torch.where(c.advantage < 0, torch.minimum(loss, -limit * c.advantage), loss)


CLIPS = Rank(
    "dual clip, clamps of the log-ratio",
    {
        "dual": Loss(
            {**GRPO, "clip": "dual", "dual_clip": 1.3},
            lambda c: _dual(c, 1.3),
            {"3": Wrong(lambda c: _dual(c, 3.0)), "none": Wrong(lambda c: ppo(c.advantage, ratio(c)))},
        ),
        "clamp": Loss(
            {**GRPO, "log_ratio_max": 0.3},
            lambda c: ppo(c.advantage, log_ratio(c).clamp(-0.3, 0.3).exp()),
            {"one-sided": Wrong(lambda c: ppo(c.advantage, log_ratio(c).clamp(-0.3, 0.15).exp()))},
        ),
        "both": Loss(
            {**GRPO, "clip": "dual", "dual_clip": 3.0, "log_ratio_max": 20.0},
            lambda c: torch.where(
                c.advantage < 0,
                torch.minimum(ppo(c.advantage, log_ratio(c).clamp(-20, 20).exp()), -3 * c.advantage),
                ppo(c.advantage, log_ratio(c).clamp(-20, 20).exp()),
            ),
        ),
    },
)


def _floored(c: Case, floor: float, eps: float = 0.0) -> Tensor:
    """A density whose standard deviation has a floor, or whose variance a small number is added to."""

    def own(v: Tensor) -> Tensor:
        mu, std = step(c, v)
        return mean(-((c.x_prev - mu) ** 2) / (2 * std.clamp(min=floor) ** 2 + eps))

    return ppo(c.advantage, (own(c.v_theta) - own(c.v_old)).exp())


def _data(c: Case) -> Tensor:
    return c.x_t - c.expand(c.t) * c.v_theta


GUARDS = Rank(
    "guards",
    {
        "small number": Loss({**GRPO, "eps": 1e-4}, lambda c: _floored(c, 0.0, 1e-4)),
        "floor": Loss(
            {
                "loss": "s = max(C2, 0.3); "
                "ratio = exp(mean((x_prev-mean_old)**2 - (x_prev-mean_theta)**2)/(2*s**2)); " + PPO
            },
            lambda c: _floored(c, 0.3),
            {"none": Wrong(lambda c: _floored(c, 0.0))},
        ),
        "clipped data": Loss(
            {"loss": "A*mse(clip(x_0_theta, -1, 1), x_0)"},
            lambda c: c.advantage * mse(_data(c).clamp(-1, 1), c.x_0),
            {"unclipped": Wrong(lambda c: c.advantage * mse(_data(c), c.x_0))},
        ),
        "clamped log-probability": Loss(
            {"loss": "p = clip(-mean((x_prev-mean_theta)**2)/(2*C2**2), -0.5, 0.5); -A*p"},
            lambda c: -c.advantage * log_prob(c, c.v_theta).clamp(-0.5, 0.5),
            {"unclamped": Wrong(lambda c: -c.advantage * log_prob(c, c.v_theta))},
        ),
        "clamped ratio": Loss(
            {"loss": LOG_RATIO.replace("exp(l)", "exp(clip(l, -0.1, 0.1))") + PPO},
            lambda c: ppo(c.advantage, log_ratio(c).clamp(-0.1, 0.1).exp()),
            {"unclamped": Wrong(lambda c: ppo(c.advantage, ratio(c)))},
        ),
    },
)
