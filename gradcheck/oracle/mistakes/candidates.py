r"""What a named mistake is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy as sp

from gradcheck.oracle.mistakes.places import LOSS, Stated

__all__ = ["Candidate", "Mistake", "Overrides", "as_a_whole"]


Overrides = Mapping[sp.Symbol, sp.Expr]
"""Formulas that take the place of the derivation's own."""
Candidate = tuple[str, str, sp.Expr, Overrides]
"""A mistake before its definitions are inlined: name, sentence, loss, and the formulas that are wrong in it."""


@dataclass(frozen=True, eq=False)
class Mistake:
    """A named mistake: a rewriting of some places of a loss.

    Attributes:
        name: its id; a mistake that is made in several ways has several entries of one name.
        sentence: what the implementation seems to do, and what it must do.
        stated: the loss that is mistaken.
        edits: what stands in the changed places.
        listed: it is one of the list of its derivation, and lives as long.
        generic: a rule made it for any quantity; a mistake that names what was done is better where both fit.
    """

    name: str
    sentence: str
    stated: Stated
    edits: Overrides
    generic: bool = False
    listed: bool = False

    @cached_property
    def loss(self) -> sp.Expr:
        """The wrong loss, in the symbols of a case alone."""
        return self.stated.inlined(self.edits)


def as_a_whole(name: str, sentence: str, loss: sp.Expr) -> Mistake:
    """A mistake that is known as a loss alone, in the symbols of a case."""
    return Mistake(name, sentence, Stated(LOSS, {LOSS: loss}), {})
