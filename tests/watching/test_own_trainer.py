"""Another trainer than the examples: right in a dozen ways without an alarm, wrong in thirty and named."""

from __future__ import annotations

import re

import pytest

from gradcheck.watching.watcher import WatchError
from tests.watching.own_trainer import CLEAN, WRONG, run


@pytest.mark.filterwarnings("ignore:.*no density")
@pytest.mark.parametrize("how", CLEAN)
def test_a_right_trainer_conforms(how: str) -> None:
    report = run(how).report
    assert report.holds, report
    assert report.verdicts["conforms"] >= 6
    assert max(report.resolutions()) <= 0.01


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_trainer_is_caught_and_named(how: str) -> None:
    """At the first judged step on which the mistake acts: until then, every step conforms."""
    with pytest.raises(WatchError) as raised:
        run(how, strict=True)
    named = re.search(r"is wrong \((.*?)\)", str(raised.value))
    assert named is not None
    assert WRONG[how][1] in named[1].split(", "), raised.value
