r"""Whether a scalar is 0 as a rational function of what it is made of: exact, in polynomials over the rationals.

The expression is read as it stands, and nothing is multiplied out in SymPy's own expressions: inner products are
bilinear, powers of roots are powers, m² = m for masks, and functions whose arguments are equal are one generator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import lcm
from typing import Any

import sympy as sp
from sympy.polys.rings import ring

from derivations.algebra.nodes import Dot, Each, Mask, MeanAbs, Norm2, VectorSymbol

__all__ = ["vanishes"]


@lru_cache(maxsize=1_000)
def vanishes(expr: sp.Expr) -> bool | None:
    """Whether a scalar without ``sg`` is 0: a proof of either, or ``None`` where this does not tell.

    Where it is made of symbols, inner products of vectors and roots of positive symbols, there is no relation between
    these.  Between functions there may be one, so that only what cancels is told of them.

    Raises:
        ZeroDivisionError: it holds a denominator that is 0.
    """
    if expr == 0:
        return True
    try:
        return _Field().vanishes(expr)
    except _UnreadableError:
        return None


class _UnreadableError(Exception):
    """What stands in it is more than a rational function."""


@dataclass(frozen=True)
class _Fraction:
    """numerator / Π baseᵉ: the bases are polynomials other than 0, kept apart and never factored or cancelled.

    So no greatest common divisor is ever taken, which costs most of the time in SymPy's own fraction field; what is
    written with the same denominators is brought over one of them.
    """

    numerator: Any
    denominator: Mapping[Any, int]

    def over(self, denominator: Mapping[Any, int]) -> Any:
        """The numerator over a multiple of the denominator."""
        out = self.numerator
        for base, power in denominator.items():
            missing = power - self.denominator.get(base, 0)
            if missing:
                out = out * base**missing
        return out


class _Field:
    """The rational functions of an expression's atoms."""

    def __init__(self) -> None:
        self.places: dict[sp.Expr, int] = {}  # each atom's generator
        self.roots: dict[sp.Expr, int] = {}  # the common denominator of the exponents with which a base stands
        self.twins: dict[sp.Expr, tuple[sp.Expr, int]] = {}  # functions that are another atom, or one divided by it
        self.seen: set[sp.Expr] = set()
        self.known: dict[sp.Expr, _Fraction] = {}
        self.ring: Any = None
        self.generators: tuple[Any, ...] = ()

    def vanishes(self, expr: sp.Expr) -> bool | None:
        self._find(expr)
        if not self.places:
            return None
        self.ring, self.generators = _ring(len(self.places))
        left = self._reduced(self._fraction(expr).numerator)
        if not left:
            return True
        return False if self._independent() else None

    def _independent(self) -> bool:
        """Whether no relation holds between the atoms.

        None does between symbols and inner products of vectors, and none between these and one exponential: that of a
        rational function other than 0 is transcendental over them.
        """
        others = [atom for atom in self.places if not _is_plain(atom)]
        if not all(isinstance(base, sp.Symbol) and base.is_positive for base in self.roots):
            return False
        if not others:
            return True
        return len(others) == 1 and isinstance(others[0], sp.exp) and vanishes(others[0].args[0]) is False

    # ------------------------------------------------------------------------------------------- what it is made of

    def _find(self, expr: sp.Expr) -> None:
        if expr in self.seen or expr.is_Rational:
            return
        if expr in (sp.nan, sp.zoo, sp.oo, -sp.oo):
            raise _UnreadableError
        self.seen.add(expr)
        if isinstance(expr, (sp.Add, sp.Mul)):
            for arg in expr.args:
                self._find(arg)
        elif isinstance(expr, sp.Pow) and expr.exp.is_Rational:
            base, exponent = expr.args
            self._find(base)
            if not exponent.is_Integer:
                self.roots[base] = lcm(self.roots.get(base, 1), int(exponent.q))
                if not isinstance(base, sp.Symbol):
                    self._add(base ** sp.Rational(1, self.roots[base]))
        elif isinstance(expr, (Dot, Norm2)):
            self._find_products(expr)
        elif isinstance(expr, sp.Function) and not isinstance(expr, MeanAbs):
            self._find_function(expr)
        else:
            self._add(expr)

    def _find_function(self, expr: sp.Expr) -> None:
        for other in self.places:
            if _same(expr, other):
                self.twins[expr] = other, 1
                return
            if isinstance(expr, sp.exp) and isinstance(other, sp.exp) and vanishes(expr.args[0] + other.args[0]):
                self.twins[expr] = other, -1
                return
        self._add(expr)

    def _add(self, atom: sp.Expr) -> None:
        self.places.setdefault(atom, len(self.places))

    def _find_products(self, node: sp.Expr) -> None:
        vectors: list[dict[sp.Expr, None]] = []
        for arg in node.args:
            vectors.append({})
            self._find_vectors(arg, vectors[-1])
        for u in vectors[0]:
            for w in vectors[-1]:
                self._add(Norm2(u) if u == w else Dot(u, w))

    def _find_vectors(self, expr: sp.Expr, found: dict[sp.Expr, None]) -> None:
        if isinstance(expr, (VectorSymbol, Each)):
            found[expr] = None
        elif isinstance(expr, sp.Add):
            for arg in expr.args:
                self._find_vectors(arg, found)
        elif isinstance(expr, sp.Mul):
            vector, scalars = _split(expr)
            self._find_vectors(vector, found)
            for scalar in scalars:
                self._find(scalar)
        else:
            raise _UnreadableError

    # ---------------------------------------------------------------------------------------------------- its numbers

    def _fraction(self, expr: sp.Expr) -> _Fraction:
        if expr not in self.known:
            self.known[expr] = self._made(expr)
        return self.known[expr]

    def _made(self, expr: sp.Expr) -> _Fraction:
        if expr.is_Rational:
            return _Fraction(self.ring(sp.QQ.from_sympy(expr)), {})
        if isinstance(expr, sp.Add):
            return self._sum([self._fraction(arg) for arg in expr.args])
        if isinstance(expr, sp.Mul):
            return self._product([self._fraction(arg) for arg in expr.args])
        if isinstance(expr, sp.Pow) and expr.exp.is_Rational:
            base, exponent = expr.args
            if exponent.is_Integer:
                return self._power(self._fraction(base), int(exponent))
            times = int(exponent * self.roots[base])
            if isinstance(base, sp.Symbol):
                return self._power(self._generator(base), times)
            whole, rest = divmod(times, self.roots[base])
            root = self._generator(base ** sp.Rational(1, self.roots[base]))
            return self._product([self._power(self._fraction(base), whole), self._power(root, rest)])
        if isinstance(expr, (Dot, Norm2)):
            return self._inner_product(expr)
        if expr in self.roots:  # a symbol, of which a root stands elsewhere
            return self._power(self._generator(expr), self.roots[expr])
        atom, power = self.twins.get(expr, (expr, 1))
        return self._power(self._generator(atom), power)

    def _generator(self, atom: sp.Expr) -> _Fraction:
        return _Fraction(self.generators[self.places[atom]], {})

    def _sum(self, parts: list[_Fraction]) -> _Fraction:
        common: dict[Any, int] = {}
        for part in parts:
            common.update({b: max(n, common.get(b, 0)) for b, n in part.denominator.items()})
        return _Fraction(sum((part.over(common) for part in parts), self.ring.zero), common)

    def _product(self, parts: list[_Fraction]) -> _Fraction:
        numerator, joint = self.ring.one, Counter[Any]()
        for part in parts:
            numerator = numerator * part.numerator
            joint.update(part.denominator)
        return _Fraction(numerator, joint)

    def _power(self, base: _Fraction, power: int) -> _Fraction:
        if power >= 0:
            return _Fraction(base.numerator**power, {b: n * power for b, n in base.denominator.items()})
        if not base.numerator:
            raise ZeroDivisionError("a denominator is 0")
        turned = _Fraction(self.ring.one, {}).over({b: -n * power for b, n in base.denominator.items()})
        return _Fraction(turned, {base.numerator: -power})

    def _inner_product(self, node: sp.Expr) -> _Fraction:
        a = self._coefficients(node.args[0])
        if isinstance(node, Norm2):
            two, terms = _Fraction(self.ring(2), {}), []
            for i, (u, x) in enumerate(a):
                terms.append(self._product([x, x, self._generator(Norm2(u))]))
                terms += [self._product([two, x, y, self._generator(Dot(u, w))]) for w, y in a[:i]]
            return self._sum(terms)
        b = self._coefficients(node.args[1])
        pairs = [(x, y, Norm2(u) if u == w else Dot(u, w)) for u, x in a for w, y in b]
        return self._sum([self._product([x, y, self._generator(product)]) for x, y, product in pairs])

    def _coefficients(self, vector: sp.Expr) -> list[tuple[sp.Expr, _Fraction]]:
        terms: dict[sp.Expr, list[_Fraction]] = {}
        self._collect(vector, [], terms)
        return [(u, self._sum(parts)) for u, parts in terms.items()]

    def _collect(self, expr: sp.Expr, factors: list[_Fraction], terms: dict[sp.Expr, list[_Fraction]]) -> None:
        if isinstance(expr, (VectorSymbol, Each)):
            terms.setdefault(expr, []).append(self._product(factors))
        elif isinstance(expr, sp.Add):
            for arg in expr.args:
                self._collect(arg, factors, terms)
        else:
            vector, scalars = _split(expr)
            self._collect(vector, [*factors, *map(self._fraction, scalars)], terms)

    # ------------------------------------------------------------------------------------------------------ relations

    def _reduced(self, numerator: Any) -> Any:
        """A numerator with no power of a mask, and none of a root that its base has; up to a factor."""
        masks = [place for atom, place in self.places.items() if isinstance(atom, Mask)]
        if masks and numerator:
            powers: dict[tuple[int, ...], Any] = {}
            for exponents, coefficient in numerator.terms():
                once = tuple(min(e, 1) if i in masks else e for i, e in enumerate(exponents))
                powers[once] = powers.get(once, 0) + coefficient
            numerator = self.ring.from_dict({e: c for e, c in powers.items() if c})
        for base, index in reversed(self.roots.items()):  # a root comes after those that its base holds
            if numerator and not isinstance(base, sp.Symbol):
                place = self.places[base ** sp.Rational(1, index)]
                numerator = self._without_powers(numerator, place, index, self._fraction(base))
        return numerator

    def _without_powers(self, numerator: Any, place: int, index: int, base: _Fraction) -> Any:
        blocks: dict[int, dict[tuple[int, ...], Any]] = {}
        for exponents, coefficient in numerator.terms():
            whole, rest = divmod(exponents[place], index)
            left = (*exponents[:place], rest, *exponents[place + 1 :])
            blocks.setdefault(whole, {})[left] = coefficient
        most = max(blocks)
        if most == 0:
            return numerator
        below = _Fraction(self.ring.one, {}).over(base.denominator)
        parts = (self.ring.from_dict(b) * base.numerator**n * below ** (most - n) for n, b in blocks.items())
        return sum(parts, self.ring.zero)


@lru_cache(maxsize=100)
def _ring(size: int) -> tuple[Any, tuple[Any, ...]]:
    domain, *generators = ring([f"x{i}" for i in range(size)], sp.QQ)
    return domain, tuple(generators)


def _is_plain(atom: sp.Expr) -> bool:
    """Whether it is a number of its own: a symbol, or an inner product of vectors that are symbols."""
    if isinstance(atom, (Dot, Norm2)):
        return all(isinstance(arg, VectorSymbol) for arg in atom.args)
    return isinstance(atom, sp.Symbol) and not isinstance(atom, VectorSymbol)


def _split(product: sp.Expr) -> tuple[sp.Expr, list[sp.Expr]]:
    """A vector's product with numbers: the vector, and the numbers."""
    if not isinstance(product, sp.Mul):
        raise _UnreadableError
    vectors = [x for x in product.args if _is_vector(x)]
    if len(vectors) != 1:
        raise _UnreadableError
    return vectors[0], [x for x in product.args if x is not vectors[0]]


def _is_vector(expr: sp.Expr) -> bool:
    if isinstance(expr, sp.Add):
        return _is_vector(expr.args[0])
    if isinstance(expr, sp.Mul):
        return any(map(_is_vector, expr.args))
    return isinstance(expr, (VectorSymbol, Each))


def _same(a: sp.Expr, b: sp.Expr) -> bool:
    """Whether two values of a function are equal because its arguments are."""
    if a.func is not b.func or len(a.args) != len(b.args):
        return False
    return all(x == y or vanishes(x - y) is True for x, y in zip(a.args, b.args, strict=True))
