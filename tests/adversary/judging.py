"""What becomes of spoiled claims: refused, or proved; and what is proved must hold for numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import sympy as sp

from adversary.mutations import SIDES, Mutant, mutants
from derivations.claims import refusal
from derivations.coincidences import COINCIDENCES
from derivations.derivation import Derivation, Step, Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.proof.premises import Inliner
from derivations.steps.paths import PARAMETERISATIONS
from derivations.steps.sde import REVERSE_STEPS
from derivations.theorems import THEOREMS
from derivations.theorems.expectations import ExpectationIs
from gradcheck.catalogue import CATALOGUE
from gradcheck.theorems.montecarlo import Agreement, draw
from gradcheck.verifying.steps import PLACES, NumericStep

__all__ = ["Outcome", "attack", "holds", "sample", "statements"]

_DRAWN = 100
"""Problems for an expectation: together they see some thousandths of what it says."""


@dataclass
class Outcome:
    """Counts of one run.

    Attributes:
        made: mutants, by how they were made.
        refused: those that were refused.
        true: those that were proved, and hold for numbers.
        without_reason: refused, and no words say why.
        wrong: those that were proved and do not hold for numbers, or cannot be evaluated: there should be none.
    """

    made: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    true: Counter[str] = field(default_factory=Counter)
    without_reason: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def statements() -> Iterator[tuple[str, Step, Inliner]]:
    """Every step of the catalogue and of every theorem, with what it is judged with."""
    steps = (s.theorem for s in REVERSE_STEPS)
    theorems: tuple[Theorem, ...] = (*LEMMAS, *steps, *IDENTITIES, *PARAMETERISATIONS, *THEOREMS)
    for theorem in theorems:
        for step in theorem.steps:
            yield f"{theorem.name}.{step.name}", step, theorem.inliner
    for coincidence in COINCIDENCES:
        for step in coincidence.steps:
            yield f"{coincidence.name}.{step.name}", step, Inliner({})
    for entry in CATALOGUE:
        derivation: Derivation = entry.derivation
        for step in derivation.all_steps:
            yield f"{derivation.label}.{step.name}", step, derivation.inliner


def sample(every: int) -> list[tuple[str, Step, Inliner]]:
    """Every so-manieth statement, no two of them with one claim in the same terms."""
    seen, out = set(), []
    for name, step, inliner in statements():
        claim = step.claim
        symbols = set().union(*(sp.sympify(getattr(claim, f)).free_symbols for f in SIDES[type(claim)]))
        key = (repr(claim), repr(sorted(((s, inliner(s), inliner.coefficients.get(s)) for s in symbols), key=str)))
        if key not in seen:
            seen.add(key)
            out.append((name, step, inliner))
    return out[::every]


def attack(chosen: Iterable[tuple[str, Step, Inliner]], every: int = 1, start: int = 0) -> Outcome:
    """Spoil each statement's claim and judge what comes of it; with ``every``, only each so-manieth mutant."""
    out = Outcome()
    number = -1
    for name, step, inliner in chosen:
        for mutant in mutants(step.claim):
            number += 1
            if number % every == start:
                _judge(out, name, mutant, inliner)
    return out


def _judge(out: Outcome, name: str, mutant: Mutant, inliner: Inliner) -> None:
    out.made[mutant.kind] += 1
    left = mutant.claim.residual(inliner)
    if left != 0:
        out.refused[mutant.kind] += 1
        if not refusal(mutant.claim, left):
            out.without_reason.append(name)
        return
    seen = holds(Step(name, "", mutant.claim), inliner)
    if seen == "true":
        out.true[mutant.kind] += 1
    else:
        out.wrong.append(f"{name} [{mutant.kind}] {seen}: {mutant.claim}")


def holds(step: Step, inliner: Inliner) -> str:
    """``"true"`` if the claim holds for numbers at every place, else what was seen."""
    if isinstance(step.claim, ExpectationIs):
        return _drawn(step, inliner)
    numeric = None
    for seed, place in enumerate(PLACES):
        try:
            numeric = numeric or NumericStep.of(step, inliner.closed, inliner.coefficients, inliner.within)
            found = numeric.check(seed, place)
        except (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            return f"cannot be evaluated {place} ({type(error).__name__}: {error})"
        if not found.holds:
            return f"false {place} (ratio {found.ratio:.2g})"
    return "true"


def _drawn(step: Step, inliner: Inliner) -> str:
    """An expectation, on random problems and noise."""
    try:
        found = Agreement(step.name, tuple(draw(inliner, step, seed) for seed in range(_DRAWN)))
    except (ArithmeticError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"cannot be drawn ({type(error).__name__}: {error})"
    return "true" if found.holds else f"false on average (deviation {found.worst:.2g}, bias {found.bias:.2g})"
