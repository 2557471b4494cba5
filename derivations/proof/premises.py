r"""What must be so before a statement says anything: definitions that fit, sides that are defined, possible conditions.

A claim is about all values that its symbols may have.  So a definition must stay where its symbol lives; a condition
(``where``) must be possible, and must say outright what it replaces; a denominator must not vanish once everything is
put in; a logarithm must be of what is positive.  What is not proved to be so is refused with a :class:`Reason`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import sympy as sp

from derivations import calculus
from derivations.algebra.signs import is_nonnegative, is_positive
from derivations.algebra.vectors import drop_sg
from derivations.calculus import CalculusError, Dot, Mask, Norm2
from derivations.proof.domains import corners, domain_of, fits, realisable

__all__ = [
    "Inline",
    "Inliner",
    "Reason",
    "RefusedError",
    "Substitution",
    "defined",
    "narrowed",
    "opened",
    "possible",
    "suitable",
]

Inline = Callable[[sp.Expr], sp.Expr]
"""Puts definitions in."""

Substitution = Mapping[sp.Expr, sp.Expr]
"""What is put in place of what."""


class Reason(sp.Symbol):
    """What stands where a proof should leave 0, for a claim that is refused whatever its sides are: the reason."""

    def __new__(cls, words: str) -> Reason:
        return super().__new__(cls, words)


class RefusedError(Exception):
    """A claim is refused; the argument is the reason in words."""

    @property
    def reason(self) -> Reason:
        return Reason(str(self))


class Inliner:
    """Puts definitions in, and knows the formulas of coefficients, which proofs leave opaque.

    Attributes:
        coefficients: symbol → formula, the definitions put in.
        within: domains that are narrower than the notation table's.
    """

    def __init__(
        self,
        definitions: Substitution,
        coefficients: Substitution | None = None,
        within: Mapping[sp.Symbol, sp.Interval] | None = None,
    ) -> None:
        self.closed = {symbol: sp.sympify(formula) for symbol, formula in definitions.items()}
        self.coefficients = {s: self(e) for s, e in (coefficients or {}).items()}
        self.within = within
        self.unfit: dict[sp.Symbol, str] = {}

    def __call__(self, expr: sp.Expr) -> sp.Expr:
        return sp.sympify(expr).xreplace(self.closed)

    def opened(self, expr: sp.Expr) -> sp.Expr:
        """With the coefficients' formulas too."""
        expr = self(expr)
        for _ in range(len(self.coefficients) + 1):
            replaced = self(expr.xreplace(self.coefficients))
            if replaced == expr:
                break
            expr = replaced
        return expr

    def misfit(self, symbol: sp.Symbol) -> str:
        """Why the formula behind a symbol may leave the symbol's domain; empty if there is none, or it fits."""
        if symbol not in self.unfit:
            value = self.coefficients.get(symbol, self.closed.get(symbol, symbol))
            wrong = "" if value == symbol else fits(symbol, drop_sg(value), within=self.within)
            inner = [s for s in value.free_symbols if s != symbol and s in self.coefficients]
            self.unfit[symbol] = wrong or next(filter(None, map(self.misfit, inner)), "")
        return self.unfit[symbol]


def narrowed(inline: Inline) -> Mapping[sp.Symbol, sp.Interval]:
    """Domains that are narrower than the notation table's."""
    return (inline.within or {}) if isinstance(inline, Inliner) else {}


def opened(expr: sp.Expr, inline: Inline) -> sp.Expr:
    """Definitions and, where they are known, coefficients put in."""
    return inline.opened(expr) if isinstance(inline, Inliner) else inline(sp.sympify(expr))


def suitable(exprs: Iterable[sp.Expr], inline: Inline, real: Iterable[sp.Expr] = ()) -> None:
    """Refuse sides that hold a symbol whose formula may leave its domain, or a logarithm that may not be real.

    What is put in place of a real number, or is said to be positive, must be one: formulas of symbols, and ``real``.
    A root is taken to be so, and nothing is said where it is not; but it must not be of what is always negative.
    """
    real = [inline(sp.sympify(e)) for e in real]
    sides = [sp.sympify(e) for e in exprs]
    symbols = set().union(*(e.free_symbols for e in sides))
    for symbol in sorted(symbols, key=str):
        if isinstance(inline, Inliner):
            wrong = inline.misfit(symbol)
        else:
            value = inline(symbol)
            wrong = "" if value == symbol else fits(symbol, drop_sg(value))
        if wrong:
            raise RefusedError(f"the formula behind {symbol} does not fit it: {wrong}")
        sides.append(inline(symbol))
        real.append(inline(symbol))
    for side in sides:
        for node in side.atoms(sp.log):
            if not all(is_positive(x) for x in corners(drop_sg(node.args[0]), narrowed(inline))):
                raise RefusedError(f"the logarithm of {node.args[0]}, which is not known to be positive")
    for value in real:
        for node in value.atoms(sp.Pow):
            if not node.exp.is_integer and all(is_positive(-x) for x in corners(drop_sg(node.base), narrowed(inline))):
                raise RefusedError(f"the root of {node.base}, which is negative")
        for node in value.atoms(sp.acos, sp.asin):
            x = drop_sg(node.args[0])
            if not all(is_nonnegative(end) for form in (1 - x, 1 + x) for end in corners(form, narrowed(inline))):
                raise RefusedError(f"the {node.func} of {node.args[0]}, which is not known to lie in [−1, 1]")


def possible(
    where: Substitution,
    sides: Iterable[sp.Expr],
    given: tuple[sp.Expr, ...] = (),
    within: Mapping[sp.Symbol, sp.Interval] | None = None,
) -> None:
    """Refuse a condition that no values meet, or that does not say outright what stands for what."""
    sides = tuple(sides)
    _consistent(given, within)
    for key, value in where.items():
        plain = key.is_Symbol or (isinstance(key, (Norm2, Dot)) and all(arg.is_Symbol for arg in key.args))
        if not plain:
            raise RefusedError(f"a condition names a symbol or an inner product of two, not {key}")
        inside = [other for other in where if value.has(other)]
        if inside and not (len(where) == 1 and value == key):
            raise RefusedError(f"the condition for {key} holds {inside[0]}, which it replaces itself")
        if not key.is_Symbol:
            replaced = [arg for arg in key.args if arg in where]
            if replaced:
                raise RefusedError(f"the condition for {key} is one on {replaced[0]}, which another condition replaces")
            continue
        wrong = fits(key, drop_sg(value), given, within)
        if wrong:
            raise RefusedError(f"the condition is outside the domain: {wrong}")
        if _jumps(key, value, sides):
            raise RefusedError(f"{value} is at the open end of {key}'s domain, where a side may jump")
    wrong = realisable(where)
    if wrong:
        raise RefusedError(f"no vectors are so: {wrong}")


def _consistent(given: tuple[sp.Expr, ...], within: Mapping[sp.Symbol, sp.Interval] | None) -> None:
    """Refuse premises of which one cannot be positive, or two cannot be so at once."""
    for i, one in enumerate(given):
        for other in given[i:]:
            if all(is_nonnegative(x) for x in corners(-one - other, within)):
                both = f"{one}" if one == other else f"{one} and {other}"
                raise RefusedError(f"it is given that {both} > 0, which cannot be")


_STEPS = (sp.sign, sp.floor, sp.ceiling, sp.Heaviside, sp.Piecewise, Mask)


def _jumps(key: sp.Symbol, value: sp.Expr, sides: tuple[sp.Expr, ...]) -> bool:
    """Whether a number at an open end of the domain is put into what need not be continuous there."""
    if not value.is_number or isinstance(key, calculus.VectorSymbol) or value in domain_of(key):
        return False
    return any(node.has(key) for side in sides for node in side.atoms(*_STEPS))


def defined(expr: sp.Expr, inner: Substitution | None = None) -> sp.Expr:
    """The expression itself, if no denominator in it is 0.

    Args:
        expr: a side of a claim, conditions on symbols put in.
        inner: conditions on inner products, which are put in once these are written out.

    Raises:
        RefusedError: a denominator in it is 0, or it is no number.
    """
    if expr.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
        raise RefusedError("a denominator is 0: nothing is said where a side is not defined")
    for node in expr.atoms(sp.Pow):
        if not node.exp.could_extract_minus_sign() or node.base.is_Symbol or node.base.is_number:
            continue
        if node.base.is_positive:
            continue
        base = calculus.expand(node.base).xreplace(dict(inner)) if inner else node.base
        if calculus.is_zero(base):
            raise RefusedError(f"the denominator {node.base} is 0: nothing is said where a side is not defined")
    return expr


def words(error: Exception) -> Reason:
    """The reason for which a calculation could not be carried out."""
    if isinstance(error, RefusedError):
        return error.reason
    if isinstance(error, ZeroDivisionError):
        return Reason("a denominator is 0: nothing is said where a side is not defined")
    assert isinstance(error, CalculusError)
    return Reason(str(error))
