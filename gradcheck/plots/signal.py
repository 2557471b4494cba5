r"""How much of a single sample's gradient is signal: a toy problem in which the expected gradient is known.

Data are Gaussian, x_0 ~ N(0, I_D); the model is exact, v = E[noise − x_0 | x_t], and v_old = v; the reward is one
coordinate of the finished sample, and A is that reward, centred and scaled over the data.  At one fixed x_t and t a
loss's gradient g still depends on chance: on the reverse step's noise and all that follows it (backward process), or
on which sample was noised to this x_t (forward process).  In both cases

    A = a + b z + q n,    g ∝ w(A) · y,

with y standard normal in D coordinates, z its first one, and n an independent standard normal number.  The
*signal-to-noise ratio* is ‖E g‖²/Var g, Var g being the sum over coordinates; 1 over it is the number of samples
whose averaged gradient has as much signal as noise.  Scaling a loss, also with a factor that depends on t, leaves it
as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from derivations.steps.sde import reverse_step
from gradcheck.catalogue import entry
from gradcheck.plots.reverse_steps import coefficients
from gradcheck.problems.building import complete
from gradcheck.reports.style import CYCLE, curve, labels, legend, styled, subplots
from gradcheck.rounding.compare import gradient_of

__all__ = ["D", "Reward", "backward_reward", "forward_reward", "measured", "signal_picture", "signal_to_noise"]

D = 16
"""Number of coordinates that is drawn."""

STEPS = (10, 40)
TEMPERATURE = 1.0
_NFT_RANGE = 5.0  # DiffusionNFT's map from advantages: r = clip(A, ±5)/10 + 1/2


@dataclass(frozen=True)
class Reward:
    """How the advantage at a fixed x_t depends on chance: A = a + b z + q n.

    Attributes:
        a: what x_t already decides.
        b: what this gradient's own noise decides.
        q: what chance decides elsewhere.
    """

    a: float
    b: float
    q: float


def _path(t: float) -> tuple[float, float]:
    """x_t's standard deviation, and the exact velocity over x_t."""
    variance = (1 - t) ** 2 + t**2
    return math.sqrt(variance), (t - (1 - t)) / variance


def _state(t: float) -> Tensor:
    """The fixed x_t: one standard deviation from the centre in every coordinate, (1, D)."""
    signs = torch.ones(1, D, dtype=torch.float64)
    signs[0, 1::2] = -1
    return _path(t)[0] * signs


def backward_reward(t: float, steps: int, sde: str = "flow") -> Reward:
    """For a reverse step from t of length 1/steps, and the same sampler on the rest of the way to t = 0."""
    times = torch.arange(round(t * steps), 0, -1, dtype=torch.float64) / steps
    c = coefficients(reverse_step(sde), times, 1 / steps)
    velocity = torch.tensor([_path(float(x))[1] for x in times], dtype=torch.float64)
    shrink = c.keep - c.C1 * velocity  # of x in each step, v being a multiple of x
    after = torch.cat([shrink.flip(0).cumprod(0).flip(0)[1:], torch.ones(1, dtype=torch.float64)])
    noise = after * c.C2  # what each step's noise is at the end
    return Reward(float(shrink.prod()) * _path(t)[0], float(noise[0]), float(noise[1:].norm()))


def forward_reward(t: float) -> Reward:
    """For a sample that was noised to x_t: x_0 given x_t is Gaussian."""
    spread, _ = _path(t)
    return Reward((1 - t) / spread, t / spread, 0.0)


def signal_to_noise(reward: Reward, *, exponential: bool = False) -> float:
    """‖E g‖²/Var g, in closed form, for the weight A or exp(A/τ)."""
    a, b, q = reward.a, reward.b, reward.q
    if exponential:
        s = (b / TEMPERATURE) ** 2
        return s / (math.exp(s + (q / TEMPERATURE) ** 2) * (D + 4 * s) - s)
    return b**2 / ((a**2 + b**2 + q**2) * D + b**2)


def measured(name: str, t: float, *, steps: int = 10, samples: int = 20_000, seed: int = 0) -> tuple[float, float]:
    """The same from random samples, with autograd of the loss by hand.

    Returns:
        An unbiased estimate of ‖E g‖², over one of Var g; and the standard error of that.
    """
    e = entry(name)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(samples, *shape, generator=generator, dtype=torch.float64)

    x_t = _state(t).expand(samples, D)
    v = _path(t)[1] * x_t
    y = normal(D)
    backward = e.derivation.process == "backward"
    law = backward_reward(t, steps) if backward else forward_reward(t)
    advantage = law.a + law.b * y[:, 0] + law.q * normal()
    x_0 = (1 - t) / _path(t)[0] ** 2 * x_t + t / _path(t)[0] * y
    one = torch.ones(samples, dtype=torch.float64)
    given: dict[str, Tensor | float] = {
        "v_theta": v, "v_old": v, "x_t": x_t, "x_0": x_0, "t": t * one, "dt": one / steps, "advantage": advantage,
        "noise": y if backward else (x_t - (1 - t) * x_0) / t,
        "reward": advantage, "reward_prob": (advantage / _NFT_RANGE).clamp(-1, 1) / 2 + 0.5,
        "temperature": TEMPERATURE, "beta": 1.0, "noise_level": 0.7, "clip_low": 0.2, "clip_high": 0.2, "D": float(D),
    }  # fmt: skip
    case = complete(e.derivation, {q: given[q] for q in e.derivation.given})
    gradients = gradient_of(e.loss(case), case.v_theta)
    mean, variance = gradients.mean(0), float(gradients.var(0).sum())
    signal = float(mean @ mean) - variance / samples
    along = (gradients @ mean).std() / mean.norm()  # of the mean's length; its error doubles in the square
    return signal / variance, float(2 * mean.norm() * along / math.sqrt(samples)) / variance


_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@styled()
def signal_picture() -> Figure:
    """The signal-to-noise ratio over time: curves in closed form, marks from samples."""
    figure, (axes,) = subplots(height=3.9)
    t = torch.arange(0.04, 0.97, 0.02, dtype=torch.float64)
    forward = [forward_reward(float(x)) for x in t]
    curve(axes, t, [signal_to_noise(r) for r in forward], "AWM, DiffusionNFT", 2)
    curve(axes, t, [signal_to_noise(r, exponential=True) for r in forward], "RWR", 3)
    for i, steps in enumerate(STEPS):
        on_grid = torch.arange(1, steps, dtype=torch.float64) / steps
        shown = [signal_to_noise(backward_reward(float(x), steps)) for x in on_grid]
        curve(axes, on_grid, shown, f"Flow-GRPO, GRPO-Guard, {steps} steps", i)
    marks = (("flow_grpo", "o", 0), ("grpo_guard", "x", 0), ("awm", "o", 2), ("diffusion_nft", "x", 2), ("rwr", "o", 3))
    for name, mark, colour in marks:
        points = [measured(name, x)[0] for x in _TIMES]
        axes.plot(_TIMES, points, mark, color=CYCLE[colour], markersize=6 if mark == "o" else 9, markeredgewidth=1.6)
    axes.set(yscale="log", xlim=(0, 1))
    labels(axes, "time $t$ (1 is noise)", r"signal-to-noise ratio, $\|\mathbf{E}\,g\|^2 / \mathrm{Var}\,g$")
    legend(figure, columns=2)
    figure.set_label(
        "Signal-to-noise ratio over time on a logarithmic axis. AWM and DiffusionNFT are highest, RWR below "
        "them, Flow-GRPO and GRPO-Guard a factor of two to six below AWM with 10 steps and much lower with 40 "
        "steps."
    )
    return figure
