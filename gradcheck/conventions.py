r"""What an implementation declares about itself: the conventions in which right code differs from right code.

A declaration is data.  The defaults are the papers'; :data:`PRESETS` holds what the public official
implementations do.  The oracle tests the declaration itself too: a wrong one is reported as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

from derivations.algorithm import Algorithm
from derivations.derivation import Derivation, DerivationError
from derivations.notation import quantity
from derivations.on_top import ON_TOP
from derivations.pieces import Piece
from derivations.steps.parameterisation import ERROR_SPACES, PREDICTIONS, ErrorSpace, Prediction, changed
from derivations.variant import Variant
from gradcheck.catalogue import ALGORITHMS, wanted_entry
from gradcheck.derived.composed import OnTopValues, composed, on_top_problems, others_on_top
from gradcheck.derived.typed import TypedLoss, own_quantities
from gradcheck.devices import DTYPES, DtypeName, HalfName
from gradcheck.errors import InputError, did_you_mean, forgiven, one_of
from gradcheck.problems.layouts import PairLayout, check_units, layout_problems, layout_values

__all__ = ["PRESETS", "BatchReduction", "Conventions", "declare", "options_text", "variables_problems"]

BatchReduction = Literal["mean", "sum", "none"]
"""What code makes of a batch's losses: one number, or with ``"none"`` one for each sample."""

OutputRounding = Literal["nearest", "stochastic"]
OutputCasts = Literal["once", "each"]
"""How a gradient is rounded behind an output of half precision, and how such an output is cast up."""


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
            if f.name not in _NAMED_APART and getattr(self, f.name) != getattr(default, f.name):
                parts.append(f"{f.name}={getattr(self, f.name)!r}")
        return ", ".join(parts)

    def alternatives(self) -> list[Alternative]:
        """Every declaration that differs from this one in a single convention."""
        out = []
        for name, allowed in _algorithm(self.algorithm, self.loss, self.given).options.items():
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


_NAMED_APART = {"algorithm", "loss", "given", "options", "on_top", "fixed"}
"""Fields that are declared by what they hold."""


@lru_cache(maxsize=300)
def _derive(
    algorithm: str, loss: str, given: tuple[tuple[str, str], ...], options: tuple[tuple[str, str], ...]
) -> Derivation:
    return _algorithm(algorithm, loss, given).derive(Variant("declared", "as declared", dict(options)))


def _clip_range(fixed: Mapping[str, float]) -> float | tuple[float, float]:
    low, high = fixed["clip_low"], fixed["clip_high"]
    return low if low == high else (low, high)


def _algorithm(name: str, loss: str = "", given: tuple[tuple[str, str], ...] = ()) -> Algorithm | TypedLoss:
    if loss:
        return _typed(loss, given)
    for algorithm in ALGORITHMS:
        if name == algorithm.name:
            return algorithm
    raise InputError(("algorithm", repr(name), wanted_entry(str(name))))


@lru_cache(maxsize=256)
def _typed(loss: str, given: tuple[tuple[str, str], ...]) -> TypedLoss:
    return TypedLoss(loss, given)


_MOST_EPS = 1e-3
"""A number that is larger than this is no guard against division by zero, but another loss."""

PRESETS: dict[str, dict[str, Any]] = {
    # the public official implementations, as their code stands
    "flow_grpo-official": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "flow_grpo-official-kl": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "kl": "sigma",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "dance_grpo-official": {
        "algorithm": "flow_grpo",
        "sde": "dance",
        "log_prob_reduction": "mean",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "cps-official": {
        "algorithm": "flow_grpo",
        "sde": "cps",
        "log_prob_reduction": "mean",
        "log_prob_scale": "unit",
        "adv_clip_max": 5.0,
    },
    "ddpo-official": {
        "algorithm": "ddpo",
        "log_prob_reduction": "mean",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
        "noise_level": 1.0,
        "prediction": "epsilon",
    },
    "grpo_guard-official": {
        "algorithm": "grpo_guard",
        "log_prob_reduction": "mean",
        "clip_range": 2e-6,
        "adv_clip_max": 5.0,
    },
    "mix_grpo-official": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "time_weight": "window",
        "kl": "behaviour",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "temp_flow_grpo-official": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "time_weight": "noise",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    # frameworks, as far as they differ from these
    "flow_factory": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "kl": "velocity",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "flow_factory-guard": {  # which is not divided by Δt
        "algorithm": "grpo_guard",
        "log_prob_reduction": "mean",
        "weight": "dt",
        "adv_clip_max": 5.0,
    },
    "rlinf": {"algorithm": "flow_grpo", "clip": "dual", "dual_clip": 3.0, "log_ratio_max": 20.0},
    "unirl": {
        "algorithm": "flow_grpo",
        "log_prob_reduction": "mean",
        "steps": True,
        "mask": "samples",
        "clip_range": 1e-4,
        "adv_clip_max": 5.0,
    },
    "fpo-official": {"algorithm": "fpo", "reduction": "mean", "error": "noise", "log_ratio_max": 3.0},
    "awm-official": {"algorithm": "awm", "clip": "ppo", "reduction": "mean", "clip_range": 1.0},
    "diffusion_nft-official": {
        "algorithm": "diffusion_nft",
        "reduction": "mean",
        "weighting": "adaptive",
        "reference": "on",
        "policy_factor": 5.0,
    },
}
"""Declarations by name, for ``conforms(preset=...)``."""


def declare(
    algorithm: str | None = None,
    *,
    loss: str | None = None,
    given: Mapping[str, str] | None = None,
    preset: str | None = None,
    **declared: Any,
) -> Conventions:
    """Build a declaration from keywords.

    Args:
        algorithm: a name of the catalogue; may be left out with a preset, and must be with a loss.
        loss: the loss itself, one line of ``gradcheck derive``'s grammar.
        given: quantities of your own on which that line rests: ``{"adjoint": "latent", "w": "sample"}``.
        preset: start from one of :data:`PRESETS`.
        declared: fields of :class:`Conventions`, options of the algorithm, numbers that the implementation holds,
            and ``clip_range``: one number, or the pair (low, high).

    Raises:
        InputError: something unknown or out of its domain; all mistakes are listed.
    """
    if given and loss is None:
        raise InputError(("given", repr(given), "loss= with it, the line that uses these quantities"))
    own = tuple(sorted((name, str(given[name])) for name in own_quantities(given))) if given else ()
    if loss is not None:
        _check_loss(loss, algorithm, preset)
        algorithm = TypedLoss.name
    if preset is not None:
        known_preset = forgiven(preset, PRESETS)
        if known_preset not in PRESETS:
            raise InputError(("preset", repr(preset), one_of(preset, PRESETS, "a preset")))
        base = dict(PRESETS[known_preset])
        if algorithm is not None and forgiven(algorithm, _ALGORITHM_NAMES) != base["algorithm"]:
            raise InputError(("algorithm", repr(algorithm), f"{base['algorithm']!r}, which the preset is of"))
        algorithm = base.pop("algorithm")
        declared = {**base, **declared}
    if algorithm is None:
        names = ", ".join(a.name for a in ALGORITHMS)
        raise InputError(("algorithm", "nothing", f"one of {names}; or loss=, the loss in one line"))
    if not loss:
        algorithm = forgiven(algorithm, _ALGORITHM_NAMES)
    stated = _algorithm(algorithm, loss or "", own)
    problems: list[tuple[str, str, str]] = []
    options, fixed, rest = {}, {}, {}
    on_top: dict[str, Any] = {}
    plain = {f.name for f in fields(Conventions)} - _NAMED_APART
    numbers = {*_numbers(stated)}.union(*(ON_TOP[name].numbers for name in ON_TOP if name in declared))
    known = [*stated.options, *sorted(ON_TOP), *sorted(plain), *sorted(numbers), "clip_range"]
    for given_name, given_value in declared.items():
        name = forgiven(given_name, known)
        words = ON_TOP[name].words if name in ON_TOP else ()
        value = _forgiven_value(given_value, [*stated.options.get(name, ()), *words])
        if name in ON_TOP and value not in stated.options.get(name, ()):
            on_top |= {} if value is None else {name: value}  # None: as if it were not declared
        elif name in stated.options:
            if value not in stated.options[name]:
                hint = did_you_mean(str(value), stated.options[name])
                problems.append((name, repr(value), f"one of {', '.join(map(repr, stated.options[name]))}{hint}"))
            options[name] = value
        elif name == "clip_range" and "clip_low" in numbers:
            pair = value if isinstance(value, (tuple, list)) else (value, value)
            if len(pair) != 2 or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in pair):
                problems.append((name, repr(value), "a number, or the pair (low, high)"))
            else:
                fixed["clip_low"], fixed["clip_high"] = map(float, pair)
        elif name in numbers:
            fixed[name] = value
        elif name in plain:
            rest[name] = value
        else:
            elsewhere = f"a convention of {algorithm}; `gradcheck list --options` shows them"
            problems.append((str(name), repr(value), one_of(name, known, elsewhere)))
    problems += _domain_problems(fixed, rest, stated.derive().path)
    problems += on_top_problems(on_top)
    problems += layout_problems(rest)
    if problems:
        raise InputError(*problems)
    for name in on_top:
        if ON_TOP[name].takes_place_of in stated.options.get(name, ()):
            options[name] = ON_TOP[name].takes_place_of
    rest |= layout_values(rest)
    declared_on_top = tuple(sorted(on_top.items()))
    declaration = Conventions(algorithm, loss or "", own, options=options, on_top=declared_on_top, fixed=fixed, **rest)
    if declaration.error_space == "output":
        _check_error_space(declaration)
    check_units(declaration)
    return declaration


_ALGORITHM_NAMES = tuple(a.name for a in ALGORITHMS)


def _forgiven_value(value: Any, choices: Sequence[Any]) -> Any:
    """A word among these choices, whatever its case, spaces and hyphens; anything else as it is."""
    return forgiven(value, [x for x in choices if isinstance(x, str)]) if isinstance(value, str) else value


def _check_loss(loss: Any, algorithm: str | None, preset: str | None) -> None:
    if not isinstance(loss, str) or not loss.strip():
        raise InputError(("loss", repr(loss), "the loss in one line: loss='A*norm2(v_theta - v_gt)'"))
    other = next(((n, x) for n, x in (("algorithm", algorithm), ("preset", preset)) if x is not None), None)
    if other is not None:
        raise InputError((other[0], repr(other[1]), "nothing with it, where loss= states the loss itself"))


def _check_error_space(declaration: Conventions) -> None:
    if declaration.prediction == "v":
        raise InputError(("error_space", "'output'", "prediction='epsilon' or 'x0' with it"))
    try:
        _ = declaration.derivation
    except DerivationError:
        raise InputError(
            ("error_space", "'output'", "'velocity': this loss is more than an error of the predictions")
        ) from None


@lru_cache(maxsize=100)
def _numbers(algorithm: Algorithm | TypedLoss) -> tuple[str, ...]:
    """One-number quantities of any variant of the algorithm."""
    names: dict[str, None] = {}
    for variant in algorithm.variants:
        names |= {n: None for n in algorithm.derive(variant).given if quantity(n).axes == "problem" and n != "D"}
    return tuple(names)


def _domain_problems(fixed: Mapping[str, Any], rest: Mapping[str, Any], path: str) -> list[tuple[str, str, str]]:
    problems = []
    for name, value in fixed.items():
        row = quantity(name)
        if not _is_number(value) or not row.domain.contains(float(value)):
            problems.append((name, repr(value), f"a number in {row.domain}"))
    if rest.get("batch_reduction", "mean") not in get_args(BatchReduction):
        problems.append(("batch_reduction", repr(rest["batch_reduction"]), "'mean', 'sum' or 'none'"))
    if rest.get("working_dtype") not in (None, *DTYPES):
        problems.append(
            ("working_dtype", repr(rest["working_dtype"]), "'float64', 'float32', 'bfloat16', 'float16' or None")
        )
    if rest.get("output_dtype") not in (None, *get_args(HalfName)):
        problems.append(("output_dtype", repr(rest["output_dtype"]), "'bfloat16', 'float16', or None"))
    rounding = rest.get("output_rounding", "nearest")
    if rounding not in get_args(OutputRounding):
        problems.append(("output_rounding", repr(rounding), "'nearest' or 'stochastic'"))
    elif rounding == "stochastic" and rest.get("output_dtype") is None:
        problems.append(("output_rounding", repr(rounding), "output_dtype= with it, the precision that is rounded to"))
    casts = rest.get("output_casts", "once")
    if casts not in get_args(OutputCasts):
        problems.append(("output_casts", repr(casts), "'once' or 'each'"))
    elif casts == "each" and rest.get("output_dtype") is None:
        problems.append(("output_casts", repr(casts), "output_dtype= with it, the precision that is cast from"))
    for name in ("factor", "policy_factor"):
        value = rest.get(name, 1.0)
        if not _is_number(value) or value == 0 or (name == "policy_factor" and value < 0):
            problems.append((name, repr(value), "a number other than 0" if name == "factor" else "a positive number"))
    if rest.get("error_space", "velocity") not in ERROR_SPACES:
        problems.append(("error_space", repr(rest["error_space"]), f"one of {', '.join(map(repr, ERROR_SPACES))}"))
    problems += variables_problems(rest.get("prediction", "v"), rest.get("noise_at", 1), path)
    if not _is_number(rest.get("eps", 0.0)) or not 0 <= rest.get("eps", 0.0) <= _MOST_EPS:
        problems.append(("eps", repr(rest["eps"]), f"a number from 0 to {_MOST_EPS:g}"))
    limit = rest.get("adv_clip_max")
    if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
        problems.append(("adv_clip_max", repr(limit), "a positive number or None"))
    return problems


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def variables_problems(prediction: Any, noise_at: Any, path: str = "rectified") -> list[tuple[str, str, str]]:
    """What is wrong with a declared prediction or direction of time, as an :class:`InputError` takes it."""
    problems = []
    if prediction not in PREDICTIONS:
        hint = did_you_mean(str(prediction), PREDICTIONS)
        problems.append(("prediction", repr(prediction), f"one of {', '.join(map(repr, PREDICTIONS))}{hint}"))
    if isinstance(noise_at, bool) or noise_at not in (0, 1):
        problems.append(("noise_at", repr(noise_at), "1, or 0 where time runs from noise at 0 to data at 1"))
    elif noise_at == 0 and path != "rectified":
        problems.append(("noise_at", "0", "1: on the variance-preserving path the noise is where alpha_bar is 0"))
    return problems


_WHOLE_OF = {"pairs": "diffusion_dpo", "groups": "dgpo"}
_WHOLE = {
    "pairs": "where your loss takes whole pairs: adjacent, halves (winners, then losers), given",
    "groups": "where your loss takes whole groups: how many neighbours make one",
}
_HELD = {
    "clip_range": "the clip's width, if your code holds it itself: 0.2, or (0.2, 0.28) for below and above",
    "latent_axes": "how many axes your latents have besides the batch's, if your code takes no others: 3 for images",
    "output_dtype": "what your network puts out, if your loss casts it up: bfloat16, float16",
    "working_dtype": "what your loss casts everything to: float32",
}
"""What code often holds itself, besides the formulas' options; the guide has the rest."""


def options_text() -> str:
    """What may be declared, one line for each option: its own of each algorithm, and those of all."""
    lines = []
    for algorithm in ALGORITHMS:
        lines.append(algorithm.name)
        lines += [f"  {name:20} {', '.join(values)}" for name, values in algorithm.options.items()]
        lines += [f"  {name:20} {words}" for name, words in _WHOLE.items() if _WHOLE_OF[name] == algorithm.name]
    lines += [
        "every algorithm",
        f"  {'prediction':20} {', '.join(PREDICTIONS)}",
        f"  {'noise_at':20} 1, 0",
        f"  {'error_space':20} {', '.join(ERROR_SPACES)}",
        f"  {'batch_reduction':20} mean, sum, none",
        *(f"  {name:20} {ON_TOP[name].explained}" for name in sorted(ON_TOP)),
        *(f"  {name:20} {words}" for name, words in _HELD.items()),
        "preset, in their place: the declaration of a public implementation",
        *(f"  {name:24} {p['algorithm']}" for name, p in PRESETS.items()),
    ]
    return "\n".join(lines)
