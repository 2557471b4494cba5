"""No spoiled claim is proved that does not hold for numbers, and no false statement by hand."""

from __future__ import annotations

import pytest
from adversary.false_statements import FALSE_STATEMENTS, FalseStatement
from adversary.judging import attack, holds, sample

from derivations.claims import refusal
from derivations.derivation import Step, inliner

EACH = pytest.mark.parametrize("false", FALSE_STATEMENTS.values(), ids=FALSE_STATEMENTS.keys())

SEEN = (
    "constant-",
    "hessian-twice",
    "unit-vector",
    "quotient",
    "ratio-order",
    "gradient-order",
    "expansion",
    "limit-e",
)
"""Beginnings of names: what is false in value, in a derivative or in its order, and not for a premise's sake."""


@EACH
def test_a_false_statement_is_refused_with_a_reason(false: FalseStatement) -> None:
    known = inliner(false.definitions, false.coefficients)
    left = false.claim.residual(known)
    assert left != 0, false.why
    assert " " in refusal(false.claim, left)


@pytest.mark.parametrize("name", [name for name in FALSE_STATEMENTS if name.startswith(SEEN)])
def test_numbers_see_that_it_is_false(name: str) -> None:
    """The second route alone would refuse it too."""
    false = FALSE_STATEMENTS[name]
    known = inliner(false.definitions, false.coefficients)
    assert holds(Step(name, "", false.claim), known).startswith("false")


def test_there_are_enough() -> None:
    assert len(FALSE_STATEMENTS) >= 80


def test_no_spoiled_claim_is_proved_unless_it_is_true() -> None:
    """A sample; ``make adversary`` spoils every claim in every way."""
    out = attack(sample(25), every=7)
    assert out.wrong == []
    assert out.without_reason == []
    assert out.made.total() > 300
    assert out.refused.total() > 0.8 * out.made.total()
