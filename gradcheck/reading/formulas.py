r"""Numbers that many samples show, recognised as a monomial q·∏ xᵖ in the problem's scalars.

Exponents are multiples of 1/4, q the simplest number that every sample's error allows.  A fit holds for all samples
within their errors, or there is none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import sympy as sp

__all__ = ["EXACT", "Columns", "independent", "logarithms", "recognise", "simple_number"]

EXACT = 5e-8
"""Relative error of a value that is known in float64: far above rounding, far below what tells two formulas apart."""

Columns = dict[sp.Symbol, np.ndarray]
"""One column of numbers for each symbol."""

_Exponents = dict[sp.Symbol, Fraction]

_LARGEST_ERROR = 0.05
"""A value that may be off by more than this says nothing about exponents."""


def recognise(
    values: Sequence[float], numbers: Sequence[dict[sp.Symbol, float]], errors: Sequence[float] | None = None
) -> sp.Expr | None:
    """The simplest monomial in the scalars that equals every value, or ``None``.

    Scalars that did not vary are part of the number q; where scalars depend on one another, as k = C1/C2 do, the
    form with the fewest of them is taken.

    Args:
        values: one for each sample.
        numbers: the sample's scalars.
        errors: how far each value may be off; ``EXACT`` times the value by default.
    """
    y = np.array(values, dtype=float)
    if len(y) < 3 or np.any(y == 0) or not np.all(np.isfinite(y)):
        return None
    relative = np.full(len(y), EXACT) if errors is None else np.array(errors, dtype=float) / np.abs(y)
    known = relative < _LARGEST_ERROR
    if known.sum() < 3:
        return None
    y, relative = y[known], relative[known]
    kept = [x for x, good in zip(numbers, known, strict=True) if good]
    columns = {s: np.array([x.get(s, 0.0) for x in kept]) for s in kept[0]}
    logs = logarithms(columns)
    chosen, null = _basis(logs, len(y))
    exponents = _exponents(logs, chosen, np.log(np.abs(y)), relative)
    if exponents is None:
        return None
    exponents = _simplest(exponents, null, list(logs))
    rest = np.log(np.abs(y)) - sum((float(p) * logs[s] for s, p in exponents.items()), np.zeros(len(y)))
    low, high = float((rest - relative).max()), float((rest + relative).min())
    bases = _signed_bases(np.sign(y), exponents, columns)
    if low > high or bases is None:
        return None
    sign, factors = bases
    powers = (base ** sp.Rational(p.numerator, p.denominator) for base, p in factors)
    middle = math.exp(min(max(float(np.median(rest)), low), high))
    return sp.Mul(sp.Integer(int(sign)) * simple_number(math.exp(low), math.exp(high), middle), *powers)


def logarithms(columns: Columns) -> Columns:
    """Of the magnitudes of what varies and is never 0."""
    logs = {s: np.log(np.abs(x)) for s, x in columns.items() if np.all(x != 0) and np.all(np.isfinite(x))}
    return {s: x for s, x in logs.items() if np.ptp(x) > 1e-9}


def independent(logs: Columns, count: int) -> list[sp.Symbol]:
    """Scalars whose logarithms are independent."""
    return _basis(logs, count)[0]


def _basis(logs: Columns, count: int) -> tuple[list[sp.Symbol], list[_Exponents]]:
    """Scalars whose logarithms are independent, and how each of the others is a product of them."""
    chosen: list[sp.Symbol] = []
    null: list[_Exponents] = []
    for s, x in logs.items():
        design = np.stack([np.ones(count), *(logs[c] for c in chosen)], 1)
        if count <= design.shape[1] + 1:
            continue
        solution, *_ = np.linalg.lstsq(design, x, rcond=None)
        if np.abs(design @ solution - x).max() > 1e-7 * max(np.ptp(x), 1e-3):
            chosen.append(s)
            continue
        powers = {c: Fraction(round(4 * float(p)), 4) for c, p in zip(chosen, solution[1:], strict=True)}
        left = x - sum((float(p) * logs[c] for c, p in powers.items()), np.zeros(count))
        if np.ptp(left) < 1e-7:
            null.append({s: Fraction(-1), **{c: p for c, p in powers.items() if p}})
    return chosen, null


def _exponents(logs: Columns, chosen: list[sp.Symbol], y: np.ndarray, relative: np.ndarray) -> _Exponents | None:
    """Exponents, to the nearest quarter; whether they fit is seen afterwards."""
    weights = relative.min() / relative
    design = np.stack([np.ones(len(y)), *(logs[s] for s in chosen)], 1)
    solution, *_ = np.linalg.lstsq(design * weights[:, None], y * weights, rcond=None)
    powers = {s: Fraction(round(4 * float(p)), 4) for s, p in zip(chosen, solution[1:], strict=True)}
    if any(abs(p) > 6 for p in powers.values()):
        return None
    return {s: p for s, p in powers.items() if p}


def _simplest(exponents: _Exponents, null: list[_Exponents], order: list[sp.Symbol]) -> _Exponents:
    """The equal product with the fewest scalars and the smallest exponents."""

    def cost(e: _Exponents) -> tuple[int, Fraction, int]:
        return len(e), sum((abs(p) for p in e.values()), Fraction(0)), sum(order.index(s) for s in e)

    best = exponents
    multiples = [Fraction(i, 2) for i in range(-4, 5)]
    for weights in itertools.product(multiples, repeat=min(len(null), 3)):
        changed = dict(exponents)
        for weight, vector in zip(weights, null, strict=False):
            for s, p in vector.items():
                changed[s] = changed.get(s, Fraction(0)) + weight * p
        changed = {s: p for s, p in changed.items() if p}
        if cost(changed) < cost(best):
            best = changed
    return best


def _signed_bases(
    signs: np.ndarray, exponents: _Exponents, columns: Columns
) -> tuple[float, list[tuple[sp.Expr, Fraction]]] | None:
    """Whether a signed scalar enters with its sign or without, so that the signs come out; and the overall sign."""
    signed = [s for s in exponents if np.any(columns[s] < 0)]
    for absolute in itertools.product((False, True), repeat=len(signed)):
        without = {s for s, hidden in zip(signed, absolute, strict=True) if hidden}
        odd = [s for s in signed if s not in without and exponents[s].denominator == 1 and exponents[s].numerator % 2]
        if any(exponents[s].denominator != 1 for s in signed if s not in without):
            continue
        left = signs.copy()
        for s in odd:
            left = left * np.sign(columns[s])
        if np.all(left == left[0]):
            return float(left[0]), [(sp.Abs(s) if s in without else s, p) for s, p in exponents.items()]
    return None


_CONSTANTS: tuple[tuple[sp.Expr, int], ...] = (
    (sp.S.One, 1),
    (sp.pi, 8),
    (1 / sp.pi, 8),
    (sp.sqrt(2), 8),
    (sp.sqrt(sp.pi), 16),
    (1 / sp.sqrt(sp.pi), 16),
    (sp.sqrt(2 * sp.pi), 16),
    (1 / sp.sqrt(2 * sp.pi), 16),
)
"""What a number may be a fraction of, and how much less simple that makes it."""
_MOST = 20_000


def simple_number(low: float, high: float, middle: float) -> sp.Expr:
    """The simplest number between two positive ones: a fraction, or one of π or a root; else the middle as a decimal.

    A fraction p/q counts only if numbers as simple as it are so rare that the interval holds one by no accident.
    """
    width = (high - low) / middle
    best: tuple[float, sp.Expr] | None = None
    for constant, price in _CONSTANTS:
        c = float(constant)
        fraction = _simplest_fraction(low / c, high / c)
        cost = fraction.numerator * fraction.denominator * price
        if cost <= _MOST and cost * width < 0.02 and (best is None or cost < best[0]):
            best = cost, constant * sp.Rational(fraction.numerator, fraction.denominator)
    if best is not None:
        return best[1]
    return sp.Float(middle, max(3, min(15, 2 + int(-math.log10(max(width, 1e-15))))))


def _simplest_fraction(low: float, high: float) -> Fraction:
    """The fraction with the smallest denominator between two positive numbers (by the Stern–Brocot tree)."""
    digits = list(_continued(Fraction(low), Fraction(max(high, low))))
    value = Fraction(digits[-1])
    for d in reversed(digits[:-1]):
        value = d + 1 / value
    return value


def _continued(low: Fraction, high: Fraction) -> Iterator[int]:
    """Its continued fraction."""
    while True:
        whole = -(-low.numerator // low.denominator)  # rounded up
        if whole <= high:
            yield whole
            return
        yield whole - 1
        low, high = 1 / (high - (whole - 1)), 1 / (low - (whole - 1))
