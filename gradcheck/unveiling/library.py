r"""Weights that are no monomial: a small library of functions, of which one fits exactly or none.

A weight is sought as q·M·f(c·m)ᵖ, where M and m are monomials in the scalars that it depends on, and f is one of

==============  =======================================  ================================================
f(z)            p                                        for instance
==============  =======================================  ================================================
1 + z           ±1, ±2, ±1/2                             A + β, 1/(t + c), r − (1 − r), 1/√(‖e‖²/D + c²)
exp z           1                                        exp(R/τ)
σ(z)            1                                        σ(−β s), Diffusion-DPO's
min(1, z)       1                                        min-SNR weighting, truncated importance ratios
max(1, z)       1                                        its opposite
==============  =======================================  ================================================

or as the sum of three monomials, or one over it.  M is projected out of the logarithms, so that c is the only unknown
that is searched for; it is then solved for to rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sympy as sp

from gradcheck.reading.formulas import EXACT, Columns, independent, logarithms, recognise, simple_number

__all__ = ["Data", "numeric", "search", "sigmoid"]

_SIGNS = (1.0, -1.0)
_GRID = np.concatenate([s * np.logspace(-3, 3, 61) for s in _SIGNS])
_SIMPLE = np.array([s * p / q for s in _SIGNS for p in range(1, 6) for q in (*range(1, 6), 10) if np.gcd(p, q) == 1])
"""Constants that people write: where 1 + c z passes through 0, its logarithm is too sharp for the grid."""
_POWERS = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
_NEAR = 0.995
"""Cosine at which a grid point is close enough to be refined."""


class sigmoid(sp.Function):  # noqa: N801  (the name is what is printed)
    """1/(1 + exp(−z))."""

    nargs = 1

    def _eval_is_positive(self) -> bool:
        return True


def numeric(formula: sp.Expr, symbols: Sequence[sp.Symbol]) -> Callable[..., np.ndarray]:
    """A formula as a function of arrays."""
    plain = [sp.Dummy() for _ in symbols]  # some names here are no names for Python
    body = formula.xreplace(dict(zip(symbols, plain, strict=True)))
    function: Callable[..., np.ndarray] = sp.lambdify(
        plain, body, [{"sigmoid": lambda z: np.exp(_log_sigmoid(z))}, "numpy"]
    )
    return function


@dataclass(frozen=True)
class _Family:
    name: str
    log: Callable[[np.ndarray], np.ndarray]
    powers: tuple[float, ...]
    write: Callable[[sp.Expr], sp.Expr]


def _log_sigmoid(z: np.ndarray) -> np.ndarray:
    return -np.logaddexp(0.0, -z)


_FAMILIES = (
    _Family("sum", lambda z: np.log(np.abs(1 + z)), _POWERS, lambda z: 1 + z),
    _Family("exp", lambda z: z, (1.0,), sp.exp),
    _Family("sigmoid", _log_sigmoid, (1.0,), sigmoid),
    _Family("min", lambda z: np.log(np.abs(np.minimum(1.0, z))), (1.0,), lambda z: sp.Min(1, z)),
    _Family("max", lambda z: np.log(np.abs(np.maximum(1.0, z))), (1.0,), lambda z: sp.Max(1, z)),
)


@dataclass(frozen=True)
class Data:
    """A weight on many samples.

    Attributes:
        values: of the weight.
        errors: how far each may be off.
        scale: scalars that may only be factors, such as D.
        inner: scalars that it depends on, from which sums, exponents … are made.
    """

    values: np.ndarray
    errors: np.ndarray
    scale: Columns
    inner: Columns

    @property
    def relative(self) -> np.ndarray:
        return self.errors / np.abs(self.values)

    @property
    def columns(self) -> Columns:
        return self.inner | self.scale

    def rows(self) -> list[dict[sp.Symbol, float]]:
        return [{s: float(x[i]) for s, x in self.columns.items()} for i in range(len(self.values))]


def search(data: Data, fits: Callable[[sp.Expr], bool]) -> sp.Expr | None:
    """The simplest member of the library that equals every value and that ``fits`` samples kept apart, or ``None``."""
    logs = logarithms(data.columns)
    if np.any(data.values == 0) or len(data.values) < 12 or float(np.median(data.relative)) > 1e-4:
        return None
    kept = independent(logs, len(data.values))
    weights = data.relative.min() / data.relative
    design = np.stack([np.ones(len(weights)), *(logs[s] for s in kept)], 1) * weights[:, None]
    if len(weights) < design.shape[1] + 6:
        return None
    basis, _ = np.linalg.qr(design)

    def rest(rows: np.ndarray) -> np.ndarray:
        rows = rows * weights
        return rows - (rows @ basis) @ basis.T

    wanted = rest(np.log(np.abs(data.values)))
    for stage in _stages(data):
        found = []
        for monomial, z in stage:
            for family in _FAMILIES:
                for c, power in _constants(family, z, wanted, rest):
                    expr = _written(data, family, monomial, z, c, power)
                    if expr is not None and fits(expr):
                        found.append(expr)
        if found:
            return min(found, key=_complexity)
    return _three_terms(data, fits)


def _complexity(expr: sp.Expr) -> tuple[int, int, str]:
    return len(expr.atoms(sp.Float)), int(sp.count_ops(expr)), str(expr)


def _stages(data: Data) -> Iterator[list[tuple[sp.Expr, np.ndarray]]]:
    """Monomials to make functions of: powers of one scalar, products and quotients of two, of three, with powers."""
    names = [s for s, x in data.inner.items() if np.ptp(x) > 1e-9 and np.all(np.isfinite(x))]
    one = [{s: p} for s in names for p in _exponents(data, s)]
    units = {s: [p for p in _exponents(data, s) if abs(p) == 1] for s in names}
    two = [
        dict(zip(pair, powers, strict=True))
        for pair in itertools.combinations(names, 2)
        for powers in itertools.product(*(units[s] for s in pair))
    ]
    more = [
        dict(zip(pair, powers, strict=True))
        for pair in itertools.combinations(names[:8], 2)
        for powers in itertools.product(*(_exponents(data, s) for s in pair))
    ]
    three = [
        dict(zip(chosen, powers, strict=True))
        for chosen in itertools.combinations(names[:10], 3)
        for powers in itertools.product(*(units[s] for s in chosen))
    ]
    for stage in (one, two, [e for e in more if e not in two], three):
        yield [_monomial(data, exponents) for exponents in stage]


def _exponents(data: Data, s: sp.Symbol) -> tuple[float, ...]:
    x = data.inner[s]
    if np.any(x == 0):
        return (1.0, 2.0)
    return (1.0, -1.0, 2.0, -2.0) if np.any(x < 0) else (1.0, -1.0, 2.0, -2.0, 0.5, -0.5)


def _monomial(data: Data, exponents: dict[sp.Symbol, float]) -> tuple[sp.Expr, np.ndarray]:
    expr = sp.Mul(*(s ** sp.nsimplify(p) for s, p in exponents.items()))
    value = np.ones(len(data.values))
    for s, p in exponents.items():
        value = value * data.inner[s] ** p
    return expr, value


# -------------------------------------------------------------------------------------- the one constant


def _constants(
    family: _Family, z: np.ndarray, wanted: np.ndarray, rest: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[float, float]]:
    """Constants c and powers p for which p·log f(c z) has the wanted logarithm, up to a monomial."""
    size = float(np.linalg.norm(wanted))
    if size < 1e-6:
        return
    with np.errstate(all="ignore"):
        if family.name == "exp":
            slope = rest(z[None])[0]
            if np.linalg.norm(slope) > 1e-6 * np.linalg.norm(z):
                c = float(slope @ wanted / (slope @ slope))
                if np.linalg.norm(wanted - c * slope) < 1e-4 * size:
                    yield c, 1.0
            return
        grid = np.concatenate([_SIMPLE, _GRID / float(np.median(np.abs(z)))])
        logs = family.log(grid[:, None] * z[None])
        good = np.isfinite(logs).all(1)
        if not good.any():
            return
        grid, logs = grid[good], rest(logs[good])
        norms = np.linalg.norm(logs, axis=1)
        inner = logs @ wanted
        cosine = np.abs(inner) / np.maximum(norms * size, 1e-300)
        for i in np.argsort(-cosine)[:3]:
            power = min(family.powers, key=lambda p: abs(p - inner[i] / max(norms[i] ** 2, 1e-300)))
            if cosine[i] > _NEAR and norms[i] > 1e-6:
                solved = _refined(family, z, wanted, rest, float(grid[i]), power)
                if solved is not None:
                    yield solved, power


def _refined(
    family: _Family,
    z: np.ndarray,
    wanted: np.ndarray,
    rest: Callable[[np.ndarray], np.ndarray],
    c: float,
    power: float,
) -> float | None:
    """Gauss–Newton on c, from the grid's point."""

    def miss(x: float) -> np.ndarray:
        return wanted - power * rest(family.log(x * z)[None])[0]

    for _ in range(20):
        now = miss(c)
        h = 1e-6 * c
        slope = (miss(c + h) - miss(c - h)) / (2 * h)
        length = float(slope @ slope)
        if not np.isfinite(now).all() or length == 0:
            return None
        step = -float(slope @ now) / length
        c += float(np.clip(step, -0.5 * abs(c), 0.5 * abs(c)))
        if abs(step) < 1e-13 * abs(c):
            break
    now = miss(c)
    return c if np.isfinite(now).all() and np.linalg.norm(now) < 1e-4 * np.linalg.norm(wanted) else None


def _written(data: Data, family: _Family, monomial: sp.Expr, z: np.ndarray, c: float, power: float) -> sp.Expr | None:
    """The whole formula, with a simple constant if one lies that close; ``None`` if it misses a value."""
    constant = _near(c, max(1e-6, float(np.median(data.relative))))
    with np.errstate(all="ignore"):
        for value in dict.fromkeys((constant, sp.Float(c))):
            core = np.exp(power * family.log(float(value) * z))
            sign = np.sign(1 + float(value) * z) if family.name == "sum" and abs(power) == 1 else 1.0
            if family.name == "min":
                sign = np.sign(np.minimum(1.0, float(value) * z))
            outer = recognise(list(data.values / (core * sign)), data.rows(), list(data.errors / core))
            if outer is not None:
                return _tidy(outer, family.write(value * monomial) ** sp.nsimplify(power), set(data.scale))
    return None


def _near(x: float, relative: float) -> sp.Expr:
    a = abs(x)
    return simple_number(a * (1 - relative), a * (1 + relative), a) * (1 if x > 0 else -1)


def _tidy(outer: sp.Expr, core: sp.Expr, sizes: set[sp.Symbol]) -> sp.Expr:
    """M (1 + z)ᵖ as one sum to that power, and M min(1, z) as one minimum, where this is shorter."""
    base, power = core.as_base_exp()
    if not isinstance(base, (sp.Add, sp.Min, sp.Max)):
        return outer * core
    number, monomial = outer.as_coeff_Mul()
    factors = tuple(f for f in sp.Mul.make_args(monomial) if not f.free_symbols & sizes)
    inside = [*((f,) for f in factors), *itertools.combinations(factors, 2), factors]
    options = [outer * core]
    for part in (sp.S.One, *(sp.Mul(*chosen) for chosen in inside)):
        rest = number * monomial / part
        if isinstance(base, sp.Add):
            content, whole = sp.expand(base * sp.powdenest(part ** (1 / power), force=True)).as_content_primitive()
            options.append(rest * content**power * whole**power)
            options.append(sp.together(options[-1]))
        elif part.is_positive:
            arguments = [part * a for a in base.args]
            scale = sp.ilcm(*(a.as_coeff_Mul()[0].q for a in arguments if a.as_coeff_Mul()[0].is_Rational))
            options.append(rest / scale * base.func(*(scale * a for a in arguments)))
    return min(options, key=_complexity)


# ------------------------------------------------------------------------------------------- three terms


def _three_terms(data: Data, fits: Callable[[sp.Expr], bool]) -> sp.Expr | None:
    """q₁m₁ + q₂m₂ + q₃m₃ or one over it, perhaps over D, solved for all triples of simple monomials at once."""
    names = [s for s, x in data.inner.items() if np.ptp(x) > 1e-9 and np.all(np.isfinite(x))][:8]
    exponents: list[dict[sp.Symbol, float]] = [{}, *({s: p} for s in names for p in (1.0, 2.0, 3.0))]
    exponents += [{a: 1.0, b: 1.0} for a, b in itertools.combinations(names, 2)]
    dictionary = [_monomial(data, e) for e in exponents[:60]]
    triples = np.array(list(itertools.combinations(range(len(dictionary)), 3)))
    if len(triples) == 0:
        return None
    matrix = np.stack([z for _, z in dictionary], 1)
    found = []
    for power, scale in itertools.product((1, -1), _products(list(data.scale))):
        factor = np.prod([data.scale[s] for s in scale.free_symbols], axis=0)
        y = (data.values * factor) ** power
        weights = 1 / (data.relative * np.abs(y))
        weights = weights / weights.max()
        a = matrix * weights[:, None]
        lengths = np.linalg.norm(a, axis=0)
        a, b = a / lengths, y * weights
        gram, right = a.T @ a, a.T @ b
        small = gram[triples[:, :, None], triples[:, None, :]] + 1e-13 * np.eye(3)
        solutions = np.linalg.solve(small, right[triples][..., None])[..., 0]
        left = b @ b - (solutions * right[triples]).sum(1)
        for i in np.argsort(left)[:5]:
            if left[i] < 1e-9 * (b @ b):
                expr = _summed(data, [dictionary[j] for j in triples[i]], y, factor, power)
                if expr is not None and fits(expr / scale):
                    found.append(expr / scale)
    return min(found, key=_complexity, default=None)


def _products(symbols: list[sp.Symbol]) -> list[sp.Expr]:
    return [sp.Mul(*c) for k in range(len(symbols) + 1) for c in itertools.combinations(symbols, k)]


def _summed(
    data: Data, terms: Sequence[tuple[sp.Expr, np.ndarray]], y: np.ndarray, factor: np.ndarray | float, power: int
) -> sp.Expr | None:
    weights = 1 / (data.relative * np.abs(y))
    matrix = np.stack([z for _, z in terms], 1)
    lengths = np.linalg.norm(matrix * weights[:, None], axis=0)
    solution, *_ = np.linalg.lstsq(matrix * weights[:, None] / lengths, y * weights, rcond=None)
    numbers = solution / lengths
    if np.any(numbers == 0) or np.any(np.abs(matrix @ numbers - y) > data.relative * np.abs(y) + EXACT * np.abs(y)):
        return None
    expr = sp.Add(*(_near(float(q), 1e-6) * m for q, (m, _) in zip(numbers, terms, strict=True)))
    content, inside = sp.factor_terms(expr).as_coeff_Mul()
    return (content * inside) ** power
