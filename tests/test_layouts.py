"""Batches as trainers hold them: each declaration with right code that conforms, and the mistake that it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.errors import InputError
from gradcheck.judging.adapter import Adapter
from gradcheck.judging.results import Judgement
from gradcheck.oracle.arrangement import presented
from gradcheck.oracle.judge import Judge, look_at_gradient
from gradcheck.oracle.runner import Settings, Subject, judge
from gradcheck.problems.building import Spec


def _step(case: Case, v: Tensor, t: Tensor, dt: Tensor) -> tuple[Tensor, Tensor]:
    sigma = case.noise_level * torch.sqrt(t / (1 - t))
    mean = case.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return mean, sigma * dt.sqrt()


def _log_prob(case: Case, v: Tensor, t: Tensor, dt: Tensor, axes: int) -> Tensor:
    mean, std = _step(case, v, t, dt)
    return torch.distributions.Normal(mean, std).log_prob(case.x_prev).flatten(axes).mean(axes)


def _ppo(advantage: Tensor, ratio: Tensor) -> Tensor:
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))


# ------------------------------------------------------------------------------------- one time, one rank


def _one_time(case: Case) -> Tensor:
    """A trainer's batch has one time: the first sample's is everybody's."""
    new = _log_prob(case, case.v_theta, case.t[0], case.dt[0], 1)
    return _ppo(case.advantage, (new - case.log_prob_old).exp()).mean()


def _images(case: Case) -> Tensor:
    return (case.advantage * ((case.v_theta - case.noise + case.x_0) ** 2).mean(dim=(1, 2, 3))).mean()


# ------------------------------------------------------------------------------------------ rows of steps


def _rows(case: Case, axis: int = 1) -> Tensor:
    return _rows_each(case, axis).mean()


def _rows_each(case: Case, axis: int = 1) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    ratio = (_log_prob(case, case.v_theta, t, dt, 2) - case.log_prob_old).exp()
    advantage = case.advantage[:, None] if axis == 1 else case.advantage.mean()
    return _ppo(advantage, ratio)


# ---------------------------------------------------------------------------------------- pairs and groups


def _gap(case: Case) -> Tensor:
    def error(v: Tensor) -> Tensor:
        return ((v - case.v_gt) ** 2).flatten(1).sum(1)

    return error(case.v_theta) - error(case.v_ref)


def _adjacent(case: Case) -> Tensor:
    won, lost = _gap(case)[::2], _gap(case)[1::2]
    return -logsigmoid(-case.beta_dpo * (won - lost)).mean()


def _halves(case: Case) -> Tensor:
    won, lost = _gap(case).chunk(2)
    return -logsigmoid(-case.beta_dpo * (won - lost)).mean()


def _given(case: Case) -> Tensor:
    gap = _gap(case)
    margin = case.preference * (gap - gap[case.partner])
    return -logsigmoid(-case.beta_dpo * margin).mean()


def _group(case: Case, size: int) -> Tensor:
    total = (case.advantage * _gap(case)).reshape(-1, size).sum(1)
    return -logsigmoid(-case.beta_dpo * total).mean()


# ---------------------------------------------------------------------------------------------- guidance


def _guided(case: Case, detach: bool = False, scale: float | None = None) -> Tensor:
    w = case.guidance_scale if scale is None else scale
    base = case.v_uncond.detach() if detach else case.v_uncond
    v = base + w * (case.v_cond - base)
    return (case.advantage * ((v - case.v_gt) ** 2).flatten(1).sum(1)).mean()


_GRPO = {"algorithm": "flow_grpo", "log_prob_reduction": "mean", "clip_range": 0.2}
_AWM = {"algorithm": "awm"}
_TWINS: dict[str, tuple[dict[str, Any], Callable[[Case], Tensor], Callable[[Case], Tensor]]] = {
    "one-time": ({**_GRPO, "one_time": True}, _one_time, lambda c: -_one_time(c)),
    "one-rank": ({**_AWM, "reduction": "mean", "latent_axes": 3}, _images, lambda c: 2 * _images(c)),
    "own-shapes": ({**_AWM, "reduction": "mean", "latents": [(4, 3, 2), (2, 5, 3)]}, _images, lambda c: -_images(c)),
    "steps": ({**_GRPO, "steps": True}, _rows, lambda c: _rows(c, 0)),
    "pairs-adjacent": ({"algorithm": "diffusion_dpo", "pairs": "adjacent"}, _adjacent, _halves),
    "pairs-halves": ({"algorithm": "diffusion_dpo", "pairs": "halves"}, _halves, _adjacent),
    "pairs-given": ({"algorithm": "diffusion_dpo", "pairs": "given"}, _given, _adjacent),
    "groups": ({"algorithm": "dgpo", "groups": 4}, lambda c: _group(c, 4), lambda c: _group(c, 2)),
    "guidance": ({**_AWM, "guidance": True}, _guided, lambda c: _guided(c, detach=True)),
    "guidance-scale": ({**_AWM, "guidance": 4.5}, lambda c: _guided(c, scale=4.5), lambda c: _guided(c, scale=3.5)),
}


def _holds(loss: Callable[[Case], Tensor], w: float, **conventions: Any) -> bool:
    one = Judge(Adapter(loss, "mine"), declare(algorithm="awm", guidance=w, **conventions))
    return all(look_at_gradient(one, one.case(Spec(3, (4, 5), seed))).holds for seed in range(3))


@pytest.mark.parametrize("w", [-1.0, 0.25, 0.5, 1.5, 2.0, 3.0, 4.5, 7.1, 7.5, 100.0])
@pytest.mark.parametrize("live", ["v_cond", "v_uncond"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_gradient_by_one_branch_alone_is_none(w: float, live: str, whole: bool) -> None:
    """Neither what one branch is sent, w or 1 − w, nor the whole gradient by way of it, is the velocity's."""

    def one_way(case: Case) -> Tensor:
        v = case.v_uncond + w * (case.v_cond - case.v_uncond)
        branch = getattr(case, live)
        share = 1.0 if whole else w if live == "v_cond" else 1 - w
        v = v.detach() + share * (branch - branch.detach())
        return (case.advantage * ((v - case.v_gt) ** 2).flatten(1).sum(1)).mean()

    assert not _holds(one_way, w)


_COMBINED: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "difference": lambda cond, uncond, w: uncond + w * (cond - uncond),
    "two products": lambda cond, uncond, w: w * cond + (1 - w) * uncond,
    "lerp": lambda cond, uncond, w: torch.lerp(uncond, cond, w),
    "beyond": lambda cond, uncond, w: cond + (w - 1) * (cond - uncond),
}


@pytest.mark.parametrize("w", [-1.0, 0.3, 1.1, 3.3, 4.5, 7.1, 12.3, 33.7, 100.0])
@pytest.mark.parametrize("form", _COMBINED)
@pytest.mark.parametrize("work", [None, "float32"])
def test_branches_combined_in_any_form_at_any_scale_are_right(w: float, form: str, work: str | None) -> None:
    """Far from w = 1 the branches are large beside the velocity, and so is what rounding makes of them."""

    def loss(case: Case) -> Tensor:
        cond, uncond = (x if work is None else x.float() for x in (case.v_cond, case.v_uncond))
        v = _COMBINED[form](cond, uncond, w)
        return (case.advantage * ((v - case.v_gt) ** 2).flatten(1).sum(1)).mean()

    assert _holds(loss, w, working_dtype=work)
    assert not _holds(lambda case: (1 + 1e-3) * loss(case), w)


@pytest.mark.parametrize("form", _COMBINED)
def test_far_from_its_target_a_gradient_is_rounded_on_its_way_through_the_branches(form: str) -> None:
    """There the velocity's own rounding is nothing, and what is lost is lost backward."""

    def loss(case: Case) -> Tensor:
        v = _COMBINED[form](case.v_cond, case.v_uncond, 100.0)
        return (case.advantage * ((v - case.v_gt) ** 2).flatten(1).sum(1)).mean()

    one = Judge(Adapter(loss, "mine"), declare(algorithm="awm", guidance=100.0))
    for seed in range(3):
        case = one.case(Spec(3, (4, 5), seed))
        x_0, noise = 1e12 * case.x_0, 1e12 * case.noise
        far = case.replace(x_0=x_0, noise=noise, v_gt=noise - x_0)
        assert one.required(far).compare(one.observe(far).gradient).holds


@pytest.mark.parametrize("w", [-1.0, 1.1, 4.0, 7.1])
def test_branches_follow_a_velocity_that_was_changed_since(w: float) -> None:
    declared = declare(algorithm="awm", guidance=w)
    case = Judge(Adapter(lambda c: c.v_cond.sum(), "mine"), declared).case(Spec(3, (4, 5), 1))
    moved = case.replace(v_theta=case.v_theta.detach() / 3)
    for one in (case, moved):
        handed = presented(declared, one)
        made = handed.v_uncond + w * (handed.v_cond - handed.v_uncond)
        assert torch.allclose(made, one.v_theta, rtol=0, atol=1e-13)


def _counted(case: Case) -> Tensor:
    """The mean over the samples that a mask leaves."""
    each = case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)
    return (each * case.mask).sum() / case.mask.sum()


def _counted_of_all(case: Case) -> Tensor:
    each = case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)
    return (each * case.mask).mean()


def _counted_rows(case: Case, mean: bool = False) -> Tensor:
    """Rows of steps, padded: Σ over the steps that count over how many these are, in the whole batch."""
    each = _rows_each(case)
    return (each * case.mask).mean() if mean else (each * case.mask).sum() / case.mask.sum()


def _tokens(case: Case, mean: bool = False) -> Tensor:
    """Packed tokens (B, L, C): the mean over a token's channels, and over the tokens that are no padding."""
    each = ((case.v_theta - case.v_gt) ** 2).mean(2) * case.mask
    return case.advantage * (each.mean(1) if mean else each.sum(1) / case.mask.sum(1))


_SAMPLES = {"mask": "samples"}
_MASK_REDUCTIONS = {"mask-samples": "mask_reduction='mean'", "mask-samples-mean": "mask_reduction='sum-over-mask'"}
_TWINS |= {
    "mask-samples": ({**_AWM, **_SAMPLES}, _counted, _counted_of_all),
    "mask-samples-mean": ({**_AWM, **_SAMPLES, "mask_reduction": "mean"}, _counted_of_all, _counted),
    "mask-by-index": (
        {**_AWM, **_SAMPLES},
        lambda c: (c.advantage * ((c.v_theta - c.v_gt) ** 2).flatten(1).sum(1))[c.mask.bool()].mean(),
        lambda c: (c.advantage * ((c.v_theta - c.v_gt) ** 2).flatten(1).sum(1)).mean(),
    ),
    "mask-tokens": (
        {**_AWM, "reduction": "mean", "mask": "tokens", "latent_axes": 2},
        lambda c: _tokens(c).mean(),
        lambda c: _tokens(c, mean=True).mean(),
    ),
    "mask-chunks-of-images": (
        {**_AWM, "mask": "tokens", "latent_axes": 3},
        lambda c: (c.advantage * ((c.v_theta - c.v_gt) ** 2 * c.mask[..., None, None]).flatten(1).sum(1)).mean(),
        lambda c: (c.advantage * ((c.v_theta - c.v_gt) ** 2).flatten(1).sum(1)).mean(),
    ),
    "mask-steps": ({**_GRPO, "steps": True, **_SAMPLES}, _counted_rows, lambda c: _counted_rows(c, mean=True)),
}


def test_a_mean_over_all_samples_for_one_over_those_that_count_is_named() -> None:
    """The mistake of a masked mean, and of its twin, told as the declaration that each of them is."""
    for name, keyword in (
        ("mask-samples", "mask_reduction='mean'"),
        ("mask-samples-mean", "mask_reduction='sum-over-mask'"),
    ):
        declared, _, wrong = _TWINS[name]
        (result,) = _judged(wrong, declared, ("gradient",)).results
        assert result.diagnosis is not None
        assert result.diagnosis.declare == keyword


def _judged(loss: Callable[[Case], Tensor], declared: dict[str, Any], only: tuple[str, ...] = ()) -> Judgement:
    return judge(Subject(loss, "loss", declare(**declared)), Settings(max_examples=5), only)


@pytest.mark.parametrize("name", _TWINS)
def test_right_code_meets_every_obligation(name: str) -> None:
    declared, right, _ = _TWINS[name]
    judgement = _judged(right, declared)
    assert judgement.holds, [(r.id, r.outcome.detail) for r in judgement.results if not r.good]


@pytest.mark.parametrize("name", _TWINS)
def test_its_twin_does_not(name: str) -> None:
    declared, _, wrong = _TWINS[name]
    judgement = _judged(wrong, declared, ("gradient",))
    assert [r.id for r in judgement.results if r.status == "failed"] == ["gradient"]


@pytest.mark.parametrize("name", ["steps", "pairs-halves", "guidance"])
def test_the_printed_script_shows_the_same_failure(name: str) -> None:
    declared, _, wrong = _TWINS[name]
    (result,) = _judged(wrong, declared, ("gradient",)).results
    namespace: dict[str, Any] = {"implementation": wrong}
    with pytest.raises(AssertionError, match="gradient"):
        exec(result.script, namespace)


@pytest.mark.parametrize(
    ("declared", "argument", "wanted"),
    [
        ({**_AWM, "latent_axes": 5}, "latent_axes", "from 1 to 4"),
        ({**_AWM, "latents": [3, 4]}, "latents", "shapes"),
        ({**_AWM, "pairs": "adjacent"}, "pairs", "preferences"),
        ({"algorithm": "diffusion_dpo", "pairs": "half"}, "pairs", "did you mean 'halves'"),
        ({"algorithm": "diffusion_dpo", "pairs": "halves", "batch_reduction": "none"}, "pairs", "'mean' or 'sum'"),
        ({**_AWM, "groups": 4}, "groups", "dgpo"),
        ({**_AWM, "guidance": "on"}, "guidance", "number"),
        ({**_GRPO, "steps": 3}, "steps", "True or False"),
        ({**_AWM, "guidance": 4.5, "prediction": "epsilon"}, "guidance", "prediction 'v'"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_by_name(declared: dict[str, Any], argument: str, wanted: str) -> None:
    with pytest.raises(InputError) as raised:
        declare(**declared)
    assert argument in {name for name, _, _ in raised.value.problems}
    assert wanted in str(raised.value)


def _failed(
    loss: Callable[[Case], Tensor], declared: dict[str, Any], only: tuple[str, ...]
) -> dict[str, tuple[str, str]]:
    judgement = _judged(loss, declared, only)
    causes = {r.id: r.diagnosis.declare if r.diagnosis else "" for r in judgement.results}
    return {r.id: (r.outcome.detail, causes[r.id]) for r in judgement.results if r.status == "failed"}


def test_code_for_one_rank_is_judged_there_though_nothing_is_declared() -> None:
    """Only ``shapes`` fails, and says what to declare; a wrong sign is seen, and named, all the same."""
    declared = {**_AWM, "reduction": "mean"}
    only = ("determinism", "gradient", "permutation", "shapes")
    failed = _failed(_images, declared, only)
    assert list(failed) == ["shapes"]
    assert "if yours always have 3, declare latent_axes=3" in failed["shapes"][0]
    judgement = _judged(lambda case: -_images(case), declared, ("gradient",))
    (result,) = judgement.results
    assert result.diagnosis is not None
    assert result.diagnosis.name == "sign"


def test_code_that_is_silently_wrong_in_other_ranks_is_told_so() -> None:
    """A time reshaped to (B, 1, 1, 1) meets a latent (B, S, C) in a wrong broadcast, and raises on others."""

    def loss(case: Case) -> Tensor:
        t, dt = case.t.view(-1, 1, 1, 1), case.dt.view(-1, 1, 1, 1)
        new = _log_prob(case, case.v_theta, t, dt, 1)
        return _ppo(case.advantage, (new - case.log_prob_old).exp()).mean()

    assert _failed(loss, _GRPO, ("gradient",))["gradient"][1] == "latent_axes=3"
    assert not _failed(loss, {**_GRPO, "latent_axes": 3}, ("gradient",))


def test_code_that_relies_on_one_time_is_told_what_to_declare() -> None:
    assert _failed(_one_time, _GRPO, ("gradient",))["gradient"][1] == "one_time=True"


@pytest.mark.parametrize("name", ["groups", "pairs-adjacent", "steps", "mask-samples", "one-time"])
def test_what_belongs_together_still_does_where_float32_is_told_from_other_errors(name: str) -> None:
    """That is told from problems whose inputs are moved a little: a group's gaps with them."""
    declared, right, _ = _TWINS[name]

    def loss(case: Case) -> Tensor:
        values = {n: getattr(case, n) for n in case.names}
        floats = {n: x.float() for n, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()}
        return right(Case(case.label, {**values, **floats}))

    for seed in (0, 12):
        settings = Settings(max_examples=4, seed=seed)
        judgement = judge(Subject(loss, "loss", declare(**declared, working_dtype="float32")), settings, ("gradient",))
        assert judgement.holds, [r.outcome.detail for r in judgement.results]
