"""What a name in an expression stands for: the notation table's names, short forms of them, and functions.

A short form that the notation gives to one quantity alone is accepted; one that the field uses for several is
refused with the alternatives.  ``r`` is the notation's letter for ``reward_prob``; the importance ratio is always
``ratio``, so ``r`` inside ``clip(…)`` is refused.  ``eps`` is a clip range and means something in the bounds of
``clip`` alone: ``clip_low`` in the lower one, ``clip_high`` in the upper one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from derivations.grammar.errors import ParseError, Span
from derivations.notation import NOTATION

__all__ = [
    "ALIASES",
    "AMBIGUOUS",
    "BACKWARD",
    "CANONICAL",
    "CONSTANTS",
    "FUNCTIONS",
    "STANDARD",
    "resolve",
    "suggestion",
]

CANONICAL = tuple(q.name for q in NOTATION)
"""The notation table's names, which a text may use."""

CONSTANTS = ("pi", "π")
"""Names that stand for a number."""

ALIASES = {
    "A": "advantage", "adv": "advantage", "R": "reward", "r": "reward_prob", "tau": "temperature", "τ": "temperature",
    "β": "beta", "beta_kl": "kl_weight", "kl_coef": "kl_weight", "ω": "omega", "eta": "noise_level",
    "η": "noise_level", "ε": "noise", "δ": "delta", "Δ": "Delta", "Δt": "dt", "x0": "x_0", "xt": "x_t",
    "v_θ": "v_theta", "vθ": "v_theta", "sigma": "sigma_t", "σ": "sigma_t", "σ_t": "sigma_t", "k_t": "k",
    "mu_theta": "mean_theta", "μ_θ": "mean_theta", "mu_old": "mean_old", "μ_old": "mean_old", "mu_ref": "mean_ref",
    "μ_ref": "mean_ref", "log_prob": "log_prob_theta", "logp": "log_prob_theta",
    "w_pos": "w_plus", "w_neg": "w_minus", "eps_theta": "noise_theta", "epsilon_theta": "noise_theta",
    "ε_θ": "noise_theta", "eps_old": "noise_old", "eps_ref": "noise_ref", "x0_theta": "x_0_theta",
    "x0_old": "x_0_old", "x0_ref": "x_0_ref",
}  # fmt: skip
"""Short form → the notation's name."""

AMBIGUOUS = {
    "v": ("v_theta", "v_old", "v_ref", "v_gt"),
    "a": ("advantage", "noise_level", "mean_offset"),
    "x": ("x_t", "x_0", "x_prev"),
    "mu": ("mean_theta", "mean_old", "mean_ref"),
    "μ": ("mean_theta", "mean_old", "mean_ref"),
    "w": ("omega", "w_plus", "w_minus"),
    "rho": ("rho_plus", "rho_minus", "ratio"),
    "ρ": ("rho_plus", "rho_minus", "ratio"),
    "eps": ("noise", "clip_low", "clip_high"),
    "epsilon": ("noise", "clip_low", "clip_high"),
    "clip_range": ("clip_low", "clip_high"),
    "kl": ("kl_weight",),
    "std": ("C2", "sigma_t"),
}
"""Short forms that the field uses for several quantities."""

_CLIP_RANGE = frozenset(("eps", "epsilon", "clip_range", "ε"))

FUNCTIONS = {
    "norm2": "norm2", "dot": "dot", "inner": "dot", "mse": "mse", "mean": "mean", "sum": "sum",
    "mean_abs": "mean_abs", "sg": "sg", "stop_grad": "sg", "stopgrad": "sg", "detach": "sg",
    "exp": "exp", "log": "log", "ln": "log", "sqrt": "sqrt", "sin": "sin", "cos": "cos", "tanh": "tanh",
    "sigmoid": "sigmoid", "softplus": "softplus", "logsigmoid": "logsigmoid", "log_sigmoid": "logsigmoid",
    "min": "min", "minimum": "min", "max": "max", "maximum": "max",
    "huber": "huber", "smooth_l1": "smooth_l1", "log_cosh": "log_cosh", "logcosh": "log_cosh",
    "clip": "clip", "clamp": "clip", "abs": "abs", "relu": "relu", "sign": "sign",
    "unless": "unless",
}  # fmt: skip
"""Name → function; several have a second name."""

STANDARD: dict[str, dict[str, str]] = {
    "forward": {
        "v_gt": "noise - x_0",
        "x_t": "(1 - t)*x_0 + t*noise",
    },
    "backward": {
        "mean_theta": "mean_offset - C1*v_theta",
        "mean_old": "mean_offset - C1*v_old",
        "mean_ref": "mean_offset - C1*v_ref",
        "x_prev": "mean_old + C2*noise",
        "log_prob_theta": "-norm2(x_prev - mean_theta)/(2*C2**2)",
        "log_prob_old": "-norm2(x_prev - mean_old)/(2*C2**2)",
    },
    "both": {
        "delta": "v_theta - v_old",
        "Delta": "v_old - v_gt",
        "k": "C1/C2",
        "t_prev": "t - dt",
        "log_ratio": "log_prob_theta - log_prob_old",
        "ratio": "exp(log_ratio)",
        **{f"noise_{model}": f"x_t + (1 - t)*v_{model}" for model in ("theta", "old", "ref")},
        **{f"x_0_{model}": f"x_t - t*v_{model}" for model in ("theta", "old", "ref")},
    },
}
"""What the notation's names mean where the user does not define them, by process."""

BACKWARD = frozenset(
    ("x_prev", "mean_theta", "mean_old", "mean_ref", "mean_offset", "C1", "C2", "k", "sigma_t", "noise_level",
     "sigma_min", "log_prob_theta", "log_prob_old")
)  # fmt: skip
"""Quantities that only a reverse step has: a loss that rests on one of them is of the backward process."""


def resolve(name: str, span: Span, *, known: Iterable[str] = (), bound: str = "", clipped: bool = False) -> str:
    """The notation's name for a name.

    Args:
        known: further names that may be meant, for suggestions.
        bound: ``"clip_low"`` or ``"clip_high"`` inside that bound of a ``clip``.
        clipped: inside a clip's first argument.

    Raises:
        ParseError: it is unknown or ambiguous.
    """
    if bound and name in _CLIP_RANGE:
        return bound
    if clipped and name == "r":
        raise ParseError(
            "'r' is reward_prob in this notation, and what is clipped is the importance ratio: write ratio "
            "(or reward_prob, if that is meant)",
            span,
        )
    if name in CANONICAL:
        return name
    if name in ALIASES:
        return ALIASES[name]
    if name in AMBIGUOUS:
        choices = AMBIGUOUS[name]
        hint = "; in the bounds of clip(…) it is the clip range" if name in _CLIP_RANGE else ""
        word = "ambiguous: write" if len(choices) > 1 else "not a quantity: did you mean"
        raise ParseError(f"{name!r} is {word} {_any(choices)}{hint}", span)
    if name in FUNCTIONS:
        raise ParseError(f"{name!r} is a function and needs its arguments in parentheses", span)
    raise ParseError(f"unknown name {name!r}{suggestion(name, (*CANONICAL, *known))}", span)


def suggestion(name: str, known: Iterable[str]) -> str:
    """``" — did you mean …?"`` if a known name is like it, else how to give it a value."""
    close = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.7)
    if close:
        return f" — did you mean {_any(close)}?"
    return f"; define it before the loss: {name} = …"


def _any(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
