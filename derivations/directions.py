r"""A gradient as the field reads it: coefficients on directions, an optimisation direction and a trust region.

A gradient is a combination of vectors.  Its part along v_theta − v_old or v_theta − v_ref is the *trust region*, the
rest the *optimisation direction*.  Where v_theta, v_old and v_gt all occur there are two ways to split,

.. math:: p\,(v_\theta - v_{old}) + q\,(v_{old} - v_{gt}) \quad\text{and}\quad
          q\,(v_\theta - v_{gt}) + (p - q)\,(v_\theta - v_{old});

the one whose trust region does not depend on the reward is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import gcd, lcm

import sympy as sp

from derivations.calculus import Dot, MeanAbs, Norm2, VectorSymbol, components, is_zero, sg
from derivations.notation import (
    C1,
    C2,
    advantage,
    advantage_tilde,
    k,
    reward,
    reward_prob,
    rho_minus,
    rho_plus,
    t,
    v_gt,
    v_old,
    v_ref,
    v_theta,
)

__all__ = [
    "Term",
    "combined",
    "directions",
    "grouped",
    "prettier",
    "tidy",
    "tidy_vectors",
    "time_left",
    "times",
    "turned",
]

_REWARD = {advantage, advantage_tilde, reward, reward_prob, rho_minus, rho_plus}


@dataclass(frozen=True)
class Term:
    """One direction of a gradient.

    Attributes:
        coefficient: a scalar.
        direction: a vector: a difference of two velocities, the noise …
        trust: whether it belongs to the trust region.
    """

    coefficient: sp.Expr
    direction: sp.Expr
    trust: bool

    @property
    def vector(self) -> sp.Expr:
        return self.coefficient * self.direction

    @property
    def anchor(self) -> sp.Expr | None:
        """The point that v_theta is held to, or pushed from: p where the direction is v_theta − p."""
        point = v_theta - self.direction
        return None if point.has(v_theta) else point


def tidy(expr: sp.Expr) -> sp.Expr:
    """A scalar as one fraction, factored; functions and roots are left as they are."""
    expr = sp.sympify(expr)
    atoms: dict[sp.Expr, sp.Symbol] = {}

    def plain(e: sp.Expr) -> sp.Expr:
        if e.is_Rational or e.is_Symbol:
            return e
        if isinstance(e, sp.exp):  # e^{2x} and e^x are powers of one atom
            count, rest = e.args[0].as_coeff_Mul()
            if count.is_Integer and count != 1:
                return plain(sp.exp(rest)) ** count
        if isinstance(e, (sp.Add, sp.Mul)) or (isinstance(e, sp.Pow) and e.exp.is_Integer):
            return e.func(*map(plain, e.args))
        return atoms.setdefault(e, sp.Dummy(f"a{len(atoms)}"))

    flat = plain(expr)
    return time_left(sp.factor(flat)).xreplace({symbol: e for e, symbol in atoms.items()})


def time_left(expr: sp.Expr) -> sp.Expr:
    """Powers of t − 1, which factoring leaves, as powers of 1 − t."""
    powers = {e: (-1) ** e.exp * (1 - t) ** e.exp for e in expr.atoms(sp.Pow) if e.base == t - 1 and e.exp.is_Integer}
    return expr.xreplace(powers)


def tidy_vectors(expr: sp.Expr) -> sp.Expr:
    """Bring the vectors inside norms and inner products to their directions."""

    def settle(e: sp.Expr) -> sp.Expr:
        if isinstance(e, (Norm2, Dot, MeanAbs)):
            return e.func(*(combined(directions(components(settle(arg)))) for arg in e.args))
        return e.func(*map(settle, e.args)) if e.args and e.has(Norm2, Dot, MeanAbs) else e

    return settle(expr) if not expr.has(sg) else expr


def prettier(coefficients: Iterable[sp.Expr], free: set[sp.Symbol]) -> tuple[list[sp.Expr], set[sp.Symbol]]:
    """Write k for C1/C2 and A for 2r − 1 where that is shorter; also returns the symbols that it introduced.

    Args:
        coefficients: tidy scalars.
        free: symbols that must not be introduced, because they stand for something else already.
    """
    out, used = list(coefficients), set()
    for new, put in ((k, {C1: k * C2}), (advantage, {reward_prob: (1 + advantage) / 2})):
        if new in free:
            continue
        other = [tidy(c.xreplace(put)) for c in out]
        if _length(other) < _length(out):
            out = other
            used |= {new} & set().union(*(c.free_symbols for c in other))
    return out, used


def _length(exprs: Iterable[sp.Expr]) -> int:
    return sum(int(sp.count_ops(e)) + len(e.free_symbols) for e in exprs)


def directions(coefficients: Mapping[VectorSymbol, sp.Expr]) -> tuple[Term, ...]:
    """Split a combination of vectors into terms, the optimisation direction's first."""
    left = {u: tidy(c) for u, c in coefficients.items() if not is_zero(c)}
    reference = left.pop(v_ref, sp.S.Zero)
    own = left.pop(v_theta, sp.S.Zero)
    old, data = left.pop(v_old, sp.S.Zero), left.pop(v_gt, sp.S.Zero)
    terms: list[Term] = []
    if own == 0:  # nothing to hold: plain vectors
        terms = [_plain(c, u) for u, c in ((v_old, old), (v_gt, data), (v_ref, reference)) if c != 0]
        if old != 0 and is_zero(old + data):
            terms = [Term(old, v_old - v_gt, False), *terms[2:]]
    else:
        rest = tidy(own + reference)
        if data != 0 and old != 0 and old.free_symbols & _REWARD and is_zero(rest + old + data):
            terms = [Term(tidy(-data), v_old - v_gt, False), Term(rest, v_theta - v_old, True)]
            rest = sp.S.Zero
        else:
            terms += [Term(tidy(-data), v_theta - v_gt, False)] if data != 0 else []
            terms += [Term(tidy(-old), v_theta - v_old, True)] if old != 0 else []
            rest = tidy(rest + old + data)
        terms += [Term(rest, v_theta, False)] if not is_zero(rest) else []
        terms += [Term(tidy(-reference), v_theta - v_ref, True)] if reference != 0 else []
    terms += [_plain(c, u) for u, c in left.items()]
    kept = [term for term in terms if term.coefficient != 0]
    return tuple(sorted(kept, key=lambda term: term.trust))


def _plain(coefficient: sp.Expr, vector: sp.Expr) -> Term:
    return Term(coefficient, vector, False)


def turned(term: Term) -> Term:
    """The opposite of a term: a difference is turned round, anything else gets the other sign."""
    parts = components(term.direction)
    if len(parts) == 1:
        return Term(-term.coefficient, term.direction, term.trust)
    return Term(term.coefficient, sp.Add(*(-c * u for u, c in parts.items())), term.trust)


def grouped(terms: Iterable[Term]) -> sp.Expr:
    """Σ coefficient · direction: what the reward weighs with its common factor in front, then the rest likewise."""
    terms = list(terms)
    rewarded = [term for term in terms if term.coefficient.free_symbols & _REWARD]
    rest = [term for term in terms if term not in rewarded]
    return combined(rewarded) + combined(rest)


def combined(terms: Iterable[Term]) -> sp.Expr:
    """Σ coefficient · direction, with the factor that all coefficients share in front."""
    terms = list(terms)
    common = _common([term.coefficient for term in terms])
    if len(terms) < 2 or common.is_number:
        return sp.Add(*(times(term.coefficient, term.direction) for term in terms))
    return times(common, sp.Add(*(times(term.coefficient / common, term.direction) for term in terms)))


def times(coefficient: sp.Expr, vector: sp.Expr) -> sp.Expr:
    """A product whose number SymPy must not distribute over a sum."""
    if coefficient == 1 or vector.is_Symbol or vector == 0:
        return coefficient * vector
    return sp.Mul(*sp.Mul.make_args(coefficient), vector, evaluate=False)


def _common(coefficients: list[sp.Expr]) -> sp.Expr:
    """The factors that all coefficients share, sign included if all have it."""
    if not coefficients:
        return sp.S.One
    split = [c.as_coeff_Mul() for c in coefficients]
    numbers = [n for n, _ in split]
    powers = [rest.as_powers_dict() for _, rest in split]
    out = sp.S.One
    for base in powers[0]:
        exponents = [p.get(base, sp.S.Zero) for p in powers]
        if all(e.is_positive for e in exponents):
            out *= base ** min(exponents)
        elif all(e.is_negative for e in exponents):
            out *= base ** max(exponents)
    if not all(n.is_Rational for n in numbers):
        return out
    number = sp.Rational(gcd(*(abs(int(n.p)) for n in numbers)), lcm(*(int(n.q) for n in numbers)))
    return out * (-number if all(n < 0 for n in numbers) else number)
