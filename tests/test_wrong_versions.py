"""Every wrong version in the tables of :mod:`wrong_versions` is refused, by the check that its table names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import ModuleType

import pytest
import sympy as sp
import torch
from wrong_versions import WRONG_TARGETS, WRONG_THEOREMS, WRONG_VERSIONS, Edit, fresh, numeric_chain, symbolic_chain
from wrong_versions.base import DDIM, IDENTITIES, LEMMAS, SDE, WrongTarget, WrongTheorem, WrongVersion

from derivations import identities, lemmas
from derivations.algorithm import Algorithm
from derivations.derivation import Derivation, DerivationError, Proof, Step, Theorem, prove
from derivations.pieces import Piece
from derivations.steps import sde
from gradcheck.case import Case
from gradcheck.catalogue import ALGORITHMS, Entry, entry
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import compare_entry

torch.set_num_threads(1)

DTYPES = (torch.float64, torch.float32)
NAMES = tuple(a.name for a in ALGORITHMS)
LEAST = 8  # wrong versions of an algorithm, for each route

# Unequal clip ranges, mixed regimes and time steps, so that nothing can hide in a special case.
PROBLEMS = (
    Spec(batch=6, latent=(5,), seed=0, clip=1),
    Spec(batch=6, latent=(2, 3), seed=1, clip=1),
    Spec(batch=4, latent=(7,), seed=2, clip=1, policy="near", advantage="typical", time="middle"),
    Spec(batch=6, latent=(3,), seed=3, clip=1, policy="off", advantage="typical"),
)
CLIPPED = (Spec(batch=12, latent=(4,), seed=4, clip=1, policy="outside", advantage="typical", time="middle"),)

THEOREMS = {"L": LEMMAS, "sde": SDE}  # by the name's beginning; everything else is an identity


def _table(route: str) -> list[object]:
    return [
        pytest.param(name, wrong, id=f"{name}-{wrong.name}")
        for name, table in WRONG_VERSIONS.items()
        for wrong in table
        if getattr(wrong, route) is not None
    ]


@cache
def _case(name: str, variant: str, spec: Spec, dtype: torch.dtype) -> Case:
    return build(entry(name, variant).derivation, spec, dtype)


def _refusals(judged: Entry, name: str, dtype: torch.dtype) -> dict[str, float]:
    """The comparisons that refuse on any of the problems, with the largest ratio of each."""
    worst: dict[str, float] = {}
    right = entry(name, judged.variant).derivation
    for spec in PROBLEMS + (CLIPPED if Piece.RATIO in right.pieces else ()):
        comparison = compare_entry(judged, _case(name, judged.variant, spec, dtype))
        for check in ("gradient", "equivalence"):
            outcome = getattr(comparison, check)
            if not outcome.holds and math.isfinite(outcome.observed):  # wrong, and not merely overflowing
                worst[check] = max(worst.get(check, 0.0), outcome.ratio)
    return worst


def _theorem(name: str, edit: Edit | None) -> Theorem:
    file = next((file for start, file in THEOREMS.items() if name.startswith(start)), IDENTITIES)
    module = fresh((DDIM, SDE) if file == SDE else (file,), *([edit] if edit else []))
    theorems = {
        LEMMAS: lambda: module.LEMMAS,
        SDE: lambda: tuple(step.theorem for step in module.REVERSE_STEPS),
        IDENTITIES: lambda: module.IDENTITIES,
    }[file]()
    return next(theorem for theorem in theorems if theorem.name == name)


def _derive(module: ModuleType, variant: str) -> Derivation:
    algorithm: Algorithm = module.ALGORITHM
    return algorithm.derive(variant)


def _refused_steps(proof: Proof) -> list[str]:
    return [result.step.name for result in proof.refused]


def _assert_refused(steps: Sequence[Step], definitions: Mapping[sp.Symbol, sp.Expr], name: str) -> None:
    """The step of that name is there, is refused, and shows by what it is wrong; other steps save their time."""
    (result,) = prove(name, tuple(step for step in steps if step.name == name), definitions).refused
    assert result.residual.free_symbols or result.residual.is_number
    assert result.residual != 0


@pytest.mark.parametrize(("name", "wrong"), _table("symbolic"))
def test_symbolic_wrong_version_is_refused(name: str, wrong: WrongVersion) -> None:
    assert wrong.symbolic is not None
    if wrong.theorem:
        theorem = _theorem(wrong.theorem, wrong.symbolic)
        _assert_refused(theorem.steps, theorem.definitions, wrong.refused_by)
        return
    module = fresh(symbolic_chain(name), wrong.symbolic)
    if wrong.refused_by == "DerivationError":
        with pytest.raises(DerivationError):
            _derive(module, wrong.variant)
        return
    derivation = _derive(module, wrong.variant)
    if wrong.refused_by != "comparison":
        _assert_refused(derivation.all_steps, derivation.definitions, wrong.refused_by)
        return
    assert _refused_steps(derivation.prove()) == [], "the proof refuses this already: name the step in the table"
    misstated = Entry(module.ALGORITHM, entry(name).by_hand, wrong.variant)
    for dtype in DTYPES:
        assert _refusals(misstated, name, dtype).keys() == {"gradient", "equivalence"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "wrong"), _table("numeric"))
def test_numeric_wrong_version_is_refused(name: str, wrong: WrongVersion, dtype: torch.dtype) -> None:
    assert wrong.numeric is not None
    module = fresh(numeric_chain(name), wrong.numeric)
    judged = Entry(entry(name).algorithm, module.loss, wrong.variant)
    assert _refusals(judged, name, dtype).keys() == wrong.numeric_refused_by


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "wrong"),
    [pytest.param(name, w, id=f"{name}-{w.name}") for name, table in WRONG_TARGETS.items() for w in table],
)
def test_wrong_target_is_refused_by_equivalence_alone(name: str, wrong: WrongTarget, dtype: torch.dtype) -> None:
    right = entry(name, wrong.variant)
    stated = right.algorithm.assemble(right.algorithm.chosen(right.derivation.variant.options))
    pull = replace(stated.pull, **wrong.wrong(right.derivation))
    algorithm = replace(right.algorithm, assemble=lambda _: replace(stated, pull=pull))
    judged = Entry(algorithm, right.by_hand, wrong.variant)
    assert _refusals(judged, name, dtype).keys() == {"equivalence"}
    changed = judged.derivation
    if dtype == torch.float64:
        _assert_refused(changed.all_steps, changed.definitions, "equivalence")


@pytest.mark.parametrize("wrong", WRONG_THEOREMS, ids=lambda w: f"{w.theorem}-{w.name}")
def test_wrong_theorem_is_refused(wrong: WrongTheorem) -> None:
    theorem = _theorem(wrong.theorem, wrong.edit)
    _assert_refused(theorem.steps, theorem.definitions, wrong.refused_by)


# The tests above could refuse everything that has been through `fresh`; they do not.


@pytest.mark.parametrize(
    ("name", "variant"),
    sorted({(n, w.variant) for tables in (WRONG_VERSIONS, WRONG_TARGETS) for n, t in tables.items() for w in t}),
)
def test_the_unedited_source_is_accepted(name: str, variant: str) -> None:
    symbolic, numeric = fresh(symbolic_chain(name)), fresh(numeric_chain(name))
    assert _refused_steps(_derive(symbolic, variant).prove()) == []
    for dtype in DTYPES:
        assert _refusals(Entry(symbolic.ALGORITHM, numeric.loss, variant), name, dtype) == {}


@pytest.mark.parametrize("name", sorted({wrong.theorem for wrong in WRONG_THEOREMS}))
def test_the_unedited_theorem_is_accepted(name: str) -> None:
    assert _refused_steps(_theorem(name, None).prove()) == []


def test_an_edit_of_text_that_is_gone_says_so() -> None:
    with pytest.raises(LookupError, match="holds 'no such text' 0 times, not 1"):
        fresh((LEMMAS,), Edit(LEMMAS, "no such text", ""))
    with pytest.raises(LookupError, match=r"sde\.py is not among"):
        fresh((LEMMAS,), Edit(SDE, "drift", ""))


# Completeness


@pytest.mark.parametrize("route", ["symbolic", "numeric"])
@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_has_enough_wrong_versions(name: str, route: str) -> None:
    there_are = [w.name for w in WRONG_VERSIONS.get(name, ()) if getattr(w, route) is not None]
    assert len(there_are) >= LEAST, f"add tests/wrong_versions/{name}.py, with at least {LEAST} {route} wrong versions"


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_has_wrong_targets(name: str) -> None:
    assert len(WRONG_TARGETS.get(name, ())) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_every_general_step_refuses_something(name: str) -> None:
    refusing = {w.refused_by for w in WRONG_VERSIONS[name]}
    assert {"gradient", "target", "equivalence"} <= refusing


def test_every_theorem_has_a_wrong_version_of_each_step() -> None:
    theorems = (*lemmas.LEMMAS, *(step.theorem for step in sde.REVERSE_STEPS), *identities.IDENTITIES)
    named = {(w.theorem, w.refused_by) for w in WRONG_THEOREMS}
    assert {theorem.name for theorem in theorems} == {theorem for theorem, _ in named}
    for theorem in theorems:
        steps = {step.name for step in theorem.steps}
        refusing = {step for name, step in named if name == theorem.name}
        assert refusing <= steps
        if theorem.name in ("sde-dance", "sde-wan"):  # they share sde-flow's steps
            steps -= {step for name, step in named if name == "sde-flow"} - {"noise-schedule"}
            refusing &= steps
        if theorem.name != "L4":  # a row of branches
            assert refusing == steps, f"{theorem.name}: no wrong version is refused by {sorted(steps - refusing)}"


def test_every_table_is_of_an_algorithm_of_the_catalogue() -> None:
    assert WRONG_VERSIONS.keys() == set(NAMES)


def test_names_differ() -> None:
    for tables in (WRONG_VERSIONS, WRONG_TARGETS):
        for name, table in tables.items():
            names = [wrong.name for wrong in table]
            assert len(names) == len(set(names)), name
