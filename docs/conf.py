"""Settings of the documentation: Sphinx, with MyST-NB for pages and notebooks, and furo for their looks."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import gradcheck  # noqa: E402

project = "gradcheck"
author = copyright = "the authors of gradcheck"
release = version = gradcheck.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "gradcheck_docs",
]
exclude_patterns = ["node_modules", "_build", "_ext", "generated/_*.md"]

# Pages
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are executed by their own command and committed with their outputs
nb_merge_streams = True
nb_render_markdown_format = "myst"

# Docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True
toc_object_entries = add_module_names = False

# Links: every one must resolve, but for names of other packages, whose inventories would need the network.
nitpicky = True
suppress_warnings = ["ref.python"]  # two classes of one name, in a signature that does not say which
nitpick_ignore_regex = [
    (r"py:.*", r"(.*\.)?_\w+(\..*)?"),  # private names
    (r"py:.*", r".*\.[A-Z]"),  # type variables
    (
        r"py:.*",
        r"(torch|sympy|numpy|sp|np|hypothesis|pytest|_pytest|rich|diffusers|matplotlib|argparse|collections|"
        r"typing|types|pathlib|enum|os|abc|dataclasses|functools|json|fractions|xml|weakref|string)(\..*)?",
    ),
    (r"py:.*", r"[A-Z]\w*|optional|\d+"),  # unqualified names of types, napoleon's words
]

# Looks
html_theme = "furo"
html_title = "gradcheck"
html_static_path = ["_static"]
html_extra_path = ["assets/pulls.html"]  # beside the pages, as it is
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "_ext" / "scorer.js")
html_math_renderer = "katex"
html_copy_source = html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b5fa5", "color-brand-content": "#0b5fa5"},
    "dark_css_variables": {"color-brand-primary": "#7ab8f0", "color-brand-content": "#7ab8f0"},
}
pygments_style = "tango"
pygments_dark_style = "github-dark"
