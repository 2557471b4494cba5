r"""What kind of loss a gradient belongs to, by rules on its terms.

The gradient is a sum of formulas times directions.  Its *signal* is what tells good samples from bad ones: A, r, R or
the ratio.  Its target is a *fixed point* if v_theta's own coefficient is positive whatever the signal.

=====================  ============================================================================================
policy                 rule
=====================  ============================================================================================
``on-policy``          the target moves with v_theta: v_theta's coefficient may be negative, or there is a ratio
``off-policy``         the target is a fixed point, made of v_old or moved by the signal
``weighted``           the target is a fixed point without v_old, and the signal is in the weight alone
``regression``         the same, and no signal anywhere
``regulariser``        every term pulls to v_old or v_ref, and there is no signal
=====================  ============================================================================================

*Trust region*: a term on v_theta − v_old (or v_theta − v_ref) whose coefficient is positive whatever the signal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy as sp

from derivations import notation as n
from derivations.writing.render import text

__all__ = ["POLICIES", "clip_words", "policy_of", "target_of", "trust_of"]

Pairs = Sequence[tuple[sp.Expr, sp.Expr]]

_SIGNAL = {n.advantage, n.advantage_tilde, n.reward, n.reward_prob, n.ratio, n.log_ratio, n.rho_plus, n.rho_minus}

POLICIES = {
    "on-policy": "on-policy: the target moves with v_θ",
    "off-policy": "off-policy: the target is a fixed point, which holds however far v_θ has moved",
    "weighted": "no behaviour model: a weighted regression; the signal says how hard it pulls, never where to",
    "regression": "no behaviour model: plain regression (supervised)",
    "regulariser": "none: it only holds v_θ near another model",
}
"""Each policy in words."""


def target_of(pairs: Pairs) -> tuple[sp.Expr, sp.Expr, bool]:
    """Weight and target (lemma L1), and whether the target is a fixed point."""
    own = sp.Add(*(formula for formula, vector in pairs if vector.has(n.v_theta)))
    moves = any(formula.has(n.ratio) for formula, _ in pairs)
    if own == 0 or not _nonnegative(own) or moves:
        return sp.Rational(1, 2), n.v_theta - sp.Add(*(formula * vector for formula, vector in pairs)), False
    parts = ((formula, vector - n.v_theta if vector.has(n.v_theta) else vector) for formula, vector in pairs)
    return own / 2, sp.Add(*(-_quotient(formula, own) * rest for formula, rest in parts)), True


def _quotient(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    return sp.S.One if a == b else a / b


def _nonnegative(formula: sp.Expr) -> bool:
    """Whatever the signal and the time: r and t lie between 0 and 1."""
    odds = {x: 1 / (1 + sp.Symbol(f"odds_{x.name}", positive=True)) for x in (n.reward_prob, n.t, n.t_prev)}
    return bool(formula.is_nonnegative or sp.factor(formula.xreplace(odds)).is_nonnegative)


def policy_of(pairs: Pairs) -> str:
    """One of :data:`POLICIES`."""
    _, target, fixed = target_of(pairs)
    if not fixed:
        return "on-policy"
    signal = any(formula.free_symbols & _SIGNAL for formula, _ in pairs)
    if not signal and all(vector in (n.v_theta - n.v_old, n.v_theta - n.v_ref) for _, vector in pairs):
        return "regulariser"
    if target.has(n.v_old) or target.free_symbols & _SIGNAL:
        return "off-policy"
    return "weighted" if signal else "regression"


def trust_of(pairs: Pairs) -> str:
    """What holds v_theta back, in words."""
    held = [
        f"held at {text(model)}, by {text(sp.cancel(formula / 2) if formula.is_Mul else formula / 2)}"
        for model in (n.v_old, n.v_ref)
        for formula, vector in pairs
        if vector == n.v_theta - model and _nonnegative(formula)
    ]
    return "; ".join(held) or "none"


def clip_words(
    silent: np.ndarray, advantage: np.ndarray, ratios: Sequence[np.ndarray], low: float, high: float
) -> tuple[str, bool]:
    """By which rule samples have no policy gradient, and whether there is one.

    Args:
        silent: which ones, over many samples on and far off policy.
        advantage: of each sample, none of them 0.
        ratios: what their importance ratio may be.
        low, high: the case's clip.
    """
    if not silent.any():
        return "none seen", True
    if silent.all():
        return "no sample has a policy gradient", True
    for sign, word in ((1, ">"), (-1, "<")):
        if np.array_equal(silent, sign * advantage > 0):
            return f"no policy gradient where A {word} 0", True
    above, below = advantage > 0, advantage < 0
    for r in ratios:
        if np.array_equal(silent, (above & (r > 1 + high)) | (below & (r < 1 - low))):
            return "PPO's: no policy gradient where A > 0 and r > 1 + ε⁺, or A < 0 and r < 1 − ε⁻", True
        if np.array_equal(silent, (r > 1 + high) | (r < 1 - low)):
            return "on both sides, whatever the sign of A: no policy gradient where r > 1 + ε⁺ or r < 1 − ε⁻", True
    for r in ratios:
        up, down = _edge(r[above], silent[above]), _edge(1 / r[below], silent[below])
        if up is not None and down is not None:
            above_one = f"above, between {up[0]:.4g} and {up[1]:.4g}, where A > 0"
            below_one = f"below, between {1 / down[1]:.4g} and {1 / down[0]:.4g}, where A < 0"
            return f"PPO's, at edges of its own: {above_one}; {below_one}", True
    return f"{silent.mean():.0%} of the samples have no policy gradient, by no rule on a known ratio", False


def _edge(r: np.ndarray, silent: np.ndarray) -> tuple[float, float] | None:
    """The gap between the largest ratio with a gradient and the smallest without; ``None`` if they mix."""
    if not silent.any() or silent.all():
        return None
    loud, quiet = float(r[~silent].max()), float(r[silent].min())
    return (loud, quiet) if quiet > 1 and loud < quiet else None
