r"""Mistakes in what weighs a sample by its time step: the step's noise, or whether it is in the window that trains."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.derivation import Derivation
from derivations.pieces import Piece
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import BatchFirst, BatchMean, BatchSize, Right

__all__ = ["time_weight_mistakes"]


def time_weight_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The weight by C2, and the window."""
    policy = d.loss.xreplace({n.kl_weight: sp.S.Zero})
    if Piece.NOISE_WEIGHT in d.pieces:
        root = sp.sqrt(n.dt)
        kept, bare = d.loss - policy, policy * n.noise_norm / n.C2
        for name, sentence, weight in (
            ("time-weight-missing", "the policy term is not weighed by the step's noise", 1),
            ("time-weight-unnormalised", "the weight by the step's noise is not divided by its norm", n.C2),
            ("time-weight-variance", "the weight is the step's variance C2²; it must be C2", n.C2**2 / n.noise_norm),
            ("time-weight-sigma", "the weight is σ_t where σ_t √Δt belongs", n.C2 / root / n.noise_norm),
            ("time-weight-inverse", "the weight divides by the step's noise; it must multiply", n.noise_norm / n.C2),
            (
                "time-weight-averaged",
                "the weight by the noise is averaged over the batch; it must be per sample",
                BatchMean(n.C2) / n.noise_norm,
            ),
            (
                "time-weight-normalised",
                "the weight by the noise is divided by its mean over the batch; its norm is one given number",
                n.C2 / BatchMean(n.C2),
            ),
        ):
            yield name, sentence, weight * bare + kept, {}
        if Piece.RATIO in d.pieces:
            yield (
                "time-weight-in-exponent",
                "the weight by the step's noise multiplies the log-ratio; it must multiply the policy term",
                bare + kept,
                {n.ratio: sp.exp(n.C2 / n.noise_norm * n.log_ratio)},
            )
    if Piece.WINDOW in d.pieces:
        everywhere = d.loss.xreplace({n.window: sp.S.One})
        free = everywhere - everywhere.xreplace({n.kl_weight: sp.S.Zero})
        yield "window-ignored", "the steps outside the window train too", everywhere, {}
        yield (
            "window-for-policy-alone",
            "outside the window the reference term still trains",
            policy + free,
            {},
        )
        yield (
            "window-turned-round",
            "the steps outside the window train, those inside do not",
            (1 - n.window) * everywhere,
            {},
        )
        yield (
            "window-of-first-sample",
            "whether the first sample is in the window decides for all",
            BatchFirst(n.window) * everywhere,
            {},
        )
        crossed = "every loss meets every sample's window: (B,) is broadcast against (B, 1)"
        size = BatchSize(Right(n.window))
        yield (
            "window-outer-product",
            f"{crossed}, so that the window cancels out and the mean becomes a sum",
            size * everywhere,
            {},
        )
        yield (
            "window-outer-product",
            f"{crossed}, so that each loss is weighed by the windows' mean",
            BatchMean(n.window) * everywhere,
            {},
        )
        yield (
            "window-mean",
            "the loss is averaged over the samples inside the window, not over the batch",
            d.loss / BatchMean(n.window),
            {},
        )
