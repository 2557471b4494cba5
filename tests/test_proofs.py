"""Every statement of every derivation is proved, for every dimension."""

from __future__ import annotations

import pytest

from derivations.claims import Equal
from derivations.derivation import Derivation, Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.steps.paths import PARAMETERISATIONS
from derivations.steps.sde import REVERSE_STEPS
from derivations.theorems import THEOREMS as ON_AVERAGE
from gradcheck.catalogue import CATALOGUE, Entry

THEOREMS = (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES, *PARAMETERISATIONS, *ON_AVERAGE)


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda t: t.name)
def test_theorems_hold(theorem: Theorem) -> None:
    assert {r.step.name: r.residual for r in theorem.prove().refused} == {}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_derivations_hold(entry: Entry) -> None:
    proof = entry.derivation.prove()
    assert {r.step.name: r.residual for r in proof.refused} == {}
    assert {"gradient", "weight", "target", "equivalence"} <= {r.step.name for r in proof.results}


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_every_step_is_explained(entry: Entry) -> None:
    derivation: Derivation = entry.derivation
    for step in derivation.all_steps:
        assert step.sentence.endswith((".", "…"))
    assert "title=" in derivation.reference


@pytest.mark.parametrize("stated", [*THEOREMS, *CATALOGUE], ids=lambda x: getattr(x, "name", None) or x.label)
def test_no_statement_is_empty(stated: Theorem | Entry) -> None:
    """SymPy may have turned both sides into one before anybody reads them, and then nothing is said."""
    steps = stated.steps if isinstance(stated, Theorem) else stated.derivation.all_steps
    assert [s.name for s in steps if isinstance(s.claim, Equal) and s.claim.lhs == s.claim.rhs] == []


@pytest.mark.parametrize("step", REVERSE_STEPS, ids=lambda s: s.name)
def test_the_steps_own_formulas_are_the_proved_ones(step: object) -> None:
    """The numbers behind C1, C2 and the offset are those under which the mean was proved affine."""
    assert dict(step.theorem.definitions).items() <= dict(step.formulas).items()  # type: ignore[attr-defined]
