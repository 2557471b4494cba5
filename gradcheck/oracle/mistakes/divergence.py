r"""Mistakes in a mask that stands in the clip's place: which samples it stops, and by what divergence."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Unless
from derivations.derivation import Derivation
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import BatchMean
from gradcheck.oracle.mistakes.general import wrong_advantages

__all__ = ["divergence_mistakes"]


def divergence_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The mask of A(r − 1) > 0 and d > d_max, and the advantage that it stands with."""
    masks = d.loss.atoms(Unless)
    if n.divergence not in d.definitions or len(masks) != 1:
        return
    (mask,) = masks
    away, beyond = mask.args
    own = d.definitions[n.divergence]

    def put(new: sp.Expr) -> sp.Expr:
        return d.loss.xreplace({mask: new})

    yield "mask-missing", "no sample is masked, however far the policies have diverged", put(sp.S.One), {}
    yield (
        "mask-both-ways",
        "a sample beyond the bound is masked on its way back too; only A(r − 1) > 0 leads further away",
        put(Unless(beyond)),
        {},
    )
    yield (
        "mask-way-back",
        "the samples on their way back are masked; it must be those on their way out",
        put(Unless(-away, beyond)),
        {},
    )
    good, bad = n.advantage, -n.advantage
    for which, sign in (("negative", good), ("positive", bad)):
        sentence = f"samples with a {which} advantage are never masked"
        yield "mask-one-sign", sentence, put(Unless(away, beyond, sign)), {}
    yield (
        "mask-below-the-bound",
        "the samples within the bound are masked; it must be those beyond it",
        put(Unless(away, -beyond)),
        {},
    )
    for name, sentence, other in (
        ("divergence-averaged", "the divergence is averaged over the batch; it must be per sample", BatchMean(own)),
        ("divergence-half-missing", "the divergence lacks a factor 1/2", 2 * own),
        ("divergence-sigma", "the divergence is over σ_t² where the step's variance σ_t²Δt belongs", own * n.dt),
        ("divergence-without-variance", "the means' distance is not divided by the step's variance C2²", own * n.C2**2),
        (
            "divergence-reduction",
            "the divergence is summed over coordinates; it must be averaged, as the log-density",
            own * n.D,
        ),
        (
            "divergence-reduction",
            "the divergence is averaged over coordinates; it must be summed, as the log-density",
            own / n.D,
        ),
    ):
        yield name, sentence, d.loss, {n.divergence: other}
    for name, measure in (
        ("log-ratio-for-divergence", -n.log_ratio),
        ("log-ratio-for-divergence", sp.Abs(n.log_ratio)),
        ("log-ratio-for-divergence", n.ratio - 1 - n.log_ratio),
        ("log-ratio-for-divergence", n.log_ratio**2 / 2),
    ):
        sentence = (
            "an estimate of the divergence from the ratio stands for the exact one, which the noise does not enter"
        )
        yield name, sentence, put(Unless(away, measure - n.divergence_max)), {}
    for name, sentence, wrong in wrong_advantages(n.advantage):
        yield name, sentence, d.loss.xreplace({n.advantage: wrong}), {}
