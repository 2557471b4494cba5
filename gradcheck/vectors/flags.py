r"""What each case is for: a flag, the kind of bug behind it, and what a failure of just its cases means."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FLAGS", "Flag"]


@dataclass(frozen=True)
class Flag:
    """A note on the cases that carry it.

    Attributes:
        bug_type: the class of mistakes that the cases look for.
        description: what is special about the cases.
        effect: what is likely where these cases fail and those before them pass.
    """

    bug_type: str
    description: str
    effect: str


FLAGS: dict[str, Flag] = {
    "typical": Flag(
        "formula",
        "One sample, off-policy, inside the clip, at a time far from both ends.",
        "The formula itself is wrong: a sign, a factor (2, 1/D, β, 1/Δt), a term, or a gradient where a value must be "
        "detached. Mend this one first; nearly every other case fails for the same reason.",
    ),
    "batch": Flag(
        "batch-leak",
        "Three different samples at the same time step.",
        "Samples see each other: the loss is averaged over the batch where the sum is asked for, a number per sample "
        "(the ratio, its bias, an adaptive weight) is averaged over the batch, or (B,) met (B, 1) and became (B, B).",
    ),
    "mixed-times": Flag(
        "batch-leak",
        "Three samples at three time steps in one batch.",
        "A coefficient that depends on the time (σ_t, √Δt, 1/Δt, ω) is averaged over the batch, or that of the first "
        "sample is used for all.",
    ),
    "on-policy": Flag(
        "missing-term",
        "The trained velocity equals the old one, so every ratio is exactly 1.",
        "Something goes wrong at a difference of exactly zero (a root, a norm, a division), or a tie of the two terms "
        "of the surrogate is differentiated as if the clip were active.",
    ),
    "zero-advantage": Flag(
        "missing-term",
        "A = 0 (r = 1/2 for DiffusionNFT): the policy term pulls nowhere.",
        "What is left is the KL, reference or trust-region term, and that is wrong: its factor, its denominator, or it "
        "was computed without a gradient. If nothing is to be left, a gradient comes from where there must be none.",
    ),
    "advantage-signs": Flag(
        "sign",
        "The same sample twice, with opposite advantages (r and 1 − r for DiffusionNFT, R and −R for RWR).",
        "|A| or A² stands for A, one sign is masked, the two terms of the surrogate meet in min for max, or the "
        "positive and the negative branch are exchanged.",
    ),
    "extreme-advantage": Flag(
        "modified-parameter",
        "Advantages far beyond what normalised rewards give (r = 0 and r = 1 for DiffusionNFT).",
        "The advantage is clamped or squashed inside the loss. If your trainer means to, clamp before the loss.",
    ),
    "clip-inside-high": Flag(
        "clip",
        "The ratio lies between 1 and 1 + clip_high, near the clip; both signs of A.",
        "The clip bites too early: clip_low is used above 1, or the log-ratio is clipped in place of the ratio.",
    ),
    "clip-inside-low": Flag(
        "clip",
        "The ratio lies between 1 − clip_low and 1, near the clip; both signs of A.",
        "The clip bites too early: on the wrong side, or on the log-ratio.",
    ),
    "clip-outside-high": Flag(
        "clip",
        "The ratio lies above 1 + clip_high; both signs of A.",
        "For A > 0 the gradient must vanish and for A < 0 it must not. There is no clip above, it is wider than "
        "declared (clip_low and clip_high exchanged?), or it masks both signs of A.",
    ),
    "clip-outside-low": Flag(
        "clip",
        "The ratio lies below 1 − clip_low; both signs of A.",
        "For A < 0 the gradient must vanish and for A > 0 it must not. There is no clip below, it is wider than "
        "declared, or it masks both signs of A.",
    ),
    "clip-edge": Flag(
        "clip",
        "The ratio equals 1 + clip_high up to rounding: rows marked undecided accept the gradient of either branch, "
        "and their means by halves and quarters.",
        "What comes out is neither branch: a smooth clip, or one that changes the gradient's length at the edge.",
    ),
    "near-data": Flag(
        "edge-case",
        "t is close to 0, where the signal is all data.",
        "A division by t without need, a floor on σ_t or on t, or a time that was rounded to a grid.",
    ),
    "near-noise": Flag(
        "edge-case",
        "t is close to 1, where 1 − t loses its digits.",
        "1 − t is clamped, or another time stands in for t near 1 in σ_t = η √(t/(1 − t)).",
    ),
    "tiny-noise": Flag(
        "precision",
        "The step's noise is tiny, so that the log-densities are huge and their difference is small.",
        "A constant is added to σ_t or to the variance (1e-8, 1e-5 …), or part of the computation runs in a lower "
        "precision than the file's. Components that rounding alone explains are not judged.",
    ),
    "one-coordinate": Flag(
        "broadcast",
        "Latents of a single coordinate, D = 1; two samples.",
        "An axis of length 1 was squeezed away, or a mean over the latent ran over the batch.",
    ),
    "axes": Flag(
        "broadcast",
        "Latents of two, three or four axes, so tensors of three, four or five; two samples.",
        "Numbers per sample are reshaped for one rank alone, or the reduction over the latent leaves an axis out.",
    ),
}
"""Every flag, in the order in which failures are best read."""
