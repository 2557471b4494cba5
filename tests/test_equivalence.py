"""The main law: autograd of every original loss equals the derived gradient and the equivalent loss's autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, note
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.compare import compare_entry
from gradcheck.problems import Spec, build, has_clip
from gradcheck.strategies import specs

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

    law()
    for name, value in {**worst, "problems": count}.items():
        record_property(name, value)


@ENTRIES
def test_float64_judges_every_component(entry: Entry) -> None:
    """The law above is not empty: in float64 no component is beyond judgement, in any regime."""

    @given(specs(entry.derivation))
    def law(spec: Spec) -> None:
        result = compare_entry(entry, build(entry.derivation, spec))
        assert result.gradient.judged == 1.0
        assert result.gradient.bound < float("inf")

    law()


@ENTRIES
@pytest.mark.parametrize(
    ("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-2)], ids=["float64", "float32"]
)
def test_a_small_relative_error_is_refused(entry: Entry, dtype: torch.dtype, relative: float) -> None:
    """The bounds are sharp: on well-conditioned problems an error far below a factor 2 is seen, every time."""

    def scaled(case: Case, **options: str) -> Tensor:
        return entry.numeric.loss(case, **options) * (1 + relative)

    wrong = replace(entry, numeric=SimpleNamespace(loss=scaled))
    for seed in range(20):
        spec = Spec(
            5,
            (2, 3, 4),
            seed,
            policy="inside" if has_clip(entry.derivation) else "off",
            advantage="typical",
            time="middle",
        )
        case = build(entry.derivation, spec, dtype)
        assert compare_entry(entry, case).gradient.holds
        assert not compare_entry(wrong, case).gradient.holds
