"""A declared precision allows for that precision's rounding, and for no error of its size that isn't rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.judging.results import Result

from .base import Correct, Function, judged
from .steps import MEAN, judged_with, log_ratio_of, ppo, sde_step
from .table import CORRECT


def in_float32(function: Function) -> Function:
    """The same code on inputs that are cast first."""

    def cast(case: Case) -> Tensor:
        values = {n: getattr(case, n) for n in case.names}
        tensors = {n: x.float() for n, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()}
        return function(Case(case.label, {**values, **tensors}))

    return cast


def right(case: Case) -> Tensor:
    return ppo(log_ratio_of(case).exp(), case.advantage, case).mean()


def guarded(eps: float) -> Function:
    def loss(case: Case) -> Tensor:
        mean, std = sde_step(case, case.v_theta)
        return judged_with(case, mean, sde_step(case, case.v_old)[0], std + eps)

    return loss


def times(factor: float, function: Function) -> Function:
    return lambda case: factor * function(case)


def gradient_of(function: Function, seed: int = 0, **declared: str) -> Result:
    one = Correct("one", "flow_grpo", {**MEAN, "clip_range": 0.2, **declared}, function)
    (result,) = judged(one, 3, ("gradient",), seed).results
    return result


WRONG = {
    "an epsilon in the std": guarded(1e-6),
    "a factor": times(1 + 2e-6, right),
    "a factor and float32": in_float32(times(1 + 4e-5, right)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_smooth_error_is_no_rounding(name: str) -> None:
    result = gradient_of(WRONG[name], working_dtype="float32")
    assert result.status == "failed"
    assert "not float32's rounding" in result.outcome.detail


@pytest.mark.parametrize("name", WRONG)
def test_no_precision_is_advised_that_would_hide_it(name: str) -> None:
    result = gradient_of(WRONG[name])
    assert result.diagnosis is not None
    assert "dtype" not in result.diagnosis.declare
    assert result.diagnosis.name != "half-precision"


def test_the_script_of_a_smooth_error_shows_it() -> None:
    from gradcheck.oracle.runner import judge
    from gradcheck.oracle.subject import Settings, Subject

    subject = Subject(
        WRONG["a factor"], "loss", Correct("", "flow_grpo", {"working_dtype": "float32"}, right).conventions
    )
    (result,) = judge(subject, Settings(max_examples=5), ("gradient",)).results
    lines = [x for x in result.script.splitlines() if "import" not in x or "torch" in x or "Case" in x]
    with pytest.raises(AssertionError):
        exec("\n".join(lines), {"implementation": WRONG["a factor"], "loss": WRONG["a factor"]})


@pytest.mark.parametrize("name", ["flow_grpo-as-trainers-write-it", *[c.name for c in CORRECT[::16]]])
def test_code_that_casts_to_the_declared_precision_conforms(name: str) -> None:
    one = next((c for c in CORRECT if c.name == name), None)
    if one is None:
        assert gradient_of(in_float32(right), working_dtype="float32").status == "passed"
        return
    cast = Correct(name, one.algorithm, {**one.declared, "working_dtype": "float32"}, in_float32(one.function))
    assert judged(cast, 4, ("gradient",)).holds


def test_a_constant_that_is_held_in_float32_is_its_rounding() -> None:
    def loss(case: Case) -> Tensor:
        level = float(torch.tensor(case.noise_level, dtype=torch.float32))
        return right(case.replace(noise_level=level))

    assert gradient_of(loss).status == "failed"
    assert gradient_of(loss, working_dtype="float32").status == "passed"
