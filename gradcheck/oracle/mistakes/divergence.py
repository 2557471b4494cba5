r"""Mistakes in a mask that stands in the clip's place: which samples it stops, and by what divergence."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Norm2, Unless
from derivations.derivation import Derivation
from derivations.pieces import Piece
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import BatchMean, Right
from gradcheck.oracle.mistakes.places import stated

__all__ = ["divergence_mistakes"]


def divergence_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The mask of A(r − 1) > 0 and d > d_max, and the advantage that it stands with."""
    masks = d.loss.atoms(Unless)
    if Piece.DIVERGENCE not in d.pieces or len(masks) != 1:
        return
    (mask,) = masks
    away, beyond = mask.args
    own = stated(d).table[n.divergence]

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
    kept = put(mask / BatchMean(mask))
    yield "mask-mean", "the loss is averaged over the samples that are not masked; it must be over the batch", kept, {}
    for way, sign in (("above", n.ratio - 1), ("below", 1 - n.ratio)):
        yield (
            "mask-by-the-ratio-alone",
            f"samples are masked where the ratio is {way} 1, whatever the advantage's sign",
            put(Unless(sign, beyond)),
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
        ("divergence-rooted", "the root of the divergence is compared with the bound", sp.sqrt(own)),
        ("divergence-half-twice", "the divergence has a factor 1/2 too many", own / 2),
        (
            "divergence-on-velocities",
            "the divergence compares the velocities; it must compare the steps' means, over their variance",
            Norm2(n.v_theta - n.v_old) / n.D,
        ),
        (
            "divergence-on-velocities",
            "the divergence compares the velocities; it must compare the steps' means, over their variance",
            Norm2(n.v_theta - n.v_old),
        ),
        *(
            (
                "divergence-on-velocities",
                "the divergence compares the velocities; it must compare the steps' means, over their variance",
                Norm2(n.v_theta - n.v_old) / size,
            )
            for size in (2 * n.D, sp.Integer(2))
        ),
        ("divergence-without-variance", "the means' distance is not divided by the step's variance", 2 * own * n.C2**2),
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
        ("log-ratio-for-divergence", sp.Abs(n.ratio - 1)),
        ("log-ratio-for-divergence", sp.Abs(n.ratio - 1) / 2),
    ):
        sentence = (
            "an estimate of the divergence from the ratio stands for the exact one, which the noise does not enter"
        )
        yield name, sentence, put(Unless(away, measure - n.divergence_max)), {}
    yield "advantage-sign", "the advantage enters with the wrong sign", d.loss, {n.advantage: -Right(n.advantage)}
