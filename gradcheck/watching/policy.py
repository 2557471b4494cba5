r"""Before the first update the importance ratio is 1: the behaviour model's velocity is the trained one's."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.devices import dtype_name
from gradcheck.watching.faults import Checked, Fault
from gradcheck.watching.given import Given
from gradcheck.watching.half import held_in
from gradcheck.watching.linear import blocks_of
from gradcheck.watching.problem import StepProblem

__all__ = ["check_on_policy", "check_reference", "check_refreshed"]

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
    if given.moved:
        cause = (
            "on_policy=True is said, and the parameters have moved since the rollout, so that v_old and "
            f"{given.output_name} differ by right: say it as long as no optimizer step lies between the rollout and "
            "the call"
        )
        return Checked(name, (Fault("on-policy-declared", cause),))
    rounded = held_in(old)
    if rounded is not None and held_in(theta) != rounded and float(distance.max()) <= 4 * _SPREAD[rounded]:
        return Checked(
            name,
            (
                Fault(
                    "old-precision", f"{sentence}v_old was computed in {dtype_name(rounded)}, the trained one was not"
                ),
            ),
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


def check_refreshed(problem: StepProblem, given: Given, network_dtype: torch.dtype | None) -> Checked:
    """Whether v_old is the trained model's own output after an update.

    Asked in float32 alone: a network in half precision may put out the same numbers after a small update.
    """
    name, old_name = "on-policy", given.output_name.replace("theta", "old")
    theta, old = given.output.detach(), given.latents.get(old_name)
    single = network_dtype is None and held_in(theta) is None
    if old is None or not single or not torch.equal(theta.to(old.dtype), old):
        return Checked(name)
    sentence = (
        f"{old_name} is {given.output_name}, bit for bit, and the parameters have moved since the rollout: it was "
        "computed anew with the trained model, so that the ratio is always 1 and nothing is ever clipped"
    )
    return Checked(name, (Fault("old-is-live", sentence),))


_BY_CHANCE = 32
"""In a network in half precision a small update changes few numbers, and others than v_ref differs in.  Where n numbers
of v_old and v_theta differ, v_ref of another model has about as many of its own, and none with a chance of e⁻ⁿ."""


def check_reference(given: Given) -> Checked:
    """Whether the reference is the trained model: v_ref is v_theta where v_old is not any more.

    Before the first update they may be one, and v_old may be of anybody's model.
    """
    name = "reference"
    ref, old = (given.latents.get(given.output_name.replace("theta", x)) for x in ("ref", "old"))
    if ref is None:
        return Checked(name, unchecked="v_ref was not given")
    theta = given.output.detach()
    if (
        old is None
        or not given.moved_ever
        or not torch.equal(theta.to(ref.dtype), ref)
        or int((theta != old).sum()) < _BY_CHANCE
    ):
        return Checked(name)
    sentence = (
        f"v_ref is {given.output_name}, bit for bit, where v_old is not: the reference is the trained model (a module "
        "that is not a copy, an adapter that is not switched off), and its term has no gradient"
    )
    return Checked(name, (Fault("reference-is-live", sentence),))


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
