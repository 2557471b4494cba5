"""``derive``, the judge and ``unveil`` say the same of losses that are in no catalogue."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gradcheck
from derivations.notation import error_gap
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.conventions import Conventions, declare
from gradcheck.derived.compiled import evaluate
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.checks.gradient import check_gradient
from gradcheck.oracle.judge import Judge
from gradcheck.problems.building import Spec
from gradcheck.unveiling.assumed import Assumed
from gradcheck.unveiling.unveil import Unveiled, unveil
from tests.derive.outside import OUTSIDE


def test_there_are_forty() -> None:
    assert len(OUTSIDE) == 40


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", OUTSIDE)
def test_the_code_conforms_to_its_line_and_others_do_not(name: str) -> None:
    """The line is derived, and code that knows nothing of it has that gradient; one a thousandth larger has not."""
    one = OUTSIDE[name]
    derived = gradcheck.derive(one.line, given=one.given or None, problems=5, time_limit=60)
    assert derived.holds, derived
    conventions = declare(loss=one.line, given=one.given or None)

    def status(sign: float) -> str:
        adapter = Adapter(lambda case: sign * one.code(case).mean(), name, "mean", 60.0)
        return check_gradient(Judge(adapter, conventions, max_examples=3)).status

    assert status(1.0) == "passed"
    assert status(1.001) == "failed"


def _gradients(code: Callable[[Case], Tensor], conventions: Conventions, found: Unveiled) -> tuple[Tensor, Tensor]:
    """On a fresh case, what was found per sample and what the code has, where the one clips as the other does."""
    judge = Judge(Adapter(lambda case: code(case).sum(), "loss"), conventions)
    case = judge.case(Spec(5, (2, 3, 4), 3, policy="off", time="middle", advantage="typical"))
    assert found.gradient is not None
    (read,) = evaluate(conventions.derivation, case, found.gradient, dtype=torch.float64)
    own = judge.observe(case).gradient
    open_ = own.flatten(1).abs().amax(1) > 0  # a formula that was read off is told apart from its clip
    assert int(open_.sum()) >= 2
    return read.expand(own.shape)[open_], own[open_]


@pytest.mark.thin(2)
@pytest.mark.parametrize("name", OUTSIDE)
def test_what_unveil_says_of_the_code_is_the_codes_gradient(name: str) -> None:
    """Read off the numbers, or the declared line's derivation: it knows the code for what the line says."""
    one = OUTSIDE[name]
    conventions = declare(loss=one.line, given=one.given or None)
    found = unveil(lambda case: one.code(case).mean(), name, assumed=Assumed.of((), conventions))
    assert any(match.startswith("as declared, loss, batch_reduction='mean'") for match in found.matches)
    assert found.reason == ""
    torch.testing.assert_close(*_gradients(one.code, conventions, found), rtol=1e-6, atol=1e-9)


_PAIRED = [e for e in CATALOGUE if error_gap in e.derivation.definitions or e.label == "fpo[noise]"]


@pytest.mark.parametrize("entry", _PAIRED, ids=lambda e: e.label)
def test_a_declared_entry_is_told_by_its_derivation(entry: Entry) -> None:
    """Where the numbers alone give no formula: pairs, groups, and a function of a function."""
    conventions = Conventions(entry.algorithm.name, options=dict(entry.derivation.variant.options))
    found = unveil(lambda case: entry.loss(case).mean(), entry.label, assumed=Assumed.of((), conventions))
    assert found.reason == ""
    assert found.matches[0].startswith(f"as declared, {entry.algorithm.name}, batch_reduction='mean'")
    torch.testing.assert_close(*_gradients(entry.loss, conventions, found), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["hinge", "k1", "quadratic", "huber", "norm-guard"])
@pytest.mark.parametrize("wrong", ["doubled", "another"])
def test_unveil_says_of_other_code_that_it_is_not_what_is_declared(name: str, wrong: str) -> None:
    """Twice the loss is told so, and one more term is no longer the declared loss."""
    one = OUTSIDE[name]
    conventions = declare(loss=one.line, given=one.given or None)
    code = {
        "doubled": lambda case: 2 * one.code(case),
        "another": lambda case: one.code(case) + 0.01 * (case.v_theta**2).flatten(1).sum(1),
    }[wrong]
    found = unveil(lambda case: code(case).mean(), name, assumed=Assumed.of((), conventions))
    declared = [match for match in found.matches if match.startswith("as declared")]
    assert declared == (["as declared, loss, batch_reduction='mean', factor=2"] if wrong == "doubled" else [])
    if found.gradient is not None:
        torch.testing.assert_close(*_gradients(code, conventions, found), rtol=1e-6, atol=1e-9)
    else:
        assert found.reason
