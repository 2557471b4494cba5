r"""Conventions that public code puts on top of any loss: each one value of a table.

A value of :data:`ON_TOP` has the convention's keyword, what it means, the words or numbers that it takes, what it makes
of a derivation, and which values are tried where code does not do what it declares.  All else loops over the table: the
declaration and its checks, ``gradcheck list --options``, the diagnosis.  So a convention is added here alone.

Each restates the loss and takes its gradient anew by the chain rule; the target follows by lemma L1, with the weight
that the loss had.  The four general steps of :class:`~derivations.derivation.Derivation` then prove the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from derivations import calculus
from derivations.calculus import Dot, MeanAbs, Norm2, Surrogate, Total, Unless, sg
from derivations.derivation import Derivation, DerivationError
from derivations.grammar import ParseError
from derivations.grammar.kinks import Clip, lower
from derivations.grammar.statement import read_scalar
from derivations.notation import (
    D,
    advantage,
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
from derivations.pieces import Piece

__all__ = ["MASK_REDUCTIONS", "ON_TOP", "Declared", "OnTop"]

MASK_REDUCTIONS = ("sum-over-mask", "mean")
"""What a sum over the coordinates, or samples, that count is divided by: how many these are, or how many there are."""


@dataclass(frozen=True)
class Declared:
    """What is declared on top of one loss.

    Attributes:
        values: keyword → value.
        mean: whether the loss's terms are means over the latent's coordinates, not sums.
    """

    values: Mapping[str, Any]
    mean: bool

    def get(self, keyword: str) -> Any:
        """The declared value, else the keyword's default."""
        return self.values.get(keyword, ON_TOP[keyword].default)


def _any_word(value: Any) -> str | None:
    return None


@dataclass(frozen=True)
class OnTop:
    """One convention.

    Attributes:
        meaning: what it is, for whoever declares it.
        words: that it takes; none where it takes a number or a text.
        example: a value that may be declared, where it takes no words.
        wanted: what a value must be that is not: the end of "wanted …"; ``None`` of one that may be declared.
        put: what it makes of a loss; ``None`` for a keyword that only says more about another.
        says_more_of: that other one, and the word of it that is needed; an empty word: any.
        default: what holds where it isn't declared, and the convention that it says more of is.
        takes_place_of: the word of an algorithm's own option of the same keyword, in whose place this stands.
        numbers: one-number quantities that it brings into the loss, which code may hold itself.
        piece: what a loss must have for it to be tried on code that does not declare it; ``None``: it is tried only
            where it, or the one that it says more of, is declared.
        tried: values that are tried.
        may_lack: whether code is also tried that leaves it out though it is declared.
    """

    meaning: str
    words: tuple[str, ...] = ()
    example: Any = None
    wanted: Callable[[Any], str | None] = _any_word
    put: Callable[[Derivation, Declared], Derivation] | None = None
    says_more_of: tuple[str, str] | None = None
    default: Any = None
    takes_place_of: str = ""
    numbers: tuple[str, ...] = ()
    piece: Piece | None = None
    tried: tuple[Any, ...] = ()
    may_lack: bool = False

    @property
    def explained(self) -> str:
        """Its meaning, with the words that it takes."""
        return f"{self.meaning}: {', '.join(self.words)}" if self.words else self.meaning

    @property
    def examples(self) -> tuple[Any, ...]:
        """Values that may be declared."""
        return self.words or (self.example,)


def _above(least: float) -> Callable[[Any], str | None]:
    def wanted(value: Any) -> str | None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return None if number and least < value < 1e6 else f"a number above {least:g}"

    return wanted


def _number(value: float) -> sp.Expr:
    return sp.nsimplify(value, rational=True)


# ---------------------------------------------------------------------------------------------- only some count


def _masked(d: Derivation, declared: Declared) -> Derivation:
    """Only what a mask leaves counts: coordinates (and with them tokens), or samples."""
    if declared.get("mask") == "samples":
        return _masked_samples(d)
    return _masked_coordinates(d, declared.values.get("mask_reduction"))


def _masked_coordinates(d: Derivation, reduction: str | None) -> Derivation:
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


def _masked_samples(d: Derivation) -> Derivation:
    """Only samples count of which a mask says so; over how many a batch's sum is divided is said by its reduction.

    Raises:
        DerivationError: the loss leaves samples out already.
    """
    if window.name in d.given:
        raise DerivationError(f"{d.label} has a window of steps, which leaves samples out already")
    return _restated(d, window * d.loss)


# -------------------------------------------------------------------------------------- a weight of each sample


def _weighted(d: Derivation, declared: Declared) -> Derivation:
    """The loss times a detached weight of each sample, such as a weight of its time."""
    return _restated(d, read_scalar(declared.get("weight")) * d.loss)


def _line(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"one line of derive's grammar: {_MIN_SNR!r}"
    try:
        read_scalar(value)
    except ParseError as error:
        return f"an expression that can be read: {error.message}\n{error.shown()}".rstrip()
    return None


_MIN_SNR = "min(5, (1-t)**2/t**2)"


# ----------------------------------------------------------------------------------------------- ratios and clips


_CLIPS = ("none", "dual", "spo", "cispo")


def _clipped(d: Derivation, declared: Declared) -> Derivation:
    r"""Another clip of the importance ratio in the place of PPO's.

    ``"none"``: −rA.  ``"dual"``: PPO's, and for A < 0 no more than −limit·A (Ye et al., arXiv:1912.09729).  ``"spo"``:
    the quadratic penalty −(rA − \|A\|(r − 1)²/(2ε⁺)) (Xie et al., arXiv:2401.16025).  ``"cispo"``: the clipped ratio as
    a detached weight, −sg(clip(r)) A log r (MiniMax-M1, arXiv:2506.13585).

    Raises:
        DerivationError: the loss has no clip.
    """
    surrogates = d.loss.atoms(Surrogate)
    if not surrogates:
        raise DerivationError(f"{d.label} has no clipped ratio")
    kind, limit = declared.get("clip"), _number(declared.get("dual_clip"))
    new = {s: _clip(s, kind, limit) for s in surrogates}
    return _restated(d, d.loss.xreplace(new))


def _clip(surrogate: Surrogate, kind: str, limit: sp.Expr) -> sp.Expr:
    a, r, low, high = surrogate.args
    if kind == "none":
        return -r * a
    if kind == "cispo":
        return -a * sg(sp.Min(sp.Max(r, 1 - low), 1 + high)) * log_ratio
    if kind == "spo":
        return -(r * a - sp.Max(a, -a) * (r - 1) ** 2 / (2 * high))
    inside = Unless(-a, r - limit)  # 0 where A < 0 and r > limit
    return surrogate * inside - limit * a * (1 - inside)


_ADVANTAGES = {
    "positive_only": sp.Max(advantage, 0),
    "negative_only": sp.Min(advantage, 0),
    "one_only": sp.Max(sp.sign(advantage), 0),
    "binary": sp.sign(advantage),
}


def _of_some_advantages(d: Derivation, declared: Declared) -> Derivation:
    """The loss of another advantage: of good samples' alone, of bad ones', of 1 for each good one, or of its sign.

    Raises:
        DerivationError: the loss has no advantage.
    """
    if Piece.ADVANTAGE not in d.pieces:
        raise DerivationError(f"{d.label} has no advantage")
    new = {advantage: _ADVANTAGES[declared.get("advantage_mode")]}
    definitions = {s: e.xreplace(new) for s, e in d.definitions.items()}
    return _restated(d, d.loss.xreplace(new), definitions)


def _clamped_log_ratio(d: Derivation, declared: Declared) -> Derivation:
    """The log-ratio clamped to ± a limit before it is exponentiated.

    Raises:
        DerivationError: the loss has no ratio.
    """
    if ratio not in d.definitions:
        raise DerivationError(f"{d.label} has no importance ratio")
    limit = _number(declared.get("log_ratio_max"))
    clamped = lower(Clip(log_ratio, -limit, limit), lambda e: bool(d.inline(e).has(v_theta)))
    return _restated(d, d.loss, {ratio: sp.exp(clamped)})


# ------------------------------------------------------------------------------------ terms that hold the policy


def _penalised(d: Derivation, declared: Declared) -> Derivation:
    r"""Another term that holds the policy, times ``kl_weight``.

    ``"velocity"``: ‖v_θ − v‖²; ``"mean"``: ‖μ_θ − μ‖² of the reverse steps, without their variance; ``"k1"``, ``"k2"``,
    ``"k3"``: Schulman's estimators of the divergence, with log s = log p − log p_θ: −log s, (log s)²/2, s − 1 − log s.

    Raises:
        DerivationError: the loss has one already, or is on no reverse step where that is needed.
    """
    kind, to = declared.get("kl"), declared.get("kl_to")
    if d.loss.has(kl_weight):
        raise DerivationError(f"{d.label} has such a term already")
    if kind != "velocity" and mean_theta not in d.definitions:
        raise DerivationError(f"{d.label} is on no reverse step, so that only 'velocity' has a meaning")
    each = 1 / D if declared.mean else sp.S.One
    v, mu = {"reference": (v_ref, mean_ref), "old": (v_old, mean_old)}[to]
    if kind == "velocity":
        return _restated(d, d.loss + kl_weight * each * Norm2(v_theta - v))
    if kind == "mean":
        return _restated(d, d.loss + kl_weight * each * Norm2(mean_theta - mu))
    theirs = log_prob_old if to == "old" else d.definitions[log_prob_theta].xreplace({mean_theta: mean_ref})
    log_s = theirs - log_prob_theta
    term = {"k1": -log_s, "k2": log_s**2 / 2, "k3": sp.exp(log_s) - 1 - log_s}[kind]
    return _restated(d, d.loss + kl_weight * term)


# ------------------------------------------------------------------------------------------------- the new loss


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


# ----------------------------------------------------------------------------------------------------- the table


ON_TOP: Mapping[str, OnTop] = {
    "clip": OnTop(
        "in PPO's place",
        words=_CLIPS,
        put=_clipped,
        takes_place_of="ppo",
        piece=Piece.RATIO,
        tried=_CLIPS,
    ),
    "dual_clip": OnTop(
        "the limit of clip='dual' (3)", example=3.0, wanted=_above(1), says_more_of=("clip", "dual"), default=3.0
    ),
    "log_ratio_max": OnTop(
        "the log-ratio is clamped to ± this",
        example=20.0,
        wanted=_above(0),
        put=_clamped_log_ratio,
        piece=Piece.RATIO,
        tried=(3.0, 20.0),
        may_lack=True,
    ),
    "kl": OnTop(
        "another term that holds the policy, times kl_weight",
        words=("velocity", "mean", "k1", "k2", "k3"),
        put=_penalised,
        numbers=(kl_weight.name,),
        tried=("velocity", "mean", "k1", "k2", "k3"),
    ),
    "kl_to": OnTop(
        "to which policy that term holds it",
        words=("reference", "old"),
        says_more_of=("kl", ""),
        default="reference",
        tried=("reference", "old"),
    ),
    "advantage_mode": OnTop(
        "what is made of the advantage first",
        words=tuple(_ADVANTAGES),
        put=_of_some_advantages,
        piece=Piece.ADVANTAGE,
        tried=("positive_only", "negative_only", "one_only"),  # the sign alone is a mistake with a name
        may_lack=True,
    ),
    "mask": OnTop(
        "what a mask of 0 and 1 leaves out, case.mask", words=("coordinates", "samples", "tokens"), put=_masked
    ),
    "mask_reduction": OnTop(
        "what the sum over what is left is divided by",
        words=MASK_REDUCTIONS,
        says_more_of=("mask", ""),
        default=MASK_REDUCTIONS[0],
        tried=MASK_REDUCTIONS,
    ),
    "weight": OnTop(
        "a detached weight of each sample, one line of derive's grammar",
        example=_MIN_SNR,
        wanted=_line,
        put=_weighted,
        may_lack=True,
    ),
}
"""Keyword → convention, in the order in which they are put on a loss."""
