"""Right code may count time the other way, and lose digits of it: near data these carry a ratio over a clip's edge."""

from __future__ import annotations

import torch

from gradcheck.catalogue import entry
from gradcheck.conventions import declare
from gradcheck.oracle.problem import oracle_case
from gradcheck.oracle.required import required_of
from gradcheck.problems.building import Spec
from gradcheck.rounding.compare import gradient_of

LOSS = entry("flow_grpo", "dance")
DECLARED = declare("flow_grpo", sde="dance", log_prob_reduction="mean", batch_reduction="sum")


def test_a_time_that_lost_digits_may_carry_a_ratio_over_the_edge() -> None:
    """At t = 5.7·10⁻⁶ the 46th sample's ratio of 1.33 is beyond the edge of 1.28, and with 1 − (1 − t) within it."""
    spec = Spec(96, (3,), 23000073, policy="widths", advantage="typical", time="near-data", clip=1)
    case = oracle_case(DECLARED, spec, torch.float32, "cpu")
    v = case.output.detach().clone().requires_grad_()
    t, t_prev = 1 - case.t, 1 - case.t_prev
    rising = case.replace(v_theta=v, t=1 - t, dt=t_prev - t)
    seen = gradient_of(LOSS.loss(rising), v)
    assert bool((seen.flatten(1).any(1) != required_of(DECLARED, case).gradient.flatten(1).any(1)).any())
    assert required_of(DECLARED, case).compare(seen).holds


def test_amid_the_time_axis_no_digits_are_lost_that_open_a_branch() -> None:
    spec = Spec(96, (3,), 23000073, policy="widths", advantage="typical", time="middle", clip=1)
    case = oracle_case(DECLARED, spec, torch.float32, "cpu")
    assert not required_of(DECLARED, case).undecided.any()
