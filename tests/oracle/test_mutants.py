"""Every wrong implementation fails the obligation named for it, with the right cause."""

from __future__ import annotations

import pytest

from .base import Mutant, caught
from .table import MUTANTS

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_caught_with_its_cause(mutant: Mutant) -> None:
    result = caught(mutant)
    assert result.status == "failed", f"{mutant.obligation} holds for {mutant.name}"
    assert result.diagnosis is not None
    assert result.diagnosis.name == mutant.cause, result.diagnosis.cause


def test_there_are_many_and_their_names_differ() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 60
