r"""X-ray: a gradient decomposed on the field's own directions, and its coefficients recognised as formulas.

For every sample the gradient is solved for coefficients on ε, v_θ − v_old, v_θ − v_gt, v_θ − v_ref, x_t and v_θ,
those that the algorithm has.  A coefficient is then sought as a monomial q·∏ xᵖ in the problem's scalars, with
exponents that are multiples of 1/4.  The data are free of noise, so that a fit is exact or there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.derivation import Derivation
from derivations.render import text as _render
from gradcheck.case import Case

__all__ = ["Direction", "Sample", "decompose", "directions", "formula_text", "recognise", "scalars"]

DIRECTIONS: tuple[tuple[str, sp.Expr], ...] = (
    ("ε", n.noise),
    ("v_θ − v_old", n.v_theta - n.v_old),
    ("v_θ − v_gt", n.v_theta - n.v_gt),
    ("v_θ − v_ref", n.v_theta - n.v_ref),
    ("x_t", n.x_t),
    ("v_θ", n.v_theta),
)
B = sp.Symbol("B", positive=True)
_SCALARS = (
    n.advantage,
    n.ratio,
    n.reward_prob,
    n.k,
    n.C1,
    n.C2,
    n.sigma_t,
    n.dt,
    n.omega,
    n.t,
    n.beta,
    n.kl_weight,
    n.temperature,
    n.D,
    B,
)
_EXACT = 1e-7
_HUGE = 1e100
"""A gradient beyond this says that something overflowed, and nothing about formulas."""


@dataclass(frozen=True)
class Sample:
    """One sample's gradient on the directions.

    Attributes:
        coefficients: by direction.
        residual: norm of what the directions leave over, relative to the gradient's norm.
        scalars: the problem's scalars for this sample, by symbol.
    """

    coefficients: dict[str, float]
    residual: float
    scalars: dict[sp.Symbol, float]


@dataclass(frozen=True)
class Direction:
    """A direction's coefficient over many samples, and its formula if it was recognised."""

    name: str
    values: tuple[float, ...]
    formula: sp.Expr | None

    @property
    def text(self) -> str:
        if self.formula is not None:
            return formula_text(self.formula)
        return "not a monomial, for example " + ", ".join(f"{v:.4g}" for v in self.values[:3])


def formula_text(formula: sp.Expr) -> str:
    """A recognised formula in plain text."""
    if formula.is_Float:
        return f"{float(formula):.4g}"
    return _render(formula.xreplace({x: sp.Symbol(f"{float(x):.4g}", positive=True) for x in formula.atoms(sp.Float)}))


def scalars(case: Case) -> dict[sp.Symbol, Tensor]:
    """The problem's scalars, one value for each sample."""
    v = case.v_theta
    batch = v.shape[0]
    out: dict[sp.Symbol, Tensor] = {}
    for symbol in _SCALARS:
        if symbol == B or symbol == n.D:
            size = batch if symbol == B else v[0].numel()
            out[symbol] = torch.full((batch,), float(size), dtype=torch.float64)
        elif symbol.name in case.names:
            value = getattr(case, symbol.name)
            single = not isinstance(value, Tensor)
            number = torch.full((batch,), float(value), dtype=torch.float64) if single else value
            out[symbol] = number.detach().to("cpu", torch.float64)
    return out


def decompose(
    case: Case,
    gradient: Tensor,
    basis: Sequence[tuple[str, sp.Expr]] = DIRECTIONS,
    numbers: dict[sp.Symbol, Tensor] | None = None,
) -> list[Sample]:
    """Every sample's gradient on the directions that the case has; samples without gradient are left out.

    ``numbers`` are the scalars that go with each sample, :func:`scalars` by default.
    """
    values = case.broadcast(torch.float64)
    found = [
        (name, _evaluate(expr, values)) for name, expr in basis if all(s.name in values for s in expr.free_symbols)
    ]
    numbers = scalars(case) if numbers is None else numbers
    out = []
    for i in range(gradient.shape[0]):
        g = gradient[i].detach().to(torch.float64).cpu().flatten().numpy()
        if not np.isfinite(g).all() or not 1 / _HUGE < np.abs(g).max() < _HUGE:
            continue
        size = float(np.linalg.norm(g))
        matrix, names = _independent([(name, x[i].cpu().flatten().numpy()) for name, x in found])
        solution, *_ = np.linalg.lstsq(matrix, g, rcond=None)
        residual = float(np.linalg.norm(matrix @ solution - g)) / size
        significant = np.abs(solution) * np.linalg.norm(matrix, axis=0) > 1e-9 * size
        coefficients = {name: float(c) if ok else 0.0 for name, c, ok in zip(names, solution, significant, strict=True)}
        out.append(Sample(coefficients, residual, {s: float(x[i]) for s, x in numbers.items()}))
    return out


def _evaluate(expr: sp.Expr, values: dict[str, Tensor]) -> Tensor:
    total: Tensor | None = None
    for symbol, coefficient in expr.as_coefficients_dict().items():
        term = float(coefficient) * values[symbol.name].detach()
        total = term if total is None else total + term
    assert total is not None
    return total


def _independent(directions: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, list[str]]:
    """Leave out a direction that is (nearly) zero or lies in the span of those before it."""
    kept: list[tuple[str, np.ndarray]] = []
    for name, x in directions:
        basis = np.stack([y for _, y in kept], 1) if kept else np.zeros((len(x), 0))
        rest = x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0] if kept else x
        if float(np.linalg.norm(rest)) > 1e-6 * max(float(np.linalg.norm(x)), 1e-300) and len(kept) < len(x):
            kept.append((name, x))
    return np.stack([y for _, y in kept], 1), [name for name, _ in kept]


def directions(samples: Sequence[Sample]) -> list[Direction]:
    """Each direction that occurs, with its coefficient's formula where there is one."""
    names = list(dict.fromkeys(name for s in samples for name in s.coefficients))
    out = []
    for name in names:
        values = [s.coefficients.get(name, 0.0) for s in samples]
        if any(v != 0 for v in values):
            out.append(Direction(name, tuple(values), recognise(values, [s.scalars for s in samples])))
    return out


def recognise(values: Sequence[float], numbers: Sequence[dict[sp.Symbol, float]]) -> sp.Expr | None:
    """The simplest monomial q·∏ xᵖ in the scalars that equals every value, or ``None``.

    Scalars that did not vary are part of the number q; where scalars depend on one another, as k = C1/C2 do, the
    form with the fewest of them is taken.
    """
    y = np.array(values, dtype=float)
    if len(y) < 3 or np.any(y == 0) or not np.all(np.isfinite(y)):
        return None
    columns = {s: np.array([x.get(s, 0.0) for x in numbers]) for s in numbers[0]}
    logs = {s: np.log(np.abs(x)) for s, x in columns.items() if np.all(x != 0) and np.all(np.isfinite(x))}
    logs = {s: x for s, x in logs.items() if np.ptp(x) > 1e-9}
    chosen, null = _basis(logs, len(y))
    exponents = _exponents(logs, chosen, np.log(np.abs(y)))
    if exponents is None:
        return None
    exponents = _simplest(exponents, null, list(logs))
    rest = np.log(np.abs(y)) - sum((float(p) * logs[s] for s, p in exponents.items()), np.zeros(len(y)))
    if np.ptp(rest) > _EXACT:
        return None
    bases = _signed_bases(np.sign(y), exponents, columns)
    if bases is None:
        return None
    sign, factors = bases
    powers = (base ** sp.Rational(p.numerator, p.denominator) for base, p in factors)
    return sp.Mul(_number(sign * float(np.exp(np.median(rest)))), *powers)


_Exponents = dict[sp.Symbol, Fraction]


def _basis(logs: dict[sp.Symbol, np.ndarray], count: int) -> tuple[list[sp.Symbol], list[_Exponents]]:
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
        if np.ptp(left) < _EXACT:
            null.append({s: Fraction(-1), **{c: p for c, p in powers.items() if p}})
    return chosen, null


def _exponents(logs: dict[sp.Symbol, np.ndarray], chosen: list[sp.Symbol], y: np.ndarray) -> _Exponents | None:
    """Exponents that are multiples of 1/2, if the logarithms are such a combination."""
    design = np.stack([np.ones(len(y)), *(logs[s] for s in chosen)], 1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    if np.abs(design @ solution - y).max() > _EXACT:
        return None
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
    signs: np.ndarray, exponents: _Exponents, columns: dict[sp.Symbol, np.ndarray]
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


def _number(x: float) -> sp.Expr:
    """A small fraction if the number is one, else the number with four digits."""
    fraction = Fraction(x).limit_denominator(64)
    if fraction != 0 and abs(float(fraction) - x) < 1e-6 * abs(x):
        return sp.Rational(fraction.numerator, fraction.denominator)
    return sp.Float(x, 4)


def has_directions(derivation: Derivation) -> list[str]:
    """The directions that a derivation's cases have."""
    names = {*derivation.given, *derivation.defined}
    return [name for name, expr in DIRECTIONS if {s.name for s in expr.free_symbols} <= names]
