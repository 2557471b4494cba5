r"""The writers behind :mod:`derivations.writing.render`: what precedence, signs, fractions and order look like.

:class:`Writer` decides what LaTeX and plain text share; :class:`LatexWriter` and :class:`TextWriter` spell it out.
SymPy's own printers keep SymPy's order of factors, which is not the one that the field writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

import sympy as sp
from sympy.core.function import AppliedUndef

from derivations import calculus
from derivations.algebra.nodes import Below, Mean, NormalCDF
from derivations.calculus import (
    ClipMask,
    Dot,
    Each,
    Mask,
    MeanAbs,
    Norm2,
    OtherMask,
    OtherUnless,
    Surrogate,
    Total,
    Unless,
    VectorSymbol,
    sg,
)
from derivations.notation import NOTATION

__all__ = ["GREEK", "SUPERSCRIPT", "LatexWriter", "TextWriter", "Writer"]

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "varepsilon": "ε", "eta": "η", "theta": "θ",
    "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "omega": "ω",
    "Delta": "Δ", "nabla": "∇",
}  # fmt: skip
"""Names of letters, as symbols have them, and the letters."""

SUPERSCRIPT = str.maketrans("0123456789+-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻")
"""For ``str.translate``: digits and signs as exponents."""
_OPENERS = ("(", "‖", "⟨", r"\left", r"\langle", r"\overline")
# Factors stand in this order, as the field writes them: A m r k …; the first group stays in front of a fraction.
_WEIGHTS = ("advantage", "A", "mask", "reward_prob", "ratio", "r", "kl_weight")
_ORDER = (*_WEIGHTS, "lambda", "beta", "omega", "noise_level", "k", "C1", "C2", "sigma_t", "t", "t_prev", "dt", "D")
_ROW = {q.symbol.name: i for i, q in enumerate(NOTATION)}


def _rank(expr: sp.Expr) -> tuple[int, int, str]:
    """Where a factor belongs: that of its foremost symbol."""
    if isinstance(expr, Mask):
        return (_ORDER.index("mask"), 0, "")
    if isinstance(expr, sp.Symbol):
        place = _ORDER.index(expr.name) if expr.name in _ORDER else len(_ORDER)
        return (place, _ROW.get(expr.name, len(_ROW)), expr.name)
    symbols = [_rank(s) for s in expr.free_symbols]
    return min(symbols, default=(-1, 0, ""))


def _class(expr: sp.Expr) -> int:
    """Kinds of factors in reading order; see the names below."""
    if isinstance(expr, (VectorSymbol, Each)):
        return _VECTOR
    if expr.has(VectorSymbol) and not calculus.coordinatewise(expr):
        pass
    elif expr.has(VectorSymbol) and _is_vector(expr):
        return _VECTOR
    base = expr.base if isinstance(expr, sp.Pow) else expr
    if base.is_Atom or isinstance(base, Mask):
        return _ROOT if _is_root(expr) else _ATOM
    kinds = ((sp.Add, _SUM + _is_root(expr)), (sp.Mul, _SUM + 1), (Norm2, _NORM), (MeanAbs, _NORM), (Dot, _INNER))
    return next((place for kind, place in kinds if isinstance(base, kind)), _FUNCTION)


def _is_vector(expr: sp.Expr) -> bool:
    """Whether it is a vector, and no other function of coordinates."""
    try:
        return calculus.kind(expr) == "vector"
    except calculus.CalculusError:
        return False


_ATOM, _ROOT, _FUNCTION, _SUM, _ROOT_OF_SUM, _NORM, _INNER, _VECTOR = range(8)


def _is_root(expr: sp.Expr) -> bool:
    return isinstance(expr, sp.Pow) and abs(expr.exp) == sp.Rational(1, 2)


def _factor_key(expr: sp.Expr) -> tuple[object, ...]:
    return (_class(expr), _rank(expr), sp.default_sort_key(expr))


def _term_key(expr: sp.Expr) -> tuple[object, ...]:
    """Numbers, then single symbols, then products by their factors: 1 − t, ε + k δ, (1 − t) x_0 + t ε."""
    coefficient, rest = expr.as_coeff_Mul()
    factors = sorted(_factors(rest), key=_factor_key)
    length = 0 if not expr.free_symbols else 1 if len(factors) == 1 and _class(factors[0]) in (_ATOM, _VECTOR) else 2
    return (
        length,
        [_rank(f) for f in factors],
        bool(coefficient.is_extended_negative),
        [_class(f) for f in factors],
        sp.default_sort_key(expr),
    )


def _argument_key(expr: sp.Expr) -> tuple[object, ...]:
    """Arguments of a minimum: short ones first."""
    return (sp.count_ops(expr), _term_key(expr))


def _factors(expr: sp.Expr) -> list[sp.Expr]:
    """The factors of a product, 1 left out; square roots are gathered under one sign."""
    factors = [f for f in sp.Mul.make_args(expr) if f != 1]
    roots = [f for f in factors if _is_root(f)]
    unsure = [f for f in roots if not f.base.is_nonnegative]
    if len(roots) < 2 or len(unsure) > 1 or any(_is_inverse(f) for f in unsure):
        return factors  # √a √b = √(ab) needs a ≥ 0 or b ≥ 0
    under = sp.Mul(*(f.base ** (2 * f.exp) for f in roots))
    return [*(f for f in factors if not _is_root(f)), sp.Pow(under, sp.Rational(1, 2), evaluate=False)]


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
        terms = sorted(expr.args, key=_term_key)
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
        factors = _factors(rest)
        flips = sum(isinstance(f, Surrogate) for f in factors)  # the surrogate is minus a minimum
        negative = bool(coefficient.is_extended_negative) != bool(flips % 2)
        return negative, self._product(abs(coefficient), factors)

    def _product(self, number: sp.Number, factors: list[sp.Expr]) -> str:
        p, q = (int(number.p), int(number.q)) if number.is_Rational else (1, 1)
        if not factors and p == 1 and _power_of_ten(q):
            return self.power(self.integer(10), -sp.Integer(_power_of_ten(q)))
        below = sorted((1 / f for f in factors if _is_inverse(f)), key=_factor_key)
        above = sorted((f for f in factors if not _is_inverse(f)), key=_factor_key)
        head = [self.integer(p)] if p != 1 else []
        if not number.is_Rational and not (factors and float(number) == 1):
            head = [self._decimal(number)]
        if not below and q == 1:
            if len(above) == 1 and not head:
                return self._factor(above[0], alone=True)
            return self.times([*head, *map(self._factor, above)]) or self.integer(1)
        bottom = self._line([self.integer(q)] if q != 1 else [], below)
        front = [f for f in above if _is_weight(f)]
        middle = [f for f in above if _class(f) <= _ROOT and f not in front]
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
        if _is_inverse(expr):
            return self._print_mul(expr)
        if _is_root(expr):
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
        return self.call(type(expr).__name__.lower(), *map(self._print, sorted(expr.args, key=_argument_key)))

    _print_min = _print_max = _extremum


def _is_inverse(expr: sp.Expr) -> bool:
    return isinstance(expr, sp.Pow) and bool(expr.exp.is_negative)


def _is_weight(expr: sp.Expr) -> bool:
    base = expr.base if isinstance(expr, sp.Pow) else expr
    return isinstance(base, Mask) or (isinstance(base, sp.Symbol) and base.name in _WEIGHTS)


def _power_of_ten(n: int) -> int:
    """The exponent, for long powers of ten; else 0."""
    digits = str(n)
    return len(digits) - 1 if len(digits) > 4 and set(digits[1:]) == {"0"} and digits[0] == "1" else 0


_CONSTANTS = {
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
        ten = _power_of_ten(n)
        return f"10^{{{ten}}}" if ten else str(n)

    def derivative(self, function: str, variable: str, order: int) -> str:
        return rf"\partial_{{{variable}}}{'' if order == 1 else f'^{{{order}}}'} {function}"

    def constant(self, number: sp.Expr) -> str:
        return _CONSTANTS[type(number).__name__][1]


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
            opens = factor.startswith(_OPENERS)
            touches = opens and (previous.endswith((")", "‖²")) or (atoms == 1 and i == len(factors) - 1))
            if previous.isdigit():
                out += "·" if factor[0].isdigit() else " " if re.match(r"[a-z]{2,}\(", factor) else ""
            elif i and not touches:
                out += " "
            atoms += not factor.isdigit() and not opens
            out += factor
        return out

    def integer(self, n: int) -> str:
        ten = _power_of_ten(n)
        return "10" + str(ten).translate(SUPERSCRIPT) if ten else str(n)

    def derivative(self, function: str, variable: str, order: int) -> str:
        return f"∂_{variable}{'' if order == 1 else str(order).translate(SUPERSCRIPT)} {function}"

    def constant(self, number: sp.Expr) -> str:
        return _CONSTANTS[type(number).__name__][0]

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
