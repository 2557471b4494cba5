"""The report as one HTML file that loads nothing: test ratio, resolution and importance ratio over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gradcheck.reports.markup import Markup, join, page_head, tag
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.watching.lines import Report, StepLine

__all__ = ["to_html"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 860, 190, 70, 12, 12, 30
_CLASS = {"conforms": "good", "wrong": "bad", "unjudged": "line"}
_STYLE = """
.steps { overflow-x: auto; }
.steps th, .steps td { overflow-wrap: normal; white-space: nowrap; border: 0; padding-bottom: .1rem; }
.steps td[colspan] { overflow-wrap: anywhere; white-space: normal; border-bottom: 1px solid var(--line); }
figure { overflow-x: auto; }
svg { min-width: 34rem; }
"""
"""A narrow screen scrolls what would be too small to read, and no word is broken."""
_ROWS = 200
"""Steps in the table: all wrong ones first, then the latest."""


def to_html(report: Report, name: str) -> str:
    """The page.

    Args:
        report: the lines of a log.
        name: where they are from.
    """
    lines = list(report.lines)
    head = page_head(f"gradcheck watch: {name}", _STYLE)
    body = tag(
        "main",
        _verdict(report, name),
        _chart("Test ratio of the gradient; up to 4 passes", lines, lambda x: x.ratio, limit=THRESHOLD),
        _chart("Resolution: the smallest relative error that would have been refused", lines, lambda x: x.resolution),
        _chart("Distance of the importance ratio from 1", lines, _ratio_off),
        _table(lines),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en")


def _ratio_off(line: StepLine) -> float | None:
    return None if line.importance_ratio is None else max(abs(x - 1) for x in line.importance_ratio)


def _verdict(report: Report, name: str) -> Markup:
    counts = report.verdicts
    kind = "good" if report.holds else "bad"
    if report.holds:
        said = f"Every judged step conforms: {counts['conforms']} of them."
    elif counts["wrong"]:
        said = f"{counts['wrong']} of {report.judged} judged steps are wrong."
    else:
        said = "No step could be judged."
    first = report.first_wrong
    return tag(
        "section",
        tag("h1", said),
        tag("p", f"{name}, {sum(counts.values())} steps looked at, {counts['unjudged']} could not be judged."),
        None if first is None else tag("p", tag("b", f"Step {first.step}, {', '.join(first.causes)}: "), first.because),
        class_=f"verdict {kind}",
    )


def _chart(
    title: str, lines: Sequence[StepLine], value: Callable[[StepLine], float | None], limit: float | None = None
) -> Markup | None:
    """Points over the steps, on a logarithmic scale; ``None`` where there is none."""
    points = [(x.step, v, x) for x in lines if (v := value(x)) is not None and math.isfinite(v)]
    if not points:
        return None
    floor = min((v for _, v, _ in points if v > 0), default=1e-8)
    shown = [max(v, floor) for _, v, _ in points] + ([] if limit is None else [limit])
    low, high = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)) + 1e-9)
    high = max(high, low + 1)
    first, last = min(s for s, *_ in points), max(s for s, *_ in points)

    def x_of(step: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * ((step - first) / (last - first) if last > first else 0.5)

    def y_of(v: float) -> float:
        part = (math.log10(max(v, 10.0**low)) - low) / (high - low)  # a 0 is drawn at the lower end
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * part

    marks = [
        tag(
            "circle",
            tag("title", f"step {s}: {v:.4g}, {line.verdict}"),
            cx=f"{x_of(s):.1f}",
            cy=f"{y_of(v):.1f}",
            r="3",
            fill=f"var(--{_CLASS[line.verdict]})",
        )
        for s, v, line in points
    ]
    every = max(1, math.ceil((high - low) / 6))
    grid = [_ruled(y_of(10.0**e), f"1e{e}" if e else "1") for e in range(low, high + 1, every)]
    bound = (
        None
        if limit is None
        else tag(
            "line",
            x1=str(_LEFT),
            x2=str(_WIDTH - _RIGHT),
            y1=f"{y_of(limit):.1f}",
            y2=f"{y_of(limit):.1f}",
            stroke="var(--bad)",
            stroke_dasharray="5 4",
        )
    )
    ends = [
        tag("text", str(s), x=f"{x_of(s):.0f}", y=str(_HEIGHT - 8), text_anchor=anchor, fill="var(--faint)")
        for s, anchor in dict.fromkeys([(first, "start"), (last, "end")])
    ]
    drawing = tag("svg", *grid, bound, *marks, *ends, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", font_size="12")
    return tag("section", tag("h3", title), tag("figure", drawing), class_="target")


def _ruled(y: float, label: str) -> Markup:
    return join(
        tag("line", x1=str(_LEFT), x2=str(_WIDTH - _RIGHT), y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="var(--line)"),
        tag("text", label, x=str(_LEFT - 8), y=f"{y + 4:.1f}", text_anchor="end", fill="var(--faint)"),
    )


def _told(line: StepLine) -> Markup:
    return join(tag("b", f"{', '.join(line.causes)}: ") if line.causes else None, line.because)


_COLUMNS = ("step", "verdict", "test ratio", "factor")


def _table(lines: Sequence[StepLine]) -> Markup:
    wrong = [x for x in lines if x.verdict == "wrong"]
    others = [x for x in lines if x.verdict != "wrong"]
    shown = [*wrong, *reversed(others)][:_ROWS]
    header = tag("tr", *(tag("th", x) for x in _COLUMNS))
    rows = [
        join(
            tag(
                "tr",
                tag("td", str(x.step) if x.rank == 0 else f"{x.step} (rank {x.rank})"),
                tag("td", x.verdict, class_={"conforms": "good-text", "wrong": "bad-text"}.get(x.verdict, "faint")),
                tag("td", "" if x.ratio is None else f"{x.ratio:.3g}"),
                tag("td", x.factor or ""),
            ),
            tag("tr", tag("td", _told(x), class_="small", colspan=str(len(_COLUMNS)))),
        )
        for x in shown
    ]
    rest = f"The latest {_ROWS} of {len(lines)} steps, wrong ones first." if len(lines) > _ROWS else ""
    return tag(
        "section",
        tag("h3", "Steps"),
        tag("p", rest, class_="faint") if rest else None,
        tag("div", tag("table", header, *rows), class_="steps"),
        class_="target",
    )
