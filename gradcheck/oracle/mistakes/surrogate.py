r"""Mistakes in PPO's surrogate, in its advantage and in the ratio that it clips."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Surrogate, Unless, sg
from derivations.derivation import Derivation
from derivations.pieces import Piece, surrogates_in
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import (
    BatchMean,
    Bounded,
    Coordinatewise,
    Crossed,
    DualClip,
    LogClipped,
    MaskedBy,
    MaxSurrogate,
    Neighbour,
    OneSided,
    Right,
    TieLost,
)
from gradcheck.oracle.mistakes.places import SURROGATE

__all__ = ["EXCHANGED", "ONE_EDGE", "dual_clip_mistakes", "log_ratio_mistakes", "surrogate_mistakes"]

EXCHANGED = "the lower and the upper clip edge are exchanged"
"""What is said where low and high have changed places."""

_CLAMPS = tuple(map(sp.Rational, ("1/100", "1/50", "1/20", "1/10", "1/5", "1/2", "1", "2", "3", "5", "10", "20")))

ONE_EDGE = "the {} clip edge is used on both sides, where the two differ"
"""What is said where one clip edge serves both sides; its place is for low or high."""


def surrogate_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Mistakes in the ratio and its clip."""
    surrogates = surrogates_in(d.loss)
    if len(surrogates) != 1:  # of several each has its own ratio, and no name says which is meant
        return
    (s,) = surrogates
    a, r, low, high = s.args

    def swap(new: sp.Expr) -> Overrides:
        return {SURROGATE: new}

    yield "clip-missing", "the ratio is not clipped", d.loss, swap(-r * a)
    yield (
        "max-for-min",
        "min and max are exchanged in the clipped surrogate, so that it clips the side that must stay free",
        d.loss,
        swap(MaxSurrogate(*s.args)),
    )
    yield (
        "clip-on-log-ratio",
        "the clip is applied to the log-ratio; it must be applied to the ratio",
        d.loss,
        swap(LogClipped(a, n.log_ratio, low, high)),
    )
    yield (
        "clipped-term-alone",
        "only the clipped term is used; the surrogate is the worse of the clipped and the unclipped one",
        d.loss,
        swap(OneSided(*s.args)),
    )
    yield (
        "tie-lost",
        "no gradient is left inside the clip: there the clipped and the unclipped term tie, and a detached one wins",
        d.loss,
        swap(TieLost(*s.args)),
    )
    yield (
        "ratio-missing",
        "the importance ratio is missing, or the model's ratio to itself: the advantage multiplies the log-probability",
        d.loss,
        swap(-a * n.log_ratio),
    )
    yield (
        "clip-edges-exchanged",
        EXCHANGED,
        d.loss,
        swap(Surrogate(a, r, high, low)),
    )
    far = sp.Integer(10) ** 9
    for which, edges in (("upper", (low, far)), ("lower", (sp.S.One, high))):
        yield (
            f"clip-{which}-missing",
            f"the ratio has no {which} clip edge: it is clipped on the other side alone",
            d.loss,
            swap(Surrogate(a, r, *edges)),
        )
    for which, edge in (("lower", low), ("upper", high)):
        yield "clip-symmetric", ONE_EDGE.format(which), d.loss, swap(Surrogate(a, r, edge, edge))
    yield (
        "advantage-broadcast",
        "every advantage meets every ratio: (B,) is broadcast against (B, 1)",
        d.loss,
        swap(Crossed(*s.args)),
    )
    if {Piece.REVERSE_STEP, Piece.CORRECTED_RATIO} <= d.pieces:
        plain = sp.exp(n.log_prob_theta - n.log_prob_old)
        yield (
            "clip-on-plain-ratio",
            "the clip is decided by the plain importance ratio; it must be by the corrected one",
            d.loss,
            swap(MaskedBy(a, r, plain, low, high)),
        )
    each = sp.S.One / n.D if Piece.AVERAGED in d.pieces else sp.S.One
    if n.v_gt in d.definitions:
        x, y, w = n.v_theta - n.v_gt, n.v_old - n.v_gt, d.coefficients.get(n.omega, sp.S.One)
    else:
        x, y, w = n.x_prev - n.mean_theta, n.x_prev - n.mean_old, 1 / (2 * n.C2**2)
    yield (
        "ratio-per-coordinate",
        "the ratio and its clip are taken coordinate by coordinate; the ratio is one number a sample",
        d.loss,
        swap(Coordinatewise(a, x, y, w, low, high, each)),
    )
    yield (
        "advantage-sign",
        "the advantage enters with the wrong sign (or −A is missing inside the max)",
        d.loss,
        {a: -Right(a)},
    )
    for how, weight in (
        ("clipped on both sides", Bounded(r, 1 - low, 1 + high)),
        ("clipped from above", sp.Min(r, 1 + high)),
    ):
        yield (
            "ratio-as-weight",
            f"the ratio, {how} and detached, only weighs the log-probability (CISPO); PPO differentiates the ratio",
            d.loss,
            swap(-a * sg(weight) * n.log_ratio),
        )
    yield (
        "clip-on-product",
        "r·A is clipped to [1 − ε⁻, 1 + ε⁺]; it must be the ratio alone, before it meets the advantage",
        d.loss,
        swap(-sp.Min(r * a, Bounded(r * a, 1 - low, 1 + high))),
    )
    yield (
        "clip-by-advantage",
        "the clip's width is multiplied by |A|; it must be the same for every advantage",
        d.loss,
        swap(Surrogate(a, r, low * sp.Abs(a), high * sp.Abs(a))),
    )
    free = sp.S.Zero  # an edge that no ratio passes
    yield (
        "clip-at-one",
        "the ratio is clipped at 1: the upper edge is 1 instead of 1 + ε",
        d.loss,
        swap(Surrogate(a, r, low, free)),
    )
    yield (
        "clip-at-one",
        "the ratio is clipped at 1: the lower edge is 1 instead of 1 − ε",
        d.loss,
        swap(Surrogate(a, r, free, high)),
    )
    for most in (2, 3, 4, 5, 10):
        sentence = f"the surrogate has a dual clip: negative advantages have no gradient beyond a ratio of {most}"
        yield "dual-clip", sentence, d.loss, swap(DualClip(a, r, low, high, sp.Integer(most)))
    quadratic = -r * a + sp.Abs(a) * (r - 1) ** 2 / (2 * high)
    for word, wrong in (
        ("|A|(r − 1)²/(2ε)", quadratic),
        ("|A|(r − 1)²/ε", -r * a + sp.Abs(a) * (r - 1) ** 2 / high),
        ("(r − 1)²/(2ε)", -r * a + (r - 1) ** 2 / (2 * high)),
        ("|A|(r − 1)²/25", -r * a + sp.Abs(a) * (r - 1) ** 2 / 25),
    ):
        yield "quadratic-penalty", f"a quadratic penalty {word} stands in the clip's place", d.loss, swap(wrong)


def dual_clip_mistakes(d: Derivation) -> Iterator[Candidate]:
    """In the bound from above for negative advantages, where it is declared."""
    masks = [m for m in d.loss.atoms(Unless) if m.args[0] == -n.advantage]
    if Piece.SURROGATE not in d.pieces or len(masks) != 1:
        return
    (inside,) = masks
    away, beyond = inside.args
    for name, sentence, mask in (
        ("dual-clip-missing", "the dual clip is missing: bad samples train however large their ratio is", sp.S.One),
        (
            "dual-clip-reversed",
            "the dual clip has max and min exchanged: bad samples train only beyond its limit",
            Unless(away, -beyond),
        ),
    ):
        yield name, sentence, d.loss.xreplace({inside: mask}), {}


def log_ratio_mistakes(d: Derivation) -> Iterator[Candidate]:
    """What every loss with a ratio can get wrong in it."""
    if Piece.RATIO not in d.pieces:
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
        "exponential-missing",
        "the ratio is log r: the exponential is missing",
        d.loss,
        {n.ratio: n.log_ratio},
    )
    for name, sentence, value in (
        ("ratio-root", "the ratio is the root of what it must be", sp.sqrt(n.ratio)),
        ("ratio-squared", "the ratio enters squared", n.ratio**2),
    ):
        power = {sp.sqrt(n.ratio): n.log_ratio / 2, n.ratio**2: 2 * n.log_ratio}[value]
        yield name, sentence, d.loss, {n.ratio: sp.exp(power)}
    for most in _CLAMPS:
        bounded = Bounded(log_ratio, -most, most)
        sentence = f"the log-ratio is clamped to ±{float(most):g} before it is exponentiated"
        yield "log-ratio-clamped", sentence, d.loss, {n.log_ratio: bounded}
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
    for held, how in ((sg, ", detached"), (sp.sympify, "")):
        yield (
            "ratio-normalised",
            f"the ratio is divided by its mean over the batch{how}",
            d.loss,
            {n.ratio: d.definitions[n.ratio] / BatchMean(held(d.definitions[n.ratio]))},
        )
    yield (
        "ratio-detached",
        "the importance ratio is detached: no gradient goes through it",
        d.loss,
        {n.ratio: sg(d.definitions[n.ratio])},
    )
    if len(log_probs) < 2:
        return
    if n.v_gt in d.definitions:
        yield (
            "ratio-of-errors",
            "the ratio is the quotient of the two errors; it must be the exponential of their difference",
            d.loss,
            {n.ratio: n.log_prob_old / n.log_prob_theta},
        )
    yield (
        "old-log-prob-missing",
        "the old log-probability is missing from the log-ratio",
        d.loss,
        {n.log_prob_old: sp.S.Zero},
    )
    for by in (1, -1):
        yield (
            "old-log-prob-of-neighbour",
            "the old log-probability is another sample's: the batch is out of step with it",
            d.loss,
            {n.log_prob_old: Neighbour(Right(n.log_prob_old), by)},
        )
    for shift, what in ((-1, "D"), (1, "1/D")):
        power = n.D**-shift
        for symbol, whose in ((n.log_prob_theta, "new"), (n.log_prob_old, "old")):
            sentence = f"the {whose} log-probability alone is multiplied by {what}: one is summed, the other averaged"
            yield "log-prob-reductions-differ", sentence, d.loss, {symbol: d.definitions[symbol] * power}
    yield (
        "old-prediction-detached-copy",
        "the old log-probability is the trained model's own, detached: the ratio is always 1 and never clipped",
        d.loss,
        {n.log_prob_old: sg(n.log_prob_theta)},
    )
    live = d.definitions[n.log_prob_theta]
    yield (
        "old-prediction-live",
        "the old log-probability is the trained model's own, with its gradient: the ratio is 1 whatever happens",
        d.loss,
        {n.log_prob_old: live},
    )
