r"""What wrong losses are made of besides the right ones' operations: batch averages, and clips that are none."""

from __future__ import annotations

import sympy as sp

__all__ = [
    "BatchFirst",
    "BatchMean",
    "Crossed",
    "LogClipped",
    "MaskedBy",
    "MaxSurrogate",
    "OneSided",
    "Rounded",
    "TieLost",
]


class BatchMean(sp.Function):
    """A per-sample scalar, averaged over the batch (and its gradient with it)."""

    nargs = 1

    def _eval_is_positive(self) -> bool | None:
        return bool(self.args[0].is_positive) or None

    def _eval_is_real(self) -> bool:
        return True


class BatchFirst(BatchMean):
    """The first sample's scalar, used for every sample."""


class Rounded(sp.Function):
    """1 where the argument exceeds one half, else 0."""

    nargs = 1


class WrongSurrogate(sp.Function):
    """What stands in the place of PPO's surrogate; the arguments are (A, r, ε⁻, ε⁺)."""

    nargs = 4


class MaxSurrogate(WrongSurrogate):
    """−max(rA, clip(r)A), the max where the min belongs."""


class OneSided(WrongSurrogate):
    """−clip(r)A: only the clipped term, so that the pessimistic side has no gradient either."""


class TieLost(WrongSurrogate):
    """A gradient only where the unclipped term is strictly the worse one, so none inside the clip."""


class Crossed(WrongSurrogate):
    """Every advantage with every ratio, averaged over the advantages: (B,) against (B, 1)."""


class LogClipped(sp.Function):
    """−min(rA, exp(clip(log r, −ε⁻, ε⁺))A): the clip applied to the log-ratio."""

    nargs = 4


class MaskedBy(sp.Function):
    """−rA where the surrogate of another ratio is not clipped; the arguments are (A, r, other, ε⁻, ε⁺)."""

    nargs = 5
