r"""Mistakes in the log-probability of the reverse step: its state, its density, its normaliser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import sympy as sp
import torch

from derivations import notation as n
from derivations.calculus import MeanAbs, Norm2
from derivations.derivation import Derivation, inline
from derivations.pieces import Piece
from derivations.steps.sde import reverse_step
from gradcheck.oracle.mistakes import places as at
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import (
    BatchMean,
    Huber,
    Neighbour,
    Right,
    SmallHalf,
)
from gradcheck.oracle.mistakes.general import latent_sizes, mixed_reduction
from gradcheck.oracle.mistakes.means import STEPS
from gradcheck.oracle.mistakes.places import stated

__all__ = ["FLOAT32_ERRORS", "density_mistakes", "normaliser_mistakes", "state_mistakes"]


def state_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Another state than the sampled one in the log-probability, or than x_t in the mean."""
    for name, sentence, edits in (
        (
            "state-exchanged",
            "the log-probability is that of x_t; it must be that of the sampled state x_prev",
            {at.STATE: n.x_t},
        ),
        (
            "state-exchanged",
            "the step starts from the sampled state x_prev; it must start from x_t",
            {n.x_t: Right(n.x_prev)},
        ),
        (
            "state-exchanged",
            "x_t and the sampled state x_prev are exchanged",
            {n.x_t: Right(n.x_prev), at.STATE: Right(n.x_t)},
        ),
        (
            "mean-for-state",
            "the log-probability is that of the behaviour model's mean; it must be that of the sampled state",
            {at.STATE: n.mean_old},
        ),
    ):
        yield name, sentence, d.loss, edits
    for by in (1, -1):
        for symbol, word in ((at.STATE, "the sampled state x_prev"), (n.x_t, "the state x_t")):
            own = n.x_prev if symbol == at.STATE else Right(n.x_t)
            sentence = f"{word} is another sample's: the batch is out of step with the stored states"
            yield "state-of-neighbour", sentence, d.loss, {symbol: Neighbour(own, by)}


def density_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The exponent of the density."""
    table = stated(d).table
    formulas = {s: table[s] for s in (n.log_prob_theta, n.log_prob_old)}

    def each(change: Mapping[sp.Expr, sp.Expr]) -> Overrides:
        return {s: e.xreplace(dict(change)) for s, e in formulas.items()}

    def scaled(factor: sp.Expr) -> Overrides:
        return {s: e.replace(Norm2, lambda x: factor * Norm2(x)) for s, e in formulas.items()}

    def of_each(wrong: Callable[[sp.Expr], sp.Expr]) -> Overrides:
        return {s: e.replace(Norm2, wrong) for s, e in formulas.items()}

    exponent = "the log-probability's exponent"
    linear = Piece.RATIO not in d.pieces  # then a factor of the log-probability is one of its whole term
    if formulas[n.log_prob_theta].has(at.STD):
        variance = 2 * at.STD**2
        yield (
            "exponent-without-variance",
            f"{exponent} is not divided by twice the variance 2C2²",
            d.loss,
            scaled(variance),
        )
        yield "exponent-without-variance", f"{exponent} is not divided by the variance C2²", d.loss, scaled(at.STD**2)
        for name, wrong, square in (
            ("exponent-std", "C2, not its square", at.STD),
            ("exponent-std", "C2⁴, the variance's square", at.STD**4),
            ("exponent-std", "the mean variance of the batch; it must be per sample", BatchMean(at.STD) ** 2),
            *(
                (("exponent-std", "σ_t², without Δt", at.STD**2 / n.dt), ("exponent-std", "σ_t² Δt²", at.STD**2 * n.dt))
                if Piece.STEP_LENGTH in d.pieces
                else ()
            ),
        ):
            sentence = f"{exponent} is divided by twice {wrong}"
            yield name, sentence, d.loss, scaled(at.STD**2 / square)
        for delta in (1, 2, 5):
            for factor in (1, 2):
                sentence = f"{exponent} has Huber's function of (x − μ)/C2 (smooth L1, δ = {delta}), not its square"
                yield "huber", sentence, d.loss, of_each(partial(_huber, factor, delta * at.STD))
        for factor in (1, 2):
            sentence = f"{exponent} has |x − μ|/C2, not its square"
            yield "exponent-not-squared", sentence, d.loss, of_each(partial(_absolute, factor * n.D * at.STD))
        if not linear:
            yield "exponent-half-missing", f"{exponent} lacks its factor 1/2", d.loss, scaled(sp.Integer(2))
            yield "exponent-half-twice", f"{exponent} has a factor 1/2 too many", d.loss, scaled(sp.Rational(1, 2))
    if linear:
        for name, word, wrong in (
            ("ratio-for-log-prob", "the importance ratio", sp.exp(n.log_prob_theta - n.log_prob_old)),
            ("probability-for-log-prob", "the probability itself", sp.exp(n.log_prob_theta)),
        ):
            sentence = f"{word} stands where the log-probability must"
            yield name, sentence, d.loss.xreplace({n.log_prob_theta: wrong}), {}
    else:
        yield "exponent-sign", f"{exponent} has the wrong sign", d.loss, scaled(sp.S.NegativeOne)
    for power, sentence in (
        (1, "the log-probability is summed over coordinates; it must be averaged"),
        (-1, "the log-probability is averaged over coordinates; it must be summed"),
    ):
        yield "log-prob-reduction", sentence, d.loss, {s: n.D**power * e for s, e in formulas.items()}
    averaged = Piece.AVERAGED in d.pieces
    for words, size in latent_sizes(n.t if d.path == "rectified" else n.alpha_bar):
        sentence = mixed_reduction("the log-probability", words, averaged)
        yield (
            "log-prob-reduction",
            sentence,
            d.loss,
            {s: e * (size if averaged else 1 / size) for s, e in formulas.items()},
        )
    half = {s: e.replace(Norm2, lambda x: SmallHalf(x, 0)) for s, e in formulas.items()}
    yield "half-of-the-coordinates", "the log-probability is that of half of the coordinates alone", d.loss, half


def _huber(factor: int, delta: sp.Expr, x: sp.Expr) -> sp.Expr:
    return factor * Huber(x, delta)


def _absolute(factor: sp.Expr, x: sp.Expr) -> sp.Expr:
    return factor * MeanAbs(x)


def normaliser_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The trained model's normaliser alone: it cancels in the ratio only if both log-probabilities have the same."""
    placed = stated(d).table[n.log_prob_theta]
    normaliser = placed.replace(Norm2, lambda x: sp.S.Zero)
    if normaliser == 0:
        return
    sentence = "the log-probability's normaliser is not the old one's, so that the ratio is not 1 on-policy"
    two_pi, std = sp.log(2 * sp.pi), at.NORMALISER_STD
    changes: list[tuple[str, Mapping[sp.Expr, sp.Expr]]] = [
        ("log C2 is missing", {std: sp.S.One}),
        ("½ log 2π is missing", {two_pi: sp.S.Zero}),
        ("log 2π lacks its factor 1/2", {two_pi: 2 * two_pi}),
        ("it is that of the variance", {std: std**2}),
        *(("½ log 2π is a float32 number", {two_pi: two_pi + 2 * sp.Float(x)}) for x in FLOAT32_ERRORS),
    ]
    if Piece.STEP_LENGTH in d.pieces:
        changes += [("it has log σ_t in place of log σ_t √Δt", {std: std / sp.sqrt(n.dt)})]
        for other in STEPS:
            theirs = inline(n.C2, reverse_step(other).formulas)
            word = f"it is that of the {other} step"
            changes += [(word, {std: theirs}), (f"{word}, without √Δt", {std: theirs / sp.sqrt(n.dt)})]
    yield "normaliser", f"{sentence}: it is missing", d.loss, {n.log_prob_theta: placed - normaliser}
    for what, change in changes:
        wrong = normaliser.xreplace(dict(change))
        if wrong != normaliser:
            yield "normaliser", f"{sentence}: {what}", d.loss, {n.log_prob_theta: placed - normaliser + wrong}


def _float32_errors() -> tuple[float, float]:
    """By how much ½ log 2π is off if it is made of a float32 tensor: with a root of 2π, or with its logarithm."""
    exact = math.log(2 * math.pi) / 2
    rooted = float(torch.log(torch.sqrt(2 * torch.as_tensor(math.pi, dtype=torch.float32))))
    logged = float(torch.log(2 * torch.as_tensor(math.pi, dtype=torch.float32))) / 2
    return logged - exact, rooted - exact


FLOAT32_ERRORS = _float32_errors()
"""How far ½ log 2π is off in code that makes it of a float32 tensor."""
