"""Every wrong implementation fails the obligation named for it; the cause is asked of some of them.

``make mutants`` tells the cause of every one, and with ``ARGS=--new`` and ``ARGS=--pairs`` of those put together, which
takes minutes.
"""

from __future__ import annotations

import pytest

from .base import Mutant, caught, refused
from .composed import Composed, first_failure
from .table import MUTANTS, NEW, PAIRS

pytestmark = pytest.mark.filterwarnings("error")

_NAMED = MUTANTS[::30]
_COMPOSED = (*NEW[::100], *PAIRS[::24])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_caught(mutant: Mutant) -> None:
    assert refused(mutant, mutant.obligation), f"{mutant.obligation} holds for {mutant.name}"


@pytest.mark.parametrize("mutant", _NAMED, ids=lambda m: m.name)
def test_its_cause_is_named(mutant: Mutant) -> None:
    result = caught(mutant)
    assert result.diagnosis is not None
    assert result.diagnosis.name == mutant.cause, result.diagnosis.cause


@pytest.mark.parametrize("one", _COMPOSED, ids=lambda one: one.name)
def test_the_cause_of_one_put_together_speaks_of_the_mistake(one: Composed) -> None:
    result = first_failure(one, 3)
    assert result is not None, "it conforms"
    assert result.diagnosis is not None
    assert one.right(f"{result.diagnosis.cause} {result.diagnosis.declare}"), result.diagnosis.cause


def test_there_are_many_and_their_names_differ() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 60
