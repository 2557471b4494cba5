r"""What a gradient's coefficients depend on, found by changing one quantity of a case at a time."""

from __future__ import annotations

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from gradcheck.judging.adapter import Adapter
from gradcheck.reading.xray import Sample, decompose
from gradcheck.unveiling.universal import Quantities, Universe
from gradcheck.unveiling.weights import MEANINGS, is_ratio, numbers

__all__ = ["Basis", "Dependence"]

Basis = tuple[tuple[str, sp.Expr], ...]
"""Directions of the field: the name and the expression of each."""


class Dependence:
    """What coefficients depend on: one quantity of a case is changed at a time, and each sample alone.

    Attributes:
        names: by direction, the quantities that change its coefficient.
        mixes: by direction, whether a sample's coefficient changes with another sample.
    """

    def __init__(self, adapter: Adapter, universe: Universe, basis: Basis, unit: float, given: Quantities) -> None:
        self._adapter, self._universe, self._process = adapter, universe, universe.process
        self._basis, self._unit = basis, unit
        self._numbers, self._rows = self._see(given)
        samples = range(len(torch.as_tensor(given["t"])))
        changed: dict[str, set[str]] = {name: set() for name, _ in basis}
        self._moves: dict[sp.Symbol, set[str]] = {}
        for name, other in universe.changed(given):
            every, rows = self._see(other)
            for direction in changed:
                if self._differ(direction, rows, samples):
                    changed[direction].add(name)
            for s, x in every.items():
                if not torch.allclose(x, self._numbers[s], rtol=1e-9, atol=0):
                    self._moves.setdefault(s, set()).add(name)
        self._unread = self._not_read(given) if self._process == "forward" else None
        shown = {"reward_prob": "advantage"} if self._unread == n.reward_prob else {}
        self.names = {d: tuple(shown.get(x, x) for x in given if x in found) for d, found in changed.items()}
        alone = dict(given)
        for name, other in universe.changed(given):
            value, new = alone[name], other[name]
            if isinstance(value, Tensor) and isinstance(new, Tensor) and name != "dt":
                alone[name] = torch.cat([new[:1], value[1:]])
                if name == "t" and "dt" in given:  # the step moves as a whole, so that the grid stays one
                    alone["dt"] = torch.cat([torch.as_tensor(other["dt"])[:1], torch.as_tensor(given["dt"])[1:]])
        if self._process == "forward":
            alone["advantage"] = 2 * torch.as_tensor(alone["reward_prob"]) - 1
        _, rows = self._see(alone)
        self.mixes = {d: self._differ(d, rows, samples[1:]) for d in changed}

    def scalars(self, direction: str) -> list[sp.Symbol]:
        """Numbers that change with nothing but what the coefficient changes with, the plain ones first."""
        names = {"reward_prob" if x == "advantage" else x for x in self.names[direction]} | set(self.names[direction])
        fit = [s for s in self._numbers if self._moves.get(s) and self._moves[s] <= names and s != self._unread]
        return sorted(fit, key=lambda s: (s in MEANINGS, is_ratio(s)))

    def _not_read(self, given: Quantities) -> sp.Symbol | None:
        """Which of r and A = 2r − 1 the loss does not look at, if it looks at one alone."""
        case = self._universe.case(given)
        before = self._adapter.observe(case).gradient
        moved = [
            not torch.equal(before, self._adapter.observe(case.replace(**{s.name: other})).gradient)
            for s, other in ((n.advantage, -case.advantage), (n.reward_prob, 1 - case.reward_prob))
        ]
        return None if moved[0] == moved[1] else n.reward_prob if moved[0] else n.advantage

    def _see(self, given: Quantities) -> tuple[dict[sp.Symbol, Tensor], dict[int, Sample]]:
        case = self._universe.case(given)
        every = numbers(self._universe, case)
        found = decompose(case, self._adapter.observe(case).gradient, self._basis, every, self._unit)
        return every, {s.row: s for s in found}

    def _differ(self, direction: str, rows: dict[int, Sample], which: range) -> bool:
        for i in which:
            if i in rows and i in self._rows:
                a, b = (r[i].coefficients.get(direction, 0.0) for r in (rows, self._rows))
                error = max(r[i].errors.get(direction, 0.0) for r in (rows, self._rows))
                if abs(a - b) > 10 * error + 1e-12 * max(abs(a), abs(b)):
                    return True
        return False
