"""The declaration as data, and those that differ from it in one convention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

from derivations.algorithm import Algorithm
from derivations.derivation import Derivation
from derivations.pieces import Piece
from derivations.steps.parameterisation import ERROR_SPACES, PREDICTIONS, ErrorSpace, Prediction, changed
from derivations.variant import Variant
from gradcheck.catalogue import ALGORITHMS, wanted_entry
from gradcheck.derived.composed import OnTopValues, composed, others_on_top
from gradcheck.derived.typed import TypedLoss
from gradcheck.devices import DtypeName, HalfName
from gradcheck.errors import InputError
from gradcheck.problems.layouts import PairLayout

__all__ = [
    "NAMED_APART",
    "Alternative",
    "BatchReduction",
    "Conventions",
    "OutputCasts",
    "OutputRounding",
    "algorithm_of",
]

BatchReduction = Literal["mean", "sum", "none"]
"""What code makes of a batch's losses: one number, or with ``"none"`` one for each sample."""

OutputRounding = Literal["nearest", "stochastic"]
"""How a gradient is rounded behind an output of half precision."""

OutputCasts = Literal["once", "each"]
"""How often an output of half precision is cast up: for the whole loss, or wherever it is read."""


@dataclass(frozen=True)
class Conventions:
    """One implementation's declaration.

    Attributes:
        algorithm: a name of the catalogue; ``"loss"`` where the loss itself was written down.
        loss: that loss, one line of ``gradcheck derive``'s grammar; empty for an algorithm of the catalogue.
        given: quantities of the user's own on which that loss rests: pairs of a name and ``"latent"``, ``"sample"``,
            ``"sample > 0"``, ``"problem"`` or ``"problem > 0"``.
        options: the algorithm's own options, such as ``log_prob_reduction``, ``sde``, ``kl``, ``omega``,
            ``weighting``; see ``gradcheck list --options``.
        on_top: what is declared on top of these: another clip or KL term, a clamp of the log-ratio, a weight of each
            sample (:mod:`derivations.on_top`).
        batch_reduction: ``"mean"`` (default), ``"sum"``, or ``"none"`` for a loss that is returned per sample.
        factor: a constant by which the implementation multiplies the whole loss (default 1).
        policy_factor: a constant by which it multiplies the policy term alone, and not a KL or reference term (default
            1).
        adv_clip_max: the loss clamps the advantage to ± this; ``None`` (default): it doesn't.
        fixed: numbers that the implementation holds itself, and does not read from the case: ``noise_level``,
            ``beta``, ``kl_weight``, ``temperature``, ``weight_max``, ``advantage_clip``, ``beta_dpo``,
            ``clip_low``, ``clip_high``.
        eps: a small number that the implementation adds to a standard deviation, a variance or a denominator against
            division by zero; 0 (default): it adds none.  What such a number changes is allowed for, wherever it stands.
        working_dtype: the precision that it casts to inside, ``"float32"`` for instance; ``None``: that of its inputs.
        output_dtype: mixed precision as trained: what networks put out arrives in this dtype, ``"bfloat16"`` or
            ``"float16"``, and everything else in the case's.  The gradient is that of the upcast values, rounded to
            this dtype at the end; the loss is then computed in float32, unless another ``working_dtype`` is declared.
        output_rounding: how the gradient is rounded there: ``"nearest"`` (default), or ``"stochastic"``, up or down at
            random, which is off by up to twice as much.
        output_casts: ``"once"`` (default): every model's output is cast up by itself before the loss; or ``"each"``: in
            each formula that reads it, as type promotion does, so that autograd adds up rounded gradients.
        latent_axes: how many axes the latents have that the code takes, without the batch's; ``None``: any number.
        latents: the very shapes of one sample, a tuple of tuples, in that place.
        one_time: every sample of a batch has the same time.
        steps: the batch has rows of time steps: latents (B, T, \\*latent), times (B, T), one advantage a row, (B,).
        pairs: a preference loss is judged on whole pairs: ``"adjacent"`` (winner, loser, winner …), ``"halves"`` (all
            winners, then all losers) or ``"given"`` (neighbours, of which ``case.preference`` tells the winner).  The
            loss is one number for each pair.
        groups: a group loss is judged on whole groups of so many neighbours, and is one number for each group.
        guidance: the velocity is v_uncond + w·(v_cond − v_uncond) with both branches live: the scale w, or ``True`` for
            ``case.guidance_scale``.  The case has ``v_cond`` and ``v_uncond`` in v_theta's place.
        inputs_detached: the trainer hands v_old, v_ref, x_prev … over without a graph (default); if not, the loss
            itself must detach them, and ``stop-gradient`` checks that.
        compare_values: also compare the loss's value; by default only gradients count.
        prediction: what the network puts out: ``"v"``, the velocity (default), ``"epsilon"``, the noise, or ``"x0"``,
            the clean latent.  The case then holds ``noise_theta``, ``noise_old`` … or ``x_0_theta`` … in the
            velocities' place.
        noise_at: the time at which x_t is all noise: 1 (default), or 0 for x_t = t·x_0 + (1 − t)·noise, where ``t``
            rises while sampling and every velocity is the opposite.
        error_space: ``"velocity"`` (default), or ``"output"`` for a regression error that is measured where the network
            predicts, ‖noise_theta − noise‖² in place of ‖v_theta − v_gt‖².
    """

    algorithm: str
    loss: str = ""
    given: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    on_top: OnTopValues = ()
    batch_reduction: BatchReduction = "mean"
    factor: float = 1.0
    policy_factor: float = 1.0
    adv_clip_max: float | None = None
    fixed: Mapping[str, float] = field(default_factory=dict)
    eps: float = 0.0
    working_dtype: DtypeName | None = None
    output_dtype: HalfName | None = None
    output_rounding: OutputRounding = "nearest"
    output_casts: OutputCasts = "once"
    latent_axes: int | None = None
    latents: tuple[tuple[int, ...], ...] | None = None
    one_time: bool = False
    steps: bool = False
    pairs: PairLayout | None = None
    groups: int | None = None
    guidance: float | bool | None = None
    inputs_detached: bool = True
    compare_values: bool = False
    prediction: Prediction = "v"
    noise_at: int = 1
    error_space: ErrorSpace = "velocity"

    @property
    def derivation(self) -> Derivation:
        """The derivation of the declared form, in the declared variables."""
        canonical = _derive(self.algorithm, self.loss, self.given, tuple(sorted(self.options.items())))
        if self.on_top:
            mean = "mean" in (self.options.get("log_prob_reduction"), self.options.get("reduction"))
            canonical = composed(canonical, self.on_top, mean)
        return changed(canonical, self.prediction, self.noise_at, self.error_space)

    @property
    def computes_in(self) -> DtypeName | None:
        """The precision that the loss is computed in, where that is lower than its inputs'; ``None`` if it is theirs.

        Mixed precision upcasts with ``.float()``.
        """
        return self.working_dtype or (None if self.output_dtype is None else "float32")

    def describe(self) -> str:
        """The declaration as one writes it."""
        default = Conventions(self.algorithm, self.loss, self.given)
        parts = [f"loss={self.loss!r}" if self.loss else repr(self.algorithm)]
        parts += [f"given={dict(self.given)!r}"] if self.given else []
        parts += [f"{k}={v!r}" for k, v in (*self.options.items(), *self.on_top)]
        if {"clip_low", "clip_high"} <= set(self.fixed):
            parts.append(f"clip_range={_clip_range(self.fixed)!r}")
        parts += [f"{k}={v!r}" for k, v in self.fixed.items() if not k.startswith("clip_")]
        for f in fields(self):
            if f.name not in NAMED_APART and getattr(self, f.name) != getattr(default, f.name):
                parts.append(f"{f.name}={getattr(self, f.name)!r}")
        return ", ".join(parts)

    def alternatives(self) -> list[Alternative]:
        """Every declaration that differs from this one in a single convention."""
        out = []
        for name, allowed in algorithm_of(self.algorithm, self.loss, self.given).options.items():
            current = self.options.get(name, allowed[0])
            numbers = {k: x for k, x in _NUMBERS_OF.get(name, {}).items() if k not in self.fixed}
            own = replace(self, fixed={**self.fixed, **numbers})
            also = "".join(f", {k}={x:g}" for k, x in numbers.items())
            out += [
                Alternative(name, value, replace(own, options={**self.options, name: value}), also)
                for value in allowed
                if value != current
            ]
        for name, value, on_top in others_on_top(self.derivation, self.on_top):
            out.append(Alternative(name, value, replace(self, on_top=on_top)))
        out += [
            Alternative("batch_reduction", value, replace(self, batch_reduction=value))
            for value in get_args(BatchReduction)
            if value not in ("none", self.batch_reduction)
        ]
        if self.adv_clip_max is None and Piece.ADVANTAGE in self.derivation.pieces:
            out.append(Alternative("adv_clip_max", 5.0, replace(self, adv_clip_max=5.0)))
        if self.prediction != "v":
            other = next(x for x in ERROR_SPACES if x != self.error_space)
            out.append(Alternative("error_space", other, replace(self, error_space=other)))
        return out

    def other_variables(self) -> list[Alternative]:
        """The declarations that differ in what the network predicts, or in the direction of time."""
        out = [
            Alternative("prediction", value, replace(self, prediction=value))
            for value in PREDICTIONS
            if value != self.prediction
        ]
        own_latents = any(kind == "latent" for _, kind in self.given)  # what time's reversal does to them is not known
        if self.derivation.path == "rectified" and not own_latents:
            out.append(Alternative("noise_at", 1 - self.noise_at, replace(self, noise_at=1 - self.noise_at)))
        return out


_NUMBERS_OF: Mapping[str, Mapping[str, float]] = {"advantage_mode": {"advantage_clip": 5.0}}
"""Numbers that a convention needs, where a case without it has none: those of the public code."""

_NOTHING = ("none", "off", "uniform", None)
"""Values of a convention that leave a term out."""


@dataclass(frozen=True)
class Alternative:
    """A declaration that differs from another in one convention.

    Attributes:
        keyword, value: that convention, and what it is here.
        conventions: all of them.
        also: what has to be declared with it, after a comma.
    """

    keyword: str
    value: Any
    conventions: Conventions
    also: str = ""

    @property
    def written(self) -> str:
        """As one declares it."""
        value = f"{self.value:g}" if isinstance(self.value, float) else f"{self.value!r}"
        return f"{self.keyword}={value}{self.also}"

    @property
    def leaves_out(self) -> bool:
        """Whether it leaves a term of the loss out."""
        return self.value in _NOTHING


NAMED_APART = {"algorithm", "loss", "given", "options", "on_top", "fixed"}
"""Fields that are declared by what they hold."""


@lru_cache(maxsize=300)
def _derive(
    algorithm: str, loss: str, given: tuple[tuple[str, str], ...], options: tuple[tuple[str, str], ...]
) -> Derivation:
    return algorithm_of(algorithm, loss, given).derive(Variant("declared", "as declared", dict(options)))


def _clip_range(fixed: Mapping[str, float]) -> float | tuple[float, float]:
    low, high = fixed["clip_low"], fixed["clip_high"]
    return low if low == high else (low, high)


def algorithm_of(name: str, loss: str = "", given: tuple[tuple[str, str], ...] = ()) -> Algorithm | TypedLoss:
    """The catalogue's algorithm of that name, or the loss that is typed in its place.

    Raises:
        InputError: there is none of that name, or the line cannot be read.
    """
    if loss:
        return _typed(loss, given)
    for algorithm in ALGORITHMS:
        if name == algorithm.name:
            return algorithm
    raise InputError(("algorithm", repr(name), wanted_entry(str(name))))


@lru_cache(maxsize=256)
def _typed(loss: str, given: tuple[tuple[str, str], ...]) -> TypedLoss:
    return TypedLoss(loss, given)
