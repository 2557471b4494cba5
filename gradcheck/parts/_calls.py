"""Calling a part, checking what it returns, and validating what it declares."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradcheck.devices import DtypeName
from gradcheck.judging.adapter import StoppedError, problem_of
from gradcheck.judging.check import Wrong
from gradcheck.judging.isolation.limits import time_limit
from gradcheck.judging.isolation.state import JUDGED, Left, State
from gradcheck.judging.results import Diagnosis, Outcome
from gradcheck.problems.building import Spec
from gradcheck.rounding.compare import NOTHING_SEEN, Comparison

__all__ = [
    "CHANGES",
    "FORM",
    "calling",
    "compared",
    "described",
    "distinct",
    "half_precision",
    "limited",
    "name_of",
    "number_problem",
    "one_of",
    "repeated",
    "tensor_result",
    "unchanged",
    "whole_problem",
    "working",
]

_Problem = tuple[str, str, str]


@contextlib.contextmanager
def calling(name: str, seed: int, elsewhere: int = 0) -> Iterator[torch.Generator]:
    """Call a stranger's function: with a seeded generator, the global random state apart from ours.

    Args:
        name: of the function, for messages.
        seed: of the generator that the function is given.
        elsewhere: with ``seed``, of torch's global generator, so that a function that draws from it is seen to.

    Raises:
        AdapterError: the function raises, or leaves a setting changed that decides how others compute.
        StoppedError: it hangs, or wants to end the process.
    """
    state = State.now()
    left: list[Left] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7_919 * seed + 104_729 * elsewhere + 1)
        seeded = State.now()
        try:
            with time_limit(_limit[0]):
                yield torch.Generator().manual_seed(seed)
        except Wrong:
            raise
        except BaseException as error:
            raise problem_of(error, name) from error
        finally:
            left = seeded.restore()
            state.restore()
    spoiled = [one for one in left if one.name not in JUDGED and (name, one.name) in _left_before]
    _left_before.update((name, one.name) for one in left)  # a first call may import something
    if spoiled:
        raise StoppedError(f"{name} {'; '.join(one.words for one in spoiled)}")


_left_before: set[tuple[str, str]] = set()
_limit = [60.0]


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """How long each call inside may take."""
    before, _limit[0] = _limit[0], seconds
    try:
        yield
    finally:
        _limit[0] = before


def tensor_result(value: Any, shape: tuple[int, ...], what: str) -> Tensor:
    """The value, on the CPU, where parts are judged; :class:`Wrong` if it is no floating-point tensor of that shape.

    A NumPy array, and a list of numbers or of scalar tensors, are taken for the tensor that holds the same.
    """
    kind = type(value).__name__
    value = _as_tensor(value)
    if value is None:
        raise Wrong(f"{what} is a {kind}; a torch.Tensor of shape {shape} is required", FORM)
    if tuple(value.shape) != shape:
        cause = Diagnosis("layout", "something is broadcast, reshaped or reduced for another layout")
        raise Wrong(f"{what} has shape {tuple(value.shape)}; {shape} is required", cause)
    if not value.is_floating_point():
        raise Wrong(f"{what} has dtype {value.dtype}; a floating-point one is required", FORM)
    return value.cpu()


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, (Tensor, np.ndarray)):
        return torch.as_tensor(value)
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if all(isinstance(x, Real) and not isinstance(x, bool) for x in value):
        return torch.tensor([float(x) for x in value], dtype=torch.float64)
    scalars = all(isinstance(x, Tensor) and not x.ndim for x in value)
    return torch.stack(list(value)) if scalars else None


def compared(comparisons: Iterable[Comparison | tuple[Spec | None, Comparison]], detail: str = "") -> Outcome:
    """The outcome of several comparisons: the first that fails, or that all hold."""
    ratios: list[float] = []
    resolution: float | None = None
    lost = True
    for item in comparisons:
        spec, one = (None, item) if isinstance(item, Comparison) else item
        ratios.append(one.ratio)
        lost = lost and one.lost
        resolution = min(one.resolution, math.inf if resolution is None else resolution)
        if not one.holds:
            text = detail or "observed {}, required {}".format(*distinct(one.observed, one.required))
            return Outcome(
                "failed", len(ratios), one.ratio, text, one, spec, ratios=tuple(ratios), resolution=resolution
            )
    if ratios and lost:
        return Outcome("skipped", len(ratios), detail=NOTHING_SEEN)
    return Outcome("passed", len(ratios), max(ratios, default=0.0), ratios=tuple(ratios), resolution=resolution)


def repeated(call: Callable[[int, int], Tensor], what: str) -> Outcome:
    """The outcome of calling twice on the same inputs, with torch's global generator in two states.

    Args:
        call: takes the number of the problem, and that of the call.
        what: it returns.
    """
    for i in range(3):
        first, second = (call(i, k) for k in (0, 1))
        if not torch.equal(first.isnan(), second.isnan()) or not torch.equal(first.nan_to_num(), second.nan_to_num()):
            off = float((first - second).abs().nan_to_num().max())
            raise Wrong(f"two calls on the same inputs give {what} that differ by {off:.3g}")
    return Outcome("passed", 3)


CHANGES = Diagnosis(
    "changes", "the result depends on more than the inputs: a random number, or a state that a call leaves"
)
"""Why two calls differ."""


def half_precision(numbers: Tensor) -> Diagnosis | None:
    """Whether many different numbers, in float64, all are numbers of half precision, as hardly any others are."""
    for dtype in (torch.bfloat16, torch.float16):
        if len(numbers.unique()) > 12 and torch.equal(numbers.to(dtype).to(numbers), numbers):
            name = str(dtype).removeprefix("torch.")
            return Diagnosis("half-precision", f"every number that comes back is one of {name}: it is computed in it")
    return None


FORM = Diagnosis("returned-form", "what the function returns has not the form that is asked for")
"""Why nothing else can be said of what comes back."""


def distinct(*numbers: float) -> tuple[str, ...]:
    """Numbers as text, with as many digits as it takes to tell them apart, if they are."""
    shown: tuple[str, ...] = ()
    for digits in (6, 10, 17):
        shown = tuple(f"{x + 0.0:.{digits}g}" for x in numbers)  # −0 reads like a sign error
        if len(set(shown)) == len(set(numbers)):
            break
    return shown


def unchanged(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Raise :class:`Wrong` if an input was changed in place."""
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            cause = Diagnosis("in-place", "an in-place operation on an input")
            raise Wrong(f"the call changes {name} in place", cause)


def described(convention: Any) -> str:
    """A declaration as one writes it: what differs from the defaults."""
    parts = [
        f"{f.name}={getattr(convention, f.name)!r}"
        for f in fields(convention)
        if getattr(convention, f.name) != f.default
    ]
    return ", ".join(parts) or "as by default"


def working(working_dtype: DtypeName | None) -> torch.dtype:
    """The precision in which a part is judged."""
    return torch.float64 if working_dtype is None else getattr(torch, working_dtype)


def name_of(function: Callable[..., Any]) -> str:
    """How reports call a function."""
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def one_of(name: str, value: Any, *allowed: Any) -> list[_Problem]:
    """A problem, unless the value is one of those allowed."""
    return [] if value in allowed else [(name, repr(value), "one of " + ", ".join(map(repr, allowed)))]


def number_problem(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> list[_Problem]:
    """A problem, unless the value is a finite number in [low, high], or (low, high]."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and low <= value <= high and not (open_low and value == low):
        return []
    return [(name, repr(value), f"a finite number in {'(' if open_low else '['}{low:g}, {high:g}]")]


def whole_problem(name: str, value: Any, low: int, high: int) -> list[_Problem]:
    """A problem, unless the value is a whole number from low to high."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return []
    return [(name, repr(value), f"a whole number from {low} to {high:,}")]
