"""A named mistake predicts the gradient of code that makes it, on every problem; what is declared then is accepted."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.conventions import Conventions, declare
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.diagnosis.clip_edges import clip_edges
from gradcheck.oracle.diagnosis.evidence import Evidence, explains, observe
from gradcheck.oracle.diagnosis.named import named
from gradcheck.oracle.diagnosis.other_variables import other_variables
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.mistakes import mistakes

from .base import Function, Mutant
from .mutants_trainers import MUTANTS, density, mse, of_the_model, ppo

BY_UNITS = ("convention:pairs", "group-averaged", "group-layout")
"""What rests on how a batch lies is no change of the loss."""


def seen(function: Function, conventions: Conventions) -> tuple[Judge, list[Evidence]]:
    judge = Judge(Adapter(function, "mine", conventions.batch_reduction, 60.0), conventions, max_examples=3)
    pieces = conventions.derivation.pieces
    far = ("off", "outside", "inside") if Piece.RATIO in pieces else ("off",)
    apart = ("mixed",) if Piece.DIVERGENCE in pieces else far
    return judge, [observe(judge, i, apart, "typical") for i in range(5)]


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.cause not in BY_UNITS], ids=lambda m: m.name)
def test_the_mistake_of_that_name_predicts_it(mutant: Mutant) -> None:
    _, evidence = seen(mutant.function, mutant.conventions)
    its_own = [m for m in mistakes(mutant.conventions.derivation) if m.name == mutant.cause]
    assert any(explains(evidence, lambda e, m=m: e.predicted(m)) for m in its_own)


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.cause in BY_UNITS], ids=lambda m: m.name)
def test_other_units_of_a_batch_are_told_as_such(mutant: Mutant) -> None:
    found = named(*seen(mutant.function, mutant.conventions))
    assert found is not None
    assert found.name == mutant.cause


@pytest.mark.parametrize("edge", [1e-3, 5e-2])
def test_a_clip_elsewhere_is_told_to_a_digit(edge: float) -> None:
    """The ratios that problems are drawn with lie around the declared edge, far from this one."""

    def clipped_there(case: Case) -> Tensor:
        a, (*_, ratio) = case.advantage, of_the_model(case)
        return torch.maximum(-a * ratio, -a * ratio.clamp(1 - edge, 1 + edge)).mean()

    found = clip_edges(*seen(clipped_there, declare("flow_grpo", log_prob_reduction="mean", clip_range=1e-4)))
    assert found is not None
    assert found.declare == f"clip_range={edge:g}"


def test_noise_that_is_taken_for_a_velocity_beside_a_stored_log_probability() -> None:
    def on_noise(case: Case) -> Tensor:
        a, after = case.expand(case.alpha_bar), case.expand(case.alpha_bar_prev)
        width = case.noise_level * ((1 - after) / (1 - a) * (1 - a / after)).sqrt()
        data = (case.x_t - (1 - a).sqrt() * case.v_theta) / a.sqrt()
        mean = after.sqrt() * data + (1 - after - width**2).sqrt() * case.v_theta
        new = density(case.x_prev, mean, width) - math.log(2 * math.pi) / 2
        return ppo(case.advantage, torch.exp(new - case.log_prob_old)).mean()

    conventions = declare("ddpo", log_prob_reduction="mean", clip_range=0.2)
    found = other_variables(conventions, seen(on_noise, conventions)[1])
    assert found is not None
    assert found.declare == "prediction='epsilon'"


def test_a_map_of_clipped_advantages_is_told_with_its_number() -> None:
    def mapped(case: Case) -> Tensor:
        r = case.advantage.clamp(-5, 5) / 10 + 0.5
        step = case.beta * (case.v_theta - case.v_old)
        good, bad = (mse(case.v_old + sign * step, case.v_gt) for sign in (1, -1))
        return (r * good + (1 - r) * bad).mean()

    found = named(*seen(mapped, declare("diffusion_nft", reduction="mean")))
    assert found is not None
    assert found.declare == "advantage_mode='all', advantage_clip=5"
    conventions = declare("diffusion_nft", reduction="mean", advantage_mode="all", advantage_clip=5.0)
    assert not any(bool(e.wrong.any()) for e in seen(mapped, conventions)[1])
