"""Bad adapters get one clear message each, and leave nothing behind for the next check."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.conventions import declare
from gradcheck.judging.adapter import Adapter, AdapterError
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject

AWM = declare("awm")


def right(case: Any) -> Tensor:
    error = (case.v_theta - (case.noise - case.x_0)) ** 2
    return (case.advantage * error.flatten(1).sum(1)).mean()


def _raises(case: Any) -> Tensor:
    raise KeyError("log_probs")


def _hangs(case: Any) -> Tensor:
    time.sleep(30)
    return right(case)


def _replaces(case: Any) -> Tensor:
    return torch.tensor(right(case).item())


BAD: list[tuple[str, Callable[[Any], Any], str]] = [
    ("raises", _raises, "raised KeyError: 'log_probs'"),
    ("unknown quantity", lambda case: case.v_old.sum(), "awm[declared] has no quantity 'v_old'; it has v_theta"),
    ("returns nothing", lambda case: None, "returned None; wanted the loss as a torch.Tensor"),
    ("returns a number", lambda case: 0.5, "returned a float; wanted the loss as a torch.Tensor"),
    ("per sample", lambda case: case.v_theta.flatten(1).sum(1), "of shape (3,); wanted one number, ()"),
    ("no graph", _replaces, "without a graph"),
    ("integer", lambda case: case.v_theta.sum().to(torch.int64), "of dtype torch.int64; wanted a floating-point one"),
    ("hangs", _hangs, "one call took longer than the 0.2 s that --timeout allows"),
]


@pytest.mark.parametrize(("function", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_adapters_are_told_so(function: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(AdapterError) as raised:
        judge(Subject(function, "mine", AWM), Settings(timeout=0.2))
    assert message in str(raised.value)
    assert "mine" in str(raised.value) or "--timeout" in str(raised.value)
    assert judge(Subject(right, "right", AWM), Settings(max_examples=2)).holds


def test_a_loss_that_hangs_in_another_thread_is_told_so() -> None:
    """There no alarm signal goes off; a loop that swallows every exception ends all the same."""

    def stubborn(case: Any) -> Tensor:
        while True:
            try:
                time.sleep(0.001)
            except Exception:
                continue

    def work() -> None:
        try:
            judge(Subject(stubborn, "mine", AWM), Settings(timeout=0.2))
        except AdapterError as error:
            said.append(str(error))

    said: list[str] = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert "one call took longer than the 0.2 s that --timeout allows (test_adapter.py:" in said[0]


def test_a_loss_per_sample_is_taken_where_it_is_declared() -> None:
    def per_sample(case: Any) -> Tensor:
        return case.advantage * ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).sum(1)

    assert judge(Subject(per_sample, "mine", declare("awm", batch_reduction="none"))).holds


def _changes_input(case: Any) -> Tensor:
    loss = (case.advantage.clone() * ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).sum(1)).mean()
    case.advantage.mul_(0.5)
    return loss


def _sets_dtype(case: Any) -> Tensor:
    torch.set_default_dtype(torch.float64)
    return right(case)


def _stops_grad(case: Any) -> Tensor:
    loss = right(case)
    torch.set_grad_enabled(False)
    return loss


def _sets_threads(case: Any) -> Tensor:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return right(case)


def _seeds(case: Any) -> Tensor:
    torch.manual_seed(1234)
    return right(case)


UNTIDY: list[tuple[Callable[[Any], Tensor], str]] = [
    (_changes_input, "changes advantage in place"),
    (_sets_dtype, "changed the default dtype from torch.float32 to torch.float64"),
    (_stops_grad, "changed the global grad mode from True to False"),
    (_sets_threads, "changed the number of threads"),
    (_seeds, "seeded torch's global generator with 1234"),
]


@pytest.mark.parametrize(("function", "message"), UNTIDY, ids=lambda x: getattr(x, "__name__", None))
def test_untidy_adapters_fail_one_obligation_and_leave_nothing_behind(
    function: Callable[[Any], Tensor], message: str
) -> None:
    before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), torch.initial_seed())
    generator, python_generator = torch.get_rng_state(), random.getstate()
    found = judge(Subject(function, "mine", AWM), Settings(max_examples=2))
    failed = [r for r in found.results if r.status == "failed"]
    assert [r.id for r in failed] == ["inputs-untouched"]
    assert message in failed[0].outcome.detail
    assert before == (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.initial_seed(),
    )
    assert torch.equal(generator, torch.get_rng_state())
    assert python_generator == random.getstate()


def test_hidden_state_is_found() -> None:
    calls: list[int] = []

    def stateful(case: Any) -> Tensor:
        calls.append(1)
        return right(case) * (1 + 1e-3 * len(calls))

    found = judge(Subject(stateful, "mine", AWM))
    assert "determinism" in {r.id for r in found.results if r.status == "failed"}


def test_random_numbers_are_found() -> None:
    def noisy(case: Any) -> Tensor:
        return right(case) * (1 + 1e-3 * torch.rand(()))

    found = judge(Subject(noisy, "mine", AWM), Settings(max_examples=2))
    assert "determinism" in {r.id for r in found.results if r.status == "failed"}


def test_a_neighbour_is_found() -> None:
    """A weight that is shared by the batch depends on the other samples, even if each enters only a little."""

    def shared(case: Any) -> Tensor:
        error = ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).sum(1)
        return ((case.advantage + 1e-6 * case.x_0.mean()) * error).mean()

    found = judge(Subject(shared, "mine", AWM), Settings(max_examples=2))
    assert "sample-independence" in {r.id for r in found.results if r.status == "failed"}


def test_what_it_prints_does_not_disturb(capsys: pytest.CaptureFixture[str]) -> None:
    def talks(case: Any) -> Tensor:
        print("step 1/50")
        return right(case)

    judge(Subject(talks, "mine", AWM), Settings(max_examples=2))
    assert capsys.readouterr().out == ""
    case = Judge(Adapter(talks, "mine"), AWM).case(next(iter(Judge(Adapter(talks, "mine"), AWM).specs())))
    assert Adapter(talks, "mine").observe(case).printed == "step 1/50\n"


def test_one_case_does_not_leak_into_the_next() -> None:
    """What an adapter does to its case, it does to its own copy."""

    def vandal(case: Any) -> Tensor:
        loss = right(case)
        with torch.no_grad():
            case.x_0.zero_()
            case.v_theta.zero_()
        return loss

    one = Judge(Adapter(vandal, "mine"), AWM)
    case = one.case(next(iter(one.specs())))
    before = case.x_0.clone()
    first = one.observe(case).gradient
    assert torch.equal(case.x_0, before)
    assert torch.equal(one.observe(case).gradient, first)


def test_obligations_are_named_once_and_explained() -> None:
    names = [o.id for o in OBLIGATIONS]
    assert len(set(names)) == len(names)
    for obligation in OBLIGATIONS:
        assert obligation.statement
        assert obligation.catches
