"""Drag velocities and see where each loss pulls: ``python -m gradcheck.plots.interactive OUT.html``.

One file, which loads nothing. Its formulas are the derivations' targets, written in JavaScript by :func:`script`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sympy as sp
from sympy.printing.jscode import JavascriptCodePrinter

from derivations.calculus import VectorSymbol, components, drop_sg, expand
from derivations.derivation import Derivation, inline
from derivations.notation import v_gt
from gradcheck.catalogue import entry

__all__ = ["LOSSES", "main", "page", "script"]

LOSSES = ("flow_grpo", "grpo_guard", "awm", "diffusion_nft")
"""The losses on the page."""

_TEMPLATE = Path(__file__).with_name("interactive.html")


class _Printer(JavascriptCodePrinter):
    """Scalars as JavaScript numbers; a vector is an array of its coordinates in the object q."""

    def _print_Symbol(self, expr: sp.Symbol) -> str:  # noqa: N802 - SymPy's name for it
        return f"q.{expr.name}"

    def _print_Dot(self, expr: sp.Expr) -> str:  # noqa: N802
        return f"dot({self.vector(expr.args[0])}, {self.vector(expr.args[1])})"

    def _print_Norm2(self, expr: sp.Expr) -> str:  # noqa: N802
        return f"dot({self.vector(expr.args[0])}, {self.vector(expr.args[0])})"

    def _print_ClipMask(self, expr: sp.Expr) -> str:  # noqa: N802
        return f"mask({', '.join(self._print(arg) for arg in expr.args)})"

    def vector(self, expr: sp.Expr) -> str:
        """Σ coefficient · vector."""
        if isinstance(expr, VectorSymbol):
            return self._print_Symbol(expr)
        terms = ", ".join(f"[{self._print(c)}, q.{u.name}]" for u, c in components(expr).items())
        return f"sum([{terms}])"


def _given(d: Derivation, expr: sp.Expr) -> sp.Expr:
    """An expression with its definitions put in, coefficients and v_gt left: k has become C1/C2."""
    return drop_sg(inline(expr, {symbol: formula for symbol, formula in d.definitions.items() if symbol != v_gt}))


def script() -> str:
    """Target and weight of each loss as functions of q, an object with the notation table's names."""
    printer: Any = _Printer()
    lines = [
        "const dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);",
        "const sum = (terms) => terms[0][1].map((_, i) => terms.reduce((s, [c, v]) => s + c * v[i], 0));",
        "const mask = (A, r, low, high) => (A > 0 && r > 1 + high) || (A < 0 && r < 1 - low) ? 0 : 1;",
        "const losses = {",
    ]
    for name in LOSSES:
        d = entry(name).derivation
        target = sp.Add(*(expand(c) * u for u, c in components(_given(d, d.target)).items()))
        weight = printer.doprint(_given(d, d.weight))
        body = f"target: (q) => {printer.vector(target)}, weight: (q) => {weight}"
        lines.append(f"  {name}: {{title: {d.title!r}, {body}}},")
    return "\n".join((*lines, "};"))


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
