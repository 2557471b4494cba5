"""What judging a step holds, and that it asks a GPU for a number once, not once a chunk."""

from __future__ import annotations

import collections
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import gradcheck
from benchmarks.speed import Counting
from gradcheck.catalogue import entry
from gradcheck.problems.building import Spec, build
from gradcheck.rounding import chunks
from gradcheck.rounding.plans import Pass
from gradcheck.rounding.streaming import _look, _Worst
from gradcheck.watching import linear, state
from tests.watching.steps import DECLARED, GRID, ForwardStep, PolicyStep

KINDS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "flow_grpo": (PolicyStep, "flow_grpo", DECLARED),
    "diffusion_nft": (ForwardStep, "diffusion_nft", {}),
}


def judged(kind: str, dtype: torch.dtype, latent: tuple[int, ...]) -> tuple[int, int]:
    """Bytes that judging one step holds at once, and those of the latents that were handed over."""
    make, algorithm, declared = KINDS[kind]
    watch = gradcheck.watch(algorithm, every=1, log=None, on_policy=False, **declared)
    for latents in ((3, 5, 4), latent):  # the program is recorded with small ones
        step = make(dtype=dtype, latent=latents)
        gradient = torch.autograd.grad(step.loss(), step.call["v_theta"])[0]
        with Counting() as counting:
            watch(**step.call)
            step.call["v_theta"].backward(gradient)
    assert watch.report.holds, watch.report
    assert watch.report.verdicts["conforms"] == 2
    given = [x for x in step.call.values() if isinstance(x, Tensor) and x.ndim > 1]
    return counting.peak, sum(x.numel() * x.element_size() for x in given)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_judged_step_holds_less_than_twice_its_inputs(kind: str, dtype: torch.dtype) -> None:
    """Or a MiB, which the least chunk takes."""
    for width in (4, 32, 64, 128, 256):
        held, inputs = judged(kind, dtype, (4, width, width))
        assert held < max(2 * inputs, 2**20), f"{held / 2**20:.2f} MiB beside {inputs / 2**20:.2f} MiB"


class Asked(TorchDispatchMode):
    """Counts the numbers that Python asks for: each makes a GPU's queue run dry."""

    def __init__(self) -> None:
        super().__init__()
        self.count = collections.Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "_unique2"):
            self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_asked_for_as_often_in_many_chunks_as_in_few(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, algorithm, declared = KINDS[kind]
    counts = []
    for least in (2**13, 2**9):
        monkeypatch.setattr(chunks, "_LEAST", least)
        watch = gradcheck.watch(algorithm, every=1, log=None, on_policy=False, sigmas=GRID, **declared)
        step = make(latent=(4, 16, 32))
        gradient = torch.autograd.grad(step.loss(), step.call["v_theta"])[0]
        with Asked() as asked:
            watch(**step.call)
            step.call["v_theta"].backward(gradient)
        assert watch.report.lines[0].checks["gradient"] == "holds", watch.report
        counts.append(asked.count)
    assert counts[0] == counts[1]
    assert counts[0].total() > 0, "else nothing is counted"


def test_passes_over_the_latents_run_on_their_device_alone() -> None:
    """On meta tensors, which have no numbers: who asks for one, or mixes devices, raises."""
    one = entry("flow_grpo", "mean")
    case = build(one.derivation, Spec(4, (4, 64, 64), 0, policy="off"), torch.float32)
    far = {name: x.to("meta") for name in case.names if isinstance(x := getattr(case, name), Tensor) and x.ndim > 1}
    rows = [x.flatten(1) for x in far.values()]
    column = torch.ones(4, dtype=torch.float64)

    assert linear.combined(dict.fromkeys(far, column), far, over=column).is_meta
    assert state._sums(rows).is_meta

    passes: list[tuple[Pass, Tensor, Tensor]] = []

    class Noting(chunks.ChunkedAnalysis):
        def _sums(self, one: Pass, w: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
            passes.append((one, w, d))
            return super()._sums(one, w, d)

    exprs = (one.derivation.gradient, one.derivation.raw_gradient)
    run = Noting(one.derivation, chunks.Latents.of(case, case.output), case, torch.float32, exprs)
    run.latents = chunks.Latents.of(case.replace(**far), far["v_theta"], 2**13)
    assert passes
    for pass_, w, d in passes:
        sums = chunks.ChunkedAnalysis._sums(run, pass_, w.to("meta"), d.to("meta"))
        assert all(x.is_meta for x in sums)

    run._found, run.undecided = run._found.to("meta"), run.undecided.to("meta")
    for careful in (False, True):
        found = replace(_Worst.none(1, case.output.shape, run.undecided), careful=careful)
        _look(found, run.latents, run, [exprs], 1.0, None, torch.float32, torch.bfloat16, exprs[1:], ())
        assert found.worst.is_meta
