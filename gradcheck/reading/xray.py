r"""X-ray: a gradient decomposed on the field's own directions, and its coefficients recognised as formulas.

For every sample the gradient is solved for coefficients on ε, v_θ − v_old, v_θ − v_gt, v_θ − v_ref, x_t and v_θ,
those that the algorithm has, each with what rounding may have done to it.  A coefficient is then sought as a formula
in the problem's scalars (:mod:`gradcheck.reading.formulas`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.writing.render import text as written
from gradcheck.case import Case
from gradcheck.reading.formulas import EXACT, recognise
from gradcheck.rounding.bounds import unit_roundoff

__all__ = ["Direction", "Sample", "decompose", "directions", "formula_of", "scalars"]

DIRECTIONS: tuple[tuple[str, sp.Expr], ...] = (
    ("ε", n.noise),
    ("v_θ − v_old", n.v_theta - n.v_old),
    ("v_θ − v_gt", n.v_theta - n.v_gt),
    ("v_θ − v_ref", n.v_theta - n.v_ref),
    ("x_t", n.x_t),
    ("v_θ", n.v_theta),
    # of networks that predict something else
    ("ε_θ − ε_old", n.noise_theta - n.noise_old),
    ("ε_θ − ε", n.noise_theta - n.noise),
    ("ε_θ − ε_ref", n.noise_theta - n.noise_ref),
    ("ε_θ", n.noise_theta),
    ("x_0,θ − x_0,old", n.x_0_theta - n.x_0_old),
    ("x_0,θ − x_0", n.x_0_theta - n.x_0),
    ("x_0,θ − x_0,ref", n.x_0_theta - n.x_0_ref),
    ("x_0,θ", n.x_0_theta),
)
B = sp.Symbol("B", positive=True)
_LEFT = sp.Symbol("1 − t", positive=True)
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
    n.beta_dpo,
    n.kl_weight,
    n.temperature,
    n.D,
    B,
)
_HUGE = 1e100
"""A gradient beyond this says that something overflowed, and nothing about formulas."""
_ROUNDINGS = 2.0**10
"""How many roundings a coefficient may have seen: log-densities of short steps lose three digits before their ratio."""


@dataclass(frozen=True)
class Sample:
    """One sample's gradient on the directions.

    Attributes:
        row: which sample of its batch it is.
        coefficients: by direction.
        errors: how far each coefficient may be off in the precision that the implementation works in.
        residual: norm of what the directions leave over, relative to the gradient's norm.
        scalars: the problem's scalars for this sample, by symbol.
    """

    row: int
    coefficients: dict[str, float]
    errors: dict[str, float]
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
            return written(formula_of(self.formula))
        return "no simple formula, for example " + ", ".join(written(sp.Float(v, 4)) for v in self.values[:3])


def formula_of(found: sp.Expr, digits: int = 4) -> sp.Expr:
    """A recognised formula with numbers of few digits."""
    return found.xreplace({x: sp.Float(x, digits) for x in found.atoms(sp.Float)}).xreplace({_LEFT: 1 - n.t})


def scalars(case: Case) -> dict[sp.Symbol, Tensor]:
    """The problem's scalars, one value for each sample."""
    v = case.output
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
    if n.t in out and case.output_name != "v_theta":  # what a conversion divides by
        out[_LEFT] = 1 - out[n.t]
    return out


def decompose(
    case: Case,
    gradient: Tensor,
    basis: Sequence[tuple[str, sp.Expr]] = DIRECTIONS,
    numbers: dict[sp.Symbol, Tensor] | None = None,
    unit: float = unit_roundoff(torch.float64),
) -> list[Sample]:
    """Every sample's gradient on the directions that the case has; samples without gradient are left out.

    ``numbers`` are the scalars that go with each sample, :func:`scalars` by default; ``unit`` is the unit roundoff of
    the precision that the implementation works in.
    """
    noise = _ROUNDINGS * unit
    values = case.broadcast(torch.float64)
    known = {*values}
    if {"v_theta", "v_gt", "noise", "t"} <= known and "x_prev" not in known:
        known -= {"x_t"}  # ε − (1 − t) v_gt: no direction of its own
    found = [(name, _evaluate(expr, values)) for name, expr in basis if {s.name for s in expr.free_symbols} <= known]
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
        significant = np.abs(solution) * np.linalg.norm(matrix, axis=0) > max(1e-9, noise) * size
        coefficients = {name: float(c) if ok else 0.0 for name, c, ok in zip(names, solution, significant, strict=True)}
        reach = np.linalg.norm(np.linalg.pinv(matrix), axis=1) * size
        off = np.maximum(max(EXACT, noise) * np.abs(solution), noise * reach)
        errors = {name: float(e) for name, e in zip(names, off, strict=True)}
        out.append(Sample(i, coefficients, errors, residual, {s: float(x[i]) for s, x in numbers.items()}))
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
            errors = [s.errors.get(name, 0.0) for s in samples]
            out.append(Direction(name, tuple(values), recognise(values, [s.scalars for s in samples], errors)))
    return out
