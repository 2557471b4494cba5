"""The numbers that the theorems' calculators take; loads no SymPy, since the command line needs it to start."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gradcheck.errors import InputError

__all__ = ["ALIASES", "OPTIONS", "Option"]


@dataclass(frozen=True)
class Option:
    """One number that a user may give.

    Attributes:
        flag: on the command line.
        low, high: the open interval that it must lie in.
        whole: whether it must be an integer.
        help: one line.
    """

    flag: str
    low: float
    high: float
    help: str
    whole: bool = False

    def parse(self, given: str) -> float:
        """The number.

        Raises:
            InputError: it is none, or lies outside.
        """
        wanted = f"{'a whole number' if self.whole else 'a number'} {self._where()}"
        try:
            value = float(given)
        except ValueError:
            raise InputError((self.flag, repr(given), wanted)) from None
        if not self.low < value < self.high or (self.whole and value != int(value)):
            raise InputError((self.flag, given, wanted))
        return value

    def _where(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}"
        return f"between {self.low:g} and {self.high:g}"


OPTIONS: Mapping[str, Option] = {
    "D": Option("--D", 0, 1e12, "latent coordinates of one sample", whole=True),
    "clip": Option("--clip", 0, 1, "clip range, below and above"),
    "kappa": Option("--kappa", 0, 1e6, "how far the step's mean has moved, in standard deviations"),
    "noise_level": Option("--noise-level", 0, 100, "η of Flow-GRPO's schedule σ_t² = η² t/(1 − t)"),
    "data_std": Option("--data-std", 0, 1e6, "standard deviation of Gaussian data (1)"),
    "group_size": Option("--group-size", 1, 2049, "members of a group", whole=True),
    "success": Option("--success", 0, 1, "rate of success of a reward that is 0 or 1"),
    "rate": Option("--rate", 0, math.inf, "size a of one inner gradient step"),
    "beta": Option("--beta", 0, math.inf, "DiffusionNFT's mixing strength (1)"),
    "inner_steps": Option("--inner-steps", 0, 1e9, "inner gradient steps in one round (1)", whole=True),
    "decay": Option("--decay", 0, 1, "decay η of the moving average"),
    "scale": Option("--scale", -math.inf, math.inf, "guidance scale w"),
}
"""Every number that some calculator takes."""

ALIASES = {"schedule": "value-function", "group": "group-normalisation", "nft": "outer-iteration"}
"""Short names of theorems."""
