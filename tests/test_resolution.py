"""How sharp a check says it was is how sharp it is: a factor above its resolution is refused, one below passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.conventions import declare
from gradcheck.judging.results import Outcome
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import Comparison, compare_branches, gradient_of, required_gradients, with_ties
from gradcheck.rounding.streaming import compare_gradient
from gradcheck.verifying.verification import check_random

LABELS = pytest.mark.parametrize("one", CATALOGUE, ids=lambda e: e.label)
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
POLICIES = ("off", "mixed")


def dense(one: Entry, case: Case, observed: Tensor) -> Comparison:
    branches = []
    for other in (False, True):
        gradient, scale, _, _, undecided = required_gradients(one.derivation, case, other)
        branches.append((gradient, scale))
        if not bool(undecided.any()):
            break
    tied = with_ties(branches) if len(branches) == 2 else branches
    return compare_branches(observed, tied, undecided, case.output.dtype)


def streamed(one: Entry, case: Case, observed: Tensor) -> Comparison:
    return compare_gradient(one.derivation, case, observed, chunk=40)


@LABELS
@pytest.mark.parametrize("compared", [dense, streamed], ids=lambda f: f.__name__)
def test_a_factor_is_refused_from_the_resolution_on(
    one: Entry, compared: Callable[[Entry, Case, Tensor], Comparison]
) -> None:
    """Both ways; below it only where every sample's branch is decided: the others are left out of the figure."""
    finite = 0
    for seed, dtype in enumerate(PRECISIONS):
        case = build(one.derivation, Spec(4, (3, 5), seed, policy=POLICIES[seed % 2], time="middle"), dtype)
        exact, _, _, _, undecided = required_gradients(one.derivation, case, False)
        f = compared(one, case, exact).resolution
        if not math.isfinite(f):
            assert bool(undecided.any()) or not bool(exact.any()) or dtype != torch.float64
            continue
        finite += 1
        for sign in (1, -1):
            assert not compared(one, case, (1 + 2 * sign * f) * exact).holds
            if not bool(undecided.any()):
                assert compared(one, case, (1 + sign * f / 2) * exact).holds
    assert finite >= 1, "no precision had anything to see"


def test_what_cannot_be_judged_is_not_claimed_to_be_seen() -> None:
    """A component beyond the precision's range, one whose bound is infinite, and zeros: none sharpens the figure."""
    required = torch.tensor([[1e300, 1.0, 0.0, 2.0]], dtype=torch.float64)
    scale = torch.tensor([[1e-9, torch.inf, 1e-9, 3.0]], dtype=torch.float64)
    found = compare_branches(required, [(required, scale)], torch.zeros(1, 1, dtype=torch.bool), torch.float32)
    assert found.resolution == 4 * 2.0**-24 * 3 / 2
    open_branch = torch.ones(1, 1, dtype=torch.bool)
    twice = [(required, scale), (2 * required, scale)]
    found = compare_branches(required, twice, open_branch, torch.float32)
    assert found.resolution == math.inf
    assert compare_branches(2 * required, twice, open_branch, torch.float32).holds, "that is why"


def test_an_obligations_resolution_is_what_its_problems_see_together() -> None:
    """An implementation wrong by a factor is wrong on every problem, and one refusal is enough."""
    one = entry("awm", "mean")

    def times(factor: float) -> Subject:
        return Subject(lambda case: factor * one.loss(case).mean(), "scaled", declare("awm", reduction="mean"))

    settings = Settings(max_examples=3)

    def outcomes(factor: float) -> dict[str, Outcome]:
        return {r.id: r.outcome for r in judge(times(factor), settings, only=("gradient", "shapes")).results}

    for name, right in outcomes(1.0).items():
        assert right.status == "passed"
        assert right.resolution is not None
        f = right.resolution
        assert 1e-16 < f < 1e-13
        assert outcomes(1 + 2 * f + 2**-50)[name].status == "failed"
        assert outcomes(1 + f / 4)[name].status == "passed"


def test_verify_tells_each_precisions_resolution() -> None:
    one = entry("awm")
    for dtype, coarse in (("float64", 1e-13), ("float32", 1e-4)):
        f = check_random(one, dtype, "cpu", 5, 0).resolution
        assert 0 < f < coarse

        def scaled(case: Case, f: float = f, **options: object) -> Tensor:
            return (1 + 4 * f) * one.by_hand(case, **options)

        wrong = replace(one, by_hand=scaled)
        assert check_random(wrong, dtype, "cpu", 5, 0).failure is not None


def test_a_wrong_gradient_has_the_same_resolution() -> None:
    """It is a property of the problem, not of what is judged."""
    one = entry("diffusion_nft")
    case = build(one.derivation, Spec(3, (7,), 1, policy="off", time="middle"), torch.float32)
    right = gradient_of(one.loss(case), case.output)
    figures = {dense(one, case, x).resolution for x in (right, 3 * right, right * math.nan)}
    assert len(figures) == 1
