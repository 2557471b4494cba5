"""Numbers that a reverse step's code keeps its standard deviation from 0 with: a floor, or something added to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import Norm2
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.check import Wrong
from gradcheck.parts._sde_formulas import Formulas
from gradcheck.parts._sde_subject import Subject
from gradcheck.rounding.bounds import unit_roundoff

__all__ = ["guarded_formulas"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class _Seen:
    """What a step was given and returned on all problems, one entry a sample.

    Attributes:
        std: the step's standard deviation.
        dt: its length.
        squares: ‖x_prev − mean‖², with the declared mean.
        size: coordinates of the latent.
        log_prob, returned: what came back; ``None`` for what the function does not have.
    """

    std: Array
    dt: Array
    squares: Array
    size: Array
    log_prob: Array | None
    returned: Array | None


def _seen(subject: Subject) -> _Seen:
    rows: list[list[Tensor]] = []
    for _, case in subject.problems():
        call = subject.call(case, replay=True)
        if call.std is not None and call.std.numel() != len(call.x_prev):
            raise Wrong("one standard deviation a sample is needed here")
        count = torch.zeros(len(call.x_prev), dtype=torch.float64)
        rows.append(
            [
                subject.value(n.C2, case).flatten() + count,
                case.dt + count,
                subject.value(Norm2(n.x_prev - subject.formulas.mean), case).flatten() + count,
                float(case.v_theta[0].numel()) + count,
                count.nan_to_num() if call.log_prob is None else call.log_prob.detach().double(),
                count if call.std is None else call.std.detach().double().flatten(),
            ]
        )
    std, dt, squares, size, log_prob, returned = (torch.cat(x).numpy() for x in zip(*rows, strict=True))
    return _Seen(
        std,
        dt,
        squares,
        size,
        None if "log_prob" in subject.lacks else log_prob,
        None if "std" in subject.lacks else returned,
    )


_Guard = Callable[[Any, Any, Any, Callable[[Any, Any], Any]], Any]
"""What becomes of the standard deviation: of it, of Δt, of the number, and with which greatest."""

_GUARDS: tuple[tuple[str, str, _Guard, bool], ...] = (
    ("floor", "is clamped from below, to at least {c}", lambda s, dt, c, most: most(s, c), False),
    ("shifted", "has {c} added to it", lambda s, dt, c, most: s + c, False),
    ("shifted", "has {c} added to its square", lambda s, dt, c, most: (s**2 + c) ** 0.5, False),
    ("floor", "has its σ_t clamped from below, to at least {c}", lambda s, dt, c, most: most(s, c * dt**0.5), True),
    ("shifted", "has {c} added to its σ_t", lambda s, dt, c, most: s + c * dt**0.5, True),
)
"""Kind, words, the guard, and whether it is on σ_t, which CPS's step has none of."""

_SITES = ("log-probability", "exponent", "normaliser", "step", "returned")


def guarded_formulas(subject: Subject) -> Iterator[tuple[str, str, Formulas]]:
    """Named mistakes with a number in them that was read off what the function returned."""
    try:
        seen = _seen(subject)
    except (Wrong, AdapterError):
        return
    with np.errstate(all="ignore"):  # numbers far from the one that is sought overflow
        found = list(_guarded(subject, seen))
    yield from found


def _guarded(subject: Subject, seen: _Seen) -> Iterator[tuple[str, str, Formulas]]:
    right = subject.formulas
    for kind, words, guard, on_sigma in _GUARDS:
        if on_sigma and right.sde == "cps":
            continue
        for site in _SITES:
            c = _number(seen, right, site, guard, subject.dtype)
            if c is None:
                continue
            wrong = guard(n.C2, n.dt, sp.Float(c), sp.Max)
            change = {n.C2: wrong}
            exponent = {"precision": right.precision.xreplace(change)}
            normaliser = {"constant": right.constant.xreplace(change)}
            returned = {"returned": right.returned.xreplace(change)}
            where, edits = {
                "log-probability": ("in the log-probability ", {**exponent, **normaliser}),
                "exponent": ("in the log-probability's exponent ", exponent),
                "normaliser": ("in the log-probability's normaliser ", normaliser),
                "step": ("", {"std": wrong, **returned, **exponent, **normaliser}),
                "returned": ("that is returned ", returned),
            }[site]
            sentence = f"the standard deviation {where}{words.format(c=f'{c:.6g}')}"
            yield f"std-{kind}", sentence, replace(right, **edits)


_GRID = np.logspace(-12, 1, 521)


def _number(seen: _Seen, right: Formulas, site: str, guard: _Guard, dtype: torch.dtype) -> float | None:
    """The number with which everything that was returned is predicted; of the fewest digits, ``None`` if none is."""
    observed = seen.returned if site in ("step", "returned") else seen.log_prob
    if observed is None and site == "step":
        observed, site = seen.log_prob, "log-probability"
    if observed is None:
        return None
    symbols = (n.C2, n.dt, n.D)
    precision, constant, returned = (
        sp.lambdify(symbols, e, "numpy") for e in (right.precision, right.constant, right.returned)
    )

    def predicted(c: Any, rows: Any = slice(None)) -> Array:
        s, dt, size = seen.std[rows], seen.dt[rows], seen.size[rows]
        wrong = guard(s, dt, c, np.maximum)
        if site in ("step", "returned"):
            return np.asarray(returned(wrong, dt, size) + 0 * wrong)
        exponent, normaliser = (s if site == "normaliser" else wrong), (s if site == "exponent" else wrong)
        return np.asarray(-precision(exponent, dt, size) * seen.squares[rows] - constant(normaliser, dt, size))

    def fits(c: float) -> bool:
        off = np.abs(predicted(c) - observed)
        return bool((off <= tolerance).all())

    right_one = predicted(0.0)
    # rounding of the quadratic form, and of a difference of times in the step's length
    tolerance = 256 * unit_roundoff(dtype) * (1 + np.abs(right_one) + np.abs(observed)) * (1 + 1 / seen.dt)
    off = np.abs(observed - right_one) / tolerance
    if not np.isfinite(off).all() or off.max() <= 1:
        return None
    worst = int(off.argmax())

    def miss(c: Any) -> Array:
        return np.asarray(predicted(c, worst) - observed[worst])

    on_grid = miss(_GRID) + 0 * _GRID
    for i in np.nonzero(np.diff(np.sign(on_grid)))[0]:
        low, high = float(_GRID[i]), float(_GRID[i + 1])
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if np.sign(miss(middle)) == np.sign(on_grid[i]) else (low, middle)
        for digits in range(1, 8):
            c = float(f"{(low + high) / 2:.{digits}g}")
            if fits(c):
                return c
    return None
