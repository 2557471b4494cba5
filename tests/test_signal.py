"""What a precision leaves of a gradient, and the operation that is named for the rest."""

from __future__ import annotations

import pytest
import torch

import gradcheck
from derivations.calculus import Norm2
from derivations.notation import log_prob_old, reward, temperature, v_gt, v_theta, x_prev
from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.conventions import declare
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.signal import digits, lost_by


@pytest.mark.parametrize("kept", [1.0, 3.0, 7.5])
def test_digits_are_those_of_the_relative_error(kept: float) -> None:
    gradient = torch.tensor([[1.0, -2.0], [0.0, 0.0], [1e5, 3e5]], dtype=torch.float64)
    assert digits(gradient, gradient * 10**-kept) == pytest.approx(kept)
    assert digits(gradient, gradient * 3) == 0.0
    assert digits(gradient, torch.full_like(gradient, torch.inf)) == 0.0


def problem(name: str, variant: str = "paper", **regimes: str) -> Case:
    return build(
        entry(name, variant).derivation, Spec(4, (6, 5), 0, time="middle", **{"advantage": "typical", **regimes})
    )


def test_two_velocities_that_nearly_agree() -> None:
    """Near the subject the gradient is a small difference of large velocities."""
    case = problem("awm")
    near = case.replace(v_theta=(case.v_gt + 1e-6 * case.noise).detach())
    found = lost_by(entry("awm").derivation, near)
    assert found is not None
    assert found.operation.is_Add
    assert {v_theta, v_gt} <= found.operation.free_symbols
    assert str(found).startswith("the difference ")


def test_the_ratio_of_a_summed_log_probability() -> None:
    found = lost_by(entry("flow_grpo").derivation, problem("flow_grpo", policy="near"))
    assert found is not None
    assert log_prob_old in found.operation.free_symbols
    assert found.operation.has(Norm2)


def test_a_state_close_to_its_mean() -> None:
    """With a tiny standard deviation x_prev − mean is what rounding leaves of two large vectors."""
    found = lost_by(entry("flow_grpo", "mean").derivation, problem("flow_grpo", "mean", policy="near", noise="tiny"))
    assert found is not None
    assert found.operation == x_prev or x_prev in found.operation.free_symbols
    assert not found.operation.has(Norm2)


def test_a_large_exponent() -> None:
    case = problem("rwr")
    found = lost_by(entry("rwr").derivation, case.replace(reward=100 + 0 * case.reward))
    assert found is not None
    assert found.operation == reward / temperature


def test_nothing_is_lost_of_nothing() -> None:
    assert lost_by(entry("awm").derivation, problem("awm", advantage="zero")) is None


# ------------------------------------------------------------------------- as the obligation tells it


def awm(case: gradcheck.Case) -> torch.Tensor:
    error = ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).sum(1)
    return (case.advantage * error).mean()


def casting(case: gradcheck.Case) -> torch.Tensor:
    """Half of it in half precision, whatever it is given."""
    v_gt = (case.noise - case.x_0).bfloat16().to(case.v_theta.dtype)
    return (case.advantage * ((case.v_theta - v_gt) ** 2).flatten(1).sum(1)).mean()


def refusing(case: gradcheck.Case) -> torch.Tensor:
    if case.v_theta.dtype in (torch.bfloat16, torch.float16):
        raise TypeError("no half precision here")
    return awm(case)


def note(function: object) -> str:
    subject = Subject(function, "f", declare("awm"))  # type: ignore[arg-type]
    (result,) = judge(subject, Settings(max_examples=2), ("precision",)).results
    return result.outcome.note


def test_the_obligation_measures_each_precision() -> None:
    words = note(awm)
    kept = {name: float(words.split(f"{name} ")[1].split(",")[0].split(";")[0]) for name in ("float32", "bfloat16")}
    assert 6 < kept["float32"] < 9
    assert 1.5 < kept["bfloat16"] < 4


def test_a_wide_clamp_is_none_in_float16() -> None:
    subject = Subject(awm, "f", declare("awm", adv_clip_max=1e9))
    (result,) = judge(subject, Settings(max_examples=2), ("precision",)).results
    assert result.status == "passed"


def test_code_that_casts_keeps_fewer_digits() -> None:
    assert float(note(casting).split("float32 ")[1].split(",")[0]) < 4


def test_code_that_refuses_a_precision_is_told_so() -> None:
    assert "bfloat16 refused, float16 refused" in note(refusing)
