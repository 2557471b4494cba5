"""Right implementations, however they are written, pass every obligation.

Here every fourth one; ``python -m tests.oracle.table --only correct --seeds 15`` judges all, on other problems too.
"""

from __future__ import annotations

import pytest

from .base import Correct, judged
from .table import CORRECT


@pytest.mark.parametrize("implementation", CORRECT[::4], ids=lambda c: c.name)
def test_no_alarm(implementation: Correct) -> None:
    judgement = judged(implementation, max_examples=4)
    assert not [f"{r.id}: {r.outcome.detail}" for r in judgement.results if not r.good]


def test_there_are_many_and_their_names_differ() -> None:
    assert len({c.name for c in CORRECT}) == len(CORRECT) >= 150
