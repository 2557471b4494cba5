"""An algorithm's data is checked when it is made, and each mistake is told by its name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest

from derivations.algorithm import Algorithm, AlgorithmError
from derivations.variant import Variant
from gradcheck.catalogue import ALGORITHMS, CATALOGUE, ByHand, entry

FPO = entry("fpo").algorithm
PAPER, MEAN, *_ = FPO.variants


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "flow policy"}, "name must be an identifier.*'flow policy'"),
        ({"title": ""}, "title must be"),
        ({"reference": "arXiv:2507.21053"}, "reference must be BibTeX"),
        ({"process": "sideways"}, "process must be 'forward' or 'backward', but is 'sideways'"),
        ({"policy": "both"}, "policy must be 'on' or 'off', but is 'both'"),
        ({"options": {**FPO.options, "reduction": ()}}, "the option reduction must have values"),
        ({"options": {**FPO.options, "error": ("noise", "noise")}}, "the option error must have values that differ"),
        ({"variants": ()}, "variants must begin with 'paper'"),
        ({"variants": (MEAN, PAPER)}, "variants must begin with 'paper'"),
        ({"variants": (replace(PAPER, options={"error": "noise"}),)}, "variants must begin with 'paper'"),
        ({"variants": (PAPER, MEAN, MEAN)}, "two variants have the name 'mean'"),
        ({"variants": (PAPER, replace(MEAN, summary=""))}, "the variant mean has no summary"),
        ({"variants": (PAPER, replace(MEAN, line=""))}, "the variant mean has no line"),
        ({"variants": (PAPER, replace(MEAN, options={"sde": "cps"}))}, "the variant mean: sde is no option of fpo"),
        (
            {"variants": (PAPER, replace(MEAN, options={"reduction": "median"}))},
            "the variant mean: reduction must be one of 'sum', 'mean', but is 'median'",
        ),
    ],
)
def test_each_mistake_is_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(AlgorithmError, match=told):
        replace(FPO, **changed)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(AlgorithmError, match=r"^fpo: title .*; policy .*; the variant mean has no line$"):
        replace(FPO, title="", policy="both", variants=(PAPER, replace(MEAN, line="")))  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_an_unknown_option_is_refused(algorithm: Algorithm) -> None:
    with pytest.raises(ValueError, match=f"colour is no option of {algorithm.name}, which has"):
        algorithm.derive(Variant("declared", "as declared", {"colour": "red"}))


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variant must be one of 'paper', 'mean'.*, but is 'median'"):
        FPO.derive("median")


def test_options_that_are_left_out_are_at_their_defaults() -> None:
    assert FPO.chosen({"error": "noise"}) == {"reduction": "sum", "reference": "off", "error": "noise"}


def _words(annotation: Any) -> set[Any]:
    """What a Literal, or a union of some, allows."""
    args = get_args(annotation)
    return {annotation} if not args else set().union(*map(_words, args))


@pytest.mark.parametrize(
    ("algorithm", "by_hand"), [(e.algorithm, e.by_hand) for e in CATALOGUE if e.variant == "paper"]
)
def test_the_loss_by_hand_takes_the_words_that_the_derivation_has(algorithm: Algorithm, by_hand: ByHand) -> None:
    hints = get_type_hints(by_hand)
    assert {name: _words(hints[name]) for name in algorithm.options} == {
        name: set(words) for name, words in algorithm.options.items()
    }
