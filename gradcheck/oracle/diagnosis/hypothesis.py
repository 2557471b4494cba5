"""Something that would explain a wrong gradient, and what it predicts on a problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence
from gradcheck.oracle.mistakes import Prediction

__all__ = ["Hypothesis"]


@dataclass(frozen=True)
class Hypothesis:
    """What would explain it.

    Attributes:
        name: its id.
        sentence: what the implementation seems to do, and what it must do.
        predict: the gradient that follows on a problem.
        declare: what to declare if it is meant.
        generic: any loss may have it, so that anything else that fits is told in its place.
        leaves_out: it is a declaration without a term that is declared.
    """

    name: str
    sentence: str
    predict: Callable[[Evidence], Tensor | Prediction]
    declare: str = ""
    generic: bool = False
    leaves_out: bool = False

    @property
    def diagnosis(self) -> Diagnosis:
        """It as it is told."""
        return Diagnosis(self.name, self.sentence, self.declare)
