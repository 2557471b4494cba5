"""A syntax tree to SymPy: names looked up, scalars and vectors told apart, sizes limited.

Five kinds of value: ``scalar`` (one number a sample), ``vector`` (a latent), ``product`` (a coordinatewise product of
vectors, whose sum is an inner product), ``absolute`` (absolute values of coordinates, whose mean has a name) and
``coordinates`` (any other function of the coordinates of vectors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import sympy as sp

from derivations.calculus import Dot, Each, MeanAbs, Norm2, Total, Unless, coordinatewise, sg
from derivations.grammar.errors import ParseError, Span
from derivations.grammar.kinks import Clip, Greatest, Least, Magnitude
from derivations.grammar.limits import EXPONENT, NODES, NUMBER_BITS, TERMS
from derivations.grammar.names import CONSTANTS, FUNCTIONS, resolve, suggestion
from derivations.grammar.syntax import Call, Name, Negative, Node, Number, Power, Product, Sum
from derivations.notation import D, Quantity, quantity

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Builder", "Value"]

_WORDS = {
    "scalar": "a number per sample",
    "vector": "a vector",
    "product": "a coordinatewise product of vectors",
    "absolute": "coordinatewise absolute values",
    "coordinates": "one number per coordinate",
}


Kind = Literal["scalar", "vector", "product", "absolute", "coordinates"]


@dataclass(frozen=True)
class Value:
    """An expression, its kind, its number of nodes and of terms when multiplied out, definitions put in.

    The expression of a ``product`` is its sum over the coordinates, that of an ``absolute`` the vector.  ``each`` is
    the value as a function of coordinates, where ``expr`` is none.
    """

    expr: sp.Expr
    kind: Kind
    size: int = 1
    terms: int = 1
    each: sp.Expr | None = None

    @property
    def coordinate(self) -> sp.Expr:
        """The value as a function of the coordinates of vectors."""
        return self.expr if self.each is None else self.each

    @property
    def total(self) -> sp.Expr:
        """Its sum over the coordinates."""
        if self.kind == "product":
            return self.expr
        if self.kind == "absolute":
            return D * MeanAbs(self.expr)
        return _total(self.coordinate)


class Builder:
    """Builds expressions among defined names.

    Attributes:
        defined: names that the user defined and what they stand for.
        sizes: for the notation's names that stand for a formula, that formula's size and number of terms.
        given: the user's own quantities.
    """

    def __init__(self, sizes: Mapping[str, tuple[int, int]], given: Mapping[str, Quantity] | None = None) -> None:
        self.given = dict(given or {})
        self.defined: dict[str, Value] = {}
        self.sizes = dict(sizes)
        self.bound, self.clipped = "", False

    def build(self, node: Node) -> Value:
        """The value of a tree.

        Raises:
            ParseError: an unknown or ambiguous name, kinds that do not go together, or a limit.
        """
        match node:
            case Number():
                value = Value(sp.Rational(node.value.numerator, node.value.denominator), "scalar")
            case Name():
                value = self._name(node)
            case Negative():
                value = self._negative(node)
            case Sum():
                value = self._sum(node)
            case Product():
                value = self._product(node)
            case Power():
                value = self._power(node)
            case Call():
                value = self._call(node)
        return _limited(value, node.span)

    def scalar(self, node: Node, what: str) -> Value:
        value = self.build(node)
        if value.kind != "scalar":
            raise ParseError(f"{what} takes a number per sample, but this is {_WORDS[value.kind]}", node.span)
        return value

    def vector(self, node: Node, what: str) -> Value:
        value = self.build(node)
        if value.kind == "scalar":
            raise ParseError(f"{what} takes a vector, but this is {_WORDS[value.kind]}", node.span)
        return value if value.kind == "vector" else _coordinates([value], value.coordinate)

    def _name(self, node: Name) -> Value:
        if node.name in self.defined:
            return self.defined[node.name]
        if node.name in self.given:
            row = self.given[node.name]
            return Value(row.symbol, "vector" if row.axes == "latent" else "scalar")
        if node.name in CONSTANTS:
            return Value(sp.pi, "scalar")
        name = resolve(node.name, node.span, known=(*self.defined, *self.given), bound=self.bound, clipped=self.clipped)
        if name in self.defined:
            return self.defined[name]
        row = quantity(name)
        size, terms = self.sizes.get(name, (1, 1))
        return Value(row.symbol, "vector" if row.axes == "latent" else "scalar", size, terms)

    def _negative(self, node: Negative) -> Value:
        value = self.build(node.arg)
        if value.kind == "absolute":
            return _coordinates([value], -value.coordinate)
        return Value(-value.expr, value.kind, value.size + 1, value.terms, None if value.each is None else -value.each)

    def _sum(self, node: Sum) -> Value:
        values = [self.build(arg) for arg in node.args]
        first = values[0]
        each = sp.Add(*(v.coordinate if s == "+" else -v.coordinate for v, s in zip(values, node.signs, strict=True)))
        kinds = {value.kind for value in values}
        for value, arg in zip(values, node.args, strict=True):
            if {value.kind, first.kind} == {"vector", "scalar"} and not all(
                v.expr.is_number for v in values if v.kind == "scalar"
            ):
                raise ParseError(
                    f"a sum has terms of one kind, but the first is {_WORDS[first.kind]} and this is "
                    f"{_WORDS[value.kind]}",
                    arg.span,
                )
        if len(kinds) > 1 or kinds & {"absolute", "coordinates"}:
            return _coordinates(values, each)
        expr = sp.Add(*(v.expr if s == "+" else -v.expr for v, s in zip(values, node.signs, strict=True)))
        return Value(expr, first.kind, _size(values), sum(v.terms for v in values), each)

    def _product(self, node: Product) -> Value:
        out: Value | None = None
        for sign, arg in zip(node.signs, node.args, strict=True):
            value = self.build(arg)
            if out is None:
                out = value
            elif sign == "/":
                out = _quotient(out, value, arg.span)
            else:
                out = _times(out, value)
            out = _limited(out, node.args[0].span.to(arg.span))
        assert out is not None
        return out

    def _power(self, node: Power) -> Value:
        base, exponent = self.build(node.base), self.build(node.exponent)
        p = exponent.expr
        if exponent.kind != "scalar" or not p.is_Rational:
            raise ParseError("an exponent is a number here; write exp(y*log(x)) for x**y", node.exponent.span)
        if abs(p.p) > EXPONENT or p.q > EXPONENT:
            raise ParseError(f"an exponent's numerator and denominator are {EXPONENT} at most", node.exponent.span)
        size = base.size + exponent.size + 1
        if base.kind == "vector" and p == 2:
            return Value(Norm2(base.expr), "product", size, base.terms**2, base.expr**2)
        if base.kind != "scalar":
            if base.kind == "vector" and not (p.is_Integer and p > 0):
                raise ParseError("a vector's coordinates have either sign, so it has no such power", node.span)
            return Value(base.coordinate**p, "coordinates", size, base.terms ** max(int(p), 1))
        if base.expr == 0 and p <= 0:
            raise ParseError("0 has no such power", node.span)
        n = abs(int(p)) if p.is_Integer else 1
        return _real(Value(base.expr**p, "scalar", size, math.comb(base.terms + n - 1, n)), node.span)

    def _call(self, node: Call) -> Value:
        if node.function not in FUNCTIONS:
            if node.function in self.defined:
                raise ParseError(f"{node.function!r} is not a function: a '*' may be missing", node.head)
            raise ParseError(_no_function(node.function, self.defined), node.head)
        function = FUNCTIONS[node.function]
        low, high = _ARGUMENTS.get(function, (1, 1))
        if not low <= len(node.args) <= high:
            wanted = f"{low}" if low == high else f"{low} or more"
            plural = "" if wanted == "1" else "s"
            raise ParseError(f"{node.function} takes {wanted} argument{plural}, but has {len(node.args)}", node.span)
        method: Callable[[Call], Value] = getattr(self, f"_call_{function}", self._elementary)
        return method(node)

    def _call_norm2(self, node: Call) -> Value:
        v = self.vector(node.args[0], node.function)
        return Value(_inner(v, v), "scalar", v.size + 1, v.terms**2)

    def _call_dot(self, node: Call) -> Value:
        a, b = (self.vector(arg, node.function) for arg in node.args)
        return Value(_inner(a, b), "scalar", a.size + b.size + 1, a.terms * b.terms)

    def _call_mse(self, node: Call) -> Value:
        a, b = (self.vector(arg, node.function) for arg in node.args)
        error = Value(a.expr - b.expr, "vector" if a.kind == b.kind == "vector" else "coordinates")
        return Value(_inner(error, error) / D, "scalar", a.size + b.size + 3, (a.terms + b.terms) ** 2)

    def _call_mean_abs(self, node: Call) -> Value:
        v = self.vector(node.args[0], node.function)
        if v.kind != "vector":
            return Value(_total(Magnitude(v.coordinate)) / D, "scalar", v.size + 2, v.terms)
        return Value(MeanAbs(v.expr), "scalar", v.size + 1, v.terms)

    def _call_sum(self, node: Call) -> Value:
        value = self._reduced(node)
        return Value(value.total, "scalar", value.size + 1 + (value.kind == "absolute"), value.terms)

    def _call_mean(self, node: Call) -> Value:
        value = self._reduced(node)
        if value.kind == "absolute":
            return Value(MeanAbs(value.expr), "scalar", value.size + 1, value.terms)
        return Value(value.total / D, "scalar", value.size + 2, value.terms)

    def _reduced(self, node: Call) -> Value:
        value = self.build(node.args[0])
        name = node.function
        if value.kind == "scalar":
            raise ParseError(
                f"{name} is over the coordinates of one sample, and this is one number already; the loss is per "
                f"sample, so leave a {name} over the batch out",
                node.args[0].span,
            )
        return value

    def _call_sg(self, node: Call) -> Value:
        value = self.build(node.args[0])
        if value.kind in ("absolute", "coordinates"):
            return _coordinates([value], sg(Each(value.coordinate)))
        each = None if value.each is None else sg(Each(value.each))
        return Value(sg(value.expr), value.kind, value.size + 1, value.terms, each)

    def _call_min(self, node: Call) -> Value:
        return self._extremum(node, Least)

    def _call_max(self, node: Call) -> Value:
        return self._extremum(node, Greatest)

    def _extremum(self, node: Call, kind: type) -> Value:
        values = [self.build(arg) for arg in node.args]
        expr = values[0].coordinate
        for value in values[1:]:
            expr = kind(expr, value.coordinate)
        return _of(values, expr)

    def _call_relu(self, node: Call) -> Value:
        x = self.build(node.args[0])
        return _of([x], Greatest(x.coordinate, sp.S.Zero), 1)

    def _call_unless(self, node: Call) -> Value:
        values = [self.scalar(arg, node.function) for arg in node.args]
        return Value(Unless(*(v.expr for v in values)), "scalar", _size(values), 1)

    def _call_abs(self, node: Call) -> Value:
        value = self.build(node.args[0])
        if value.kind == "vector":
            return Value(value.expr, "absolute", value.size + 1, value.terms, Magnitude(value.expr))
        return _of([value], Magnitude(value.coordinate))

    def _call_huber(self, node: Call) -> Value:
        """torch's: x²/2 up to δ and δ(|x| − δ/2) beyond, which is c(x − c/2) with c = clip(x, −δ, δ)."""
        x, delta, c = self._clipped_symmetrically(node)
        return _of([x, delta, x], c * (x.coordinate - c / 2), 4)

    def _call_smooth_l1(self, node: Call) -> Value:
        x, delta, c = self._clipped_symmetrically(node)
        return _of([x, delta, x], c * (x.coordinate - c / 2) / delta.expr, 5)

    def _clipped_symmetrically(self, node: Call) -> tuple[Value, Value, sp.Expr]:
        x, delta = self.build(node.args[0]), self.scalar(node.args[1], f"{node.function}'s bound")
        if not delta.expr.is_positive:
            raise ParseError(f"{node.function}'s bound is a positive number", node.args[1].span)
        return x, delta, Clip(x.coordinate, -delta.expr, delta.expr)

    def _call_clip(self, node: Call) -> Value:
        with self._inside(clipped=True):
            x = self.build(node.args[0])
        with self._inside(bound="clip_low"):
            low = self.build(node.args[1])
        with self._inside(bound="clip_high"):
            high = self.build(node.args[2])
        if (high.expr - low.expr).is_negative:
            raise ParseError(f"{node.function}'s lower bound is above its upper one", node.args[1].span)
        return _of([x, low, high], Clip(x.coordinate, low.coordinate, high.coordinate))

    @contextmanager
    def _inside(self, bound: str = "", clipped: bool = False) -> Iterator[None]:
        before = self.bound, self.clipped
        self.bound, self.clipped = bound, clipped
        yield
        self.bound, self.clipped = before

    def _elementary(self, node: Call) -> Value:
        x = self.build(node.args[0])
        if x.kind != "scalar":
            return _coordinates([x], _ELEMENTARY[FUNCTIONS[node.function]](x.coordinate), 4)
        if _bits(x.expr) > NUMBER_BITS // 4 and x.expr.is_number:
            raise ParseError(f"the argument of {node.function} is too large a number", node.args[0].span)
        f = _ELEMENTARY[FUNCTIONS[node.function]]
        return _real(Value(f(x.expr), "scalar", x.size + 4, max(x.terms, 1)), node.span)


_ELEMENTARY: dict[str, Callable[[sp.Expr], sp.Expr]] = {
    "exp": sp.exp,
    "log": sp.log,
    "sqrt": sp.sqrt,
    "sin": sp.sin,
    "cos": sp.cos,
    "sign": sp.sign,
    "log_cosh": lambda x: x + sp.log(1 + sp.exp(-2 * x)) - sp.log(2),
    "sigmoid": lambda x: 1 / (1 + sp.exp(-x)),
    "softplus": lambda x: sp.log(1 + sp.exp(x)),
    "logsigmoid": lambda x: -sp.log(1 + sp.exp(-x)),
    "tanh": lambda x: 2 / (1 + sp.exp(-2 * x)) - 1,
}
_ARGUMENTS = {
    "dot": (2, 2),
    "mse": (2, 2),
    "huber": (2, 2),
    "smooth_l1": (2, 2),
    "clip": (3, 3),
    "min": (2, 8),
    "max": (2, 8),
    "unless": (1, 8),
}


def _size(values: Iterable[Value]) -> int:
    return 1 + sum(v.size for v in values)


def _coordinates(values: Iterable[Value], each: sp.Expr, more: int = 0) -> Value:
    """A function of coordinates that was made of these values."""
    values = list(values)
    return Value(each, "coordinates", _size(values) + more, sum(v.terms for v in values))


def _of(values: list[Value], expr: sp.Expr, more: int = 0) -> Value:
    """A function of values: a number per sample where all are, else one per coordinate."""
    if any(value.kind != "scalar" for value in values):
        return _coordinates(values, expr, more)
    return Value(expr, "scalar", _size(values) + more, sum(v.terms for v in values))


def _total(f: sp.Expr) -> sp.Expr:
    """The sum over coordinates, of what is the same in each too."""
    return Total(f) if coordinatewise(f) else D * f


def _inner(a: Value, b: Value) -> sp.Expr:
    if a.kind == b.kind == "vector":
        return Norm2(a.expr) if a is b else Dot(a.expr, b.expr)
    return _total(a.coordinate * b.coordinate)


def _times(a: Value, b: Value) -> Value:
    kinds = sorted((a.kind, b.kind))
    size, terms = a.size + b.size + 1, a.terms * b.terms
    if kinds == ["vector", "vector"]:
        return Value(Dot(a.expr, b.expr), "product", size, terms, a.expr * b.expr)
    if "scalar" not in kinds or "absolute" in kinds or "coordinates" in kinds:
        return Value(a.coordinate * b.coordinate, "coordinates", size, terms)
    kind: Kind = next((k for k in kinds if k != "scalar"), "scalar")
    return Value(a.expr * b.expr, kind, size, terms, a.coordinate * b.coordinate if kind == "product" else None)


def _quotient(a: Value, b: Value, span: Span) -> Value:
    if b.kind == "vector":
        raise ParseError(f"one cannot divide by {_WORDS[b.kind]}", span)
    if b.expr == 0:
        raise ParseError("division by 0", span)
    size, terms = a.size + b.size + 1, a.terms * b.terms
    if b.kind != "scalar" or a.kind in ("absolute", "coordinates"):
        return Value(a.coordinate / b.coordinate, "coordinates", size, terms)
    return Value(a.expr / b.expr, a.kind, size, terms, None if a.each is None else a.each / b.expr)


def _limited(value: Value, span: Span) -> Value:
    if value.size > NODES:
        raise ParseError(f"with its definitions put in, this has more than {NODES} parts", span)
    if value.terms > TERMS:
        raise ParseError(f"multiplied out, this has more than {TERMS} terms", span)
    if _bits(value.expr) > NUMBER_BITS:
        raise ParseError(f"a number that comes out has more than {NUMBER_BITS} bits", span)
    if any(isinstance(f, sp.Pow) and f.exp.is_Rational and abs(f.exp.p) > EXPONENT for f in _factors(value.expr)):
        raise ParseError(f"a power that comes out is above {EXPONENT}", span)
    return value


def _factors(expr: sp.Expr) -> tuple[sp.Expr, ...]:
    return tuple(sp.Mul.make_args(expr))


def _bits(expr: sp.Expr) -> int:
    """Size of a number, or of an expression's leading coefficient."""
    number = expr if expr.is_Rational else expr.as_coeff_Mul()[0]
    return max(int(number.p).bit_length(), int(number.q).bit_length()) if number.is_Rational else 1


def _real(value: Value, span: Span) -> Value:
    if value.expr.has(sp.zoo, sp.nan, sp.oo, -sp.oo, sp.I):
        raise ParseError("this is not a finite real number", span)
    return value


def _no_function(name: str, defined: Iterable[str]) -> str:
    try:
        resolve(name, Span(name, 0, len(name)))
    except ParseError:
        hint = suggestion(name, FUNCTIONS)
        known = ", ".join(dict.fromkeys(FUNCTIONS.values()))
        return f"unknown function {name!r}{hint if hint.startswith(' —') else f'; there are {known}'}"
    return f"{name!r} is not a function: a '*' may be missing"
