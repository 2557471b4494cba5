r"""The error analysis of a derivation as a plan: a program on numbers per sample, and readings of the latents.

Every vector is a combination of the tensors that the implementation received, and so is its error bound; their
coefficients are numbers per sample, like everything else but inner products.  The rules of
:mod:`gradcheck.rounding.bounds` are therefore applied once, to numbers that are not known yet, and what they would
compute is written down as a program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

import sympy as sp
import torch

from derivations.calculus import Dot, MeanAbs, Norm2, VectorSymbol, kind, sg
from derivations.derivation import Derivation
from derivations.writing.torchgen import ordered_formulas
from gradcheck.rounding.bounds import THRESHOLD, Analysis, factors_of
from gradcheck.rounding.straight import Compiled, Program

__all__ = ["GROWTH", "READ", "SIZE", "Pass", "Plan", "planned", "values_of"]

_REDUCTIONS = (Dot, Norm2, MeanAbs)


@dataclass(frozen=True)
class Combination:
    r"""Σ value[s]·s, off by at most u·Σ error[s]·\|s\|.

    ``peak`` says how many times as large as the result what comes before it may be: the factors of a product are
    multiplied in some order.  It is followed in a narrow range alone, where that may overflow.
    """

    value: Mapping[str, Any]
    error: Mapping[str, Any]
    peak: Any


@dataclass(frozen=True)
class Pass:
    """What one reading of the latents finds: inner products of vectors, each a combination of the named latents."""

    names: tuple[str, ...]
    vectors: int
    pairs: tuple[tuple[int, int], ...]
    averages: tuple[int, ...]


class _Recording(Analysis):
    """The rules of :class:`Analysis` on numbers per sample that the program will know; combinations for vectors; and
    calls of ``read`` for inner products."""

    def __init__(
        self, derivation: Derivation, scalars: Iterable[str], dtype: torch.dtype, outputs: Sequence[sp.Expr]
    ) -> None:
        self.program = Program()
        inputs: dict[str, Any] = {name: self.program.input(name) for name in scalars}
        super().__init__(inputs, dtype, torch.device("cpu"))
        self.one: Any = self.program.constant(1.0)
        self.none: Any = self.program.constant(0.0)
        self.infinite: Any = self.program.constant(math.inf)
        self.cu = THRESHOLD * self.u
        self.undecided: Any = self.program.constant(False)
        self.growth, self.size = self.program.input(GROWTH), self.program.input(SIZE)
        self.formulas = dict(ordered_formulas(derivation, *outputs))
        self.combinations: dict[sp.Expr, Combination] = {}
        self.levels: dict[sp.Expr, int] = {}
        self.passes: list[Pass] = []
        self.hold(derivation.coarse)
        for expr in outputs:
            self._level(expr)
        pending: dict[int, list[sp.Expr]] = {}
        for node, level in self.levels.items():
            if isinstance(node, _REDUCTIONS):
                pending.setdefault(level, []).append(node)
        for level in sorted(pending):
            self._reduce(pending[level])
        for expr in outputs:  # so that every clip has been looked at
            if kind(expr) == "vector":
                self.combination(expr)
            else:
                self(expr)

    def _level(self, expr: sp.Expr) -> int:
        """How many passes over the latents come before the expression is known."""
        if expr not in self.levels:
            inside = [self.formulas[expr]] if expr in self.formulas else expr.args
            deepest = max((self._level(x) for x in inside), default=0)
            self.levels[expr] = deepest + isinstance(expr, _REDUCTIONS)
        return self.levels[expr]

    def _evaluate(self, expr: sp.Expr) -> Any:
        if expr in self.formulas:
            self.define(expr, self.formulas[expr])
            return self.memo[expr]
        return super()._evaluate(expr)

    def combination(self, expr: sp.Expr) -> Combination:
        """A vector expression on the case's own latents."""
        if expr not in self.combinations:
            self.combinations[expr] = self._combine(expr)
        return self.combinations[expr]

    def _combine(self, expr: sp.Expr) -> Combination:
        if expr == 0:
            return Combination({}, {}, self.one)
        if expr in self.formulas:  # what an implementation received for it was rounded once more
            found = self.combination(self.formulas[expr])
            error = _merged(torch.maximum, found.error, _magnitude(found.value))
            return Combination(found.value, error, found.peak)
        if isinstance(expr, VectorSymbol):
            return Combination({expr.name: self.one}, {expr.name: self.one}, self.one)
        if isinstance(expr, sg):
            return self.combination(expr.args[0])
        if isinstance(expr, sp.Add):
            return self._sum([self.combination(arg) for arg in expr.args])
        if isinstance(expr, sp.Mul):
            (vector,) = (arg for arg in expr.args if kind(arg) == "vector")
            return self._scaled([arg for arg in expr.args if arg is not vector], self.combination(vector))
        raise NotImplementedError(f"no error rule for the vector {expr}")

    def _sum(self, terms: list[Combination]) -> Combination:
        value: Mapping[str, Any] = {}
        error: Mapping[str, Any] = {}
        for term in terms:
            value = _merged(torch.add, value, term.value)
            grown = {n: (len(terms) - 1) * x for n, x in _magnitude(term.value).items()}
            error = _merged(torch.add, error, _merged(torch.add, term.error, grown))
        return Combination(value, error, reduce(torch.maximum, [term.peak for term in terms]))

    def _scaled(self, factors: list[sp.Expr], vector: Combination) -> Combination:
        q, e = self(sp.Mul(*factors, evaluate=False) if len(factors) > 1 else factors[0])
        value = {n: q * c for n, c in vector.value.items()}
        error = {n: (q.abs() + self.cu * e) * d for n, d in vector.error.items()}
        once = {n: (e + q.abs()) * c for n, c in _magnitude(vector.value).items()}
        return Combination(value, _merged(torch.add, error, once), self._peak(factors, q) * vector.peak)

    def _peak(self, factors: list[sp.Expr], product: Any) -> Any:
        if self.range is None:
            return self.one
        partial = self.one
        for single in factors_of([x for factor in factors for x in sp.Mul.make_args(factor)]):
            partial = partial * self(single)[0].abs().clamp(min=1)
        return torch.where(product == 0, 1.0, partial / product.abs())

    def _reduce(self, nodes: list[sp.Expr]) -> None:
        """Inner products whose arguments' coefficients are known, in one pass."""
        vectors: list[sp.Expr] = list(dict.fromkeys(arg for node in nodes for arg in node.args))
        found = [self.combination(v) for v in vectors]
        names = sorted({n for c in found for n in c.error})
        coefficients = [[x.get(n, 0.0) for c in found for n in names for x in (c.value, c.error)]]
        averages = [node for node in nodes if isinstance(node, MeanAbs)]
        products = [node for node in nodes if not isinstance(node, MeanAbs)]
        place = {v: i for i, v in enumerate(vectors)}
        one = Pass(
            tuple(names),
            len(vectors),
            tuple((place[node.args[0]], place[node.args[-1]]) for node in products),
            tuple(place[node.args[0]] for node in averages),
        )
        results: list[Any] = self.program.external(
            READ, coefficients, 3 * len(products) + 2 * len(averages), len(self.passes)
        )
        self.passes.append(one)
        for node in products:
            product, magnitude, error = (results.pop(0) for _ in range(3))
            self.memo[node] = self.ranged(product, error + self.growth * magnitude)
        for node in averages:
            magnitude, error = (results.pop(0) / self.size for _ in range(2))
            self.memo[node] = self.ranged(magnitude, error + self.growth * magnitude)


GROWTH, SIZE = "growth_", "size_"
"""Inputs besides the case's: what a sum over coordinates adds to its bound, and how many there are."""

READ = "read_"
"""What a program calls the function that reads the latents."""


@dataclass(frozen=True)
class Plan:
    """A recorded analysis: what it reads, and the program that it is otherwise."""

    program: Compiled
    passes: tuple[Pass, ...]
    places: Mapping[sp.Expr, tuple[Mapping[str, int], Mapping[str, int]]]
    """For each output where among the program's results its values and bounds are, by latent; ``""`` for a scalar."""
    peaks: Mapping[sp.Expr, int]
    """In a narrow range, where each output's ``Combination.peak`` is."""
    floor: float


@lru_cache(maxsize=300)
def planned(derivation: Derivation, scalars: tuple[str, ...], dtype: torch.dtype, outputs: tuple[sp.Expr, ...]) -> Plan:
    """Record the analysis of expressions, once for each derivation, precision and set of names.

    Args:
        derivation: gives the definitions.
        scalars: names of the case's numbers, per sample or one for all.
        dtype: the precision that is judged.
        outputs: the expressions whose bounds are wanted.
    """
    run = _Recording(derivation, scalars, dtype, outputs)
    results: list[Any] = [run.undecided, run.program.constant(0.0)]
    places: dict[sp.Expr, tuple[Mapping[str, int], Mapping[str, int]]] = {}
    peaks: dict[sp.Expr, int] = {}

    def placed(coefficients: Mapping[str, Any]) -> dict[str, int]:
        results.extend(coefficients.values())
        return {name: len(results) - len(coefficients) + i for i, name in enumerate(coefficients)}

    for expr in outputs:
        if kind(expr) == "vector":
            found = run.combination(expr)
        else:
            value, error = run(expr)
            found = Combination({"": value}, {"": error}, run.one)
        places[expr] = placed(found.value), placed(found.error)
        if run.range is not None:
            peaks[expr] = len(results)
            results.append(found.peak)
    return Plan(run.program.compiled(READ, results), tuple(run.passes), places, peaks, run.floor)


@lru_cache(maxsize=300)
def values_of(
    derivation: Derivation, scalars: tuple[str, ...], outputs: tuple[sp.Expr, ...]
) -> tuple[Compiled, tuple[tuple[str, ...], ...]]:
    """As :func:`planned`, the values in float64 alone, of expressions without inner products.

    Returns:
        The program, and the latents of each output whose coefficients it gives one after the other; of a scalar, its
        value under ``""``.
    """
    run = _Recording(derivation, scalars, torch.float64, outputs)
    found = [run.combination(expr).value if kind(expr) == "vector" else {"": run(expr)[0]} for expr in outputs]
    results: list[Any] = [x for value in found for x in value.values()]
    program = run.program.compiled(READ, results)
    return program, tuple(tuple(value) for value in found)


def _magnitude(coefficients: Mapping[str, Any]) -> dict[str, Any]:
    return {n: c.abs() for n, c in coefficients.items()}


def _merged(operation: Callable[[Any, Any], Any], a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Entry by entry; a name that one side lacks keeps the other's."""
    both = {n: operation(a[n], b[n]) for n in a.keys() & b.keys()}
    return {**a, **b, **both}
