r"""The kinds of statement that a derivation makes, each with its own proof.

A claim is frozen data.  ``residual(inline)`` returns what is left of it after the definitions have been
inlined: 0 is a proof, anything else is a refusal that shows by what the claim is wrong.
``relation`` is the sign that stands between its two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import sympy as sp

from derivations import calculus
from derivations.calculus import VectorSymbol
from derivations.notation import v_theta

__all__ = [
    "Approximates",
    "Claim",
    "Equal",
    "EqualUpToConstant",
    "GradientIs",
    "Parallel",
    "Positive",
    "SameHessian",
]

Inline = Callable[[sp.Expr], sp.Expr]
Substitution = Mapping[sp.Symbol, sp.Expr]


def _at(expr: sp.Expr, where: Substitution) -> sp.Expr:
    return sp.sympify(expr).xreplace(dict(where))


@dataclass(frozen=True)
class Equal:
    """``lhs = rhs`` in value, for every D; with ``where``, after that substitution.

    ``where`` names a branch or a special case, or the value of an inner product (``{Norm2(ones): G}``).
    """

    lhs: sp.Expr
    rhs: sp.Expr
    where: Substitution = field(default_factory=dict)
    relation = "="

    def residual(self, inline: Inline) -> sp.Expr:
        where = {symbol: inline(value) for symbol, value in self.where.items()}
        left = calculus.residual(_decide(_at(inline(self.lhs) - inline(self.rhs), where)))
        return calculus.residual(_at(left, where))


@dataclass(frozen=True)
class GradientIs:
    """``∇ loss = gradient``, by the definition of the gradient along an arbitrary direction."""

    loss: sp.Expr
    gradient: sp.Expr
    wrt: VectorSymbol = v_theta
    label: str = r"\mathcal{L}"
    relation = "="

    def residual(self, inline: Inline) -> sp.Expr:
        return calculus.gradient_residual(inline(self.loss), self.wrt, inline(self.gradient))


@dataclass(frozen=True)
class Approximates:
    """``lhs ≈ rhs``: equal in the stated limit, and ``lhs − rhs = remainder`` exactly."""

    lhs: sp.Expr
    rhs: sp.Expr
    limit: Substitution
    remainder: sp.Expr
    relation = r"\approx"

    def residual(self, inline: Inline) -> sp.Expr:
        exact = calculus.residual(inline(self.lhs) - inline(self.rhs) - inline(self.remainder))
        if exact != 0:
            return exact
        return calculus.residual(_at(inline(self.remainder), self.limit))


@dataclass(frozen=True)
class Parallel:
    """``lhs = factor · rhs`` with a positive factor: the same direction, another length."""

    lhs: sp.Expr
    rhs: sp.Expr
    factor: sp.Expr
    relation = r"\parallel"

    def residual(self, inline: Inline) -> sp.Expr:
        if not inline(self.factor).is_positive:
            return sp.Symbol("the_factor_is_not_known_to_be_positive")
        return calculus.residual(inline(self.lhs) - inline(self.factor) * inline(self.rhs))


@dataclass(frozen=True)
class EqualUpToConstant:
    """``lhs = rhs + constant`` in value, with a constant that is free of ``v_theta``; and the same gradient.

    The second follows from the first unless one side holds ``sg(...)`` of something that depends on ``v_theta``.
    """

    lhs: sp.Expr
    rhs: sp.Expr
    constant: sp.Expr
    relation = "="

    def residual(self, inline: Inline) -> sp.Expr:
        constant = inline(self.constant)
        if calculus.drop_sg(constant).has(v_theta):
            return sp.Symbol("the_constant_depends_on_v_theta")
        left, right = inline(self.lhs), inline(self.rhs)
        in_value = calculus.residual(left - right - constant)
        if in_value != 0 or not (left.has(calculus.sg) or right.has(calculus.sg)):
            return in_value
        return calculus.gradient_residual(left - right, v_theta, sp.S.Zero)


@dataclass(frozen=True)
class SameHessian:
    """``∇² lhs = ∇² rhs``: the Hessians agree on an arbitrary vector h."""

    lhs: sp.Expr
    rhs: sp.Expr
    relation = "="

    def residual(self, inline: Inline) -> sp.Expr:
        h = calculus.fresh_vector(inline(self.lhs), inline(self.rhs))
        left, right = (calculus.hessian_product(inline(side), v_theta, h) for side in (self.lhs, self.rhs))
        return calculus.residual(left - right)


@dataclass(frozen=True)
class Positive:
    """``expr > 0``; ``where`` may parametrise the domain, for instance r = 1/(1 + ρ) for r in (0, 1)."""

    expr: sp.Expr
    where: Substitution = field(default_factory=dict)
    relation = ">"

    def residual(self, inline: Inline) -> sp.Expr:
        expr = _at(inline(self.expr), self.where)
        if expr.is_positive:
            return sp.S.Zero
        numerator, denominator = sp.fraction(sp.cancel(sp.together(sp.powdenest(expr, force=False))))
        if sp.expand(numerator).is_positive and sp.expand(denominator).is_positive:
            return sp.S.Zero
        return sp.Symbol("not_known_to_be_positive") if expr == 0 else expr


Claim = Equal | GradientIs | Approximates | Parallel | EqualUpToConstant | SameHessian | Positive
"""Any of the statements above."""


def _decide(expr: sp.Expr) -> sp.Expr:
    """Replace Min and Max whose order follows from the symbols' signs by their value."""
    if not expr.has(sp.Min, sp.Max):
        return expr

    def choose(larger: bool) -> Callable[..., sp.Expr]:
        def pick(*args: sp.Expr) -> sp.Expr:
            best = args[0]
            for other in args[1:]:
                difference = sp.expand(other - best)
                if difference.is_nonnegative:
                    best = other if larger else best
                elif difference.is_nonpositive:
                    best = best if larger else other
                else:
                    return (sp.Max if larger else sp.Min)(*args, evaluate=False)
            return best

        return pick

    return expr.replace(sp.Max, choose(True)).replace(sp.Min, choose(False))
