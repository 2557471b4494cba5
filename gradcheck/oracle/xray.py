r"""X-ray: a gradient decomposed on the field's own directions, and its coefficients recognised as formulas.

For every sample the gradient is solved for coefficients on ε, v_θ − v_old, v_θ − v_gt, v_θ − v_ref, x_t and v_θ, those that
the algorithm has.  A coefficient is then sought as a monomial q·∏ xᵖ in the problem's scalars, with exponents that
are multiples of 1/2.  The data are free of noise, so that a fit is exact or there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.derivation import Derivation
from derivations.render import text
from gradcheck.case import Case

__all__ = ["Direction", "Sample", "decompose", "recognise", "scalars"]

DIRECTIONS: tuple[tuple[str, sp.Expr], ...] = (
    ("ε", n.noise),
    ("v_θ − v_old", n.v_theta - n.v_old),
    ("v_θ − v_gt", n.v_theta - n.v_gt),
    ("v_θ − v_ref", n.v_theta - n.v_ref),
    ("x_t", n.x_t),
    ("v_θ", n.v_theta),
)
B = sp.Symbol("B", positive=True)
_SCALARS = (n.advantage, n.ratio, n.reward_prob, n.k, n.C1, n.C2, n.dt, n.omega, n.t, n.beta, n.kl_weight, n.temperature, n.D, B)
_EXACT = 1e-7


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
            return text(self.formula)
        return "not a monomial, for example " + ", ".join(f"{v:.4g}" for v in self.values[:3])


def scalars(case: Case) -> dict[sp.Symbol, Tensor]:
    """The problem's scalars, one value for each sample."""
    v = case.v_theta
    batch = v.shape[0]
    out: dict[sp.Symbol, Tensor] = {}
    for symbol in _SCALARS:
        if symbol == B or symbol == n.D:
            number = batch if symbol == B else v[0].numel()
            out[symbol] = torch.full((batch,), float(number), dtype=torch.float64)
        elif symbol.name in case.names:
            value = getattr(case, symbol.name)
            out[symbol] = value.detach().to(torch.float64).cpu() if isinstance(value, Tensor) else torch.full((batch,), float(value), dtype=torch.float64)
    return out


def decompose(case: Case, gradient: Tensor) -> list[Sample]:
    """Every sample's gradient on the directions that the case has; samples without gradient are left out."""
    values = case.broadcast(torch.float64)
    found = [(name, _evaluate(expr, values)) for name, expr in DIRECTIONS if all(s.name in values for s in expr.free_symbols)]
    numbers = scalars(case)
    out = []
    for i in range(gradient.shape[0]):
        g = gradient[i].detach().to(torch.float64).cpu().flatten().numpy()
        size = float(np.linalg.norm(g))
        if size == 0 or not np.isfinite(size):
            continue
        basis, names = _independent([(name, x[i].cpu().flatten().numpy()) for name, x in found])
        solution, *_ = np.linalg.lstsq(basis, g, rcond=None)
        residual = float(np.linalg.norm(basis @ solution - g)) / size
        significant = np.abs(solution) * np.linalg.norm(basis, axis=0) > 1e-9 * size
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
        if np.linalg.norm(rest) > 1e-6 * max(np.linalg.norm(x), 1e-300) and len(kept) < len(x):
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
    """The monomial q·∏ xᵖ in the scalars that equals every value, or ``None``."""
    y = np.array(values, dtype=float)
    if len(y) < 3 or np.any(y == 0) or not np.all(np.isfinite(y)):
        return None
    usable = [s for s in numbers[0] if all(x.get(s, 0.0) != 0 for x in numbers)]
    logs = {s: np.log(np.abs([x[s] for x in numbers])) for s in usable}
    columns, chosen = [np.ones(len(y))], []
    for s in usable:  # constant or dependent columns say nothing
        candidate = np.stack([*columns, logs[s]], 1)
        if len(y) > candidate.shape[1] and np.linalg.matrix_rank(candidate, tol=1e-6 * np.sqrt(len(y))) == candidate.shape[1]:
            columns.append(logs[s])
            chosen.append(s)
    solution, *_ = np.linalg.lstsq(np.stack(columns, 1), np.log(np.abs(y)), rcond=None)
    powers = {s: Fraction(round(2 * float(p)), 2) for s, p in zip(chosen, solution[1:], strict=True)}
    magnitude = np.prod([np.exp(float(p) * logs[s]) for s, p in powers.items()], axis=0) if powers else np.ones(len(y))
    signs = np.sign(y)
    odd = [s for s, p in powers.items() if p.denominator == 1 and p.numerator % 2]
    for s in odd:
        signs = signs * np.sign([x[s] for x in numbers])
    factor = np.abs(y) / magnitude * signs
    if np.ptp(factor) > _EXACT * abs(factor[0]):
        return None
    return sp.Mul(_number(float(np.median(factor))), *(s ** sp.Rational(p.numerator, p.denominator) for s, p in powers.items()))


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
