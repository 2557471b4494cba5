"""Formulas in LaTeX."""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp

from derivations.algebra.nodes import Below, Mean, NormalCDF
from derivations.calculus import (
    Dot,
    Each,
    Mask,
    MeanAbs,
    Norm2,
    Total,
    sg,
)
from derivations.writing.writers import CONSTANTS, GREEK, Writer, power_of_ten

__all__ = ["LatexWriter"]


class LatexWriter(Writer):
    """LaTeX, for mathematics mode."""

    minus = "-"
    comma = r",\; "
    dot = r" \cdot "
    bar = True

    def _print(self, expr: sp.Expr) -> str:
        if isinstance(expr, (Dot, Norm2, MeanAbs, Total, Each, sg, Mask, Mean, Below, NormalCDF)):
            return str(expr._latex(self))
        return super()._print(expr)

    def name(self, symbol: sp.Symbol) -> str:
        if symbol in self.names:
            return self.names[symbol]
        if symbol.name == "ones":
            return r"\mathbf{1}"
        head, *below = symbol.name.split("_")
        head = rf"\{head}" if head in GREEK else head
        if not below:
            return head
        (sub,) = below
        return f"{head}_{sub}" if len(sub) == 1 else rf"{head}_{{\mathrm{{{sub}}}}}"

    def group(self, body: str) -> str:
        return rf"\left({body}\right)"

    def call(self, function: str, *args: str) -> str:
        known = function in ("exp", "log", "sin", "cos", "min", "max")
        head = rf"\{function}" if known else function if len(function) == 1 else rf"\mathrm{{{function}}}"
        return head + self.group(r",\, ".join(args))

    def power(self, base: str, exponent: sp.Expr) -> str:
        plain = exponent.is_Rational and not exponent.is_Integer
        above = f"{exponent.p}/{exponent.q}" if plain else self._print(exponent)
        return f"{{{base}}}^{{{above}}}" if "'" in base else f"{base}^{{{above}}}"

    def root(self, expr: sp.Expr) -> str:
        return rf"\sqrt{{{self._print(expr)}}}"

    def fraction(self, above: list[str], below: list[str], *, alone: bool) -> str:
        return rf"\frac{{{self.times(above)}}}{{{self.times(below)}}}"

    def times(self, factors: Sequence[str]) -> str:
        out = ""
        for i, factor in enumerate(factors):
            number = i > 0 and factors[i - 1].isdigit()
            if number and factor[0].isdigit():
                out += r" \cdot "
            elif i and not number and not factor.startswith(r"\left"):
                out += r"\,"
            out += factor
        return out

    def integer(self, n: int) -> str:
        ten = power_of_ten(n)
        return f"10^{{{ten}}}" if ten else str(n)

    def derivative(self, function: str, variable: str, order: int) -> str:
        return rf"\partial_{{{variable}}}{'' if order == 1 else f'^{{{order}}}'} {function}"

    def constant(self, number: sp.Expr) -> str:
        return CONSTANTS[type(number).__name__][1]
