"""Drag velocities and see where each loss pulls: ``python -m gradcheck.plots.interactive OUT.html``.

One file, which loads nothing. Its formulas are the derivations' targets, written in JavaScript by :func:`script`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sympy as sp
from sympy.printing.jscode import JavascriptCodePrinter

from derivations.calculus import VectorSymbol, components, drop_sg, expand, kind
from derivations.derivation import inline
from derivations.losses._policy_gradient import mask
from derivations.notation import Delta, advantage, delta, k, ratio, v_gt
from derivations.writing.render import closing_row
from gradcheck.catalogue import Entry, entries

__all__ = ["LOSSES", "main", "page", "script"]

LOSSES = ("flow_grpo[paper]", "grpo_guard[paper]", "awm[paper]", "awm[clipped]", "diffusion_nft[paper]")
"""The losses on the page."""

_TEMPLATE = Path(__file__).with_name("interactive.html")

_LOCALS = (k, delta, Delta, advantage, ratio)
"""What the page computes on the way where a loss defines it, each from those before it."""


class _Printer(JavascriptCodePrinter):
    """Scalars as JavaScript numbers; a vector is an array of its coordinates.  What is given is a property of q."""

    def __init__(self, local: Sequence[sp.Symbol]) -> None:
        super().__init__()
        self.local = set(local)

    def _print_Symbol(self, expr: sp.Symbol) -> str:  # noqa: N802 - SymPy's name for it
        return str(expr.name) if expr in self.local else f"q.{expr.name}"

    def _print_Dot(self, expr: sp.Expr) -> str:  # noqa: N802
        return f"dot({self.vector(expr.args[0])}, {self.vector(expr.args[1])})"

    def _print_Norm2(self, expr: sp.Expr) -> str:  # noqa: N802
        return f"dot({self.vector(expr.args[0])}, {self.vector(expr.args[0])})"

    def _print_ClipMask(self, expr: sp.Expr) -> str:  # noqa: N802
        return f"clipMask({', '.join(self._print(arg) for arg in expr.args)})"

    def vector(self, expr: sp.Expr) -> str:
        """Σ coefficient · vector."""
        if isinstance(expr, VectorSymbol):
            return self._print_Symbol(expr)
        terms = ", ".join(f"[{self._print(c)}, {self._print_Symbol(u)}]" for u, c in components(expr).items())
        return f"sum([{terms}])"

    def value(self, expr: sp.Expr) -> str:
        return self.vector(expr) if kind(expr) == "vector" else str(self._print(expr))


def script() -> str:
    """``losses``: name → title, formula, the quantities it needs, and ``at(q)``.

    ``q`` has the notation table's names; ``at`` returns target, weight and, where the loss has them, ratio and mask.
    """
    lines = [
        "const dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);",
        "const sum = (terms) => terms[0][1].map((_, i) => terms.reduce((s, [c, v]) => s + c * v[i], 0));",
        "const clipMask = (A, r, low, high) => (A > 0 && r > 1 + high) || (A < 0 && r < 1 - low) ? 0 : 1;",
        "const losses = {",
        *(f"  {json.dumps(e.label)}: {_loss(e)}," for e in entries(*LOSSES)),
    ]
    return "\n".join((*lines, "};"))


def _loss(e: Entry) -> str:
    d = e.derivation
    given = {s: f for s, f in d.definitions.items() if s not in (*_LOCALS, v_gt)}
    constants = {s: f for s, f in d.coefficients.items() if f.is_number}  # ω = 1

    def closed(expr: sp.Expr) -> sp.Expr:
        return drop_sg(inline(expr, given)).xreplace(constants)

    weight, target = closed(d.weight), _collected(closed(d.target))
    values = {s: _expanded(closed(d.definitions[s])) for s in _LOCALS if s in d.definitions}
    wanted = weight.free_symbols | target.free_symbols
    for symbol in reversed(values):
        if symbol in wanted:
            wanted |= values[symbol].free_symbols
    values = {s: f for s, f in values.items() if s in wanted}
    printer: Any = _Printer(tuple(values))
    body = [f"const {s.name} = {printer.value(f)};" for s, f in values.items()]
    shown = {"target": printer.vector(target), "weight": printer.doprint(weight)}
    if ratio in values:
        shown |= {"ratio": ratio.name, "mask": printer.doprint(closed(mask))}
    body.append(f"return {{{', '.join(f'{key}: {text}' for key, text in shown.items())}}};")
    needs = sorted({"advantage" if s.name == "reward_prob" else s.name for s in wanted})
    title = d.title if e.variant == "paper" else f"{d.title}, {e.variant}"
    *_, gradient, goal = closing_row(d, exact=True)
    about = {"title": title, "formula": f"gradient {gradient}; target {goal}", "needs": needs}
    head = ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in about.items())
    return f"{{{head}, at: (q) => {{ {' '.join(body)} }}}}"


def _collected(vector: sp.Expr) -> sp.Expr:
    return sp.Add(*(sp.factor_terms(expand(c)) * u for u, c in components(vector).items()))


def _expanded(expr: sp.Expr) -> sp.Expr:
    """Log-densities subtracted with symbols: what is common to both is gone before numbers lose digits to it."""
    if isinstance(expr, sp.exp):
        return sp.exp(sp.expand(expand(expr.args[0])))
    return _collected(expr) if kind(expr) == "vector" else expr


def page() -> str:
    """The whole page."""
    return _TEMPLATE.read_text(encoding="utf-8").replace("/* FORMULAS */", script())


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m gradcheck.plots.interactive OUT.html", file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
