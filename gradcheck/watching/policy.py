r"""Before the first update the importance ratio is 1: the behaviour model's velocity is the trained one's."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.watching.faults import Checked, Fault
from gradcheck.watching.given import Given
from gradcheck.watching.half import held_in, word
from gradcheck.watching.linear import blocks_of
from gradcheck.watching.problem import StepProblem

__all__ = ["check_on_policy"]

_SPREAD = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 4e-3}
"""‖v_theta − v_old‖/‖v_theta‖ that two runs of one network may differ by: another batch, another kernel.  A rounding of
the output alone is u/√3; inside, the roundings of some hundred operations add up at random, to about ten of them.  In
float32 it is wider, for matrix products in TF32 with their sums in float32."""


def check_on_policy(
    problem: StepProblem,
    given: Given,
    network_dtype: torch.dtype | None,
    ratios: Tensor | None,
    training_dropout: str,
) -> Checked:
    """Compare v_old with v_theta.

    Args:
        problem, given: the step's.
        network_dtype: a precision of the network that its output does not show (autocast, a guided sum).
        ratios: importance ratios, (B,).
        training_dropout: a module that drops at random now, by name; empty where none is known.
    """
    name = "on-policy"
    old_name = given.output_name.replace("theta", "old")
    if old_name not in problem.case.names or problem.derived.get(old_name) == "on_policy=True":
        return Checked(name, unchecked=f"{old_name} was not given")
    theta, old = given.output.detach(), getattr(problem.case, old_name)
    distance = _distances(theta, old)
    kept = [x for x in (network_dtype, held_in(theta)) if x is not None]
    own = max(kept, key=lambda x: torch.finfo(x).eps, default=theta.dtype)
    if own not in _SPREAD or float(distance.max()) <= _SPREAD[own]:
        return Checked(name)
    seen = f"the importance ratio is {_range(ratios)}" if ratios is not None else "they must be equal"
    sentence = (
        f"no update lies between rollout and training, and v_old differs from {given.output_name} by up to "
        f"{float(distance.max()):.2g} of its length; {seen}: "
    )
    rounded = held_in(old)
    if rounded is not None and held_in(theta) != rounded and float(distance.max()) <= 4 * _SPREAD[rounded]:
        return Checked(
            name, (Fault("old-precision", f"{sentence}v_old was computed in {word(rounded)}, the trained one was not"),)
        )
    if training_dropout:
        cause = f"{sentence}dropout is on ({training_dropout}): rollout and training use other masks, or other modes"
        return Checked(name, (Fault("old-mode", cause),))
    count = int((distance > _SPREAD[own]).sum())
    few = "" if count == len(distance) else f" in {count} of {len(distance)} samples"
    cause = (
        f"{sentence}v_old{few} is of another model (stale, EMA, adapter off), another mode (dropout), another time, "
        "state, prompt or guidance, or of another sample"
    )
    return Checked(name, (Fault("ratio-on-policy", cause),))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖/‖a‖ of each sample, (B,), on the CPU, in chunks."""
    rows = [x.detach().reshape(x.shape[0], -1) for x in (a, b)]
    sums = torch.zeros(2, a.shape[0], dtype=torch.float64, device=a.device)
    for block in blocks_of(rows[0]):
        x, y = (row[block].to(torch.float64) for row in rows)
        difference = x - y
        sums[0, block[0]] += torch.linalg.vecdot(difference, difference)
        sums[1, block[0]] += torch.linalg.vecdot(x, x)
    sums = sums.cpu()
    return (sums[0] / sums[1].clamp(min=1e-300)).sqrt()


def _range(ratios: Tensor) -> str:
    low, high = float(ratios.min()), float(ratios.max())
    return f"{low:.6g}" if high - low < 1e-12 else f"between {low:.6g} and {high:.6g}"
