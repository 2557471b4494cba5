r"""Formulas in hand-written pages, by name: nothing is typed there.

* ``{symbol}`v_theta``` is the notation table's symbol;
* the directive ``proved`` takes a derivation or theorem and a step, ``L1 sg-mse`` or ``flow_grpo[mean] gradient``, and
  shows the step's formula, with a link to the page where the step stands.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.addnodes import pending_xref

from derivations.notation import quantity
from derivations.writing.render import claim_latex
from gradcheck_docs.text import anchor, provable


class Proved(Directive):
    """``proved``: the formula of one machine-checked step."""

    required_arguments = 2
    has_content = False

    def run(self) -> list[nodes.Node]:
        label, name = self.arguments
        subject = provable(label)
        step = next((s for s in subject.steps if s.name == name), None)
        if step is None:
            known = ", ".join(s.name for s in subject.steps)
            raise self.error(f"{label} has no step {name!r}; it has {known}")
        formula = claim_latex(step.claim, of=subject.derivation)
        block = nodes.math_block(formula, formula)
        block["nowrap"], block["number"], block["label"] = False, None, None
        link = pending_xref(
            "",
            nodes.inline("", f"{label}: {name}"),
            refdomain="std",
            reftype="ref",
            reftarget=anchor(label, name),
            refexplicit=True,
            refwarn=True,
        )
        return [nodes.container("", block, nodes.paragraph("", "proved as ", link, classes=["proved-as"]))]


def _symbol(
    name: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    formula = quantity(text).latex
    return [nodes.math(formula, formula)], []


def setup(app: Any) -> None:
    """Register the directive and the role."""
    app.add_directive("proved", Proved)
    app.add_role("symbol", _symbol)
