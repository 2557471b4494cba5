r"""Mistakes in GRPO-Guard's corrected ratio: its bias, its scale and the step length."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import sg
from derivations.derivation import Derivation
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import BatchMean

__all__ = ["corrected_ratio_mistakes"]


def corrected_ratio_mistakes(d: Derivation) -> Iterator[Candidate]:
    """GRPO-Guard's bias, scale and step length."""
    plain = n.log_prob_theta - n.log_prob_old
    if n.mean_theta not in d.definitions or d.definitions.get(n.log_ratio, plain) == plain:
        return
    bias = sp.expand(d.definitions[n.log_ratio] / n.C2 - plain)
    root = sp.sqrt(n.dt)

    def put(name: str, sentence: str, log_ratio: sp.Expr) -> Candidate:
        return name, sentence, d.loss, {n.log_ratio: log_ratio}

    yield put("bias-missing", "the ratio's bias ‖μ_θ − μ_old‖²/(2C2²) is not added back", n.C2 * plain)
    yield put(
        "bias-averaged",
        "your ratio bias is averaged over the batch; it must be per sample",
        n.C2 * (plain + BatchMean(bias)),
    )
    yield put("bias-detached", "the ratio's bias is detached: its gradient is missing", n.C2 * (plain + sg(bias)))
    yield put("bias-sign", "the ratio's bias has the wrong sign", n.C2 * (plain - bias))
    yield put("bias-twice", "the ratio's bias lacks its factor 1/2", n.C2 * (plain + 2 * bias))
    yield put("plain-ratio", "the corrected ratio is not used: the plain importance ratio takes its place", plain)
    yield put(
        "scale-missing",
        "the corrected log-ratio is not multiplied by the step's standard deviation",
        plain + bias,
    )
    averaged = "the standard deviation that multiplies the log-ratio is averaged over the batch; it must be per sample"
    yield put("std-averaged", averaged, BatchMean(n.C2) * (plain + bias))
    yield put("std-averaged", averaged, BatchMean(n.C2 / root) * BatchMean(root) * (plain + bias))
    yield put("std-averaged", averaged, BatchMean(n.C2 / root) * root * (plain + bias))
    yield put(
        "scale-sigma",
        "the log-ratio is multiplied by σ_t where the step's standard deviation σ_t √Δt belongs",
        n.C2 / root * (plain + bias),
    )
    policy = d.loss.xreplace({n.kl_weight: sp.S.Zero})
    for name, sentence, factor in (
        ("dt-missing", "the policy term is not divided by Δt", n.dt),
        ("root-dt", "the policy term is divided by √Δt; it must be by Δt", root),
        ("dt-averaged", "Δt is averaged over the batch; it must be per sample", n.dt / BatchMean(n.dt)),
        ("dt-averaged", "√Δt is averaged over the batch; it must be per sample", n.dt / BatchMean(root) ** 2),
    ):
        yield name, sentence, policy * factor + (d.loss - policy), {}
