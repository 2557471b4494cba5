r"""The conventions that may be declared on top of any algorithm's options, and the derivation that they make of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import sympy as sp

from derivations.composing import (
    CLIPS,
    KL_TO,
    KLS,
    MASK_REDUCTIONS,
    MASKS,
    clamped_log_ratio,
    clipped,
    masked,
    masked_samples,
    penalised,
    weighted,
)
from derivations.derivation import Derivation, DerivationError
from derivations.grammar import ParseError
from derivations.grammar.statement import read_scalar
from gradcheck.errors import InputError, did_you_mean

__all__ = ["CHOICES", "PIECES", "Pieces", "composed", "other_pieces", "pieces_problems"]

Pieces = tuple[tuple[str, Any], ...]
"""What is declared, name and value, in the order of the names."""

PIECES = {
    "clip": f"in PPO's place: {', '.join(CLIPS)}",
    "dual_clip": "the limit of clip='dual' (3)",
    "kl": f"another term that holds the policy, times kl_weight: {', '.join(KLS)}",
    "kl_to": f"to which policy that term holds it: {', '.join(KL_TO)}",
    "log_ratio_max": "the log-ratio is clamped to ± this",
    "mask": f"what a mask of 0 and 1 leaves out, case.mask: {', '.join(MASKS)}",
    "mask_reduction": f"what the sum over what is left is divided by: {', '.join(MASK_REDUCTIONS)}",
    "weight": "a detached weight of each sample, one line of derive's grammar",
}
"""Name → what it is."""

CHOICES = {"clip": CLIPS, "kl": KLS, "kl_to": KL_TO, "mask": MASKS, "mask_reduction": MASK_REDUCTIONS}
"""The words that these pieces take."""


@lru_cache(maxsize=300)
def composed(d: Derivation, pieces: Pieces, mean: bool) -> Derivation:
    """The derivation with the declared pieces put on it.

    Args:
        d: of the algorithm with its own options.
        pieces: what is declared besides.
        mean: whether its terms are means over the latent's coordinates.

    Raises:
        InputError: a piece does not go with this loss.
    """
    declared = dict(pieces)
    try:
        if "clip" in declared:
            d = clipped(d, declared["clip"], _number(declared.get("dual_clip", 3.0)))
        if "log_ratio_max" in declared:
            d = clamped_log_ratio(d, _number(declared["log_ratio_max"]))
        if "kl" in declared:
            d = penalised(d, declared["kl"], declared.get("kl_to", KL_TO[0]), mean)
        if declared.get("mask") in ("coordinates", "tokens"):
            d = masked(d, declared.get("mask_reduction"))
        elif "mask" in declared:
            d = masked_samples(d)
        if "weight" in declared:
            d = weighted(d, read_scalar(declared["weight"]))
    except DerivationError as error:
        raise InputError((", ".join(declared), f"{declared}", f"a loss that it goes with: {error}")) from None
    return d


def _number(value: float) -> sp.Expr:
    return sp.nsimplify(value, rational=True)


def pieces_problems(declared: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is wrong with declared pieces, as an :class:`InputError` takes it."""
    for name, allowed in CHOICES.items():
        if name in declared and declared[name] not in allowed:
            hint = did_you_mean(str(declared[name]), allowed)
            yield name, repr(declared[name]), f"one of {', '.join(map(repr, allowed))}{hint}"
    for name, least in (("dual_clip", 1.0), ("log_ratio_max", 0.0)):
        value = declared.get(name, least + 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least < value < 1e6:
            yield name, repr(value), f"a number above {least:g}"
    if "dual_clip" in declared and declared.get("clip") != "dual":
        yield "dual_clip", repr(declared["dual_clip"]), "clip='dual' with it"
    if "kl_to" in declared and "kl" not in declared:
        yield "kl_to", repr(declared["kl_to"]), f"kl= with it, one of {', '.join(map(repr, KLS))}"
    if "mask_reduction" in declared and "mask" not in declared:
        yield "mask_reduction", repr(declared["mask_reduction"]), f"mask= with it, one of {', '.join(map(repr, MASKS))}"
    if "weight" in declared:
        yield from _weight_problems(declared["weight"])


def _weight_problems(weight: Any) -> Iterator[tuple[str, str, str]]:
    if not isinstance(weight, str):
        yield "weight", repr(weight), "one line of derive's grammar: 'min(5, (1-t)**2/t**2)'"
        return
    try:
        read_scalar(weight)
    except ParseError as error:
        yield "weight", repr(weight), f"an expression that can be read: {error.message}\n{error.shown()}".rstrip()


def other_pieces(pieces: Pieces, has_ratio: bool, has_kl: bool) -> Iterator[tuple[str, Any, Pieces]]:
    """Every set of pieces that differs in one of them: which, what it is there, and all of them."""
    declared = dict(pieces)
    options: list[tuple[str, Any]] = []
    if has_ratio:
        options += [("clip", kind) for kind in CLIPS]
        options += [("log_ratio_max", limit) for limit in (3.0, 20.0)]
    if has_kl and "kl" in declared:
        options += [("kl", kind) for kind in KLS]
        options += [("kl_to", to) for to in KL_TO]
    options += [(name, None) for name in ("weight", "log_ratio_max") if name in declared]
    if "mask" in declared:
        options += [("mask_reduction", kind) for kind in MASK_REDUCTIONS]
    for name, value in options:
        new = {k: x for k, x in {**declared, name: value}.items() if x is not None}
        if new != declared:
            yield name, value, tuple(sorted(new.items()))
