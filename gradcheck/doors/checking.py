r"""Judging the implementations that a command line names: what a child does, and what comes of it here."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from gradcheck.conventions import declare
from gradcheck.doors.collecting import AnySubject, Found
from gradcheck.doors.loading import load_found
from gradcheck.errors import InputError
from gradcheck.judging.isolation.child import Send
from gradcheck.judging.isolation.limits import TimeUp, time_limit
from gradcheck.judging.isolation.parent import POLL, Child
from gradcheck.judging.isolation.patched import Namespaces
from gradcheck.judging.isolation.state import State
from gradcheck.judging.results import Judgement, Outcome, Result
from gradcheck.oracle.drawn import handed_over
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.preparing import PrepareJob
from gradcheck.oracle.runner import unjudged
from gradcheck.oracle.subject import Settings, Subject

__all__ = ["CheckJob", "Judged", "judged"]


@dataclass(frozen=True)
class CheckJob:
    """One implementation of a target that a command line names.

    Attributes:
        text: the target.
        settings: how thoroughly to look.
        declared: for functions that are not decorated: algorithm, preset and conventions; ``None`` if nothing is.
        only: obligations; all if there are none.
        pictures: whether directions are wanted for a page.
        index: which of the target's implementations.
    """

    text: str
    settings: Settings
    declared: tuple[str | None, str | None, Mapping[str, Any]] | None = None
    only: tuple[str, ...] = ()
    pictures: bool = False
    index: int = 0

    def run(self, send: Send) -> None:
        """Import the file and judge the implementation; each result is sent as soon as it is there."""
        torch.set_num_threads(1)  # small tensors: threads cost more than they bring
        try:
            found, spoiled = self._imported()
        except InputError as error:
            send("refused", error.problems)
            return
        send("found", [one.name for one in found], [_shares(one.subject) for one in found])
        if self.index >= len(found):
            send("broken", "importing it again gives other implementations")
            return
        one = found[self.index]
        subject = one.subject
        declaration, reference, rows = subject.about(self.settings)
        send("begins", subject.name, declaration, reference, [r for r in rows if not self.only or r.id in self.only])
        problem = one.problem or spoiled
        if problem:
            send("broken", problem)
            return
        try:
            judgement = subject.attempt(self.settings, self.only, lambda result: send("result", result))
            send("judgement", judgement, self._pictures(subject, judgement))
        except InputError as error:
            send("refused", error.problems)

    def _imported(self) -> tuple[list[Found], str]:
        """The implementations, and what their file's import has spoiled for all of them."""
        names, state = Namespaces.now(), State.now()
        conventions = None
        if self.declared is not None:
            algorithm, preset, declared = self.declared
            conventions = declare(algorithm, preset=preset, **declared)
        given, sys.argv = sys.argv, [self.text.partition("::")[0]]
        try:
            with time_limit(self.settings.timeout):
                found = load_found(self.text, conventions)
        finally:
            sys.argv = given
            left = state.left_by_import()
        clauses = [one.words for one in left]
        replaced = names.replaced(restore=False)
        clauses += [f"replaces {', '.join(replaced[:5])}"] if replaced else []
        return found, f"importing {self.text.partition('::')[0]} {'; '.join(clauses)}" if clauses else ""

    def _pictures(self, subject: AnySubject, judgement: Judgement) -> dict[Any, Any]:
        if not self.pictures or judgement.unjudged or not isinstance(subject, Subject):
            return {}
        from gradcheck.reports.directions import failure_directions

        return failure_directions(subject, self.settings, judgement)


def _shares(subject: AnySubject) -> str:
    """The declaration of a loss, whose problems it shares with others of the same; empty for other subjects."""
    return subject.conventions.describe() if isinstance(subject, Subject) else ""


@dataclass
class Judged:
    """What became of one implementation, or of a target that could not be loaded.

    Attributes:
        judgement: always there.
        several: whether its target has others.
        pictures: of its failures.
        refused: what is wrong with the target or the options, if that is it.
        nothing: whether the file decorates nothing, or cannot be imported and does not mention this package.
    """

    judgement: Judgement
    several: bool = False
    pictures: Mapping[Any, Any] = field(default_factory=dict)
    refused: str = ""
    nothing: bool = False


def judged(
    jobs: Sequence[CheckJob],
    memory: float,
    isolated: bool,
    most: int = 1,
    shared: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[Judged]:
    """Judge every implementation of the targets, each in a process of its own, or all in this one.

    Args:
        jobs: the targets.
        memory: bytes that an implementation may need.
        isolated: whether in processes of their own.
        most: how many of these may run at once.
        shared: whether those that run at once share the memory.
        progress: is called with a line for each obligation that has been checked.

    Yields:
        What became of each, in the order of the targets and of their files, however many ran at once.
    """
    if isolated:
        yield from _Crew(jobs, memory, most, shared, progress).judged()
        return
    for job in jobs:
        index, count = 0, 1
        while index < count:
            heard = _Heard(replace(job, index=index), progress)
            try:
                heard.job.run(heard.hear)
            except TimeUp as up:
                heard.hear("broken", str(up))
            count = max(count, len(heard.found))
            yield heard.judged(count)
            index += 1


Turns = Generator[tuple[Any, ...] | None, None, None]
_Place = tuple[int, int]
"""Which target, and which of its implementations."""


class _Crew:
    """Children that run at once, watched by one thread, which may therefore fork them from this warm process."""

    def __init__(
        self, jobs: Sequence[CheckJob], memory: float, most: int, shared: bool, progress: Callable[[str], None]
    ) -> None:
        self._jobs, self._memory, self._most, self._shared, self._progress = jobs, memory, most, shared, progress
        self._counts = [1] * len(jobs)
        self._waiting: list[_Place] = [(i, 0) for i in range(len(jobs))]  # a heap
        self._running: dict[_Place, tuple[_Heard, Child, Turns]] = {}
        self._ended: dict[_Place, _Heard] = {}
        self._unprepared: list[PrepareJob] = []
        self._shared_by: set[str] = set()
        self._preparing: list[tuple[Child, Turns]] = []

    def judged(self) -> Iterator[Judged]:
        place = (0, 0)
        try:
            while place[0] < len(self._jobs):
                if place in self._ended:
                    target, index = place
                    count = self._counts[target]
                    yield self._ended.pop(place).judged(count)
                    place = (target, index + 1) if index + 1 < count else (target + 1, 0)
                    continue
                self._start()
                heard = [self._turn(at) for at in list(self._running)] + [self._prepares()]
                if not any(heard):
                    wait([pipe for child in self._children() for pipe in child.pipes], POLL)
        finally:
            for turns in [turns for *_, turns in self._running.values()] + [turns for _, turns in self._preparing]:
                turns.close()  # which ends the process

    def _children(self) -> list[Child]:
        return [child for _, child, _ in self._running.values()] + [child for child, _ in self._preparing]

    def _start(self) -> None:
        while self._unprepared and len(self._children()) < self._most:
            preparation = self._unprepared.pop(0)
            child = Child(preparation, math.inf, self._memory, preparation.declaration)
            self._preparing.append((child, child.turns(self._children())))
        while self._waiting and len(self._children()) < self._most:
            at = heappop(self._waiting)
            target, index = at
            job = replace(self._jobs[target], index=index)
            child = Child(job, job.settings.timeout, self._memory, job.text)
            self._running[at] = _Heard(job, self._progress), child, child.turns(self._children())
        alone = self._most == 1 or (len(self._jobs) == 1 and self._counts[0] == 1)
        for _, child, _ in self._running.values():
            child.memory = self._memory / (1 if alone or not self._shared else self._most)

    def _turn(self, at: _Place) -> bool:
        """Hear what one has sent; whether it was anything."""
        heard, child, turns = self._running[at]
        message = next(turns, _GONE)
        if message is None:
            return False
        if message is _GONE:
            heard.ended(child)
            self._ended[at] = heard
            del self._running[at]
            return True
        heard.hear(*message)
        target, _ = at
        for index in range(self._counts[target], len(heard.found)):
            heappush(self._waiting, (target, index))
        self._counts[target] = max(self._counts[target], len(heard.found))
        if heard.declared:
            self._prepare(heard.job, heard.declared)
        return True

    def _prepare(self, job: CheckJob, declared: list[str]) -> None:
        """Have the problems made, in a process of their own, that several of a file's losses are judged on."""
        for words in {x for x in declared if x and declared.count(x) >= _SEVERAL} - self._shared_by:
            self._shared_by.add(words)
            if job.settings.device == "cpu":
                self._unprepared.append(PrepareJob(words, job.settings, job.only))

    def _prepares(self) -> bool:
        """Hear what has been made, so that whatever is forked from now on has it; whether it was anything."""
        heard = False
        for child, turns in list(self._preparing):
            match next(turns, _GONE):
                case ("prepared", problems):
                    handed_over(problems)
                    heard = True
                case ("gone",):
                    self._preparing.remove((child, turns))
        return heard


_GONE = ("gone",)
_SEVERAL = 3  # losses for which it pays: making problems takes as long as judging one


@dataclass
class _Heard:
    """What one run of a job has sent."""

    job: CheckJob
    progress: Callable[[str], None]
    found: list[str] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    name: str = ""
    declaration: str = ""
    reference: str = ""
    blanks: list[Result] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    whole: Judgement | None = None
    pictures: Mapping[Any, Any] = field(default_factory=dict)
    refused: str = ""
    nothing: bool = False
    reason: str = ""
    printed: str = ""

    def ended(self, child: Child) -> None:
        """Its process has ended."""
        self.reason = child.reason or self.reason
        self.printed = child.printed

    def judged(self, count: int) -> Judged:
        """What became of it, where its target has so many."""
        return Judged(self.judgement(), count > 1, self.pictures, self.refused, self.nothing)

    def hear(self, word: str, *data: Any) -> None:
        match word:
            case "found":
                self.found, self.declared = data
            case "begins":
                self.name, self.declaration, self.reference, self.blanks = data
            case "result":
                self.results += data
                self.progress(f"{self.name}: {len(self.results)} of {len(self.blanks)} obligations, {data[0].id}")
            case "judgement":
                self.whole, self.pictures = data
            case "refused":
                self.refused = str(InputError(*data[0]))
                self.nothing = "decorated with gradcheck.conforms" in self.refused or not self._speaks_of_us()
                self.reason = "; ".join(f"{name}: got {got}; wanted {wanted}" for name, got, wanted in data[0])
            case "broken":
                (self.reason,) = data

    def _speaks_of_us(self) -> bool:
        """Whether the file so much as mentions this package; another test's import is none of our business."""
        try:
            return b"gradcheck" in Path(self.job.text).read_bytes()
        except OSError:
            return True

    def judgement(self) -> Judgement:
        """The whole one, or what is known of one that ended too early."""
        if self.whole is not None and not self.reason:
            printed = self.printed + self.whole.printed if self.printed else self.whole.printed
            return replace(self.whole, printed=printed)
        name = self.name or self._names_of_index()
        results = self.whole.results if self.whole is not None else tuple(self.results)
        reason = self.reason or "it ended without a verdict"
        seen = {(r.id, r.device) for r in results if self.whole is None}
        blank = next((r for r in self.blanks if (r.id, r.device) not in seen), None) or _unknown(self.job.settings)
        told = replace(blank, outcome=Outcome("unjudged", detail=reason))
        others = tuple(r for r in results if (r.id, r.device) != (told.id, told.device))
        seconds = sum(r.seconds for r in results)
        return Judgement(
            name,
            self.declaration,
            (*others, told),
            self.reference,
            self.job.settings.seed,
            seconds,
            self.printed,
        )

    def _names_of_index(self) -> str:
        return self.found[self.job.index] if self.job.index < len(self.found) else self.job.text


def _unknown(settings: Settings) -> Result:
    """For a target of which not even the obligations are known."""
    gradient = next(o for o in OBLIGATIONS if o.id == "gradient")
    return unjudged(gradient, settings, "cpu", "")
