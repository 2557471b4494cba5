"""The required gradient's coefficients on the field's directions, from the derivation where no monomial fits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import sympy as sp
import torch

from derivations.algebra.nodes import VectorSymbol
from derivations.derivation import Derivation, inline
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.oracle.required import overall_factor
from gradcheck.reading.xray import DIRECTIONS, B, Direction, Sample

__all__ = ["from_the_derivation"]

_NEAR = 1e-6
"""The formula is the derivation's own, so that it is right or it is not: this is far above rounding."""
_LONGEST = 160  # characters of a formula that tells more than examples do


def from_the_derivation(
    conventions: Conventions, rows: Sequence[Direction], on: Sequence[tuple[Case, Sequence[Sample]]]
) -> list[Direction]:
    """The same directions, with the derivation's coefficient for each that has no formula yet.

    A coefficient counts only if it has the required values on every sample.

    Args:
        conventions: of the implementation.
        rows: the required gradient's directions.
        on: cases as the loss sees them, and the samples of each that the rows' values are of.
    """
    names = next((tuple(s.coefficients) for _, samples in on for s in samples), ())
    if all(row.formula is not None for row in rows) or not names:
        return list(rows)
    found = _coefficients(conventions.derivation, names)
    share = sp.nsimplify(conventions.factor * conventions.policy_factor, rational=True)
    share = share / B if conventions.batch_reduction == "mean" else share
    out = []
    for row in rows:
        formula = found.get(row.name)
        if row.formula is None and formula is not None and len(str(formula)) <= _LONGEST:
            here = np.concatenate([_values(conventions, formula, case, samples) for case, samples in on])
            seen = np.asarray(row.values)
            if np.allclose(here[seen != 0], seen[seen != 0], rtol=_NEAR):  # 0 stands for what is too small to tell
                row = replace(row, formula=share * formula)
        out.append(row)
    return out


@lru_cache(maxsize=100)
def _coefficients(derivation: Derivation, names: tuple[str, ...]) -> Mapping[str, sp.Expr]:
    """Direction → its coefficient in the derived gradient, in numbers per sample."""
    vectors = {s: e for s, e in derivation.definitions.items() if isinstance(s, VectorSymbol)}
    unknown = {name: sp.Dummy() for name in names}
    directions = {name: inline(expr, vectors) for name, expr in DIRECTIONS if name in unknown}
    if set(directions) != set(unknown):
        return {}
    opaque = {x: sp.Dummy() for x in derivation.gradient.atoms(sp.Function)}  # what is inside is no coefficient
    gradient = inline(derivation.gradient.xreplace(opaque), vectors)
    rest = sp.expand(gradient - sum(unknown[name] * e for name, e in directions.items()))
    symbols = [s for s in rest.free_symbols if isinstance(s, VectorSymbol)]
    solution = sp.solve([rest.coeff(s) for s in symbols], list(unknown.values()), dict=True)
    if len(solution) != 1:
        return {}
    back = {symbol: x for x, symbol in opaque.items()}
    formulas = {name: sp.factor(solution[0][x]).xreplace(back) for name, x in unknown.items() if x in solution[0]}
    return {name: f for name, f in formulas.items() if not f.atoms(sp.Dummy)}


def _values(
    conventions: Conventions, formula: sp.Expr, case: Case, samples: Sequence[Sample]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The coefficient's value on each sample, with the batch's share."""
    (value,) = evaluate(conventions.derivation, case, formula, dtype=torch.float64)
    every = value.detach().cpu().reshape(-1).expand(len(case.output)).numpy() * overall_factor(conventions, case)
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = every[[s.row for s in samples]]
    return found
