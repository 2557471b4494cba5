r"""The sampler of training times, judged alone: its distribution and its shift.

.. math:: \sigma' = s\sigma/(1+(s-1)\sigma)

The function is ``function(n, generator)`` and returns n times, (n,); 1 is noise, 0 is data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.oracle.parts._calls import Wrong, calling, described, name_of, number_problem, one_of, tensor_result
from gradcheck.oracle.parts._part import Check, Hypothesis, Part, PartInfo, declare
from gradcheck.oracle.parts._statistics import FALSE_ALARM, ks_bound, ks_distance, normal_cdf, poisson_limit
from gradcheck.oracle.results import Diagnosis, Judgement, Outcome

__all__ = ["TimeSamplerConvention", "judge_time_sampler", "shifted", "time_sampler_part"]

_N = 1 << 16
_REFERENCE = "Esser et al., Scaling Rectified Flow Transformers, arXiv:2403.03206, Eq. 19 and 23"


@dataclass(frozen=True)
class TimeSamplerConvention:
    """What a time sampler declares about itself.

    Attributes:
        distribution: before the shift: ``"logit_normal"`` (default) or ``"uniform"`` on (0, 1).
        shift: s (default 1: none); more than 1 moves mass towards noise.
        mean, std: of the logit (defaults 0 and 1).
    """

    distribution: str = "logit_normal"
    shift: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    def cdf(self, t: Tensor) -> Tensor:
        """The distribution function, at t in [0, 1]."""
        before = shifted(t.to(torch.float64), 1 / self.shift)
        return before if self.distribution == "uniform" else normal_cdf((torch.logit(before) - self.mean) / self.std)


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """σ' = shift·σ/(1 + (shift − 1)σ), of any shape; ``1 / shift`` undoes it."""
    return shift * sigma / (1 + (shift - 1) * sigma)


@dataclass(frozen=True)
class Subject:
    """A function, and the distribution that it is compared with."""

    function: Callable[[int, torch.Generator], Tensor]
    name: str
    convention: TimeSamplerConvention
    seed: int
    reverse: bool = False

    def draw(self, n: int, seed: int, elsewhere: int = 0) -> Tensor:
        with calling(self.name, 6_007 * self.seed + seed, elsewhere) as generator:
            return tensor_result(self.function(n, generator), (n,), "the sample").detach()

    def distance(self) -> float:
        t = self.draw(_N, 1).to(torch.float64)
        _inside(t)
        return ks_distance(self.convention.cdf(1 - t if self.reverse else t))


def _inside(t: Tensor) -> None:
    if not bool(((t >= 0) & (t <= 1)).all()):
        cause = Diagnosis("not-times", "logits (a missing sigmoid), or steps up to 1000, are returned for times")
        raise Wrong(f"the times reach from {float(t.min()):.6g} to {float(t.max()):.6g}; (0, 1) is required", cause)


def judge_time_sampler(function: Callable[[int, torch.Generator], Tensor], **declared: Any) -> Judgement:
    """Judge a time sampler; the conventions are those of :class:`TimeSamplerConvention`, by keyword.

    ``seed`` and ``expected_failures`` (obligation id → reason) are keywords too.

    Raises:
        InputError: an unknown convention or a value out of its domain; all mistakes are listed.
        AdapterError: the function raises.
    """
    return declare(time_sampler_part, function, declared).judge()


def time_sampler_part(
    function: Callable[[int, torch.Generator], Tensor],
    *,
    distribution: str = "logit_normal",
    shift: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Part[Subject]:
    """A part and its declaration, checked and not yet called; arguments as :func:`judge_time_sampler`'s."""
    problems = [
        *one_of("distribution", distribution, "logit_normal", "uniform"),
        *number_problem("shift", shift, 0, 1e4, open_low=True),
        *number_problem("mean", mean, -20, 20),
        *number_problem("std", std, 0, 20, open_low=True),
    ]
    if problems:
        raise InputError(*problems)
    convention = TimeSamplerConvention(distribution, shift, mean, std)
    subject = Subject(function, name_of(function), convention, seed)
    info = PartInfo(subject.name, described(convention), _REFERENCE, seed, "float64", expected_failures or {})
    return Part(subject, CHECKS, _hypotheses, info)


def check_shape(subject: Subject) -> Outcome:
    for n in (1, 2, 7):
        subject.draw(n, n)
    return Outcome("passed", 3)


def check_range(subject: Subject) -> Outcome:
    """In [0, 1]; an end itself is as rare as rounding makes it."""
    t = subject.draw(_N, 1)
    _inside(t)
    at_ends = int(((t == 0) | (t == 1)).sum())
    eps = max(float(torch.finfo(t.dtype).eps), 2.0**-24)
    near = torch.tensor([0.0, 1.0], dtype=torch.float64) + torch.tensor([1, -1]) * 2 * eps
    low, high = (float(x) for x in subject.convention.cdf(near))
    limit = poisson_limit(_N * (low + 1 - high), FALSE_ALARM)
    if at_ends >= limit:
        raise Wrong(f"{at_ends} of {_N} times are exactly 0 or 1; fewer than {limit} are explained by rounding")
    return Outcome("passed", 1)


def check_distribution(subject: Subject) -> Outcome:
    found, allowed = subject.distance(), ks_bound(_N, FALSE_ALARM)
    if found > allowed:
        raise Wrong(f"Kolmogorov–Smirnov distance {found:.4f} over {_N} times; {allowed:.4f} is allowed")
    return Outcome("passed", 1, note=f"distance {found:.4f} of {allowed:.4f}")


def check_generator(subject: Subject) -> Outcome:
    if not torch.equal(subject.draw(64, 2), subject.draw(64, 2, elsewhere=1)):
        raise Wrong("two generators of the same seed give different times")
    with calling(subject.name, subject.seed) as generator:
        first, second = subject.function(64, generator), subject.function(64, generator)
    if torch.equal(first, second):
        raise Wrong("two draws on one generator are the same")
    return Outcome("passed", 2)


def _generator(subject: Subject) -> Diagnosis:
    if torch.equal(subject.draw(64, 2), subject.draw(64, 2, elsewhere=1)):
        return Diagnosis("reseeded", "the function seeds a generator of its own on every call, or draws nothing")
    return Diagnosis("generator-ignored", "the times do not come from the generator that is handed in")


def _clamped(subject: Subject) -> Diagnosis | None:
    t = subject.draw(_N, 1)
    ends = int(((t == 0) | (t == 1)).sum())
    return Diagnosis("clamped", "values are clamped to [0, 1], which piles them up at its ends") if ends else None


CHECKS: tuple[Check[Subject], ...] = (
    Check("shape", "n times come back, (n,)", "one time for the whole batch", check_shape),
    Check(
        "range", "every time is in (0, 1)", "a missing sigmoid, steps for times, clamping", check_range, direct=_clamped
    ),
    Check(
        "distribution",
        "the times have the declared distribution",
        "a shift inverted or ignored, noise and data exchanged",
        check_distribution,
    ),
    Check(
        "generator",
        "the generator alone decides, and moves on",
        "the global generator, a fixed seed",
        check_generator,
        direct=_generator,
    ),
)
"""In reading order."""


def _hypotheses(subject: Subject) -> Iterator[Hypothesis[Subject]]:
    c = subject.convention

    def hypothesis(name: str, cause: str, declare: bool = False, **change: Any) -> Hypothesis[Subject]:
        text = ", ".join(f"{k}={v!r}" for k, v in change.items()) if declare else ""
        return Hypothesis(name, cause, replace(subject, convention=replace(c, **change)), text)

    if c.shift != 1:
        yield hypothesis(
            "shift-inverted",
            f"the shift is inverted: it moves mass to the other end (shift={1 / c.shift:g})",
            shift=1 / c.shift,
        )
        yield hypothesis("shift-ignored", "the shift is ignored", shift=1.0)
        yield hypothesis("shift-twice", "the shift is applied twice", shift=c.shift**2)
    yield Hypothesis(
        "ends-exchanged", "noise and data are exchanged: 1 − t is returned", replace(subject, reverse=True)
    )
    other = "uniform" if c.distribution == "logit_normal" else "logit_normal"
    text = f"the times behave as distribution={other!r} says"
    yield hypothesis("convention:distribution", text, True, distribution=other)
    for shift in (1.15, 1.5, 2.0, 3.0, 5.0):
        if shift != c.shift:
            yield hypothesis("convention:shift", f"the times behave as shift={shift!r} says", True, shift=shift)
    if c.distribution == "logit_normal":
        yield hypothesis(
            "variance-for-std", "the logit's standard deviation is squared, or its root is taken", std=c.std**2
        )
        yield hypothesis("convention:std", "the logit has standard deviation 1", True, std=1.0)
        yield hypothesis("convention:mean", "the logit has mean 0", True, mean=0.0)
        yield hypothesis("mean-sign", "the logit's mean has the wrong sign", mean=-c.mean)
