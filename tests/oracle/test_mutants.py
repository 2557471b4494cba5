"""Every wrong implementation fails the obligation named for it; the cause is asked of those of two algorithms.

``make mutants`` tells the cause of every one, which takes minutes.
"""

from __future__ import annotations

import pytest

from gradcheck.oracle.adapter import Adapter, AdapterError
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.obligations import OBLIGATIONS

from .base import Mutant, caught
from .table import MUTANTS

pytestmark = pytest.mark.filterwarnings("error")

_NAMED = [m for m in MUTANTS if m.algorithm in ("grpo_guard", "ddpo") and m.name != "ddpo-variance-for-std"]


def _fails(mutant: Mutant) -> bool:
    """Whether the obligation fails, without a search for the cause."""
    adapter = Adapter(mutant.function, mutant.name, mutant.conventions.batch_reduction, 60.0)
    obligation = next(o for o in OBLIGATIONS if o.id == mutant.obligation)
    try:
        return obligation.check(Judge(adapter, mutant.conventions, max_examples=10)).status == "failed"
    except AdapterError:
        return True


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_caught(mutant: Mutant) -> None:
    assert _fails(mutant), f"{mutant.obligation} holds for {mutant.name}"


@pytest.mark.parametrize("mutant", _NAMED, ids=lambda m: m.name)
def test_its_cause_is_named(mutant: Mutant) -> None:
    result = caught(mutant)
    assert result.diagnosis is not None
    assert result.diagnosis.name == mutant.cause, result.diagnosis.cause


def test_there_are_many_and_their_names_differ() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 60
