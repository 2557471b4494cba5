"""What a wrong or a right implementation is here, and the judging of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import Conventions, declare
from gradcheck.judging.adapter import Adapter, AdapterError
from gradcheck.judging.results import Judgement, Result
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject

Function = Callable[[Case], Tensor]


@dataclass(frozen=True)
class Correct:
    """A right implementation.

    Attributes:
        name: of the test.
        algorithm: of the catalogue.
        declared: the conventions that it follows.
        function: from a case to a loss.
    """

    name: str
    algorithm: str
    declared: Mapping[str, Any]
    function: Function

    @property
    def conventions(self) -> Conventions:
        return _declared(self.algorithm, tuple(sorted(self.declared.items())))


@dataclass(frozen=True)
class Mutant(Correct):
    """A wrong implementation.

    Attributes:
        obligation: the one that must fail.
        cause: the name that its diagnosis must have.
    """

    obligation: str
    cause: str


@lru_cache(maxsize=200)
def _declared(algorithm: str, declared: tuple[tuple[str, Any], ...]) -> Conventions:
    """One object for each declaration, so that its formulas are derived once."""
    return declare(algorithm, **dict(declared))


def mutant(algorithm: str, *, fails: str, because: str, **declared: Any) -> Callable[[Function], Mutant]:
    """Turn a function into the mutant of its name."""

    def wrap(function: Function) -> Mutant:
        name = f"{algorithm}-{function.__name__.replace('_', '-')}"
        return Mutant(name, algorithm, declared, function, fails, because)

    return wrap


def correct(algorithm: str, **declared: Any) -> Callable[[Function], Correct]:
    """Turn a function into the right implementation of its name."""

    def wrap(function: Function) -> Correct:
        return Correct(f"{algorithm}-{function.__name__.replace('_', '-')}", algorithm, declared, function)

    return wrap


def judged(one: Correct, max_examples: int, only: tuple[str, ...] = (), seed: int = 0) -> Judgement:
    """Let the oracle judge it."""
    subject = Subject(one.function, one.name, one.conventions)
    return judge(subject, Settings(max_examples=max_examples, seed=seed), only)


def caught(one: Mutant, max_examples: int = 10) -> Result:
    """What the obligation that must fail says."""
    (result,) = judged(one, max_examples, (one.obligation,)).results
    return result


def refused(one: Correct, obligation: str) -> bool:
    """Whether this obligation fails, without a search for the cause, which takes ten times as long."""
    adapter = Adapter(one.function, one.name, one.conventions.batch_reduction, 60.0)
    (checked,) = (o for o in OBLIGATIONS if o.id == obligation)
    try:
        return checked.check(Judge(adapter, one.conventions, max_examples=10)).status == "failed"
    except AdapterError:
        return True
