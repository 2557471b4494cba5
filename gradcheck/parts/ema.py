r"""The moving average of a trainer's parameters, judged alone.

.. math:: \theta_{old} \leftarrow d\,\theta_{old} + (1-d)\,\theta

The function is ``function(shadow, live, step)`` with lists of tensors; it updates ``shadow`` in place (and returns
``None``) or returns the new list.  ``store(shadow, live)`` puts the averaged values into the live tensors and returns
what it needs to undo that; ``restore(saved, live)`` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from gradcheck.devices import DtypeName
from gradcheck.errors import InputError
from gradcheck.judging.check import Check, Hypothesis, Info
from gradcheck.judging.engine import Declared
from gradcheck.judging.results import Diagnosis, Judgement
from gradcheck.parts._calls import CHANGES, name_of, number_problem, one_of, whole_problem, working
from gradcheck.parts._declaring import declare
from gradcheck.parts._ema_checks import (
    SCHEDULES,
    Subject,
    alias,
    check_aliasing,
    check_determinism,
    check_live,
    check_restore,
    check_schedule,
    check_swap,
    check_value,
    half_precision_cause,
    schedule,
    swaps,
)
from gradcheck.parts._precision import rounds

__all__ = ["SCHEDULES", "ema_part", "judge_ema"]

_REFERENCE = "derivations/identities.py, ema"


def judge_ema(function: Callable[..., Any], **declared: Any) -> Judgement:
    """Judge a moving average.

    Args:
        function: see the module.
        declared: ``decay``: d, the weight that the shadow keeps: a number in [0, 1] (0.999), a name of
            :data:`SCHEDULES`, or a function of the step; ``every``: n where the average is updated once in n steps, at
            steps n − 1, 2n − 1 … counted from 0, or ``(n, i)`` for i, n + i …; ``store`` and ``restore``, which swap
            the average in and undo it, and without which ``swap`` and ``restore`` are skipped; ``working_dtype`` of the
            tensors, float64 by default; ``seed``; ``expected_failures``: obligation id → reason.

    Raises:
        InputError: an unknown convention or a value out of its domain; all mistakes are listed.
        AdapterError: the function raises.
    """
    return declare(ema_part, function, declared).judge()


def ema_part(
    function: Callable[..., Any],
    *,
    decay: float | str | Callable[[int], float] = 0.999,
    every: int | tuple[int, int] = 1,
    store: Callable[..., Any] | None = None,
    restore: Callable[..., Any] | None = None,
    working_dtype: DtypeName | None = None,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Declared[Subject]:
    """A part and its declaration, checked and not yet called; arguments as :func:`judge_ema`'s."""
    problems = one_of("working_dtype", working_dtype, None, "float64", "float32", "bfloat16")
    if isinstance(decay, str):
        problems += one_of("decay", decay, *SCHEDULES)
    elif not callable(decay):
        problems += number_problem("decay", decay, 0, 1)
    if (store is None) != (restore is None):
        problems.append(("store, restore", "one of them", "both, or neither"))
    pair = every if isinstance(every, (tuple, list)) else (every, 0)
    if len(pair) != 2 or whole_problem("every", pair[0], 1, 1_000_000) or not _is_place(pair[1], pair[0]):
        problems.append(("every", repr(every), "a whole number n, or the pair (n, i) with 0 ≤ i < n"))
    if problems:
        raise InputError(*problems)
    when = (pair[0], pair[1] if isinstance(every, (tuple, list)) else pair[0] - 1)
    dtype = working(working_dtype)
    subject = Subject(function, name_of(function), schedule(decay), seed, dtype, store, restore, "", when, when)
    declaration = f"decay={decay!r}" if not callable(decay) else f"decay={name_of(decay)}"
    declaration += f", every={every!r}" if when != (1, 0) else ""
    info = Info(subject.name, declaration, _REFERENCE, seed, working_dtype or "float64", expected_failures or {})
    return Declared(subject, CHECKS, _hypotheses, info)


_UNCAPPED: dict[Callable[[int], float], Callable[[int], float]] = {
    SCHEDULES["nft-linear"]: lambda n: min(0.001 * n, 1.0),
    SCHEDULES["warmup"]: lambda n: (1 + n) / (10 + n),
    SCHEDULES["nft-late"]: lambda n: 0.0 if n < 75 else min(0.0075 * (n - 75), 1.0),
}


def _late_from_zero(own: Callable[[int], float]) -> Callable[[int], float]:
    if own is not SCHEDULES["nft-late"]:
        return own
    return lambda n: 0.0 if n < 75 else min(0.0075 * n, 0.999)


def _is_place(value: Any, n: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < n


CHECKS: tuple[Check[Subject], ...] = (
    Check(
        "value",
        "one update gives d·shadow + (1 − d)·live",
        "d and 1 − d exchanged, a tensor left out",
        check_value,
        direct=half_precision_cause,
    ),
    Check(
        "schedule",
        "d follows the declared schedule at every step",
        "another schedule, a step counted from 1",
        check_schedule,
        direct=half_precision_cause,
        whole=True,
    ),
    Check(
        "untouched-live",
        "the update leaves the live parameters alone",
        "an update in the wrong direction",
        check_live,
        direct=lambda s: Diagnosis("live-changed", "the live parameters are written to: shadow and live are exchanged"),
    ),
    Check(
        "aliasing",
        "the shadow does not share memory with the live parameters",
        "an assignment for a copy",
        check_aliasing,
        direct=alias,
    ),
    Check(
        "swap",
        "store puts the average into the live parameters",
        "an exchange that changes the average",
        check_swap,
        swaps,
        alias,
    ),
    Check(
        "restore",
        "restore gives back the live parameters",
        "a restore from an alias, which keeps the average",
        check_restore,
        swaps,
        alias,
    ),
    Check(
        "determinism",
        "two calls give the same bits",
        "a counter of its own in place of the step, another state that a call leaves behind",
        check_determinism,
        direct=lambda s: CHANGES,
    ),
)
"""In reading order."""


def _hypotheses(subject: Subject) -> Iterator[Hypothesis[Subject]]:
    for name, sentence in (
        ("exchanged", "d and 1 − d are exchanged"),
        ("frozen", "the shadow is never updated"),
        ("copied", "the shadow is a copy of the live parameters: d is taken as 0"),
        ("first-alone", "the first tensor alone is updated"),
        ("last-left-out", "the last tensor is left out"),
        ("matrices-alone", "tensors of less than two axes are left out"),
        ("twice", "it is updated twice in a step: d² is kept of it"),
        ("live-whole", "the live parameters are added whole: their factor 1 − d is missing"),
        ("live-missing", "the live parameters are not added: the shadow shrinks"),
        ("shadow-whole", "(1 − d)·live is added to the whole shadow: its factor d is missing"),
        ("away", "the difference of shadow and live has the wrong sign: the shadow moves away"),
        ("sign", "(1 − d)·live is subtracted"),
    ):
        yield Hypothesis(name, sentence, replace(subject, mistake=name))
    own = subject.decay
    shifted: tuple[tuple[str, str, Callable[[int], float]], ...] = (
        ("step-from-one", "the schedule is one step ahead", lambda n: own(n + 1)),
        ("first-copied", "the first step copies the live parameters", lambda n: own(n) if n else 0.0),
        ("step-behind", "the schedule is one step behind", lambda n: own(max(n - 1, 0))),
        ("first-skipped", "the first step leaves the shadow as it is", lambda n: own(n) if n else 1.0),
        ("decay-power", "d to the power of the step's number, counted from 1, is kept", lambda n: own(n) ** (n + 1)),
        ("running-mean", "the plain mean of all steps is kept: n/(n + 1) stands for d", lambda n: n / (n + 1)),
        ("never-capped", "the schedule grows past its cap", lambda n: _UNCAPPED.get(own, own)(n)),
        ("rise-late", "the rise is counted from step 0, not from the step at which it begins", _late_from_zero(own)),
    )
    for name, sentence, decay in shifted:
        yield Hypothesis(name, sentence, replace(subject, decay=decay))
    if subject.dtype == torch.float64:
        single = replace(subject, dtype=torch.float32)
        text = "working_dtype='float32'"
        controls = tuple(replace(single, mistake=name) for name in ("exchanged", "frozen", "copied"))
        cause = f"it behaves as {text} says"
        yield Hypothesis("convention:working_dtype", cause, single, text, controls, lambda: rounds(subject.outputs))
    n, first = subject.every
    for other in dict.fromkeys(
        [(1, 0), (n, n - 1), (n, 0), (n, 1), *((m, i) for m in (8, 10, 50, 100) for i in (m - 1, 0))]
    ):
        if other != (n, first) and other[1] < other[0]:
            text = f"every={other[0] if other[1] == other[0] - 1 else other!r}"
            cause = f"it behaves as {text} says"
            yield Hypothesis("convention:every", cause, replace(subject, every=other), text)
    named = [(repr(name), decay) for name, decay in SCHEDULES.items()]
    named += [(repr(d), schedule(d)) for d in (0.5, 0.9, 0.99, 0.995, 0.999, 0.9999)]
    for text, decay in named:
        cause = f"it behaves as decay={text} says"
        yield Hypothesis("convention:decay", cause, replace(subject, decay=decay), f"decay={text}")
