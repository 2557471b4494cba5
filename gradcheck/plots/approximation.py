r"""How good "A k ε" is off-policy: Flow-GRPO's quoted gradient against the exact one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from derivations.claims import Equal
from derivations.notation import k
from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.derived.compiled import evaluate
from gradcheck.reports.style import CYCLE, curve, labels, legend, styled, subplots

__all__ = ["DIMENSIONS", "Errors", "approximation_picture", "errors", "exact_errors", "random_errors"]

DIMENSIONS = (16, 1024, 65_536)
"""Numbers of coordinates for which the error is drawn."""

_STEP = {"t": 0.6, "dt": 0.1}


@dataclass(frozen=True)
class Errors:
    """Relative errors of the quoted gradient, one a sample.

    Attributes:
        distance: k‖δ‖, how far the mean has moved, in standard deviations, (N,).
        error: ‖quoted − exact‖/‖exact‖, (N,).
    """

    distance: Tensor
    error: Tensor


def errors(variant: str, distance: Tensor, noise: Tensor, direction: Tensor) -> Errors:
    """The step *approximation-error* of the derivation, evaluated.

    Args:
        variant: of Flow-GRPO.
        distance: k‖δ‖, (N,).
        noise: of the reverse step, (N, D).
        direction: of δ, (N, D), unit vectors.
    """
    derivation = entry("flow_grpo", variant).derivation
    (step,) = (s for s in derivation.all_steps if s.name == "approximation-error")
    assert isinstance(step.claim, Equal)
    n, d = noise.shape
    zero = torch.zeros(n, d, dtype=torch.float64)
    given: dict[str, Tensor | float] = {name: torch.full((n,), x, dtype=torch.float64) for name, x in _STEP.items()}
    given |= {"noise": noise, "v_old": zero, "x_t": zero, "v_theta": zero, "noise_level": 0.7, "D": float(d)}
    (slope,) = evaluate(derivation, Case(derivation.label, given), k)
    case = Case(derivation.label, given | {"v_theta": distance[:, None] / slope * direction})
    (squared,) = evaluate(derivation, case, step.claim.rhs)
    return Errors(distance, squared.flatten().sqrt())


def exact_errors(variant: str, distance: Tensor, d: int, along: float = 1.0) -> Errors:
    """For noise of the typical length √D whose component along δ is ``along`` (one standard deviation)."""
    direction = torch.zeros(len(distance), d, dtype=torch.float64)
    direction[:, 0] = 1
    noise = torch.full((len(distance), d), math.sqrt((d - along**2) / (d - 1)), dtype=torch.float64)
    noise[:, 0] = along
    return errors(variant, distance, noise, direction)


def random_errors(variant: str, distance: Tensor, d: int, seed: int = 0) -> Errors:
    """For random noise and a random direction of δ."""
    generator = torch.Generator().manual_seed(seed)
    noise, away = (torch.randn(len(distance), d, generator=generator, dtype=torch.float64) for _ in range(2))
    return errors(variant, distance, noise, away / away.norm(dim=1, keepdim=True))


@styled()
def approximation_picture() -> Figure:
    """Relative error over k‖δ‖ for the sum over coordinates and for the mean, by D."""
    figure, axes = subplots(1, 2, height=3.5, sharex=True, sharey=True)
    line, dots = torch.logspace(-3, 2.3, 60, dtype=torch.float64), torch.logspace(-3, 2.3, 45, dtype=torch.float64)
    panels = (("paper", "log p summed over D coordinates"), ("mean", "log p averaged over D coordinates"))
    for panel, (variant, title) in zip(axes, panels, strict=True):
        for i, d in enumerate(DIMENSIONS):
            exact = exact_errors(variant, line, d)
            drawn = random_errors(variant, dots, d, seed=i)
            curve(panel, exact.distance, exact.error, f"D = {d:,}", i)
            panel.plot(drawn.distance, drawn.error, "o", markersize=3, color=CYCLE[i], alpha=0.55, markeredgewidth=0)
        panel.set(xscale="log", yscale="log", ylim=(1e-5, 1e3))
        labels(panel, r"$k\|\delta\|$ [standard deviations of the step]", "", title)
    axes[0].set_ylabel(r"relative error of $A\,k\,\varepsilon$")
    legend(figure)
    figure.set_label(
        "The relative error over k times the length of delta, on double logarithmic axes. With summed "
        "log-density it grows in proportion and explodes at about 1, for every D. With averaged log-density "
        "it is smaller by the root of D."
    )
    return figure
