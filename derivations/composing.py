r"""Conventions that public code puts on top of any loss: one function each, from derivation to derivation.

Each restates the loss and takes its gradient anew by the chain rule; the target follows by lemma L1, with the weight
that the loss had.  The four general steps of :class:`~derivations.derivation.Derivation` then prove the result.
"""

from __future__ import annotations

from dataclasses import replace

import sympy as sp

from derivations import calculus
from derivations.calculus import Dot, MeanAbs, Norm2, Surrogate, Total, Unless
from derivations.derivation import Derivation, DerivationError
from derivations.grammar.kinks import Clip, lower
from derivations.notation import (
    D,
    kl_weight,
    log_prob_old,
    log_prob_theta,
    log_ratio,
    mask,
    mean_old,
    mean_ref,
    mean_theta,
    ratio,
    v_old,
    v_ref,
    v_theta,
    window,
)

__all__ = [
    "CLIPS",
    "KLS",
    "KL_TO",
    "MASKS",
    "MASK_REDUCTIONS",
    "clamped_log_ratio",
    "clipped",
    "masked",
    "masked_samples",
    "penalised",
    "weighted",
]

CLIPS = ("none", "dual", "spo")
"""What may stand in the place of PPO's clip."""

KLS = ("velocity", "mean", "k1", "k2", "k3")
"""Terms that hold the policy, besides the KL divergence of two Gaussian steps."""

KL_TO = ("reference", "old")
"""To which policy."""


MASKS = ("coordinates", "samples", "tokens")
"""What a mask leaves out."""

MASK_REDUCTIONS = ("sum-over-mask", "mean")
"""What a sum over the coordinates, or samples, that count is divided by: how many these are, or how many there are."""


def masked(d: Derivation, reduction: str | None) -> Derivation:
    r"""Only the coordinates that a mask of 0 and 1 leaves count, in every error and log-density of the loss.

    Each inner product :math:`\sum_j a_j b_j` becomes :math:`\sum_j M_j a_j b_j`, and each mean over the D coordinates
    that sum over :math:`\sum_j M_j` (``"sum-over-mask"``) or still over D (``"mean"``).

    Raises:
        DerivationError: a reduction is named where the terms are sums, or a detached weight is a mean of its own.
    """
    parts = (d.loss, *d.definitions.values(), *d.coefficients.values())
    if any(e.has(MeanAbs) for e in parts):
        raise DerivationError(f"{d.label} is weighed by means of its own, of which it is not said what they leave out")
    means = any(power.base == D and power.exp.is_negative for power in d.inline(d.loss).atoms(sp.Pow))
    if not means and reduction is not None:
        raise DerivationError(f"{d.label} has sums over the coordinates, not means, so there is no mask_reduction")
    size = Total(mask) if reduction in (None, "sum-over-mask") else D

    def put(expr: sp.Expr) -> sp.Expr:
        inner = {n: Total(mask * sp.Mul(*(n.args * 2)[:2])) for n in expr.atoms(Dot, Norm2)}
        return expr.xreplace({D: size}).xreplace({n.xreplace({D: size}): new for n, new in inner.items()})

    stated = replace(
        d,
        coefficients={s: put(e) for s, e in d.coefficients.items()},
        definitions={s: put(e) for s, e in d.definitions.items()},
    )
    return _restated(stated, put(d.loss))


def masked_samples(d: Derivation) -> Derivation:
    """Only samples count of which a mask says so; over how many a batch's sum is divided is said by its reduction.

    Raises:
        DerivationError: the loss leaves samples out already.
    """
    if window.name in d.given:
        raise DerivationError(f"{d.label} has a window of steps, which leaves samples out already")
    return _restated(d, window * d.loss)


def weighted(d: Derivation, weight: sp.Expr) -> Derivation:
    """The loss times a detached weight of each sample, such as a weight of its time."""
    return _restated(d, weight * d.loss)


def clipped(d: Derivation, kind: str, limit: sp.Expr) -> Derivation:
    r"""Another clip of the importance ratio in the place of PPO's.

    ``"none"``: −rA.  ``"dual"``: PPO's, and for A < 0 no more than −limit·A (Ye et al., arXiv:1912.09729).  ``"spo"``:
    the quadratic penalty −(rA − \|A\|(r − 1)²/(2ε⁺)) (Xie et al., arXiv:2401.16025).

    Raises:
        DerivationError: the loss has no clip.
    """
    surrogates = d.loss.atoms(Surrogate)
    if not surrogates:
        raise DerivationError(f"{d.label} has no clipped ratio")
    new = {s: _clip(s, kind, limit) for s in surrogates}
    return _restated(d, d.loss.xreplace(new))


def _clip(surrogate: Surrogate, kind: str, limit: sp.Expr) -> sp.Expr:
    a, r, _, high = surrogate.args
    if kind == "none":
        return -r * a
    if kind == "spo":
        return -(r * a - sp.Max(a, -a) * (r - 1) ** 2 / (2 * high))
    inside = Unless(-a, r - limit)  # 0 where A < 0 and r > limit
    return surrogate * inside - limit * a * (1 - inside)


def clamped_log_ratio(d: Derivation, limit: sp.Expr) -> Derivation:
    """The log-ratio clamped to ± a limit before it is exponentiated.

    Raises:
        DerivationError: the loss has no ratio.
    """
    if ratio not in d.definitions:
        raise DerivationError(f"{d.label} has no importance ratio")
    clamped = lower(Clip(log_ratio, -limit, limit), lambda e: bool(d.inline(e).has(v_theta)))
    return _restated(d, d.loss, {ratio: sp.exp(clamped)})


def penalised(d: Derivation, kind: str, to: str, mean: bool) -> Derivation:
    r"""Another term that holds the policy, times ``kl_weight``.

    ``"velocity"``: ‖v_θ − v‖²; ``"mean"``: ‖μ_θ − μ‖² of the reverse steps, without their variance; ``"k1"``, ``"k2"``,
    ``"k3"``: Schulman's estimators of the divergence, with log s = log p − log p_θ: −log s, (log s)²/2, s − 1 − log s.

    Args:
        d: the loss without such a term.
        kind: which.
        to: ``"reference"`` or ``"old"``: the policy that it is held to.
        mean: over the latent's coordinates, not the sum.

    Raises:
        DerivationError: the loss has one already, or is on no reverse step where that is needed.
    """
    if d.loss.has(kl_weight):
        raise DerivationError(f"{d.label} has such a term already")
    if kind != "velocity" and mean_theta not in d.definitions:
        raise DerivationError(f"{d.label} is on no reverse step, so that only 'velocity' has a meaning")
    each = 1 / D if mean else sp.S.One
    v, mu = {"reference": (v_ref, mean_ref), "old": (v_old, mean_old)}[to]
    if kind == "velocity":
        return _restated(d, d.loss + kl_weight * each * Norm2(v_theta - v))
    if kind == "mean":
        return _restated(d, d.loss + kl_weight * each * Norm2(mean_theta - mu))
    theirs = log_prob_old if to == "old" else d.definitions[log_prob_theta].xreplace({mean_theta: mean_ref})
    log_s = theirs - log_prob_theta
    term = {"k1": -log_s, "k2": log_s**2 / 2, "k3": sp.exp(log_s) - 1 - log_s}[kind]
    return _restated(d, d.loss + kl_weight * term)


def _restated(d: Derivation, loss: sp.Expr, definitions: dict[sp.Symbol, sp.Expr] | None = None) -> Derivation:
    """A derivation of another loss from the same pieces, as the chain rule finds it."""
    definitions = {**d.definitions, **(definitions or {})}
    stated = replace(d, loss=loss, definitions=definitions, steps=(), after=(), brief_gradient=None, brief_target=None)
    gradient = calculus.gradient(_live_inlined(stated), d.output)
    return replace(stated, gradient=gradient, target=d.output - gradient / (2 * d.weight))


def _live_inlined(d: Derivation) -> sp.Expr:
    live = {s: e for s, e in d.definitions.items() if d.inline(s).has(d.output)}
    expr = d.loss
    for _ in range(len(live) + 1):
        expr = expr.xreplace(live)
    return expr
