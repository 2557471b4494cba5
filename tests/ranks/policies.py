"""Ranks 6 to 8, 10 and 12 to 14: precision, rows, divergences, joint steps, other surrogates and frameworks' own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gradcheck.case import Case
from tests.ranks.base import Loss, Rank, Wrong
from tests.ranks.formulas import AWM, GRPO, LOG_RATIO, PPO, log_prob, log_ratio, mean, mse, ppo, ratio, step

__all__ = ["AUTOCAST", "COORDINATES", "DIVERGENCES", "FRAMEWORKS", "JOINT", "ROWS", "SURROGATES"]


def _grpo(c: Case) -> Tensor:
    return ppo(c.advantage, ratio(c))


AUTOCAST = Rank(
    "a network in bfloat16, the loss in float32",
    {
        "images": Loss(
            {**GRPO, "clip_range": 1e-4, "latent_axes": 3},
            lambda c: ppo(c.advantage, ratio(c), 1e-4, 1e-4),
            {"percent": Wrong(lambda c: 1.01 * ppo(c.advantage, ratio(c), 1e-4, 1e-4), "factor")},
        ),
        "tokens": Loss(
            {**AWM, "latent_axes": 2},
            lambda c: c.advantage * mse(c.v_theta, c.v_gt),
            {"percent": Wrong(lambda c: 0.99 * c.advantage * mse(c.v_theta, c.v_gt), "factor")},
        ),
    },
)

ROWS = Rank(
    "rows of steps, one advantage a row",
    {
        "grpo": Loss(
            {**GRPO, "steps": True},
            lambda c: ppo(c.advantage[:, None], ratio(c)),
            {
                "averaged": Wrong(lambda c: ppo(c.advantage.mean(), ratio(c))),
                "added up": Wrong(lambda c: ppo(c.advantage[:, None], ratio(c)).sum(1)),
            },
        ),
        "awm": Loss(
            {**AWM, "steps": True},
            lambda c: c.advantage[:, None] * ((c.v_theta - c.v_gt) ** 2).flatten(2).mean(2),
            {"first": Wrong(lambda c: c.advantage * ((c.v_theta - c.v_gt) ** 2).flatten(2).mean(2)[:, 0])},
        ),
    },
)


def _estimated(c: Case, v: Tensor, kind: str) -> Tensor:
    new = log_prob(c, c.v_theta)
    s = log_prob(c, v) - new
    term = {"k1": -s, "k2": s**2 / 2, "k3": s.exp() - 1 - s, "k3-of-the-other": (-s).exp() - 1 + s}[kind]
    return _grpo(c) + c.kl_weight * term


def _means(c: Case) -> Tensor:
    return _grpo(c) + c.kl_weight * mse(step(c, c.v_theta)[0], step(c, c.v_ref)[0])


def _elbo(c: Case, denominator: float = 2.0) -> Tensor:
    sigma2 = c.noise_level**2 * c.t / (1 - c.t)
    held = c.kl_weight * mse(c.v_theta, c.v_ref) / (denominator * sigma2)
    r = (mse(c.v_old, c.v_gt) - mse(c.v_theta, c.v_gt)).exp()
    return ppo(c.advantage, r) + held


DIVERGENCES = Rank(
    "other terms that hold the policy",
    {
        "k1": Loss(
            {**GRPO, "kl": "k1"},
            lambda c: _estimated(c, c.v_ref, "k1"),
            {"k2": Wrong(lambda c: _estimated(c, c.v_ref, "k2"), "kl='k2'")},
        ),
        "k2": Loss(
            {**GRPO, "kl": "k2", "kl_to": "old"},
            lambda c: _estimated(c, c.v_old, "k2"),
            {"k3": Wrong(lambda c: _estimated(c, c.v_old, "k3"), "kl='k3'")},
        ),
        "k3": Loss(
            {**GRPO, "kl": "k3"},
            lambda c: _estimated(c, c.v_ref, "k3"),
            {"of-the-other": Wrong(lambda c: _estimated(c, c.v_ref, "k3-of-the-other"))},
        ),
        "behaviour": Loss(
            {**GRPO, "kl": "behaviour", "time_weight": "window"},
            lambda c: c.window * (_grpo(c) + c.kl_weight * log_ratio(c) ** 2 / 2),
            {"whole": Wrong(lambda c: c.window * (_grpo(c) + c.kl_weight * log_ratio(c) ** 2))},
        ),
        "velocity": Loss(
            {**GRPO, "kl": "velocity"},
            lambda c: _grpo(c) + c.kl_weight * mse(c.v_theta, c.v_ref),
            {"no-grad": Wrong(lambda c: _grpo(c) + c.kl_weight * mse(c.v_theta, c.v_ref).detach())},
        ),
        "means": Loss(
            {**GRPO, "kl": "mean"},
            _means,
            {"velocities": Wrong(lambda c: _grpo(c) + c.kl_weight * mse(c.v_theta, c.v_ref), "kl='velocity'")},
        ),
        "elbo": Loss(
            {**AWM, "clip": "ppo", "clip_range": 0.2, "reference": "elbo"},
            _elbo,
            {"no-half": Wrong(lambda c: _elbo(c, 1.0))},
        ),
        "two": Loss(
            {"loss": "A*mse(v_theta, v_gt) + kl_weight*mse(v_theta, v_ref) + 0.5*mse(v_theta, v_old)"},
            lambda c: (
                c.advantage * mse(c.v_theta, c.v_gt)
                + c.kl_weight * mse(c.v_theta, c.v_ref)
                + 0.5 * mse(c.v_theta, c.v_old)
            ),
            {
                "twice": Wrong(
                    lambda c: (
                        c.advantage * mse(c.v_theta, c.v_gt)
                        + c.kl_weight * mse(c.v_theta, c.v_ref)
                        + mse(c.v_theta, c.v_old)
                    ),
                    "term",
                )
            },
        ),
    },
)


def _learned(c: Case, power: int = 2) -> Tensor:
    """A step whose standard deviation is learned, with a bonus for its entropy."""
    log_p = -mean((c.x_prev - step(c, c.v_theta)[0]) ** 2) / (2 * c.scale**power) - c.scale.log()
    return -c.advantage * log_p - 0.01 * c.scale.log()


JOINT = Rank(
    "one ratio of several steps; a learned standard deviation",
    {
        "joint": Loss(
            {"loss": LOG_RATIO.replace("exp(l)", "exp(l + rest)") + PPO, "given": {"rest": "sample"}},
            lambda c: ppo(c.advantage, (log_ratio(c) + c.rest).exp()),
            {
                "alone": Wrong(lambda c: ppo(c.advantage, ratio(c))),
                "subtracted": Wrong(lambda c: ppo(c.advantage, (log_ratio(c) - c.rest).exp())),
            },
        ),
        "learned": Loss(
            {
                "loss": "p = -mean((x_prev-mean_theta)**2)/(2*scale**2) - log(scale); -A*p - 0.01*log(scale)",
                "given": {"scale": "sample > 0"},
            },
            _learned,
            {"not squared": Wrong(lambda c: _learned(c, 1))},
        ),
    },
)


def _decoupled(c: Case, weighted: bool = True) -> Tensor:
    proximal = log_prob(c, c.v_ref)
    weight = (proximal - log_prob(c, c.v_old)).exp() if weighted else 1.0
    return weight * ppo(c.advantage, (log_prob(c, c.v_theta) - proximal).exp())


def _spo(c: Case, half: float = 0.5) -> Tensor:
    r, a = ratio(c), c.advantage
    return -(r * a - half * a.abs() / 0.2 * (r - 1) ** 2)


def _by_time(c: Case, own: bool = True) -> Tensor:
    edge = 0.2 * (c.t if own else 1 - c.t)
    r = ratio(c)
    return torch.maximum(-c.advantage * r, -c.advantage * torch.minimum(torch.maximum(r, 1 - edge), 1 + edge))


SURROGATES = Rank(
    "other surrogates",
    {
        "reinforce": Loss(
            {"loss": "-A*(-mean((x_prev-mean_theta)**2)/(2*C2**2))"},
            lambda c: -c.advantage * log_prob(c, c.v_theta),
            {"squared": Wrong(lambda c: -(c.advantage**2) * log_prob(c, c.v_theta), "advantage")},
        ),
        "unclipped": Loss(
            {**GRPO, "clip": "none"},
            lambda c: -c.advantage * ratio(c),
            {"clipped": Wrong(_grpo)},
        ),
        "cispo": Loss(
            {"loss": f"{LOG_RATIO}-sg(min(ratio, 1.2))*A*(-mean((x_prev-mean_theta)**2)/(2*C2**2))"},
            lambda c: -ratio(c).clamp(max=1.2).detach() * c.advantage * log_prob(c, c.v_theta),
            {"live": Wrong(lambda c: -ratio(c).clamp(max=1.2) * c.advantage * log_prob(c, c.v_theta))},
        ),
        "decoupled": Loss(
            {
                "loss": "p = -mean((x_prev-mean_ref)**2)/(2*C2**2); o = -mean((x_prev-mean_old)**2)/(2*C2**2); "
                "q = exp(-mean((x_prev-mean_theta)**2)/(2*C2**2) - p); "
                "-exp(p - o)*min(q*A, clip(q, 0.8, 1.2)*A)"
            },
            _decoupled,
            {"unweighted": Wrong(lambda c: _decoupled(c, weighted=False))},
        ),
        "quadratic": Loss(
            {**GRPO, "clip": "spo"},
            _spo,
            {"twice": Wrong(lambda c: _spo(c, 1.0)), "clipped": Wrong(_grpo)},
        ),
        "clip-by-time": Loss(
            {"loss": f"e = 0.2*t; {LOG_RATIO}-min(ratio*A, clip(ratio, 1-e, 1+e)*A)"},
            _by_time,
            {"other-end": Wrong(lambda c: _by_time(c, own=False))},
        ),
    },
)


def _each(c: Case) -> Tensor:
    mu, std = step(c, c.v_theta)
    old, _ = step(c, c.v_old)
    return ((c.x_prev - old) ** 2 - (c.x_prev - mu) ** 2) / (2 * std**2)


def _per_coordinate(c: Case) -> Tensor:
    a, r = c.expand(c.advantage), _each(c).exp()
    return mean(torch.maximum(-a * r, -a * r.clamp(0.8, 1.2)))


COORDINATES = Rank(
    "a ratio for each coordinate",
    {
        "clipped": Loss(
            {
                "loss": "l = ((x_prev-mean_old)**2 - (x_prev-mean_theta)**2)/(2*C2**2); "
                "mean(max(-A*exp(l), -A*clip(exp(l), 0.8, 1.2)))"
            },
            _per_coordinate,
            {"whole": Wrong(_grpo)},
        ),
        "unclipped": Loss(
            {"loss": "mean(-A*exp(((x_prev-mean_old)**2 - (x_prev-mean_theta)**2)/(2*C2**2)))"},
            lambda c: mean(-c.expand(c.advantage) * _each(c).exp()),
            {"summed": Wrong(lambda c: (-c.expand(c.advantage) * _each(c).exp()).flatten(1).sum(1))},
        ),
    },
)


def _guard(c: Case, biased: bool = False) -> Tensor:
    mu, std = step(c, c.v_theta)
    old, _ = step(c, c.v_old)
    shift = 0.0 if biased else mean((mu - old) ** 2 / (2 * std**2))
    return ppo(c.advantage, ((log_ratio(c) + shift) * std.flatten()).exp())


def _cps(c: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    t, t_prev = c.expand(c.t), c.expand(c.t_prev)
    std = t_prev * math.sin(c.noise_level * math.pi / 2)
    kept = t_prev * math.cos(c.noise_level * math.pi / 2)
    a, b = 1 - t_prev, kept
    return (a + b) * c.x_t + (b * (1 - t) - a * t) * v, std


def _cps_unit(c: Case, half: bool = False) -> Tensor:
    def own(v: Tensor) -> Tensor:
        mu, std = _cps(c, v)
        return mean(-((c.x_prev - mu) ** 2) / (2 * std**2 if half else 1.0))

    return ppo(c.advantage, (own(c.v_theta) - own(c.v_old)).exp())


def _dppo(c: Case, variance: bool = False) -> Tensor:
    mu, std = step(c, c.v_theta)
    old, _ = step(c, c.v_old)
    r = ratio(c)
    with torch.no_grad():
        far = mean((mu - old) ** 2 / (2 * std**2 if variance else 1.0)) > 0.05
        trains = ~((c.advantage * (r - 1) > 0) & far)
    return -c.advantage * r * trains


def _in_data_space(c: Case, weighted: bool = True) -> Tensor:
    def error(v: Tensor) -> Tensor:
        t = c.expand(c.t) if weighted else 1.0
        return mean((t * (v - c.v_gt)) ** 2)

    plus, minus = ((1 - s * c.beta) * c.v_old + s * c.beta * c.v_theta for s in (1, -1))
    return c.reward_prob * error(plus) + (1 - c.reward_prob) * error(minus)


def _wan(c: Case, level: float) -> Tensor:
    t, dt = c.expand(c.t), c.expand(c.dt)
    sigma = 0.05 + (level - 0.05) * t

    def own(v: Tensor) -> Tensor:
        mu = c.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
        return mean(-((c.x_prev - mu) ** 2) / (2 * sigma**2 * dt))

    return ppo(c.advantage, (own(c.v_theta) - own(c.v_old)).exp())


def _awm_clipped(c: Case, high: float = 1.0) -> Tensor:
    r = (mse(c.v_old, c.v_gt) - mse(c.v_theta, c.v_gt)).exp()
    return torch.maximum(-c.advantage * r, -c.advantage * r.clamp(0.0, 1 + high))


def _logistic(c: Case, sign: float = 1.0) -> Tensor:
    margin = sign * c.beta * (mse(c.v_old, c.v_gt) - mse(c.v_theta, c.v_gt))
    return c.reward_prob * softplus(-margin) + (1 - c.reward_prob) * softplus(margin)


FRAMEWORKS = Rank(
    "frameworks' own",
    {
        "guard-undivided": Loss(
            {"algorithm": "grpo_guard", "log_prob_reduction": "mean", "clip_range": 0.2, "weight": "dt"},
            _guard,
            {"divided": Wrong(lambda c: _guard(c) / c.dt, "weight=None")},
        ),
        "cps-unit": Loss(
            {**GRPO, "sde": "cps", "log_prob_scale": "unit"},
            _cps_unit,
            {"gaussian": Wrong(lambda c: _cps_unit(c, half=True), "log_prob_scale='gaussian'")},
        ),
        "divergence-without-variance": Loss(
            {"loss": f"{LOG_RATIO}-A*ratio*sg(unless(A*(ratio - 1), mse(mean_theta, mean_old) - 0.05))"},
            _dppo,
            {"with": Wrong(lambda c: _dppo(c, variance=True))},
        ),
        "data-space": Loss(
            {
                "loss": "v_plus = (1 - beta)*v_old + beta*v_theta; v_minus = (1 + beta)*v_old - beta*v_theta; "
                "t**2*(r*mse(v_plus, v_gt) + (1 - r)*mse(v_minus, v_gt))"
            },
            _in_data_space,
            {"velocity-space": Wrong(lambda c: _in_data_space(c, weighted=False))},
        ),
        "wan": Loss(
            {**GRPO, "sde": "wan", "sigma_min": 0.05, "noise_level": 0.8},
            lambda c: _wan(c, 0.8),
            {"other-level": Wrong(lambda c: _wan(c, 0.5))},
        ),
        "awm-clip-of-1": Loss(
            {**AWM, "clip": "ppo", "clip_range": 1.0},
            _awm_clipped,
            {"tighter": Wrong(lambda c: _awm_clipped(c, 0.2))},
        ),
        "logistic": Loss(
            {
                "loss": "z = beta*(mse(v_old, v_gt) - mse(v_theta, v_gt)); r*softplus(-z) + (1-r)*softplus(z)",
            },
            _logistic,
            {"exchanged": Wrong(lambda c: _logistic(c, -1.0), "exchanged")},
        ),
        "matching": Loss(
            {"loss": "mse(v_theta, v_ref)"},
            lambda c: mse(c.v_theta, c.v_ref),
            {"detached": Wrong(lambda c: mse(c.v_theta.detach(), c.v_ref) + 0 * c.v_theta.sum())},
        ),
        "distillation-by-kl": Loss(
            {"loss": "mean((mean_theta - mean_ref)**2)/(2*C2**2)"},
            lambda c: mse(step(c, c.v_theta)[0], step(c, c.v_ref)[0]) / (2 * step(c, c.v_ref)[1].flatten() ** 2),
            {"std-for-variance": Wrong(
                lambda c: mse(step(c, c.v_theta)[0], step(c, c.v_ref)[0]) / (2 * step(c, c.v_ref)[1].flatten())
            )},
        ),
    },
)  # fmt: skip
