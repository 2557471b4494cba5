"""The main law: autograd of every original loss equals the derived gradient and the equivalent loss's autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, note

from derivations.pieces import Piece
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.problems.building import Spec, build
from gradcheck.problems.strategies import specs
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import compare_entry, gradient_of
from gradcheck.rounding.streaming import sample_ratios

ENTRIES = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@ENTRIES
@DTYPES
def test_original_loss_has_the_derived_gradient(
    entry: Entry, dtype: torch.dtype, device: str, record_property: Callable[[str, object], None]
) -> None:
    worst = {"gradient": 0.0, "equivalence": 0.0}
    count = 0

    @given(specs(entry.derivation))
    def law(spec: Spec) -> None:
        nonlocal count
        result = compare_entry(entry, build(entry.derivation, spec, dtype, device))
        count += 1
        worst["gradient"] = max(worst["gradient"], result.gradient.ratio)
        worst["equivalence"] = max(worst["equivalence"], result.equivalence.ratio)
        note(str(result))
        assert result.gradient.holds
        assert result.equivalence.holds
        if dtype == torch.float64:  # the law is not empty: there no component is beyond judgement, in any regime
            assert result.gradient.judged == 1.0
            assert result.gradient.bound < float("inf")

    law()
    for name, value in {**worst, "problems": count}.items():
        record_property(name, value)


@ENTRIES
@pytest.mark.parametrize(
    ("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-2)], ids=["float64", "float32"]
)
def test_a_small_relative_error_is_refused(entry: Entry, dtype: torch.dtype, relative: float) -> None:
    """The bounds are sharp: on well-conditioned problems an error far below a factor 2 is seen, every time."""
    policy = "inside" if Piece.RATIO in entry.derivation.pieces else "off"
    for seed in range(20):
        spec = Spec(5, (2, 3, 4), seed, policy=policy, advantage="typical", time="middle")
        case = build(entry.derivation, spec, dtype)
        right = gradient_of(entry.loss(case), case.output)
        ratios, _ = sample_ratios(entry.derivation, case, right)
        assert (ratios <= THRESHOLD).all()
        ratios, _ = sample_ratios(entry.derivation, case, right.double() * (1 + relative))
        assert (ratios > THRESHOLD).any()
