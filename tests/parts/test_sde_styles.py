"""Right reverse steps in many styles are never flagged, and the width that this takes hides no mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.claims import Equal
from derivations.steps.sde import SDES
from gradcheck.errors import InputError
from gradcheck.judging.check import Wrong
from gradcheck.judging.results import Outcome
from gradcheck.parts import _sde_checks as checks
from gradcheck.parts import judge_sde_step
from gradcheck.parts._sde_formulas import formulas, wrong_formulas
from gradcheck.parts._sde_parameterisation import ROUTES, STATE, predictions, slope_through_predictions
from gradcheck.parts._sde_subject import SdeStepConvention, Subject
from gradcheck.parts.sde_step import sde_step_part
from parts.base import declared, failed
from parts.sde_styles import KINDS, SIGMA_MIN, STYLES, single_inside_double, styled
from parts.steps import make_step

CHECKS = (
    checks.check_mean,
    checks.check_std,
    checks.check_slope,
    checks.check_log_prob,
    checks.check_log_prob_gradient,
)
ROOM = 0.5
"""Of :data:`gradcheck.rounding.bounds.THRESHOLD`, 4, the most that a right step was ever seen to use is 0.3."""


def subject(kind: str, style: str, dtype: str | None, seed: int) -> Subject:
    convention = SdeStepConvention(sde=kind, working_dtype=dtype, sigma_min=SIGMA_MIN if kind == "wan" else 0.0)
    return Subject(styled(kind, style), style, convention, seed)


def ratios(one: Subject) -> dict[str, float]:
    def run(outcome: Outcome) -> float:
        assert outcome.status == "passed", outcome.detail
        return outcome.ratio

    return {check.__name__: run(check(one)) for check in CHECKS}


@pytest.mark.parametrize("dtype", [None, "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_style_comes_near_the_bound(kind: str, dtype: str | None) -> None:
    for seed in (0, 3):
        for style in STYLES:
            used = ratios(subject(kind, style, dtype, seed))
            assert max(used.values()) < ROOM, (style, used)


@pytest.mark.parametrize("kind", KINDS)
def test_styles_conform_as_a_whole(kind: str) -> None:
    named = {"sde": kind, "sigma_min": SIGMA_MIN} if kind == "wan" else {"sde": kind}
    assert not failed(judge_sde_step(styled(kind, "noise_prediction"), seed=5, working_dtype="float32", **named))
    assert not failed(judge_sde_step(single_inside_double(kind), seed=5, working_dtype="float32", **named))


@pytest.mark.parametrize("kind", KINDS)
def test_the_width_hides_no_mistake_in_float32(kind: str) -> None:
    """Each wrong formula is refused by some obligation at the width that float32 and a detour are allowed."""
    right = subject(kind, "canonical", "float32", 1)
    for name, _, wrong in wrong_formulas(right.formulas):
        if name == "two-pi-float32" or replace(wrong, std=right.formulas.std) == right.formulas:
            continue  # what float32 holds is right in float32; and of the deviation of samples alone, these tell
        mistaken = replace(right, wrong=wrong)
        assert any(refused(check, mistaken) for check in CHECKS), name


def refused(check: Callable[[Subject], Outcome], mistaken: Subject) -> bool:
    """Whether a check fails, or raises what it saw: that a formula is no number somewhere, for instance."""
    try:
        return check(mistaken).status == "failed"
    except Wrong:
        return True


@pytest.mark.parametrize("step", SDES, ids=lambda s: s.name)
def test_every_detour_is_an_identity(step) -> None:  # type: ignore[no-untyped-def]
    """Else its rounding error would be that of another step."""

    def inline(expr: sp.Expr) -> sp.Expr:
        return expr.xreplace(predictions)

    for route in ROUTES:
        assert Equal(route, n.v_theta).residual(inline) == 0
    assert Equal(STATE, n.x_t).residual(inline) == 0
    assert sp.simplify(slope_through_predictions(step.name) - n.C1) == 0


def test_a_detour_costs_what_the_analysis_says() -> None:
    """Near data x̂_0 loses log₂(1/t) bits, and near noise ε̂ does: bounds at the ends exceed those amid the axis."""
    one = subject("dance", "canonical", "float32", 0)
    case = one.problem(next(one.problems())[0])
    ends = case.replace(t=torch.tensor([0.01, 0.5, 0.99]).double())
    v = formulas("dance", "step", "mean", "gaussian", "full").slope * n.v_theta
    scale = one.required(v, ends)[1].flatten(1).mean(1) / one.required(v, ends)[0].abs().flatten(1).mean(1)
    assert scale[0] > 5 * scale[1]
    assert scale[2] > 5 * scale[1]


def _without_generator(v, x_t, t, t_prev, x_prev=None, noise_level=0.7):  # type: ignore[no-untyped-def]
    return make_step()(v, x_t, t, t_prev, x_prev, noise_level)


def _either(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
    """diffusers' pipelines refuse a state to replay and a generator together."""
    if x_prev is not None and generator is not None:
        raise ValueError("cannot pass both generator and prev_sample")
    return make_step()(v, x_t, t, t_prev, x_prev, noise_level, generator)


def test_a_step_need_not_take_a_generator() -> None:
    """Nor take it where a state is replayed; a wrong one is wrong all the same."""
    judgement = judge_sde_step(_without_generator)
    assert not failed(judgement)
    assert {r.id for r in judgement.results if r.status == "skipped"} == {"generator"}
    assert not failed(judge_sde_step(_either))
    assert failed(judge_sde_step(_without_generator, sde="dance"))["mean"] == "convention:sde"


def _jitter(v, x_t, t, t_prev, x_prev=None, noise_level=0.7, generator=None):  # type: ignore[no-untyped-def]
    state, log_prob, mean, std = make_step()(v, x_t, t, t_prev, x_prev, noise_level, generator)
    return state, log_prob + 1e-13 * torch.rand(()), mean, std


def test_a_random_number_where_nothing_is_sampled_is_seen() -> None:
    judgement = sde_step_part(_jitter).judge(["determinism"])
    assert failed(judgement) == {"determinism": "changes"}


@pytest.mark.parametrize("number", [0.99, 0.995])
def test_a_number_may_stand_for_one_in_the_diffusion_coefficient(number: float) -> None:
    def sigma(T: Tensor, P: Tensor, a: float) -> Tensor:
        return torch.sqrt(T / (1 - torch.where(T == 1, number, T))) * a

    step = make_step(sigma=sigma)
    assert not failed(judge_sde_step(step, at_one=number))
    judgement = judge_sde_step(step)
    assert failed(judgement) == {"time-grid": "convention:at_one"}
    assert declared(judgement) == {f"at_one={number}"}
    with pytest.raises(InputError, match="at_one"):
        judge_sde_step(step, at_one=1.5)
