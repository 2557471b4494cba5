"""What these losses do on average: theorems over Gaussian noise, each for every dimension D."""

from __future__ import annotations

from derivations.theorems.advantages import BASELINE, GROUP_NORMALISATION
from derivations.theorems.article import ARTICLE
from derivations.theorems.expectations import GaussianTheorem
from derivations.theorems.iterations import GUIDANCE, OUTER_ITERATION
from derivations.theorems.ratio import APPROXIMATION_ORDER, CLIP, RATIO_MOMENTS
from derivations.theorems.value import VALUE_FUNCTION

__all__ = ["THEOREMS"]

THEOREMS: tuple[GaussianTheorem, ...] = (
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
"""All of them, in reading order."""
