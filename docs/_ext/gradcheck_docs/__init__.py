"""The Sphinx extension that makes this site: pages from the catalogue, formulas by name, KaTeX, a check of the API.

Sphinx itself is imported in :func:`setup` alone, so that the tests of the pages need no docs environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    from gradcheck_docs import api, formulas, katex
    from gradcheck_docs.site import write

    katex.setup(app)
    formulas.setup(app)
    app.connect("builder-inited", lambda app: write(Path(app.srcdir)))
    app.connect("env-check-consistency", api.check)
    app.connect("autodoc-process-docstring", api.tidy, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", api.signature)
    app.connect("missing-reference", api.resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
