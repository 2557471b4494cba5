r"""Mistakes in PPO's surrogate, in its advantage and in the ratio that it clips."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Surrogate
from derivations.derivation import Derivation
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import (
    BatchMean,
    Crossed,
    LogClipped,
    MaskedBy,
    MaxSurrogate,
    OneSided,
    TieLost,
)
from gradcheck.oracle.mistakes.general import wrong_advantages

__all__ = ["EXCHANGED", "ONE_EDGE", "log_ratio_mistakes", "surrogate_mistakes"]

EXCHANGED = "the lower and the upper clip edge are exchanged"
"""What is said where low and high have changed places."""

ONE_EDGE = "the {} clip edge is used on both sides, where the two differ"
"""What is said where one clip edge serves both sides; its place is for low or high."""


def surrogate_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Mistakes in the ratio and its clip."""
    surrogates = d.loss.atoms(Surrogate)
    if not surrogates:
        return
    (s,) = surrogates
    a, r, low, high = s.args

    def swap(new: sp.Expr) -> sp.Expr:
        return d.loss.xreplace({s: new})

    yield "clip-missing", "the ratio is not clipped", swap(-r * a), {}
    yield (
        "max-for-min",
        "min and max are exchanged in the clipped surrogate, so that it clips the side that must stay free",
        swap(MaxSurrogate(*s.args)),
        {},
    )
    yield (
        "clip-on-log-ratio",
        "the clip is applied to the log-ratio; it must be applied to the ratio",
        swap(LogClipped(a, n.log_ratio, low, high)),
        {},
    )
    yield (
        "clipped-term-alone",
        "only the clipped term is used; the surrogate is the worse of the clipped and the unclipped one",
        swap(OneSided(*s.args)),
        {},
    )
    yield (
        "tie-lost",
        "no gradient is left inside the clip: there the clipped and the unclipped term tie, and a detached one wins",
        swap(TieLost(*s.args)),
        {},
    )
    yield (
        "ratio-missing",
        "the importance ratio is missing, or the model's ratio to itself: the advantage multiplies the log-probability",
        swap(-a * n.log_ratio),
        {},
    )
    yield (
        "clip-edges-exchanged",
        EXCHANGED,
        swap(Surrogate(a, r, high, low)),
        {},
    )
    for which, edge in (("lower", low), ("upper", high)):
        yield "clip-symmetric", ONE_EDGE.format(which), swap(Surrogate(a, r, edge, edge)), {}
    yield (
        "advantage-broadcast",
        "every advantage meets every ratio: (B,) is broadcast against (B, 1)",
        swap(Crossed(*s.args)),
        {},
    )
    if n.mean_theta in d.definitions:
        plain = n.log_prob_theta - n.log_prob_old
        if d.definitions.get(n.log_ratio, plain) != plain:
            yield (
                "clip-on-plain-ratio",
                "the clip is decided by the plain importance ratio; it must be by the corrected one",
                swap(MaskedBy(a, r, sp.exp(plain), low, high)),
                {},
            )
    for name, sentence, wrong in wrong_advantages(a):
        yield name, sentence, swap(Surrogate(wrong, r, low, high)), {}
    yield (
        "advantage-sign",
        "the advantage enters with the wrong sign (or −A is missing inside the max)",
        swap(Surrogate(-a, r, low, high)),
        {},
    )


def log_ratio_mistakes(d: Derivation) -> Iterator[Candidate]:
    """What every loss with a ratio can get wrong in it."""
    if n.log_ratio not in d.definitions:
        return
    log_ratio = d.definitions[n.log_ratio]
    log_probs = [s for s in (n.log_prob_theta, n.log_prob_old) if s in d.definitions]
    doubled = {s: 2 * d.definitions[s] for s in log_probs}
    halved = {s: d.definitions[s] / 2 for s in log_probs}
    yield "log-ratio-sign", "the log-ratio has the wrong sign: old − new", d.loss, {n.log_ratio: -log_ratio}
    yield "half-missing", "the log-probability lacks a factor 1/2: it is twice the declared one", d.loss, doubled
    yield "half-twice", "the log-probability has a factor 1/2 too many: it is half the declared one", d.loss, halved
    yield (
        "ratio-linear",
        "the ratio is 1 + log r; the exponential is missing",
        d.loss,
        {n.ratio: 1 + n.log_ratio},
    )
    yield (
        "log-ratio-averaged",
        "the log-probability is averaged over the batch too: it is reduced before the ratio is taken",
        d.loss,
        {n.log_ratio: BatchMean(log_ratio)},
    )
    yield (
        "ratio-averaged",
        "the ratio is averaged over the batch before it meets the advantage",
        d.loss,
        {n.ratio: BatchMean(d.definitions[n.ratio])},
    )
    if len(log_probs) < 2:
        return
    live = d.definitions[n.log_prob_theta]
    yield (
        "old-prediction-live",
        "the old log-probability is the trained model's own, with its gradient: the ratio is 1 whatever happens",
        d.loss,
        {n.log_prob_old: live},
    )
