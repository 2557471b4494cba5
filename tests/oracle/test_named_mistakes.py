"""A named mistake predicts the gradient of code that makes it, on every problem; what is declared then is accepted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.conventions import Conventions, declare
from gradcheck.judging.adapter import Adapter
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.arrangements import mistakes_of_arrangement
from gradcheck.oracle.diagnosis.clip_edges import clip_edges
from gradcheck.oracle.diagnosis.declarable import known_weight
from gradcheck.oracle.diagnosis.evidence import Evidence, evidence_on, explains, observe
from gradcheck.oracle.diagnosis.factors import factor
from gradcheck.oracle.diagnosis.fitted import fitted_number, held_number
from gradcheck.oracle.diagnosis.named import named
from gradcheck.oracle.diagnosis.other_variables import other_variables
from gradcheck.oracle.diagnosis.shortened import shortened
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.mistakes import Prediction, mistakes
from gradcheck.problems.building import Spec

from .base import Function, Mutant, refused
from .mutants_trainers import density, mean, mse, of_the_model, ppo, std
from .steps import log_ratio_of
from .table import MUTANTS
from .test_causes import told


def seen(function: Function, conventions: Conventions) -> tuple[Judge, list[Evidence]]:
    judge = Judge(Adapter(function, "mine", conventions.batch_reduction, 60.0), conventions, max_examples=3)
    pieces = conventions.derivation.pieces
    far = ("off", "outside", "inside") if Piece.RATIO in pieces else ("off",)
    apart = ("mixed",) if Piece.DIVERGENCE in pieces else far
    return judge, [observe(judge, i, apart, "typical") for i in range(5)]


_OTHERWISE = (
    *("convention", "advantage-unclamped", "batch-normalised", "edge-times", "factor", "factor-2", "factor-half"),
    *("half-precision", "in-place", "layout", "missing-detach", "on-policy", "over-beta", "overflow", "shape-factor"),
    *("sign", "state", "value"),
)
"""Causes that are found otherwise than by a mistake of the list; ``convention:…`` too."""
_ELSEWHERE = (
    "flow_grpo-clip-edges-exchanged",
    "flow_grpo-lower-edge-on-both-sides",
    "flow_grpo-upper-edge-on-both-sides",
    "flow_grpo-advantage-by-variance",
    "flow_dppo-bad-samples-never-stopped",
    "flow_dppo-divergence-without-half",
    "diffusion_nft-not-divided-by-beta",
)
"""Mutants that these few problems do not tell from what is right, or whose list has them under a factor."""
PREDICTED = [m for m in MUTANTS if m.cause.partition(":")[0] not in _OTHERWISE and m.name not in _ELSEWHERE]


@pytest.mark.parametrize("mutant", PREDICTED, ids=lambda m: m.name)
def test_the_mistake_of_that_name_predicts_it(mutant: Mutant) -> None:
    _, evidence = seen(mutant.function, mutant.conventions)
    own = [m for m in mistakes(mutant.conventions.derivation) if m.name == mutant.cause]
    predictions: list[Callable[[Evidence], Tensor | Prediction]] = [lambda e, m=m: e.predicted(m) for m in own]  # type: ignore[misc]
    predictions += [m.predict for m in mistakes_of_arrangement(mutant.conventions) if m.name == mutant.cause]
    assert any(explains(evidence, predict) for predict in predictions)


@pytest.mark.parametrize("edge", [1e-3, 5e-2])
def test_a_clip_elsewhere_is_told_to_a_digit(edge: float) -> None:
    """The ratios that problems are drawn with lie around the declared edge, far from this one."""

    def clipped_there(case: Case) -> Tensor:
        a, (*_, ratio) = case.advantage, of_the_model(case)
        return torch.maximum(-a * ratio, -a * ratio.clamp(1 - edge, 1 + edge)).mean()

    found = clip_edges(*seen(clipped_there, declare("flow_grpo", log_prob_reduction="mean", clip_range=1e-4)))
    assert found is not None
    assert found.declare == f"clip_range={edge:g}"


@pytest.mark.parametrize("edges", [(1e-3, 1e-3), (1e-4, 2e-4), (5e-5, 1e-4)])
def test_a_clip_elsewhere_is_refused_in_float32(edges: tuple[float, float]) -> None:
    """So near to the declared edges that float32 decides no ratio, and so far off that any clip acts, tell nothing."""

    def clipped_there(case: Case) -> Tensor:
        a, (*_, ratio) = case.advantage.float(), of_the_model(case.replace(x_prev=case.x_prev.float()))
        ratio = ratio.float()
        return torch.maximum(-a * ratio, -a * ratio.clamp(1 - edges[0], 1 + edges[1])).mean()

    declared = {"log_prob_reduction": "mean", "clip_range": 1e-4, "working_dtype": "float32"}
    assert refused(Mutant("elsewhere", "flow_grpo", declared, clipped_there, "clip", ""), "clip")
    assert not refused(Mutant("right", "flow_grpo", declared, clipped_at_declared, "clip", ""), "clip")


def clipped_at_declared(case: Case) -> Tensor:
    a, (*_, ratio) = case.advantage.float(), of_the_model(case)
    return torch.maximum(-a * ratio.float(), -a * ratio.float().clamp(1 - 1e-4, 1 + 1e-4)).mean()


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


def test_a_dual_clip_elsewhere_is_told_by_ratios_that_are_rare() -> None:
    """Between its limit and the declared one lies no ratio of an ordinary problem."""

    def clipped_at_five(case: Case) -> Tensor:
        a, (*_, ratio) = case.advantage, of_the_model(case)
        loss = ppo(a, ratio)
        return torch.where(a < 0, torch.minimum(loss, -5 * a), loss).mean()

    conventions = declare("flow_grpo", log_prob_reduction="mean", clip="dual", clip_range=0.2)
    judge, _ = seen(clipped_at_five, conventions)
    spec = Spec(60, (5,), 1, policy="ratios", advantage="typical", time="middle")
    found = fitted_number(judge, [evidence_on(judge, spec)])
    assert found is not None
    assert found.declare == "dual_clip=5"


def test_no_cause_is_sought_of_what_has_no_two_gradients_alike() -> None:
    """Of a warm-up by calls each gradient alone is the required one times a number, which is no cause."""
    calls = 0

    def warmed_up(case: Case) -> Tensor:
        nonlocal calls
        calls += 1
        return min(1.0, calls / 1000) * (case.advantage * mse(case.v_theta, case.v_gt)).mean()

    def dropped_out(case: Case) -> Tensor:
        return (case.advantage * mse(functional.dropout(case.v_theta, 0.5), case.v_gt)).mean()

    for function in (warmed_up, dropped_out):
        assert told(function, "awm", reduction="mean").name == "state"


def test_a_layout_is_blamed_only_if_another_one_is_right() -> None:
    def without_outliers(case: Case) -> Tensor:
        errors = mse(case.v_theta, case.v_gt)
        return (case.advantage * errors * (errors < 4 * errors.mean())).mean()

    def halves_of_the_last_axis(case: Case) -> Tensor:
        v = case.v_theta
        odd = v.ndim > 2 and v.shape[-1] > 60
        return (
            case.advantage * mse(v[..., : v.shape[-1] // 2] if odd else v, case.v_gt[..., : v.shape[-1] // (1 + odd)])
        ).mean()

    assert told(without_outliers, "awm", "shapes", reduction="mean").name == "unknown"
    assert told(halves_of_the_last_axis, "awm", "shapes", reduction="mean").name == "layout"


def test_a_layout_is_not_blamed_for_what_shows_beyond_the_clip_alone() -> None:
    def worse_of_the_means(case: Case) -> Tensor:
        log_ratio = log_ratio_of(case)
        kept, clipped = log_ratio.exp() * case.advantage, log_ratio.exp().clamp(0.8, 1.2) * case.advantage
        return torch.maximum(-kept.mean(), -clipped.mean())

    cause = told(worse_of_the_means, "flow_grpo", "shapes", log_prob_reduction="mean", clip_range=0.2)
    assert cause.name == "unknown"


def test_a_mistake_that_takes_another_samples_number_is_tried_where_it_is_one() -> None:
    """In the space of what the network puts out a weight is 1: another sample's 1 has to be evaluated too."""

    def weighted(case: Case) -> Tensor:
        return (case.advantage / case.t * ((case.x_0_theta - case.x_0) ** 2).flatten(1).mean(1)).mean()

    cause = told(weighted, "awm", "gradient", reduction="mean", prediction="x0", error_space="output")
    assert (cause.name, "1/t" in cause.cause) == ("factor", True)


@pytest.mark.parametrize(
    ("how", "word"), [("number", "clamped to ±0.05"), ("sample", "each sample's"), ("batch", "each batch's")]
)
def test_a_gradient_that_is_cut_off_on_its_way_is_told_so(how: str, word: str) -> None:
    def cut(g: Tensor) -> Tensor:
        if how == "number":
            return g.clamp(-0.05, 0.05)
        size = g.flatten(1).norm(dim=1) if how == "sample" else g.norm().expand(len(g))
        shorter: Tensor = g * (0.3 / size).clamp(max=1).reshape(-1, *(1,) * (g.ndim - 1))
        return shorter

    def loss(case: Case) -> Tensor:
        v = case.v_theta * 1
        v.register_hook(cut)
        return (case.advantage * mse(v, case.v_gt)).mean()

    found = shortened(*seen(loss, declare("awm", reduction="mean")))
    assert found is not None
    assert word in found.cause


def held_level(case: Case) -> Tensor:
    """Flow-GRPO whose noise level is 0.7, whatever the case has."""
    own, t, dt = case.replace(noise_level=0.7), case.expand(case.t), case.expand(case.dt)
    new, old = (density(case.x_prev, mean(own, v, t, dt), std(own, t, dt)) for v in (case.v_theta, case.v_old))
    return ppo(case.advantage, torch.exp(new - old)).mean()


def held_beta(case: Case) -> Tensor:
    """DiffusionNFT whose β is 0.1, whatever the case has."""
    good, bad = (mse(case.v_old + sign * 0.1 * (case.v_theta - case.v_old), case.v_gt) for sign in (1, -1))
    return (case.reward_prob * good + (1 - case.reward_prob) * bad).mean()


@pytest.mark.parametrize(
    ("function", "algorithm", "named_so", "declared"),
    [
        (held_level, "flow_grpo", "noise_level=0.7", {"log_prob_reduction": "mean", "clip_range": 0.2}),
        (held_beta, "diffusion_nft", "beta=0.1", {"reduction": "mean"}),
    ],
    ids=lambda x: x.__name__ if callable(x) else None,
)
def test_a_number_that_code_holds_itself_is_told(
    function: Function, algorithm: str, named_so: str, declared: dict[str, Any]
) -> None:
    found = held_number(*seen(function, declare(algorithm, **declared)))
    assert found is not None
    assert found.declare == named_so
    name, _, value = named_so.partition("=")
    assert not any(
        bool(e.wrong.any()) for e in seen(function, declare(algorithm, **declared, **{name: float(value)}))[1]
    )


def min_snr(case: Case) -> Tensor:
    weight = ((1 - case.t) / case.t).pow(2).clamp(max=5)
    return (weight * case.advantage * mse(case.v_theta, case.v_gt)).mean()


def undivided_guard(case: Case) -> Tensor:
    at, new, _ = of_the_model(case)
    width = case.expand(case.C2)
    bias = ((at - case.mean_old) ** 2 / (2 * width**2)).flatten(1).mean(1)
    ratio = torch.exp((new - density(case.x_prev, case.mean_old, width) + bias) * case.C2)
    return ppo(case.advantage, ratio).mean()


@pytest.mark.parametrize(
    ("function", "explain", "algorithm", "declared"),
    [
        (min_snr, known_weight, "awm", {"reduction": "mean"}),
        (undivided_guard, named, "grpo_guard", {"log_prob_reduction": "mean", "clip_range": 0.2}),
    ],
    ids=lambda x: x.__name__ if callable(x) else None,
)
def test_a_weight_that_is_told_can_be_declared(
    function: Function,
    explain: Callable[[Judge, list[Evidence]], Diagnosis | None],
    algorithm: str,
    declared: dict[str, Any],
) -> None:
    found = explain(*seen(function, declare(algorithm, **declared)))
    assert found is not None
    keyword, _, line = found.declare.partition("=")
    assert keyword == "weight"
    weighed = declare(algorithm, weight=line.strip("'"), **declared)
    assert not any(bool(e.wrong.any()) for e in seen(function, weighed)[1])


def test_code_that_takes_whole_pairs_is_told_how_they_lie() -> None:
    def on_pairs(case: Case) -> Tensor:
        winners, losers = (mse(case.v_theta, case.v_gt) - mse(case.v_ref, case.v_gt)).chunk(2)
        return -functional.logsigmoid(-case.beta_dpo * (winners - losers)).mean()

    assert told(on_pairs, "diffusion_dpo", reduction="mean").declare == "pairs='halves'"


@pytest.mark.parametrize(
    ("clamp", "name"),
    [
        (lambda a: a.clamp(-10, 10), "convention:adv_clip_max"),
        (lambda a: a.clamp(max=5), "advantage-clamped-on-one-side"),
    ],
    ids=["elsewhere", "on-one-side"],
)
def test_another_clamp_of_the_advantage_is_told_in_float32(clamp: Callable[[Tensor], Tensor], name: str) -> None:
    """On ordinary problems it is right, and wrong on the shown one; not where v_theta = v_old alone."""

    def otherwise(case: Case) -> Tensor:
        *_, ratio = of_the_model(case)
        return ppo(clamp(case.advantage).float(), ratio.float()).mean()

    declared = {"log_prob_reduction": "mean", "clip_range": 0.2, "adv_clip_max": 5.0, "working_dtype": "float32"}
    judge, _ = seen(otherwise, declare("flow_grpo", **declared))
    extreme = [Spec(6, (3, 4), i, policy="inside", advantage="extreme", time="middle") for i in range(3)]
    found = named(judge, [evidence_on(judge, spec) for spec in extreme])
    assert found is not None
    assert found.name == name


def test_a_mean_over_one_coordinate_less_is_told() -> None:
    def unbiased(case: Case) -> Tensor:
        errors = ((case.v_theta - case.v_gt) ** 2).flatten(1)
        return (case.advantage * errors.sum(1) / max(errors.shape[1] - 1, 1)).mean()

    judge, evidence = seen(unbiased, declare("awm", reduction="mean"))
    found = factor(judge, [*evidence, evidence_on(judge, Spec(4, (1,), 0))])
    assert found is not None
    assert found.name == "mean-over-one-less"


# ---------------------------------------------------------------------------------- what rounding leaves open


def on_either_branch(e: Evidence) -> Prediction:
    """Of half the required gradient, and three times that on the other branch, which is open in the first sample."""
    undecided = torch.arange(len(e.required)) == 0
    half = Prediction(e.required / 2, undecided, torch.zeros(len(e.required)), lambda: (3 * e.required / 2,))
    return half.times(2.0)


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [(1.0, 1.0, True), (3.0, 1.0, True), (1.5, 1.0, False), (1.0, 3.0, False), (3.0, 3.0, False)],
)
def test_either_branch_is_the_predicted_one_where_rounding_leaves_it_open(
    first: float, second: float, allowed: bool
) -> None:
    """Under a factor as well, which multiplies every branch."""
    _, evidence = seen(lambda case: (case.advantage * mse(case.v_theta, case.v_gt)).mean(), declare("awm"))
    e = evidence[0]
    times = torch.ones(len(e.required), dtype=torch.float64)
    times[0], times[1] = first, second
    own = replace(e, observed=times.reshape(-1, *(1,) * (e.required.ndim - 1)) * e.required)
    assert own.allows(on_either_branch(own)) == allowed
    assert bool(own.fits(on_either_branch(own))[0].all()) == allowed


def test_other_branches_are_computed_only_where_the_first_one_is_not_out() -> None:
    _, (e, *_) = seen(lambda case: (case.advantage * mse(case.v_theta, case.v_gt)).mean(), declare("awm"))

    def never() -> tuple[Tensor, ...]:
        raise AssertionError

    undecided = torch.arange(len(e.required)) == 0
    wrong = Prediction(5 * e.required, undecided, torch.zeros(len(e.required)), never)
    assert not e.allows(wrong.times(2.0))
