"""A small language for losses: text to SymPy, without evaluating anything that a stranger wrote."""

from __future__ import annotations

from derivations.grammar.errors import ParseError, Span
from derivations.grammar.statement import Statement, read
from derivations.grammar.syntax import parse, unparse

__all__ = ["ParseError", "Span", "Statement", "parse", "read", "unparse"]
