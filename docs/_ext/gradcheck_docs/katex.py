"""Formulas by KaTeX, from files of this site alone: no network, no font of the reader's machine.

The LaTeX stands in the page as text, so that it can be read without JavaScript; ``_static/formulas.js`` typesets it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.errors import ExtensionError


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(f'<span class="formula">{self.encode(node.astext())}</span>')
    raise nodes.SkipNode


def _display(self: Any, node: nodes.math_block) -> None:
    ids = "".join(f'<span id="{i}"></span>' for i in node.get("ids", ()))
    self.body.append(f'{ids}<div class="formula display" tabindex="0">{self.encode(node.astext())}</div>\n')
    raise nodes.SkipNode


def copy(app: Any, error: Exception | None) -> None:
    """Put KaTeX beside the pages: its style, its script and the fonts that the style names."""
    if error is not None or app.builder.format != "html":
        return
    package, out = Path(app.srcdir) / "node_modules" / "katex", Path(app.outdir) / "_static" / "katex"
    if not package.is_dir():
        raise ExtensionError("KaTeX is not there: `make docs` installs it, by `npm install --prefix docs`")
    (out / "fonts").mkdir(parents=True, exist_ok=True)
    for file in ("LICENSE", "dist/katex.min.css", "dist/katex.min.js"):
        shutil.copy(package / file, out)
    for font in (package / "dist" / "fonts").glob("*.woff2"):
        shutil.copy(font, out / "fonts")


def setup(app: Any) -> None:
    """Register the renderer; ``html_math_renderer = "katex"`` chooses it."""
    app.connect("build-finished", copy)
    app.add_html_math_renderer("katex", inline_renderers=(_inline, None), block_renderers=(_display, None))
    app.add_css_file("katex/katex.min.css")
    app.add_js_file("katex/katex.min.js", priority=400)
    app.add_js_file("formulas.js", priority=410)
