"""Two mistakes at once, reductions over some axes alone, and causes that only problems made for it tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.oracle.mistakes.places import stated

from .test_causes import told

Part = Callable[["Step", Case], Tensor]


@dataclass(frozen=True)
class Step:
    """A Gaussian step's loss from the case's own coefficients, with some parts replaced; the policies alike."""

    wrong: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def part(self, name: str, *given: Any) -> Any:
        return self.wrong.get(name, getattr(type(self), name))(self, *given)

    def mean(self, case: Case, v: Tensor) -> Tensor:
        return case.mean_offset - case.expand(case.C1) * v

    def std(self, case: Case) -> Tensor:
        return case.C2

    def exponent(self, case: Case, error: Tensor) -> Tensor:
        return error**2 / (2 * case.expand(self.part("std", case)) ** 2)

    def reduce(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1)

    def scale(self, case: Case) -> Tensor:
        return case.C2

    def advantage(self, case: Case) -> Tensor:
        return case.advantage

    def clip(self, case: Case, ratio: Tensor) -> Tensor:
        return ratio.clamp(1 - case.clip_low, 1 + case.clip_high)

    def log_ratio(self, case: Case) -> Tensor:
        means = [self.part("mean", case, v) for v in (case.v_theta, case.v_old)]
        new, old = (-self.part("reduce", self.part("exponent", case, case.x_prev - m)) for m in means)
        return new - old

    def surrogate(self, case: Case, log_ratio: Tensor) -> Tensor:
        ratio, a = log_ratio.exp(), self.part("advantage", case)
        return torch.maximum(-a * ratio, -a * self.part("clip", case, ratio))

    def flow_grpo(self, case: Case) -> Tensor:
        return self.surrogate(case, self.log_ratio(case)).mean()

    ddpo = flow_grpo

    def moved(self, case: Case) -> Tensor:
        return self.part("reduce", (self.part("mean", case, case.v_theta) - self.part("mean", case, case.v_old)) ** 2)

    def grpo_guard(self, case: Case) -> Tensor:
        scale = self.part("scale", case)
        log_ratio = scale * (self.log_ratio(case) + self.moved(case) / (2 * scale**2))
        return (self.surrogate(case, log_ratio) / case.dt).mean()

    def flow_dppo(self, case: Case) -> Tensor:
        ratio, a = self.log_ratio(case).exp(), self.part("advantage", case)
        distance = self.moved(case).detach() / (2 * self.part("scale", case) ** 2)
        return -(a * ratio * ~((distance > case.divergence_max) & (a * (ratio - 1) > 0))).mean()


def unit(s: Step, case: Case, error: Tensor) -> Tensor:
    return error**2


def no_half(s: Step, case: Case, error: Tensor) -> Tensor:
    return error**2 / case.expand(s.part("std", case)) ** 2


def root_twice(s: Step, case: Case) -> Tensor:
    return case.C2 * case.dt.sqrt()


def root_missing(s: Step, case: Case) -> Tensor:
    return case.C2 / case.dt.sqrt()


@pytest.mark.parametrize(
    ("algorithm", "wrong", "names", "declared"),
    [
        (
            "grpo_guard",
            {"exponent": unit, "scale": root_twice},
            "std-dt-twice exponent-without-variance",
            {"sde": "cps"},
        ),
        ("grpo_guard", {"exponent": no_half, "scale": root_missing}, "std-without-dt half-missing", {}),
        ("flow_grpo", {"exponent": no_half, "std": root_missing}, "std-without-dt exponent-half-missing", {}),
        ("flow_dppo", {"scale": root_missing, "std": root_twice}, "std-dt-twice divergence-sigma", {"sde": "dance"}),
    ],
)
def test_a_pair_of_mistakes_in_a_step_is_named(
    algorithm: str, wrong: dict[str, Callable[..., Any]], names: str, declared: dict[str, Any]
) -> None:
    """Each scales the gradient, and the ratio besides, so that what they do to its length is not simply multiplied."""
    found = told(getattr(Step(wrong), algorithm), algorithm, log_prob_reduction="mean", **declared)
    assert set(found.name.split("+")) == set(names.split()), found.cause


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda s, c: torch.ones_like(c.dt), "divergence-without-variance"),
        (lambda s, c: c.C2 / c.dt.sqrt(), "divergence-sigma"),
    ],
)
def test_another_measure_than_the_divergence_is_no_missing_mask(wrong: Part, name: str) -> None:
    """It rarely passes the bound; where it does, with a gradient left, it is told from a mask that is missing."""
    found = told(Step({"scale": wrong}).flow_dppo, "flow_dppo", log_prob_reduction="mean")
    assert found.name == name, found.cause
    assert "with the same gradient" not in found.cause


def test_a_floor_of_a_deviation_that_is_computed_once_is_named_in_all_its_places() -> None:
    def floored(s: Step, case: Case) -> Tensor:
        return case.C2.clamp(min=0.13)

    found = told(Step({"std": floored, "scale": floored}).grpo_guard, "grpo_guard", log_prob_reduction="mean")
    assert found.name == "std-floor"
    assert "the log-probability, what multiplies the log-ratio and the ratio's bias" in found.cause
    assert "to at least 0.13" in found.cause


@pytest.mark.parametrize(
    ("reduce", "words"),
    [
        (lambda x: x.flatten(2).mean(2).sum(1), "summed over the first axis"),
        (lambda x: x.mean(-1).flatten(1).sum(1), "summed over all axes but the last"),
    ],
)
def test_a_reduction_over_some_axes_alone_is_named(reduce: Callable[[Tensor], Tensor], words: str) -> None:
    found = told(
        Step({"reduce": lambda s, x: reduce(x)}).flow_grpo, "flow_grpo", log_prob_reduction="mean", latent_axes=3
    )
    assert found.name == "log-prob-reduction"
    assert words in found.cause
    error = told(
        lambda c: (c.advantage * reduce((c.v_theta - c.v_gt) ** 2)).mean(), "awm", reduction="mean", latent_axes=3
    )
    assert error.name == "error-reduction"
    assert words in error.cause


def test_both_predictions_of_a_ddim_step_with_the_next_alpha() -> None:
    def mean(s: Step, case: Case, v: Tensor) -> Tensor:
        a = case.expand(case.alpha_bar_prev)
        data, noise = a.sqrt() * case.x_t - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * case.x_t
        return a.sqrt() * data + (1 - a - case.expand(case.C2) ** 2).sqrt() * noise

    assert told(Step({"mean": mean}).ddpo, "ddpo", log_prob_reduction="mean").name == "alphas-exchanged"


def squared(x: Tensor) -> Tensor:
    return (x**2).flatten(1).mean(1)


def mixtures(case: Case, plus: Tensor, minus: Tensor, r: Tensor) -> Tensor:
    return (r * squared(plus - case.v_gt) + (1 - r) * squared(minus - case.v_gt)).mean()


def test_one_branch_without_beta_alone_and_with_the_shares_exchanged() -> None:
    def right_plus(c: Case) -> Tensor:
        return (1 - c.beta) * c.v_old + c.beta * c.v_theta

    def one(c: Case) -> Tensor:
        return mixtures(c, right_plus(c), 2 * c.v_old - c.v_theta, c.reward_prob)

    def both(c: Case) -> Tensor:
        return mixtures(c, right_plus(c), 2 * c.v_old - c.v_theta, 1 - c.reward_prob)

    alone = told(one, "diffusion_nft", reduction="mean")
    assert (alone.name, "from v⁻" in alone.cause) == ("beta-missing", True)
    assert told(both, "diffusion_nft", reduction="mean").name == "branches-swapped+beta-missing"


def test_a_weight_without_temperature_and_without_its_bound() -> None:
    def loss(c: Case) -> Tensor:
        return (c.advantage.exp() * squared(c.v_theta - c.v_gt)).mean()

    assert told(loss, "awr", reduction="mean").name == "temperature-missing+weight-unclipped"


def test_a_sum_over_the_batch_beside_another_mistake_is_told_as_a_sum() -> None:
    found = told(lambda c: (c.advantage.clamp(min=0) * squared(c.v_theta - c.v_gt)).sum(), "awm", reduction="mean")
    assert found.name == "outer-product+bad-samples-dropped"
    assert "the batch is summed" in found.cause


def test_a_missing_clip_is_not_hidden_by_what_is_right_for_one_time() -> None:
    """The averaged deviation alone is right where all samples have one time; without a clip that is not so."""
    wrong = {"std": lambda s, c: c.C2.mean() + 0 * c.C2, "clip": lambda s, c, r: r}
    found = told(Step(wrong).flow_grpo, "flow_grpo", log_prob_reduction="mean")
    assert "std-mean" in found.name, found.cause
    assert "the ratio is not clipped" in found.cause
    assert found.declare == ""


def test_what_is_one_mistake_in_two_wordings_is_told_once() -> None:
    """Without a ratio the model's ratio to itself has the same gradient, on every problem."""

    def reinforce(c: Case) -> Tensor:
        return -(c.advantage * Step().log_ratio(c)).mean()

    found = told(reinforce, "flow_grpo", log_prob_reduction="mean")
    assert found.name == "ratio-missing"
    assert "with the same gradient" not in found.cause


def test_a_pair_is_named_however_many_losses_were_looked_at_before() -> None:
    def both(c: Case) -> Tensor:
        return (c.advantage.clamp(min=0) * squared(c.v_theta - c.v_gt)).sum()

    wanted = "outer-product+bad-samples-dropped"
    assert told(both, "awm", reduction="mean").name == wanted
    for _ in range(300):
        stated(replace(entry("awm").derivation))
    assert told(both, "awm", reduction="mean").name == wanted
