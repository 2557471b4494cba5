r"""The kinds of statement that a derivation makes, each with its own proof.

A claim is frozen data.  ``residual(inline)`` returns what is left of it after the definitions have been
inlined: 0 is a proof, anything else is a refusal that shows by what the claim is wrong, or a :class:`Reason` in words.
``relation`` is the sign that stands between its two sides.

Before its sides are compared, each claim's premises are looked at (:mod:`derivations.proof.premises`): definitions
that fit their symbols, conditions that can be met, sides that are defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from itertools import product
from typing import Any

import sympy as sp

from derivations import calculus
from derivations.algebra.signs import is_nonnegative, is_positive
from derivations.algebra.vectors import drop_sg
from derivations.calculus import CalculusError, ClipMask, Dot, Norm2, OtherMask, VectorSymbol
from derivations.notation import noise_theta, v_theta, x_0_theta
from derivations.proof.domains import corners, covers, domain_of
from derivations.proof.limits import leading
from derivations.proof.premises import (
    Inline,
    Inliner,
    Reason,
    RefusedError,
    Substitution,
    defined,
    narrowed,
    opened,
    possible,
    suitable,
    words,
)

__all__ = [
    "Approximates",
    "Claim",
    "Equal",
    "EqualUpToConstant",
    "GradientIs",
    "Inline",
    "Inliner",
    "Parallel",
    "Positive",
    "Reason",
    "SameHessian",
    "refusal",
]

_OUTPUTS = (v_theta, noise_theta, x_0_theta)


def _judged(residual: Callable[[Any, Inline], sp.Expr]) -> Callable[[Any, Inline], sp.Expr]:
    """A claim that cannot be judged is refused, with the reason; nothing is raised."""

    @wraps(residual)
    def run(claim: Any, inline: Inline) -> sp.Expr:
        try:
            return residual(claim, inline)
        except (RefusedError, ZeroDivisionError, CalculusError) as error:
            return words(error)

    return run


def refusal(claim: Claim, left: sp.Expr) -> str:
    """In words, why a claim is refused; empty if it is proved."""
    if left == 0:
        return ""
    if isinstance(left, Reason):
        return str(left)
    if isinstance(claim, Positive):
        return f"it is not known to be positive: {left}"
    what = {
        GradientIs: "the loss's slope along an arbitrary vector h is not ⟨gradient, h⟩",
        Approximates: "the sides differ by more than the order, or not by the remainder",
        EqualUpToConstant: "the sides do not differ by the constant",
        SameHessian: "the Hessians differ on an arbitrary vector h",
    }.get(type(claim), "the sides differ")
    return f"{what}; what is left of it, and should be 0: {left}"


def _at(expr: sp.Expr, where: Substitution) -> sp.Expr:
    return sp.sympify(expr).xreplace(dict(where))


@dataclass(frozen=True)
class Equal:
    """``lhs = rhs`` in value, for every D; with ``where``, after that substitution.

    ``where`` names a branch or a special case, or the value of an inner product (``{Norm2(ones): G}``); each value must
    lie in its symbol's domain, open ends included, or be there because of ``given``: expressions taken to be positive.
    """

    lhs: sp.Expr
    rhs: sp.Expr
    where: Substitution = field(default_factory=dict)
    given: tuple[sp.Expr, ...] = ()
    relation = "="

    @_judged
    def residual(self, inline: Inline) -> sp.Expr:
        where = {symbol: inline(value) for symbol, value in self.where.items()}
        given = tuple(sp.expand(inline(g)) for g in self.given)
        suitable((self.lhs, self.rhs, *self.where.values()), inline, self.where.values())
        sides = [drop_sg(inline(side)) for side in (self.lhs, self.rhs)]
        possible(where, sides, given, narrowed(inline))
        inner = {key: value for key, value in where.items() if not key.is_Symbol}
        left, right = (defined(_decide(_at(side, where)), inner) for side in sides)
        if not inner:
            return calculus.residual(left - right)
        return calculus.residual(_at(_written_out(left - right), inner))


def _written_out(expr: sp.Expr) -> sp.Expr:
    """With every inner product between symbols, of a vector in its coefficients."""
    if expr == 0 or calculus.kind(expr) == "scalar":
        return calculus.expand(expr)
    return sp.Add(*(calculus.expand(c) * u for u, c in calculus.components(expr).items()))


@dataclass(frozen=True)
class GradientIs:
    """``∇ loss = gradient``, by the definition of the gradient along an arbitrary direction."""

    loss: sp.Expr
    gradient: sp.Expr
    wrt: VectorSymbol = v_theta
    label: str = r"\mathcal{L}"
    relation = "="

    @_judged
    def residual(self, inline: Inline) -> sp.Expr:
        suitable((self.loss, self.gradient), inline)
        loss, gradient = inline(self.loss), inline(self.gradient)
        defined(drop_sg(loss)), defined(drop_sg(gradient))
        return calculus.gradient_residual(loss, self.wrt, gradient)


@dataclass(frozen=True)
class Approximates:
    r"""``lhs ≈ rhs``: the difference is :math:`O(s^n)` along limit + s·h for every direction h, n being the order.

    ``remainder``, where it is stated, is the difference exactly.  Both sides must be analytic at the limit, with every
    mask decided there; then the order is that in the distance to the limit, from all sides.
    """

    lhs: sp.Expr
    rhs: sp.Expr
    limit: Substitution
    remainder: sp.Expr | None = None
    order: int = 1
    relation = r"\approx"

    @_judged
    def residual(self, inline: Inline) -> sp.Expr:
        limit = {symbol: inline(value) for symbol, value in self.limit.items()}
        stated = () if self.remainder is None else (self.remainder,)
        suitable((self.lhs, self.rhs, *stated, *self.limit.values()), inline, self.limit.values())
        sides = [drop_sg(inline(side)) for side in (self.lhs, self.rhs, *stated)]
        if any(not key.is_Symbol for key in limit):
            raise RefusedError("a limit is of symbols")
        possible(limit, sides, (), narrowed(inline))
        for symbol in sorted(set().union(*(side.free_symbols for side in sides)) - set(limit), key=str):
            if opened(symbol, inline).has(*limit):
                raise RefusedError(f"{symbol} changes towards the limit too, as its formula holds what does")
        for side in sides:
            defined(side)
        exact = calculus.residual(sides[0] - sides[1] - sides[2]) if stated else sp.S.Zero
        return exact if exact != 0 else leading(sides[0] - sides[1], limit, self.order)


@dataclass(frozen=True)
class Parallel:
    """``lhs = factor · rhs`` with a positive factor: the same direction, another length."""

    lhs: sp.Expr
    rhs: sp.Expr
    factor: sp.Expr
    relation = r"\parallel"

    @_judged
    def residual(self, inline: Inline) -> sp.Expr:
        suitable((self.lhs, self.rhs, self.factor), inline, (self.factor,))
        factor = drop_sg(inline(self.factor))
        if not all(is_positive(x) for x in corners(factor, narrowed(inline))):
            return Reason(f"the factor {self.factor} is not known to be positive")
        left, right = (defined(drop_sg(inline(side))) for side in (self.lhs, self.rhs))
        return calculus.residual(left - defined(factor) * right)


def _output(wrt: VectorSymbol | None, sides: tuple[sp.Expr, ...]) -> VectorSymbol:
    """What a statement about derivatives is with respect to: as declared, or else the output that the sides hold."""
    held = [u for u in _OUTPUTS if any(side.has(u) for side in sides)]
    if wrt is not None:
        return wrt
    if len(held) > 1:
        raise RefusedError(f"both {held[0]} and {held[1]} stand in it: it must say with respect to which it is meant")
    return held[0] if held else v_theta


def _dependence(expr: sp.Expr, inline: Inline, of: tuple[VectorSymbol, ...]) -> str:
    """By what an expression depends on an output, coefficients and detached factors included; empty if it does not."""
    expr = drop_sg(inline(expr))
    for symbol in sorted(expr.free_symbols, key=str):
        if drop_sg(opened(symbol, inline)).has(*of):
            return str(symbol)
    return ""


@dataclass(frozen=True)
class EqualUpToConstant:
    """``lhs = rhs + constant`` in value, with a constant that is free of the output; and the same gradient.

    The second follows from the first unless one side holds ``sg(...)`` of something that depends on the output.  A
    coefficient whose formula depends on it makes the "constant" none, detached or not.

    Attributes:
        wrt: the output; ``None`` for the one that the sides hold, ``v_theta`` if they hold none.
    """

    lhs: sp.Expr
    rhs: sp.Expr
    constant: sp.Expr
    wrt: VectorSymbol | None = None
    relation = "="

    @_judged
    def residual(self, inline: Inline) -> sp.Expr:
        suitable((self.lhs, self.rhs, self.constant), inline)
        left, right, constant = (inline(side) for side in (self.lhs, self.rhs, self.constant))
        wrt = _output(self.wrt, (left, right, constant))
        by = _dependence(self.constant, inline, (wrt, *_OUTPUTS))
        if by:
            what = "" if by == str(wrt) else f", through {by}"
            return Reason(f"the constant depends on {wrt}{what}")
        value = [defined(drop_sg(side)) for side in (left, right, constant)]
        in_value = calculus.residual(value[0] - value[1] - value[2])
        if in_value != 0 or not (left.has(calculus.sg) or right.has(calculus.sg)):
            return in_value
        return calculus.gradient_residual(left - right, wrt, sp.S.Zero)


@dataclass(frozen=True)
class SameHessian:
    """``∇² lhs = ∇² rhs``: the Hessians agree on an arbitrary vector h.

    Attributes:
        wrt: as in :class:`EqualUpToConstant`.
        held: the coefficients that depend on the output and are held: the Hessians are of the losses with these as
            numbers, as automatic differentiation takes them where they are detached.  All such must be named.
    """

    lhs: sp.Expr
    rhs: sp.Expr
    wrt: VectorSymbol | None = None
    held: tuple[sp.Symbol, ...] = ()
    relation = "="

    @_judged
    def residual(self, inline: Inline) -> sp.Expr:
        suitable((self.lhs, self.rhs), inline)
        sides = inline(self.lhs), inline(self.rhs)
        wrt = _output(self.wrt, sides)
        for symbol in sorted(set().union(*(side.free_symbols for side in sides)) - {wrt, *self.held}, key=str):
            if opened(symbol, inline).has(wrt):
                return Reason(f"{symbol} depends on {wrt}; if it is to be held, the claim must say so")
        for side in sides:
            defined(drop_sg(side))
        h = calculus.fresh_vector(*sides)
        left, right = (calculus.hessian_product(side, wrt, h) for side in sides)
        return calculus.residual(left - right)


@dataclass(frozen=True)
class Positive:
    """``expr > 0`` on the whole domain that the notation table gives its symbols.

    Attributes:
        where: how a symbol's domain is walked through: low + (high − low)/(1 + p) with any p > 0 (for instance
            r = 1/(1 + p) for r in (0, 1)), or low + p.  It must reach all of the inside; the ends are tried besides.
        within: domains that are narrower than the table's, and belong to the statement.
    """

    expr: sp.Expr
    where: Substitution = field(default_factory=dict)
    within: Mapping[sp.Symbol, sp.Interval] = field(default_factory=dict)
    relation = ">"

    @_judged
    def residual(self, inline: Inline) -> sp.Expr:
        suitable((self.expr, *self.where.values()), inline, (self.expr, *self.where.values()))
        within = {**narrowed(inline), **self.within}
        expr = drop_sg(inline(self.expr))
        where = {symbol: inline(value) for symbol, value in self.where.items()}
        for symbol, value in where.items():
            others = (expr.xreplace({symbol: sp.Dummy(positive=True)}), *(e for s, e in where.items() if s != symbol))
            wrong = covers(symbol, value, others, within)
            if wrong:
                return Reason(wrong)
        for place in _places(expr, where, within):
            defined(place)
            if not is_positive(place):
                return Reason("not known to be positive") if place == 0 else place
        return sp.S.Zero


def _places(expr: sp.Expr, where: Substitution, within: Mapping[sp.Symbol, sp.Interval]) -> Iterator[sp.Expr]:
    """The expression on the inside of every domain, and at its closed ends."""
    choices = []
    for symbol, value in where.items():
        domain = domain_of(symbol, within)
        ends = [] if domain.left_open else [domain.inf]
        ends += [] if domain.right_open else [domain.sup]
        choices.append([value, *ends])
    for places in product(*choices):
        yield from corners(expr.xreplace(dict(zip(where, places, strict=True))), within)


Claim = Equal | GradientIs | Approximates | Parallel | EqualUpToConstant | SameHessian | Positive
"""Any of the statements above."""


def _decide(expr: sp.Expr) -> sp.Expr:
    """Replace Min, Max and PPO's mask by their value where the symbols' signs decide it."""
    expr = expr.xreplace({mask: value for mask in expr.atoms(ClipMask) if (value := _branch(mask)) is not None})
    if not expr.has(sp.Min, sp.Max):
        return expr

    def choose(larger: bool) -> Callable[..., sp.Expr]:
        def pick(*args: sp.Expr) -> sp.Expr:
            best = args[0]
            for other in args[1:]:
                difference = sp.expand(other - best)
                if is_nonnegative(difference):
                    best = other if larger else best
                elif is_nonnegative(-difference):
                    best = best if larger else other
                else:
                    return (sp.Max if larger else sp.Min)(*args, evaluate=False)
            return best

        return pick

    return expr.replace(sp.Max, choose(True)).replace(sp.Min, choose(False))


def _branch(mask: ClipMask) -> sp.Expr | None:
    advantage, ratio, low, high = mask.args
    if isinstance(mask, OtherMask) or ratio.has(Dot, Norm2, sp.exp):
        return None  # its sign is not known, and asking is slow
    above, below = sp.expand(ratio - 1 - high), sp.expand(1 - low - ratio)
    if (is_positive(above) and is_positive(advantage)) or (is_positive(below) and is_positive(-advantage)):
        return sp.S.Zero
    on_high = is_nonnegative(-above) or is_nonnegative(-advantage)
    return sp.S.One if on_high and (is_nonnegative(-below) or is_nonnegative(advantage)) else None
