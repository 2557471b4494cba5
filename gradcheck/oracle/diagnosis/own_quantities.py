r"""How far a gradient is off along each of the field's directions, and on which of the sample's own numbers that rests.

For a wrong gradient that no cause explains: its coefficients over the required ones are ranges, and a quantity matters
if the quotients change with it, all others held.  So it is not one that enters the required gradient alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from derivations.notation import quantity
from derivations.writing.render import text
from gradcheck.case import Case
from gradcheck.oracle.diagnosis.evidence import Evidence
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.required import required_of
from gradcheck.problems.building import complete
from gradcheck.reading.xray import decompose

__all__ = ["along_directions", "own_that_matter"]

_FEWEST = 10
"""Coordinates on which the field's directions are no basis of everything."""
_APART = 1e-6
"""Relative distance of two quotients that are not one."""

Quotients = Mapping[tuple[int, str], float]
"""Sample and direction → the observed coefficient over the required one."""


def _quotients(e: Evidence, case: Case, observed: Tensor, required: Tensor) -> Quotients | None:
    """Of all samples; ``None`` where the directions do not hold a gradient."""
    effective = effective_case(e.conventions, case)
    yours = {s.row: s for s in decompose(effective, observed)}
    wanted = {s.row: s for s in decompose(effective, required)}
    found = {}
    for row in yours.keys() & wanted.keys():
        if max(yours[row].residual, wanted[row].residual) > max(_APART, 1e3 * e.equal):
            return None
        for name, c in wanted[row].coefficients.items():
            if c != 0:
                found[row, name] = yours[row].coefficients.get(name, 0.0) / c
    return found


def along_directions(evidence: list[Evidence]) -> str:
    """By how much a wrong gradient is off along each direction; empty where it leaves them, or where all is alike."""
    ranges: dict[str, list[float]] = {}
    for e in evidence:
        if e.slack != 1 or e.case.output[0].numel() < _FEWEST:
            continue
        found = _quotients(e, e.case, e.observed, e.required)
        if found is None:
            return ""
        for (row, name), c in found.items():
            if bool(e.wrong[row]):
                ranges.setdefault(name, []).append(c)
    told = []
    for name, values in ranges.items():
        low, high = min(values), max(values)
        alike = high - low <= _APART * max(abs(low), abs(high))
        size = _figure(low, 4) if alike else f"{_figure(low, 3)} to {_figure(high, 3)}"
        right = alike and abs(low - 1) < _APART
        told.append(f"along {name} it is " + ("right" if right else f"{size} times the required one"))
    return ", ".join(told)


def _figure(x: float, digits: int) -> str:
    return f"{x:.{digits}g}".replace("-", "−")


def own_that_matter(judge: Judge, evidence: list[Evidence]) -> tuple[str, ...]:
    """The sample's own quantities on which the quotients rest, by their symbols."""
    usable = [e for e in evidence if e.slack == 1 and e.case.output[0].numel() >= _FEWEST and bool(e.wrong.any())]
    if not usable:
        return ()
    e = usable[0]
    before = _quotients(e, e.case, e.observed, e.required)
    if not before:
        return ()
    found = []
    for name in judge.conventions.derivation.given:
        case = _moved(judge, e.case, name)
        if case is None:
            continue
        after = _quotients(e, case, judge.observe(case).gradient, required_of(judge.conventions, case).gradient)
        if after is None:
            return ()
        pairs = [(before[key], after[key]) for key in before.keys() & after.keys()]
        if any(abs(a - b) > 1e-4 * max(abs(a), abs(b), 1e-9) for a, b in pairs):
            found.append(text(quantity(name).symbol))
    return tuple(found)


_PLACED = ("t", "dt", "alpha_bar", "alpha_bar_prev")
"""Quantities whose change would leave the grid."""


def _moved(judge: Judge, case: Case, name: str) -> Case | None:
    """The case with one quantity a tenth smaller in every sample; ``None`` for one number, and for times."""
    derivation, value = judge.conventions.derivation, getattr(case, name)
    if not isinstance(value, Tensor) or value.ndim == 0 or not value.is_floating_point():
        return None
    if name in _PLACED and derivation.process == "backward":
        return None
    held = {x: getattr(case, x) for x in case.names}
    plain = {x: v.detach() if isinstance(v, Tensor) else v for x, v in held.items()}
    given = {x: plain[x] for x in derivation.given} | {name: 0.9 * plain[name]}
    extra = {x: v for x, v in plain.items() if x not in given and x not in derivation.defined}
    return complete(derivation, given, case.output.device, extra)
