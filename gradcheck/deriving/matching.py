"""Which entries of the catalogue have a derived gradient: found on random numbers, and then proved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sympy as sp

from derivations.calculus import ClipMask
from derivations.claims import Equal
from derivations.derivation import Derivation, Step, inline
from derivations.grammar.kinks import is_kink
from derivations.notation import D, clip_high, clip_low, rows
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.rounding.compare import Comparison
from gradcheck.verifying.steps import check_step

__all__ = ["Match", "matches"]

_FACTORS = (sp.S.One, sp.S.NegativeOne, sp.Integer(2), sp.Rational(1, 2), D, 1 / D, sp.Integer(-2), -1 / D)
_SIZE = 12
"""D in :func:`gradcheck.verifying.steps.check_step`, by which a factor is guessed."""


@dataclass(frozen=True)
class Match:
    """An entry whose gradient this is, times a constant.

    Attributes:
        label: the entry.
        factor: this gradient over the entry's.
        step: the entry's formulas for symbols that the text left open, C1 and C2 for instance; empty if none.
        clip: the clip range, lower and upper, for which this is so; empty where it is left open.
        same_target: whether weight and target are the entry's too.
    """

    label: str
    factor: sp.Expr
    step: tuple[str, ...]
    clip: tuple[sp.Expr, ...]
    same_target: bool


def matches(derivation: Derivation) -> tuple[Match, ...]:
    """Every entry whose gradient is this one; if there is none, those of which it is a simple multiple."""
    pairs = [pair for e in CATALOGUE if e.derivation.process == derivation.process for pair in _pairs(derivation, e)]
    exact: dict[str, Match] = {}
    multiples = []
    for pair in pairs:
        if pair.entry.label in exact:
            continue
        seen = _seen(Equal(pair.left, pair.right), 0)
        if seen is not None and seen.holds:
            match = _match(derivation, pair, sp.S.One)
            exact |= {match.label: match} if match else {}
        elif seen is not None and seen.required != 0 and seen.observed != 0:
            guess = seen.observed / seen.required
            multiples += [(pair, f) for f in _FACTORS if abs(float(f.subs(D, _SIZE)) / guess - 1) < 1e-6]
    if exact:
        return tuple(exact.values())
    found = {m.label: m for pair, factor in multiples if (m := _match(derivation, pair, factor)) is not None}
    return tuple(found.values())


@dataclass(frozen=True)
class _Pair:
    """Two gradients in terms of what is given; ``deep`` with the coefficients' formulas put in."""

    entry: Entry
    left: sp.Expr
    right: sp.Expr
    deep: bool


def _pairs(own: Derivation, entry: Entry) -> Iterator[_Pair]:
    other, clip = entry.derivation, _clip(own)
    left, right = (e.xreplace(clip) for e in (_opened(own, own.gradient, False), _opened(other, other.gradient, False)))
    if _may_cancel(left, right):
        yield _Pair(entry, left, right, False)
        if other.coefficients and not left.free_symbols & set(other.coefficients) - set(own.coefficients):
            deep = (_opened(own, own.gradient, True), _opened(other, other.gradient, True).xreplace(clip))
            yield _Pair(entry, *deep, True)


def _clip(own: Derivation) -> dict[sp.Symbol, sp.Expr]:
    """The clip range, where the text has numbers for it and the catalogue symbols."""
    ranges = {mask.args[2:] for mask in own.gradient.atoms(ClipMask) if not is_kink(mask)}
    if len(ranges) != 1:
        return {}
    (bounds,) = ranges
    return {s: e for s, e in zip((clip_low, clip_high), bounds, strict=True) if s != e}


def _match(own: Derivation, pair: _Pair, factor: sp.Expr) -> Match | None:
    other, deep = pair.entry.derivation, pair.deep
    clip = _clip(own)
    claim = Equal(pair.left, factor * pair.right)
    if not (_agrees(claim) and (deep or _same_formulas(own, other, pair.left.free_symbols))):
        return None
    same = factor == 1 and all(
        _agrees(Equal(_opened(own, a, deep), _opened(other, b, deep).xreplace(clip)))
        for a, b in ((own.weight, other.weight), (own.target, other.target))
    )
    open_symbols = set() if deep else pair.left.free_symbols - set(own.coefficients)
    step = tuple(q.name for q in rows() if q.symbol in open_symbols & set(other.coefficients))
    if claim.residual(lambda e: e) != 0:
        return None  # equal on some numbers alone, or nothing that can be proved
    return Match(pair.entry.label, factor, step, tuple(clip.values()), same)


def _may_cancel(left: sp.Expr, right: sp.Expr) -> bool:
    """Symbols on one side alone may cancel there; but not those of a quantity that no other formula holds."""
    return not {s for s in left.free_symbols ^ right.free_symbols if s.name in ("kl_weight", "v_ref")}


def _opened(derivation: Derivation, expr: sp.Expr, deep: bool) -> sp.Expr:
    """In terms of what is given; ``deep`` puts the coefficients' formulas in too."""
    formulas = {**derivation.definitions, **(derivation.coefficients if deep else {})}
    return inline(expr, formulas)


def _same_formulas(own: Derivation, other: Derivation, used: set[sp.Symbol]) -> bool:
    """Whether coefficients that both have stand for the same."""
    shared = [s for s in own.coefficients if s in other.coefficients and s in used]
    return all(_agrees(Equal(_opened(own, s, True), _opened(other, s, True))) for s in shared)


def _agrees(claim: Equal) -> bool:
    """On random numbers, twice."""
    results = [_seen(claim, seed) for seed in (0, 1)]
    return all(r is not None and r.holds and r.judged > 0.5 for r in results)


def _seen(claim: Equal, seed: int) -> Comparison | None:
    try:
        return check_step(Step("same", "", claim), {}, seed)
    except (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
