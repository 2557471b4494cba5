r"""The sampler of training times, judged alone: its distribution and its shift.

.. math:: \sigma' = s\sigma/(1+(s-1)\sigma)

The function is ``function(n, generator)`` and returns n times, (n,); 1 is noise, 0 is data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gradcheck.errors import InputError
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.check import Check, Hypothesis, Info, Wrong
from gradcheck.judging.engine import Declared
from gradcheck.judging.results import Diagnosis, Judgement, Outcome
from gradcheck.parts._calls import calling, described, name_of, number_problem, one_of, tensor_result
from gradcheck.parts._declaring import declare
from gradcheck.parts._statistics import FALSE_ALARM, beta_cdf, ks_bound, ks_distance, normal_cdf, poisson_limit

__all__ = ["TimeSamplerConvention", "judge_time_sampler", "shifted", "time_sampler_part"]

_N = 1 << 16
_REFERENCE = "Esser et al., Scaling Rectified Flow Transformers, arXiv:2403.03206, Eq. 19 and 23"


Distribution = Literal["logit_normal", "uniform", "beta", "mode", "cosmap", "table"]


@dataclass(frozen=True)
class TimeSamplerConvention:
    """What a time sampler declares about itself.

    Attributes:
        distribution: before the shift: ``"logit_normal"`` (default), ``"uniform"`` on (0, 1), ``"beta"`` (π0's
            Beta(1.5, 1)), ``"mode"`` or ``"cosmap"`` (Esser et al., Eq. 20 and 21), or ``"table"``: one of ``times``.
        shift: s (default 1: none); more than 1 moves mass towards noise.
        mean, std: of the logit (defaults 0 and 1).
        a, b: exponents of the beta distribution (defaults 1.5 and 1); the mass of a large ``a`` is near noise.
        scale: of the mode distribution (default 1.29), from −1 to 2/(π − 2).
        times: the table, numbers from 0 to 1; ``weights``: how often each comes, alike by default.
        low, high: the times are low + (high − low)·σ' (defaults 0 and 1), unless they come from a table.
    """

    distribution: Distribution = "logit_normal"
    shift: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    a: float = 1.5
    b: float = 1.0
    scale: float = 1.29
    times: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 1.0

    def cdf(self, t: Tensor) -> Tensor:
        """The distribution function, at t in [low, high]."""
        if self.distribution == "table":
            weights = torch.tensor(self.weights or (1.0,) * len(self.times), dtype=torch.float64)
            reached = torch.tensor(self.times, dtype=torch.float64) <= t.to(torch.float64)[:, None]
            return (weights * reached).sum(1) / weights.sum()
        inside = ((t.to(torch.float64) - self.low) / (self.high - self.low)).clamp(0, 1)
        before = shifted(inside, 1 / self.shift)
        if self.distribution == "logit_normal":
            return normal_cdf((torch.logit(before) - self.mean) / self.std)
        return {"uniform": lambda: before, "beta": lambda: beta_cdf(before, self.a, self.b)}.get(
            self.distribution, lambda: _by_a_uniform(self.distribution, before, self.scale)
        )()


def _by_a_uniform(distribution: Distribution, t: Tensor, scale: float) -> Tensor:
    """The distribution function of a monotone function of a uniform number."""
    if distribution == "cosmap":
        return torch.atan2(t, 1 - t) * (2 / math.pi)
    low, high = torch.zeros_like(t), torch.ones_like(t)  # t(u) falls from 1 to 0
    for _ in range(60):
        u = (low + high) / 2
        above = 1 - u - scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u) > t
        low, high = torch.where(above, u, low), torch.where(above, high, u)
    return 1 - low


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
    mistake: str = ""

    def draw(self, n: int, seed: int, elsewhere: int = 0) -> Tensor:
        with calling(self.name, 6_007 * self.seed + seed, elsewhere) as generator:
            return tensor_result(self.function(n, generator), (n,), "the sample").detach()

    def distance(self) -> float:
        """The largest difference of the sample's distribution function from the declared one."""
        c = self.convention
        t = self.draw(_N, 1).to(torch.float64)
        if self.mistake not in _OUTSIDE:
            _inside(t)
        t = _UNDONE[self.mistake](t, c) if self.mistake else t
        if not bool(((t >= 0) & (t <= 1)).all()):
            return 1.0
        if c.distribution == "table":
            ends = torch.tensor(sorted(set(c.times)), dtype=torch.float64)
            return float(((t <= ends[:, None] + _SAME).double().mean(1) - c.cdf(ends)).abs().max())
        if bool(((t < c.low - _SAME) | (t > c.high + _SAME)).any()):
            return 1.0
        return ks_distance(c.cdf(t))


_UNDONE: dict[str, Callable[[Tensor, TimeSamplerConvention], Tensor]] = {
    "ends-exchanged": lambda t, c: 1 - t,
    "shift-without-one": lambda t, c: shifted(t / (c.shift * (1 - t)), c.shift),
    "uniform-logit": lambda t, c: shifted(
        torch.sigmoid(c.mean + c.std * torch.special.ndtri((torch.logit(shifted(t, 1 / c.shift)) - c.mean) / c.std)),
        c.shift,
    ),
    "squared": lambda t, c: t.sqrt(),
    "root": lambda t, c: t.square(),
    "logits": lambda t, c: torch.sigmoid(t),
    "steps": lambda t, c: t / 1000,
}
"""What makes times of the declared distribution of those that a named mistake returns."""

_SAME = 1e-6
"""How far float32 may put a time off, and a sampler's own arithmetic on it."""


def _inside(t: Tensor) -> None:
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise Wrong(f"the times reach from {float(t.min()):.6g} to {float(t.max()):.6g}; (0, 1) is required")


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
    distribution: Distribution = "logit_normal",
    shift: float = 1.0,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = 1.5,
    b: float = 1.0,
    scale: float = 1.29,
    times: Sequence[float] = (),
    weights: Sequence[float] = (),
    low: float = 0.0,
    high: float = 1.0,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> Declared[Subject]:
    """A part and its declaration, checked and not yet called; arguments as :func:`judge_time_sampler`'s."""
    problems = [
        *one_of("distribution", distribution, *_DISTRIBUTIONS),
        *number_problem("shift", shift, 0, 1e4, open_low=True),
        *number_problem("mean", mean, -20, 20),
        *number_problem("std", std, 0, 20, open_low=True),
        *number_problem("a", a, 0.5, 100),
        *number_problem("b", b, 0.5, 100),
        *number_problem("scale", scale, -1, 2 / (math.pi - 2)),
        *number_problem("low", low, 0, 1),
        *number_problem("high", high, 0, 1, open_low=True),
        *_table_problems(distribution, times, weights, shift),
    ]
    if not problems and low >= high:
        problems.append(("low", repr(low), f"a number below high, {high!r}"))
    if problems:
        raise InputError(*problems)
    convention = TimeSamplerConvention(
        distribution, shift, mean, std, a, b, scale, tuple(map(float, times)), tuple(map(float, weights)), low, high
    )
    subject = Subject(function, name_of(function), convention, seed)
    info = Info(subject.name, described(convention), _REFERENCE, seed, "float64", expected_failures or {})
    return Declared(subject, CHECKS, _hypotheses, info)


_DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)


def _table_problems(distribution: Any, times: Any, weights: Any, shift: Any) -> list[tuple[str, str, str]]:
    if distribution != "table":
        given = [(name, x) for name, x in (("times", times), ("weights", weights)) if len(x)]
        return [(name, f"{x!r:.60}", "distribution='table' with it") for name, x in given]
    problems = []
    if not len(times) or any(number_problem("times", x, 0, 1) for x in times) or len(set(times)) < len(times):
        problems.append(("times", f"{times!r:.60}", "the times that occur: different numbers from 0 to 1"))
    if len(weights) and (len(weights) != len(times) or any(number_problem("weights", x, 0, 1e9) for x in weights)):
        problems.append(("weights", f"{weights!r:.60}", "one number of at least 0 for each of times"))
    elif len(weights) and sum(weights) == 0:
        problems.append(("weights", f"{weights!r:.60}", "some that are not 0"))
    if shift != 1.0:
        problems.append(("shift", repr(shift), "1 with distribution='table', whose times are as they come"))
    return problems


def check_shape(subject: Subject) -> Outcome:
    for n in (1, 2, 7):
        subject.draw(n, n)
    return Outcome("passed", 3)


def check_range(subject: Subject) -> Outcome:
    """In [0, 1]; an end itself is as rare as rounding makes it."""
    t = subject.draw(_N, 1)
    _inside(t)
    if subject.convention.distribution == "table":
        table = torch.tensor(subject.convention.times, dtype=torch.float64)
        far = (t.to(torch.float64)[:, None] - table).abs().amin(1)
        if bool((far > _SAME).any()):
            raise Wrong(f"a time of {float(t[far.argmax()]):.6g} is drawn, which is not in the table")
        return Outcome("passed", 1)
    low, high = subject.convention.low, subject.convention.high
    if bool(((t < low - _SAME) | (t > high + _SAME)).any()):
        raise Wrong(
            f"the times reach from {float(t.min()):.6g} to {float(t.max()):.6g}; ({low:g}, {high:g}) is required"
        )
    at_ends = int(((t == 0) | (t == 1)).sum())
    eps = max(float(torch.finfo(t.dtype).eps), 2.0**-24)
    near = torch.tensor([0.0, 1.0], dtype=torch.float64) + torch.tensor([1, -1]) * 2 * eps
    below, above = (float(x) for x in subject.convention.cdf(near))
    limit = poisson_limit(_N * (below + 1 - above), FALSE_ALARM)
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
        first, second = (tensor_result(subject.function(64, generator), (64,), "the sample") for _ in range(2))
    if torch.equal(first, second):
        raise Wrong("two draws on one generator are the same")
    return Outcome("passed", 2)


def _generator(subject: Subject) -> Diagnosis:
    if torch.equal(subject.draw(64, 2), subject.draw(64, 2, elsewhere=1)):
        return Diagnosis("reseeded", "the function seeds a generator of its own on every call, or draws nothing")
    return Diagnosis("generator-ignored", "the times do not come from the generator that is handed in")


def _not_times(subject: Subject) -> Diagnosis | None:
    """Numbers beyond (0, 1), of which times would be made by a sigmoid, or by a division by 1000."""
    t = subject.draw(_N, 1)
    if bool(((t >= 0) & (t <= 1)).all()):
        return None
    for mistake, cause in _OUTSIDE.items():
        if replace(subject, mistake=mistake).distance() <= ks_bound(_N, FALSE_ALARM):
            return Diagnosis("not-times", cause)
    return Diagnosis("outside", "the formula leaves (0, 1)")


_OUTSIDE = {
    "logits": "logits are returned for times: a sigmoid is missing",
    "steps": "steps up to 1000 are returned for times: divide them by 1000",
}


def _clamped(subject: Subject) -> Diagnosis | None:
    t = subject.draw(_N, 1)
    ends = (t == 0) | (t == 1)
    near = (t < 1e-5) | (t > 1 - 1e-5)
    if 2 * int(ends.sum()) < int(near.sum()) or not bool(ends.any()) or _grid(subject) is not None:
        return None  # none, a few of a grid, or no more than rounding puts there
    return Diagnosis("clamped", "values are clamped to [0, 1], which piles them up at its ends")


_GRID, _SHOWN = 4096, 12


def _grid(subject: Subject) -> Diagnosis | None:
    """A few times that come again and again, where a continuous distribution hardly repeats one."""
    values = subject.draw(_N, 1).to(torch.float64).unique()
    if len(values) > _GRID or subject.convention.distribution == "table":
        return None
    shown = [f"{float(x):.6g}" for x in values]
    listed = ", ".join(shown if len(values) <= _SHOWN else [*shown[:3], "…", *shown[-2:]])
    cause = f"every time is one of {len(values)} numbers, {listed}; a continuous distribution is declared"
    if len(values) == 1:
        return Diagnosis("one-time", "one time is drawn for the whole batch; every sample must have its own")
    written = f"distribution='table', times=({', '.join(shown)})" if 1 < len(values) <= _SHOWN else ""
    return Diagnosis("grid", cause, written)


def _piled(subject: Subject) -> Diagnosis | None:
    return _not_times(subject) or _grid(subject) or _clamped(subject)


_NO_TABLE: dict[str, Any] = {"times": (), "weights": ()}


CHECKS: tuple[Check[Subject], ...] = (
    Check("shape", "n times come back, (n,)", "one time for the whole batch", check_shape),
    Check(
        "range",
        "every time is in (0, 1), or where declared",
        "a missing sigmoid, steps for times, clamping",
        check_range,
        direct=_piled,
    ),
    Check(
        "distribution",
        "the times have the declared distribution",
        "a shift inverted or ignored, noise and data exchanged",
        check_distribution,
        direct=lambda s: _not_times(s) or _grid(s),
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


def _seen_range(subject: Subject) -> Iterator[tuple[float, float]]:
    """The range that the times fill, its ends rounded to three digits."""
    try:
        t = subject.draw(_N, 1)
    except (Wrong, AdapterError):
        return
    low, high = round(float(t.min()), 3), round(float(t.max()), 3)
    if 0 <= low < high <= 1:
        yield low, high


def _seen_logit(subject: Subject) -> Iterator[tuple[float, float]]:
    """Mean and standard deviation of the logits before the shift, where there is such a pair."""
    try:
        t = subject.draw(_N, 1).to(torch.float64)
    except (Wrong, AdapterError):
        return
    c = subject.convention
    logit = torch.logit(shifted(((t - c.low) / (c.high - c.low)).clamp(0, 1), 1 / c.shift))
    if bool(logit.isfinite().all()):
        mean, std = (_plain(float(x)) for x in (logit.mean(), logit.std()))
        if std > 0 and (mean, std) != (c.mean, c.std):
            yield mean, std


def _plain(x: float) -> float:
    """To one digit after the point where that is within what so many draws tell, else to two."""
    short = round(x, 1)
    return (short if abs(short - x) < 0.02 else round(x, 2)) + 0.0


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
        sentence = "the shift's denominator is 1 + s σ; it must be 1 + (s − 1) σ"
        yield Hypothesis("shift-without-one", sentence, replace(subject, mistake="shift-without-one"))
    for name, sentence in (
        ("ends-exchanged", "noise and data are exchanged: 1 − t is returned"),
        ("squared", "the times are squared"),
        ("root", "the root of the times is returned"),
    ):
        yield Hypothesis(name, sentence, replace(subject, mistake=name))
    if c.distribution == "logit_normal":
        sentence = "the logits are uniform on (mean, mean + std): rand stands where randn belongs"
        yield Hypothesis("uniform-logit", sentence, replace(subject, mistake="uniform-logit"))
    for other in _DISTRIBUTIONS[:-1]:
        if other != c.distribution:
            text = f"the times behave as distribution={other!r} says"
            yield hypothesis(
                "convention:distribution", text, True, distribution=other, **(_NO_TABLE if c.times else {})
            )
    if c.distribution == "beta" and c.a != c.b:
        yield hypothesis("exponents-exchanged", "the beta distribution's exponents are exchanged", a=c.b, b=c.a)
    if (c.low, c.high) != (0.0, 1.0):
        yield hypothesis("range-ignored", "the range is ignored: the times are in (0, 1)", low=0.0, high=1.0)
    if c.distribution == "table":
        if c.weights:
            yield hypothesis("convention:weights", "the times behave as weights=() says", True, weights=())
        return
    for low, high in dict.fromkeys(((1e-3, 1.0), (0.0, 0.999), (0.02, 0.98), (0.02, 1.0), *_seen_range(subject))):
        if (c.low, c.high) != (low, high):
            cause = f"the times behave as low={low!r}, high={high!r} says"
            yield hypothesis("convention:low", cause, True, low=low, high=high)
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
        for mean, std in _seen_logit(subject):
            cause = f"the logits behave as mean={mean!r}, std={std!r} says"
            yield replace(hypothesis("convention:std", cause, True, mean=mean, std=std), presumes=1)
