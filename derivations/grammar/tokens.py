"""Characters to tokens: numbers, names, operators, and nothing else."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from derivations.grammar.errors import ParseError, Span
from derivations.grammar.limits import DIGITS, NAME_LENGTH, TEN_EXPONENT, TEXT_LENGTH, TOKENS

__all__ = ["Token", "number_of", "tokenize"]

_ASCII_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789")
_GREEK = frozenset("αβγδεηθκλμνπρστωΔ")
_SAME = {"ϵ": "ε", "µ": "μ", "−": "-", "·": "*", "×": "*", "∆": "Δ"}
"""Characters that are typed for another one and look like it."""
_OPERATORS = ("**", "^", "+", "-", "*", "/", "(", ")", ",", "=", ";")
_RAISED = {"²": "2", "³": "3"}


@dataclass(frozen=True)
class Token:
    """``kind`` is ``"number"``, ``"name"``, ``"power"`` (a raised digit), an operator, or ``"end"``."""

    kind: str
    text: str
    span: Span


def tokenize(source: str) -> list[Token]:
    """Split a text into tokens; the last is ``"end"``.  Newlines outside parentheses become ``;``.

    Raises:
        ParseError: a character that the grammar does not have, or a text, name or number that is too long.
    """
    if len(source) > TEXT_LENGTH:
        raise ParseError(
            f"the text has {len(source)} characters, and the limit is {TEXT_LENGTH}",
            Span(source, TEXT_LENGTH, TEXT_LENGTH + 1),
        )
    out: list[Token] = []
    i, depth = 0, 0
    while i < len(source):
        c = _SAME.get(source[i], source[i])
        if c == "\n" or c == ";":
            if not (c == "\n" and depth):
                out.append(Token(";", ";", Span(source, i, i + 1)))
            i += 1
        elif c in " \t\r":
            i += 1
        elif c == "#":
            while i < len(source) and source[i] != "\n":
                i += 1
        else:
            token = _token(source, i, c)
            depth += (token.kind == "(") - (token.kind == ")")
            out.append(token)
            i = token.span.end
        if len(out) > TOKENS:
            raise ParseError(f"more than {TOKENS} names, numbers and signs", out[-1].span)
    out.append(Token("end", "", Span(source, len(source), len(source))))
    return out


def _token(source: str, i: int, c: str) -> Token:
    if c in _ASCII_NAME or c in _GREEK or c == ".":
        is_number = c.isascii() and (c.isdigit() or (c == "." and source[i + 1 : i + 2] in set("0123456789")))
        if is_number:
            return _number(source, i)
        if c != ".":
            return _name(source, i)
    if c in _RAISED:
        return Token("power", _RAISED[c], Span(source, i, i + 1))
    for sign in _OPERATORS:
        if source.startswith(sign, i) or sign == c:
            length = len(sign) if source.startswith(sign, i) else 1
            return Token("**" if sign == "^" else sign, sign, Span(source, i, i + length))
    raise ParseError(_foreign(c), Span(source, i, i + 1))


def _number(source: str, i: int) -> Token:
    """Digits, a point, digits, an exponent: only ASCII, and of limited size."""
    j = _digits(source, i)
    if source[j : j + 1] == ".":
        j = _digits(source, j + 1)
    if source[j : j + 1] in ("e", "E"):
        k = j + 1 + (source[j + 1 : j + 2] in ("+", "-"))
        if _digits(source, k) > k:
            if _digits(source, k) - k > 4 or int(source[k : _digits(source, k)]) > TEN_EXPONENT:
                raise ParseError(
                    f"a number's exponent of ten is {TEN_EXPONENT} at most", Span(source, i, _digits(source, k))
                )
            j = _digits(source, k)
    if j - i > DIGITS:
        raise ParseError(f"a number has {DIGITS} characters at most", Span(source, i, j))
    if source[j : j + 1] and source[j] in _ASCII_NAME | _GREEK | {"."}:
        raise ParseError("a '*' is missing between a number and what follows it", Span(source, i, j + 1))
    return Token("number", source[i:j], Span(source, i, j))


def _digits(source: str, i: int) -> int:
    while i < len(source) and source[i] in "0123456789":
        i += 1
    return i


def _name(source: str, i: int) -> Token:
    j, text = i, ""
    while j < len(source) and (c := _SAME.get(source[j], source[j])) in _ASCII_NAME | _GREEK:
        text += c
        j += 1
    if j - i > NAME_LENGTH:
        raise ParseError(f"a name has {NAME_LENGTH} characters at most", Span(source, i, j))
    return Token("name", text, Span(source, i, j))


def _foreign(c: str) -> str:
    """Why a character is not accepted; its Unicode name tells look-alikes apart."""
    if c == ".":
        return "there is no '.' here: names have no attributes, and a number needs a digit"
    if c in "'\"`":
        return "there are no strings here"
    if c in "[]{}":
        return f"there is no {c!r} here: group with parentheses"
    if c in "<>!&|@%~?:\\$":
        return f"there is no {c!r} here"
    name = unicodedata.name(c, "")
    shown = f"U+{ord(c):04X} {name}".strip()
    if unicodedata.category(c).startswith("L"):
        return f"{shown} is not a letter of the notation: names are of ASCII and a few Greek letters"
    return f"the character {shown} has no meaning here"


def number_of(token: Token) -> Fraction:
    """The exact value of a number token: 0.1 is a tenth."""
    return Fraction(token.text)
