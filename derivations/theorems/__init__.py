"""What these losses do on average: theorems over Gaussian noise, each for every dimension D."""

from __future__ import annotations

from functools import cache

from derivations.theorems.expectations import GaussianTheorem

__all__ = ["THEOREMS"]

THEOREMS: tuple[GaussianTheorem, ...]
"""All of them, in reading order."""


def __getattr__(name: str) -> tuple[GaussianTheorem, ...]:
    """They are stated when they are first asked for: whoever judges a loss asks for none of them."""
    if name == "THEOREMS":
        return _stated()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _stated() -> tuple[GaussianTheorem, ...]:
    from derivations.theorems.advantages import BASELINE, GROUP_NORMALISATION
    from derivations.theorems.article import ARTICLE
    from derivations.theorems.iterations import GUIDANCE, OUTER_ITERATION
    from derivations.theorems.ratio import APPROXIMATION_ORDER, CLIP, RATIO_MOMENTS
    from derivations.theorems.value import VALUE_FUNCTION

    return (
        VALUE_FUNCTION,
        RATIO_MOMENTS,
        APPROXIMATION_ORDER,
        CLIP,
        BASELINE,
        GROUP_NORMALISATION,
        GUIDANCE,
        OUTER_ITERATION,
        ARTICLE,
    )
