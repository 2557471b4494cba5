"""No regime is left out: a loss that is wrong in one alone is refused, by the obligation that visits it."""

from __future__ import annotations

import pytest

from .base import Correct, refused
from .mutants_regimes import SPOILT, Spoilt


@pytest.mark.parametrize("spoilt", SPOILT, ids=lambda s: s.name)
def test_refused_in_its_regime(spoilt: Spoilt) -> None:
    one = Correct(spoilt.name, spoilt.algorithm, spoilt.declared, spoilt.function)
    assert refused(one, spoilt.obligation)


def test_there_are_many_and_their_names_differ() -> None:
    assert len({s.name for s in SPOILT}) == len(SPOILT) >= 60
