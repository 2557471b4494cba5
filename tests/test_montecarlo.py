"""The theorems' second route agrees with what is proved, and would not with what is false."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sympy as sp

from derivations.algebra.nodes import Below, Mean
from derivations.calculus import Norm2
from derivations.derivation import Step
from derivations.notation import D, noise
from derivations.theorems import THEOREMS
from derivations.theorems.expectations import ExpectationIs, GaussianTheorem
from gradcheck.theorems import montecarlo
from gradcheck.theorems.montecarlo import agreement, draw, expectations, main

STEPS = [(theorem, step) for theorem in THEOREMS for step in expectations(theorem)]
EACH = pytest.mark.parametrize(("theorem", "step"), STEPS, ids=lambda x: x.name)


@EACH
def test_drawn_means_are_the_proved_ones(theorem: GaussianTheorem, step: Step) -> None:
    result = agreement(theorem, step, 6)
    assert result.holds, result
    assert len({d.dimension for d in result.draws}) > 1


def spoiled(step: Step) -> Step:
    """A tenth more on the left."""
    claim: Any = step.claim
    return dataclasses.replace(step, claim=dataclasses.replace(claim, lhs=sp.Rational(11, 10) * claim.lhs))


@pytest.mark.parametrize("name", ["ratio-mean", "second-moment", "length-size", "variance", "below-one", "fisher"])
def test_a_tenth_more_is_refused(name: str) -> None:
    (theorem, step), *_ = [(th, s) for th, s in STEPS if s.name == name]
    assert not agreement(theorem, spoiled(step), 30).holds


def test_what_a_single_draw_hides_many_show() -> None:
    """Three percent are below the error bars of a draw, and many bars of the mean of 400."""
    theorem, step = next((th, s) for th, s in STEPS if s.name == "second-moment")
    claim: Any = step.claim
    wrong = dataclasses.replace(step, claim=dataclasses.replace(claim, rhs=claim.rhs * sp.Rational(103, 100)))
    few = agreement(theorem, wrong, 3)
    assert few.worst < montecarlo.BARS
    assert not agreement(theorem, wrong, 400).holds


def test_the_deviations_are_those_of_standard_errors() -> None:
    theorem, step = next((th, s) for th, s in STEPS if s.name == "length")
    deviations = [d.deviation for d in agreement(theorem, step, 200).draws]
    square = sum(x * x for x in deviations) / len(deviations)
    assert 0.7 < square < 1.4  # of 200 draws, mean 1 and standard deviation 0.1


def test_a_product_of_means_is_not_drawn() -> None:
    claim = ExpectationIs(Mean(Norm2(noise), noise) ** 2, D**2)
    theorem = GaussianTheorem("t", "", (Step("s", "", claim),))
    with pytest.raises(NotImplementedError, match="not linear in its means"):
        draw(theorem.inliner, theorem.steps[0])


def test_a_rare_event_need_not_have_been_drawn() -> None:
    rare = ExpectationIs(Mean(Below(Norm2(noise), -1), noise), sp.Rational(1, 10**6))
    common = ExpectationIs(Mean(Below(Norm2(noise), -1), noise), sp.Rational(1, 10))
    theorem = GaussianTheorem("t", "", (Step("rare", "", rare), Step("common", "", common)))
    assert draw(theorem.inliner, theorem.steps[0]).holds
    assert not draw(theorem.inliner, theorem.steps[1]).holds


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--problems", "1"]) == 2
    assert "at least 2" in capsys.readouterr().err
    (theorem,) = (th for th in THEOREMS if th.name == "article")
    monkeypatch.setattr(montecarlo, "THEOREMS", (theorem,))
    assert main(["--problems", "3"]) == 0
    assert "| article | 2 | 3 |" in capsys.readouterr().out
    wrong = dataclasses.replace(theorem, steps=tuple(map(spoiled, expectations(theorem))))
    monkeypatch.setattr(montecarlo, "THEOREMS", (wrong,))
    assert main(["--problems", "100"]) == 1
    assert "FAILED article" in capsys.readouterr().err
