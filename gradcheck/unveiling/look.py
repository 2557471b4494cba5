r"""A loss looked at in one process: its gradients on many cases, read as terms with formulas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from gradcheck.case import Case
from gradcheck.judging.adapter import Adapter
from gradcheck.problems.building import Spec
from gradcheck.problems.regimes import AdvantageRegime, PolicyRegime
from gradcheck.reading.formulas import recognise
from gradcheck.reading.xray import B, Sample, decompose
from gradcheck.rounding.bounds import unit_roundoff
from gradcheck.unveiling.character import clip_words
from gradcheck.unveiling.dependence import Basis, Dependence
from gradcheck.unveiling.library import Data, numeric, search
from gradcheck.unveiling.universal import Universe
from gradcheck.unveiling.weights import SHOWN, SIZES, groups, is_ratio, numbers

__all__ = ["FLOAT64", "Look", "Reading", "Term"]

_SHAPES = ((4, (3, 5)), (6, (2, 3, 4)), (3, (13,)), (5, (2, 2, 5)), (7, (4, 5)), (4, (2, 9)), (5, (17,)), (6, (3, 7)))
_FRESH = ((5, (2, 7)), (4, (19,)), (6, (3, 2, 3)))
_FAINT = 1e-6
"""A coefficient this much smaller than another one has lost its digits."""
_EXACT = 1e-8
FLOAT64, _FLOAT32 = unit_roundoff(torch.float64), unit_roundoff(torch.float32)  #: unit roundoffs

_NOISE, _X = ("ε", n.noise), ("x_t", n.x_t)
_FROM_OLD, _FROM_REF = ("v_θ − v_old", n.v_theta - n.v_old), ("v_θ − v_ref", n.v_theta - n.v_ref)
_V, _GT = ("v_θ", n.v_theta), ("v_gt", n.v_gt)
_FROM_GT, _OLD_FROM_GT = ("v_θ − v_gt", n.v_theta - n.v_gt), ("v_old − v_gt", n.v_old - n.v_gt)
_BASES: dict[str, tuple[Basis, ...]] = {
    "backward": ((_NOISE, _FROM_OLD, _FROM_REF, _X),),
    "forward": (
        (_FROM_GT, _FROM_REF, _NOISE, _FROM_OLD),
        (_OLD_FROM_GT, _FROM_OLD, _FROM_REF, _NOISE),
        (_V, _GT, _FROM_OLD, _FROM_REF),
    ),
}


@dataclass(frozen=True)
class Term:
    """One direction of a gradient.

    Attributes:
        direction, vector: its name and expression.
        formula: the coefficient's; ``None`` where none was recognised.
        names: quantities on which a coefficient without a formula depends.
        mixes: whether such a coefficient depends on other samples of the batch.
        examples: values of the coefficient, each with the scalars that it goes with.
    """

    direction: str
    vector: sp.Expr
    formula: sp.Expr | None
    names: tuple[str, ...] = ()
    mixes: bool = False
    examples: tuple[tuple[float, Mapping[sp.Symbol, float]], ...] = ()


@dataclass(frozen=True)
class Reading:
    """The terms, on the basis that gives the simplest ones.

    Attributes:
        basis: the directions.
        terms: those that occur.
        residual: the largest part of a sample's gradient that no direction explains, relative to its norm.
        unit: unit roundoff of the precision in which it was read.
        explained: what of the residual that precision's rounding may be.
    """

    basis: Basis
    terms: tuple[Term, ...]
    residual: float
    unit: float
    explained: float

    @property
    def unknown(self) -> int:
        return sum(t.formula is None for t in self.terms)

    @property
    def spanned(self) -> bool:
        """Whether rounding explains the residual."""
        return self.residual <= self.explained

    @property
    def rank(self) -> tuple[int, bool, int, int]:
        size = sum(int(sp.count_ops(t.formula)) for t in self.terms if t.formula is not None)
        return self.unknown, not self.spanned, len(self.terms), size


@dataclass(frozen=True)
class _Weight:
    """A coefficient on the samples that it was read from, and on fresh ones."""

    name: str
    vector: sp.Expr
    seen: list[Sample]
    fresh: list[Sample]

    def data(self, samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.array([s.coefficients[self.name] for s in samples]),
            np.array([s.errors[self.name] for s in samples]),
        )

    def holds(self, formula: sp.Expr) -> bool:
        """Whether a formula that was fitted to the others gives the fresh samples' values."""
        symbols = sorted(formula.free_symbols, key=str)
        function = numeric(formula, symbols)
        values, errors = self.data(self.fresh)
        columns = [np.array([s.scalars[x] for s in self.fresh]) for x in symbols]
        with np.errstate(all="ignore"):
            return bool(np.all(np.abs(function(*columns) - values) <= 4 * errors)) and len(values) > 3

    def monomial(self) -> sp.Expr | None:
        values, errors = self.data(self.seen)
        for chosen in groups(list(self.seen[0].scalars)):
            rows = [{s: x.scalars[s] for s in chosen} for x in self.seen]
            formula = recognise(list(values), rows, list(errors))
            if formula is not None and self.holds(formula):
                return formula
        return None

    def function(self, inner: Sequence[sp.Symbol]) -> sp.Expr | None:
        """A member of the library."""
        values, errors = self.data(self.seen)
        every = {s: np.array([x.scalars[s] for x in self.seen]) for s in self.seen[0].scalars}
        data = Data(values, errors, {s: every[s] for s in SIZES}, {s: every[s] for s in inner if s not in SIZES})
        return search(data, self.holds)


class Look:
    """A loss on the cases of one process.

    Raises:
        AdapterError: it cannot be called there.
    """

    def __init__(
        self, function: Callable[[Case], Any], name: str, timeout: float, universe: Universe, unit: float | None
    ) -> None:
        self.per_sample = False

        def summed(case: Case) -> Any:
            loss = function(case)
            if isinstance(loss, Tensor) and loss.ndim == 1 and len(loss) == len(case.v_theta) > 1:
                self.per_sample = True
                return loss.sum()
            return loss

        self.adapter = Adapter(summed, name, "mean", timeout)
        self.universe = universe
        specs = [_spec(b, latent, 50 + i) for i, (b, latent) in enumerate(_SHAPES)]
        specs += [
            _spec(b, latent, 100 + i, "zero") for i, (b, latent) in enumerate(_SHAPES[:3])
        ]  # a reference term alone
        self._numbers: dict[int, dict[sp.Symbol, Tensor]] = {}
        self.cases, self.gradients = self._observed(specs)
        self.fresh, self.fresh_gradients = self._observed([_spec(b, s, 200 + i) for i, (b, s) in enumerate(_FRESH)])
        single = all(torch.equal(g, g.float().double()) for g in self.gradients)
        known = unit if unit is not None else _FLOAT32 if single else None
        # a part that works in float32 leaves little; a small term without a direction must not pass as its rounding
        mixed = ((FLOAT64, _EXACT), (_FLOAT32, _FAINT))
        self._precisions = mixed if known is None else ((known, max(_EXACT, 2.0**10 * known)),)

    def _observed(self, specs: Sequence[Spec]) -> tuple[list[Case], list[Tensor]]:
        cases, gradients = [], []
        for spec in specs:  # one by one: a loss of another process fails on the first
            cases.append(self.universe.case(self.universe.draw(spec)))
            gradients.append(self.adapter.observe(cases[-1]).gradient)
        return cases, gradients

    @property
    def spanned(self) -> bool:
        """Whether there is a gradient, and it lies on the directions."""
        return self.monomials().spanned and bool(self.monomials().terms)

    def monomials(self) -> Reading:
        """Coefficients as monomials only, which costs little."""
        return self._monomials

    @cached_property
    def _monomials(self) -> Reading:
        best = None
        for precision in self._precisions:
            readings = [self._read(basis, precision) for basis in _BASES[self.universe.process]]
            reading = min(_meant(readings), key=lambda r: r.rank)
            if best is None or reading.rank[:2] < best.rank[:2]:
                best = reading
            if best.spanned and best.unknown == 0:
                break
        assert best is not None
        return best

    def functions(self) -> Reading:
        """Coefficients as monomials or members of the library; those without a formula with what they depend on."""
        if self.doubtful:
            sharp = self._functions(self._precisions[0])
            if sharp.spanned and sharp.unknown == 0:
                return sharp
        return self._functions((self._monomials.unit, self._monomials.explained))

    @property
    def doubtful(self) -> bool:
        """Whether the monomials hold to float32's precision alone, though the gradient has more digits than that."""
        return len(self._precisions) > 1 and self._monomials.unit > FLOAT64

    def _functions(self, unit: tuple[float, float]) -> Reading:
        bases = sorted(_BASES[self.universe.process], key=lambda basis: len(self._read(basis, unit).terms))
        readings: list[Reading] = []
        for basis in bases:
            if not readings or len(readings[0].terms) == len(self._read(basis, unit).terms):
                readings.append(self._read(basis, unit, self._dependence(basis, unit[0])))
        return min(_meant(readings), key=lambda r: r.rank)

    def _dependence(self, basis: Basis, unit: float) -> Dependence:
        return Dependence(self.adapter, self.universe, basis, unit, self.universe.draw(_spec(6, (2, 3, 4), 300)))

    def _read(self, basis: Basis, precision: tuple[float, float], dependence: Dependence | None = None) -> Reading:
        unit, explained = precision
        seen = self.samples(basis, unit, self.cases, self.gradients)
        fresh = self.samples(basis, unit, self.fresh, self.fresh_gradients)
        if not seen:
            return Reading(basis, (), 0.0, unit, explained)
        empty = Reading(basis, (), max(s.residual for s in [*seen, *fresh]), unit, explained)
        terms = []
        for name, vector in basis:
            weight = _Weight(name, vector, _occurring(name, seen), _occurring(name, fresh))
            if weight.seen:
                terms.append(self._term(weight, dependence) if empty.spanned else Term(name, vector, None))
        return replace(empty, terms=tuple(terms))

    def _term(self, weight: _Weight, dependence: Dependence | None) -> Term:
        formula = weight.monomial()
        if formula is None and dependence is not None and not dependence.mixes[weight.name]:
            formula = weight.function(dependence.scalars(weight.name))
        if formula is not None:
            return Term(weight.name, weight.vector, formula)
        names = () if dependence is None else dependence.names[weight.name]
        every = [] if dependence is None else dependence.scalars(weight.name)
        shown = [s for s in weight.seen[0].scalars if s.name in names] + [s for s in every if s in SHOWN] + [B]
        examples = [(s.coefficients[weight.name], {x: s.scalars[x] for x in shown}) for s in weight.seen[:3]]
        mixes = dependence is not None and dependence.mixes[weight.name]
        return Term(weight.name, weight.vector, None, names, mixes, tuple(examples))

    def samples(self, basis: Basis, unit: float, cases: Sequence[Case], gradients: Sequence[Tensor]) -> list[Sample]:
        out = []
        for case, g in zip(cases, gradients, strict=True):
            if id(case) not in self._numbers:
                self._numbers[id(case)] = numbers(self.universe, case)
            out += decompose(case, g, basis, self._numbers[id(case)], unit)
        return out

    def clip(self, reading: Reading) -> tuple[str, bool, float]:
        """By which rule samples with an advantage have no policy gradient, if by one, and how many far off-policy."""
        if not reading.terms or not reading.spanned:
            return "", True, 0.0
        first = reading.terms[0].direction
        silent, advantage, far = [], [], []
        edges: list[tuple[float, float]] = []
        ratios: dict[sp.Symbol, list[float]] = {}
        for seed in range(6):
            policy: PolicyRegime = "far" if seed < 3 else "off"
            spec = Spec(8, (3, 5), seed, policy, "typical", "middle", clip=(0, 3)[seed % 2])  # a wide and a narrow one
            case = self.universe.case(self.universe.draw(spec))
            edges += [(case.clip_low, case.clip_high)] * 8
            every = numbers(self.universe, case)
            found = decompose(case, self.adapter.observe(case).gradient, reading.basis, every, reading.unit)
            loud = {s.row for s in found if s.coefficients.get(first, 0.0) != 0}
            silent += [i not in loud for i in range(8)]
            far += [i not in loud for i in range(8) if policy == "far"]
            advantage += case.advantage.tolist()
            for s, x in every.items():
                if is_ratio(s):
                    ratios.setdefault(s, []).extend(x.tolist())
        low, high = np.array(edges).T
        every_ratio = [np.array(r) for r in ratios.values()]
        words, ruled = clip_words(np.array(silent), np.array(advantage), every_ratio, low, high)
        return words, ruled, sum(far) / len(far)


def _meant(readings: list[Reading]) -> list[Reading]:
    """Without those on v_θ and v_gt apart that have no formula: any function of the two lies there."""
    kept = [r for r in readings if r.basis[0] != _V or r.unknown == 0]
    return kept or readings


def _spec(batch: int, latent: tuple[int, ...], seed: int, advantage: AdvantageRegime = "typical") -> Spec:
    return Spec(batch, latent, seed, policy="off", advantage=advantage, time="middle")


def _occurring(name: str, samples: Sequence[Sample]) -> list[Sample]:
    """Where a coefficient is more than what another one's rounding leaves of it."""
    out = []
    for s in samples:
        value = abs(s.coefficients.get(name, 0.0))
        if value > max(_FAINT * max(map(abs, s.coefficients.values())), 20 * s.errors.get(name, 0.0)):
            out.append(s)
    return out
