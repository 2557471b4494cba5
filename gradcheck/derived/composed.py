r"""What is declared on top of an algorithm's options: the derivation that it makes, what is wrong with it, and others.

What each of these conventions is stands in :data:`derivations.on_top.ON_TOP`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from derivations.derivation import Derivation, DerivationError
from derivations.on_top import ON_TOP, Declared
from gradcheck.errors import InputError, did_you_mean

__all__ = ["OnTopValues", "composed", "on_top_problems", "others_on_top"]

OnTopValues = tuple[tuple[str, Any], ...]
"""What is declared, keyword and value, in the order of the keywords."""


@lru_cache(maxsize=300)
def composed(d: Derivation, on_top: OnTopValues, mean: bool) -> Derivation:
    """The derivation with the declared conventions put on it.

    Args:
        d: of the algorithm with its own options.
        on_top: what is declared besides.
        mean: whether its terms are means over the latent's coordinates.

    Raises:
        InputError: a convention does not go with this loss.
    """
    declared = Declared(dict(on_top), mean)
    try:
        for keyword, one in ON_TOP.items():
            if keyword in declared.values and one.put is not None:
                d = one.put(d, declared)
    except DerivationError as error:
        wanted = f"a loss that it goes with: {error}"
        raise InputError((", ".join(declared.values), f"{declared.values}", wanted)) from None
    return d


def on_top_problems(declared: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What is wrong with declared conventions, as an :class:`InputError` takes it."""
    for keyword, value in declared.items():
        one = ON_TOP[keyword]
        if one.words and value not in one.words:
            hint = did_you_mean(str(value), one.words)
            yield keyword, repr(value), f"one of {', '.join(map(repr, one.words))}{hint}"
        wanted = one.wanted(value)
        if wanted is not None:
            yield keyword, repr(value), wanted
        if one.says_more_of is None:
            continue
        of, word = one.says_more_of
        if word and declared.get(of) != word:
            yield keyword, repr(value), f"{of}={word!r} with it"
        elif of not in declared:
            yield keyword, repr(value), f"{of}= with it, one of {', '.join(map(repr, ON_TOP[of].words))}"


def others_on_top(d: Derivation, on_top: OnTopValues) -> Iterator[tuple[str, Any, OnTopValues]]:
    """Every declaration that differs in one of these conventions: which, its value there, and all of them.

    Args:
        d: the derivation as it is declared.
        on_top: what is declared.
    """
    declared = dict(on_top)
    for keyword, one in ON_TOP.items():
        of = keyword if one.says_more_of is None else one.says_more_of[0]
        tried = one.tried if of in declared or one.piece in d.pieces else ()
        for value in (*tried, None) if one.may_lack and keyword in declared else tried:
            new = {k: x for k, x in {**declared, keyword: value}.items() if x is not None}
            if new != declared:
                yield keyword, value, tuple(sorted(new.items()))
