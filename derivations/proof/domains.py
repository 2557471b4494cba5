r"""What the notation table says of a symbol's values: proofs may use it, and no substitution may leave it.

:func:`fits` proves that a formula stays where its symbol lives.  :func:`corners` writes an expression for every point
of the table's domain: in symbols that are any positive number, and once more at each end that belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from itertools import combinations, product

import sympy as sp

from derivations.algebra.nodes import CalculusError, Dot, Norm2
from derivations.algebra.signs import is_nonnegative, without_exponents
from derivations.calculus import VectorSymbol, kind
from derivations.notation import NOTATION, alpha_bar, alpha_bar_prev, dt, t, t_prev

__all__ = ["corners", "covers", "domain_of", "fits", "realisable"]

Domains = Mapping[sp.Symbol, sp.Interval]

_RELATED = {
    t_prev: sp.Interval.Ropen(0, t),
    dt: sp.Interval.open(0, t),
    alpha_bar: sp.Interval.open(0, alpha_bar_prev),
}
"""Quantities that another one bounds: a step ends at 0 or later, before it began, and its signal grows."""


@cache
def _table() -> dict[sp.Symbol, sp.Set]:
    return {q.symbol: q.domain for q in NOTATION if q.axes != "latent"}


def domain_of(symbol: sp.Symbol, within: Domains | None = None) -> sp.Set:
    """The values that a scalar symbol may have: of the table, or what its assumptions say."""
    if within and symbol in within:
        return within[symbol]
    if symbol in _table():
        return _table()[symbol]
    if symbol.is_integer and symbol.is_positive:
        return sp.S.Naturals
    if symbol.is_positive:
        return sp.Interval.open(0, sp.oo)
    return sp.Interval(0, sp.oo) if symbol.is_nonnegative else sp.S.Reals


def fits(symbol: sp.Symbol, value: sp.Expr, given: Iterable[sp.Expr] = (), within: Domains | None = None) -> str:
    """Why a value may leave its symbol's domain, an open one's ends included; empty if it is proved not to."""
    return _fits(symbol, sp.sympify(value), tuple(given), tuple(sorted((within or {}).items(), key=str)))


@lru_cache(maxsize=500)
def _fits(
    symbol: sp.Symbol, value: sp.Expr, given: tuple[sp.Expr, ...], within: tuple[tuple[sp.Symbol, sp.Interval], ...]
) -> str:
    if value.has(sp.nan, sp.zoo, sp.I):
        return f"{value} is not a real number"
    if isinstance(symbol, VectorSymbol) and symbol.is_nonnegative:
        kept = isinstance(value, VectorSymbol) and value.is_nonnegative
        return "" if kept else f"{symbol} is a vector of numbers in [0, 1] that are not all 0, and {value} may be none"
    if isinstance(symbol, VectorSymbol):
        return "" if value == 0 or kind(value) == "vector" else f"{symbol} is a vector, and {value} is none"
    try:
        if kind(value) != "scalar":
            return f"{symbol} is a scalar, and {value} is a vector"
    except CalculusError as error:
        return str(error)
    domain = domain_of(symbol, dict(within))
    value = without_exponents(value)
    if domain == sp.S.Naturals:
        return "" if value.is_integer and value.is_positive else f"{symbol} is a count, which {value} may not be"
    low, high = domain.inf, domain.sup
    for bound, above in ((low, value - low), (high, high - value)):
        if bound.is_infinite or any(sp.expand(above - g) == 0 for g in given):
            continue
        if not all(is_nonnegative(x) for x in corners(above, dict(within))):
            side = "below" if bound == low else "above"
            return f"{symbol} lies in {domain}, and {value} is not known to; it may be {side} {bound}"
    return ""


def corners(expr: sp.Expr, within: Domains | None = None) -> Iterator[sp.Expr]:
    """The expression at every point of the domain of what it holds: inside, and at each closed end.

    A step ends before it began, and ᾱ grows on it, unless ``within`` says otherwise.
    """
    ranges = {}
    pending = set(expr.free_symbols)
    while pending:
        symbol = pending.pop()
        domain = _range(symbol, within)
        if symbol not in ranges and domain is not None:
            ranges[symbol] = domain
            pending |= domain.free_symbols
    # what another one bounds comes first, so that its bound is put in after it
    order = sorted(ranges, key=lambda s: (not ranges[s].free_symbols, s.name))
    for places in product(*(_places(s, ranges[s]) for s in order)):
        out = expr
        for symbol, place in zip(order, places, strict=True):
            out = out.xreplace({symbol: place})
        yield out


def _range(symbol: sp.Symbol, within: Domains | None) -> sp.Interval | None:
    """The domain of a symbol, if it says more than the symbol's own assumptions."""
    if isinstance(symbol, VectorSymbol) or symbol.is_integer:
        return None
    if within and symbol in within:
        return within[symbol]
    domain = _RELATED.get(symbol, domain_of(symbol))
    return None if domain.sup.is_infinite else domain


def _places(symbol: sp.Symbol, domain: sp.Interval) -> list[sp.Expr]:
    low, high = domain.start, domain.end
    inside = (
        low + (high - low) / (1 + _parameter(symbol.name)) if not high.is_infinite else low + _parameter(symbol.name)
    )
    return [inside] + ([] if domain.left_open else [low]) + ([] if domain.right_open else [high])


@cache
def _parameter(name: str) -> sp.Symbol:
    return sp.Dummy(f"p_{name}", positive=True)


def covers(symbol: sp.Symbol, value: sp.Expr, others: Iterable[sp.Expr], within: Domains | None = None) -> str:
    """Why a parametrisation of a symbol may leave a part of its domain's inside out; empty if it reaches all of it.

    It is to be low + (high − low)/(1 + p), or low + p where there is no upper bound, with any positive number p.
    """
    domain = domain_of(symbol, within)
    low, high = domain.inf, domain.sup
    elsewhere = set().union(*(e.free_symbols for e in others)) if others else set()
    for p in sorted(value.free_symbols, key=str):
        if isinstance(p, VectorSymbol) or not p.is_positive or p.is_integer or p in elsewhere:
            continue
        form = low + p if high.is_infinite else low + (high - low) / (1 + p)
        if not low.is_infinite and sp.cancel(value - form) == 0:
            return ""
    return f"{symbol} = {value} does not reach all of {domain}, with one positive number that stands nowhere else"


def realisable(where: Mapping[sp.Expr, sp.Expr]) -> str:
    """Why no vectors may have these inner products; empty if some are proved to."""
    norms = {key.args[0]: value for key, value in where.items() if isinstance(key, Norm2)}
    for vector, value in norms.items():
        if not all(is_nonnegative(x) for x in corners(value)):
            return f"‖{vector}‖² is not negative, and {value} may be"
    for key, value in where.items():
        if isinstance(key, Dot) and all(arg in norms for arg in key.args):
            a, b = (norms[arg] for arg in key.args)
            if not all(is_nonnegative(x) for x in corners(a * b - value**2)):
                return f"⟨{key.args[0]}, {key.args[1]}⟩² is at most the product of the squared norms"
        elif isinstance(key, Dot) and value != 0 and any(norms.get(arg) == 0 for arg in key.args):
            return f"⟨{key.args[0]}, {key.args[1]}⟩ is 0, as one of the vectors is, and not {value}"
    return _wrong_gram_matrix(where)


def _wrong_gram_matrix(where: Mapping[sp.Expr, sp.Expr]) -> str:
    """Why three or more vectors may not have these inner products; empty if some are proved to.

    A vector with one inner product at most restricts none of the others, so that such ones are left out in turn.  The
    rest must have all their inner products given, and a Gram matrix whose principal minors are not negative.
    """
    pairs = {frozenset(key.args) for key in where if isinstance(key, Dot)}
    core = set().union(*pairs) if pairs else set()
    while loose := {u for u in core if sum(u in pair and pair <= core for pair in pairs) <= 1}:
        core -= loose
    vectors = sorted(core, key=str)
    told = {frozenset(key.args): value for key, value in where.items() if isinstance(key, (Dot, Norm2))}
    wanted = [frozenset((u, w)) for u in vectors for w in vectors]
    if not all(pair in told for pair in wanted):
        return f"the inner products of {', '.join(map(str, vectors))} are given in part, and may contradict each other"
    for size in range(3, len(vectors) + 1):
        for some in combinations(vectors, size):
            minor = sp.Matrix(size, size, lambda i, j, some=some: told[frozenset((some[i], some[j]))]).det()
            if not all(is_nonnegative(x) for x in corners(sp.expand(minor))):
                return f"the Gram matrix of {', '.join(map(str, some))} may have a negative determinant"
    return ""
