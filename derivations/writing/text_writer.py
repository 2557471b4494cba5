"""Formulas in plain text, with Unicode, for terminals."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sympy as sp

from derivations.algebra.nodes import Below
from derivations.writing.writers import CONSTANTS, GREEK, OPENERS, SUPERSCRIPT, Writer, power_of_ten

__all__ = ["TextWriter"]


class TextWriter(Writer):
    """One line of Unicode."""

    def name(self, symbol: sp.Symbol) -> str:
        if symbol in self.names:
            return self.names[symbol]
        return "_".join(GREEK.get(part, part) for part in symbol.name.split("_"))

    def group(self, body: str) -> str:
        return f"({body})"

    def call(self, function: str, *args: str) -> str:
        return f"{function}({', '.join(args)})"

    def power(self, base: str, exponent: sp.Expr) -> str:
        if exponent.is_Integer:
            return base + str(int(exponent)).translate(SUPERSCRIPT)
        body = self._print(exponent)
        return f"{base}^{body if exponent.is_Symbol else self.group(body)}"

    def root(self, expr: sp.Expr) -> str:
        body = self._print(expr)
        bare = expr.is_Integer or (expr.is_Symbol and not self._has_gaps(body))
        return f"√{body}" if bare else f"√{self.group(body)}"

    def fraction(self, above: list[str], below: list[str], *, alone: bool) -> str:
        bottom = self.times(below)
        line = f"{self.times(above)}/{bottom if len(below) == 1 else self.group(bottom)}"
        return line if alone else self.group(line)

    def times(self, factors: Sequence[str]) -> str:
        out, atoms = "", 0
        for i, factor in enumerate(factors):
            previous = factors[i - 1] if i else ""
            opens = factor.startswith(OPENERS)
            touches = opens and (previous.endswith((")", "‖²")) or (atoms == 1 and i == len(factors) - 1))
            if previous.isdigit():
                out += "·" if factor[0].isdigit() else " " if re.match(r"[a-z]{2,}\(", factor) else ""
            elif i and not touches:
                out += " "
            atoms += not factor.isdigit() and not opens
            out += factor
        return out

    def integer(self, n: int) -> str:
        ten = power_of_ten(n)
        return "10" + str(ten).translate(SUPERSCRIPT) if ten else str(n)

    def derivative(self, function: str, variable: str, order: int) -> str:
        return f"∂_{variable}{'' if order == 1 else str(order).translate(SUPERSCRIPT)} {function}"

    def constant(self, number: sp.Expr) -> str:
        return CONSTANTS[type(number).__name__][0]

    def _print_dot(self, expr: sp.Expr) -> str:
        return f"⟨{', '.join(map(self._print, expr.args))}⟩"

    def _print_norm2(self, expr: sp.Expr) -> str:
        return f"‖{self._print(expr.args[0])}‖²"

    def _print_total(self, expr: sp.Expr) -> str:
        return f"sum({self._print(expr.args[0])})"

    def _print_each(self, expr: sp.Expr) -> str:
        return f"[{self._print(expr.args[0])}]"

    def _print_meanabs(self, expr: sp.Expr) -> str:
        return f"mean|{self._print(expr.args[0])}|"

    def _print_mean(self, expr: sp.Expr) -> str:
        sign = "P" if isinstance(expr.args[0], Below) else "E"
        return f"{sign}_{self._print(expr.args[1])}[{self._print(expr.args[0])}]"

    def _print_below(self, expr: sp.Expr) -> str:
        return " < ".join(map(self._print, expr.args))

    def _print_normalcdf(self, expr: sp.Expr) -> str:
        return f"Φ({self._print(expr.args[0])})"
