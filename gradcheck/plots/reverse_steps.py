r"""Pictures of the reverse steps: their coefficients over time, and the densities that they keep or lose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from derivations import notation
from derivations.calculus import components
from derivations.derivation import inline
from derivations.steps.sde import SDES, ReverseStep
from gradcheck.reports.style import STYLE, curve, labels, legend, styled, subplots
from gradcheck.rounding.bounds import Analysis

__all__ = [
    "MIXTURE", "SETTINGS", "Coefficients", "Mixture", "cdf_distance", "coefficients", "coefficients_picture",
    "keeps_marginals", "marginals_picture", "sample", "tolerance",
]  # fmt: skip

SETTINGS: Mapping[str, float] = {"noise_level": 0.7, "sigma_min": 0.1}
"""One number for each setting that some step has."""


@dataclass(frozen=True)
class Coefficients:
    """A reverse step's numbers: x' = keep · x − C1 · v + C2 · noise; each of the times' shape."""

    keep: Tensor
    C1: Tensor
    C2: Tensor

    @property
    def k(self) -> Tensor:
        return self.C1 / self.C2


def coefficients(
    step: ReverseStep, t: Tensor, dt: Tensor | float, settings: Mapping[str, float] = SETTINGS
) -> Coefficients:
    """Evaluate the step's formulas at times t, in float64."""
    t = t.to(torch.float64)
    values = {"t": t, "dt": torch.as_tensor(dt, dtype=torch.float64).expand(t.shape)}
    values |= {name: torch.full_like(t, number) for name, number in settings.items()}
    run = Analysis(values, torch.float64)
    offset = components(inline(step.formulas[notation.mean_offset], step.formulas))
    assert set(offset) == {notation.x_t}
    exprs = (offset[notation.x_t], step.formulas[notation.C1], step.formulas[notation.C2])
    return Coefficients(*(run(inline(e, step.formulas))[0].expand(t.shape) for e in exprs))


@styled()
def coefficients_picture(dt: float = 0.05) -> Figure:
    """C1, C2 and k over time for every step of the table."""
    t = torch.linspace(dt + 0.01, 0.99, 300, dtype=torch.float64)
    figure, axes = subplots(1, 3, height=3.0, sharex=True)
    for i, step in enumerate(SDES):
        c = coefficients(step, t, dt)
        for panel, y in zip(axes, (c.C1, c.C2, c.k), strict=True):
            curve(panel, t, y, step.title, i)
    names = ("$C_1$, slope of the mean", "$C_2$, standard deviation", "$k = C_1/C_2$")
    for panel, name, scale in zip(axes, names, ("linear", "log", "log"), strict=True):
        panel.set_yscale(scale)
        labels(panel, "time $t$ (1 is noise)", "", name)
        panel.set_xlim(0, 1)
    axes[0].set_ylabel("dimensionless")
    legend(figure, columns=2)
    figure.set_label(
        "C1, C2 and k over time for each sampler, for steps of length 0.05. k falls from above 1 near data to "
        "below 0.1 near noise for Flow-SDE and CPS, and to 0.3 for the others."
    )
    return figure


# ---------------------------------------------------------------------------------------------- marginals


@dataclass(frozen=True)
class Mixture:
    """Data on a line, a mixture of Gaussians, whose flow's velocity is known exactly."""

    weights: tuple[float, ...] = (0.5, 0.3, 0.2)
    means: tuple[float, ...] = (-1.2, 0.6, 1.7)
    stds: tuple[float, ...] = (0.3, 0.2, 0.25)

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, means and variances of x_t's components, (3, 1)."""
        w, m, s = (torch.tensor(x, dtype=torch.float64)[:, None] for x in (self.weights, self.means, self.stds))
        return w, (1 - t) * m, ((1 - t) * s) ** 2 + t**2

    def _shares(self, x: Tensor, t: Tensor) -> Tensor:
        """The components' densities at x, (3, N)."""
        w, m, var = self._at(t)
        return w / torch.sqrt(2 * math.pi * var) * torch.exp((x - m) ** 2 / (-2 * var))

    def density(self, x: Tensor, t: Tensor) -> Tensor:
        return self._shares(x, t).sum(0)

    def cdf(self, x: Tensor, t: Tensor) -> Tensor:
        w, m, var = self._at(t)
        return (w * torch.special.ndtr((x - m) / var.sqrt())).sum(0)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[noise − x_0 | x_t = x]."""
        _, m, var = self._at(t)
        shares = self._shares(x, t)
        s2 = torch.tensor(self.stds, dtype=torch.float64)[:, None] ** 2
        x_0 = m / (1 - t) + (1 - t) * s2 / var * (x - m)
        return (x - (shares * x_0).sum(0) / shares.sum(0)) / t

    def draw(self, n: int, t: Tensor, generator: torch.Generator) -> Tensor:
        """x_t of n fresh samples."""
        w, m, var = self._at(t)
        i = torch.multinomial(w[:, 0], n, replacement=True, generator=generator)
        return m[i, 0] + var.sqrt()[i, 0] * torch.randn(n, generator=generator, dtype=torch.float64)


MIXTURE = Mixture()
"""The data whose paths are drawn."""

_START, _END = 0.98, 0.02  # Flow-SDE's σ_t is infinite at t = 1
PARTICLES = 10_000


def keeps_marginals(step: ReverseStep) -> bool:
    """Whether the step's theorem proves that its SDE moves the density as the ODE does."""
    return any(s.name == "marginals" for s in step.theorem.steps)


def sample(step: ReverseStep | None, steps: int, particles: int = PARTICLES, seed: int = 0) -> Tensor:
    """Samples at the last time: by a reverse step, or by the ODE's Euler steps if there is none, (N,)."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.linspace(_START, _END, steps + 1, dtype=torch.float64)
    x = MIXTURE.draw(particles, times[0], generator)
    lengths = times[:-1] - times[1:]
    c = None if step is None else coefficients(step, times[:-1], lengths)
    for i in range(steps):
        v = MIXTURE.velocity(x, times[i])
        if c is None:
            x = x - lengths[i] * v
        else:
            noise = torch.randn(particles, generator=generator, dtype=torch.float64)
            x = c.keep[i] * x - c.C1[i] * v + c.C2[i] * noise
    return x


def cdf_distance(samples: Tensor) -> float:
    """Largest distance of the samples' distribution function from the exact one at the last time (Kolmogorov)."""
    exact = MIXTURE.cdf(samples.sort().values, torch.tensor(_END, dtype=torch.float64))
    rank = torch.arange(len(samples) + 1, dtype=torch.float64) / len(samples)
    return float(torch.maximum((exact - rank[:-1]).abs().max(), (rank[1:] - exact).abs().max()))


def tolerance(particles: int = PARTICLES) -> float:
    """What that distance stays below for exact samples, 999 times in 1000 (Kolmogorov's distribution)."""
    return math.sqrt(-math.log(0.001 / 2) / 2 / particles)


_GRIDS = (12, 24, 48, 96, 192)


@styled()
def marginals_picture() -> Figure:
    """The last density by each sampler, and its distance from the exact one over the number of steps."""
    figure, (density, distance) = subplots(1, 2, height=3.6)
    end = torch.tensor(_END, dtype=torch.float64)
    x = torch.linspace(-2.6, 2.9, 400, dtype=torch.float64)
    density.fill_between(x, MIXTURE.density(x, end), color=STYLE["grid"], label="exact")
    samplers: list[ReverseStep | None] = [None, *SDES]
    for i, step in enumerate(samplers):
        name = "ODE" if step is None else step.title
        drawn = [sample(step, n) for n in _GRIDS]
        heights, edges = torch.histogram(drawn[-1], bins=70, range=(-2.6, 2.9), density=True)
        curve(density, (edges[1:] + edges[:-1]) / 2, heights, name, i, linewidth=1.5)
        curve(distance, _GRIDS, [cdf_distance(s) for s in drawn], name, i, marker="o", markersize=4, linewidth=1.5)
    distance.axhspan(1e-4, tolerance(), color=STYLE["grid"], linewidth=0, zorder=0)
    distance.text(_GRIDS[0], 0.0034, "exact samples stay in here\n999 times in 1000", fontsize=9, color=STYLE["faint"])
    distance.set(xscale="log", yscale="log", ylim=(0.003, 0.2))
    distance.set_xticks(_GRIDS, [str(n) for n in _GRIDS])
    distance.minorticks_off()
    labels(density, "state $x$", "probability density", f"after {_GRIDS[-1]} steps")
    labels(distance, "number of steps", "largest distance of the\ndistribution functions", "distance from exact")
    legend(figure, columns=3)
    figure.set_label(
        "Left: densities at the end after 192 steps; all lie on the exact one but CPS, whose modes are too "
        "narrow. Right: the distance from the exact distribution falls into the range of chance for the ODE "
        "and the SDEs, not for CPS."
    )
    return figure
