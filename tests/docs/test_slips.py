"""Each difference that a page shows is real: the right line conforms, and the wrong one is refused."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from gradcheck_docs.bugs import BUGS
from gradcheck_docs.implementations import IMPLEMENTATIONS
from gradcheck_docs.slips import SLIPS, Slip, common, slip, wrong_source
from gradcheck_docs.words import IN_WORDS

from gradcheck.catalogue import ALGORITHMS
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.parts import judge_ema

AVERAGE = "moving average"
LOSSES = [s for s in SLIPS if s.of != AVERAGE]


def executed(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(source, "shown.py", "exec"), names)
    return names


@lru_cache(maxsize=200)
def subject_of(source: str) -> Subject:
    (found,) = [x.gradcheck_subject for x in executed(source).values() if hasattr(x, "gradcheck_subject")]
    return found


def status(source: str, obligation: str) -> str:
    """Of one obligation, without a search for the cause."""
    subject = subject_of(source)
    adapter = Adapter(subject.function, subject.name, subject.conventions.batch_reduction, 60.0)
    check = next(o for o in OBLIGATIONS if o.id == obligation).check
    return check(Judge(adapter, subject.conventions, max_examples=6)).status


@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if name != AVERAGE])
def test_what_is_shown_as_right_conforms(name: str) -> None:
    wanted = {"gradient", *(s.obligation for s in LOSSES if s.of == name)}
    results = judge(subject_of(IMPLEMENTATIONS[name]), Settings(max_examples=3), tuple(wanted)).results
    assert {r.id for r in results} == wanted
    assert all(r.good for r in results)


@pytest.mark.parametrize("one", LOSSES, ids=lambda s: f"{s.of}: {s.title}")
def test_what_is_shown_as_wrong_is_refused(one: Slip) -> None:
    assert status(wrong_source(one), one.obligation) == "failed"


def test_the_moving_average_that_is_shown() -> None:
    (one,) = [s for s in SLIPS if s.of == AVERAGE]
    for source, fails in ((IMPLEMENTATIONS[AVERAGE], False), (wrong_source(one), True)):
        made = executed(source)["MovingAverage"]

        def update(shadow: list, live: list, step: int, made: Any = made) -> None:
            average = made(live, decay=0.9)
            average.shadow = shadow
            average.update()

        def store(shadow: list, live: list, made: Any = made) -> list:
            average = made(live)
            average.shadow = shadow
            average.swap_in()
            return average.saved

        def restore(saved: list, live: list, made: Any = made) -> None:
            average = made(live)
            average.saved = saved
            average.swap_out()

        judged = judge_ema(update, decay=0.9, store=store, restore=restore)
        assert [r.id for r in judged.results if not r.good] == ([one.obligation] if fails else [])


def test_every_algorithm_has_its_words_and_its_mistakes() -> None:
    """They are written in ``docs/_ext/gradcheck_docs``, ``words.py`` and ``slips.py``."""
    names = {a.name for a in ALGORITHMS}
    assert set(IN_WORDS) == names
    for name in names:
        assert len(common(name)) >= 3
        assert all(s.says for s in common(name))


def test_every_known_mistake_has_two_lines_and_every_pair_of_lines_a_page() -> None:
    shown = {bug.slip for bug in BUGS}
    assert all(slip(*place) for place in shown)
    assert {(s.of, s.title) for s in SLIPS if not s.common} <= shown
    assert all(s.right != s.wrong for s in SLIPS)
