r"""The machinery of the obligations: problems to try an implementation on, and comparisons over many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from gradcheck.case import Case
from gradcheck.compare import Comparison
from gradcheck.conventions import Conventions
from gradcheck.oracle.adapter import Adapter, Observation
from gradcheck.oracle.reference import Reference, oracle_case, reference
from gradcheck.oracle.results import Outcome
from gradcheck.problems import Spec

__all__ = ["Judge", "compare_over", "gradient_on", "together"]

_SHAPES: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (4, 5)),
    (5, (2, 3, 4)),
    (4, (3, 5, 2)),
    (2, (7,)),
    (3, (2, 4, 5, 1)),
)


@dataclass(frozen=True)
class Judge:
    """One implementation on one device in one precision, and the problems to try it on."""

    adapter: Adapter
    conventions: Conventions
    device: str = "cpu"
    dtype: torch.dtype = torch.float64
    max_examples: int = 10
    seed: int = 0
    compiled: bool = False

    def specs(self, **regimes: str) -> Iterator[Spec]:
        """Problems of the given regimes, in shapes of two to four axes whose sizes differ."""
        for i in range(self.max_examples):
            batch, latent = _SHAPES[i % len(_SHAPES)]
            clip = i % 3 if "clip_low" not in self.conventions.fixed else 0
            yield Spec(batch, latent, seed=self.seed * 1_000_003 + i, clip=clip, **regimes)

    def case(self, spec: Spec, dtype: torch.dtype | None = None) -> Case:
        return oracle_case(self.conventions, spec, dtype or self.dtype, self.device)

    def observe(self, case: Case, watch_leaks: bool = False) -> Observation:
        return self.adapter.observe(case, watch_leaks)

    def reference(self, case: Case) -> Reference:
        return reference(self.conventions, case)


Compared = tuple[Spec, Comparison]


def compare_over(judge: Judge, specs: Iterator[Spec], one: Callable[[Case], Comparison], at_least: int = 1) -> Outcome:
    """Compare on every problem; on a failure, look for the smallest problem of the same regimes that fails too.

    ``at_least`` is the smallest batch for which the comparison means anything.
    """
    ratios = []
    worst: Compared | None = None
    for spec in specs:
        result = one(judge.case(spec))
        ratios.append(result.ratio)
        if worst is None or result.ratio > worst[1].ratio:
            worst = (spec, result)
        if not result.holds:
            worst = _smallest(judge, spec, one, at_least) or worst
            break
    assert worst is not None
    spec, result = worst
    failed = not result.holds
    detail = _figures(result) if failed else ""
    return Outcome(
        "failed" if failed else "passed",
        len(ratios),
        result.ratio if failed else max(ratios),
        detail,
        result if failed else None,
        spec if failed else None,
        ratios=tuple(ratios),
    )


def _figures(result: Comparison) -> str:
    """Both numbers, with as many digits as it takes to see them differ."""
    observed, required = result.observed + 0.0, result.required + 0.0  # −0 reads like a sign error
    for digits in (6, 10, 17):
        if f"{observed:.{digits}g}" != f"{required:.{digits}g}":
            break
    return f"observed {observed:.{digits}g}, required {required:.{digits}g}"


def _smallest(judge: Judge, spec: Spec, one: Callable[[Case], Comparison], at_least: int) -> Compared | None:
    for batch, latent in ((1, (1,)), (1, (2,)), (2, (1,)), (2, (3,)), (2, (2, 3)), (3, (2, 1, 2))):
        for seed in range(3):
            small = replace(spec, batch=max(batch, at_least), latent=latent, seed=seed)
            result = one(judge.case(small))
            if not result.holds:
                return small, result
    result = one(judge.case(spec))
    return None if result.holds else (spec, result)


def gradient_on(judge: Judge, **regimes: str) -> Outcome:
    return compare_over(
        judge, judge.specs(**regimes), lambda case: judge.reference(case).compare(judge.observe(case).gradient)
    )


def together(outcomes: list[Outcome]) -> Outcome:
    failed = next((o for o in outcomes if o.status == "failed"), None)
    ratios = tuple(r for o in outcomes for r in o.ratios)
    examples = sum(o.examples for o in outcomes)
    if failed is not None:
        return replace(failed, examples=examples, ratios=ratios)
    return Outcome("passed", examples, max(o.ratio for o in outcomes), ratios=ratios)
