"""Every value of every option that an implementation may declare is proved, and is what the loss by hand does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from derivations.algorithm import Algorithm
from derivations.variant import Variant
from gradcheck.catalogue import ALGORITHMS, Entry, entry
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import compare_entry

torch.set_num_threads(1)


def _alone() -> list[object]:
    """Values that no variant has by themselves, the other options at their defaults."""
    found = []
    for algorithm in ALGORITHMS:
        shown = [dict(variant.options) for variant in algorithm.variants]
        for option, (_, *others) in algorithm.options.items():
            for value in others:
                if {option: value} not in shown:
                    found.append(pytest.param(algorithm, option, value, id=f"{algorithm.name}-{option}-{value}"))
    return found


@pytest.mark.parametrize(("algorithm", "option", "value"), _alone())
def test_an_option_alone(algorithm: Algorithm, option: str, value: str) -> None:
    paper = algorithm.variants[0]
    variant = Variant("declared", "as declared", {option: value}, line=paper.line)
    declared = Entry(replace(algorithm, variants=(paper, variant)), entry(algorithm.name).by_hand, "declared")
    derivation = declared.derivation
    assert derivation.prove().refused == ()
    for seed, latent in enumerate([(5,), (2, 3)]):
        for dtype in (torch.float64, torch.float32):
            case = build(derivation, Spec(batch=6, latent=latent, seed=seed, clip=1), dtype)
            assert compare_entry(declared, case).holds


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_an_unknown_value_is_refused(algorithm: Algorithm) -> None:
    for option in algorithm.options:
        with pytest.raises(ValueError, match=rf"{option} must be one of .*, but is 'nothing of the kind'"):
            algorithm.derive(Variant("declared", "as declared", {option: "nothing of the kind"}))
