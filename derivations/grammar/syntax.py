r"""Tokens to a syntax tree, by precedence climbing, and the tree back to text.

.. code-block:: text

    program    = { name "=" sum ";" } sum            the last statement is the loss
    sum        = product { ("+" | "-") product }
    product    = signed { ("*" | "/") signed }
    signed     = "-" signed | "+" signed | power
    power      = primary [ ("**" | "^") signed | "²" | "³" ]
    primary    = number | name | name "(" sum { "," sum } ")" | "(" sum ")"

Sums and products are flat nodes, so that a long one is not deep.  Nothing is evaluated here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from derivations.grammar.errors import ParseError, Span
from derivations.grammar.limits import DEFINITIONS, DEPTH
from derivations.grammar.tokens import Token, number_of, tokenize

__all__ = [
    "Call",
    "Definition",
    "Name",
    "Negative",
    "Node",
    "Number",
    "Power",
    "Product",
    "Program",
    "Sum",
    "parse",
    "parse_definition",
    "unparse",
]

_NOWHERE = Span("", 0, 0)


@dataclass(frozen=True)
class Number:
    """A rational number."""

    value: Fraction
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Name:
    """A quantity, by its name."""

    name: str
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Negative:
    """Minus ``arg``."""

    arg: Node
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Sum:
    """``args`` with a sign (``"+"`` or ``"-"``) before each; the first one's is ``"+"``."""

    args: tuple[Node, ...]
    signs: tuple[str, ...]
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Product:
    """``args`` with ``"*"`` or ``"/"`` before each; the first one's is ``"*"``."""

    args: tuple[Node, ...]
    signs: tuple[str, ...]
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Power:
    """``base`` to the power of ``exponent``."""

    base: Node
    exponent: Node
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Call:
    """A function of its arguments; ``head`` is where its name stands."""

    function: str
    args: tuple[Node, ...]
    span: Span = field(default=_NOWHERE, compare=False)
    head: Span = field(default=_NOWHERE, compare=False)


Node = Number | Name | Negative | Sum | Product | Power | Call
"""Any node of a syntax tree."""


@dataclass(frozen=True)
class Definition:
    """A statement before the loss: a name, and what it stands for."""

    name: str
    value: Node
    span: Span = field(default=_NOWHERE, compare=False)


@dataclass(frozen=True)
class Program:
    """Definitions in the order in which they stand, and the loss."""

    definitions: tuple[Definition, ...]
    loss: Node


def parse(source: str) -> Program:
    """Read ``name = expression`` statements and a loss, separated by ``;`` or newlines.

    Raises:
        ParseError: with the offending place.
    """
    return _Parser(source).program()


def parse_definition(name: str, source: str) -> Definition:
    """Read ``source`` as the value of ``name``.

    Raises:
        ParseError: as :func:`parse`; also if the name is none.
    """
    tokens = tokenize(name)
    if len(tokens) != 2 or tokens[0].kind != "name":
        raise ParseError("a definition needs a name", Span(name, 0, max(len(name), 1)))
    parser = _Parser(source)
    parser.skip_separators()
    value = parser.sum(0)
    parser.skip_separators()
    parser.expect_end()
    return Definition(tokens[0].text, value, tokens[0].span)


class _Parser:
    def __init__(self, source: str) -> None:
        self.tokens = tokenize(source)
        self.at = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.token
        self.at += token.kind != "end"
        return token

    def skip_separators(self) -> None:
        while self.token.kind == ";":
            self.take()

    def program(self) -> Program:
        definitions: list[Definition] = []
        self.skip_separators()
        while True:
            if self.token.kind == "name" and self.tokens[self.at + 1].kind == "=":
                name = self.take()
                self.take()
                definitions.append(Definition(name.text, self.sum(0), name.span))
                if len(definitions) > DEFINITIONS:
                    raise ParseError(f"more than {DEFINITIONS} definitions", name.span)
                if self.token.kind not in (";", "end"):
                    raise self.unexpected()
                self.skip_separators()
                if self.token.kind == "end":
                    raise ParseError("the last statement must be the loss, not a definition", name.span)
                continue
            if self.token.kind == "end":
                raise ParseError("there is no expression", self.token.span)
            first = self.token
            loss = self.sum(0)
            end = self.token
            self.skip_separators()
            if end.kind == ";" and self.token.kind != "end":
                raise ParseError(
                    "only the last statement is the loss; those before it are definitions, name = expression",
                    first.span.to(self.tokens[self.at - 1].span),
                )
            self.expect_end()
            return Program(tuple(definitions), loss)

    def expect_end(self) -> None:
        if self.token.kind != "end":
            raise self.unexpected()

    def unexpected(self) -> ParseError:
        token = self.token
        if token.kind == "end":
            return ParseError("the expression ends too early", token.span)
        if token.kind in ("name", "number", "("):
            return ParseError("an operator is missing before this: products are written with '*'", token.span)
        if token.kind == ")":
            return ParseError("this ')' closes nothing", token.span)
        if token.kind == "=":
            return ParseError(
                "'=' stands in definitions alone, name = expression; a loss is not an equation", token.span
            )
        return ParseError(f"{token.text!r} cannot stand here", token.span)

    def deeper(self, depth: int) -> int:
        if depth >= DEPTH:
            raise ParseError(f"more than {DEPTH} levels inside one another", self.token.span)
        return depth + 1

    def sum(self, depth: int) -> Node:
        return self.chain(("+", "-"), "+", depth)

    def chain(self, operators: tuple[str, str], first: str, depth: int) -> Node:
        """A flat sum of products, or a flat product of signed powers."""

        def operand() -> Node:
            return self.signed(depth) if first == "*" else self.chain(("*", "/"), "*", depth)

        args, signs = [operand()], [first]
        while self.token.kind in operators:
            signs.append(self.take().kind)
            args.append(operand())
        if len(args) == 1:
            return args[0]
        span = args[0].span.to(args[-1].span)
        return (Sum if first == "+" else Product)(tuple(args), tuple(signs), span)

    def signed(self, depth: int) -> Node:
        if self.token.kind not in ("+", "-"):
            return self.power(depth)
        sign = self.take()
        arg = self.signed(self.deeper(depth))
        return arg if sign.kind == "+" else Negative(arg, sign.span.to(arg.span))

    def power(self, depth: int) -> Node:
        base = self.primary(depth)
        if self.token.kind == "power":
            raised = self.take()
            base = Power(base, Number(Fraction(raised.text), raised.span), base.span.to(raised.span))
        if self.token.kind == "**":
            self.take()
            exponent = self.signed(self.deeper(depth))
            return Power(base, exponent, base.span.to(exponent.span))
        return base

    def primary(self, depth: int) -> Node:
        token = self.token
        if token.kind == "number":
            return Number(number_of(self.take()), token.span)
        if token.kind == "(":
            inner_depth = self.deeper(depth)
            self.take()
            inner = self.sum(inner_depth)
            self.close(token)
            return inner
        if token.kind == "name":
            self.take()
            return self.call(token, depth) if self.token.kind == "(" else Name(token.text, token.span)
        if token.kind == ")":
            raise ParseError("something is missing before this ')'", token.span)
        raise self.unexpected()

    def call(self, name: Token, depth: int) -> Node:
        opening = self.token
        inner_depth = self.deeper(depth)
        self.take()
        if self.token.kind == ")":
            raise ParseError(f"{name.text} needs an argument", name.span.to(self.token.span))
        args = [self.sum(inner_depth)]
        while self.token.kind == ",":
            self.take()
            args.append(self.sum(inner_depth))
        closing = self.close(opening)
        return Call(name.text, tuple(args), name.span.to(closing.span), name.span)

    def close(self, opening: Token) -> Token:
        if self.token.kind == ")":
            return self.take()
        if self.token.kind in ("end", ";"):
            raise ParseError("this '(' is never closed", opening.span)
        raise self.unexpected()


def unparse(tree: Program | Node) -> str:
    """Text that parses to the same tree, with the parentheses that it needs."""
    if isinstance(tree, Program):
        return "\n".join([*(f"{d.name} = {_text(d.value, 0)}" for d in tree.definitions), _text(tree.loss, 0)])
    return _text(tree, 0)


_SUM, _PRODUCT, _SIGNED, _POWER, _PRIMARY = range(5)


def _text(node: Node, wanted: int) -> str:
    """``wanted`` is how tightly the surroundings bind: a looser node gets parentheses."""
    level, body = _written(node)
    return f"({body})" if level < wanted else body


def _written(node: Node) -> tuple[int, str]:
    match node:
        case Number():
            return _decimal(node.value)
        case Name():
            return _PRIMARY, node.name
        case Call():
            return _PRIMARY, f"{node.function}({', '.join(_text(a, 0) for a in node.args)})"
        case Negative():
            return _SIGNED, f"-{_text(node.arg, _SIGNED)}"
        case Power():
            return _POWER, f"{_text(node.base, _PRIMARY)}**{_text(node.exponent, _SIGNED)}"
        case Product():
            return _PRODUCT, _chain(node, "", _SIGNED)
        case Sum():
            return _SUM, _chain(node, " ", _PRODUCT)


def _chain(node: Sum | Product, gap: str, wanted: int) -> str:
    out = _text(node.args[0], wanted)
    for sign, arg in zip(node.signs[1:], node.args[1:], strict=True):
        out += f"{gap}{sign}{gap}{_text(arg, wanted)}"
    return out


def _decimal(value: Fraction) -> tuple[int, str]:
    """A number as a token: tokens are finite decimals, so this is exact."""
    if value.denominator == 1:
        digits = str(value.numerator)
        zeros = len(digits) - len(digits.rstrip("0"))
        return _PRIMARY, digits if len(digits) < 20 else f"{digits[: len(digits) - zeros]}e{zeros}"
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    return _PRIMARY, f"{(value * 10**places).numerator}e-{places}"
