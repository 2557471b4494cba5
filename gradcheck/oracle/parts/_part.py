r"""What judging any part has in common: named checks of a subject, and causes found by trying other subjects.

A *subject* is a part's function together with what it declares; a *hypothesis* is the same function beside another
requirement.  Where an obligation fails as declared and holds under a hypothesis, the failure is consistent with it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gradcheck.errors import InputError
from gradcheck.oracle.adapter import AdapterError
from gradcheck.oracle.parts._calls import Wrong
from gradcheck.oracle.results import Diagnosis, Judgement, Outcome, Result

__all__ = ["Check", "Hypothesis", "PartInfo", "judge_part"]

S = TypeVar("S")


@dataclass(frozen=True)
class Check(Generic[S]):
    """A named obligation of a part.

    Attributes:
        id: as reports name it.
        statement: what a right implementation does.
        catches: the class of mistakes that it is for.
        check: the function; it may raise :class:`Wrong`.
        applies: ``None`` where it applies, else why not.
        direct: the cause where no hypothesis explains the failure.
    """

    id: str
    statement: str
    catches: str
    check: Callable[[S], Outcome]
    applies: Callable[[S], str | None] = lambda subject: None
    direct: Callable[[S], Diagnosis | None] = lambda subject: None


@dataclass(frozen=True)
class Hypothesis(Generic[S]):
    """Another requirement that the function may meet: a convention to declare, or a named mistake."""

    name: str
    cause: str
    subject: S
    declare: str = ""


@dataclass(frozen=True)
class PartInfo:
    """What a judgement says besides its results."""

    target: str
    declaration: str
    reference: str
    seed: int
    dtype: str
    expected_failures: Mapping[str, str] = field(default_factory=dict)


def judge_part(
    subject: S,
    checks: tuple[Check[S], ...],
    hypotheses: Callable[[S], Iterable[Hypothesis[S]]],
    info: PartInfo,
) -> Judgement:
    """Run every check, and seek the causes of what fails.

    Raises:
        AdapterError: the function raises.
        InputError: ``expected_failures`` names an obligation that there is not.
    """
    unknown = [name for name in info.expected_failures if name not in {c.id for c in checks}]
    if unknown:
        raise InputError(("expected_failures", repr(unknown[0]), f"obligations: {', '.join(c.id for c in checks)}"))
    start = time.perf_counter()
    seen: dict[str, _Seen] = {}
    for check in checks:
        try:
            seen[check.id] = _see(check, subject)
        except AdapterError as error:
            if not any(one.outcome.examples for one in seen.values()):
                raise
            seen[check.id] = _Seen(Outcome("failed", 1, math.inf, str(error)))  # on this obligation's inputs alone
    outcomes = {name: one.outcome for name, one in seen.items()}
    failed = [c for c in checks if outcomes[c.id].status == "failed"]
    passed = [c for c in checks if outcomes[c.id].status == "passed"]
    causes = _causes(subject, failed, passed, hypotheses(subject)) if failed else {}
    causes |= {name: one.cause for name, one in seen.items() if one.cause is not None}
    results = tuple(
        Result(
            c.id,
            c.statement,
            c.catches,
            outcomes[c.id],
            "cpu",
            info.dtype,
            causes.get(c.id),
            expected=info.expected_failures.get(c.id, ""),
        )
        for c in checks
    )
    seconds = time.perf_counter() - start
    return Judgement(info.target, info.declaration, results, info.reference, info.seed, seconds)


@dataclass(frozen=True)
class _Seen:
    """A check's outcome, and its cause where the check itself knows it."""

    outcome: Outcome
    cause: Diagnosis | None = None


def _see(check: Check[S], subject: S) -> _Seen:
    reason = check.applies(subject)
    if reason:
        return _Seen(Outcome("skipped", detail=reason))
    try:
        return _Seen(check.check(subject))
    except Wrong as wrong:
        return _Seen(Outcome("failed", 1, math.inf, str(wrong)), wrong.cause)


@dataclass(frozen=True)
class _Fit(Generic[S]):
    """A hypothesis, the failed checks that hold under it, and the passed ones that don't."""

    hypothesis: Hypothesis[S]
    explains: frozenset[str]
    contradicts: frozenset[str]


def _causes(
    subject: S, failed: list[Check[S]], passed: list[Check[S]], hypotheses: Iterable[Hypothesis[S]]
) -> dict[str, Diagnosis]:
    """For each failed check a hypothesis under which it holds: that which explains most and contradicts least."""
    fits: list[_Fit[S]] = []
    for hypothesis in hypotheses:
        explains = frozenset(c.id for c in failed if _status(c, hypothesis.subject) == "passed")
        if explains:
            contradicts = frozenset(c.id for c in passed if _status(c, hypothesis.subject) == "failed")
            fits.append(_Fit(hypothesis, explains, contradicts))
    fits.sort(key=lambda f: len(f.contradicts) - len(f.explains))  # stable: among equals the order of the list
    causes: dict[str, Diagnosis] = {}
    for check in failed:
        fitting = [f for f in fits if check.id in f.explains]
        direct = _direct(check, subject)
        if fitting:
            best = fitting[0]
            same = (best.explains, best.contradicts)
            others = [f.hypothesis for f in fitting[1:] if (f.explains, f.contradicts) == same]
            causes[check.id] = _diagnosis(best.hypothesis, others)
        elif direct is not None:
            causes[check.id] = direct
        elif fits and not fits[0].contradicts:
            causes[check.id] = _diagnosis(fits[0].hypothesis, [])
        else:
            causes[check.id] = Diagnosis("unknown", "no named mistake and no other declaration fits")
    return causes


def _status(check: Check[S], subject: S) -> str:
    try:
        return _see(check, subject).outcome.status
    except AdapterError:
        return "failed"


def _direct(check: Check[S], subject: S) -> Diagnosis | None:
    try:
        return check.direct(subject)
    except (Wrong, AdapterError):
        return None


def _diagnosis(best: Hypothesis[S], others: list[Hypothesis[S]]) -> Diagnosis:
    also = "; it cannot be told from: " + ", or ".join(h.cause for h in others) if others else ""
    return Diagnosis(best.name, best.cause + also, best.declare)
