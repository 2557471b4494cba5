"""The theorems on average, a panel each, from the proved formulas: ``python -m gradcheck.plots.averages OUT.png``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import sympy as sp
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from derivations.algebra.nodes import NormalCDF
from derivations.calculus import Norm2
from derivations.claims import Equal
from derivations.local_names import kappa
from derivations.notation import C1, D, clip_high, clip_low, delta, noise_level, t
from derivations.theorems import THEOREMS
from derivations.theorems.advantages import success_factor
from derivations.theorems.value import data_std
from gradcheck.reports.style import curve, labels, png, styled, subplots

__all__ = ["averages_picture", "main", "values"]


def values(theorem: str, step: str, given: Mapping[sp.Symbol, float], x: sp.Symbol, at: np.ndarray) -> np.ndarray:
    """The right side of a proved step over one of its symbols.

    Args:
        theorem, step: whose right side.
        given: numbers for the other symbols.
        x: the symbol that varies.
        at: its values.
    """
    (claim,) = (s.claim for th in THEOREMS if th.name == theorem for s in th.steps if s.name == step)
    assert isinstance(claim, Equal)
    formula = sp.sympify(claim.rhs).xreplace(dict(given))
    formula = formula.replace(NormalCDF, lambda z: (1 + sp.erf(z / sp.sqrt(2))) / 2)
    return np.array([float(formula.xreplace({x: sp.Float(v)}).evalf()) for v in at])


def _value(axes: Axes) -> None:
    times = np.linspace(0.02, 0.9, 60)
    for i, (level, name) in enumerate(((0.4, "η = 0.4"), (0.7, "η = 0.7"), (1.0, "η = 1"), (sp.sqrt(2), "η = √2"))):
        given = {noise_level: level, data_std: sp.S.One}
        curve(axes, times, values("value-function", "slope-ratio", given, t, times), name, i)
    axes.set_yscale("log")
    labels(axes, "t", "", "Sampler's value slope / noising's")


def _moments(axes: Axes) -> None:
    moved = np.linspace(0.01, 1.5, 60)
    curve(axes, moved, values("ratio-moments", "second-moment", {}, kappa, moved), "E r²", 0)
    size = sp.Symbol("q", positive=True)  # C1‖δ‖
    given = {C1: sp.S.One, Norm2(delta): size**2}
    for i, (step, name) in enumerate((("guard-mean", "E r̃"), ("guard-second-moment", "E r̃²")), 1):
        curve(axes, moved, values("ratio-moments", step, given, size, moved), name, i)
    curve(axes, moved, np.ones_like(moved), "E r", 3)
    labels(axes, "κ, or C1‖δ‖ for r̃", "", "Moments of the ratios")


def _order(axes: Axes) -> None:
    moved = np.logspace(-2, 1, 40)
    for i, size in enumerate((16, 1024, 65_536)):
        scale = float(size * (size + 2))
        turned = np.sqrt(values("approximation-order", "turn", {D: sp.Integer(size)}, kappa, moved) / scale)
        curve(axes, moved, turned, f"turn, D = {size:,}", i)
    curve(axes, moved, np.sqrt(values("approximation-order", "length", {}, kappa, moved)), "length", 3)
    axes.set(xscale="log", yscale="log")
    labels(axes, "κ", "", "What A k ε leaves out")


def _clip(axes: Axes) -> None:
    moved = np.linspace(0.05, 8, 80)
    given = {D: sp.Integer(65_536), clip_low: sp.Float(1e-4), clip_high: sp.Float(1e-4)}
    for i, side in enumerate(("down", "up")):
        share = values("clip", f"clipped-{side}-mean", given, kappa, moved)
        curve(axes, moved, 100 * share, "below" if side == "down" else "above", i)
    labels(axes, "κ [standard deviations]", "clipped [%]", "Clip 1e-4, mean over D = 65,536")


def _off_policy(axes: Axes) -> None:
    moved = np.linspace(0.01, 2, 60)
    for i, size in enumerate((4, 64, 65_536)):
        names = {sp.Symbol("advantage", real=True): sp.S.One, sp.Symbol("k", positive=True): sp.S.One}
        drawn = values("baseline", "off-policy", {**names, D: sp.Integer(size)}, kappa, moved)
        curve(axes, moved, drawn / size, f"D = {size:,}", i)
    axes.set_yscale("log")
    labels(axes, "κ", "", "Second moment off-policy / on-policy")


def _group(axes: Axes) -> None:
    rates = np.linspace(0.02, 0.98, 49)
    for i, size in enumerate((2, 4, 8, 32)):
        curve(axes, rates, [float(success_factor(size, sp.Float(p))) for p in rates], f"G = {size}", i)
    p = sp.Symbol("p", positive=True)
    limit = sp.lambdify(p, 1 / sp.sqrt(p * (1 - p)))
    curve(axes, rates, limit(rates), "large", 4)
    labels(axes, "success rate p", "", "Slope of p is multiplied by")


def _guidance(axes: Axes) -> None:
    scales = np.linspace(0, 8, 60)
    curve(axes, scales, scales**2 + (1 - scales) ** 2, "both branches", 0)
    curve(axes, scales, scales**2, "v_u detached", 1)
    labels(axes, "guidance scale w", "", "A step on v moves it further by")


def _outer(axes: Axes) -> None:
    shares = np.linspace(0.01, 1.1, 80)
    for i, n in enumerate((1, 2, 8)):
        curve(axes, shares, 1 - (1 - 2 * shares) ** n, f"n = {n}", i)
    axes.set_ylim(-1, 2)
    labels(axes, "aβ²", "", "Way to the target after n steps")


@styled()
def averages_picture() -> Figure:
    """Eight panels, in the page's order."""
    figure, axes = subplots(4, 2, height=9.5)
    draw = (_value, _moments, _order, _clip, _off_policy, _group, _guidance, _outer)
    for panel, one in zip(axes, draw, strict=True):
        one(panel)
        panel.legend(fontsize=7.5, handlelength=2.2)
    figure.set_label("What the losses do on average: eight panels, one for each theorem with a picture.")
    return figure


def main(argv: Sequence[str] | None = None) -> int:
    """Write the picture; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m gradcheck.plots.averages OUT.png", file=sys.stderr)
        return 2
    Path(arguments[0]).write_bytes(png(averages_picture()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
