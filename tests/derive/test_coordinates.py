"""Losses of functions of coordinates: gradients proved from the definition, autograd's, and implementations judged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sympy as sp
import torch
from torch import Tensor
from torch.nn import functional

from derivations.calculus import (
    Dot,
    Each,
    Norm2,
    Total,
    VectorSymbol,
    gradient,
    gradient_residual,
    is_zero,
    kind,
    sg,
)
from derivations.grammar import read
from derivations.grammar.from_text import derive_statement
from derivations.grammar.kinks import Magnitude, lower
from derivations.notation import D, advantage, v_gt, v_old, v_ref, v_theta
from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.deriving.checking import check
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.checks.gradient import check_gradient
from gradcheck.oracle.judge import Judge
from gradcheck.problems.building import Spec, build
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.streaming import compare_gradient

_A, _B = VectorSymbol("a"), VectorSymbol("b")
_ERROR = v_theta - v_gt


@pytest.mark.parametrize(
    ("total", "same"),
    [
        (Total((_A - _B) ** 2), Norm2(_A - _B)),
        (Total(3 * advantage * _A * _B), 3 * advantage * Dot(_A, _B)),
        (Total((_A - _B) ** 2 + sp.exp(_A)), Norm2(_A) - 2 * Dot(_A, _B) + Norm2(_B) + Total(sp.exp(_A))),
        (Total((_A + _B) * sp.exp(_A)), Dot(_A + _B, Each(sp.exp(_A)))),
        (Total(_A**4), Norm2(Each(_A**2))),
        (Total(Norm2(_B) * _A**3), Norm2(_B) * Total(_A**3)),
    ],
)
def test_a_sum_over_coordinates_is_the_inner_product_that_it_equals(total: sp.Expr, same: sp.Expr) -> None:
    assert is_zero(total - same)
    assert not is_zero(total - 2 * same)


def test_what_is_linear_is_a_vector_and_what_is_detached_stays_so() -> None:
    assert Each(2 * _A - advantage * _B) == 2 * _A - advantage * _B
    assert kind(Each(_A**2)) == "vector"
    assert gradient(Total(sg(Each(_ERROR**2)) * v_theta), v_theta) == sg(Each(_ERROR**2))


@pytest.mark.parametrize(
    "loss",
    [
        Total(sp.sqrt(_ERROR**2 + sp.Rational(1, 100))),
        Total(v_ref * _ERROR**2) / Total(v_ref**2),
        sp.exp(-Total(v_ref * _ERROR**2) / D) * advantage,
        Total(_ERROR**4 * Norm2(v_theta - v_old)),
        Total(lower(Magnitude(_ERROR), lambda e: e.has(v_theta))),
        sp.log(1 + sp.exp(Total(v_ref * _ERROR**2))),
    ],
    ids=str,
)
def test_a_gradient_is_proved_and_a_wrong_one_refused(loss: sp.Expr) -> None:
    right = gradient(loss, v_theta)
    assert gradient_residual(loss, v_theta, right) == 0
    for wrong in (-right, right + v_theta, right.xreplace({v_gt: v_old}), right + Each(v_gt**2)):
        assert gradient_residual(loss, v_theta, wrong) != 0


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _clip_error(case: Case) -> Tensor:
    return (case.v_theta.clamp(-1, 1) - case.v_gt) ** 2


def _ratio(case: Case) -> Tensor:
    """The importance ratio of each coordinate."""
    t, dt = case.expand(case.t), case.expand(case.dt)
    std = case.noise_level * torch.sqrt(t / (1 - t)) * dt.sqrt()
    at = lambda v: v * (1 + (case.noise_level**2 * t / (1 - t)) * (1 - t) / (2 * t)) * dt  # noqa: E731
    state = case.x_t * (1 - case.noise_level**2 * dt / (2 * (1 - t)))
    new, old = ((case.x_prev - (state - at(v))) ** 2 for v in (case.v_theta, case.v_old))
    return torch.exp(-(new - old) / (2 * std**2))


def _ppo(case: Case, low: float) -> Tensor:
    r, a = _ratio(case), case.expand(case.advantage)
    return -_mean(torch.min(r * a, r.clamp(low, 1.2) * a))


_LOSSES: dict[str, tuple[str, Callable[[Case], Tensor], Callable[[Case], Tensor]]] = {
    "l1": (
        "A*mean(abs(v_theta - v_gt))",
        lambda c: c.advantage * _mean((c.v_theta - c.v_gt).abs()),
        lambda c: c.advantage * _mean((c.v_theta - c.v_gt) ** 2).sqrt(),
    ),
    "huber": (
        "mean(huber(v_theta - v_gt, 0.1))",
        lambda c: _mean(functional.huber_loss(c.v_theta, c.v_gt, reduction="none", delta=0.1)),
        lambda c: _mean(functional.smooth_l1_loss(c.v_theta, c.v_gt, reduction="none", beta=0.1)),
    ),
    "smooth-l1": (
        "A*mean(smooth_l1(v_theta - v_gt, 0.5))",
        lambda c: c.advantage * _mean(functional.smooth_l1_loss(c.v_theta, c.v_gt, reduction="none", beta=0.5)),
        lambda c: c.advantage * _mean(functional.huber_loss(c.v_theta, c.v_gt, reduction="none", delta=0.5)),
    ),
    "pseudo-huber": (
        "mean(sqrt((v_theta - v_gt)**2 + 0.01) - 0.1)",
        lambda c: _mean(((c.v_theta - c.v_gt) ** 2 + 0.01).sqrt() - 0.1),
        lambda c: _mean((c.v_theta - c.v_gt) ** 2 + 0.01).sqrt() - 0.1,
    ),
    "log-cosh": (
        "mean(log_cosh(v_theta - v_gt))",
        lambda c: _mean(torch.log(torch.cosh(c.v_theta - c.v_gt))),
        lambda c: _mean(torch.log(torch.cosh(c.v_theta - c.v_gt)) * 2),
    ),
    "clipped-output": (
        "mean((clip(v_theta, -1, 1) - v_gt)**2)",
        lambda c: _mean(_clip_error(c)),
        lambda c: _mean((c.v_theta - c.v_gt) ** 2),
    ),
    "clipped-step": (
        "A*norm2(v_old + clip(v_theta - v_old, -0.5, 0.5) - v_gt)",
        lambda c: c.advantage * ((c.v_old + (c.v_theta - c.v_old).clamp(-0.5, 0.5) - c.v_gt) ** 2).flatten(1).sum(1),
        lambda c: c.advantage * ((c.v_theta.clamp(-0.5, 0.5) - c.v_gt) ** 2).flatten(1).sum(1),
    ),
    "clipped-value": (
        "mean(max((v_theta - v_gt)**2, (v_old + clip(v_theta - v_old, -0.2, 0.2) - v_gt)**2))",
        lambda c: _mean(
            torch.max((c.v_theta - c.v_gt) ** 2, (c.v_old + (c.v_theta - c.v_old).clamp(-0.2, 0.2) - c.v_gt) ** 2)
        ),
        lambda c: _mean(
            torch.min((c.v_theta - c.v_gt) ** 2, (c.v_old + (c.v_theta - c.v_old).clamp(-0.2, 0.2) - c.v_gt) ** 2)
        ),
    ),
    "exponential": (
        "mean(exp(v_theta - v_gt))",
        lambda c: _mean((c.v_theta - c.v_gt).exp()),
        lambda c: _mean(c.v_theta - c.v_gt).exp(),
    ),
    "three-vectors": (
        "A*sum(v_theta*v_gt*v_ref)",
        lambda c: c.advantage * (c.v_theta * c.v_gt * c.v_ref).flatten(1).sum(1),
        lambda c: c.advantage * (c.v_theta * c.v_gt).flatten(1).sum(1),
    ),
    "weighed-by-its-own-error": (
        "mean(sg(abs(v_theta - v_gt))*(v_theta - v_gt)**2)",
        lambda c: _mean((c.v_theta - c.v_gt).abs().detach() * (c.v_theta - c.v_gt) ** 2),
        lambda c: _mean((c.v_theta - c.v_gt).abs() * (c.v_theta - c.v_gt) ** 2),
    ),
    "dead-zone": (
        "mean(relu(abs(v_theta - v_gt) - 0.1))",
        lambda c: _mean(((c.v_theta - c.v_gt).abs() - 0.1).relu()),
        lambda c: (_mean((c.v_theta - c.v_gt).abs()) - 0.1).relu(),
    ),
    "preference-of-l1": (
        "softplus(-A*(mean(abs(v_theta - v_gt)) - mean(abs(v_ref - v_gt))))",
        lambda c: functional.softplus(
            -c.advantage * (_mean((c.v_theta - c.v_gt).abs()) - _mean((c.v_ref - c.v_gt).abs()))
        ),
        lambda c: functional.softplus(
            c.advantage * (_mean((c.v_theta - c.v_gt).abs()) - _mean((c.v_ref - c.v_gt).abs()))
        ),
    ),
    "normalised": (
        "sum(abs(v_theta - v_gt)**3)/sum(abs(v_gt) + 1)",
        lambda c: ((c.v_theta - c.v_gt).abs() ** 3).flatten(1).sum(1) / (c.v_gt.abs() + 1).flatten(1).sum(1),
        lambda c: _mean((c.v_theta - c.v_gt).abs() ** 3 / (c.v_gt.abs() + 1)),
    ),
    "mean-of-the-output": (
        "A*mean(v_theta) + norm2(v_theta - v_gt)",
        lambda c: c.advantage * _mean(c.v_theta) + ((c.v_theta - c.v_gt) ** 2).flatten(1).sum(1),
        lambda c: c.advantage * _mean(c.v_theta).abs() + ((c.v_theta - c.v_gt) ** 2).flatten(1).sum(1),
    ),
    "ratio-per-coordinate": (
        "r = exp(-((x_prev - mean_theta)**2 - (x_prev - mean_old)**2)/(2*C2**2)); -mean(min(r*A, clip(r, 0.8, 1.2)*A))",
        lambda c: _ppo(c, 0.8),
        lambda c: _ppo(c, 0.5),
    ),
}


@pytest.mark.parametrize("name", _LOSSES)
def test_autograd_of_the_text_gives_the_derived_gradient(name: str) -> None:
    statement = read(_LOSSES[name][0])
    derived = derive_statement(statement, "flow" if statement.process == "backward" else None)
    for dtype in ("float64", "float32"):
        found = check(statement, derived, dtype, 3)
        assert found.holds, found
        assert found.judged > 0.5  # near its kinks a ratio of float32 may go either way


@pytest.mark.parametrize("name", _LOSSES)
def test_right_code_conforms_and_its_twin_does_not(name: str) -> None:
    line, right, wrong = _LOSSES[name]

    def verdict(loss: Callable[[Case], Tensor], **declared: str) -> str:
        adapter = Adapter(lambda case: loss(case).mean(), "loss", "mean", 60.0)
        return check_gradient(Judge(adapter, declare(loss=line, **declared), max_examples=4)).status

    assert verdict(right) == "passed"
    assert verdict(wrong) == "failed"
    assert verdict(lambda case: 1.001 * right(case)) == "failed"


@pytest.mark.parametrize("name", ["l1", "clipped-step", "ratio-per-coordinate", "mean-of-the-output"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_step_s_gradient_is_judged_whole_where_no_chunk_can_be(name: str, dtype: torch.dtype) -> None:
    line, right, _ = _LOSSES[name]
    derivation = declare(loss=line).derivation
    case = build(derivation, Spec(4, (3, 5), 1, policy="off"), dtype)
    observed = gradient_of(right(case), case.output)
    assert compare_gradient(derivation, case, observed).holds
    assert not compare_gradient(derivation, case, 1.001 * observed).holds
    assert compare_gradient(derivation, case, observed / 4, factor=0.25).holds
    bumped = observed.clone()
    bumped[2, 1, 4] += 0.01 * observed.abs().max()
    assert compare_gradient(derivation, case, bumped).index == (2, 1, 4)
