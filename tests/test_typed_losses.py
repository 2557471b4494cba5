"""Losses that are declared by writing them down: judged like catalogue entries, with the same verdicts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import entries
from gradcheck.conventions import declare
from gradcheck.errors import InputError
from gradcheck.judging.adapter import Adapter
from gradcheck.judging.results import Judgement
from gradcheck.oracle.checks.gradient import check_gradient
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.runner import Settings, Subject, judge
from tests.derive.table import EXPRESSIONS


def _judged(function: Callable[[Case], Tensor], **declared: object) -> Judgement:
    subject = Subject(function, "loss", declare(**declared))  # type: ignore[arg-type]
    return judge(subject, Settings(max_examples=3))


def _gradient_holds(function: Callable[[Case], Tensor], **declared: object) -> bool:
    """The first obligation alone, without a search for what is wrong."""
    one = Judge(Adapter(function, "loss", "mean", 60.0), declare(**declared), max_examples=3)  # type: ignore[arg-type]
    return check_gradient(one).status == "passed"


def _failed(judgement: Judgement) -> set[str]:
    return {r.id for r in judgement.results if r.status == "failed"}


@pytest.mark.thin(3)
@pytest.mark.parametrize("label", EXPRESSIONS)
def test_an_entry_judged_through_its_line_has_the_same_verdict(label: str) -> None:
    """The catalogue's own torch loss conforms to the line, and its opposite, or its double, does not."""
    (entry,) = entries(label if "[" in label else f"{label}[paper]")
    line, sde = EXPRESSIONS[label]
    declared = {"loss": line, **({} if sde is None else {"sde": sde})}
    assert _gradient_holds(lambda case: entry.loss(case).mean(), **declared)
    assert not _gradient_holds(lambda case: -entry.loss(case).mean(), **declared)
    assert not _gradient_holds(lambda case: 1.001 * entry.loss(case).mean(), **declared)


def _error(v: Tensor, target: Tensor) -> Tensor:
    return ((v - target) ** 2).flatten(1).sum(1)


def _log_prob(case: Case) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))
    mean = case.x_t * (1 - sigma**2 * dt / (2 * t)) - case.v_theta * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return torch.distributions.Normal(mean, sigma * dt.sqrt()).log_prob(case.x_prev).flatten(1).sum(1)


def _min_snr(case: Case, most: float = 5.0) -> Tensor:
    t = case.t
    noise = case.x_t + (1 - case.expand(t)) * case.v_theta
    return (((1 - t) ** 2 / t**2).clamp(max=most) * _error(noise, case.noise)).mean()


def _ipo(case: Case, half: float = 0.5) -> Tensor:
    gap = _error(case.v_theta, case.v_gt) - _error(case.v_ref, case.v_gt) - case.partner_gap
    return ((case.preference * gap * case.beta_dpo + half) ** 2).mean()


_RIGHT_AND_WRONG: dict[str, tuple[str, Callable[[Case], Tensor], Callable[[Case], Tensor], str]] = {
    "reinforce": (
        "-A*log_prob_theta",
        lambda case: -(case.advantage * _log_prob(case)).mean(),
        lambda case: -_log_prob(case).mean(),
        "",
    ),
    "min-snr": ("min(5, (1-t)**2/t**2)*norm2(noise_theta - noise)", _min_snr, lambda case: _min_snr(case, 4.0), ""),
    "ipo": (
        "(preference*(norm2(v_theta-v_gt)-norm2(v_ref-v_gt)-partner_gap)*beta_dpo + 1/2)**2",
        _ipo,
        lambda case: _ipo(case, -0.5),
        "",
    ),
    "two-terms": (
        "A*norm2(v_theta - v_gt) + kl_weight*norm2(v_theta - v_ref)",
        lambda case: (
            case.advantage * _error(case.v_theta, case.v_gt) + case.kl_weight * _error(case.v_theta, case.v_ref)
        ).mean(),
        lambda case: (
            case.advantage * _error(case.v_theta, case.v_gt) - case.kl_weight * _error(case.v_theta, case.v_ref)
        ).mean(),
        "kl-sign",
    ),
}


@pytest.mark.parametrize("name", _RIGHT_AND_WRONG)
def test_a_loss_of_no_catalogue_is_judged_whole(name: str) -> None:
    line, right, wrong, cause = _RIGHT_AND_WRONG[name]
    assert _judged(right, loss=line).holds
    judgement = _judged(wrong, loss=line)
    assert "gradient" in _failed(judgement)
    named = next(r.diagnosis for r in judgement.results if r.id == "gradient")
    assert named is not None
    assert cause in named.name


def test_the_reverse_step_may_be_chosen() -> None:
    line = "-A*log_prob_theta"

    def on(sde: str) -> bool:
        return _gradient_holds(lambda case: -(case.advantage * _log_prob(case)).mean(), loss=line, sde=sde)

    assert on("flow")
    assert not on("cps")


def test_every_case_of_the_forward_process_holds_what_a_trainer_has_at_hand() -> None:
    """x_0, noise, t and x_t are there and belong together, though ‖v_θ − v_ref‖² needs none of them."""
    seen = []

    def loss(case: Case) -> Tensor:
        t = case.expand(case.t)
        if case.x_t.dtype == torch.float64:  # some obligations look at lower precisions
            seen.append(float(((1 - t) * case.x_0 + t * case.noise - case.x_t).abs().max()))
        assert torch.equal(case.timestep, 1000 * case.t)
        return _error(case.v_theta, case.v_ref).mean()

    assert _judged(loss, loss="norm2(v_theta - v_ref)").holds
    assert max(seen) < 1e-14  # each was rounded once, and numbers are of size 4


@pytest.mark.parametrize(
    ("declared", "name", "wanted"),
    [
        ({"loss": "A*nrm2(v_theta)"}, "loss", "norm2"),
        ({"loss": "A*(v_theta - v_gt)"}, "loss", "norm2"),
        ({"loss": ""}, "loss", "the loss in one line"),
        ({"loss": "norm2(v_old)"}, "loss", "v_theta"),
        ({"algorithm": "awm", "loss": "norm2(v_theta)"}, "algorithm", "nothing with it"),
        ({"preset": "awm-official", "loss": "norm2(v_theta)"}, "preset", "nothing with it"),
        ({"loss": "norm2(v_theta)", "sde": "flow"}, "sde", "a convention"),
        ({"loss": "-A*log_prob_theta", "sde": "euler"}, "sde", "flow"),
        ({"loss": "norm2(v_theta)", "kl": "step"}, "kl", "'velocity'"),
    ],
)
def test_a_bad_declaration_says_what_is_wanted(declared: dict[str, str], name: str, wanted: str) -> None:
    with pytest.raises(InputError) as raised:
        declare(**declared)  # type: ignore[arg-type]
    assert raised.value.problems[0][0] == name
    assert wanted in str(raised.value)


_ADJOINT = {"adjoint": "latent", "s": "sample > 0", "w": "problem > 0"}


def _adjoint_matching(case: Case, sign: float = 1.0) -> Tensor:
    pull = case.v_theta - case.v_ref + sign * case.expand(case.s) * case.adjoint
    return (case.w * (pull**2).flatten(1).sum(1)).mean()


def test_a_loss_may_rest_on_quantities_that_the_notation_does_not_have() -> None:
    """Latents, numbers per sample and numbers of the problem, drawn like any other; numbers may be fixed."""
    line = "w*norm2(v_theta - v_ref + s*adjoint)"
    assert _judged(_adjoint_matching, loss=line, given=_ADJOINT).holds
    assert not _gradient_holds(lambda case: _adjoint_matching(case, -1.0), loss=line, given=_ADJOINT)
    halved = lambda case: 0.5 * _adjoint_matching(case) / case.w  # noqa: E731
    assert _gradient_holds(halved, loss=line, given=_ADJOINT, w=0.5)
    assert not _gradient_holds(halved, loss=line, given=_ADJOINT, w=0.25)


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (
            "norm2(v_theta - sg(v_theta + A*(v_gt - v_theta)))",
            lambda c: c.v_theta + c.expand(c.advantage) * (c.v_gt - c.v_theta),
        ),
        (
            "norm2(v_theta - sg(v_old + A*(v_gt - v_old)))",
            lambda c: c.v_old + c.expand(c.advantage) * (c.v_gt - c.v_old),
        ),
    ],
)
def test_the_squared_distance_to_a_detached_target_is_a_loss_like_any_other(
    line: str, target: Callable[[Case], Tensor]
) -> None:
    assert _judged(lambda case: _error(case.v_theta, target(case).detach()).mean(), loss=line).holds
    if "sg(v_theta" in line:  # what is live there pulls the other way
        assert not _gradient_holds(lambda case: _error(case.v_theta, target(case)).mean(), loss=line)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"advantage": "sample"}, "advantage"),
        ({"adjoint": "tensor"}, "'latent'"),
        ({"norm2": "latent"}, "function"),
        ({"a b": "latent"}, "identifier"),
    ],
)
def test_a_bad_quantity_of_ones_own_says_what_is_wanted(given: dict[str, str], wanted: str) -> None:
    with pytest.raises(InputError, match="given") as raised:
        declare(loss="norm2(v_theta - v_ref)", given=given)
    assert wanted in str(raised.value)


@pytest.mark.parametrize("seed", range(4))
def test_code_that_measures_its_error_in_the_predicted_data_is_right(seed: int) -> None:
    """x_t − t v − x_0 loses digits of x_t and x_0, which the division by t brings to the velocities."""

    def loss(case: Case) -> Tensor:
        t = case.expand(case.t)
        off = (case.x_t - t * case.v_theta - case.x_0) / t
        return (case.advantage * (off**2).flatten(1).mean(1)).mean()

    judgement = judge(Subject(loss, "loss", declare("awm", reduction="mean")), Settings(max_examples=8, seed=seed))
    assert judgement.holds, [(r.id, r.outcome.detail) for r in judgement.results if not r.good]
