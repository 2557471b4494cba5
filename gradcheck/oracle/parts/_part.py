r"""What judging any part has in common: named checks of a subject, and causes found by trying other subjects.

A *subject* is a part's function together with what it declares; a *hypothesis* is the same function beside another
requirement.  Where an obligation fails as declared and holds under a hypothesis, the failure is consistent with it,
unless the hypothesis accepts anything, which its controls tell, or has no evidence of its own where it needs some.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gradcheck.errors import InputError
from gradcheck.oracle.adapter import AdapterError, NotCheckedError
from gradcheck.oracle.parts._calls import Wrong
from gradcheck.oracle.results import Diagnosis, Judgement, Outcome, Result

__all__ = ["Check", "Hypothesis", "Part", "PartInfo", "declare"]

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
        direct: the cause where no hypothesis explains the failure without contradicting what holds.
        depends: what of a subject the outcome depends on besides the function, so that hypotheses that agree in it need
            one run; ``None``: on everything.
    """

    id: str
    statement: str
    catches: str
    check: Callable[[S], Outcome]
    applies: Callable[[S], str | None] = lambda subject: None
    direct: Callable[[S], Diagnosis | None] = lambda subject: None
    depends: Callable[[S], Hashable] | None = None


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
    """

    name: str
    cause: str
    subject: S
    declare: str = ""
    controls: tuple[S, ...] = ()
    evidence: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class PartInfo:
    """What a judgement says besides its results."""

    target: str
    declaration: str
    reference: str
    seed: int
    dtype: str
    expected_failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Part(Generic[S]):
    """A part that is declared and not yet called.

    Attributes:
        subject: the function and its declaration.
        checks: its obligations.
        hypotheses: what may explain a failure.
        info: what its judgement says besides.
        prepare: completes the subject by what only calls can tell.

    Raises:
        InputError: ``expected_failures`` names an obligation that there is not.
    """

    subject: S
    checks: tuple[Check[S], ...]
    hypotheses: Callable[[S], Iterable[Hypothesis[S]]]
    info: PartInfo
    prepare: Callable[[S], S] = lambda subject: subject

    def __post_init__(self) -> None:
        self._known("expected_failures", self.info.expected_failures)

    def _known(self, argument: str, names: Iterable[str]) -> None:
        known = [c.id for c in self.checks]
        unknown = [(argument, repr(name), f"obligations: {', '.join(known)}") for name in names if name not in known]
        if unknown:
            raise InputError(*unknown)

    def judge(self, only: Sequence[str] = ()) -> Judgement:
        """Run every check (or ``only`` some), and seek the causes of what fails.

        Raises:
            AdapterError: the function raises.
            InputError: there is no such obligation.
        """
        self._known("obligation", only)
        checks = tuple(c for c in self.checks if not only or c.id in only)
        return _judge(self.prepare(self.subject), checks, self.hypotheses, self.info)


def declare(part: Callable[..., Part[S]], function: Callable[..., Any], declared: Mapping[str, Any]) -> Part[S]:
    """A part of a function and its declaration.

    Raises:
        InputError: an unknown convention or a value out of its domain; all mistakes are listed.
    """
    keywords = {
        name for name, p in inspect.signature(part).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(part).parameters.values())
    unknown = [] if takes_any else [name for name in declared if name not in keywords]
    if unknown:
        known = ", ".join(sorted(keywords - {"seed", "expected_failures"}))
        raise InputError(*((name, repr(declared[name]), f"a convention of this part: {known}") for name in unknown))
    return part(function, **declared)


def _judge(
    subject: S,
    checks: tuple[Check[S], ...],
    hypotheses: Callable[[S], Iterable[Hypothesis[S]]],
    info: PartInfo,
) -> Judgement:
    start = time.perf_counter()
    seen: dict[str, _Seen] = {}
    for check in checks:
        try:
            seen[check.id] = _see(check, subject)
        except NotCheckedError as error:
            seen[check.id] = _Seen(Outcome("skipped", detail=f"not checked: {error}"))
        except AdapterError as error:
            if not any(one.outcome.examples for one in seen.values()):
                raise
            seen[check.id] = _Seen(Outcome("failed", 1, math.inf, str(error)))  # on this obligation's inputs alone
    outcomes = {name: one.outcome for name, one in seen.items()}
    failed = [c for c in checks if outcomes[c.id].status == "failed"]
    passed = [c for c in checks if outcomes[c.id].status == "passed"]
    causes = _causes(subject, failed, passed, hypotheses(subject)) if failed else {}
    causes |= {
        c.id: _HIDDEN_STATE for c in failed if _direct(c, subject) is None and not _repeats(c, subject, outcomes[c.id])
    }
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


_HIDDEN_STATE = Diagnosis(
    "hidden-state", "the same calls give other results the second time: something is kept from one call to the next"
)


def _repeats(check: Check[S], subject: S, first: Outcome) -> bool:
    """Whether a failed check says the same when it is made again."""
    try:
        return _see(check, subject).outcome.detail == first.detail
    except AdapterError:
        return True  # a raise is told as one


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
    known: _Known = {}
    for hypothesis in hypotheses:
        explains = frozenset(c.id for c in failed if _explains(hypothesis, c, known))
        if explains and hypothesis.evidence():
            contradicts = frozenset(c.id for c in passed if _status(c, hypothesis.subject, known) == "failed")
            fits.append(_Fit(hypothesis, explains, contradicts))
    fits.sort(key=lambda f: len(f.contradicts) - len(f.explains))  # stable: among equals the order of the list
    plain = [f for f in fits if not f.hypothesis.controls]  # a tolerance explains what holds under it, and nothing else
    causes: dict[str, Diagnosis] = {}
    for check in failed:
        fitting = [f for f in fits if check.id in f.explains]
        direct = _direct(check, subject)
        if fitting and (direct is None or not fitting[0].contradicts):
            best = fitting[0]
            same = (best.explains, best.contradicts)
            others = [f.hypothesis for f in fitting[1:] if (f.explains, f.contradicts) == same]
            causes[check.id] = _diagnosis(best.hypothesis, others)
        elif direct is not None:
            causes[check.id] = direct
        elif plain and not plain[0].contradicts and failed[0].id in plain[0].explains:
            causes[check.id] = _diagnosis(plain[0].hypothesis, [])  # what a statement about it says follows from it
        else:
            causes[check.id] = Diagnosis("unknown", "no named mistake and no other declaration fits" + _beside(plain))
    return causes


def _beside(fits: list[_Fit[S]]) -> str:
    """What explains other obligations that fail, and so is no cause of this one, or not the only one."""
    if not fits or fits[0].contradicts:
        return ""
    return f" (of {', '.join(sorted(fits[0].explains))} it does: {fits[0].hypothesis.cause})"


def _explains(hypothesis: Hypothesis[S], check: Check[S], known: _Known) -> bool:
    if _status(check, hypothesis.subject, known) != "passed":
        return False
    controls = hypothesis.controls
    return not controls or any(_status(check, control, known) == "failed" for control in controls)


_Known = dict[tuple[str, Hashable], str]


def _status(check: Check[S], subject: S, known: _Known) -> str:
    if check.depends is None:
        return _run(check, subject)
    key = check.id, check.depends(subject)
    if key not in known:
        known[key] = _run(check, subject)
    return known[key]


def _run(check: Check[S], subject: S) -> str:
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
    causes = [cause for cause in dict.fromkeys(h.cause for h in others) if cause != best.cause]
    also = "; it cannot be told from: " + ", or ".join(causes) if causes else ""
    return Diagnosis(best.name, best.cause + also, best.declare)
