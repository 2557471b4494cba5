"""The report as one HTML file that loads nothing: the verdict, a table, and each failure with its cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gradcheck.judging.results import Diagnosis, Judgement, Result, Status
from gradcheck.oracle.subject import Settings
from gradcheck.reports.directions import Directions, Key
from gradcheck.reports.markup import Markup, join, page_head, tag
from gradcheck.reports.shared import (
    against,
    because,
    decomposition,
    environment,
    explained_first,
    failures,
    overall,
    place,
    remark,
    several_devices,
    sharpness,
    tally,
    timestamp,
    verdict,
)
from gradcheck.reports.text import UNDECLARED, UNEXPLAINED

__all__ = ["to_html"]

_MARKS: dict[Status, tuple[str, str]] = {
    "passed": ("good-text", "✓ holds"),
    "failed": ("bad-text", "✗ fails"),
    "skipped": ("faint", "– not checked"),
    "expected-failure": ("faint", "✗ as declared"),
    "unexpected-pass": ("bad-text", "✗ unexpected pass"),
    "unjudged": ("bad-text", "? could not be judged"),
}


def to_html(
    judgements: Sequence[Judgement], settings: Settings, directions: Mapping[Key, Directions] | None = None
) -> str:
    """The report as a page.

    Args:
        judgements: one for each implementation.
        settings: with which they were judged.
        directions: gradients to draw beside the failures that they belong to, from
            :func:`gradcheck.reports.failure_directions`; without them there is no such picture.
    """
    head = page_head(f"gradcheck: {overall(judgements)}")
    sections = [_target(i, j, directions or {}, alone=len(judgements) == 1) for i, j in enumerate(judgements)]
    body = tag("body", tag("main", _verdict(judgements), *sections, _footer(judgements, settings)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _verdict(judgements: Sequence[Judgement]) -> Markup:
    holds = bool(judgements) and all(j.holds for j in judgements)
    lines = [tag("h1", f"{'✓' if holds else '✗'} {overall(judgements)}")]
    if len(judgements) == 1:
        lines += _introduction(judgements[0])
    else:
        links = [tag("li", tag("a", j.subject, href=f"#t{i}"), f" {verdict(j)}") for i, j in enumerate(judgements)]
        lines.append(tag("ul", *links) if links else tag("p", "No implementation was found."))
    return tag("header", *lines, class_=f"verdict {'good' if holds else 'bad'}")


def _introduction(judgement: Judgement) -> list[Markup]:
    return [
        tag("p", "Declared as ", tag("code", judgement.declaration)),
        tag("p", tally(judgement), class_="faint small"),
        _causes(judgement),
    ]


def _causes(judgement: Judgement) -> Markup:
    """What the failures are consistent with, each cause once, with the obligations that show it."""
    shown: dict[str, tuple[Diagnosis, list[str]]] = {}
    for r in failures(judgement):
        if r.diagnosis is not None:
            shown.setdefault(r.diagnosis.cause, (r.diagnosis, []))[1].append(r.id)
    items = [
        tag(
            "li",
            _capital(because(diagnosis)),
            join(". If that is meant, declare ", tag("code", diagnosis.declare)) if diagnosis.declare else None,
            tag("div", "seen in ", ", ".join(dict.fromkeys(ids)), class_="faint small"),
        )
        for diagnosis, ids in shown.values()
    ]
    return tag("ul", *items, class_="causes") if items else Markup("")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _target(i: int, judgement: Judgement, directions: Mapping[Key, Directions], *, alone: bool) -> Markup:
    parts = [] if alone else [_heading(judgement), *_introduction(judgement)]
    parts += [tag("h3", "Obligations"), _table(judgement)]
    parts += _failures(i, judgement, directions)
    parts += _ratios(judgement, f"t{i}h")
    if judgement.printed:
        parts += [tag("h3", "Printed"), tag("pre", judgement.printed, class_="wrap")]
    parts += [tag("h3", "Reference"), tag("pre", " ".join(judgement.reference.split()), class_="wrap")]
    return tag("section", *parts, class_="target", id=f"t{i}")


def _heading(judgement: Judgement) -> Markup:
    colour = "good-text" if judgement.holds else "bad-text"
    return tag("h2", judgement.subject, " ", tag("span", verdict(judgement), class_=colour))


def _ratios(judgement: Judgement, name: str) -> list[Markup]:
    from gradcheck.reports.plots import histograms  # matplotlib is needed for this report alone

    drawn = histograms(judgement.results, judgement.threshold, name)
    if not drawn:
        return []
    caption = (
        "The difference between your gradient and the required one, divided by the rounding error of one evaluation,"
        " for every random problem. A right implementation stays left of the line in any order of evaluation."
    )
    return [tag("h3", "Test ratios"), tag("figure", Markup(drawn), tag("figcaption", caption))]


def _table(judgement: Judgement) -> Markup:
    several = several_devices(judgement)
    heads = [tag("th", "obligation"), tag("th", "")]
    heads += [tag("th", text, class_="figure") for text in ("cases", "worst ratio", "smallest error seen")]
    rows = [_row(r, several, judgement.threshold) for r in judgement.results]
    return tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="obligations")


def _row(r: Result, several: bool, threshold: float) -> Markup:
    colour, mark = _MARKS[r.status]
    o = r.outcome
    what = join(
        tag("b", r.id),
        tag("span", f" {r.device}", class_="faint") if several else None,
        tag("div", r.statement, class_="small"),
        tag("div", remark(r), class_="small faint") if remark(r) else None,
    )
    return tag(
        "tr",
        tag("td", what, class_="what"),
        tag("td", mark, class_=f"status {colour}"),
        tag("td", str(o.examples or ""), class_="figure cases"),
        tag("td", against(o, threshold), class_="figure ratio"),
        tag("td", sharpness(o), class_="figure sees"),
    )


def _failures(i: int, judgement: Judgement, directions: Mapping[Key, Directions]) -> list[Markup]:
    several = several_devices(judgement)
    shown = []
    for n, (result, first) in enumerate(explained_first(judgement)):
        drawn = directions.get((judgement.subject, result.id, result.device))
        shown.append(_failure(result, several, first, drawn, f"t{i}f{n}"))
    return [tag("h3", "What fails"), *shown] if shown else []


def _failure(r: Result, several: bool, first: bool, drawn: Directions | None, name: str) -> Markup:
    """A failure; unfolded if it is the first of its cause."""
    place_ = f" on {r.device}" if several else ""
    summary = tag("summary", tag("b", r.id + place_), tag("span", remark(r) or r.statement, class_="faint"))
    rows = _rows(r)
    facts = tag("dl", *(join(tag("dt", head), tag("dd", body)) for head, body in rows))
    parts = [facts]
    if r.diagnosis is not None and decomposition(r.diagnosis):
        parts.append(_decomposition(r.diagnosis))
    if drawn is not None:
        parts.append(_picture(drawn, name))
    if r.script:
        inner = tag(
            "div", tag("p", "One click selects all of it.", class_="small faint"), tag("pre", r.script, class_="script")
        )
        parts.append(tag("details", tag("summary", "Script that shows this failure"), inner))
    return tag("details", summary, tag("div", *parts), class_="failure", open=first)


def _rows(r: Result) -> list[tuple[str, Markup]]:
    """Demanded, seen, because, declare."""
    o, d = r.outcome, r.diagnosis
    rows = [("demanded", join(r.statement))]
    if r.status == "unexpected-pass":
        rows.append(("seen", join(remark(r))))
    elif o.detail:
        at = tag("div", place(o.comparison), class_="faint small") if o.comparison is not None else None
        rows.append(("seen", join(o.detail, at)))
    if o.meaning:
        rows.append(("that is", join(o.meaning)))
    if o.spec is not None:
        rows.append(("problem", join(f"batch {o.spec.batch}, latent {o.spec.latent}, {r.dtype} on {r.device}")))
    if d is not None:
        rows.append(("because", join(because(d))))
        if d.name in UNEXPLAINED:
            rows.append(("perhaps", join(UNDECLARED)))
        if d.declare:
            rows.append(("declare", join(tag("code", d.declare), ", if that is meant")))
    rows.append(("this catches", join(r.catches)))
    return rows


def _decomposition(diagnosis: Diagnosis) -> Markup:
    heads = tag("tr", *(tag("th", head) for head in ("gradient on", "yours", "required")))
    rows = [_coefficients(*row) for row in decomposition(diagnosis)]
    return tag("table", tag("thead", heads), tag("tbody", *rows), class_="decomposition")


def _coefficients(name: str, yours: str, wanted: str) -> Markup:
    """A direction; the two coefficients in the picture's colours where they differ."""
    colours = ("", "") if yours == wanted else (" bad-text", " good-text")
    cells = zip((yours, wanted), colours, strict=True)
    return tag("tr", tag("td", name), *(tag("td", x, class_="formula" + colour) for x, colour in cells))


def _picture(drawn: Directions, name: str) -> Markup:
    from gradcheck.reports.plots import plane

    caption = (
        "One sample's gradient in the plane of yours and the required one (of a field's direction too, if they are"
        " parallel), the longer one at unit length, the circle."
        " Grey: the field's directions at unit length; what is missing of that points out of the plane."
    )
    return tag("figure", Markup(plane(drawn, name)), tag("figcaption", caption))


def _footer(judgements: Sequence[Judgement], settings: Settings) -> Markup:
    versions = environment(judgements)
    devices = "; ".join(f"{d} {name}".strip() for d, name in versions["devices"].items())
    told = ", ".join(f"{name} {versions[name]}" for name in ("gradcheck", "torch", "numpy", "sympy", "python"))
    asked = f"{settings.dtype}, seed {settings.seed}, up to {settings.max_examples} problems for each obligation"
    lines = (f"{told}, {versions['platform']}", f"{asked}; {devices or 'no device'}", timestamp())
    return tag("footer", *(tag("p", line) for line in lines), class_="faint small")
