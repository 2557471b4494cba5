"""The watch is not there: no number of the training, no random state, no setting changes; and no exception gets out."""

from __future__ import annotations

import gc
import re
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradcheck
from gradcheck.watching.watcher import WatchError, WatchWarning
from tests.watching.steps import DECLARED, GRID, PolicyStep


@pytest.fixture(scope="module", autouse=True)
def what_was_there_before() -> Iterator[None]:
    """Left alone by the collector, which takes a second to go through all that SymPy has made by then."""
    gc.freeze()
    yield
    gc.unfreeze()


def train(watched: bool, wrong: bool, network_dtype: torch.dtype) -> list[Tensor]:
    """Ten updates of a little network with dropout; everything that a watch might have touched."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(1), nn.Linear(240, 16), nn.Dropout(0.1), nn.Linear(16, 240)).to(network_dtype)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    options: dict[str, Any] = {"model": model, "sigmas": GRID, "on_policy": False}
    watch = gradcheck.watch("flow_grpo", every=1, **DECLARED, **options) if watched else None
    seen = []
    for i in range(10):
        step = PolicyStep(i)
        v = model(step.call["x_t"].to(network_dtype)).reshape(step.call["x_t"].shape)
        step.call["v_theta"] = v
        if watch is not None:
            watch(**step.call)
        loss = step.loss(advantage=step.call["advantage"].roll(1) if wrong else step.call["advantage"])
        loss.backward()
        seen += [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        optimizer.step()
        optimizer.zero_grad()
    if watch is not None:
        assert watch.report.holds is not wrong, watch.report
    return [*seen, *(p.detach() for p in model.parameters()), torch.get_rng_state(), torch.rand(3)]


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_is_the_same_bit_for_bit(wrong: bool, dtype: torch.dtype) -> None:
    for a, b in zip(train(False, wrong, dtype), train(True, wrong, dtype), strict=True):
        assert torch.equal(a, b)


def test_nothing_is_done_between_judged_steps() -> None:
    """Not even a look at what is handed over."""
    watch = gradcheck.watch("flow_grpo", every=3, **DECLARED)
    for i in range(7):
        step = PolicyStep(i)
        watch(**(step.call if i % 3 == 0 else {"nonsense": object()}))
        step.loss().backward()
    assert [line.step for line in watch.report.lines] == [0, 3, 6]
    assert watch.report.holds


def test_the_graph_is_not_kept() -> None:
    step = PolicyStep(leaf=False)
    watch = gradcheck.watch("flow_grpo", every=1, on_policy=False, **DECLARED)
    watch(**step.call)
    step.loss().backward()
    alive = weakref.ref(step.call["v_theta"])
    del step
    gc.collect()
    assert alive() is None
    assert watch.report.holds


def _never(step: PolicyStep, watch: Callable[..., None]) -> None:
    watch(**step.call)


def _after(step: PolicyStep, watch: Callable[..., None]) -> None:
    step.loss().backward()
    watch(**step.call)


def _twice(step: PolicyStep, watch: Callable[..., None]) -> None:
    watch(**step.call)
    watch(**step.call)
    step.loss().backward()


def _changed(step: PolicyStep, watch: Callable[..., None]) -> None:
    loss = step.loss()
    watch(**step.call)
    step.call["v_old"].mul_(2)
    loss.backward()


def _without(name: str) -> Callable[[PolicyStep, Callable[..., None]], None]:
    def call(step: PolicyStep, watch: Callable[..., None]) -> None:
        watch(**{k: x for k, x in step.call.items() if k != name})
        step.loss().backward()

    return call


def _with(**changed: Any) -> Callable[[PolicyStep, Callable[..., None]], None]:
    def call(step: PolicyStep, watch: Callable[..., None]) -> None:
        watch(**{**step.call, **{k: f(step) if callable(f) else f for k, f in changed.items()}})
        step.loss().backward()

    return call


def _unnamed(step: PolicyStep, watch: Callable[..., None]) -> None:
    watch(step.call["v_theta"])
    step.loss().backward()


def _index_alone(step: PolicyStep, watch: Callable[..., None]) -> None:
    given = {k: x for k, x in step.call.items() if k not in ("t", "t_prev")}
    watch(**given, step_index=torch.tensor([99, 1, 2, 3]), sigmas=GRID)
    step.loss().backward()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


BAD_CALLS = {
    "no names": (_unnamed, "got 1 without a name; wanted every quantity by its name"),
    "one row": (_with(advantage=lambda s: s.call["advantage"][None]), r"advantage: got shape \(1, 4\)"),
    "no finite numbers": (_with(advantage=lambda s: s.call["advantage"] / 0), "advantage: got -?inf; wanted finite"),
    "whole numbers": (_with(x_prev=lambda s: s.call["x_prev"].long()), "x_prev: got shape .* dtype int64"),
    "a sparse tensor": (_with(v_old=lambda s: s.call["v_old"].to_sparse()), "v_old: got sparse_coo"),
    "what cannot be printed": (_with(v_old=lambda s: Unprintable()), "v_old: got a Unprintable"),
    "a network's tuple": (_with(v_theta=lambda s: (s.call["v_theta"],)), "v_theta: got a tuple of 1: Tensor"),
    "a level below 0": (_with(noise_level=-0.7), "noise_level: got -0.7; wanted a number above 0"),
    "a grid of one time": (_with(sigmas=torch.ones(1)), r"sigmas: got shape \(1,\).*at least two"),
    "a place outside the grid": (_index_alone, "step_index: got 99; wanted places from 0 to 9"),
    "a guidance in words": (_with(guidance="high"), "guidance: got 'high'"),
    "no micro-batch": (_with(accumulation=0), "accumulation: got 0"),
    "a scale of nothing": (_with(loss_scale="dynamic"), "loss_scale: got 'dynamic'"),
    "perhaps": (_with(on_policy="maybe"), "on_policy: got 'maybe'.*; wanted True or False"),
    "a missing name": (_without("x_prev"), "noise: got nothing; wanted the step's noise, or x_prev"),
    "a missing velocity": (_without("v_theta"), "v_theta: got nothing; wanted what the network put out"),
    "a missing time": (_without("t_prev"), "dt: got nothing; wanted t_prev"),
    "a name that is none": (_with(advantages=1.0), "advantages: got a name that there is not"),
    "a wrong shape": (_with(v_old=lambda s: s.call["v_old"][:, :2]), r"v_old: got shape \(4, 2, 6, 5\)"),
    "a wrong batch": (_with(advantage=torch.ones(3)), r"advantage: got shape \(3,\)"),
    "another device": (_with(x_t=lambda s: s.call["x_t"].to("meta")), "x_t: got a tensor on meta; wanted one on cpu"),
    "a timestep for a time": (_with(t=731.0), "t: got 731; wanted a fraction between 0 and 1; divide the"),
    "a step backwards": (_with(t_prev=0.99), "dt: got -.*sampling goes from t down to t_prev"),
    "a leaf without grad": (_with(v_theta=lambda s: s.call["v_theta"].detach()), "without a graph: it was detached"),
    "no number": (_with(noise_level="high"), "noise_level: got 'high'"),
    "twice": (_twice, "called twice with the same v_theta"),
    "changed in place": (_changed, "v_old was changed in place between the call and backward"),
    "never backward": (_never, "no gradient reached the v_theta of step 0"),
    "after backward": (_after, "no gradient reached the v_theta of step 0: backward did not run, ran before the call"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
@pytest.mark.parametrize("errors", [False, True], ids=["warnings", "warnings are errors"])
def test_a_bad_call_is_told_once_and_training_goes_on(
    name: str, errors: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    call, text = BAD_CALLS[name]
    watch = gradcheck.watch("flow_grpo", every=1, on_policy=False, **DECLARED)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("error" if errors else "always")
        for seed in range(2):
            step = PolicyStep(seed, leaf=False)
            call(step, watch)
            assert watch._calls >= seed + 1
            del step
            gc.collect()
        good = PolicyStep(7, leaf=False)
        watch(**good.call)
        good.loss().backward()
    said = [str(w.message) for w in told] if not errors else capsys.readouterr().err.splitlines()
    said = [line for line in said if "watch" in line]
    assert len(said) == 1, said
    assert re.search(text, said[0]), said
    assert watch.report.lines[-1].verdict == "conforms"


def test_a_rollout_in_inference_mode() -> None:
    step = PolicyStep()
    with torch.inference_mode():
        stored = {k: x.clone() for k, x in step.call.items() if isinstance(x, Tensor) and not x.requires_grad}
    watch = gradcheck.watch("flow_grpo", every=1, on_policy=False, **DECLARED)
    watch(**{**step.call, **stored, "group": ["a cat", "a cat", "a dog", "a dog"]})
    step.loss().backward()
    assert watch.report.holds, watch.report


@pytest.mark.parametrize("given", [("a", torch.ones(3)), (torch.ones(3), None), (torch.ones(2, 3), torch.ones(2, 3))])
def test_bad_advantages_are_told(given: tuple[Any, Any]) -> None:
    watch = gradcheck.watch("flow_grpo", every=1, **DECLARED)
    with pytest.warns(WatchWarning, match=r"wanted (numbers of|one) shape \(N,\)"):
        watch.advantages(*given)


def test_under_no_grad() -> None:
    step = PolicyStep()
    watch = gradcheck.watch("flow_grpo", every=1, **DECLARED)
    with pytest.warns(WatchWarning, match=r"under torch\.no_grad"), torch.no_grad():
        watch(**{**step.call, "v_theta": step.call["v_theta"] * 1.0})
    with pytest.warns(WatchWarning, match=r"called under torch\.no_grad"), torch.no_grad():
        watch(**step.call)
    step.loss().backward()
    assert watch.report.holds, "it was live, so it is judged all the same"


def test_strict_raises_at_the_wrong_step() -> None:
    step = PolicyStep()
    watch = gradcheck.watch("flow_grpo", every=1, strict=True, **DECLARED)
    watch(**step.call)
    with pytest.raises(WatchError, match=r"step 0 is wrong \(sign\)"):
        (-step.loss()).backward()


def test_a_fault_of_the_watch_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("gradcheck.watching.watcher.judge_call", broken)
    step = PolicyStep()
    watch = gradcheck.watch("flow_grpo", every=1, **DECLARED)
    watch(**step.call)
    with pytest.warns(WatchWarning, match="the watch failed, and training goes on: RuntimeError: broken"):
        step.loss().backward()
    assert step.call["v_theta"].grad is not None
