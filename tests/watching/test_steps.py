"""A right step conforms, in every precision that trainers work in; and what is wrong with a wrong one is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import gradcheck
from gradcheck.catalogue import entries
from gradcheck.problems.building import Spec, build
from gradcheck.watching.lines import StepLine
from tests.watching.steps import DECLARED, GRID, ForwardStep, PolicyStep, sde_step


def judged(step: Any, loss: torch.Tensor, algorithm: str = "flow_grpo", **declared: Any) -> StepLine:
    if algorithm == "flow_grpo":
        declared = {**DECLARED, **declared}
    watch = gradcheck.watch(algorithm, every=1, **declared)
    watch(**step.call)
    loss.backward()
    (line,) = watch.report.lines
    return line


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("off", [0.0, 0.01, 0.3])
def test_a_right_policy_step_conforms(dtype: torch.dtype, off: float) -> None:
    """On-policy, near it, and where the clip bites; a mistake of a hundredth would be seen in each precision."""
    for seed in range(3):
        step = PolicyStep(seed, off, dtype)
        line = judged(step, step.loss(), sigmas=GRID)
        assert line.verdict == "conforms", line
        assert line.resolution is not None
        assert line.resolution <= 0.01
        assert line.factor == "1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_forward_step_conforms(dtype: torch.dtype) -> None:
    for seed in range(3):
        step = ForwardStep(seed, dtype)
        line = judged(step, step.loss(), "diffusion_nft")
        assert line.verdict == "conforms", line
        assert line.resolution is not None
        assert line.resolution <= 0.01


def test_what_a_bfloat16_output_sends_back_in_parts_is_rounded_in_parts() -> None:
    """Read in two places, with β = ½ exact: autograd rounds each place's gradient, and their sum."""
    for seed in range(5):
        step = ForwardStep(seed, torch.bfloat16)
        line = judged(step, step.loss(read=lambda v: v), "diffusion_nft")
        assert line.verdict == "conforms", line


def test_the_squared_distance_to_the_target_conforms() -> None:
    """The form that this package recommends, where the target is so near that v − v* keeps few digits in float32."""
    step = ForwardStep(0)
    v, v_gt = step.call["v_theta"], step.call["noise"] - step.call["x_0"]
    a = torch.tensor([1e-3, -2e-4, 5e-4, 1e-4])
    target = (v + a.reshape(-1, 1, 1, 1) * (v_gt - v)).detach()
    step.call = {"v_theta": v, "v_gt": v_gt, "advantage": a}
    line = judged(step, ((v - target) ** 2).flatten(1).sum(1).mean(), "awm")
    assert line.verdict == "conforms", line


def test_an_error_of_a_hundredth_is_seen_in_bfloat16() -> None:
    step = ForwardStep(0, torch.bfloat16)
    line = judged(step, 1.02 * step.loss(), "diffusion_nft", accumulation=1)
    assert line.verdict == "wrong"
    assert line.causes == ("factor",)


_CHOSEN = (
    "flow_grpo",
    "flow_grpo[kl]",
    "flow_grpo[cps]",
    "grpo_guard[mean]",
    "flow_dppo",
    "ddpo",
    "awm",
    "awm[clipped-reference]",
    "diffusion_nft[adaptive-reference]",
    "rwr",
    "awr",
    "fpo",
    "diffusion_dpo",
    "dgpo",
)


@pytest.mark.parametrize("label", _CHOSEN)
def test_the_catalogue_in_a_trainer(label: str) -> None:
    """Each loss by hand, as the trainer's: with x_prev in the noise's place, where a state was sampled."""
    (e,) = [x for x in entries(label.partition("[")[0]) if x.label == label]
    case = build(e.derivation, Spec(3, (4, 5), seed=1, time="middle"), torch.float32)
    call = {name: getattr(case, name) for name in e.derivation.given if name != "D"}
    if e.derivation.process == "backward":
        del call["noise"]
        call["x_prev"] = case.x_prev
    options = e.derivation.variant.options
    watch = gradcheck.watch(e.algorithm.name, every=1, **options)
    watch(**call)
    e.loss(case).mean().backward()
    assert watch.report.holds, watch.report


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        (lambda s: -s.loss(), "sign"),
        (lambda s: s.loss(advantage=s.call["advantage"].roll(1)), "advantage-order"),
        (lambda s: s.loss(t=GRID[3:7], t_prev=GRID[4:8]) + 0 * s.loss(), "unknown"),
        (lambda s: s.loss(x_prev=s.call["x_prev"].bfloat16().float()), "state-rounded"),
        (lambda s: s.loss(noise_level=0.9), "noise-level"),
        (lambda s: s.loss(v_old=s.call["v_theta"].detach()), "old-is-new"),
        (lambda s: s.loss(advantage=torch.ones(4) * s.call["advantage"].mean()), "advantage-of-another"),
        (lambda s: s.loss(v_theta=s.call["v_theta"].detach()) + 0 * s.call["v_theta"].sum(), "no-gradient"),
        (lambda s: s.loss() * float("inf"), "not-finite"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_loss_of_other_tensors_is_named(wrong: Any, cause: str) -> None:
    """The loss is right; what the trainer puts into it is not what it told."""
    step = PolicyStep(seed=3, off=0.3)
    line = judged(step, wrong(step), sigmas=GRID)
    assert line.verdict == "wrong"
    assert cause in line.causes, line


def test_a_network_that_puts_out_nan_is_wrong_and_not_a_bad_call() -> None:
    """What follows from it in the trainer, an advantage of NaN, is no excuse."""
    step = PolicyStep(off=0.3)
    loss = step.loss()
    with torch.no_grad():
        step.call["v_theta"][0] = math.nan
    step.call["advantage"] = torch.full((4,), math.nan)
    with pytest.warns(UserWarning, match="advantage"):
        line = judged(step, loss)
    assert line.verdict == "wrong"
    assert line.causes == ("not-finite",)
    assert "v_theta is not finite in 1 of 4 samples" in line.because


def test_a_wrong_declaration_is_named_as_one() -> None:
    step = PolicyStep(off=0.3)
    line = judged(step, step.loss(), log_prob_reduction="sum")
    assert line.verdict == "wrong"
    assert line.causes[0] == "convention:log_prob_reduction", line


def test_the_loss_in_one_line() -> None:
    step = ForwardStep()
    watch = gradcheck.watch(loss="A*norm2(v_theta - v_gt)", every=1)
    a = torch.tensor([0.3, -1.0, 2.0, 0.1])
    call = {k: step.call[k] for k in ("v_theta", "x_0", "noise")}
    watch(**call, advantage=a)
    error = (step.call["v_theta"] - step.call["noise"] + step.call["x_0"]) ** 2
    (a * error.flatten(1).sum(1)).mean().backward()
    assert watch.report.holds, watch.report


@pytest.mark.parametrize("every_sample", [False, True])
def test_samples_at_pure_noise_are_left_out_and_the_rest_is_judged(every_sample: bool) -> None:
    """At t = 1 Flow-SDE's σ_t has a pole; code puts the grid's next point in its place, for those samples alone."""
    step = PolicyStep(off=0.05)
    t, t_prev = step.call["t"].clone(), step.call["t_prev"].clone()
    rows = slice(None) if every_sample else slice(2, 3)
    t[rows], t_prev[rows] = 1.0, GRID[1]
    step.call |= {"t": t, "t_prev": t_prev}
    wrapped = torch.where(t == 1, GRID[1], t)
    mean, std = sde_step(step.call["v_old"], step.call["x_t"], wrapped, t_prev.clamp(max=0.8))
    step.call["x_prev"] = mean + std * step.noise
    if not every_sample:
        mean, std = sde_step(step.call["v_old"], step.call["x_t"], t, t_prev)
        step.call["x_prev"] = torch.where(t.reshape(-1, 1, 1, 1) == 1, step.call["x_prev"], mean + std * step.noise)
    loss = step.loss(t=wrapped, t_prev=torch.where(t == 1, 0.8 * t_prev, t_prev))
    if every_sample:
        with pytest.warns(UserWarning, match="no density"):
            line = judged(step, loss)
        assert line.verdict == "unjudged"
    else:
        line = judged(step, loss)
        assert line.verdict == "conforms", line
    assert "no density (t = 1)" in line.because


def test_where_no_cause_fits_the_gradient_is_read() -> None:
    """A target that nobody has named: the field's own directions say what it is."""
    step = ForwardStep()
    a = torch.tensor([0.3, -1.0, 2.0, 0.1])
    watch = gradcheck.watch("awm", every=1)
    watch(**{k: step.call[k] for k in ("v_theta", "x_0", "noise")}, advantage=a)
    error = (step.call["v_theta"] - 3 * step.call["noise"] + step.call["x_0"]) ** 2
    (a * error.flatten(1).sum(1)).mean().backward()
    (line,) = watch.report.lines
    assert line.verdict == "wrong"
    assert "(ε)" in line.because
    assert "must be" in line.because


@pytest.mark.parametrize("second", [True, False])
def test_two_branches_may_run_backward_apart(second: bool) -> None:
    """DiffusionNFT's are judged by their sum; the first one alone, where the other one never runs, is wrong."""
    watch = gradcheck.watch("diffusion_nft", every=1, log=None)
    call = ForwardStep(3).call
    v, r = call["v_theta"] * 1.0, call["reward_prob"]
    watch(**{**call, "v_theta": v})
    moved, v_gt = call["beta"] * (v - call["v_old"]), call["noise"] - call["x_0"]
    good, bad = (((call["v_old"] + x - v_gt) ** 2).flatten(1).sum(1) for x in (moved, -moved))
    (r * good).mean().backward(retain_graph=True)
    if second:
        ((1 - r) * bad).mean().backward()
    (line,) = watch.report.lines
    assert line.verdict == ("conforms" if second else "wrong")
    assert ("two backward passes" in line.because) is second
    assert ("positive-branch-alone" in line.causes) is not second
