"""A named check of a subject, and what becomes of it: passed, failed, skipped, or that nothing can be said.

A *subject* is a stranger's function together with what it declares, and what was seen of it: a loss on a device, a part
of a trainer, a trainer's step on its ranks.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from gradcheck.devices import Device, DtypeName
from gradcheck.errors import GradcheckError, one_of
from gradcheck.judging.adapter import AdapterError, NotCheckedError
from gradcheck.judging.isolation.words import said
from gradcheck.judging.results import Diagnosis, Judgement, Outcome, Raised, Result

__all__ = ["Check", "Hypothesis", "Info", "Seen", "Wrong", "outcome_of", "place_of_ours", "result_of", "see", "unknown"]

S = TypeVar("S")


class Wrong(Exception):  # noqa: N818 - not an error of ours: what a check saw
    """Raised inside a check: the function broke its contract, in words, with the cause where that tells it."""

    def __init__(self, text: str, cause: Diagnosis | None = None) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True)
class Check(Generic[S]):
    """A named obligation.

    Attributes:
        id: as reports and ``expected_failures`` name it.
        statement: what a right implementation does.
        catches: the class of mistakes that it is for.
        check: the function; it may raise :class:`Wrong`.
        applies: ``None`` where it applies, else why not.
        direct: the cause of a failure by itself: that of a part or a trainer where no hypothesis explains it without
            contradicting what holds, and that of a loss in place of the gradient's cause.
        depends: what of a subject the outcome depends on besides the function, so that hypotheses that agree in it need
            one run; ``None``: on everything, ``()``: on the function alone.
        script: what shows a failure again; empty if nothing does.
        whole: whether it looks at all that the function does, so that nothing explains any failure under which it
            fails.
    """

    id: str
    statement: str
    catches: str
    check: Callable[[S], Outcome]
    applies: Callable[[S], str | None] = lambda subject: None
    direct: Callable[[S], Diagnosis | None] = lambda subject: None
    depends: Callable[[S], Hashable] | None = None
    script: Callable[[S], str] = lambda subject: ""
    whole: bool = False


@dataclass(frozen=True)
class Hypothesis(Generic[S]):
    """Another requirement that the function may meet: a convention to declare, or a named mistake.

    Attributes:
        name, cause: as reports say it.
        subject: the function beside that requirement.
        declare: the keyword to declare, if it is a convention.
        controls: the function beside wrong requirements of the same tolerance.  An obligation that holds under all of
            them too would hold under anything, and is not explained.
        evidence: whether something besides the obligations speaks for it.
        presumes: how much it supposes.  They come in this order, and none is tried that presumes more than one that
            explains every failure and contradicts nothing.
    """

    name: str
    cause: str
    subject: S
    declare: str = ""
    controls: tuple[S, ...] = ()
    evidence: Callable[[], bool] = lambda: True
    presumes: int = 0


@dataclass(frozen=True)
class Info:
    """What a judgement says besides its results."""

    subject: str
    declaration: str
    reference: str
    seed: int
    dtype: DtypeName
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    device: Device = "cpu"
    shell: bool = False
    """Whether the checks' scripts are commands for a shell."""

    def judgement(self, results: Sequence[Result], seconds: float = 0.0, printed: str = "") -> Judgement:
        """What was found, beside this."""
        return Judgement(self.subject, self.declaration, tuple(results), self.reference, self.seed, seconds, printed)


def unknown(argument: str, names: Iterable[str], known: Sequence[str], guide: str = "") -> list[tuple[str, str, str]]:
    """A problem for each name that no obligation has; ``guide`` is the page that lists them, where they are many."""

    def wanted(name: str) -> str:
        if guide:
            return one_of(name, known, f"an obligation; the guide, {guide}, lists them")
        return f"obligations: {', '.join(known)}"

    return [(argument, repr(name), wanted(name)) for name in names if name not in known]


def outcome_of(check: Check[S], subject: S) -> Outcome:
    """What a check says of a subject; that it raises, or skips itself, where the function does.

    Raises:
        StoppedError: the function cannot be called again.
        InputError: the declaration cannot be kept.
    """
    return see(check, subject).outcome


@dataclass(frozen=True)
class Seen:
    """A check's outcome, and its cause where the check itself knows it."""

    outcome: Outcome
    cause: Diagnosis | None = None


def see(check: Check[S], subject: S) -> Seen:
    """A check made, and whatever went wrong on the way as an outcome."""
    reason = check.applies(subject)
    if reason:
        return Seen(Outcome("skipped", detail=reason))
    try:
        return Seen(check.check(subject))
    except Wrong as wrong:
        return Seen(Outcome("failed", 1, math.inf, str(wrong)), wrong.cause)
    except NotCheckedError as error:
        on = f" (on {error.on})" if error.on else ""
        return Seen(Outcome("skipped", detail=f"not checked: {error}{on}"))
    except AdapterError as error:
        detail = f"raises on {error.on}: {error}" if error.on else str(error)
        return Seen(Raised("failed", 1, math.inf, detail, raised=str(error), on=error.on))
    except torch.cuda.OutOfMemoryError as error:
        return Seen(Outcome("failed", ratio=math.inf, detail=f"out of memory: {error}"))
    except GradcheckError:
        raise
    except Exception as error:  # a mistake of ours, or something that a call has left behind
        return Seen(Outcome("unjudged", detail=f"gradcheck failed here: {said(error)}{place_of_ours(error)}"))


def place_of_ours(error: Exception) -> str:
    """Where in this package it was raised."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f" ({Path(last.filename).name}:{last.lineno})"


def result_of(
    check: Check[Any], outcome: Outcome, info: Info, cause: Diagnosis | None = None, script: str = "", **more: Any
) -> Result:
    """An obligation's result, whether it was expected to fail, and ``more`` of its fields."""
    result = Result(
        id=check.id,
        statement=check.statement,
        catches=check.catches,
        outcome=outcome,
        device=info.device,
        dtype=info.dtype,
        diagnosis=cause,
        script=script,
        shell=info.shell,
        expected=info.expected_failures.get(check.id, ""),
    )
    return replace(result, **more)
