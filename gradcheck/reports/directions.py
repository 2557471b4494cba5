"""The gradients behind a failure, evaluated once more, for a picture of where they point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.errors import GradcheckError
from gradcheck.judging.adapter import Adapter
from gradcheck.judging.results import Judgement, Result
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec
from gradcheck.reading.xray import DIRECTIONS
from gradcheck.reports.shared import explained_first

__all__ = ["Directions", "Key", "directions_of", "failure_directions"]

Key = tuple[str, str, str]
"""Subject, obligation, device."""

_SEEDS = range(3)
_BATCH, _LATENT = 4, (3, 5)  # more coordinates than directions, so that none is parallel by accident


@dataclass(frozen=True)
class Directions:
    """One sample's gradients and the field's directions, as flat vectors.

    Attributes:
        observed: the implementation's gradient.
        required: the derived one.
        named: ε, v_θ − v_old, …, those that the algorithm has.
    """

    observed: tuple[float, ...]
    required: tuple[float, ...]
    named: tuple[tuple[str, tuple[float, ...]], ...]


def failure_directions(subject: Subject, settings: Settings, judgement: Judgement) -> dict[Key, Directions]:
    """For the first failure of each cause, as far as it is about a gradient."""
    out: dict[Key, Directions] = {}
    for result, first in explained_first(judgement):
        found = directions_of(subject, settings, result) if first else None
        if found is not None:
            out[judgement.subject, result.id, result.device] = found
    return out


def directions_of(subject: Subject, settings: Settings, result: Result) -> Directions | None:
    """Of the sample that is furthest off, among problems of the failing one's regimes; ``None`` if none is."""
    spec = result.outcome.spec
    if spec is None or result.outcome.comparison is None:
        return None
    adapter = Adapter(subject.function, subject.name, subject.conventions.batch_reduction, settings.timeout)
    judge = Judge(adapter, subject.conventions, result.device, torch.float64)
    try:
        found = [_worst(judge, replace(spec, batch=_BATCH, latent=_LATENT, seed=seed)) for seed in _SEEDS]
    except GradcheckError:
        return None  # it could be judged on the failing problem, not on this one
    distance, worst = max(found, key=lambda f: f[0])
    return worst if distance > 1e-6 else None


def _worst(judge: Judge, spec: Spec) -> tuple[float, Directions | None]:
    """The relative distance of the sample that is furthest off, and its directions."""
    case = judge.case(spec)
    observed, required = _rows(judge.observe(case).gradient), _rows(judge.required(case).gradient)
    size = torch.maximum(observed.norm(dim=1), required.norm(dim=1))
    distance = (observed - required).norm(dim=1) / size
    distance = torch.where(distance.isfinite(), distance, 0.0)
    i = int(distance.argmax())
    named = tuple((name, tuple(rows[i].tolist())) for name, rows in _named(case))
    return float(distance[i]), Directions(tuple(observed[i].tolist()), tuple(required[i].tolist()), named)


def _rows(x: Tensor) -> Tensor:
    return x.detach().to("cpu", torch.float64).flatten(1)


def _named(case: Case) -> list[tuple[str, Tensor]]:
    values = case.broadcast(torch.float64)
    present = [(name, expr) for name, expr in DIRECTIONS if all(s.name in values for s in expr.free_symbols)]
    return [(name, _rows(_sum(expr.as_coefficients_dict(), values))) for name, expr in present]


def _sum(terms: Mapping[object, object], values: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([float(str(c)) * values[str(symbol)].detach() for symbol, c in terms.items()]).sum(0)
