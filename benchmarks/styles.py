"""The pieces of a right loss, each in the several ways in which people write it, for :mod:`benchmarks.alarms`.

A :class:`Style` is one draw of them.  Every way is right for every problem, in every precision whose range it does not
leave; a way whose own rounding would be larger than the loss's is not here, as the variance plus the squared mean of a
difference, which rounds every component to the size of the mean.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from gradcheck.case import Case

__all__ = ["Style", "error", "gaussian_log_ratio", "mixture", "over_latent", "preference_loss", "step", "surrogate"]

Way = Callable[..., Tensor]


@dataclass
class Style:
    """One draw of ways, by seed; ``taken`` names them."""

    seed: int
    dtype: torch.dtype = torch.float64
    taken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def pick(self, what: str, ways: Mapping[str, Way]) -> Way:
        name = self.random.choice(list(ways))
        self.taken.append(f"{what}: {name}")
        return ways[name]

    @property
    def narrow(self) -> bool:
        """Whether the range is narrow, so that no detour by larger numbers is right."""
        return self.dtype == torch.float16

    def __str__(self) -> str:
        return ", ".join(self.taken)


def rows(x: Tensor) -> Tensor:
    return x.flatten(1)


def column(x: Tensor, like: Tensor) -> Tensor:
    return x.reshape(-1, *(1,) * (like.ndim - 1))


# ------------------------------------------------------------------------------------ sums over the latent

_SUMS: dict[str, Way] = {
    "flatten.sum": lambda x: rows(x).sum(1),
    "sum(dims)": lambda x: x.sum(dim=tuple(range(1, x.ndim))),
    "axis by axis": lambda x: _axis_by_axis(x),
    "einsum": lambda x: torch.einsum("bd->b", rows(x)),
    "matmul": lambda x: rows(x) @ torch.ones_like(rows(x)[0]),
    "mean·D": lambda x: rows(x).mean(1) * rows(x).shape[1],
    "loop": lambda x: torch.stack([one.sum() for one in x]) if len(x) <= 64 else rows(x).sum(1),
}
_MEANS: dict[str, Way] = {
    "flatten.mean": lambda x: rows(x).mean(1),
    "mean(dims)": lambda x: x.mean(dim=tuple(range(1, x.ndim))),
    "sum/D": lambda x: rows(x).sum(1) / rows(x).shape[1],
    "tokens first": lambda x: rows(x).unflatten(1, (1, -1)).mean(2).mean(1),
    "loop": lambda x: torch.stack([one.mean() for one in x]) if len(x) <= 64 else rows(x).mean(1),
    "divided before": lambda x: rows(x / math.prod(x.shape[1:])).sum(1),
}
_IN_HALF = ("flatten.sum", "sum(dims)", "flatten.mean", "mean(dims)", "loop")


def _axis_by_axis(x: Tensor) -> Tensor:
    while x.ndim > 1:
        x = x.sum(-1)
    return x


def in_sequence(style: Style, d: int) -> bool:
    """Whether d numbers may be added up in sequence, as norms and products of matrices do: a million squares of float32
    lose 340 units of roundoff so, and 1 in torch's own sum."""
    return style.dtype == torch.float64 or d <= 2**13


def over_latent(style: Style, x: Tensor, how: str) -> Tensor:
    """(B, *latent) → (B,)."""
    ways = _MEANS if how == "mean" else _SUMS
    if torch.finfo(style.dtype).eps > 1e-4:  # torch sums half precision in float32; products of sums would not be
        ways = {name: way for name, way in ways.items() if name in _IN_HALF}
    if not in_sequence(style, math.prod(x.shape[1:])):
        ways = {name: way for name, way in ways.items() if name not in ("einsum", "matmul")}
    return style.pick("sum", ways)(x)


# --------------------------------------------------------------------------------------- squared errors

_SQUARES: dict[str, Way] = {
    "** 2": lambda a, b: (a - b) ** 2,
    "square": lambda a, b: (b - a).square(),
    "mse_loss": lambda a, b: functional.mse_loss(a, b, reduction="none"),
    "product": lambda a, b: (a - b) * (a - b),
    "pow": lambda a, b: torch.pow(torch.sub(a, b), 2),
    "addcmul": lambda a, b: torch.addcmul(torch.zeros_like(a), a - b, a - b),
    "abs²": lambda a, b: (a - b).abs() ** 2,
}
_WIDE_SQUARES: dict[str, Way] = {
    "huber": lambda a, b: 2 * functional.huber_loss(a, b, reduction="none", delta=1e8),
    "smooth_l1": lambda a, b: functional.smooth_l1_loss(a, b, reduction="none", beta=2.0**30) * 2.0**31,
}


def error(style: Style, a: Tensor, b: Tensor, how: str, value_counts: bool = True) -> Tensor:
    """‖a − b‖² or its mean, (B,).  Where the value itself does not count, only its gradient, its square may be
    multiplied out."""
    d = math.prod(a.shape[1:])
    each = 1 / d if how == "mean" else 1.0
    whole: dict[str, Way] = {"component by component": lambda: over_latent(style, squared(style, a, b), how)}
    if not style.narrow and torch.finfo(style.dtype).eps < 1e-4:
        if len(a) <= 64:
            whole["mse of each"] = lambda: torch.stack(
                [functional.mse_loss(x, y, reduction=how) for x, y in zip(a, b, strict=True)]
            )
        if in_sequence(style, d):
            whole |= {
                "einsum": lambda: torch.einsum("bd,bd->b", rows(a - b), rows(a - b)) * each,
                "bmm": lambda: torch.bmm(rows(a - b)[:, None], rows(a - b)[:, :, None]).flatten() * each,
                "vector_norm": lambda: torch.linalg.vector_norm(rows(a - b), dim=1) ** 2 * each,
                "pairwise_distance": lambda: functional.pairwise_distance(rows(a), rows(b), eps=0.0) ** 2 * each,
            }
            if len(a) <= 64:
                whole["dist"] = lambda: torch.stack([torch.dist(x, y) ** 2 for x, y in zip(a, b, strict=True)]) * each
        if not value_counts:
            whole["multiplied out"] = lambda: (
                ((rows(a) * rows(a)).sum(1) - 2 * (rows(a) * rows(b)).sum(1) + (rows(b) * rows(b)).sum(1)) * each
            )
            whole["a density"] = lambda: -2 * over_latent(style, Normal(b, 1.0, validate_args=False).log_prob(a), how)
    return style.pick("error", whole)()


def squared(style: Style, a: Tensor, b: Tensor) -> Tensor:
    """(a − b)², component by component."""
    return style.pick("square", _SQUARES if style.narrow else {**_SQUARES, **_WIDE_SQUARES})(a, b)


def mixture(style: Style, a: Tensor, b: Tensor, share: float) -> Tensor:
    """(1 − share)·a + share·b."""
    return style.pick(
        "mixture",
        {
            "two products": lambda: (1 - share) * a + share * b,
            "lerp": lambda: torch.lerp(a, b, share),
            "from a": lambda: a + share * (b - a),
            "add alpha": lambda: torch.add(share * b, a, alpha=1 - share),
        },
    )()


# ------------------------------------------------------------------------------------------ reverse steps


def step(style: Style, case: Case, kind: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A reverse step: from a velocity to its mean and standard deviation."""
    x = case.x_t
    if kind == "ddim":
        return _ddim(style, case)
    t, dt = _times(style, case)
    if kind == "cps":
        t_prev = t - dt
        std = t_prev * math.sin(case.noise_level * math.pi / 2)
        kept = torch.sqrt(t_prev**2 - std**2)
        return lambda v: ((x - t * v) * (1 - t_prev) + (x + (1 - t) * v) * kept, std)
    if kind == "flow":
        sigma = style.pick(
            "sigma",
            {
                "root of odds": lambda: case.noise_level * torch.sqrt(t / (1 - t)),
                "two roots": lambda: case.noise_level * torch.sqrt(t) / torch.sqrt(1 - t),
                "rsqrt": lambda: case.noise_level * torch.rsqrt((1 - t) / t),
                "power": lambda: (t / (1 - t)) ** 0.5 * case.noise_level,
            },
        )()
    elif kind == "wan":
        sigma = case.sigma_min + (case.noise_level - case.sigma_min) * t
    else:
        sigma = torch.full_like(t, case.noise_level)
    root = torch.sqrt(dt)
    ways: dict[str, Way] = {
        "coefficients": lambda v: x * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt,
        "dt < 0": lambda v: x * (1 + sigma**2 / (2 * t) * -dt) + v * (1 + sigma**2 * (1 - t) / (2 * t)) * -dt,
        "score": lambda v: x - dt * (v + sigma**2 / 2 * ((x + (1 - t) * v) / t)),
        "drift": lambda v: torch.addcmul(x, v + sigma**2 / (2 * t) * (x + (1 - t) * v), -dt),
        "predicted noise": lambda v: x - v * dt - sigma**2 * dt / (2 * t) * (x + (1 - t) * v),
        "Euler, then noise": lambda v: torch.sub(x - v * dt, (x + (1 - t) * v) * (sigma.square() * dt / t), alpha=0.5),
    }
    mean = style.pick("mean", ways)
    return lambda v: (mean(v), sigma * root)


def _times(style: Style, case: Case) -> tuple[Tensor, Tensor]:
    s, s_prev = 1 - case.t, 1 - case.t_prev
    ways: dict[str, Way] = {
        "given": lambda: (case.t, case.dt),
        "grid": lambda: (case.sigmas[case.step_index], case.sigmas[case.step_index] - case.sigmas[case.step_index + 1]),
        "difference": lambda: (case.t, case.t - case.t_prev),
    }
    if torch.finfo(style.dtype).eps < 1e-4:
        ways["rising"] = lambda: (1 - s, s_prev - s)
    t, dt = style.pick("times", ways)()
    return column(t.to(case.t), case.x_t), column(dt.to(case.t), case.x_t)


def _ddim(style: Style, case: Case) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    a, b = column(case.alpha_bar, case.x_t), column(case.alpha_bar_prev, case.x_t)
    std = case.noise_level * torch.sqrt((1 - b) / (1 - a) * (1 - a / b))
    kept = torch.sqrt(1 - b - std**2)
    predicts_noise = case.output_name == "noise_theta"

    def mean(v: Tensor) -> Tensor:
        noise = v if predicts_noise else a.sqrt() * v + (1 - a).sqrt() * case.x_t
        x_0 = (case.x_t - (1 - a).sqrt() * v) / a.sqrt() if predicts_noise else a.sqrt() * case.x_t - (1 - a).sqrt() * v
        return b.sqrt() * x_0 + kept * noise

    return lambda v: (mean(v), std)


def gaussian_log_ratio(
    style: Style, case: Case, mean: Tensor, mean_old: Tensor, std: Tensor, how: str, unit: bool = False
) -> Tensor:
    """log p(x_prev; mean) − log p(x_prev; mean_old), (B,); ``unit`` leaves 1/(2 std²) out."""
    if unit:
        return error(style, case.x_prev, mean_old, how) - error(style, case.x_prev, mean, how)
    densities = _densities(style, case.x_prev, std, how)
    if style.random.random() < 0.15:
        style.taken.append("log ratio: factored")
        change, residual = (mean - mean_old) / std, (case.x_prev - mean_old) / std
        return over_latent(style, change * residual - 0.5 * change**2, how)
    log_prob = style.pick("log p", densities)
    return log_prob(mean) - log_prob(mean_old).detach()


def gaussian_log_prob(style: Style, case: Case, mean: Tensor, std: Tensor, how: str, unit: bool = False) -> Tensor:
    """log p(x_prev; mean), (B,); ``unit`` leaves 1/(2 std²) out."""
    if unit:
        return -error(style, case.x_prev, mean, how)
    return style.pick("log p", _densities(style, case.x_prev, std, how))(mean)


def _densities(style: Style, x: Tensor, std: Tensor, how: str) -> dict[str, Way]:
    """Ways to write a Gaussian's log-density at x, up to constants, of its mean."""
    log_root = math.log(math.sqrt(2 * math.pi))
    over = std.flatten()
    densities: dict[str, Way] = {
        "density": lambda m: over_latent(style, -squared(style, x, m) / (2 * std**2) - torch.log(std) - log_root, how),
        "Normal": lambda m: over_latent(style, _normal(m, std).log_prob(x), how),
        "standardised": lambda m: over_latent(style, -0.5 * ((x - m) / std) ** 2 - std.log() - log_root, how),
        "error over variance": lambda m: -error(style, x, m, how) / (2 * over**2),
        "without constants": lambda m: over_latent(style, -squared(style, x, m) / (2 * std.square()), how),
        "nll": lambda m: (
            -over_latent(
                style,
                functional.gaussian_nll_loss(m, x, (std**2).expand_as(m), full=True, reduction="none", eps=1e-30),
                how,
            )
        ),
    }
    if style.narrow:
        densities = {name: densities[name] for name in ("density", "Normal", "standardised")}
    return densities


def _normal(mean: Tensor, std: Tensor) -> Normal:
    return Normal(mean, std, validate_args=False)  # half precision breaks an argument check


def divergence(style: Style, mean: Tensor, other: Tensor, std: Tensor, how: str, value_counts: bool = False) -> Tensor:
    """KL of two Gaussians with one standard deviation, (B,)."""
    ways: dict[str, Way] = {
        "over 2 std²": lambda: over_latent(style, squared(style, mean, other) / (2 * std**2), how),
        "standardised": lambda: over_latent(style, 0.5 * ((mean - other) / std) ** 2, how),
        "error": lambda: error(style, mean, other, how, value_counts) / (2 * std.flatten() ** 2),
    }
    if torch.finfo(style.dtype).eps < 1e-4:
        ways["distributions"] = lambda: over_latent(style, kl_divergence(_normal(mean, std), _normal(other, std)), how)
    return style.pick("KL", ways)()


# ------------------------------------------------------------------------------------------- the surrogate


def surrogate(style: Style, log_ratio: Tensor, a: Tensor, low: float, high: float) -> Tensor:
    """−min(rA, clip(r)A), (B,)."""
    ratio = style.pick(
        "ratio",
        {
            "exp": lambda: torch.exp(log_ratio),
            "expm1": lambda: torch.expm1(log_ratio) + 1,
            "double where": lambda: torch.where(
                log_ratio < 60, torch.exp(torch.where(log_ratio < 60, log_ratio, 0.0)), math.exp(60.0)
            ),
        }
        if not style.narrow
        else {"exp": lambda: torch.exp(log_ratio)},
    )()
    below, above = 1 - low, 1 + high

    def masked() -> Tensor:
        off = ((a > 0) & (ratio > above)) | ((a < 0) & (ratio < below))
        return -a * torch.where(off, ratio.detach(), ratio)

    def by_relu() -> Tensor:
        inside = ratio + functional.relu(below - ratio) - functional.relu(ratio - above)
        return torch.maximum(-a * ratio, -a * inside)

    return style.pick(
        "clip",
        {
            "maximum": lambda: torch.maximum(-a * ratio, -a * torch.clamp(ratio, below, above)),
            "minimum": lambda: -torch.min(ratio * a, ratio.clip(below, above) * a),
            "one side": lambda: -a * torch.where(a > 0, ratio.clamp(max=above), ratio.clamp(min=below)),
            "hardtanh": lambda: torch.maximum(-a * ratio, -a * functional.hardtanh(ratio, below, above)),
            "mask": masked,
            "relu": by_relu,
            "stack": lambda: -torch.stack([ratio * a, ratio.clamp(below, above) * a]).amin(0),
            "hinge": lambda: (
                -a * ratio
                + functional.relu(a) * functional.relu(ratio - above)
                + functional.relu(-a) * functional.relu(below - ratio)
            ),
        },
    )()


# -------------------------------------------------------------------------------------------- preferences


def preference_loss(style: Style, z: Tensor) -> Tensor:
    """−log σ(−z), (B,)."""
    zeros = torch.zeros_like(z)
    ways: dict[str, Way] = {
        "logsigmoid": lambda: -functional.logsigmoid(-z),
        "softplus": lambda: functional.softplus(z),
        "logaddexp": lambda: torch.logaddexp(z, zeros),
        "bce of 1": lambda: functional.binary_cross_entropy_with_logits(-z, torch.ones_like(z), reduction="none"),
        "bce of 0": lambda: functional.binary_cross_entropy_with_logits(z, zeros, reduction="none"),
        "cross_entropy": lambda: functional.cross_entropy(torch.stack([-z, zeros], 1), zeros.long(), reduction="none"),
        "log_softmax": lambda: -torch.log_softmax(torch.stack([zeros, z], 1), 1)[:, 0],
        "logsumexp": lambda: torch.logsumexp(torch.stack([z, zeros], 1), 1),
        "relu and log1p": lambda: functional.relu(z) + torch.log1p(torch.exp(-z.abs())),
        "nll": lambda: functional.nll_loss(
            torch.log_softmax(torch.stack([-z, zeros], 1), 1), zeros.long(), reduction="none"
        ),
    }
    if bool((torch.sigmoid(z.detach()) < 1).all()):  # beyond, its logarithm is infinite
        ways["1 - sigmoid"] = lambda: -torch.log(1 - torch.sigmoid(z))
    if not style.narrow and bool((z < -0.9 * math.log(torch.finfo(style.dtype).tiny)).all()):
        ways["log of a sum"] = lambda: torch.log(1 + torch.exp(z))
    return style.pick("likelihood", ways)()
