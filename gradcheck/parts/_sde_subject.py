"""A reverse step beside what it declares: its problems, one call, and the other requirements to try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.devices import DtypeName
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.check import Hypothesis, Wrong
from gradcheck.parts._calls import FORM, calling, tensor_result, unchanged, working
from gradcheck.parts._precision import rounds
from gradcheck.parts._sde_formulas import (
    Formulas,
    Normaliser,
    Reduction,
    ReturnedStd,
    Scale,
    SdeName,
    formulas,
    required,
    wrong_formulas,
)
from gradcheck.problems.building import Spec
from gradcheck.rounding.compare import Comparison, compare

__all__ = ["Call", "SdeStepConvention", "Subject", "hypotheses"]


@dataclass(frozen=True)
class SdeStepConvention:
    """What a reverse step declares about itself.

    Attributes:
        sde: ``"flow"`` (default), ``"dance"``, ``"cps"`` or ``"wan"``, whose σ_t is the noise level at t = 1.
        returns_std: ``"step"`` (default), the true standard deviation; or ``"sigma"``, σ_t without √Δt.
        log_prob_reduction: ``"mean"`` (default) or ``"sum"`` over the latent's coordinates.
        log_prob_scale: ``"gaussian"`` (default), or ``"unit"`` without 1/(2 C2²), as CPS's public code.
        log_prob_normaliser: ``"full"`` (default), −log S − ½log 2π a coordinate; or ``"none"``.
        at_one: Flow-SDE's σ_t at t = 1 takes t_prev for t in ``"denominator"`` (default), 1 − t alone, or everywhere
            (``"next"``), or a number below 1 in 1 − t; ``"skip"`` leaves t = 1 unjudged.
        noise_level: the number that the function holds itself; ``None`` (default): it takes it from its argument.
        sigma_min: Wan's σ_t at t = 0, which the function holds itself (default 0).
        differentiable: mean and log_prob carry a graph to v (default).
        per_sample_time: every sample has its own t (default); ``False`` gives a batch one t.
        working_dtype: the precision that it works in, in which it is also given its inputs; ``None``: float64.
        latents: the shapes of a latent that it takes.
        schedule: the time grid that it is stepped along, from 1 or less down to 0; ``None``: nine shifted points.
    """

    sde: SdeName = "flow"
    returns_std: ReturnedStd = "step"
    log_prob_reduction: Reduction = "mean"
    log_prob_scale: Scale = "gaussian"
    log_prob_normaliser: Normaliser = "full"
    at_one: str | float = "denominator"
    noise_level: float | None = None
    sigma_min: float = 0.0
    differentiable: bool = True
    per_sample_time: bool = True
    working_dtype: DtypeName | None = None
    latents: tuple[tuple[int, ...], ...] = ((4, 5), (2, 3, 4), (7,), (3, 5, 2), (2, 4, 5, 1))
    schedule: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Call:
    """What one call returned; ``None`` for what the function does not have; ``v`` is what it was given."""

    x_prev: Tensor
    log_prob: Tensor | None
    mean: Tensor | None
    std: Tensor | None
    v: Tensor


@dataclass(frozen=True)
class Subject:
    """A function, and the requirement that it is compared with."""

    function: Callable[..., Any]
    name: str
    convention: SdeStepConvention
    seed: int
    wrong: Formulas | None = None
    ignored: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    """What the function does not return: ``mean``, ``std``, ``log_prob``."""
    hands_level: bool = True
    """Whether the function is handed a noise level; it isn't where it holds its own."""
    hands_generator: str = "always"
    """When the function is handed a generator: ``"always"``, only to sample (``"sampling"``), or ``"never"``."""

    @cached_property
    def formulas(self) -> Formulas:
        """The requirement: the declared one, or a hypothesis's."""
        return self.wrong or declared(self.convention)

    @property
    def dtype(self) -> torch.dtype:
        return working(self.convention.working_dtype)

    def problems(self) -> Iterator[tuple[Spec, Case]]:
        """Problems in the declared shapes, with times in the middle, near the ends and next to them."""
        for i in range(max(len(_FIRST_TIMES), len(self.convention.latents))):
            spec = Spec(
                (3, 5, 4, 2)[i % 4], self.convention.latents[i % len(self.convention.latents)], self.seed * 1_009 + i
            )
            yield spec, self.problem(spec)

    def problem(self, spec: Spec, times: tuple[float, float] | None = None) -> Case:
        """One problem; with ``times`` every sample has that (t, t_prev)."""
        said = SdeStepConvention()
        alike = {name: getattr(said, name) for name in _NOT_DRAWN}
        return _problem(replace(self.convention, **alike), spec, times)

    def required(self, expr: sp.Expr, case: Case) -> tuple[Tensor, Tensor]:
        """A formula's value and error scale under this requirement."""
        value, scale = _required(self.convention, self.formulas, expr, case)
        if not bool(value.isfinite().all()):
            raise Wrong("the requirement is not finite here")
        return value, scale

    def value(self, expr: sp.Expr, case: Case) -> Tensor:
        """A formula's value under this requirement."""
        return _required(self.convention, self.formulas, expr, case, bounded=False)[0]

    def compare(self, observed: Tensor, expr: sp.Expr, case: Case) -> Comparison:
        """An observed tensor beside a formula."""
        value, scale = self.required(expr, case)
        none = torch.zeros_like(observed, dtype=torch.float64)
        return compare(observed.expand_as(value + none), value + none, scale + none, self.dtype)

    _SPREAD = torch.tensor([1.0, 0.83, 1.17], dtype=torch.float64)

    def outputs(self, h: float) -> list[Tensor | None]:
        """What it returns amid the time axis, with every tensor scaled by 1 + h."""
        spec = Spec(3, self.convention.latents[0], 7)
        case = self.problem(spec, (0.6, 0.45))
        if self.convention.per_sample_time:
            case = case.replace(t=case.t * self._SPREAD, t_prev=case.t_prev * self._SPREAD)
        scaled = case.replace(
            **{name: getattr(case, name) * (1 + h) for name in ("v_theta", "x_t", "x_prev", "t", "t_prev")}
        )
        given = self.call(scaled, replay=True)
        return [self.call(scaled, replay=False).x_prev, given.log_prob, given.mean, given.std]

    def call(self, case: Case, *, replay: bool, seed: int = 0, elsewhere: int = 0, grad: bool = False) -> Call:
        """Call the function on copies, check the shapes of what it returns, and that its inputs stay as they are."""
        with calling(self.name, seed, elsewhere) as generator:
            return self._call(case, replay, generator, grad)

    def samples(self, case: Case, count: int, seed: int) -> list[Tensor]:
        """Sampled states of successive calls with one generator, in float64."""
        with calling(self.name, seed) as generator:
            return [self._call(case, False, generator).x_prev.detach().to(torch.float64) for _ in range(count)]

    def _call(self, case: Case, replay: bool, generator: torch.Generator, grad: bool = False) -> Call:
        v = case.v_theta.clone().requires_grad_(grad)
        given = {
            "v": v,
            "x_t": case.x_t.clone(),
            "t": case.t.to(self.dtype, copy=True),
            "t_prev": case.t_prev.to(self.dtype, copy=True),
        }
        if replay:
            given["x_prev"] = case.x_prev.clone()
        before = {name: x.detach().clone() for name, x in given.items()}
        level = {"noise_level": case.drawn_level} if self.hands_level else {}
        hands = self.hands_generator == "always" or (self.hands_generator == "sampling" and not replay)
        random = {"generator": generator} if hands else {}
        found = self.function(v, given["x_t"], given["t"], given["t_prev"], given.get("x_prev"), **random, **level)
        unchanged(before, {name: x.detach() for name, x in given.items()})
        parts = _in_parts(found)
        if len(parts) != 4:
            what = f"a {type(found).__name__} of {len(parts)}" if parts else f"a {type(found).__name__}"
            raise Wrong(f"the function returned {what}; (x_prev, log_prob, mean, std) is required", FORM)
        x_prev, log_prob, mean, std = parts
        batch, shape = v.shape[0], tuple(v.shape)
        return Call(
            tensor_result(x_prev, shape, "x_prev"),
            None if log_prob is None else tensor_result(log_prob, (batch,), "log_prob"),
            None if mean is None else tensor_result(mean, shape, "the mean"),
            None if std is None else _std(std, shape),
            v,
        )


_FIRST_TIMES = (None, 0.01, 0.99, 0.998, 0.002, 0.97, 0.04)
"""The first sample's t: in the middle where there is none, else on either side of where code clamps it."""
_SHORT = 5
"""The problem whose steps are of a thousandth of t at most."""


def declared(c: SdeStepConvention) -> Formulas:
    """The formulas of a declaration."""
    return formulas(c.sde, c.returns_std, c.log_prob_reduction, c.log_prob_scale, c.log_prob_normaliser)


def _required(
    c: SdeStepConvention, wanted: Formulas, expr: sp.Expr, case: Case, bounded: bool = True
) -> tuple[Tensor, Tensor]:
    at_one = c.at_one if bool((case.t == 1).all()) else "regular"
    return required(wanted.sde, case, expr, working(c.working_dtype), at_one, wanted.times, bounded)


_NOT_DRAWN = (
    "returns_std",
    "log_prob_reduction",
    "log_prob_scale",
    "log_prob_normaliser",
    "differentiable",
    "latents",
    "schedule",
)
"""Conventions that leave the problems alone, so that hypotheses share them."""


@lru_cache(maxsize=256)
def _problem(c: SdeStepConvention, spec: Spec, times: tuple[float, float] | None) -> Case:
    g = torch.Generator().manual_seed(spec.seed)
    dtype, shape = working(c.working_dtype), (spec.batch, *spec.latent)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(spec.batch, generator=g, dtype=torch.float64)

    v, x_t, noise = (torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for _ in range(3))
    t = uniform(0.05, 0.95)
    t[0] = _FIRST_TIMES[spec.seed % len(_FIRST_TIMES)] or t[0]
    t_prev = t * uniform(0.4, 0.95)
    if spec.seed % len(_FIRST_TIMES) == _SHORT:
        t_prev = t * (1 - 1e-3 * t_prev)
    level = float(uniform(0.3, 0.9)[0])
    if times is not None:
        t, t_prev = torch.full_like(t, times[0]), torch.full_like(t, times[1])
    elif not c.per_sample_time:
        t, t_prev = t[:1].expand_as(t).clone(), t_prev[:1].expand_as(t).clone()
    t, t_prev = (x.to(dtype).to(torch.float64) for x in (t, t_prev))
    latents = {"v_theta": v, "x_t": x_t, "x_prev": x_t, "noise": noise}
    numbers = {"drawn_level": level, "noise_level": level if c.noise_level is None else c.noise_level}
    numbers |= {"D": float(v[0].numel()), "sigma_min": float(c.sigma_min)}
    case = Case("the step", {**latents, "t": t, "t_prev": t_prev, "dt": t - t_prev, **numbers})
    mean, std = (_required(c, declared(c), e, case, bounded=False)[0] for e in (declared(c).mean, declared(c).std))
    return case.replace(x_prev=(mean + std * noise).to(dtype))


def _in_parts(found: Any) -> tuple[Any, ...]:
    """What a step returned, one by one: of a tuple or list, of a dataclass, or of an ordered mapping, as diffusers'."""
    if isinstance(found, Mapping):
        return tuple(found.values())
    if is_dataclass(found) and not isinstance(found, type):
        return tuple(getattr(found, f.name) for f in fields(found))
    return tuple(found) if isinstance(found, (tuple, list)) else ()


def _std(std: Any, shape: tuple[int, ...]) -> Tensor:
    # a Python number is one of double precision, and torch would take it for one of float32
    x = torch.as_tensor(std, dtype=torch.float64 if isinstance(std, float) else None, device="cpu")
    column = (shape[0], *(1,) * (len(shape) - 1))
    if x.numel() == 1:
        return x.reshape((1,) * len(shape)).expand(column)
    if tuple(x.shape) in ((shape[0],), column):
        return x.reshape(column)
    return tensor_result(x, shape, "std")


def hypotheses(subject: Subject) -> Iterator[Hypothesis[Subject]]:
    """Other declarations, then named mistakes."""
    c = subject.convention
    others: list[tuple[str, str, SdeStepConvention]] = []
    for name, allowed in _ALTERNATIVES.items():
        others += [(name, f"{name}={v!r}", replace(c, **{name: v})) for v in allowed if v != getattr(c, name)]
    held = [("sde='cps', noise_level=1.0", 1.0), ("sde='cps', noise_level=0.0", 0.0)]
    others += [("sde", text, replace(c, sde="cps", returns_std="step", noise_level=level)) for text, level in held]
    if c.noise_level is not None:
        others.append(("noise_level", "noise_level=None", replace(c, noise_level=None)))
    others += [("noise_level", f"noise_level={a!r}", replace(c, noise_level=a)) for a in _level_seen(subject)]
    for name, text, other in others:
        if other != c and not (other.sde == "cps" and other.returns_std == "sigma"):
            yield Hypothesis(
                f"convention:{name}", f"the function behaves as {text} says", replace(subject, convention=other), text
            )
    if subject.dtype == torch.float64:
        single = replace(subject, convention=replace(c, working_dtype="float32"))
        yield Hypothesis(
            "convention:working_dtype",
            "the function behaves as working_dtype='float32' says",
            single,
            "working_dtype='float32'",
            tuple(replace(single, wrong=wrong) for _, _, wrong in wrong_formulas(subject.formulas)),
            lambda: rounds(subject.outputs),
        )
    for name, sentence, wrong in wrong_formulas(subject.formulas):
        if wrong != subject.formulas:
            seen = partial(_draws_nothing, subject) if name == "no-noise" else _anyway
            yield Hypothesis(name, sentence, replace(subject, wrong=wrong), evidence=seen)
    for name, sentence, test in _SAMPLING:
        yield Hypothesis(name, sentence, replace(subject, ignored=frozenset({test})))


def _level_seen(subject: Subject) -> Iterator[float]:
    """The noise level that the function holds, where the standard deviations that it returns are one's multiples."""
    levels = []
    try:
        for _, case in subject.problems():
            std = subject.call(case, replay=True).std
            if std is None or subject.convention.sde not in ("flow", "dance"):  # whose σ_t is a multiple of it
                return
            at_one = subject.value(subject.formulas.returned, case) / case.noise_level
            levels.append((std.detach().double() / at_one).flatten())
    except (Wrong, AdapterError):
        return
    seen = torch.cat(levels)
    level = float(f"{float(seen.median()):.6g}")
    alike = bool(((seen - level).abs() < 1e-3 * level).all()) if 0 < level <= 100 else False
    if alike and level != subject.convention.noise_level:
        yield level


def _anyway() -> bool:
    return True


def _draws_nothing(subject: Subject) -> bool:
    """Whether states that are sampled with several seeds are one."""
    case = subject.problem(Spec(3, subject.convention.latents[0], 7), (0.6, 0.45))
    first, second = (subject.call(case, replay=False, seed=seed, elsewhere=seed).x_prev for seed in (1, 2))
    return torch.equal(first, second)


_ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "sde": ("flow", "dance", "cps", "wan"),
    "returns_std": ("step", "sigma"),
    "log_prob_reduction": ("mean", "sum"),
    "log_prob_scale": ("gaussian", "unit"),
    "log_prob_normaliser": ("full", "none"),
    "at_one": ("denominator", "next", 0.99, 0.995, 0.999, 0.9999),
}

_SAMPLING = (
    ("noise-shared", "the samples of a batch, or two calls, share their noise", "independence"),
    ("noise-not-normal", "the noise has the right mean and variance, and is not normally distributed", "shape"),
)
