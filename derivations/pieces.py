r"""What a loss is made of, as words: an importance ratio, a clip, a reverse step, a reference term, a mixture …

Problems, obligations, conventions and named mistakes ask here, and nowhere else, what kind of loss they have before
them.  The answer is read off the stated loss and all that its definitions bring in.  So it holds for an algorithm's
file and for a loss of one line alike; what a file defines for a remark alone is no piece of its loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import sympy as sp

from derivations import notation as n
from derivations.calculus import ClipMask, Surrogate, Unless

__all__ = ["Piece", "pieces_of", "surrogates_in"]


class Piece(StrEnum):
    """One kind of piece; the value says in words what it is."""

    RATIO = "an importance ratio"
    SURROGATE = "PPO's clipped surrogate"
    MASK = "a mask that stops samples by their ratio or divergence"
    DIVERGENCE = "a divergence between the trained and the behaviour model"
    CORRECTED_RATIO = "a log-ratio that is not the plain difference of two log-probabilities"
    REVERSE_STEP = "the Gaussian reverse step of a sampler"
    STEP_LENGTH = "the length Δt of a step"
    LOG_PROB = "a log-probability"
    AVERAGED = "a log-probability that is averaged over the coordinates"
    REFERENCE = "a KL or reference term with a weight"
    REGRESSION = "a squared error against the sample's own velocity"
    ADVANTAGE = "an advantage"
    OPTIMALITY = "an optimality probability, which mixes two branches"
    TEMPERATURE = "a weight with a temperature"
    PREFERENCE = "a gap between two errors, as preferences and groups are ranked by"
    PAIR = "pairs of a winner and a loser"
    LIKELIHOOD = "−log σ of a margin, as preferences and groups have it"
    TIME = "the time of a sample"
    TIME_WEIGHT = "a weighting ω(t)"
    NOISE_WEIGHT = "a weighting by the noise of the step, over that of all steps"
    WINDOW = "a window of steps that train"
    BEHAVIOUR = "the behaviour model's prediction"
    ANCHOR = "the reference model's prediction"


_BY_SYMBOL: Mapping[Piece, tuple[sp.Symbol, ...]] = {
    Piece.DIVERGENCE: (n.divergence,),
    Piece.REVERSE_STEP: (n.mean_theta,),
    Piece.STEP_LENGTH: (n.dt,),
    Piece.LOG_PROB: (n.log_prob_theta,),
    Piece.REFERENCE: (n.kl_weight,),
    Piece.REGRESSION: (n.v_gt,),
    Piece.ADVANTAGE: (n.advantage,),
    Piece.OPTIMALITY: (n.reward_prob,),
    Piece.TEMPERATURE: (n.temperature,),
    Piece.PREFERENCE: (n.error_gap,),
    Piece.PAIR: (n.partner_gap,),
    Piece.TIME: (n.t, n.alpha_bar),
    Piece.TIME_WEIGHT: (n.omega,),
    Piece.NOISE_WEIGHT: (n.noise_norm,),
    Piece.WINDOW: (n.window,),
    Piece.BEHAVIOUR: (n.v_old, n.noise_old, n.x_0_old),
    Piece.ANCHOR: (n.v_ref, n.noise_ref, n.x_0_ref),
}


def pieces_of(loss: sp.Expr, formulas: Mapping[sp.Symbol, sp.Expr]) -> frozenset[Piece]:
    """The pieces of a loss whose symbols stand for ``formulas``."""
    reached = _reached(loss, formulas)
    found = {piece for piece, symbols in _BY_SYMBOL.items() if not reached.isdisjoint(symbols)}
    stated = [loss, *(formulas[s] for s in reached if s in formulas)]
    if any(surrogates_in(e) for e in stated):
        found.add(Piece.SURROGATE)
    if any(_is_likelihood(e) for e in loss.atoms(sp.log)) and len(loss.atoms(sp.exp)) == 1:
        found.add(Piece.LIKELIHOOD)
    if any(e.has(ClipMask, Unless) for e in stated):
        found.add(Piece.MASK)
    if {n.ratio, n.log_ratio} <= reached:
        found.add(Piece.RATIO)
    plain = n.log_prob_theta - n.log_prob_old
    if n.log_ratio in reached and formulas.get(n.log_ratio, plain) != plain:
        found.add(Piece.CORRECTED_RATIO)
    if n.log_prob_theta in reached and formulas[n.log_prob_theta].has(n.D):
        found.add(Piece.AVERAGED)
    if formulas.get(n.omega) == 1:
        found.discard(Piece.TIME_WEIGHT)
    return frozenset(found)


def surrogates_in(expr: sp.Expr) -> list[Surrogate]:
    """PPO's surrogates; a hinge is written with the same function, of something that is no importance ratio."""
    return [s for s in expr.atoms(Surrogate) if s.args[1] == n.ratio]


def _is_likelihood(expr: sp.Expr) -> bool:
    """log(1 + exp(z))."""
    inner = expr.args[0] - 1
    return isinstance(inner, sp.exp)


def _reached(loss: sp.Expr, formulas: Mapping[sp.Symbol, sp.Expr]) -> frozenset[sp.Symbol]:
    """Every symbol that the loss rests on, those with a formula included."""
    seen: set[sp.Symbol] = set()
    pending = set(loss.free_symbols)
    while pending:
        symbol = pending.pop()
        seen.add(symbol)
        pending |= (formulas[symbol].free_symbols if symbol in formulas else set()) - seen
    return frozenset(seen)
