r"""Expectations over Gaussian noise, for every dimension D: three rules, and the claim that two such sides are equal.

``Mean(f, z)`` is the mean of f over z ~ N(0, I).  :func:`averaged` carries it out where f is made of exponentials of
linear functions of z, of polynomials in :math:`\langle a,z\rangle` and :math:`\|z\|^2`, and of z itself:

*shift*
    :math:`\mathbb{E}[e^{\langle b,z\rangle} f(z)] = e^{\|b\|^2/2}\,\mathbb{E}[f(z+b)]`, by completing the square;
*Wick*
    :math:`\mathbb{E}[\langle a,z\rangle f(z)] = \mathbb{E}[\langle a,\nabla f(z)\rangle]` for a polynomial f, which
    lowers the degree by 2 each time, down to :math:`\mathbb{E}[\|z\|^{2m}] = D(D+2)\cdots(D+2m-2)`;
*line*
    :math:`\langle b,z\rangle \sim N(0, \|b\|^2)`, so for b ≠ 0 the probability that :math:`c+\langle b,z\rangle<0` is
    :math:`\Phi(-c/\|b\|)`.

All are exact and finite.  Anything else is refused with a :class:`~derivations.algebra.nodes.CalculusError`, and
never guessed.  Every symbol but z counts as independent of z: inline a definition first, as proofs do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import sympy as sp

from derivations import calculus
from derivations.algebra.nodes import Below, CalculusError, Mean, NormalCDF
from derivations.algebra.signs import is_positive
from derivations.calculus import Dot, Norm2, VectorSymbol
from derivations.claims import Equal, Inline
from derivations.derivation import Theorem
from derivations.notation import D
from derivations.proof.domains import corners
from derivations.proof.premises import RefusedError, narrowed, suitable, words

__all__ = ["ExpectationIs", "GaussianTheorem", "averaged"]


@dataclass(frozen=True)
class ExpectationIs(Equal):
    """``lhs = rhs`` in value, for every D, where either side may hold means over Gaussian noise."""

    def residual(self, inline: Inline) -> sp.Expr:
        try:
            return self._residual(inline)
        except (RefusedError, ZeroDivisionError, CalculusError) as error:
            return words(error)

    def _residual(self, inline: Inline) -> sp.Expr:
        where = {key: inline(value) for key, value in self.where.items()}
        suitable((self.lhs, self.rhs, *self.where.values()), inline)
        within = narrowed(inline)
        left, right = (averaged(inline(side).xreplace(where), within).xreplace(where) for side in (self.lhs, self.rhs))
        return Equal(*_one_cdf(left, right), self.where, self.given).residual(inline)


@dataclass(frozen=True)
class GaussianTheorem(Theorem):
    """A theorem about what a loss does on average.

    Attributes:
        assumes: what the steps rest on and do not prove, each a sentence.
        advice: what to do with it, one plain sentence.
    """

    assumes: tuple[str, ...] = ()
    advice: str = field(default="")


def averaged(expr: sp.Expr, within: Mapping[sp.Symbol, sp.Interval] | None = None) -> sp.Expr:
    """Carry out every :class:`~derivations.algebra.nodes.Mean` in an expression, the innermost first.

    Args:
        expr: a scalar or a vector, definitions put in.
        within: domains that are narrower than the notation table's.

    Raises:
        CalculusError: a mean that the rules do not reach.
    """
    expr = calculus.drop_sg(sp.sympify(expr))
    if not expr.has(Mean):
        return expr
    if isinstance(expr, Mean):
        return _mean(averaged(expr.args[0], within), expr.args[1], within or {})
    return expr.func(*(averaged(arg, within) for arg in expr.args))


_Within = Mapping[sp.Symbol, sp.Interval]


def _mean(f: sp.Expr, over: sp.Expr, within: _Within) -> sp.Expr:
    if not over.is_Symbol or over.is_nonnegative or over.is_nonpositive or over.is_integer:
        # among them a definition's formula, which has come in the symbol's place
        raise CalculusError(f"a mean is taken over {over}, which is not a Gaussian of its own")
    if not isinstance(over, VectorSymbol):
        # a scalar n ~ N(0, 1) is the component of a vector along a unit vector
        unit, z = VectorSymbol("_unit"), VectorSymbol("_z")
        return _mean(f.xreplace({over: Dot(unit, z)}), z, within).xreplace({Norm2(unit): sp.S.One})
    if calculus.kind(f) == "scalar":
        return _mean_of_scalar(f, over, within)
    out = sp.S.Zero
    for vector, coefficient in calculus.components(f).items():
        if vector == over:
            out += sp.Add(*(part for term in _terms(coefficient, over) for part in _with_vector(term)))
        else:
            out += _mean_of_scalar(coefficient, over, within) * vector
    return out


def _mean_of_scalar(f: sp.Expr, over: VectorSymbol, within: _Within) -> sp.Expr:
    if not f.has(Below):
        return sp.Add(*(_without_vector(term) for term in _terms(f, over)))
    events = {event: sp.Dummy(f"event{i}") for i, event in enumerate(f.atoms(Below))}
    found = {dummy: event for event, dummy in events.items()}
    out = []
    for term in sp.Add.make_args(sp.expand_mul(f.xreplace(events), deep=False)):
        factors = [x for x in sp.Mul.make_args(term) if x in found]
        rest = term / sp.Mul(*factors)
        if len(factors) > 1 or rest.has(*found) or (factors and rest.has(over)):
            raise CalculusError(f"the rules know the probability of one event, not the mean of {term.xreplace(found)}")
        chance = _probability(found[factors[0]], over, within) if factors else _mean_of_scalar(term, over, within)
        out.append(rest * chance if factors else chance)
    return sp.Add(*out)


def _probability(event: Below, over: VectorSymbol, within: _Within) -> sp.Expr:
    """Rule *line*, of an event between affine functions of the noise or their exponentials."""
    less, more = event.args
    if any(isinstance(side, sp.exp) and side.has(over) for side in event.args):
        less, more = (_logarithm(side, within) for side in event.args)  # the exponential is strictly increasing
    constant, slope = _affine(less - more, over)
    if not slope:
        raise CalculusError(f"{event} does not depend on {over}")
    square = calculus.expand(Norm2(sp.Add(*(c * u for u, c in slope.items()))))
    return NormalCDF(-constant / sp.sqrt(square))


def _logarithm(side: sp.Expr, within: _Within) -> sp.Expr:
    if isinstance(side, sp.exp):
        return side.args[0]
    if not all(is_positive(corner) for corner in corners(side, within)):
        raise CalculusError(f"an exponential is compared with {side}, whose sign is not known to be positive")
    return sp.expand_log(sp.log(sp.factor(side)))


def _affine(expr: sp.Expr, over: VectorSymbol) -> tuple[sp.Expr, dict[VectorSymbol, sp.Expr]]:
    """constant + Σ cᵤ⟨u, z⟩."""
    constant: sp.Expr = sp.S.Zero
    slope: dict[VectorSymbol, sp.Expr] = {}
    for term in _terms(expr, over):
        if term.exponent or term.squares or len(term.dots) > 1:
            raise CalculusError(
                f"{expr} is not affine in {over}: the rules reach exponentials and events of those only"
            )
        if term.dots:
            slope[term.dots[0]] = slope.get(term.dots[0], sp.S.Zero) + term.coefficient
        else:
            constant += term.coefficient
    return constant, {u: c for u, c in slope.items() if not calculus.is_zero(c)}


# A function of the noise as a sum of coefficient · exp⟨b, z⟩ · Π⟨u, z⟩ · ‖z‖^(2m)

_Exponent = tuple[tuple[VectorSymbol, sp.Expr], ...]


@dataclass(frozen=True)
class _Term:
    coefficient: sp.Expr
    exponent: _Exponent = ()
    dots: tuple[VectorSymbol, ...] = ()
    squares: int = 0

    def times(self, other: _Term) -> _Term:
        joint: dict[VectorSymbol, sp.Expr] = dict(self.exponent)
        for u, c in other.exponent:
            joint[u] = sp.expand(joint.get(u, sp.S.Zero) + c)
        return _Term(
            self.coefficient * other.coefficient,
            _ordered(joint),
            tuple(sorted(self.dots + other.dots, key=str)),
            self.squares + other.squares,
        )


def _ordered(exponent: Mapping[VectorSymbol, sp.Expr]) -> _Exponent:
    return tuple(sorted(((u, c) for u, c in exponent.items() if c != 0), key=lambda pair: str(pair[0])))


def _gathered(terms: Iterable[_Term]) -> list[_Term]:
    """Terms that differ in their coefficients alone become one."""
    sums: dict[tuple[_Exponent, tuple[VectorSymbol, ...], int], list[sp.Expr]] = {}
    for term in terms:
        sums.setdefault((term.exponent, term.dots, term.squares), []).append(term.coefficient)
    return [_Term(sp.Add(*coefficients), *rest) for rest, coefficients in sums.items()]


def _terms(f: sp.Expr, z: VectorSymbol) -> list[_Term]:
    return _expanded(calculus.expand(f), z)


def _expanded(f: sp.Expr, z: VectorSymbol) -> list[_Term]:
    if not f.has(z):
        return [_Term(f)]
    if f == Norm2(z):
        return [_Term(sp.S.One, squares=1)]
    if isinstance(f, Dot):
        (other,) = (u for u in f.args if u != z)
        return [_Term(sp.S.One, dots=(other,))]
    if isinstance(f, sp.Add):
        return _gathered(term for arg in f.args for term in _expanded(arg, z))
    if isinstance(f, sp.Mul):
        return _product([_expanded(arg, z) for arg in f.args])
    if isinstance(f, sp.Pow) and f.exp.is_Integer and f.exp > 0:
        return _product([_expanded(f.base, z)] * int(f.exp))
    if isinstance(f, sp.exp):
        constant, slope = _affine(f.args[0], z)
        return [_Term(sp.exp(constant), _ordered({u: sp.expand(c) for u, c in slope.items()}))]
    raise CalculusError(
        f"the rules do not reach {f}: polynomials in z, exponentials of linear functions of z, z itself"
    )


def _product(factors: list[list[_Term]]) -> list[_Term]:
    out = [_Term(sp.S.One)]
    for factor in factors:
        out = _gathered(a.times(b) for a in out for b in factor)
    return out


def _shifted(term: _Term) -> list[_Term]:
    """Rule *shift*: the same mean without the exponential, z having become z + b."""
    if not term.exponent:
        return [term]
    b = dict(term.exponent)
    vector = sp.Add(*(c * u for u, c in b.items()))
    square = calculus.expand(Norm2(vector))
    along = [_Term(c, dots=(u,)) for u, c in b.items()]
    factors = [[_Term(sp.S.One, dots=(u,)), _Term(calculus.expand(Dot(u, vector)))] for u in term.dots]
    moved = [_Term(sp.S.One, squares=1), _Term(square), *(_Term(2 * t.coefficient, dots=t.dots) for t in along)]
    factors += [moved] * term.squares
    return _product([[_Term(term.coefficient * sp.exp(square / 2))], *factors])


def _without_vector(term: _Term) -> sp.Expr:
    return sp.Add(*(t.coefficient * _moment(t.dots, t.squares) for t in _shifted(term)))


def _with_vector(term: _Term) -> Iterable[sp.Expr]:
    """The mean of a term times z, a vector: after the shift, of z + b."""
    b = sp.Add(*(c * u for u, c in term.exponent))
    for t in _shifted(term):
        yield t.coefficient * _vector_moment(t.dots, t.squares)
        if b != 0:
            yield t.coefficient * _moment(t.dots, t.squares) * b


@lru_cache(maxsize=500)
def _moment(dots: tuple[VectorSymbol, ...], squares: int) -> sp.Expr:
    """Rule *Wick*: E[Π⟨u, z⟩ ‖z‖^(2m)]."""
    if len(dots) % 2:
        return sp.S.Zero
    if not dots:
        return sp.Mul(*(D + 2 * j for j in range(squares)))
    first, rest = dots[0], dots[1:]
    out = sp.S.Zero
    for u, count in Counter(rest).items():
        remaining = list(rest)
        remaining.remove(u)
        pair = Norm2(first) if u == first else Dot(first, u)
        out += count * pair * _moment(tuple(remaining), squares)
    if squares:
        out += 2 * squares * _moment(dots, squares - 1)
    return sp.expand(out)


@lru_cache(maxsize=500)
def _vector_moment(dots: tuple[VectorSymbol, ...], squares: int) -> sp.Expr:
    """Rule *Wick* for a vector: E[z Π⟨u, z⟩ ‖z‖^(2m)]."""
    out = sp.S.Zero
    for u, count in Counter(dots).items():
        remaining = list(dots)
        remaining.remove(u)
        out += count * _moment(tuple(remaining), squares) * u
    if squares:
        out += 2 * squares * _vector_moment(dots, squares - 1)
    return out


def _one_cdf(left: sp.Expr, right: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Make values of Φ whose arguments are equal, though written differently, one."""
    kept: list[sp.Expr] = []
    same: dict[sp.Expr, sp.Expr] = {}
    for node in sorted(left.atoms(NormalCDF) | right.atoms(NormalCDF), key=sp.default_sort_key):
        twin = next((other for other in kept if calculus.is_zero(node.args[0] - other.args[0])), None)
        same[node] = node if twin is None else twin
        kept += [node] if twin is None else []
    # a value of Φ is a number like any other to the zero test
    names = {node: sp.Dummy(f"Phi{i}", real=True) for i, node in enumerate(kept)}
    known = {node: names[twin] for node, twin in same.items()}
    return left.xreplace(known), right.xreplace(known)
