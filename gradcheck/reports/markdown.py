"""Markdown for a CI step's summary: the verdict, a table, and each failure to unfold."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gradcheck.judging.results import Judgement, Result, Status
from gradcheck.oracle.subject import Settings
from gradcheck.reports.shared import (
    against,
    because,
    clean,
    decomposition,
    environment,
    explained_first,
    overall,
    place,
    remark,
    several_devices,
    sharpness,
    tally,
    verdict,
)

__all__ = ["LIMIT", "to_markdown"]

LIMIT = 900_000
"""Bytes; GitHub shows no summary of a step above 1 MiB."""

_MARKS: dict[Status, str] = {
    "passed": "✅ holds",
    "failed": "❌ **fails**",
    "skipped": "➖ not checked",
    "expected-failure": "☑️ fails as declared",
    "unexpected-pass": "❌ **holds, declared to fail**",
    "unjudged": "❓ **could not be judged**",
}


def to_markdown(judgements: Sequence[Judgement], settings: Settings) -> str:
    """The report as GitHub's Markdown; without the scripts if it would be too long with them."""
    out = _page(judgements, settings, scripts=True)
    if len(out.encode()) > LIMIT:
        out = _page(judgements, settings, scripts=False)
    return out


def _page(judgements: Sequence[Judgement], settings: Settings, *, scripts: bool) -> str:
    holds = judgements and all(j.holds for j in judgements)
    lines = [f"# {'✅' if holds else '❌'} gradcheck: {_safe(overall(judgements))}", ""]
    for judgement in judgements:
        lines += _target(judgement, scripts)
    if not scripts:
        lines += ["The scripts are left out, since a step's summary has a limit; the JSON report has them.", ""]
    versions = environment(judgements)
    told = ", ".join(f"{name} {versions[name]}" for name in ("gradcheck", "torch", "python"))
    lines.append(
        f"<sub>{_safe(told)}; seed {settings.seed}, up to {settings.max_examples} problems for each obligation</sub>"
    )
    return "\n".join(lines) + "\n"


def _target(judgement: Judgement, scripts: bool) -> list[str]:
    several = several_devices(judgement)
    lines = [f"## {_safe(judgement.subject)} {verdict(judgement)}", ""]
    lines += [f"{_safe(tally(judgement))}. Declared: {_code(judgement.declaration)}", ""]
    lines += ["| obligation | | cases | worst test ratio | smallest error seen | |", "|:--|:--|--:|--:|--:|:--|"]
    lines += [_row(r, several, judgement.threshold) for r in judgement.results]
    lines.append("")
    if judgement.unjudged and judgement.printed:
        lines += ["It printed:", "", *_fenced(judgement.printed, ""), ""]
    for result, first in explained_first(judgement):
        lines += _failure(result, several, full=first, script=scripts and first)
    lines += ["Reference: " + _code(" ".join(judgement.reference.split())), ""]
    return lines


def _row(r: Result, several: bool, threshold: float) -> str:
    name = _code(r.id) + (f" {_safe(r.device)}" if several else "")
    figures = (str(r.outcome.examples or ""), against(r.outcome, threshold), sharpness(r.outcome))
    cells = (name, _MARKS[r.status], *figures, _safe(remark(r)))
    return "| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |"


def _failure(r: Result, several: bool, *, full: bool, script: bool) -> list[str]:
    o = r.outcome
    where = f" on {_safe(r.device)}" if several else ""
    lines = ["<details><summary><b>" + _safe(r.id) + f"</b>{where}: {_safe(remark(r) or r.statement)}</summary>", ""]
    lines.append(f"- **demanded** {_safe(r.statement)}")
    if r.status == "unexpected-pass":
        lines.append(f"- **seen** {_safe(remark(r))}")
    elif o.detail:
        lines.append(f"- **seen** {_safe(o.detail)}" + (f" at {_safe(place(o.comparison))}" if o.comparison else ""))
    if o.meaning:
        lines.append(f"- **that is** {_safe(o.meaning)}")
    if o.spec is not None:
        lines.append(
            f"- **problem** batch {o.spec.batch}, latent {o.spec.latent}, {_safe(r.dtype)} on {_safe(r.device)}"
        )
    if r.diagnosis is not None:
        lines.append(f"- **because** {_safe(because(r.diagnosis))}" + ("" if full else " (explained above)"))
        if r.diagnosis.declare:
            lines.append(f"- **if that is meant** declare {_code(r.diagnosis.declare)}")
        rows = decomposition(r.diagnosis) if full else []
        if rows:
            lines += ["", "| gradient on | yours | required |", "|:--|:--|:--|"]
            lines += ["| " + " | ".join(_safe(cell) for cell in row) + " |" for row in rows]
    if script and r.script:
        lines += ["", *_fenced(r.script)]
    return [*lines, "", "</details>", ""]


def _fenced(source: str, language: str = "python") -> list[str]:
    """A code block whose fence is longer than any in the source."""
    longest = max((len(run) for run in re.findall("`+", source)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", clean(source).rstrip(), fence]


def _safe(text: str) -> str:
    """Text for the inside of an HTML element: on one line, nothing of it HTML or Markdown."""
    escaped = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"\s+", " ", re.sub(r"([\\`*_\[\]~|])", lambda m: f"&#{ord(m[0])};", escaped))


def _code(text: str) -> str:
    """A short piece of code; as HTML, since a code span in a table would still be split at ``|``."""
    return f"<code>{_safe(text)}</code>"
