"""The moving average: right ones conform, wrong ones fail by name and with their cause."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from gradcheck.errors import InputError
from gradcheck.parts import (
    judge_ema,
)
from gradcheck.parts._calls import distinct
from gradcheck.reports.text import judgement_text
from parts.averages import lerp, make_ema, now_and_then, restore, store, warmup
from parts.base import failed


def test_right_averages_conform() -> None:
    for dtype in (None, "float32"):
        assert not failed(judge_ema(make_ema(), decay=0.9, store=store, restore=restore, working_dtype=dtype))
        assert not failed(judge_ema(lerp, decay=0.9, working_dtype=dtype))
        assert not failed(judge_ema(make_ema(warmup), decay="warmup", working_dtype=dtype))
    assert not failed(judge_ema(lambda s, p, n: [torch.lerp(b, a, 0.9) for a, b in zip(s, p, strict=True)], decay=0.9))


@pytest.mark.parametrize(("n", "first"), [(8, 7), (8, 0), (5, 2)])
def test_an_update_once_in_n_steps(n: int, first: int) -> None:
    """After every n steps it is ``every=n``, else the place is declared too; one that updates always is told apart."""
    every = n if first == n - 1 else (n, first)
    assert not failed(judge_ema(now_and_then(n, first), decay=0.9, every=every))
    assert "schedule" in failed(judge_ema(make_ema(), decay=0.9, every=every))


@pytest.mark.parametrize("every", [0, 2.0, (8, 8), (8,), True])
def test_an_interval_that_cannot_be_is_refused(every: Any) -> None:
    with pytest.raises(InputError, match="every"):
        judge_ema(make_ema(), every=every)


@pytest.mark.parametrize("other", [0.9000001, 0.90000000001, 0.9 + 1e-14])
def test_a_decay_that_is_slightly_off_is_shown(other: float) -> None:
    """Both numbers have digits enough to differ."""
    text = " ".join(judgement_text(judge_ema(make_ema(lambda n: other), decay=0.9)).split())
    value = re.search(r"value +FAILED +observed (\S+), required (\S+)", text)
    decay = re.search(r"behaves like a decay of (\S+); (\S+) is required", text)
    for found in (value, decay):
        assert found is not None
        assert found[1] != found[2]
    # (d·old + (1 − d)·new − new)/(old − new): u in each of six operations, on numbers up to twice |old − new|
    assert float(decay[1]) == pytest.approx(other, rel=12 * 2**-53)  # type: ignore[index]


def test_equal_numbers_are_written_alike() -> None:
    assert distinct(0.1, 0.1) == ("0.1", "0.1")
    assert distinct(-0.0, 1.0) == ("0", "1")
    assert distinct(0.999, 0.9990001) == ("0.999", "0.9990001")
