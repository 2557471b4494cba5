r"""The machinery of the obligations: problems to try an implementation on, and comparisons over many of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar, Unpack

import torch
from torch import Tensor

from derivations.derivation import PREDICTIONS
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.devices import Device, dtype_name
from gradcheck.judging.adapter import Adapter, AdapterError, Observation
from gradcheck.judging.results import Outcome
from gradcheck.oracle.arrangement import fitted, needs_presenting, presented, unit
from gradcheck.oracle.drawn import drawn, made
from gradcheck.oracle.problem import output_dtype
from gradcheck.oracle.required import Required, required_of
from gradcheck.problems.building import Spec
from gradcheck.problems.regimes import Regimes
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.rounding.compare import Comparison, compare

__all__ = [
    "Judge",
    "Look",
    "compare_over",
    "first_failure",
    "gradient_on",
    "look",
    "look_at_gradient",
    "together",
]

T = TypeVar("T")

_SHAPES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (4, 5)),
    (5, (2, 3, 4)),
    (4, (3, 5, 2)),
    (2, (7,)),
    (3, (2, 4, 5, 1)),
)
_SMALL: tuple[tuple[int, tuple[int, ...]], ...] = (
    (1, (1,)),
    (1, (2,)),
    (2, (1,)),
    (2, (3,)),
    (2, (2, 3)),
    (2, (2, 1, 2)),
    (2, (2, 1, 2, 2)),
    (3, (2, 1, 2)),
)


_LARGE = 2**20
"""Numbers of a problem from which on it is judged on the device."""


@dataclass(frozen=True)
class Judge:
    """One implementation on one device in one precision, and the problems to try it on.

    The implementation is called on the device; what it must give is computed on the CPU, unless problems are large.
    """

    adapter: Adapter
    conventions: Conventions
    device: Device = "cpu"
    dtype: torch.dtype = torch.float64
    max_examples: int = 10
    seed: int = 0
    compiled: bool = False
    latent: tuple[int, ...] | None = None
    batch: int | None = None

    def specs(self, **regimes: Unpack[Regimes]) -> Iterator[Spec]:
        """Problems of the given regimes, in shapes of two to four axes whose sizes differ."""
        for i in range(self.max_examples):
            batch, latent = _SHAPES[i % len(_SHAPES)]
            batch, latent = self.batch or batch, self.latent or latent
            clip = i % 3 if "clip_low" not in self.conventions.fixed else 0
            yield Spec(batch, latent, self.seed * 1_000_003 + i, clip=clip, **regimes)

    def case(self, spec: Spec, dtype: torch.dtype | None = None) -> Case:
        spec = self.fitted(spec)
        # Judging is hundreds of small operations: launched on a GPU one by one, they take longer than on the CPU.
        place = self.device if spec.batch * math.prod(spec.latent) >= _LARGE else "cpu"
        return drawn(self.conventions, spec, dtype or self.dtype, place)

    def fitted(self, spec: Spec) -> Spec:
        """The problem in the sizes that the implementation takes."""
        return fitted(self.conventions, spec, self.latent)

    @property
    def unit(self) -> int:
        """How many samples of a batch belong together."""
        return unit(self.conventions)

    def observe(self, case: Case, watch_leaks: bool = False) -> Observation:
        adapter = self.adapter
        if needs_presenting(self.conventions):
            own = adapter.function
            adapter = replace(adapter, function=lambda handed: own(presented(self.conventions, handed)))
        return adapter.observe(self.handed(case), watch_leaks, self.device)

    def handed(self, case: Case) -> Case:
        """The case as an implementation gets it: what networks put out in their own precision, if one is declared."""
        dtype = output_dtype(self.conventions)
        if dtype is None:
            return case
        return case.replace(**{name: getattr(case, name).detach().to(dtype) for name in self.put_out(case)})

    def put_out(self, case: Case) -> set[str]:
        """What of a case a network of lower precision puts out as it stands; guided velocities are made of that."""
        none = self.conventions.output_dtype is None or self.conventions.guidance is not None
        return set() if none else {s.name for s in PREDICTIONS} & set(case.names)

    def required(self, case: Case) -> Required:
        return self.made(required_of, case)

    def made(self, make: Callable[[Conventions, Case], T], case: Case) -> T:
        """What a function makes of the declaration and a problem, which other losses may share."""
        return made(make, self.conventions, case)


@dataclass(frozen=True)
class Look:
    """A comparison, and how much of it could have shown a mistake.

    Attributes:
        comparison: the figures.
        dtype: the precision whose rounding was allowed for.
        visible: the fraction of components other than 0 of which rounding leaves at least the sign; ``None`` if all
            are 0.
    """

    comparison: Comparison
    dtype: torch.dtype
    visible: float | None

    @property
    def holds(self) -> bool:
        return self.comparison.holds


def look(observed: Tensor, required: Tensor, scale: Tensor, dtype: torch.dtype) -> Look:
    """Compare componentwise against an error scale."""
    return Look(compare(observed, required, scale, dtype), dtype, _visible(required, scale, dtype))


def _visible(required: Tensor, scale: Tensor, dtype: torch.dtype) -> float | None:
    size = required.detach().abs().to(torch.float64)
    there = size > 0
    if not bool(there.any()):
        return None
    bound = THRESHOLD * unit_roundoff(dtype) * scale.expand(size.shape)
    return float((bound[there] < size[there]).to(torch.float64).mean())


def look_at_gradient(judge: Judge, case: Case, observed: Case | None = None) -> Look:
    """The implementation's gradient on a case (or on another form of it) beside the derived one."""
    wanted = judge.required(case)
    comparison = wanted.compare(judge.observe(case if observed is None else observed).gradient)
    return Look(comparison, wanted.dtype, _visible(wanted.gradient, wanted.scale, wanted.dtype))


def compare_over(
    judge: Judge, specs: Iterator[Spec], one: Callable[[Case], Look], at_least: int = 1, meaning: str = ""
) -> Outcome:
    """Compare on every problem; on a failure, look for the smallest problem of the same regimes that fails too.

    Args:
        judge: the implementation.
        specs: the problems.
        one: the comparison.
        at_least: the smallest batch for which the comparison means anything.
        meaning: what the two numbers are, if not the implementation's gradient and the derived one.
    """
    looks: list[Look] = []
    worst: tuple[Spec, Look] | None = None
    for spec in map(judge.fitted, specs):
        found = one(judge.case(spec))
        looks.append(found)
        if worst is None or found.comparison.ratio > worst[1].comparison.ratio:
            worst = (spec, found)
        if not found.holds:
            small = _smallest(judge, spec, lambda case: not one(case).holds, at_least)
            worst = (spec, found) if small is None else (small, one(judge.case(small)))
            break
    assert worst is not None
    spec, result = judge.fitted(worst[0]), worst[1].comparison
    ratios = tuple(x.comparison.ratio for x in looks)
    resolution = min(x.comparison.resolution for x in looks)
    if not result.holds:
        detail = _figures(result)
        return Outcome(
            "failed", len(looks), result.ratio, detail, result, spec, _share(looks), ratios, meaning, resolution
        )
    if looks and (_nothing_visible(looks) or all(x.comparison.lost for x in looks)):
        dtype = dtype_name(looks[0].dtype)
        detail = f"nothing to judge: in {dtype}, rounding may change every component by more than its size"
        return Outcome("skipped", len(looks), 0.0, detail)
    return Outcome("passed", len(looks), max(ratios), note=_share(looks), ratios=ratios, resolution=resolution)


def _nothing_visible(looks: list[Look]) -> bool:
    shares = [x.visible for x in looks if x.visible is not None]
    return bool(shares) and max(shares) == 0


_NOTICEABLE = 0.9


def _share(looks: list[Look]) -> str:
    """A note where much of what was compared is lost in rounding."""
    shares = [x.visible for x in looks if x.visible is not None]
    share = sum(shares) / len(shares) if shares else 1.0
    if share >= _NOTICEABLE:
        return ""
    dtype = dtype_name(looks[0].dtype)
    return f"in {dtype} only {100 * share:.2g} % of the components can be judged, rounding may exceed the others"


def _figures(result: Comparison) -> str:
    """Both numbers, with as many digits as it takes to see them differ."""
    observed, required = result.observed + 0.0, result.required + 0.0  # −0 reads like a sign error
    for digits in (6, 10, 17):
        if f"{observed:.{digits}g}" != f"{required:.{digits}g}":
            break
    return f"observed {observed:.{digits}g}, required {required:.{digits}g}"


def _smallest(judge: Judge, spec: Spec, fails: Callable[[Case], bool], at_least: int = 1) -> Spec | None:
    """The smallest problem of the same regimes that fails; the same one if none smaller does, ``None`` if nor it."""

    def fails_too(other: Spec) -> bool:
        try:
            return fails(judge.case(other))
        except AdapterError:  # one on which it raises shows another failure
            return False

    for batch, latent in _SMALL:
        for seed in range(3):
            small = judge.fitted(replace(spec, batch=max(batch, at_least), latent=latent, seed=seed))
            if fails_too(small):
                return small
    return _shrunk(spec, fails_too) if fails(judge.case(spec)) else None


_ORDINARY = 5, 40
"""The largest batch, and the largest latent, of ordinary problems."""


def _shrunk(spec: Spec, fails: Callable[[Spec], bool]) -> Spec:
    """What fails for its size alone, with the batch and the longest axis halved in turn, as far as it fails on."""
    if spec.batch > _ORDINARY[0]:
        least = _bisected(spec.batch, lambda n: fails(replace(spec, batch=n)))
        spec = replace(spec, batch=least)
    if math.prod(spec.latent) > _ORDINARY[1]:
        longest = spec.latent.index(max(spec.latent))

        def cut(n: int) -> Spec:
            return replace(spec, latent=(*spec.latent[:longest], n, *spec.latent[longest + 1 :]))

        spec = cut(_bisected(spec.latent[longest], lambda n: fails(cut(n))))
    return spec


def _bisected(largest: int, fails: Callable[[int], bool]) -> int:
    """A size that fails, where the next smaller one does not: the smallest of all, if all above it fail."""
    holds = 0
    while largest - holds > 1:
        middle = (holds + largest) // 2
        if fails(middle):
            largest = middle
        else:
            holds = middle
    return largest


def first_failure(
    judge: Judge, specs: Iterator[Spec], wrong: Callable[[Case], str], most: int | None = None
) -> Outcome:
    """What is wrong with the first problem on which something is, told for the smallest such problem.

    ``wrong`` says it in words, and nothing where all is well.
    """
    count = 0
    for count, spec in enumerate(map(judge.fitted, islice(specs, most)), 1):
        found = wrong(judge.case(spec))
        if not found:
            continue
        small = judge.fitted(_smallest(judge, spec, lambda case: bool(wrong(case))) or spec)
        return Outcome("failed", count, math.inf, wrong(judge.case(small)) or found, spec=small)
    return Outcome("passed", count)


def gradient_on(judge: Judge, **regimes: Unpack[Regimes]) -> Outcome:
    """Judge the gradient on problems of these regimes."""
    return compare_over(judge, judge.specs(**regimes), lambda case: look_at_gradient(judge, case))


def together(outcomes: list[Outcome]) -> Outcome:
    """Several outcomes of one obligation: it fails if one does, and is skipped only if all are."""
    examples = sum(o.examples for o in outcomes)
    ratios = tuple(r for o in outcomes for r in o.ratios)
    resolution = min((o.resolution for o in outcomes if o.resolution is not None), default=None)
    failed = next((o for o in outcomes if o.status == "failed"), None)
    if failed is not None:
        return replace(failed, examples=examples, ratios=ratios, resolution=resolution)
    if all(o.status == "skipped" for o in outcomes):
        return replace(outcomes[0], examples=examples)
    note = "; ".join(dict.fromkeys(o.note for o in outcomes if o.note))
    worst = max(o.ratio for o in outcomes)
    return Outcome("passed", examples, worst, note=note, ratios=ratios, resolution=resolution)
