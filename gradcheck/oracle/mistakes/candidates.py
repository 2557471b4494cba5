r"""What a named mistake is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

__all__ = ["Candidate", "Mistake", "Overrides"]


@dataclass(frozen=True)
class Mistake:
    """A named mistake.

    Attributes:
        name: its id; a mistake that is made in several ways has several entries of one name.
        sentence: what the implementation seems to do, and what it must do.
        loss: the wrong loss, with every live definition inlined.
    """

    name: str
    sentence: str
    loss: sp.Expr


Overrides = Mapping[sp.Symbol, sp.Expr]
"""Formulas that take the place of the derivation's own."""
Candidate = tuple[str, str, sp.Expr, Overrides]
"""A mistake before its definitions are inlined: name, sentence, loss, and the formulas that are wrong in it."""
