"""The HTML report's plots, as SVG that stands in the page and takes its colours from the page's style sheet."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch

from gradcheck.judging.results import Result
from gradcheck.reports.directions import Directions
from gradcheck.reports.shared import number
from gradcheck.reports.style import STYLE

__all__ = ["histograms", "plane"]

_LINE, _CARD = "#B0B0B0", "#FFFFFF"
_VARIABLES = {
    STYLE["good"]: "good",
    STYLE["bad"]: "bad",
    STYLE["ink"]: "ink",
    STYLE["faint"]: "faint",
    _LINE: "line",
    _CARD: "card",
}
_RC = {
    **STYLE["rc"],
    "svg.fonttype": "none",
    "svg.hashsalt": "gradcheck",
    "text.color": STYLE["ink"],
    "text.parse_math": False,
    "axes.labelcolor": STYLE["faint"],
    "axes.edgecolor": _LINE,
    "xtick.color": _LINE,
    "xtick.labelcolor": STYLE["faint"],
    "xtick.labelsize": 9.5,
    "font.size": 10.5,
    "savefig.transparent": True,
}

# ------------------------------------------------------------------------------------------- test ratios

_LOW, _HIGH, _PER_DECADE = -4, 4, 4  # powers of ten; smaller and larger ratios have a bin each, at the ends
_MARGIN = 0.75  # decades that an end's bin is away from the scale
_DOT = 0.04  # a shorter gradient, relative to the longer one, is drawn as a dot


def histograms(results: Sequence[Result], threshold: float, name: str) -> str:
    """A histogram of the test ratios for each obligation that has some; empty if none has."""
    shown = [r for r in results if r.outcome.ratios]
    if not shown:
        return ""
    several = len({r.device for r in results}) > 1
    with mpl.rc_context(_RC):
        height = 0.34 * len(shown) + 0.75
        figure = Figure(figsize=(4.6, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.385, 0.5 / height, 0.605, 0.34 * len(shown) / height))
        for row, result in enumerate(shown):
            _row(
                axes, len(shown) - 1 - row, result, threshold, f"{result.id}, {result.device}" if several else result.id
            )
        _scale(axes, len(shown), threshold)
        return _inline(figure, "Histograms of the test ratios, one row for each obligation", name)


def _row(axes: Axes, y: int, result: Result, threshold: float, label: str) -> None:
    limit = math.log10(threshold)
    centres, counts = np.unique([_place(x, limit) for x in result.outcome.ratios], return_counts=True)
    colours = [STYLE["bad"] if x > limit else STYLE["good"] for x in centres]
    axes.axhline(y, color=_LINE, linewidth=0.6, zorder=1)
    axes.bar(centres, 0.8 * counts / counts.max(), 0.86 / _PER_DECADE, bottom=y, color=colours, zorder=3)
    colour = STYLE["bad"] if result.outcome.status == "failed" else STYLE["ink"]
    axes.annotate(
        label, (0, y + 0.3), (-8, 0), ("axes fraction", "data"), "offset points", ha="right", va="center", color=colour
    )


def _place(ratio: float, limit: float) -> float:
    """The centre of a ratio's bin on the logarithmic axis; the threshold is an edge, and belongs to the bin below."""
    if ratio <= 10**_LOW:
        return _LOW - _MARGIN
    if not ratio < 10**_HIGH:
        return _HIGH + _MARGIN
    return limit + (math.ceil((math.log10(ratio) - limit) * _PER_DECADE) - 0.5) / _PER_DECADE


def _scale(axes: Axes, rows: int, threshold: float) -> None:
    limit = math.log10(threshold)
    axes.set(xlim=(_LOW - 2 * _MARGIN, _HIGH + 2 * _MARGIN), ylim=(-0.08, rows), yticks=())
    axes.axvline(limit, color=STYLE["bad"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=4)
    axes.text(limit, rows + 0.12, f"passes up to {threshold:g}", ha="center", color=STYLE["bad"], fontsize=9.5)
    axes.set_xticks([_LOW - _MARGIN, -2, 0, 2, _HIGH + _MARGIN], ["less", "0.01", "1", "100", "more"])
    axes.set_xlabel("test ratio: difference over rounding error", fontsize=9.5)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)


# -------------------------------------------------------------------------------------------- directions


def plane(directions: Directions, name: str) -> str:
    """Both gradients and the field's directions in the plane that the gradients span."""
    observed, required = np.array(directions.observed), np.array(directions.required)
    first, second = _axes_of(observed, required, [np.array(x) for _, x in directions.named])
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(4.0, 3.22))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axes.set(xlim=(-1.74, 1.74), ylim=(-1.4, 1.4), aspect="equal")
        axes.set_axis_off()
        axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=_LINE, linewidth=0.8))
        labels = _Labels(axes)
        longest = max(float(np.linalg.norm(x)) for x in (observed, required))
        ends = [np.array([x @ first, x @ second]) / longest for x in (observed, required)]
        others = [
            (label, np.array([x @ first, x @ second]) / max(float(np.linalg.norm(x)), 1e-300))
            for label, x in directions.named
        ]
        free = _free_way([*ends, *(end for _, end in others)])
        for end, colour, label in zip(ends, (STYLE["bad"], STYLE["good"]), ("yours", "required"), strict=True):
            _gradient(axes, labels, end, colour, label, free)
        for label, end in others:
            _direction(axes, labels, end, label)
        return _inline(figure, "Your gradient, the required one and the field's directions in their plane", name)


def _axes_of(observed: np.ndarray, required: np.ndarray, others: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal pair: along the required gradient (or yours, if that is 0), and across it."""
    along = next(x for x in (required, observed) if np.linalg.norm(x) > 0)
    first = along / np.linalg.norm(along)
    for x in (observed, *others):
        across = x - (x @ first) * first
        if np.linalg.norm(across) > 1e-6 * max(float(np.linalg.norm(x)), 1e-300):
            return first, across / np.linalg.norm(across)
    return first, np.zeros_like(first)


def _free_way(ends: Sequence[np.ndarray]) -> np.ndarray:
    """The direction amid the widest gap between the arrows: what is written there lies on none of them."""
    angles = sorted(math.atan2(y, x) for x, y in ends if math.hypot(x, y) >= _DOT)
    gaps = [(b - a, a) for a, b in itertools.pairwise([*angles, angles[0] + 2 * math.pi])]
    width, start = max(gaps)
    return np.array([math.cos(start + width / 2), math.sin(start + width / 2)])


def _gradient(axes: Axes, labels: _Labels, end: np.ndarray, colour: str, label: str, free: np.ndarray) -> None:
    """One of the two gradients; the shorter one lies on top, and one of no length is a dot."""
    length = float(np.linalg.norm(end))
    if length < _DOT:
        axes.plot(0, 0, "o", markersize=8, color=colour, zorder=6)
        labels.add(0.1 * free, f"{label}: {number(length)}" if length else f"{label}: 0", colour, 11.5)
        return
    _arrow(axes, end, colour, head=17, linewidth=2.8, zorder=5 - length)
    labels.add(end, label, colour, 11.5)


def _direction(axes: Axes, labels: _Labels, end: np.ndarray, label: str) -> None:
    """One of the field's directions, at unit length, as far as it lies in the plane."""
    if np.linalg.norm(end) < 0.2:
        return
    _arrow(axes, end, STYLE["faint"], head=9, linewidth=1.1, zorder=3)
    labels.add(end, label, STYLE["faint"], 10)


def _arrow(axes: Axes, end: np.ndarray, colour: str, *, head: float, linewidth: float, zorder: float) -> None:
    axes.add_patch(
        FancyArrowPatch(
            (0, 0), _xy(end), arrowstyle="-|>", mutation_scale=head, color=colour, linewidth=linewidth,
            shrinkA=0, shrinkB=0, zorder=zorder,
        )
    )  # fmt: skip


class _Labels:
    """Labels beyond the arrows' ends; one that would cover an earlier one moves down or up."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.boxes: list[tuple[float, float, float]] = []  # left, right, height of the middle

    def add(self, end: np.ndarray, text: str, colour: str, size: float) -> None:
        length = float(np.linalg.norm(end))
        x, y = end * (1 + 0.1 / length) if length else (0.1, 0.0)
        width = 0.0071 * size * len(text)
        if abs(x) < 0.3 * abs(y):
            ha, left, y = "center", x - width / 2, y + math.copysign(0.04, y)
        elif x > 0:
            ha, left = "left", x
        else:
            ha, left = "right", x - width
        step = -0.16 if y <= 0 else 0.16
        while any(left < stop and left + width > start and abs(y - m) < 0.15 for start, stop, m in self.boxes):
            y += step
        self.boxes.append((left, left + width, y))
        self.axes.text(x, y, text, color=colour, fontsize=size, ha=ha, va="center", zorder=7)


def _xy(end: np.ndarray) -> tuple[float, float]:
    return float(end[0]), float(end[1])


# --------------------------------------------------------------------------------------------------- SVG


def _inline(figure: Figure, label: str, name: str) -> str:
    """The figure as an ``<svg>`` element; ids begin with ``name``, so that several stand in one page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _adapt(element, name)
    width = root.get("width", "").removesuffix("pt")
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("style", f"max-width: {float(width) * 4 / 3:.0f}px; stroke-linejoin: round")
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, name: str) -> None:
    """Without namespaces, under this picture's ids, in the page's colours and font."""
    element.tag = _local(element.tag)
    for key in list(element.attrib):
        value = element.attrib.pop(key)
        if _local(key) == "id":
            value = f"{name}-{value}"
        if _local(key) == "href":
            value = f"#{name}-{value.removeprefix('#')}"
        value = value.replace("url(#", f"url(#{name}-")
        for colour, variable in _VARIABLES.items():
            value = re.sub(colour, f"var(--{variable})", value, flags=re.IGNORECASE)
        element.set(_local(key), re.sub(r"('[^']*', )+sans-serif", "system-ui, sans-serif", value))


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
