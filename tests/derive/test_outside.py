"""``derive``, the judge and ``unveil`` say the same of losses that are in no catalogue."""

from __future__ import annotations

import pytest
import torch

import gradcheck
from gradcheck.compiled import evaluate
from gradcheck.conventions import declare
from gradcheck.oracle.adapter import Adapter
from gradcheck.oracle.assumed import Assumed
from gradcheck.oracle.checks import check_gradient
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.unveil import unveil
from gradcheck.problems import Spec
from tests.derive.outside import OUTSIDE


def test_there_are_forty() -> None:
    assert len(OUTSIDE) == 40


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


# Where it reads no formula it first tries many: of those losses some of each kind, the others have been tried once.
_UNREAD = ("ipo", "adjoint-matching", "masked", "quadratic", "huber")


@pytest.mark.parametrize("name", [name for name, one in OUTSIDE.items() if one.read or name in _UNREAD])
def test_what_unveil_reads_off_the_code_is_what_the_line_says(name: str) -> None:
    """It knows the declared line for what it is, and a formula that it reads is the derived one."""
    one = OUTSIDE[name]
    conventions = declare(loss=one.line, given=one.given or None)
    found = unveil(lambda case: one.code(case).mean(), name, assumed=Assumed.of((), conventions))
    assert any(match.startswith("as declared, loss, batch_reduction='mean'") for match in found.matches)
    if not one.read:
        return
    assert found.gradient is not None, found.reason
    judge = Judge(Adapter(lambda case: one.code(case), name), conventions)
    case = judge.case(Spec(5, (2, 3, 4), 3, policy="off", time="middle", advantage="typical"))
    derivation = conventions.derivation
    read, required = evaluate(derivation, case, found.gradient, derivation.gradient, dtype=torch.float64)
    open_ = required.flatten(1).abs().amax(1) > 0  # its clip is told apart from its gradient
    assert int(open_.sum()) >= 2
    torch.testing.assert_close(read.expand(required.shape)[open_], required[open_], rtol=1e-6, atol=1e-9)
