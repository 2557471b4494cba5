r"""One style for every plot: a white card that is read on a light page and on a dark one, at 700 pixels' width.

A page shows a figure :data:`WIDTH` inches wide at :data:`PAGE_WIDTH` pixels, so 10 points are about 14 pixels there.
A figure's label says in words what it shows.  Colours are Okabe and Ito's, which colour-blind readers tell apart;
what a colour says, a dash or a label says too.

>>> figure, axes = subplots(1, 2, height=3.0)
>>> curve(axes[0], [1, 2, 3], [1, 4, 9], "squares", 0)
>>> labels(axes[0], "number", "its square")
>>> data = png(figure)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

__all__ = ["CYCLE", "DASHES", "PAGE_WIDTH", "STYLE", "WIDTH", "curve", "labels", "legend", "png", "styled", "subplots"]

WIDTH = 7.0
"""Inches; every figure is that wide, so that text has one size on every page."""

PAGE_WIDTH = 700
"""Pixels that a page gives to a figure."""

_DPI = 200

STYLE: dict[str, Any] = {
    "good": "#0072B2",
    "bad": "#D55E00",
    "good field": "#9CC5DF",
    "bad field": "#F0BE97",
    "ink": "#1A1A1A",
    "faint": "#767676",
    "grid": "#E4E4E4",
    "card": "#FFFFFF",
    "rc": {
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "mathtext.fontset": "stix",
        "axes.edgecolor": "#B0B0B0",
        "axes.linewidth": 0.8,
        "axes.labelcolor": "#4A4A4A",
        "xtick.color": "#8A8A8A",
        "ytick.color": "#8A8A8A",
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
    },
}
"""Colours by role, and Matplotlib's settings."""

CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1A1A1A")
"""Colours of curves, in order."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)), (0, (3, 1.5)), (0, (8, 3)), "-")
"""The dash that goes with each colour, so that nothing rests on colour alone."""

_PLOT_RC = {
    "axes.grid": True,
    "grid.color": STYLE["grid"],
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": STYLE["ink"],
    "axes.labelsize": 10,
    "xtick.labelcolor": "#4A4A4A",
    "ytick.labelcolor": "#4A4A4A",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "text.color": STYLE["ink"],
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's settings inside are the project's, whatever the user's own file says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE["rc"] | _PLOT_RC)
        yield


def subplots(rows: int = 1, columns: int = 1, *, height: float = 3.2, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure in the project's style, and its axes as a flat array in reading order.

    Args:
        rows: of panels.
        columns: of panels.
        height: inches; the width is always :data:`WIDTH`.
        options: of Matplotlib's ``Figure.subplots``, such as ``sharex``.
    """
    with styled():
        figure = Figure(figsize=(WIDTH, height), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure, np.array(figure.subplots(rows, columns, **options)).reshape(-1)


def curve(axes: Axes, x: Any, y: Any, label: str, index: int, **options: Any) -> None:
    """One curve in the colour and the dash of its place in :data:`CYCLE`."""
    place = index % len(CYCLE)
    axes.plot(x, y, label=label, **{"color": CYCLE[place], "linestyle": DASHES[place], **options})


def labels(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, each with its unit in brackets where it has one, and the panel."""
    axes.set(xlabel=x, ylabel=y)
    if title:
        axes.set_title(title, loc="left")


def legend(figure: Figure, handles: Sequence[Line2D] | None = None, columns: int = 4) -> None:
    """One legend under all panels, of the first panel's curves or of the given lines."""
    shown = figure.axes[0].get_legend_handles_labels()[0] if handles is None else list(handles)
    with styled():
        figure.legend(handles=shown, loc="outside lower center", ncols=columns, handlelength=2.6)


def png(figure: Figure, colours: int = 128) -> bytes:
    """A PNG with a small palette: the same bytes every time on one machine, and no metadata."""
    drawn, out = BytesIO(), BytesIO()
    with styled():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # a layout that is computed once more may move a little
        figure.savefig(drawn, format="png", dpi=_DPI)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()
