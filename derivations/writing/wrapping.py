r"""Text that fits a terminal: formulas broken at operators alone, prose at spaces, and Unicode spelled in ASCII.

>>> for line in wrap_formula("L = A m r k (ε + k δ) + β_KL ‖v_θ − v_ref‖²", 30, "  "): print(line)
  L = A m r k (ε + k δ)
      + β_KL ‖v_θ − v_ref‖²
>>> spelled("‖v_θ − ε‖² ≈ k²")
'||v_theta - eps||^2 ~= k^2'
"""

from __future__ import annotations

import re
import textwrap
import unicodedata

__all__ = ["BREAKS", "is_formula", "spelled", "wrap_formula", "wrap_words"]

_STRONG = ("=", "≈", "~=", "≙", "^=", "∥", "→", "->", "where", "if", "as", "with", "by", "for")

BREAKS = (*_STRONG, "<", ">", "≤", "<=", "+", "−", "-", "·", "*")
"""What a formula may be broken before."""

_ASIDE = re.compile(r"\s{2,}(?=(?:where|if|as|with|by|for|held|the)\b)")


def wrap_formula(formula: str, width: int, indent: str = "") -> list[str]:
    """A formula in lines of at most ``width`` characters, each continued before an operator.

    A line ends before the outermost operator that it can hold, relations and asides (``where …``) before sums; a
    product is broken between two factors, with a ``·`` that says so, where there is no other way.
    """
    if len(indent) + len(formula) <= width:
        return [indent + formula]
    sign = "*" if formula.isascii() else "·"
    lines, hang = [], ""
    for part in _ASIDE.split(formula):
        left = part
        while left:
            room = width - len(indent) - len(hang)
            place, factor = (len(left), False) if len(left) <= room else _break(left, room)
            lines.append(indent + hang + left[:place].rstrip())
            left = left[place:].lstrip()
            left = f"{sign} {left}" if factor and left else left
            hang = "    "
    return lines


def _break(formula: str, room: int) -> tuple[int, bool]:
    """Where to end a line of at most ``room`` characters, and whether that is between two factors."""
    places = [(level, place) for level, place in _operators(formula) if place <= room]
    factors = [(level, place) for level, place in _gaps(formula) if place <= room]
    for found in ([x for x in places if x[1] >= room / 3], places, [x for x in factors if x[1] >= room / 3], factors):
        if found:
            level = min(level for level, _ in found)
            return max(place for of, place in found if of == level), found[0] in factors
    beyond = [place for _, place in (*_operators(formula), *_gaps(formula))]
    return min(beyond, default=len(formula)), bool(beyond) and min(beyond) in [place for _, place in _gaps(formula)]


def _depths(formula: str) -> list[int]:
    """How many brackets are open before each character; ‖…‖ counts as a pair."""
    depths, level, inside, i = [], 0, False, 0
    while i < len(formula):
        size = 2 if formula[i : i + 2] == "||" else 1
        mark = formula[i : i + size]
        if mark in ")]⟩}" or (mark in ("‖", "||") and inside):
            level -= 1
        depths += [level] * size
        if mark in "([⟨{" or (mark in ("‖", "||") and not inside):
            level += 1
        inside ^= mark in ("‖", "||")
        i += size
    return depths


def _operators(formula: str) -> list[tuple[int, int]]:
    """Level and place of each operator with spaces around it; relations are one level above sums."""
    depths = _depths(formula)
    found = re.finditer(r"(?<= )\S+(?= )|(?<=, )(?=\S)", formula)
    return [(2 * depths[m.start()] + (m[0] not in _STRONG), m.start()) for m in found if m[0] in BREAKS or not m[0]]


def _gaps(formula: str) -> list[tuple[int, int]]:
    """Level and place of each space between two factors."""
    depths = _depths(formula)
    return [
        (depths[m.start()], m.start() + 1)
        for m in re.finditer(r"(?<=[^\s=≈+−·∥<>≤,*-]) (?=[^\s=≈+−·∥<>≤*-])", formula)
        if m.start() + 1 > 2
    ]


_NAMES = "alpha beta gamma delta epsilon theta kappa lambda sigma omega mean clip sqrt sigmoid tanh where grad"
_IN_FORMULAS = frozenset(_NAMES.split())


def is_formula(line: str) -> bool:
    """Whether a line holds a formula and no prose: an operator, and no words but those that formulas have."""
    words = set(re.findall(r"(?<![\w-])[a-z]{4,}(?![\w(-])", line))
    return words <= _IN_FORMULAS and any(f" {operator} " in line for operator in BREAKS)


def wrap_words(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    """Prose in lines of at most ``width`` characters; what has no space stays whole."""
    after = " " * len(first) if rest is None else rest
    kept = re.sub(r"(?<=\S) ([−+=≈·<>≤-]) (?=\S)", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", text)
    if max(map(len, kept.split(" ")), default=0) > width - len(after):
        kept = text  # a formula longer than a line
    lines = textwrap.wrap(
        kept, width, initial_indent=first, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] or [first.rstrip()]


# ---------------------------------------------------------------------------------------------------------- ASCII

_SPELLED = {
    "−": "-", "·": "*", "×": "x", "±": "+-", "≈": "~=", "≙": "^=", "≤": "<=", "≥": ">=", "≠": "!=", "→": "->",
    "←": "<-", "∥": "parallel to", "‖": "||", "⟨": "<", "⟩": ">", "√": "sqrt", "∇": "grad ", "∂": "d", "∞": "inf",
    "Σ": "sum ", "∫": "integral ", "…": "...", "–": "-", "—": "-", "“": '"', "”": '"', "’": "'", "‘": "'", "─": "-",
    "│": "|", "•": "*", "½": "1/2 ", "¼": "1/4 ",
    "✓": "ok", "✗": "x", "⁺": "+", "⁻": "-", "′": "'", "∈": "in", "ε": "eps", "ϵ": "eps",
    "\N{COMBINING MACRON}": "bar", "\N{COMBINING TILDE}": "~", "\N{NO-BREAK SPACE}": " ",
}  # fmt: skip
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿᵖᶻ", "0123456789+-npz", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉ₜₙ", "0123456789tn", strict=True))


def spelled(text: str) -> str:
    """The same in ASCII: Greek letters by name, signs as programs write them, anything else as an escape."""
    if text.isascii():
        return text
    text = re.sub(f"[{''.join(_SUPER)}]+", lambda m: "^" + "".join(_SUPER[c] for c in m[0]), text)
    text = re.sub(f"[{''.join(_SUB)}]+", lambda m: "_" + "".join(_SUB[c] for c in m[0]), text)
    return "".join(c if c.isascii() else _letter(c) for c in unicodedata.normalize("NFD", text))


def _letter(character: str) -> str:
    if character in _SPELLED:
        return _SPELLED[character]
    name = unicodedata.name(character, "")
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (?:FINAL )?(\w+)", name)
    if found:
        letter = "lambda" if found[2] == "LAMDA" else found[2].lower()
        return letter if found[1] == "SMALL" else letter.capitalize()
    if unicodedata.combining(character):
        return ""
    return character.encode("ascii", "backslashreplace").decode()
