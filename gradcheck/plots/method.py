r"""Pictures of the lemmas: every curve is the lemma's own claim, evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from torch import Tensor

from derivations.claims import EqualUpToConstant
from derivations.lemmas import LEMMAS
from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.derived.equivalent import squared_distance, target
from gradcheck.plots.directions import SCENE
from gradcheck.problems.building import complete
from gradcheck.reports.style import STYLE, curve, labels, legend, styled, subplots
from gradcheck.rounding.bounds import Analysis
from gradcheck.rounding.compare import gradient_of
from gradcheck.tensor_ops import clip_mask, surrogate

__all__ = ["CLIP", "Merged", "clip_picture", "equal_gradients_picture", "merged", "mixture_picture", "scene_case"]

# ----------------------------------------------------------------------------- L1: two losses, one gradient

_FRAME = (-0.75, 0.95, -0.75, 0.75)  # left, right, bottom, top
_POINTS = 81


def scene_case(name: str, velocities: Tensor, advantage: float = 1.0) -> Case:
    """The scene's sample for velocities (N, 2), every other quantity repeated."""
    derivation = entry(name).derivation
    given: dict[str, Tensor | float] = {}
    for quantity in derivation.given:
        value = torch.tensor([advantage], dtype=torch.float64) if quantity == "advantage" else SCENE[quantity]
        given[quantity] = value.expand(len(velocities), *value.shape[1:]) if isinstance(value, Tensor) else value
    return complete(derivation, given | {"v_theta": velocities})


@styled()
def equal_gradients_picture(name: str = "flow_grpo") -> Figure:
    """Lemma L1 in two dimensions: the loss's contours, the squared distance's, and the one gradient of both."""
    chosen = entry(name)
    left, right, bottom, top = _FRAME
    x, y = torch.linspace(left, right, _POINTS), torch.linspace(bottom, top, _POINTS)
    grid = torch.cartesian_prod(x, y).to(torch.float64)
    start = SCENE["v_theta"]
    assert isinstance(start, Tensor)
    here = scene_case(name, start)
    gradient = gradient_of(chosen.loss(here), here.v_theta)[0]
    weight, point = target(chosen.derivation, here)
    surfaces = (
        (f"{chosen.derivation.title}'s loss", chosen.loss(scene_case(name, grid)).detach()),
        (r"$\frac{1}{2}\,\|v_\theta - \mathrm{sg}(\mathrm{target})\|^2$", squared_distance(grid, weight, point)),
    )
    figure, axes = subplots(1, 2, height=3.5, sharex=True, sharey=True)
    for panel, (title, surface) in zip(axes, surfaces, strict=True):
        panel.grid(False)
        shown = surface.reshape(_POINTS, _POINTS).T.numpy()
        panel.contour(x.numpy(), y.numpy(), shown, levels=12, colors=STYLE["faint"], linewidths=0.9, linestyles="-")
        panel.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
        _arrow(panel, start[0], start[0] - gradient)
        _dot(panel, start[0], r"$v_\theta$")
        labels(panel, "first coordinate of the velocity", "", title)
    axes[0].set_ylabel("second coordinate")
    _dot(axes[1], point[0], "target", open_=True)
    figure.set_label(
        "Two contour maps of velocity space. Left, Flow-GRPO's loss, with bent contours; right, a squared "
        "distance with circles around the target. At the velocity both have the same gradient arrow, which "
        "ends at the target."
    )
    return figure


def _arrow(axes: Axes, start: Tensor, end: Tensor) -> None:
    ends = [tuple(p.tolist()) for p in (start, end)]
    axes.add_patch(
        FancyArrowPatch(
            *ends, arrowstyle="-|>", mutation_scale=16, linewidth=2.2, color=STYLE["good"], shrinkA=0, shrinkB=0
        )
    )
    x, y = ((start + end) / 2).tolist()
    axes.annotate(r"$-\nabla$", (x, y), (-16, -14), textcoords="offset points", color=STYLE["good"], fontsize=13)


def _dot(axes: Axes, at: Tensor, name: str, *, open_: bool = False) -> None:
    face = STYLE["card"] if open_ else STYLE["ink"]
    x, y = at.tolist()
    axes.plot(x, y, "o", markersize=7, color=STYLE["ink"], markerfacecolor=face, zorder=5)
    axes.annotate(name, (x, y), (9, 3), textcoords="offset points", fontsize=12, zorder=6)


# ------------------------------------------------------------------------------- L3: two parabolas are one


@dataclass(frozen=True)
class Merged:
    """Lemma L3 on a line.

    Attributes:
        v: velocities, (N,).
        parts: the two weighted squared distances, (2, N).
        mixture: their sum, the claim's left side, (N,).
        merged: the squared distance to the weighted centre, (N,).
        constant: what the claim adds to it.
    """

    v: Tensor
    parts: Tensor
    mixture: Tensor
    merged: Tensor
    constant: float


def merged(w_1: float, w_2: float, c_1: float, c_2: float) -> Merged:
    """Evaluate the lemma's claim, with weights of either sign."""
    (step,) = (s for theorem in LEMMAS if theorem.name == "L3" for s in theorem.steps if s.name == "merge-two")
    claim = step.claim
    assert isinstance(claim, EqualUpToConstant)
    v = torch.linspace(-3, 3, 241, dtype=torch.float64)
    column = torch.ones(len(v), 1, dtype=torch.float64)
    values = {"v_theta": v[:, None], "c_1": c_1 * column, "c_2": c_2 * column, "w_1": w_1 * column, "w_2": w_2 * column}
    run = Analysis(values, torch.float64)
    left, right, constant = (run(side)[0].flatten() for side in (claim.lhs, claim.rhs, claim.constant))
    first = Analysis(values | {"w_2": 0 * column}, torch.float64)(claim.lhs)[0].flatten()
    return Merged(v, torch.stack([first, left - first]), left, right, float(constant[0]))


_WEIGHTS = ((0.7, 0.3), (1.4, -0.4))


@styled()
def mixture_picture() -> Figure:
    """Lemma L3 for two positive weights, and where one pushes away."""
    figure, axes = subplots(1, 2, height=3.2, sharex=True, sharey=True)
    for panel, (w_1, w_2) in zip(axes, _WEIGHTS, strict=True):
        shown = merged(w_1, w_2, 1.0, -1.0)
        curve(panel, shown.v, shown.parts[0], r"$w_1\|v_\theta - c_1\|^2$", 0, linewidth=1.4)
        curve(panel, shown.v, shown.parts[1], r"$w_2\|v_\theta - c_2\|^2$", 1, linewidth=1.4)
        curve(panel, shown.v, shown.mixture, "their sum", 6, linewidth=2.6)
        curve(panel, shown.v, shown.merged, r"$W\|v_\theta - \bar c\|^2$", 2)
        labels(panel, "velocity, one coordinate", "", rf"$w_1 = {w_1:g},\ w_2 = {w_2:g}$")
        panel.set_ylim(-4, 9)
    axes[0].set_ylabel("loss")
    legend(figure)
    figure.set_label(
        "Parabolas over a velocity on a line. In both panels the sum of two weighted squared distances has "
        "the shape of one parabola, shifted up or down. With a negative second weight its centre lies beyond "
        "the first point."
    )
    return figure


# --------------------------------------------------------------------------------------- L4: the clip's mask

CLIP = 0.2
"""The clip range that is drawn."""


@styled()
def clip_picture() -> Figure:
    """PPO's clipped surrogate over the ratio for either sign of the advantage, and where its slope is 0."""
    r = torch.linspace(0.5, 1.5, 401, dtype=torch.float64)
    figure, axes = subplots(1, 2, height=2.9, sharex=True, sharey=True)
    for panel, sign in zip(axes, (1.0, -1.0), strict=True):
        a = torch.full_like(r, sign)
        mask = clip_mask(a, r, CLIP, CLIP) == 1
        values = surrogate(a, r, CLIP, CLIP)
        panel.axvspan(1 - CLIP, 1 + CLIP, color=STYLE["grid"], alpha=0.5, linewidth=0)
        curve(panel, r, -a * r, "unclipped, $-A r$", 1, linewidth=1.4)
        curve(panel, r, torch.where(mask, values, torch.nan), "clipped, slope $-A$ (mask 1)", 0, linewidth=2.8)
        curve(panel, r, torch.where(mask, torch.nan, values), "clipped, slope 0 (mask 0)", 6, linewidth=2.8)
        labels(panel, "ratio $r$", "", f"advantage $A = {sign:g}$".replace("-", "−"))
    axes[0].set_ylabel("loss, $-\\min(rA, \\mathrm{clip}(r)A)$")
    legend(figure, columns=3)
    figure.set_label(
        "The clipped loss over the ratio. For a positive advantage it falls until the ratio is 1.2 and is "
        "flat beyond; for a negative one it is flat below 0.8 and rises after it."
    )
    return figure
