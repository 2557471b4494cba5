"""Losses of the field that are in no catalogue: each as one line, and as somebody's torch code that knows no line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import huber_loss, logsigmoid, relu, softplus

from gradcheck.case import Case

__all__ = ["OUTSIDE", "Outside"]


@dataclass(frozen=True)
class Outside:
    """A loss.

    Attributes:
        line: as one writes it for ``gradcheck derive``.
        code: per sample, (B,), from a case of that line.
        given: quantities of its own.
    """

    line: str
    code: Callable[[Case], Tensor]
    given: Mapping[str, str] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------ what they share


def _sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _mse(a: Tensor, b: Tensor) -> Tensor:
    return _sum((a - b) ** 2)


def _gap(c: Case, against_ref: bool = True) -> Tensor:
    own = _mse(c.v_theta, c.v_gt)
    return own - _mse(c.v_ref, c.v_gt) - c.partner_gap if against_ref else own - c.partner_gap


def _margin(c: Case, against_ref: bool = True) -> Tensor:
    return c.beta_dpo * c.preference * _gap(c, against_ref)


def _step(c: Case, v: Tensor) -> tuple[Tensor, Tensor]:
    t, dt = c.expand(c.t), c.expand(c.dt)
    sigma = c.noise_level * torch.sqrt(t / (1 - t))
    mean = c.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return mean, sigma * dt.sqrt()


def _log_prob(c: Case, v: Tensor) -> Tensor:
    """Without its normaliser, as the grammar's ``log_prob`` has it."""
    mean, std = _step(c, v)
    return -_sum((c.x_prev - mean) ** 2 / (2 * std**2))


def _log_ratio(c: Case) -> Tensor:
    return _log_prob(c, c.v_theta) - _log_prob(c, c.v_old)


def _clipped(c: Case, ratio: Tensor) -> Tensor:
    return torch.maximum(-c.advantage * ratio, -c.advantage * ratio.clamp(1 - c.clip_low, 1 + c.clip_high))


def _ppo(c: Case) -> Tensor:
    return _clipped(c, _log_ratio(c).exp())


def _x_0(c: Case, v: Tensor) -> Tensor:
    return c.x_t - c.expand(c.t) * v


def _noise(c: Case, v: Tensor) -> Tensor:
    return c.x_t + (1 - c.expand(c.t)) * v


def _dual(c: Case) -> Tensor:
    return torch.where(c.advantage < 0, torch.minimum(_ppo(c), -3 * c.advantage), _ppo(c))


def _spo(c: Case) -> Tensor:
    ratio = _log_ratio(c).exp()
    return -(ratio * c.advantage - c.advantage.abs() / (2 * c.clip_high) * (ratio - 1) ** 2)


def _gspo(c: Case) -> Tensor:
    count = c.v_theta[0].numel()
    return _clipped(c, (_log_ratio(c) / count).exp())


def _k3(c: Case) -> Tensor:
    log_s = _log_prob(c, c.v_ref) - _log_prob(c, c.v_theta)
    return _ppo(c) + c.kl_weight * (log_s.exp() - 1 - log_s)


def _distribution_matching(c: Case) -> Tensor:
    x = _x_0(c, c.v_theta)
    size = _mean((x - _x_0(c, c.v_ref)).abs()).detach()
    target = (x - (c.v_ref - c.v_old) / c.expand(size)).detach()
    return _mse(x, target) / 2


def _norm_guard(c: Case) -> Tensor:
    held = relu(_sum(c.v_theta**2) / _sum(c.v_ref**2) - 1) ** 2
    return c.advantage * _mean((c.v_theta - c.v_gt) ** 2) + c.kl_weight * held


def _bounded_repulsion(c: Case) -> Tensor:
    error = _mse(c.v_theta, c.v_gt)
    return relu(c.advantage) * error - 0.1 * relu(-c.advantage) * error.clamp(max=10)


def _cosine(c: Case) -> Tensor:
    return 1 - torch.cosine_similarity(c.v_theta.flatten(1), c.v_gt.flatten(1))


def _decoupled(c: Case) -> Tensor:
    """Clipped around a proximal policy, weighted by how much likelier the behaviour policy's sample is under it."""
    proximal = _log_prob(c, c.v_ref)
    weight = (proximal - _log_prob(c, c.v_old)).exp()
    return weight * _clipped(c, (_log_prob(c, c.v_theta) - proximal).exp())


_P = "-min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)"
_GAP = "(norm2(v_theta-v_gt) - norm2(v_ref-v_gt) - partner_gap)"

OUTSIDE: dict[str, Outside] = {
    # preferences
    "ipo": Outside(f"(beta_dpo*preference*{_GAP} + 1/2)**2", lambda c: (_margin(c) + 0.5) ** 2),
    "hinge": Outside(f"relu(1 + beta_dpo*preference*{_GAP})", lambda c: relu(1 + _margin(c))),
    "cpo": Outside(
        "softplus(beta_dpo*preference*(norm2(v_theta-v_gt) - partner_gap))",
        lambda c: softplus(_margin(c, False)),
    ),
    "dpo-sft": Outside(
        f"softplus(beta_dpo*preference*{_GAP}) + kl_weight*norm2(v_theta-v_gt)",
        lambda c: -logsigmoid(-_margin(c)) + c.kl_weight * _mse(c.v_theta, c.v_gt),
    ),
    "dpo-smoothed": Outside(
        f"0.9*softplus(beta_dpo*preference*{_GAP}) + 0.1*softplus(-beta_dpo*preference*{_GAP})",
        lambda c: -0.9 * logsigmoid(-_margin(c)) - 0.1 * logsigmoid(_margin(c)),
    ),
    "kto": Outside(
        "1 - sigmoid(-beta_dpo*preference*(norm2(v_theta-v_gt) - norm2(v_ref-v_gt)))",
        lambda c: 1 - torch.sigmoid(-c.beta_dpo * c.preference * (_mse(c.v_theta, c.v_gt) - _mse(c.v_ref, c.v_gt))),
    ),
    # policy gradients on a reverse step
    "reinforce": Outside("-A*log_prob_theta", lambda c: -c.advantage * _log_prob(c, c.v_theta)),
    "unclipped": Outside("-ratio*A", lambda c: -c.advantage * _log_ratio(c).exp()),
    "k1": Outside(
        f"{_P} + kl_weight*(log_prob_theta - log_prob_old)",
        lambda c: _ppo(c) + c.kl_weight * _log_ratio(c),
    ),
    "k2": Outside(
        f"{_P} + kl_weight*(log_prob_theta - log_prob_old)**2/2",
        lambda c: _ppo(c) + c.kl_weight * _log_ratio(c) ** 2 / 2,
    ),
    "k3-old": Outside(
        f"{_P} + kl_weight*(exp(log_prob_old - log_prob_theta) - 1 + log_prob_theta - log_prob_old)",
        lambda c: _ppo(c) + c.kl_weight * (torch.expm1(-_log_ratio(c)) + _log_ratio(c)),
    ),
    "k3": Outside(
        f"log_s = -norm2(x_prev-mean_ref)/(2*C2**2) - log_prob_theta; {_P} + kl_weight*(exp(log_s) - 1 - log_s)",
        _k3,
    ),
    "cispo": Outside(
        "-sg(min(ratio, 1+clip_high))*A*log_prob_theta",
        lambda c: -_log_ratio(c).exp().clamp(max=1 + c.clip_high).detach() * c.advantage * _log_prob(c, c.v_theta),
    ),
    "decoupled": Outside(
        "log_p = -norm2(x_prev-mean_ref)/(2*C2**2); r = exp(log_prob_theta - log_p); "
        "-exp(log_p - log_prob_old)*min(r*A, clip(r, 1-eps, 1+eps)*A)",
        _decoupled,
    ),
    "quadratic": Outside("-(ratio*A - abs(A)/(2*clip_high)*(ratio-1)**2)", _spo),
    "dual-clip": Outside(f"min({_P}, 3*abs(A))", _dual),
    "sequence-ratio": Outside(
        "l = mean((x_prev-mean_old)**2 - (x_prev-mean_theta)**2)/(2*C2**2); ratio = exp(l); " + _P, _gspo
    ),
    "clamped-ratio": Outside(
        f"ratio = exp(clip(log_prob_theta-log_prob_old, -3, 3)); {_P}",
        lambda c: _clipped(c, _log_ratio(c).clamp(-3, 3).exp()),
    ),
    "velocity-kl": Outside(
        f"{_P} + kl_weight*mse(v_theta, v_ref)", lambda c: _ppo(c) + c.kl_weight * _mean((c.v_theta - c.v_ref) ** 2)
    ),
    # regressions
    "min-snr": Outside(
        "min(5, (1-t)**2/t**2)*norm2(noise_theta - noise)",
        lambda c: ((1 - c.t) / c.t).square().clamp(max=5) * _mse(_noise(c, c.v_theta), c.noise),
    ),
    "over-time": Outside(
        "norm2(v_theta-v_gt)/(t**2 + 0.0001)", lambda c: _mse(c.v_theta, c.v_gt) / (c.t**2 + 1e-4)
    ),
    "distillation": Outside("norm2(v_theta - v_ref)", lambda c: _mse(c.v_theta, c.v_ref)),
    "detached-target": Outside(
        "norm2(v_theta - sg(v_theta + A*(v_gt - v_theta)))",
        lambda c: _mse(c.v_theta, (c.v_theta + c.expand(c.advantage) * (c.v_gt - c.v_theta)).detach()),
    ),
    "adjoint-matching": Outside(
        "norm2(v_theta - v_ref + s*adjoint)",
        lambda c: _mse(c.v_theta - c.v_ref, -c.expand(c.s) * c.adjoint),
        {"adjoint": "latent", "s": "sample > 0"},
    ),
    "distribution-matching": Outside(
        "norm2(x_0_theta - sg(x_0_theta - (v_ref - v_old)/mean_abs(x_0_theta - x_0_ref)))/2",
        _distribution_matching,
    ),
    "consistency": Outside(
        "norm2(x_0_theta - sg(x_0_old))", lambda c: _mse(_x_0(c, c.v_theta), _x_0(c, c.v_old).detach())
    ),
    "pseudo-huber-of-data": Outside(
        "sqrt(norm2(x_0_theta-x_0)+0.01) - 0.1",
        lambda c: (_mse(_x_0(c, c.v_theta), c.x_0) + 0.01).sqrt() - 0.1,
    ),
    "cosine": Outside("1 - dot(v_theta, v_gt)/sqrt(norm2(v_theta)*norm2(v_gt))", _cosine),
    "weighted-by-reward": Outside(
        "exp(R/tau)*mse(v_theta, v_gt) + kl_weight*mse(v_theta, v_ref)",
        lambda c: (
            (c.reward / c.temperature).exp() * _mean((c.v_theta - c.v_gt) ** 2)
            + c.kl_weight * _mean((c.v_theta - c.v_ref) ** 2)
        ),
    ),
    "bounded-repulsion": Outside(
        "relu(A)*norm2(v_theta-v_gt) - 0.1*relu(-A)*min(norm2(v_theta-v_gt), 10)", _bounded_repulsion
    ),
    "logistic": Outside(
        "-r*logsigmoid(-norm2(v_theta-v_gt)/D) - (1-r)*logsigmoid(norm2(v_theta-v_gt)/D)",
        lambda c: (
            -c.reward_prob * logsigmoid(-_mean((c.v_theta - c.v_gt) ** 2))
            - (1 - c.reward_prob) * logsigmoid(_mean((c.v_theta - c.v_gt) ** 2))
        ),
    ),
    "huber": Outside(
        "mean(huber(v_theta - v_gt, 0.1))",
        lambda c: _mean(huber_loss(c.v_theta, c.v_gt, reduction="none", delta=0.1)),
    ),
    "absolute": Outside("mean(abs(v_theta-v_gt))", lambda c: _mean((c.v_theta - c.v_gt).abs())),
    "pseudo-huber": Outside(
        "mean(sqrt((v_theta-v_gt)**2 + 0.01))", lambda c: _mean(((c.v_theta - c.v_gt) ** 2 + 0.01).sqrt())
    ),
    "clipped-velocity": Outside(
        "mean((clip(v_theta, -1, 1) - v_gt)**2)", lambda c: _mean((c.v_theta.clamp(-1, 1) - c.v_gt) ** 2)
    ),
    "masked": Outside(
        "sum(mask*(v_theta-v_gt)**2)/sum(mask)",
        lambda c: _sum(c.mask * (c.v_theta - c.v_gt) ** 2) / _sum(c.mask),
    ),
    "weight-of-ones-own": Outside(
        "weight*norm2(v_theta - v_gt)",
        lambda c: c.weight * _mse(c.v_theta, c.v_gt),
        {"weight": "sample > 0"},
    ),
    "regressed-advantage": Outside(
        "(beta*(norm2(v_theta-v_gt) - norm2(v_old-v_gt))/D + A)**2",
        lambda c: (
            c.beta * (_mean((c.v_theta - c.v_gt) ** 2) - _mean((c.v_old - c.v_gt) ** 2)) + c.advantage
        ) ** 2,
    ),
    "squashed-advantage": Outside(
        "tanh(A)*norm2(v_theta-v_gt)", lambda c: c.advantage.tanh() * _mse(c.v_theta, c.v_gt)
    ),
    "norm-guard": Outside(
        "A*mean((v_theta-v_gt)**2) + kl_weight*relu(norm2(v_theta)/norm2(v_ref) - 1)**2", _norm_guard
    ),
}  # fmt: skip
"""By name."""
