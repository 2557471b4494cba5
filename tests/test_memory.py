"""Nothing grows with the number of derivations that a process has seen, and little with the size of latents."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from torch import Tensor

import gradcheck
from benchmarks import memory
from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.conventions import declare
from gradcheck.derived import compiled
from gradcheck.derived.compiled import evaluate
from gradcheck.oracle.required import required_of
from gradcheck.oracle.runner import Settings, Subject, judge
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of


def test_compiled_formulas_do_not_keep_every_derivation() -> None:
    one = entry("awm").derivation
    case = build(one, Spec(2, (3,), 0), torch.float64)
    most = compiled._compiled.cache_info().maxsize
    assert most is not None
    kept = []
    for _ in range(most + 20):
        copy = replace(one)
        evaluate(copy, case, copy.gradient)
        kept.append(weakref.ref(copy))
    del copy
    gc.collect()
    assert sum(ref() is not None for ref in kept) <= most


_Remembered = type(lru_cache(lambda: None))
_OURS = ("derivations.", "gradcheck.", "sympy.")
_FULL = 300  # losses after which everything that is remembered is to be full: a process grows no further


def _remembered() -> list[_Remembered]:  # type: ignore[valid-type]
    return [x for x in gc.get_objects() if type(x) is _Remembered]


def _derived(i: int) -> None:
    gradcheck.derive(f"advantage*mean((v_theta - v_gt)**2) + 0.{i:05d}*mean((v_theta - v_ref)**2)", problems=2)


def _judged(i: int) -> None:
    """A loss with a wrong sign, so that its cause is sought too."""
    declared = declare(loss=f"advantage*norm2(v_theta - v_gt) + 0.{i:05d}*norm2(v_theta - v_ref)")

    def wrong(case: Case) -> Tensor:
        return -(case.advantage * (case.v_theta - case.v_gt).square().flatten(1).sum(1)).mean()

    judgement = judge(Subject(wrong, "wrong", declared), Settings(max_examples=1), only=("gradient",))
    assert not judgement.holds


@pytest.mark.parametrize("run", [_derived, _judged])
def test_a_process_stops_growing_however_many_losses_it_derives_or_judges(run: Callable[[int], None]) -> None:
    """Nothing is held but by what is remembered, and that is soon full.  (SymPy remembers 1000 of each kind.)"""
    run(10_001)
    before = {id(x): x.cache_info().misses for x in _remembered()}  # type: ignore[attr-defined]
    run(10_002)
    run(10_003)
    for one in _remembered():
        info = one.cache_info()  # type: ignore[attr-defined]
        more = (info.misses - before.get(id(one), info.misses)) / 2
        name = f"{one.__module__}.{one.__qualname__}"  # type: ignore[attr-defined]
        if name.startswith(("derivations.", "gradcheck.")) and more:
            assert info.maxsize is not None, name
            assert info.maxsize <= _FULL * more, f"{name} grows until the {info.maxsize / more:.0f}th loss"


@pytest.mark.parametrize("run", [_derived, _judged])
def test_nothing_of_a_loss_lives_longer_than_it_is_remembered(run: Callable[[int], None]) -> None:
    def living() -> Counter[str]:
        for one in _remembered():
            one.cache_clear()  # type: ignore[attr-defined]
        gc.collect()
        return Counter(type(x).__name__ for x in gc.get_objects() if str(type(x).__module__).startswith(_OURS))

    run(20_001)
    before = living()
    for i in range(3):
        run(20_002 + i)
    assert not living() - before


def test_a_judge_of_large_latents_holds_less_than_twice_its_inputs() -> None:
    _, compared, judged = memory.held("flow_grpo", "mean", (2**18 + 8,))
    assert compared < 0.25
    assert judged < 2


@pytest.mark.parametrize(("seed", "policy"), [(0, "off"), (0, "inside"), (2, "inside"), (3, "mixed")])
def test_samples_one_by_one_are_judged_as_all_at_once(seed: int, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not rounding decides on which side of its clip each of them is."""
    one = entry("grpo_guard", "mean")
    case = build(one.derivation, Spec(4, (3, 5), seed, policy, time="middle", clip=3), torch.float32)
    declaration = declare("grpo_guard", batch_reduction="mean", log_prob_reduction="mean")
    gradient = gradient_of(one.loss(case), case.output) / 4
    whole = required_of(declaration, case)
    wanted = [whole.compare(g) for g in (gradient, 1.01 * gradient, gradient.roll(1, 0))]
    for module in ("gradcheck.rounding.compare", "gradcheck.oracle.required"):
        monkeypatch.setattr(f"{module}.LARGE", 1)
    apart = required_of(declaration, case)
    assert torch.equal(apart.undecided, whole.undecided.expand(apart.undecided.shape))
    for (a, scale), (b, other) in zip(apart.branches, whole.branches, strict=True):
        # a decided sample has no other branch: what stands in its place there is looked at by nobody
        looked_at = slice(None) if b is whole.branches[0][0] else apart.undecided.flatten()
        torch.testing.assert_close(a[looked_at], b[looked_at], rtol=1e-12, atol=0)
        looked_at = apart.undecided.flatten() if len(whole.branches) == 2 else slice(None)
        torch.testing.assert_close(scale[looked_at], other[looked_at], rtol=1e-9, atol=0)
    for g, all_at_once in zip((gradient, 1.01 * gradient, gradient.roll(1, 0)), wanted, strict=True):
        one_by_one = apart.compare(g)
        assert (one_by_one.holds, one_by_one.lost) == (all_at_once.holds, all_at_once.lost)
        assert one_by_one.judged == pytest.approx(all_at_once.judged, rel=1e-12)
