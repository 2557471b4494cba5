"""HTML that is escaped by construction: every child that is not itself markup is text."""

from __future__ import annotations

import html
from importlib.resources import files

from gradcheck.reports.shared import clean

__all__ = ["Markup", "join", "page_head", "tag"]

_VOID = {"meta", "br"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # no script runs and nothing is loaded, whatever names say


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: str | bool) -> Markup:
    """An element; ``None`` children are left out, ``class_`` means ``class``, ``http_equiv`` ``http-equiv``.

    >>> tag("p", "1 < 2", tag("b", "so"), class_="note")
    '<p class="note">1 &lt; 2<b>so</b></p>'
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not False)
    if name in _VOID:
        return Markup(f"<{name}{written} />")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*parts: str | None) -> Markup:
    """Several pieces one after the other."""
    return Markup("".join(p if isinstance(p, Markup) else _escaped(p) for p in parts if p is not None))


def page_head(title: str, style: str = "") -> Markup:
    """A page's head, with the style that all pages have and what one adds to it."""
    common = files("gradcheck.reports").joinpath("style.css").read_text(encoding="utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Markup(common + style)),
    )


def _attribute(key: str, value: str | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f' {name}="{_escaped(name if value is True else str(value))}"'


def _escaped(text: str) -> str:
    return html.escape(clean(text), quote=True)
