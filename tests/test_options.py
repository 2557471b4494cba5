"""Every value of every option that an implementation may declare is proved, and is what the loss by hand does."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from derivations.variant import Variant
from gradcheck.catalogue import ALGORITHMS, Entry
from gradcheck.compare import compare_entry
from gradcheck.problems import Spec, build

torch.set_num_threads(1)


def _alone() -> list[object]:
    """Values that no variant has by themselves, the other options at their defaults."""
    found = []
    for symbolic, numeric in ALGORITHMS:
        shown = [dict(variant.options) for variant in symbolic.VARIANTS]
        for option, (_, *others) in symbolic.OPTIONS.items():
            for value in others:
                if {option: value} not in shown:
                    found.append(pytest.param(symbolic, numeric, option, value, id=f"{symbolic.NAME}-{option}-{value}"))
    return found


@pytest.mark.parametrize(("symbolic", "numeric", "option", "value"), _alone())
def test_an_option_alone(symbolic: ModuleType, numeric: ModuleType, option: str, value: str) -> None:
    variant = Variant("declared", "as declared", {option: value})
    derivation = symbolic.derive(variant)
    assert derivation.prove().refused == ()
    stated = ModuleType(symbolic.NAME)
    vars(stated).update(NAME=symbolic.NAME, VARIANTS=(variant,), derive=lambda _: derivation)
    for seed, latent in enumerate([(5,), (2, 3)]):
        for dtype in (torch.float64, torch.float32):
            case = build(derivation, Spec(batch=6, latent=latent, seed=seed, clip=1), dtype)
            assert compare_entry(Entry(stated, numeric, "declared"), case).holds


@pytest.mark.parametrize("symbolic", [s for s, _ in ALGORITHMS], ids=lambda s: s.NAME)
def test_an_unknown_value_is_refused(symbolic: ModuleType) -> None:
    for option in symbolic.OPTIONS:
        with pytest.raises(ValueError, match=rf"{option} must be one of .*, but is 'nothing of the kind'"):
            symbolic.derive(Variant("declared", "as declared", {option: "nothing of the kind"}))
