r"""The engine that judges a declared subject as a whole: every check, and the causes of what fails."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gradcheck.errors import InputError
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.causes import HIDDEN_STATE, causes_of, direct_cause, repeats
from gradcheck.judging.check import Check, Hypothesis, Info, Seen, result_of, see, unknown
from gradcheck.judging.results import Diagnosis, Judgement, Outcome, Raised, Result

__all__ = ["Declared"]

S = TypeVar("S")


@dataclass(frozen=True)
class Declared(Generic[S]):
    """A subject that is declared, and not yet called.

    Attributes:
        subject: the function and its declaration.
        checks: its obligations.
        hypotheses: what may explain a failure.
        info: what its judgement says besides.
        prepare: completes the subject by what only calls can tell.
        alike: what is said before hypotheses that explain the same.
        shown: completes the cause of a check's failure by what was seen.

    Raises:
        InputError: ``expected_failures`` names an obligation that there is not.
    """

    subject: S
    checks: tuple[Check[S], ...]
    hypotheses: Callable[[S], Iterable[Hypothesis[S]]]
    info: Info
    prepare: Callable[[S], S] = lambda subject: subject
    alike: str = "it cannot be told from"
    shown: Callable[[S, str, Diagnosis], Diagnosis] = lambda subject, check, cause: cause

    def __post_init__(self) -> None:
        self._refuse("expected_failures", self.info.expected_failures)

    def _refuse(self, argument: str, names: Iterable[str]) -> None:
        problems = unknown(argument, names, [c.id for c in self.checks])
        if problems:
            raise InputError(*problems)

    def rows(self, outcome: Outcome, only: Sequence[str] = ()) -> tuple[Result, ...]:
        """The same outcome of each obligation."""
        return tuple(result_of(c, outcome, self.info) for c in self.checks if not only or c.id in only)

    def results(self, only: Sequence[str] = ()) -> tuple[Result, ...]:
        """Run every check (or ``only`` some), and seek the causes of what fails.

        Raises:
            AdapterError: the function raises.
            InputError: there is no such obligation.
        """
        self._refuse("obligation", only)
        checks = [c for c in self.checks if not only or c.id in only]
        subject = self.prepare(self.subject)
        seen: dict[str, Seen] = {}
        for check in checks:
            one = see(check, subject)
            if isinstance(one.outcome, Raised):
                if not any(other.outcome.examples for other in seen.values()):
                    raise AdapterError(one.outcome.raised)
                one = Seen(Outcome("failed", 1, math.inf, one.outcome.raised))  # on this obligation's inputs alone
            seen[check.id] = one
        causes = self._causes_of(subject, checks, seen)
        found = []
        for c in checks:
            cause = causes.get(c.id)
            shown = None if cause is None else self.shown(subject, c.id, cause)
            script = c.script(subject) if seen[c.id].outcome.status == "failed" else ""
            found.append(result_of(c, seen[c.id].outcome, self.info, shown, script))
        return tuple(found)

    def judge(self, only: Sequence[str] = ()) -> Judgement:
        """The same as a whole."""
        start = time.perf_counter()
        results = self.results(only)
        return self.info.judgement(results, time.perf_counter() - start)

    def _causes_of(self, subject: S, checks: list[Check[S]], seen: Mapping[str, Seen]) -> dict[str, Diagnosis]:
        failed = [c for c in checks if seen[c.id].outcome.status == "failed"]
        passed = [c for c in checks if seen[c.id].outcome.status == "passed"]
        causes = causes_of(subject, failed, passed, self.hypotheses(subject), self.alike) if failed else {}
        causes |= {
            c.id: HIDDEN_STATE
            for c in failed
            if direct_cause(c, subject) is None and not repeats(c, subject, seen[c.id].outcome)
        }
        return causes | {name: one.cause for name, one in seen.items() if one.cause is not None}
