r"""Why checks of a subject fail: hypotheses under which they hold.

A *hypothesis* is the same function beside another requirement.  Where an obligation fails as declared and holds under
a hypothesis, the failure is consistent with it, unless the hypothesis accepts anything, which its controls tell, or has
no evidence of its own where it needs some.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.check import Check, Hypothesis, Wrong, outcome_of
from gradcheck.judging.results import Diagnosis, Outcome, Raised

__all__ = ["HIDDEN_STATE", "causes_of", "direct_cause", "repeats"]

S = TypeVar("S")

HIDDEN_STATE = Diagnosis(
    "hidden-state", "the same calls give other results the second time: something is kept from one call to the next"
)
"""What a failure comes from that does not come again."""


def repeats(check: Check[S], subject: S, first: Outcome) -> bool:
    """Whether a failed check says the same when it is made again; a raise is told as one."""
    again = outcome_of(check, subject)
    return isinstance(again, Raised) or again.detail == first.detail


@dataclass(frozen=True)
class _Fit(Generic[S]):
    """A hypothesis, the failed checks that hold under it, and the passed ones that don't."""

    hypothesis: Hypothesis[S]
    explains: frozenset[str]
    contradicts: frozenset[str]


def causes_of(
    subject: S,
    failed: list[Check[S]],
    passed: list[Check[S]],
    hypotheses: Iterable[Hypothesis[S]],
    alike: str,
) -> dict[str, Diagnosis]:
    """For each failed check a hypothesis under which it holds: that which explains most and contradicts least."""
    fits: list[_Fit[S]] = []
    known: _Known = {}
    enough = math.inf
    whole = [c for c in failed if c.whole]
    told = {c.id for c in failed if c.depends is not None and c.depends(subject) == ()}  # no hypothesis explains these
    for hypothesis in hypotheses:
        if hypothesis.presumes > enough:
            break
        wholly = frozenset(c.id for c in whole if _explains(hypothesis, c, known))
        if len(wholly) < len(whole):
            continue
        explains = wholly | {c.id for c in failed if not c.whole and _explains(hypothesis, c, known)}
        if explains and hypothesis.evidence():
            contradicts = frozenset(c.id for c in passed if _status(c, hypothesis.subject, known) == "failed")
            fits.append(_Fit(hypothesis, explains, contradicts))
            if len(explains | told) == len(failed) and not contradicts:
                enough = min(enough, hypothesis.presumes)
    fits.sort(key=lambda f: len(f.contradicts) - len(f.explains))  # stable: among equals the order of the list
    plain = [f for f in fits if not f.hypothesis.controls]  # a tolerance explains what holds under it, and nothing else
    causes: dict[str, Diagnosis] = {}
    for check in failed:
        fitting = [f for f in fits if check.id in f.explains]
        direct = direct_cause(check, subject)
        if fitting and (direct is None or not fitting[0].contradicts):
            causes[check.id] = _diagnosis(fitting, alike)
        elif direct is not None:
            causes[check.id] = direct
        elif plain and not plain[0].contradicts and failed[0].id in plain[0].explains:
            causes[check.id] = _diagnosis(plain[:1], alike)  # what a statement about it says follows from it
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
        return outcome_of(check, subject).status
    key = check.id, check.depends(subject)
    if key not in known:
        known[key] = outcome_of(check, subject).status
    return known[key]


def direct_cause(check: Check[S], subject: S) -> Diagnosis | None:
    """What the check itself knows of its failure, if the subject can be called for it."""
    try:
        return check.direct(subject)
    except (Wrong, AdapterError):
        return None


def _diagnosis(fitting: list[_Fit[S]], alike: str) -> Diagnosis:
    """The first of several that fit, and those that cannot be told from it."""
    best = fitting[0]
    same = (best.explains, best.contradicts, best.hypothesis.presumes)
    others = [f for f in fitting[1:] if (f.explains, f.contradicts, f.hypothesis.presumes) == same]
    causes = [cause for cause in dict.fromkeys(f.hypothesis.cause for f in others) if cause != best.hypothesis.cause]
    also = f"; {alike}: " + ", or ".join(causes) if causes else ""
    return Diagnosis(best.hypothesis.name, best.hypothesis.cause + also, best.hypothesis.declare)
