r"""Verdicts to read: one table, and for what failed the case, its figures and its note; and the same as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import Comparison
from gradcheck.vectors.checking import Answered, CaseVerdict
from gradcheck.vectors.flags import FLAGS

__all__ = ["JSON_VERSION", "answers_text", "to_json"]

JSON_VERSION = 1
"""Version of the JSON that ``gradcheck vectors check --json`` writes."""


def answers_text(answered: Sequence[Answered]) -> str:
    """The table and, below it, every failure and every file that could not be judged."""
    rows: list[tuple[str, ...]] = [("loss", "precision", "cases", "gradient", "value", "judged", "")]
    rows += [_row(a) for a in answered]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    for a in answered:
        if not a.holds:
            lines += ["", *_failure(a)]
    failed = sum(bool(a.failed) for a in answered)
    unjudged = sum(bool(a.problems) for a in answered)
    said = [f"{n} {what}" for n, what in ((failed, "FAILED"), (unjudged, "could not be judged")) if n]
    held = f"largest difference in units of its bound's u·e; up to {THRESHOLD:g} passes"
    return "\n".join([*lines, "", f"{', '.join(said) or 'every answer holds'} ({held})"])


def _row(a: Answered) -> tuple[str, ...]:
    if a.problems:
        return a.label, a.dtype, "", "", "", "", "not judged"
    values = [c.loss.ratio for c in a.cases if c.loss is not None]
    judged = sum(c.gradient.judged for c in a.cases) / len(a.cases)
    return (
        a.label,
        a.dtype,
        f"{len(a.cases) - len(a.failed)}/{len(a.cases)}",
        f"{max(c.gradient.ratio for c in a.cases):.2g}",
        f"{max(values):.2g}" if values else "–",
        f"{judged:.1%}",
        "FAILED" if a.failed else "holds",
    )


def _failure(a: Answered) -> Iterator[str]:
    if a.problems:
        yield f"{a.label} in {a.dtype} could not be judged:" if a.dtype else f"{a.label} could not be judged:"
        for name, got, wanted in a.problems:
            yield f"  {name}: got {got}; wanted {wanted}"
        return
    first, *others = a.failed
    everywhere = first.case == a.cases[0].case
    yield f"{a.label} in {a.dtype}: {len(a.failed)} of {len(a.cases)} cases FAILED"
    if a.factor is not None:
        yield f"  every gradient is {_number(a.factor)} times what is demanded"
    for verdict in [first] if everywhere else a.failed:
        yield from _case(verdict)
    if everywhere and others:
        yield f"  the others, to be read once {first.case.name} passes: {', '.join(v.case.name for v in others)}"


def _case(verdict: CaseVerdict) -> Iterator[str]:
    yield f"  {verdict.case.name}"
    for what, c in (("gradient", verdict.gradient), ("loss", verdict.loss)):
        if c is not None and not c.holds:
            yield f"    {what} of row {c.index[0] + verdict.case.rows[0]} of {verdict.case.group}{_place(c)}: " + (
                f"got {c.observed:.9g}, wanted {c.required + 0.0:.9g} ± {c.bound:.2g}"
            )
    for name in verdict.case.flags:
        if name in FLAGS:
            yield f"    case: {FLAGS[name].description}"
            yield f"    note ({FLAGS[name].bug_type}): {FLAGS[name].effect}"


def _place(c: Comparison) -> str:
    return f", component {c.index[1:]}" if len(c.index) > 1 else ""


def _number(x: float) -> str:
    near = Fraction(x).limit_denominator(240)
    found = str(near) if math.isclose(float(near), x, rel_tol=1e-5) else f"{x:.6g}"
    return found.replace("-", "−")


def to_json(answered: Sequence[Answered]) -> dict[str, Any]:
    """What ``--json`` writes; ``report.schema.json`` describes it."""
    return {
        "schema": {"name": "gradcheck-vectors-check", "version": JSON_VERSION},
        "holds": all(a.holds for a in answered),
        "threshold": THRESHOLD,
        "results": [
            {
                "label": a.label,
                "dtype": a.dtype,
                "holds": a.holds,
                "factor": a.factor,
                "problems": [{"name": n, "got": g, "wanted": w} for n, g, w in a.problems],
                "cases": [
                    {
                        "name": v.case.name,
                        "flags": list(v.case.flags),
                        "holds": v.holds,
                        "gradient": _figures(v.gradient, v.case.rows[0]),
                        "loss": None if v.loss is None else _figures(v.loss, v.case.rows[0]),
                        "notes": [] if v.holds else [FLAGS[f].effect for f in v.case.flags if f in FLAGS],
                    }
                    for v in a.cases
                ],
            }
            for a in answered
        ],
    }


def _figures(c: Comparison, row: int) -> dict[str, Any]:
    """Numbers beyond every range become null."""
    numbers = {"ratio": c.ratio, "observed": c.observed, "required": c.required, "bound": c.bound}
    finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
    return {**finite, "index": [c.index[0] + row, *c.index[1:]], "judged": c.judged, "holds": c.holds}
