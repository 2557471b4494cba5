r"""What LaTeX and plain text share: what precedence, signs, fractions and order look like.

:class:`~derivations.writing.latex_writer.LatexWriter` and :class:`~derivations.writing.text_writer.TextWriter` spell it
out; :mod:`derivations.writing.order` orders factors and terms.
SymPy's own printers keep SymPy's order of factors, which is not the one that the field writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

import sympy as sp
from sympy.core.function import AppliedUndef

from derivations.calculus import (
    ClipMask,
    Dot,
    Mask,
    OtherMask,
    OtherUnless,
    Surrogate,
    Unless,
)
from derivations.writing.order import (
    ROOT,
    argument_key,
    factor_key,
    factors_of,
    is_inverse,
    is_root,
    is_weight,
    kind_of_factor,
    term_key,
)

__all__ = ["CONSTANTS", "GREEK", "OPENERS", "SUPERSCRIPT", "Writer", "power_of_ten"]

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "eta": "η", "theta": "θ",
    "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "omega": "ω",
    "Delta": "Δ", "nabla": "∇",
}  # fmt: skip
"""Names of letters, as symbols have them, and the letters."""

SUPERSCRIPT = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
"""For ``str.translate``: digits and signs as exponents."""

OPENERS = ("(", "‖", "⟨", r"\left", r"\langle", r"\overline")
"""What a factor that needs no sign before it begins with."""


class Writer:
    """Writes an expression; a dialect says how fractions, powers, groups and names look."""

    minus = "−"
    comma = ", "
    dot = "·"
    bar = False  # whether a fraction is drawn with a line

    def __init__(self, names: Mapping[sp.Symbol, str]) -> None:
        self.names = names

    # what a dialect defines
    def name(self, symbol: sp.Symbol) -> str:
        raise NotImplementedError

    def group(self, body: str) -> str:
        raise NotImplementedError

    def call(self, function: str, *args: str) -> str:
        raise NotImplementedError

    def power(self, base: str, exponent: sp.Expr) -> str:
        raise NotImplementedError

    def root(self, expr: sp.Expr) -> str:
        raise NotImplementedError

    def fraction(self, above: list[str], below: list[str], *, alone: bool) -> str:
        raise NotImplementedError

    def times(self, factors: Sequence[str]) -> str:
        raise NotImplementedError

    def integer(self, n: int) -> str:
        raise NotImplementedError

    def constant(self, number: sp.Expr) -> str:
        raise NotImplementedError

    def derivative(self, function: str, variable: str, order: int) -> str:
        raise NotImplementedError

    # what all dialects share
    def write(self, expr: sp.Expr) -> str:
        expr = sp.sympify(expr)
        if expr.has(OtherMask):
            expr = expr.replace(OtherMask, lambda *args: 1 - ClipMask(*args))
        if expr.has(OtherUnless):
            expr = expr.replace(OtherUnless, lambda *args: 1 - Unless(*args))
        return self._print(expr)

    def _print(self, expr: sp.Expr) -> str:
        """Also the entry for the ``_latex`` methods of :mod:`derivations.calculus`."""
        for cls in type(expr).__mro__:
            method = getattr(self, f"_print_{cls.__name__.lower()}", None)
            if method is not None:
                return str(method(expr))
        raise TypeError(f"there is no way to write {type(expr).__name__}: {expr!r}")

    def _print_symbol(self, expr: sp.Symbol) -> str:
        return self.name(expr)

    def _print_numbersymbol(self, expr: sp.NumberSymbol) -> str:
        return self.constant(expr)

    _print_imaginaryunit = _print_complexinfinity = _print_numbersymbol

    def _print_add(self, expr: sp.Expr) -> str:
        terms = sorted(expr.args, key=term_key)
        signed = [self._signed(term) for term in terms]
        first = next((i for i, (negative, _) in enumerate(signed) if not negative), 0)
        signed = signed[first:] + signed[:first]  # begin without a minus where one can
        head = self._with_sign(*signed[0])
        return head + "".join(f" {self.minus if negative else '+'} {body}" for negative, body in signed[1:])

    def _print_mul(self, expr: sp.Expr) -> str:
        return self._with_sign(*self._signed(expr))

    _print_number = _print_surrogate = _print_mul

    def _decimal(self, number: sp.Number) -> str:
        """A positive number that is no fraction: the digits that it has, without trailing zeros."""
        if not number.is_Float or not number.is_finite:
            return self.constant(number)
        if float(number) == 0:
            return self.integer(0)
        digits, _, exponent = f"{Decimal(str(number)).normalize():e}".partition("e")
        power, places = int(exponent), len(digits.replace(".", ""))
        if -5 < power < max(places, 6):
            return f"{Decimal(digits).scaleb(power):f}"
        ten = self.power(self.integer(10), sp.Integer(power))
        return ten if digits == "1" else f"{digits}{self.dot}{ten}"

    def _with_sign(self, negative: bool, body: str) -> str:
        return f"{self.minus if negative else ''}{body}"

    def _signed(self, expr: sp.Expr) -> tuple[bool, str]:
        coefficient, rest = (expr, sp.S.One) if expr.is_Number else expr.as_coeff_Mul()
        factors = factors_of(rest)
        flips = sum(isinstance(f, Surrogate) for f in factors)  # the surrogate is minus a minimum
        negative = bool(coefficient.is_extended_negative) != bool(flips % 2)
        return negative, self._product(abs(coefficient), factors)

    def _product(self, number: sp.Number, factors: list[sp.Expr]) -> str:
        p, q = (int(number.p), int(number.q)) if number.is_Rational else (1, 1)
        if not factors and p == 1 and power_of_ten(q):
            return self.power(self.integer(10), -sp.Integer(power_of_ten(q)))
        below = sorted((1 / f for f in factors if is_inverse(f)), key=factor_key)
        above = sorted((f for f in factors if not is_inverse(f)), key=factor_key)
        head = [self.integer(p)] if p != 1 else []
        if not number.is_Rational and not (factors and float(number) == 1):
            head = [self._decimal(number)]
        if not below and q == 1:
            if len(above) == 1 and not head:
                return self._factor(above[0], alone=True)
            return self.times([*head, *map(self._factor, above)]) or self.integer(1)
        bottom = self._line([self.integer(q)] if q != 1 else [], below)
        front = [f for f in above if is_weight(f)]
        middle = [f for f in above if kind_of_factor(f) <= ROOT and f not in front]
        after = [f for f in above if f not in front and f not in middle]
        if not middle and front:
            middle = [front.pop()]
        if not middle:
            middle, after = after, []
        top = self._line([] if front else head, middle) or [self.integer(1)]
        outside = [*(head if front else []), *map(self._factor, front)]
        # A k/D: with nothing behind it, what stands side by side belongs together above the line
        return self.times([*outside, self.fraction(top, bottom, alone=not after), *map(self._factor, after)])

    def _line(self, numbers: list[str], factors: list[sp.Expr]) -> list[str]:
        """What stands above or below a fraction's line, which is a group by itself where it is drawn."""
        if self.bar and not numbers and len(factors) == 1 and not isinstance(factors[0], Surrogate):
            return [self._print(factors[0])]
        return [*numbers, *map(self._factor, factors)]

    def _factor(self, expr: sp.Expr, alone: bool = False) -> str:
        """A factor of a product; ``alone`` where it is the only one."""
        if isinstance(expr, Surrogate):
            return self._minimum(expr)
        body = self._print(expr)
        if isinstance(expr, (sp.Add, sp.Mul)) and not alone:
            return self.group(body)
        if isinstance(expr, (sp.Symbol, sp.Derivative)) and not alone and self._has_gaps(body):
            return self.group(body)
        return body

    def _has_gaps(self, name: str) -> bool:
        return " " in re.sub(r"\\(tilde|Delta) ", "", name)

    def _has_marks(self, name: str) -> bool:
        """Whether an exponent cannot follow: log p, w⁺."""
        return self._has_gaps(name) or bool(set("^⁺⁻*") & set(name))

    def _minimum(self, expr: sp.Expr) -> str:
        advantage, inner, low, high = expr.args
        clip = self.call("clip", self._print(inner), self._print(1 - low), self._print(1 + high))
        return self.call("min", self._print(advantage * inner), self.times([self._factor(advantage), clip]))

    def _print_pow(self, expr: sp.Expr) -> str:
        if is_inverse(expr):
            return self._print_mul(expr)
        if is_root(expr):
            return self.root(expr.base)
        body = self._print(expr.base)
        bare = isinstance(expr.base, (sp.Symbol, Mask, AppliedUndef)) and not self._has_marks(body)
        if not (bare or isinstance(expr.base, Dot) or (expr.base.is_Integer and expr.base > 0)):
            body = self.group(body)
        return self.power(body, expr.exp)

    def _print_function(self, expr: sp.Expr) -> str:
        return self.call(type(expr).__name__, *map(self._print, expr.args))

    _print_appliedundef = _print_function

    def _print_derivative(self, expr: sp.Expr) -> str:
        ((variable, order),) = expr.variable_count
        return self.derivative(self._print(expr.expr), self._print(variable), int(order))

    def _print_mask(self, expr: sp.Expr) -> str:
        return "m"

    def _extremum(self, expr: sp.Expr) -> str:
        return self.call(type(expr).__name__.lower(), *map(self._print, sorted(expr.args, key=argument_key)))

    _print_min = _print_max = _extremum


def power_of_ten(n: int) -> int:
    """The exponent, for long powers of ten; else 0."""
    digits = str(n)
    return len(digits) - 1 if len(digits) > 4 and set(digits[1:]) == {"0"} and digits[0] == "1" else 0


CONSTANTS = {
    "Pi": ("π", r"\pi"),
    "Exp1": ("e", r"\mathrm{e}"),
    "EulerGamma": ("γ", r"\gamma"),
    "GoldenRatio": ("φ", r"\varphi"),
    "TribonacciConstant": ("T", r"\mathrm{T}"),
    "Catalan": ("G", r"\mathrm{G}"),
    "ImaginaryUnit": ("i", r"\mathrm{i}"),
    "Infinity": ("∞", r"\infty"),
    "ComplexInfinity": ("∞̃", r"\tilde{\infty}"),
    "NaN": ("NaN", r"\mathrm{NaN}"),
}
"""Numbers with a name, in plain text and in LaTeX."""
