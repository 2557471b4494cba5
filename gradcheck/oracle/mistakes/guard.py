r"""Mistakes in GRPO-Guard's corrected ratio: its bias, its scale and the step length."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import sg
from derivations.derivation import Derivation
from derivations.pieces import Piece, surrogates_in
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import BatchFirst, BatchMean, Neighbour, Outer
from gradcheck.oracle.mistakes.places import BIAS, BIAS_STD, MEAN_BEHIND, OVER, POLICY, SCALE, stated

__all__ = ["corrected_ratio_mistakes"]


def corrected_ratio_mistakes(d: Derivation) -> Iterator[Candidate]:
    """GRPO-Guard's bias, scale and step length."""
    plain = n.log_prob_theta - n.log_prob_old
    if not {Piece.REVERSE_STEP, Piece.CORRECTED_RATIO} <= d.pieces:
        return
    own = stated(d)
    if BIAS not in own.table:
        return  # its log-ratio is no corrected one
    bias = own.table[BIAS]

    def put(name: str, sentence: str, edits: Overrides) -> Candidate:
        return name, sentence, d.loss, edits

    yield put("bias-missing", "the ratio's bias ‖μ_θ − μ_old‖²/(2C2²) is not added back", {BIAS: sp.S.Zero})
    averaged = "your ratio bias is averaged over the batch; it must be per sample"
    yield put("bias-averaged", averaged, {BIAS: BatchMean(bias)})
    for by in (1, -1):
        yield put("bias-of-neighbour", "the ratio's bias is another sample's", {BIAS: Neighbour(bias, by)})
    yield put("bias-of-first-sample", "the ratio's bias is the first sample's", {BIAS: BatchFirst(bias)})
    distance = (2 * BIAS_STD**2) * bias
    yield put(
        "bias-averaged",
        f"{averaged} (before it is divided by the variance)",
        {BIAS: BatchMean(distance) / (2 * BIAS_STD**2)},
    )
    yield put("bias-detached", "the ratio's bias is detached: its gradient is missing", {BIAS: sg(bias)})
    yield put("log-ratio-sign", "the log-ratio has the wrong sign: old − new", {n.log_ratio: SCALE * (-plain + BIAS)})
    yield put("bias-sign", "the ratio's bias has the wrong sign", {BIAS: -bias})
    yield put("bias-twice", "the ratio's bias lacks its factor 1/2", {BIAS: 2 * bias})
    yield put("bias-half", "the ratio's bias is half of what it must be", {BIAS: bias / 2})
    yield put("bias-without-variance", "the ratio's bias is not divided by twice the step's variance", {BIAS: distance})
    yield put("bias-without-variance", "the ratio's bias is not divided by the step's variance", {BIAS: distance / 2})
    yield put(
        "bias-reduction",
        "the ratio's bias is summed over coordinates, the log-probability averaged",
        {BIAS: n.D * bias},
    )
    yield put(
        "bias-reduction",
        "the ratio's bias is averaged over coordinates, the log-probability summed",
        {BIAS: bias / n.D},
    )
    yield put(
        "bias-to-state",
        "the ratio's bias measures the distance to x_t; it must be to the behaviour model's mean",
        {BIAS: bias.xreplace({MEAN_BEHIND: n.x_t})},
    )
    yield put(
        "bias-to-state",
        "the ratio's bias measures the distance to the sampled state; it must be to the behaviour model's mean",
        {BIAS: bias.xreplace({MEAN_BEHIND: n.x_prev})},
    )
    yield put(
        "bias-on-velocities",
        "the ratio's bias compares the velocities; it must compare the steps' means",
        {BIAS: bias.xreplace({MEAN_BEHIND: n.v_old, n.mean_theta: n.v_theta})},
    )
    for unscaled in (distance / 2, distance):
        yield put(
            "bias-on-velocities",
            "the ratio's bias compares the velocities, without a variance; it must compare the steps' means",
            {BIAS: unscaled.xreplace({MEAN_BEHIND: n.v_old, n.mean_theta: n.v_theta})},
        )
    yield put(
        "plain-ratio",
        "the corrected ratio is not used: the plain importance ratio takes its place",
        {n.log_ratio: plain},
    )
    yield put(
        "scale-missing",
        "the corrected log-ratio is not multiplied by the step's standard deviation",
        {SCALE: sp.S.One},
    )
    yield put(
        "bias-unscaled",
        "the ratio's bias is not multiplied by the step's standard deviation",
        {n.log_ratio: SCALE * plain + BIAS},
    )
    yield put(
        "scale-inverted", "the log-ratio is divided by the step's deviation; it must be multiplied", {SCALE: 1 / n.C2}
    )
    half = sp.Rational(1, 2)
    crossed = "every ratio meets every sample's scale: the scale has shape (B, 1), the log-ratio (B,)"
    surrogate = next(iter(surrogates_in(d.loss)), None)
    if surrogate is None:
        return
    a, _, low, high = surrogate.args
    under = n.dt**-1 if OVER in own.table else sp.S.One
    for x, y in ((plain + BIAS, sp.S.Zero), (plain, distance * half), (plain, distance)):
        outer = Outer(a, x, y, SCALE, low, high, under)
        yield put("scale-broadcast", crossed, {POLICY: outer})
    if OVER not in own.table:
        return
    for name, sentence, over in (
        ("dt-missing", "the policy term is not divided by Δt", sp.S.One),
        ("root-dt", "the policy term is divided by √Δt; it must be by Δt", sp.sqrt(n.dt)),
        ("dt-averaged", "Δt is averaged over the batch; it must be per sample", BatchMean(n.dt)),
        ("dt-averaged", "√Δt is averaged over the batch; it must be per sample", BatchMean(sp.sqrt(n.dt)) ** 2),
        ("dt-of-first-sample", "the policy term is divided by the first sample's Δt", BatchFirst(n.dt)),
        ("dt-of-neighbour", "the policy term is divided by another sample's Δt", Neighbour(n.dt, 1)),
        ("dt-of-neighbour", "the policy term is divided by another sample's Δt", Neighbour(n.dt, -1)),
        ("dt-twice", "the policy term is divided by Δt twice", n.dt**2),
        ("dt-inverted", "the policy term is multiplied by Δt; it must be divided by it", 1 / n.dt),
        ("over-variance", "the policy term is divided by the step's variance; it must be by Δt", n.C2**2),
        ("over-variance", "the policy term is divided by the step's standard deviation; it must be by Δt", n.C2),
    ):
        yield put(name, sentence, {OVER: over})
