"""Every proved step holds for numbers too, by a route that shares neither SymPy's simplifier nor the calculus."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import sympy as sp

from derivations import calculus
from derivations.claims import Approximates, Equal, EqualUpToConstant, GradientIs, Parallel
from derivations.derivation import Derivation, Step, Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.notation import v_theta
from derivations.sde import REVERSE_STEPS
from gradcheck.catalogue import CATALOGUE
from gradcheck.steps import PLACES, check_step

THEOREMS = (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES)
STATEMENTS = pytest.mark.parametrize(
    "statement",
    [*THEOREMS, *(e.derivation for e in CATALOGUE)],
    ids=[*(t.name for t in THEOREMS), *(e.label for e in CATALOGUE)],
)


def steps_of(statement: Theorem | Derivation) -> tuple[Step, ...]:
    return statement.all_steps if isinstance(statement, Derivation) else statement.steps


def coefficients_of(statement: Theorem | Derivation) -> Mapping[sp.Symbol, sp.Expr]:
    return statement.coefficients if isinstance(statement, Derivation) else {}


@STATEMENTS
def test_every_step_holds_for_numbers(statement: Theorem | Derivation) -> None:
    """Wherever the model is; on-policy, where differences are 0 over 0, what can be judged at all."""
    for step in steps_of(statement):
        for seed, place in enumerate(PLACES):
            result = check_step(step, statement.definitions, seed, place, coefficients_of(statement))
            assert result.judged == 1.0 or place == "on-policy", (step.name, place)
            assert result.holds, (step.name, place, result)


def spoiled(step: Step, definitions: Mapping[sp.Symbol, sp.Expr]) -> Step | None:
    """The same step with one side a millionth larger; where that side evaluates to 0, it becomes a millionth."""
    claim = step.claim
    if isinstance(claim, GradientIs):
        side = "gradient"
    elif isinstance(claim, (Equal, Approximates, Parallel, EqualUpToConstant)):
        side = "lhs"
    else:
        return None
    value = sp.sympify(getattr(claim, side))
    vanishes = Equal(value, sp.S.Zero, getattr(claim, "where", {}))
    wrong = value * (1 + 1e-6)
    if check_step(dataclasses.replace(step, claim=vanishes), definitions).holds:
        is_vector = isinstance(claim, GradientIs) or calculus.kind(value) == "vector"
        wrong = value + 1e-6 * (v_theta if is_vector else sp.S.One)
    return dataclasses.replace(step, claim=dataclasses.replace(claim, **{side: wrong}))


@STATEMENTS
def test_a_millionth_is_refused(statement: Theorem | Derivation) -> None:
    tried = 0
    for step in steps_of(statement):
        wrong = spoiled(step, statement.definitions)
        if wrong is None:
            continue
        tried += 1
        assert not check_step(wrong, statement.definitions).holds, step.name
    assert tried
