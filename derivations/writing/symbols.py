"""What each letter of a derivation stands for: the notation table's, and those that one step alone uses."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import sympy as sp

from derivations.claims import Claim
from derivations.derivation import Derivation, Step, Theorem
from derivations.notation import rows

__all__ = ["LETTERS", "SIGNS", "Letter", "letters_of"]


@dataclass(frozen=True)
class Letter:
    """A symbol, its name in code (empty if it has none), the shape of its tensor, and what it is."""

    symbol: sp.Symbol
    name: str
    shape: str
    meaning: str


_SHAPES = {"latent": "(B, *latent)", "sample": "(B,)", "problem": "one number"}

LETTERS = {
    "w": "weight of the equivalent squared distance, any positive number where it is free",
    "h": "a step in time",
    "b": "a constant that is added to every advantage, or to every gap",
    "N": "number of draws of noise and time",
    "s": "what the other draws, or the other samples of the group, bring",
    "g": "any vector, the gradient of a loss for instance",
    "g_w": "error_gap of the winner",
    "g_l": "error_gap of the loser",
    "g_1": "error_gap of the first sample",
    "g_2": "error_gap of the second sample",
    "A_1": "advantage of the first sample",
    "A_2": "advantage of the second sample",
    "s_1": "group_gap of the first sample",
    "s_2": "group_gap of the second sample",
    "G": "number of samples in a group",
    "R": "rewards of a group, as a vector",
    "ones": "the vector of G ones",
    "gaps": "error_gaps of a group, as a vector",
    "lambda": "factor of the squared distance in the log-density",
    "rho": "any positive number",
    "u": "any positive number",
}
"""Letters that steps of a loss use beside the notation table's, by name."""

SIGNS = (
    ("∇", "gradient in what the network puts out"),
    ("‖x‖²", "sum of squares over the coordinates of one sample"),
    ("⟨x, y⟩", "inner product over the same coordinates"),
    ("sg(x)", "x without a gradient: .detach()"),
)
"""How formulas are written."""


def _symbols(claim: Claim) -> set[sp.Symbol]:
    found: set[sp.Symbol] = set()

    def look(value: Any) -> None:
        if isinstance(value, sp.Basic):
            found.update(value.free_symbols)
        elif hasattr(value, "items"):
            for key, one in value.items():
                look(key)
                look(one)
        elif isinstance(value, (tuple, list)):
            for one in value:
                look(one)

    for field in fields(claim):
        look(getattr(claim, field.name))
    return found


def _all(steps: tuple[Step, ...]) -> set[sp.Symbol]:
    return set().union(*(_symbols(step.claim) for step in steps)) if steps else set()


def letters_of(of: Derivation | Theorem) -> list[Letter]:
    """Every letter of a derivation or theorem that has a meaning of its own, the notation table's first."""
    if isinstance(of, Derivation):
        formulas = {**of.definitions, **of.coefficients}
        used = _all(of.all_steps).union(*(e.free_symbols for e in (of.loss, of.gradient, of.weight, of.target)))
        reached: set[sp.Symbol] = set()
        while reached != used:  # what they are made of, and what that is made of
            reached = set(used)
            used |= set().union(*(formulas[s].free_symbols for s in reached if s in formulas))
    else:
        used = _all(of.steps) | set(of.definitions)
    table = [Letter(q.symbol, q.name, _SHAPES[q.axes], q.meaning) for q in rows() if q.symbol in used]
    known = {letter.symbol for letter in table}
    others = sorted((s for s in used - known if s.name in LETTERS), key=lambda s: list(LETTERS).index(s.name))
    return table + [Letter(s, "", "", LETTERS[s.name]) for s in others]
