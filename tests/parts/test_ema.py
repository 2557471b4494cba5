"""The moving average: right ones conform, wrong ones fail by name and with their cause."""

from __future__ import annotations

import re

import pytest
import torch

from gradcheck.oracle.parts import (
    judge_ema,
)
from gradcheck.oracle.parts._calls import distinct
from gradcheck.oracle.text import judgement_text
from parts.averages import lerp, make_ema, restore, store, warmup
from parts.base import failed


def test_right_averages_conform() -> None:
    for dtype in (None, "float32"):
        assert not failed(judge_ema(make_ema(), decay=0.9, store=store, restore=restore, working_dtype=dtype))
        assert not failed(judge_ema(lerp, decay=0.9, working_dtype=dtype))
        assert not failed(judge_ema(make_ema(warmup), decay="warmup", working_dtype=dtype))
    assert not failed(judge_ema(lambda s, p, n: [torch.lerp(b, a, 0.9) for a, b in zip(s, p, strict=True)], decay=0.9))


@pytest.mark.parametrize("other", [0.9000001, 0.90000000001, 0.9 + 1e-14])
def test_a_decay_that_is_slightly_off_is_shown(other: float) -> None:
    """Both numbers have digits enough to differ."""
    text = judgement_text(judge_ema(make_ema(lambda n: other), decay=0.9))
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
