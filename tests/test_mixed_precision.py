"""Mixed precision as trained: a network that puts out half precision, and a loss that is computed in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from derivations.derivation import PREDICTIONS
from gradcheck.case import Case
from gradcheck.catalogue import ALGORITHMS, Entry, entry
from gradcheck.conventions import Conventions, declare
from gradcheck.errors import InputError
from gradcheck.oracle.adapter import Adapter
from gradcheck.oracle.checks import check_gradient
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.reference import output_dtype
from gradcheck.oracle.runner import Settings, Target, judge
from gradcheck.problems import Spec

_ENTRIES = [entry(symbolic.NAME) for symbolic, _ in ALGORITHMS]


def _upcast(case: Case, dtype: torch.dtype = torch.float32) -> Case:
    """As a trainer does it: everything in float32 before the loss."""
    values = {name: getattr(case, name) for name in case.names}
    floats = {n: x for n, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return Case(case.label, {**values, **{n: x.to(dtype) for n, x in floats.items()}})


def _conventions(e: Entry, dtype: str) -> Conventions:
    return declare(e.symbolic.NAME, output_dtype=dtype, **e.derivation.variant.options)


def _verdict(function: Callable[[Case], Tensor], conventions: Conventions) -> str:
    return check_gradient(Judge(Adapter(function, "loss", "mean", 60.0), conventions, max_examples=5)).status


@pytest.mark.parametrize("e", _ENTRIES, ids=lambda e: e.label)
def test_an_error_of_one_percent_is_seen_behind_a_bfloat16_output(e: Entry) -> None:
    """bfloat16 keeps 0.4 %: the right loss passes, and one that is 1 % too large or too small does not."""
    conventions = _conventions(e, "bfloat16")
    assert _verdict(lambda case: e.loss(_upcast(case)).mean(), conventions) == "passed"
    for factor in (1.01, 0.99):
        wrong = lambda case, factor=factor: factor * e.loss(_upcast(case)).mean()  # noqa: E731
        assert _verdict(wrong, conventions) == "failed", factor


@pytest.mark.parametrize("name", ["flow_grpo", "awm", "diffusion_nft"])
def test_float16_with_a_loss_scale(name: str) -> None:
    """A scale of 1024, declared as a factor, keeps small gradients out of float16's underflow."""
    e = entry(name)
    scaled = declare(name, output_dtype="float16", factor=1024.0)
    assert _verdict(lambda case: 1024 * e.loss(_upcast(case)).mean(), scaled) == "passed"
    assert _verdict(lambda case: 1000 * e.loss(_upcast(case)).mean(), scaled) == "failed"


def test_every_obligation_holds_for_right_code_that_reads_the_output_twice() -> None:
    """Autograd then adds two rounded gradients, in half precision, which may cancel."""

    def loss(case: Case) -> Tensor:
        v_gt = case.noise.float() - case.x_0.float()
        mixed = [(1 - s * case.beta) * case.v_old.float() + s * case.beta * case.v_theta.float() for s in (1, -1)]
        plus, minus = (((v - v_gt) ** 2).flatten(1).sum(1) for v in mixed)
        r = case.reward_prob.float()
        return (r * plus + (1 - r) * minus).mean()

    target = Target(loss, "loss", declare("diffusion_nft", output_dtype="bfloat16"))
    judgement = judge(target, Settings(max_examples=5))
    assert judgement.holds, [r.outcome.detail for r in judgement.results if not r.good]


def test_what_the_network_puts_out_arrives_in_its_precision_and_nothing_else_does() -> None:
    """And it is what the rest of the case was made from: the state was sampled with the rounded v_old."""
    conventions = declare("flow_grpo", output_dtype="bfloat16")
    one = Judge(Adapter(lambda case: case.v_theta.sum(), "loss", "mean", 60.0), conventions)
    case = one.case(Spec(3, (4, 5), 0))
    handed = one.handed(case)
    for name in handed.names:
        value = getattr(handed, name)
        if isinstance(value, Tensor) and value.is_floating_point():
            put_out = name in {s.name for s in PREDICTIONS}
            assert value.dtype == (torch.bfloat16 if put_out else torch.float64), name
            assert torch.equal(value.to(torch.float64), getattr(case, name).detach()), name
    assert output_dtype(conventions) == torch.bfloat16


def test_a_step_in_the_networks_own_precision_is_refused() -> None:
    """Forgetting the upcast costs all digits of a log-probability: that is what mixed precision is there to avoid."""
    e = entry("flow_grpo")
    conventions = declare("flow_grpo", output_dtype="bfloat16")
    assert _verdict(lambda case: e.loss(_upcast(case, torch.bfloat16)).float().mean(), conventions) == "failed"


def test_only_half_precisions_may_be_declared() -> None:
    with pytest.raises(InputError, match="output_dtype"):
        declare("awm", output_dtype="float32")
