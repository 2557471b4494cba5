"""HTML that is escaped by construction: every child that is not itself markup is text."""

from __future__ import annotations

import html

from gradcheck.reports.shared import clean

__all__ = ["Markup", "join", "tag"]

_VOID = {"meta", "br"}


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


def _attribute(key: str, value: str | bool) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f' {name}="{_escaped(name if value is True else str(value))}"'


def _escaped(text: str) -> str:
    return html.escape(clean(text), quote=True)
