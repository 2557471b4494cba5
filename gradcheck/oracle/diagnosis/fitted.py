r"""Mistakes with an unknown number in them: which number, if any, explains every sample?

The number is found on one problem, by least squares from a grid of starting points, and then has to predict all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import Unless, VectorSymbol
from derivations.notation import quantity
from derivations.writing.render import text
from gradcheck.conventions import Conventions
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence, explains, lengths, plain, rows_of
from gradcheck.oracle.diagnosis.named import holds_everywhere
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.mistakes import Prediction
from gradcheck.oracle.mistakes.candidates import Overrides
from gradcheck.oracle.mistakes.errors import MASKS, errors_of, in_errors
from gradcheck.oracle.mistakes.functions import Bounded, DualClip, Huber, Leaky, Masked, Right
from gradcheck.oracle.mistakes.places import (
    DIVERGENCE_STD,
    MEAN_BEHIND,
    POLICY,
    SURROGATE,
    WHERE,
    Place,
    Stated,
    stated,
)
from gradcheck.oracle.required import overall_factor

__all__ = ["fitted_number", "held_number"]


@dataclass(frozen=True)
class _Family:
    """A mistake with a number c in it.

    Attributes:
        name: its id.
        sentence: with ``{c}`` where the number is told.
        edits: what the number makes of the loss.
        starts: where it is sought from.
        declare: with ``{c}``, if it may be meant.
        threshold: only which samples are beyond the number matters, so that each start is tried as it is.
    """

    name: str
    sentence: str
    edits: Callable[[sp.Expr], Overrides]
    starts: tuple[float, ...]
    declare: str = ""
    threshold: bool = False


_WRITTEN = (1.0, 2.0, 3.0, 5.0, 4.0, 6.0, 7.0, 8.0, 9.0, 1.5, 2.5, 1.2)
_THRESHOLDS = tuple(float(f"{x * size:.2g}") for size in (0.1, 1.0, 10.0, 0.01) for x in _WRITTEN)
"""What code has for a limit, the likeliest first."""
_SIZES = tuple(10 ** (x / 3) for x in range(-7, 5))
_SHIFTS = (*_SIZES, *(-x for x in _SIZES))
_SCALES = tuple(2.0**x for x in (-4, -2.5, -1.4, -0.7, -0.3, 0.3, 0.7, 1.4, 2.5, 4))
_SHARES = (-0.5, 0.05, 0.2, 0.5, 0.8, 1.5, 3.0)


def held_number(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """A number that the code holds itself, where the case has one that differs from problem to problem."""
    return _first_fit(judge, evidence, _held(judge.conventions))


def fitted_number(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """The first mistake with a number in it that explains every sample."""
    return _first_fit(judge, evidence, _each_side(judge.conventions))


def _first_fit(judge: Judge, evidence: list[Evidence], families: Iterator[_Family]) -> Diagnosis | None:
    e = max(evidence, key=lambda e: int((e.wrong & ~e.undecided).sum()))
    for family in families:
        for c in _numbers(e, family):

            def predict(e: Evidence, family: _Family = family, c: float = c) -> Prediction:
                return _prediction(e, family, c)

            if explains(evidence, predict) and holds_everywhere(judge, predict):
                return Diagnosis(family.name, family.sentence.format(c=f"{c:.6g}"), family.declare.format(c=f"{c:.6g}"))
    return None


_BEHIND = (n.log_prob_old, MEAN_BEHIND, n.mean_ref)
"""What code may read from its case, as the right step gave it."""


_HELD = (0.7, 0.3, 0.8, 0.04, 0.004, *_SIZES, 100.0, 500.0, 1000.0, 2000.0, 5000.0)
_NOT_HELD = ("D", "clip_low", "clip_high", "divergence_max", "guidance_scale")
"""Clips are read off by themselves, and a bound tells a number only roughly."""


def _held(declared: Conventions) -> Iterator[_Family]:
    d = declared.derivation
    for name in d.given:
        if quantity(name).axes != "problem" or name in (*_NOT_HELD, *declared.fixed):
            continue
        symbol = quantity(name).symbol
        sentence = f"{text(symbol)} is {{c}}, whatever the case has: the implementation holds it itself"
        yield _Family(f"convention:{name}", sentence, partial(_constant, symbol), _HELD, f"{name}={{c}}")


def _constant(symbol: sp.Symbol, c: sp.Expr) -> Overrides:
    return {symbol: c}


def _each_side(declared: Conventions) -> Iterator[_Family]:
    """Each mistake, made throughout or in the trained model's side alone."""
    own = stated(declared.derivation)
    for family in _families(declared):
        yield family
        changed = frozenset(family.edits(sp.Float(0.5)))
        held = [s for s in _BEHIND if s in own.reach(changed) and s not in changed]
        if held:
            given = {s: Right(n.mean_old if s == MEAN_BEHIND else s) for s in held}
            yield replace(family, edits=partial(_with, family.edits, given))


def _with(edits: Callable[[sp.Expr], Overrides], given: Overrides, c: sp.Expr) -> Overrides:
    return {**edits(c), **given}


def _families(declared: Conventions) -> Iterator[_Family]:
    d = declared.derivation
    own = stated(d)
    a = n.advantage
    if a.name in d.given:
        yield _Family("advantage-shifted", "{c} is added to the advantage", lambda c: {a: Right(a) + c}, _SHIFTS)
        free = declared.adv_clip_max is None
        yield _Family(
            "convention:adv_clip_max" if free else "advantage-clamped",
            "the implementation behaves as adv_clip_max={c} says" if free else "the advantage is clamped to ±{c}",
            lambda c: {a: sp.Max(sp.Min(Right(a), c), -c)},
            _SIZES,
            "adv_clip_max={c}" if free else "",
        )
    yield from _of_the_ratio(declared, own)
    for name in (*d.given, *d.defined):
        symbol = quantity(name).symbol
        if symbol == d.output or name in ("D", "x_prev", "clip_low", "clip_high", "divergence_max", "window"):
            continue
        right = own.table.get(symbol, Right(symbol))
        if right.is_number or (isinstance(symbol, VectorSymbol) and symbol in own.table and name != "v_gt"):
            continue
        sentence = f"{text(symbol)} is {{c}} times what it must be"
        yield _Family(f"{name.replace('_', '-')}-scaled", sentence, partial(_scaled, symbol, right), _SCALES)
    for place in own.deviations:
        std = f"the standard deviation in {WHERE[place]}"
        right = own.table[place]
        # which samples are beyond a bound tells a number only roughly
        least, size = ("about ", "about ") if place == DIVERGENCE_STD else ("at least ", "")
        yield _Family("std-shifted", f"{size}{{c}} is added to {std}", partial(_added, place, right), _SIZES)
        yield _Family(
            "std-floor", f"{std} is clamped from below, to {least}{{c}}", partial(_floored, place, right), _SIZES
        )
        times = f"{std} is {size}{{c}} times what it must be"
        yield _Family("std-scaled", times, partial(_scaled, place, right), _SCALES)
    shared = [p for p in own.deviations if own.table[p] == n.C2]
    for places in (shared, shared[1:]):  # one number that a trainer computes once, the log-probability's aside or not
        if len(places) > 1:
            where = " and ".join([", ".join(WHERE[p] for p in places[:-1]), WHERE[places[-1]]])
            std = f"the step's standard deviation in {where}"
            yield _Family(
                "std-floor", f"{std} is clamped from below, to at least {{c}}", _each(_floored, places), _SIZES
            )
            yield _Family("std-shifted", f"{{c}} is added to {std}", _each(_added, places), _SIZES)
    yield from _of_the_error(own)
    for signal in (n.reward, n.advantage):
        exponents = [x for x in own.table[POLICY].atoms(sp.exp) if x.has(signal)]
        if len(exponents) == 1 and n.temperature in exponents[0].free_symbols:
            (exponential,) = exponents
            yield _Family(
                "exponent-clamped",
                f"the exponent of the weight, {text(exponential.args[0])}, is clamped to at most {{c}}",
                lambda c, x=exponential: _in_the_policy(own, {x: sp.exp(sp.Min(x.args[0], c))}),  # type: ignore[misc]
                _SIZES,
            )
            yield _Family(
                "weight-clamped",
                "the weight of a sample is clamped to at most {c}",
                lambda c, x=exponential: _in_the_policy(own, {x: sp.Min(x, c)}),  # type: ignore[misc]
                _SIZES,
            )


def _scaled(symbol: sp.Symbol, right: sp.Expr, c: sp.Expr) -> Overrides:
    return {symbol: c * right}


def _added(symbol: sp.Symbol, right: sp.Expr, c: sp.Expr) -> Overrides:
    return {symbol: right + c}


def _floored(symbol: sp.Symbol, right: sp.Expr, c: sp.Expr) -> Overrides:
    return {symbol: sp.Max(right, c)}


def _each(
    change: Callable[[sp.Symbol, sp.Expr, sp.Expr], Overrides], places: list[Place]
) -> Callable[[sp.Expr], Overrides]:
    """The same change of C2 at several places."""
    return lambda c: {place: e for p in places for place, e in change(p, n.C2, c).items()}


def _in_the_policy(own: Stated, change: dict[sp.Expr, sp.Expr]) -> Overrides:
    return {POLICY: own.table[POLICY].xreplace(change)}


def _of_the_ratio(declared: Conventions, own: Stated) -> Iterator[_Family]:
    log_ratio = own.table.get(n.log_ratio)
    if log_ratio is None:
        return
    yield _Family(
        "log-ratio-shifted",
        "{c} is added to the log-ratio: the two log-probabilities differ by a constant",
        lambda c: {n.log_ratio: log_ratio + c},
        _SHIFTS,
    )
    yield _Family(
        "log-ratio-scaled",
        "the log-ratio is {c} times what it must be",
        lambda c: {n.log_ratio: c * log_ratio},
        _SCALES,
    )
    yield _Family(
        "convention:log_ratio_max",
        "the implementation behaves as log_ratio_max={c} says: the log-ratio is clamped",
        lambda c: {n.log_ratio: Bounded(log_ratio, -c, c)},
        _THRESHOLDS,
        "log_ratio_max={c}",
        threshold=True,
    )
    if SURROGATE not in own.table:
        return
    stopped = [m for m in own.table[POLICY].atoms(Unless) if m.args[0] == -n.advantage]
    if len(stopped) == 1:  # a dual clip is declared
        (inside,) = stopped
        yield _Family(
            "convention:dual_clip",
            "the dual clip stops bad samples beyond a ratio of {c}",
            lambda c: _in_the_policy(own, {inside: Unless(inside.args[0], n.ratio - c)}),
            tuple(x for x in _THRESHOLDS if x > 1),
            "dual_clip={c}",
            threshold=True,
        )
    a, r, low, high = own.table[SURROGATE].args
    for name, sentence, formula, starts, written in (
        (
            "clip-leaky",
            "the clipped ratio keeps a slope of {c} beyond the clip's edges; it must have none",
            lambda c: Leaky(a, r, low, high, c),
            _SHARES,
            "",
        ),
        (
            "convention:clip",
            "the surrogate has a dual clip: negative advantages have no gradient beyond a ratio of {c}",
            lambda c: DualClip(a, r, low, high, c),
            tuple(x for x in _THRESHOLDS if x > 1),
            "clip='dual', dual_clip={c}",
        ),
        (
            "quadratic-penalty",
            "a quadratic penalty {c}·|A|(r − 1)² stands in the clip's place",
            lambda c: -r * a + c * sp.Abs(a) * (r - 1) ** 2,
            _SIZES,
            "",
        ),
    ):
        dual = name == "convention:clip"
        yield _Family(name, sentence, lambda c, f=formula: {SURROGATE: f(c)}, starts, written, dual)  # type: ignore[misc]


def _of_the_error(own: Stated) -> Iterator[_Family]:
    if not errors_of(own):
        return
    for which, words in enumerate(MASKS):
        yield _Family(
            "coordinates-masked",
            f"the coordinates at {words} are weighed {{c}} in the error",
            lambda c, w=which: in_errors(own, lambda x: Masked(x.args[0], w, c)),  # type: ignore[misc]
            _SHARES,
        )
    for factor, what in ((1, "½x²"), (2, "x²")):
        yield _Family(
            "huber",
            f"the error of each coordinate is Huber's (smooth L1, δ = {{c}}, {what} inside), not squared",
            lambda c, f=factor: in_errors(own, lambda x: f * Huber(x.args[0], c)),  # type: ignore[misc]
            _SIZES,
        )


def _prediction(e: Evidence, family: _Family, c: float) -> Prediction:
    return e.trial.predict(family.edits(sp.Float(c))).times(overall_factor(e.conventions, e.case))


_LEFT = 1e-3
"""What least squares may leave of the observed gradients, squared and relative, where a number is worth trying."""


def _numbers(e: Evidence, family: _Family) -> Iterator[float]:
    """The number that fits one problem, of the fewest digits that do not differ from it; nothing if none does."""
    if family.threshold:
        yield from (c for c in family.starts if e.allows(_prediction(e, family, c)))
        return
    usable = ~e.undecided & rows_of(e.observed).isfinite().all(1) & (lengths(rows_of(e.observed)) > 10 * e.rounding)
    usable = usable | (e.wrong & ~e.undecided)
    if int(usable.sum()) < 2:
        return
    seen = rows_of(e.observed)[usable]
    size = torch.maximum(lengths(seen), lengths(rows_of(e.required))[usable]).clamp(min=1e-300)[:, None]

    def off(c: float) -> Tensor:
        return ((rows_of(_prediction(e, family, c).gradient)[usable] - seen) / size).nan_to_num(1e3, 1e3, -1e3)

    def misfit(x: Tensor) -> float:
        return float((x**2).sum(1).clamp(max=1.0).sum())

    start = min(family.starts, key=lambda c: misfit(off(c)))
    c = _polished(off, misfit, start)
    if c is None or misfit(off(c)) > _LEFT:
        return
    yield plain(c, 1e-6 + 4 * e.equal)


def _polished(off: Callable[[float], Tensor], misfit: Callable[[Tensor], float], c: float) -> float | None:
    """Gauss and Newton's steps, each as long as it helps."""
    here = off(c)
    hopeless = misfit(here) / 2
    for tried in range(12):
        if tried == 4 and misfit(here) > hopeless:
            return None
        h = 1e-6 * abs(c)
        slope = (off(c + h) - here) / h
        bend = float((slope**2).sum())
        if not math.isfinite(bend) or bend == 0:
            return None
        step = float((slope * here).sum()) / bend
        for _ in range(6):
            there = off(c - step)
            if misfit(there) < misfit(here) or abs(step) < 1e-13 * abs(c):
                break
            step /= 4
        if abs(step) < 1e-12 * abs(c) or misfit(there) >= misfit(here):
            break
        c, here = c - step, there
        if c == 0:
            return None
    return c
