"""Every proved step holds for numbers too, by a route that shares neither SymPy's simplifier nor the calculus."""

from __future__ import annotations

import dataclasses

import pytest

from derivations.claims import Approximates, Equal, EqualUpToConstant, GradientIs, Parallel
from derivations.derivation import Derivation, Step, Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.notation import v_theta
from derivations.sde import SDES
from gradcheck.catalogue import CATALOGUE
from gradcheck.steps import check_step

THEOREMS = (*LEMMAS, *(s.theorem for s in SDES), *IDENTITIES)
STATEMENTS = pytest.mark.parametrize(
    "statement",
    [*THEOREMS, *(e.derivation for e in CATALOGUE)],
    ids=[*(t.name for t in THEOREMS), *(e.label for e in CATALOGUE)],
)


def steps_of(statement: Theorem | Derivation) -> tuple[Step, ...]:
    return statement.all_steps if isinstance(statement, Derivation) else statement.steps


@STATEMENTS
def test_every_step_holds_for_numbers(statement: Theorem | Derivation) -> None:
    for step in steps_of(statement):
        for seed in range(3):
            result = check_step(step, statement.definitions, seed)
            assert result.judged == 1.0, step.name
            assert result.holds, (step.name, result)


def spoiled(step: Step) -> Step | None:
    """The same step with one side a millionth larger, or None where that side is 0."""
    claim = step.claim
    if isinstance(claim, GradientIs):
        side = "gradient"
    elif isinstance(claim, (Equal, Approximates, Parallel, EqualUpToConstant)):
        side = "lhs"
    else:
        return None
    value = getattr(claim, side)
    wrong = value * (1 + 1e-6) if value != 0 else v_theta if isinstance(claim, GradientIs) else None
    return None if wrong is None else dataclasses.replace(step, claim=dataclasses.replace(claim, **{side: wrong}))


@STATEMENTS
def test_a_millionth_is_refused(statement: Theorem | Derivation) -> None:
    tried = 0
    for step in steps_of(statement):
        wrong = spoiled(step)
        if wrong is None or step.name in ("zero-mean", "slope-positive-above", "slope-negative-below"):
            continue  # a side that is 0, or another form of 0, stays so
        tried += 1
        assert not check_step(wrong, statement.definitions).holds, step.name
    assert tried
