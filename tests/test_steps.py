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
from derivations.notation import D, advantage, v_ref, v_theta
from derivations.steps.sde import REVERSE_STEPS
from derivations.theorems import THEOREMS as ON_AVERAGE
from derivations.theorems.expectations import ExpectationIs
from gradcheck.catalogue import CATALOGUE
from gradcheck.verifying.steps import PLACES, NumericStep, check_step

THEOREMS = (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES, *ON_AVERAGE)
ALL: list[Theorem | Derivation] = [*THEOREMS, *(e.derivation for e in CATALOGUE)]
STATEMENTS = pytest.mark.parametrize("statement", ALL, ids=lambda s: s.label if isinstance(s, Derivation) else s.name)


def steps_of(statement: Theorem | Derivation) -> tuple[Step, ...]:
    """All but the means over noise, which ``test_montecarlo.py`` draws."""
    steps = statement.all_steps if isinstance(statement, Derivation) else statement.steps
    return tuple(step for step in steps if not isinstance(step.claim, ExpectationIs))


def coefficients_of(statement: Theorem | Derivation) -> Mapping[sp.Symbol, sp.Expr]:
    return statement.coefficients if isinstance(statement, Derivation) else {}


def to_the_n(step: Step) -> bool:
    """Whether its claim holds a power with a symbol as its exponent."""
    sides = [e for e in vars(step.claim).values() if isinstance(e, sp.Expr)]
    return any(power.exp.free_symbols for side in sides for power in side.atoms(sp.Pow))


@STATEMENTS
def test_every_step_holds_for_numbers(statement: Theorem | Derivation) -> None:
    """Wherever the model is; on-policy, where differences are 0 over 0, what can be judged at all."""
    for step in steps_of(statement):
        numeric = NumericStep.of(step, statement.definitions, coefficients_of(statement), statement.within)
        for seed, place in enumerate(PLACES):
            result = numeric.check(seed, place)
            enough = result.judged > 0 if to_the_n(step) else result.judged == 1.0  # xⁿ is judged where x is positive
            assert enough or place == "on-policy", (step.name, place)
            assert result.holds, (step.name, place, result)


def spoiled(
    step: Step, definitions: Mapping[sp.Symbol, sp.Expr], within: Mapping[sp.Symbol, sp.Interval] | None
) -> Step | None:
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
    if check_step(dataclasses.replace(step, claim=vanishes), definitions, within=within).holds:
        is_vector = isinstance(claim, GradientIs) or calculus.kind(value) == "vector"
        wrong = value + 1e-6 * (v_theta if is_vector else sp.S.One)
    return dataclasses.replace(step, claim=dataclasses.replace(claim, **{side: wrong}))


SPOILABLE = (GradientIs, Equal, Approximates, Parallel, EqualUpToConstant)


@pytest.mark.parametrize(
    "statement",
    [s for s in ALL if any(isinstance(step.claim, SPOILABLE) for step in steps_of(s))],
    ids=lambda s: s.label if isinstance(s, Derivation) else s.name,
)
def test_a_millionth_is_refused(statement: Theorem | Derivation) -> None:
    tried = 0
    for step in steps_of(statement):
        wrong = spoiled(step, statement.definitions, statement.within)
        if wrong is None:
            continue
        tried += 1
        assert not check_step(wrong, statement.definitions, within=statement.within).holds, step.name
    assert tried


def test_an_inner_product_that_only_the_condition_names_has_numbers_too() -> None:
    """‖v_ref‖² = D stands in the condition alone: D takes the value of that norm."""
    where = {calculus.Norm2(v_ref): D}
    assert check_step(Step("", "", Equal(D * advantage, advantage * D, where)), {}).holds
    assert not check_step(Step("", "", Equal(D * advantage, advantage, where)), {}).holds
