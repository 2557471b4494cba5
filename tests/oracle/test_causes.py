"""Causes in the ways in which trainers write code: stored log-probabilities, float32, official clips, two mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.runner import judge
from gradcheck.oracle.subject import Settings, Subject


def told(
    function: Callable[[Case], Tensor], algorithm: str, *only: str, examples: int = 3, **declared: Any
) -> Diagnosis:
    """What the first failing obligation is said to come from."""
    subject = Subject(function, "mine", declare(algorithm, **declared))
    found = judge(subject, Settings(max_examples=examples), only or ("gradient",))
    diagnosis = next(r.diagnosis for r in found.results if r.outcome.status == "failed")
    assert diagnosis is not None
    return diagnosis


@dataclass(frozen=True)
class Trainer:
    """Flow-GRPO with the old log-probability as it was stored, or computed by the trainer's own step."""

    dtype: torch.dtype = torch.float64
    clip: float = 0.2
    stored: bool = True

    def times(self, case: Case) -> tuple[Tensor, Tensor]:
        return case.expand(case.t).to(self.dtype), case.expand(case.dt).to(self.dtype)

    def mean(self, case: Case, v: Tensor) -> Tensor:
        t, dt = self.times(case)
        drift = self.sigma(case) ** 2 / (2 * t)
        return case.x_t.to(self.dtype) * (1 - drift * dt) - v.to(self.dtype) * (1 + drift * (1 - t)) * dt

    def sigma(self, case: Case) -> Tensor:
        t, _ = self.times(case)
        return case.noise_level * torch.sqrt(t / (1 - t))

    def std(self, case: Case) -> Tensor:
        return self.sigma(case) * self.times(case)[1].sqrt()

    def advantage(self, case: Case) -> Tensor:
        a: Tensor = case.advantage
        return a

    def log_prob(self, case: Case, v: Tensor) -> Tensor:
        std = self.std(case)
        error = (case.x_prev.to(self.dtype) - self.mean(case, v)) ** 2
        return (-error / (2 * std**2) - std.log() - math.log(2 * math.pi) / 2).flatten(1).mean(1)

    def surrogate(self, ratio: Tensor, a: Tensor) -> Tensor:
        return torch.maximum(-a * ratio, -a * ratio.clamp(1 - self.clip, 1 + self.clip))

    def __call__(self, case: Case) -> Tensor:
        old = case.log_prob_old if self.stored else self.log_prob(case, case.v_old).detach()
        ratio = torch.exp(self.log_prob(case, case.v_theta) - old)
        return self.surrogate(ratio, self.advantage(case)).mean()


class NoScore(Trainer):
    def mean(self, case: Case, v: Tensor) -> Tensor:
        return case.x_t.to(self.dtype) - v.to(self.dtype) * self.times(case)[1]


class StdWithoutDt(Trainer):
    def std(self, case: Case) -> Tensor:
        return self.sigma(case) + 0 * self.times(case)[1]


class OneStepForAll(Trainer):
    def times(self, case: Case) -> tuple[Tensor, Tensor]:
        t, dt = super().times(case)
        return t.mean(), dt.mean()


class NextTime(Trainer):
    def times(self, case: Case) -> tuple[Tensor, Tensor]:
        return case.expand(case.t_prev).to(self.dtype), case.expand(case.dt).to(self.dtype)


class AverageAdvantage(Trainer):
    def advantage(self, case: Case) -> Tensor:
        return super().advantage(case).mean()


class NeighbourAdvantage(Trainer):
    def advantage(self, case: Case) -> Tensor:
        return super().advantage(case).roll(1)


class Unclipped(Trainer):
    def surrogate(self, ratio: Tensor, a: Tensor) -> Tensor:
        return -a * ratio


class NoScoreUnclipped(NoScore, Unclipped):
    pass


class StdAndAdvantage(StdWithoutDt, AverageAdvantage):
    pass


WRONG = (
    (NoScore, "score-correction-missing"),
    (StdWithoutDt, "std-without-dt"),
    (OneStepForAll, "step-averaged"),
    (NextTime, "step-time-after"),
    (AverageAdvantage, "advantage-averaged"),
    (NeighbourAdvantage, "advantage-of-neighbour"),
    (NoScoreUnclipped, "clip-missing+score-correction-missing"),
    (StdAndAdvantage, "advantage-averaged+std-without-dt"),
)
STYLES = (
    Trainer(),
    Trainer(clip=1e-4),
    Trainer(torch.float32, clip=1e-4),
    Trainer(torch.float32, stored=False),
)


@pytest.mark.parametrize(("kind", "name"), WRONG, ids=[name for _, name in WRONG])
def test_a_mistake_is_named_in_every_style(kind: type[Trainer], name: str) -> None:
    style = STYLES[[k for k, _ in WRONG].index(kind) % len(STYLES)]
    single = {"working_dtype": "float32"} if style.dtype == torch.float32 else {}
    loss = kind(style.dtype, style.clip, style.stored)
    found = told(loss, "flow_grpo", log_prob_reduction="mean", clip_range=style.clip, **single)
    assert found.name == name, found.cause


def test_a_step_of_another_kind_is_a_declaration_where_the_log_probability_is_stored() -> None:
    class Dance(Trainer):
        def sigma(self, case: Case) -> Tensor:
            return case.noise_level * torch.ones_like(self.times(case)[0])

    found = told(Dance(), "flow_grpo", log_prob_reduction="mean", clip_range=0.2)
    assert found.declare == "sde='dance'"


# --------------------------------------------------------------------------- what is known where no cause fits


def error(case: Case) -> Tensor:
    squared: Tensor = (case.v_theta - case.v_gt) ** 2
    return squared


def test_the_coordinates_that_are_off_are_told() -> None:
    def last_channel(case: Case) -> Tensor:
        weight = torch.ones_like(case.v_theta)
        weight[:, -1] = 0.3
        return (case.advantage * (weight * error(case)).flatten(1).mean(1)).mean()

    found = told(last_channel, "awm", reduction="mean")
    assert found.name == "coordinates-masked"
    assert "at the last index of the first axis are weighed 0.3 in the error" in found.cause


def test_the_others_quantities_that_matter_are_told_and_no_more() -> None:
    def by_its_rank(case: Case) -> Tensor:
        rank = (case.advantage[:, None] > case.advantage[None, :]).sum(1) + 1.0
        return (case.advantage * rank * error(case).flatten(1).mean(1)).mean()

    found = told(by_its_rank, "awm", reduction="mean")
    assert found.cause.endswith("depends on the other samples' A"), "and on nothing else of theirs"


def test_on_what_an_unexplained_weight_rests_is_told() -> None:
    """A weight of the positive branch alone, made of the behaviour model's error: v_θ does not enter it."""

    def unsure(case: Case) -> Tensor:
        def mean(x: Tensor) -> Tensor:
            return ((x - case.v_gt) ** 2).flatten(1).mean(1)

        b, r = case.beta, case.reward_prob
        plus, minus = (1 - b) * case.v_old + b * case.v_theta, (1 + b) * case.v_old - b * case.v_theta
        return (r * torch.sigmoid(mean(case.v_old)) * mean(plus) + (1 - r) * mean(minus)).mean()

    found = told(unsure, "diffusion_nft", reduction="mean")
    assert "along v_θ − v_gt it is 0." in found.cause
    assert found.cause.endswith("by how much it is off depends on the sample's own v_old, x_0, ε and r")


def test_what_is_right_beside_a_mistake_is_told_as_right() -> None:
    """Also the formula of a term that a clip stops in some samples: it is the required one, mask and all."""

    class KlDetached(Trainer):
        def __call__(self, case: Case) -> Tensor:
            kl = (self.mean(case, case.v_theta) - self.mean(case, case.v_ref)) ** 2 / (2 * self.std(case) ** 2)
            return super().__call__(case) + case.kl_weight * kl.detach().mean()

    found = told(KlDetached(), "flow_grpo", log_prob_reduction="mean", clip_range=0.2, kl="step")
    yours, required = dict(found.observed), dict(found.required)
    assert found.name == "kl-without-gradient"
    assert yours["ε"] == required["ε"]
    assert "m = 0 where a clip or mask stops the sample" in required["ε"]
    assert "v_θ − v_ref" in required
    assert "v_θ − v_ref" not in yours


def test_a_term_that_is_added_is_told_with_its_weight() -> None:
    class Penalised(Trainer):
        def __call__(self, case: Case) -> Tensor:
            log_ratio = self.log_prob(case, case.v_theta) - case.log_prob_old
            return super().__call__(case) + 0.005 * (log_ratio**2).mean()

    found = told(Penalised(), "flow_grpo", log_prob_reduction="mean", clip_range=0.2)
    assert found.name == "term-added"
    assert "0.005 times (log r)²" in found.cause


def test_a_small_shift_is_no_factor() -> None:
    def float32_constant(case: Case) -> Tensor:
        return Trainer()(case) * (1 + 2e-8)

    found = told(float32_constant, "flow_grpo", log_prob_reduction="mean", clip_range=0.2)
    assert "factor=1" not in found.declare, found


def _in_float32(case: Case, target: Callable[[Tensor, Tensor], Tensor] = torch.sub) -> Tensor:
    error = (case.v_theta.float() - target(case.noise.float(), case.x_0.float())) ** 2
    return case.advantage.float() * error.flatten(1).mean(1)


@pytest.mark.parametrize(
    ("loss", "name", "declaration"),
    [
        (lambda c: -_in_float32(c).mean(), "sign", "factor=-1, working_dtype='float32'"),
        (lambda c: 1.01 * _in_float32(c).mean(), "factor", "factor=1.01, working_dtype='float32'"),
        (lambda c: _in_float32(c, torch.add).mean(), "velocity-sum", ""),
    ],
)
def test_a_mistake_in_code_that_casts_inside_is_named(
    loss: Callable[[Case], Tensor], name: str, declaration: str
) -> None:
    """What it predicts is met to float32's rounding alone, and both are told."""
    found = told(loss, "awm", reduction="mean")
    assert (found.name, found.declare) == (name, declaration)
    assert "working_dtype='float32'" in found.cause


@pytest.mark.parametrize(("factor", "name"), [(2.0, "factor-2"), (-1.0, "sign"), (4.0, "factor")])
def test_a_factor_is_named_in_a_precision_that_bounds_it_loosely(factor: float, name: str) -> None:
    """Declared bfloat16 would allow for causes that predict the right gradient: none of them is named."""

    def in_bfloat16(case: Case) -> Tensor:
        v = case.v_theta.to(torch.bfloat16).float()
        error = (v - (case.noise - case.x_0).float()) ** 2
        return factor * (case.advantage.float() * error.flatten(1).mean(1)).mean()

    assert told(in_bfloat16, "awm", reduction="mean", working_dtype="bfloat16").name == name


def test_what_is_wrong_for_every_rank_declares_none() -> None:
    """That a masked loss is right on some small problems says nothing of the latents' rank."""

    def twice_the_root(case: Case) -> Tensor:
        mean = case.mean_offset - case.expand(case.C1) * case.v_theta
        step = torch.distributions.Normal(mean, case.expand(case.sigma_t * case.dt.sqrt()))
        ratio = (step.log_prob(case.x_prev).flatten(1).mean(1) - case.log_prob_old).exp()
        moved = (mean - case.mean_old).square().flatten(1).mean(1) / 2 / (case.sigma_t * case.dt).square()
        off = (moved > case.divergence_max) & (case.advantage * (ratio - 1) > 0)
        return -(case.advantage * ratio * ~off).mean()

    found = told(twice_the_root, "flow_dppo", examples=10, log_prob_reduction="mean", sde="dance")
    assert found.name == "divergence-std-dt-twice"
    assert found.declare == ""


def test_one_coordinate_hides_no_formula() -> None:
    """The problem that is printed has a single coordinate, on which a gradient has many decompositions."""

    def broadcast(case: Case) -> Tensor:
        error = ((case.v_theta - case.noise + case.x_0) ** 2).flatten(1).sum(1, keepdim=True)
        return (case.advantage * error).mean()

    found = told(broadcast, "awm")
    assert found.name == "advantage-averaged"
    assert dict(found.required) == {"v_θ − v_gt": "2A/B"}
