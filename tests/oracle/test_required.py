"""The required side of a failure is the derivation's formula, for every loss of the catalogue."""

from __future__ import annotations

import pytest

from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.conventions import Conventions
from gradcheck.judging.results import Result
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject

LABELS = {
    *("flow_grpo[kl]", "flow_grpo[window-behaviour]", "grpo_guard[kl-sigma]", "flow_dppo", "ddpo[kl]"),
    *("awm[clipped-elbo]", "diffusion_nft[adaptive]", "rwr", "awr", "fpo[reference]", "diffusion_dpo[online]", "dgpo"),
}
SOME = [e for e in CATALOGUE if e.label in LABELS]


def failing(one: Entry, factor: float = 3.0) -> Result:
    conventions = Conventions(one.algorithm.name, options=dict(one.derivation.variant.options))
    subject = Subject(lambda case: factor * one.loss(case).mean(), one.label, conventions)
    (result,) = judge(subject, Settings(max_examples=3), ("gradient",)).results
    return result


@pytest.mark.parametrize("one", SOME, ids=lambda e: e.label)
def test_every_coefficient_of_the_required_gradient_has_its_formula(one: Entry) -> None:
    diagnosis = failing(one).diagnosis
    assert diagnosis is not None
    assert diagnosis.required
    for direction, text in diagnosis.required:
        assert "no simple formula" not in text, (direction, text)


def test_the_formula_is_the_one_of_the_derivation() -> None:
    diagnosis = failing(entry("diffusion_nft")).diagnosis
    assert diagnosis is not None
    shown = dict(diagnosis.required)
    assert shown["v_θ − v_gt"] == "2A β/B"
    assert shown["v_θ − v_old"] == "−(2β/B)(A − β)"
