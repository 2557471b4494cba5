r"""What wrong losses are made of besides the right ones' operations: batch averages, and clips that are none."""

from __future__ import annotations

import sympy as sp

__all__ = [
    "AllPairs",
    "BatchFirst",
    "BatchGreatest",
    "BatchMean",
    "BatchSize",
    "BatchStd",
    "Bounded",
    "Coordinatewise",
    "Crossed",
    "DualClip",
    "FourthPowers",
    "Given",
    "GridStep",
    "GridTime",
    "Huber",
    "LatentSize",
    "Leaky",
    "LogClipped",
    "Masked",
    "MaskedBy",
    "MaxSurrogate",
    "Neighbour",
    "OneSided",
    "Others",
    "Outer",
    "PseudoHuber",
    "Reversed",
    "Right",
    "Rounded",
    "RowNeighbour",
    "SmallHalf",
    "Sorted",
    "TieLost",
    "TimeRounded",
]


class Right(sp.Function):
    """What a symbol is in the right loss, whatever is changed elsewhere."""

    nargs = 1

    def _eval_is_real(self) -> bool:
        return True

    def _eval_is_positive(self) -> bool | None:
        return self.args[0].is_positive


class Given(sp.Function):
    """A quantity as the case holds it, whatever the loss would compute for it."""

    nargs = 1

    def _eval_is_real(self) -> bool:
        return True


class BatchMean(sp.Function):
    """A per-sample scalar, averaged over the batch (and its gradient with it)."""

    nargs = 1

    def _eval_is_positive(self) -> bool | None:
        return bool(self.args[0].is_positive) or None

    def _eval_is_real(self) -> bool:
        return True


class BatchFirst(BatchMean):
    """The first sample's scalar, used for every sample."""


class BatchGreatest(BatchMean):
    """The largest of the batch's scalars."""


class Neighbour(BatchMean):
    """Another sample's quantity: the second argument says how many places away in the batch."""

    nargs = 2


class RowNeighbour(BatchMean):
    """Another member's quantity of the same unit: the second argument says how many places away in it."""

    nargs = 2


class Reversed(BatchMean):
    """The batch's numbers in the opposite order."""


class Sorted(BatchMean):
    """The batch's numbers by size: rising if the second argument is 1, falling if it is −1."""

    nargs = 2


class Rounded(sp.Function):
    """1 where the argument exceeds one half, else 0."""

    nargs = 1


class Others(sp.Function):
    """A quantity of the rest of a sample's unit, summed: of a pair the partner's, of a group all but its own."""

    nargs = 1

    def _eval_is_real(self) -> bool:
        return True


class AllPairs(sp.Function):
    """−log sigmoid of every winner's margin over every loser: the arguments are (β, gap, preference).

    A sample sees the mean over all samples of the other kind, whose gaps are given numbers to it.
    """

    nargs = 3

    def _eval_is_real(self) -> bool:
        return True


class GridTime(BatchMean):
    """The sampler's time so many places (the second argument) after the sample's own; the first one is its time."""

    nargs = 2


class GridStep(GridTime):
    """How far it is from there to the next time of the grid."""


class TimeRounded(BatchMean):
    """A time rounded to a table: times the second argument, rounded (third argument 0) or cut off (−1), and back."""

    nargs = 3


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


class DualClip(sp.Function):
    """PPO's surrogate with a bound from above for negative advantages: the arguments are (A, r, ε⁻, ε⁺, c)."""

    nargs = 5


class LogClipped(sp.Function):
    """−min(rA, exp(clip(log r, −ε⁻, ε⁺))A): the clip applied to the log-ratio."""

    nargs = 4


class Bounded(sp.Function):
    """The first argument between the second and the third, with no gradient outside."""

    nargs = 3

    def _eval_is_real(self) -> bool:
        return True


class MaskedBy(sp.Function):
    """−rA where the surrogate of another ratio is not clipped; the arguments are (A, r, other, ε⁻, ε⁺)."""

    nargs = 5


class Outer(sp.Function):
    """log r of every sample under every scale: the arguments are what is scaled, what is divided, and the scale.

    The value for sample j under sample i's scale s_i is s_i·x_j + y_j / s_i, exponentiated and clipped, and averaged
    over i with the advantage and the weight of j; the arguments are (A, x, y, s, ε⁻, ε⁺, weight).
    """

    nargs = 7


class Coordinatewise(sp.Function):
    """A ratio and a clip for every coordinate, exp(w (y² − x²)): the arguments are (A, x, y, w, ε⁻, ε⁺, weight)."""

    nargs = 7

    def _eval_is_real(self) -> bool:
        return True


class Huber(sp.Function):
    """Huber's function of each coordinate, summed: x²/2 up to δ, and ``δ(|x| − δ/2)`` beyond; arguments (x, δ)."""

    nargs = 2

    def _eval_is_real(self) -> bool:
        return True


class PseudoHuber(Huber):
    """Each coordinate's δ²(√(1 + (x/δ)²) − 1), summed; arguments (x, δ)."""


class FourthPowers(sp.Function):
    """The sum of the coordinates' fourth powers."""

    nargs = 1

    def _eval_is_real(self) -> bool:
        return True


class Masked(sp.Function):
    """The squared norm with some coordinates weighed; arguments (x, which, weight), which as :data:`errors.MASKS`."""

    nargs = 3

    def _eval_is_real(self) -> bool:
        return True


class LatentSize(BatchMean):
    """How long an axis of the latent is; the first argument only has to be one per sample, the second says which."""

    nargs = 2


class BatchSize(BatchMean):
    """The number of samples in the batch; its argument only has to be one per sample."""


class BatchStd(BatchMean):
    """A per-sample scalar's standard deviation over the batch; the second argument is 1 for the unbiased one."""

    nargs = 2


class Leaky(sp.Function):
    """PPO's surrogate whose clipped ratio keeps a slope beyond its edges; the arguments are (A, r, ε⁻, ε⁺, slope)."""

    nargs = 5


class SmallHalf(sp.Function):
    """The squared norm of some coordinates alone; the second argument says which (see the evaluation)."""

    nargs = 2
