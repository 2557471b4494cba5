"""Conventions on top of any algorithm: each proved, each with right code that conforms and a twin that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from derivations.algorithm import Algorithm
from derivations.derivation import Derivation
from derivations.on_top import MASK_REDUCTIONS, ON_TOP
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.catalogue import ALGORITHMS, entries
from gradcheck.conventions import declare, options_text
from gradcheck.derived.composed import composed, on_top_problems, others_on_top
from gradcheck.errors import InputError
from gradcheck.judging.adapter import Adapter
from gradcheck.oracle.checks.gradient import check_clip, check_gradient
from gradcheck.oracle.judge import Judge, together

_GRPO = {"algorithm": "flow_grpo", "log_prob_reduction": "mean", "clip_range": 0.2}
_AWM = {"algorithm": "awm", "reduction": "mean"}


def _log_prob(case: Case, v: Tensor) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))
    mean = case.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    return torch.distributions.Normal(mean, sigma * dt.sqrt()).log_prob(case.x_prev).flatten(1).mean(1)


def _ppo(case: Case, ratio: Tensor) -> Tensor:
    return torch.maximum(-case.advantage * ratio, -case.advantage * ratio.clamp(0.8, 1.2))


def _log_ratio(case: Case) -> Tensor:
    return _log_prob(case, case.v_theta) - case.log_prob_old


def _dual(case: Case, limit: float) -> Tensor:
    loss = _ppo(case, _log_ratio(case).exp())
    return torch.where(case.advantage < 0, torch.minimum(loss, -limit * case.advantage), loss)


def _spo(case: Case, half: float) -> Tensor:
    ratio, a = _log_ratio(case).exp(), case.advantage
    return -(ratio * a - half * a.abs() / 0.2 * (ratio - 1) ** 2)


def _cispo(case: Case, weight: Callable[[Tensor], Tensor]) -> Tensor:
    log_ratio = _log_ratio(case)
    return -case.advantage * weight(log_ratio.exp()) * log_ratio


def _estimator(case: Case, v: str, term: Callable[[Tensor], Tensor]) -> Tensor:
    new = _log_prob(case, case.v_theta)
    log_s = _log_prob(case, getattr(case, v)) - new
    return _ppo(case, (new - case.log_prob_old).exp()) + case.kl_weight * term(log_s)


def _velocity(case: Case, v: str) -> Tensor:
    held = ((case.v_theta - getattr(case, v)) ** 2).flatten(1).mean(1)
    return _ppo(case, _log_ratio(case).exp()) + case.kl_weight * held


def _error(case: Case, advantage: Tensor | None = None) -> Tensor:
    return (case.advantage if advantage is None else advantage) * ((case.v_theta - case.v_gt) ** 2).flatten(1).mean(1)


def _snr(case: Case) -> Tensor:
    return ((1 - case.t) / case.t) ** 2


def _over_mask(case: Case, x: Tensor) -> Tensor:
    return (x * case.mask).flatten(1).sum(1) / case.mask.flatten(1).sum(1)


def _masked_log_prob(case: Case, v: Tensor, masked: bool = True) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    sigma = case.noise_level * torch.sqrt(t / (1 - t))
    mean = case.x_t * (1 - sigma**2 * dt / (2 * t)) - v * (1 + sigma**2 * (1 - t) / (2 * t)) * dt
    each = -((case.x_prev - mean) ** 2) / (2 * (sigma * dt.sqrt()) ** 2)
    return _over_mask(case, each) if masked else each.flatten(1).mean(1)


def _masked_ppo(case: Case, everywhere: bool = True) -> Tensor:
    new, old = _masked_log_prob(case, case.v_theta), _masked_log_prob(case, case.v_old, everywhere)
    return _ppo(case, (new - old).exp())


def _masked_error(case: Case, over: Callable[[Case, Tensor], Tensor]) -> Tensor:
    return case.advantage * over(case, (case.v_theta - case.v_gt) ** 2)


_TWINS: dict[str, tuple[dict[str, Any], Callable[[Case], Tensor], Callable[[Case], Tensor]]] = {
    "clip-none": (
        {**_GRPO, "clip": "none"},
        lambda c: -c.advantage * _log_ratio(c).exp(),
        lambda c: _ppo(c, _log_ratio(c).exp()),
    ),
    "clip-dual": ({**_GRPO, "clip": "dual", "dual_clip": 1.3}, lambda c: _dual(c, 1.3), lambda c: _dual(c, 3.0)),
    "clip-spo": ({**_GRPO, "clip": "spo"}, lambda c: _spo(c, 0.5), lambda c: _spo(c, 1.0)),
    "clip-cispo": (
        {**_GRPO, "clip": "cispo"},
        lambda c: _cispo(c, lambda r: r.detach().clamp(0.8, 1.2)),
        lambda c: _cispo(c, lambda r: r.detach().clamp(max=1.2)),
    ),
    "advantage-mode": (
        {**_AWM, "advantage_mode": "positive_only"},
        lambda c: _error(c, c.advantage.clamp(min=0)),
        lambda c: _error(c, c.advantage.abs()),
    ),
    "advantage-mode-of-a-step": (
        {**_GRPO, "advantage_mode": "binary"},
        lambda c: _ppo(c.replace(advantage=c.advantage.sign()), _log_ratio(c).exp()),
        lambda c: _ppo(c, _log_ratio(c).exp()),
    ),
    "log-ratio-max": (
        {**_GRPO, "log_ratio_max": 0.3},
        lambda c: _ppo(c, _log_ratio(c).clamp(-0.3, 0.3).exp()),
        lambda c: _ppo(c, _log_ratio(c).clamp(-0.3, 0.15).exp()),
    ),
    "k1": (
        {**_GRPO, "kl": "k1"},
        lambda c: _estimator(c, "v_ref", lambda s: -s),
        lambda c: _estimator(c, "v_ref", lambda s: s),
    ),
    "k2-old": (
        {**_GRPO, "kl": "k2", "kl_to": "old"},
        lambda c: _estimator(c, "v_old", lambda s: s**2 / 2),
        lambda c: _estimator(c, "v_old", lambda s: s**2),
    ),
    "k3": (
        {**_GRPO, "kl": "k3"},
        lambda c: _estimator(c, "v_ref", lambda s: s.exp() - 1 - s),
        lambda c: _estimator(c, "v_ref", lambda s: (-s).exp() - 1 + s),
    ),
    "velocity": (
        {**_GRPO, "kl": "velocity"},
        lambda c: _velocity(c, "v_ref"),
        lambda c: _velocity(c, "v_old") if "v_old" in c.names else _velocity(c, "v_ref"),
    ),
    "weight": (
        {**_AWM, "weight": "min(5, (1-t)**2/t**2)"},
        lambda c: _snr(c).clamp(max=5) * _error(c),
        lambda c: _snr(c).clamp(min=5) * _error(c),
    ),
    "mask": (
        {**_AWM, "mask": "coordinates"},
        lambda c: _masked_error(c, _over_mask),
        lambda c: _masked_error(c, lambda c, x: (x * c.mask).flatten(1).mean(1)),
    ),
    "mask-mean": (
        {**_AWM, "mask": "coordinates", "mask_reduction": "mean"},
        lambda c: _masked_error(c, lambda c, x: (x * c.mask).flatten(1).mean(1)),
        lambda c: _masked_error(c, _over_mask),
    ),
    "mask-forgotten": (
        {**_AWM, "mask": "coordinates"},
        lambda c: _masked_error(c, _over_mask),
        _error,
    ),
    "mask-over-the-batch": (
        {**_AWM, "mask": "coordinates"},
        lambda c: _masked_error(c, _over_mask),
        lambda c: _masked_error(c, lambda c, x: len(x) * (x * c.mask).flatten(1).sum(1) / c.mask.sum()),
    ),
    "mask-of-a-step": ({**_GRPO, "mask": "coordinates"}, _masked_ppo, lambda c: _masked_ppo(c, False)),
    "mask-with-kl": (
        {**_AWM, "mask": "coordinates", "kl": "velocity"},
        lambda c: _masked_error(c, _over_mask) + c.kl_weight * _over_mask(c, (c.v_theta - c.v_ref) ** 2),
        lambda c: _masked_error(c, _over_mask) + c.kl_weight * ((c.v_theta - c.v_ref) ** 2).flatten(1).mean(1),
    ),
    "weight-on-a-step": (
        {**_GRPO, "weight": "1/(t**2 + 0.01)"},
        lambda c: _ppo(c, _log_ratio(c).exp()) / (c.t**2 + 0.01),
        lambda c: _ppo(c, _log_ratio(c).exp()) / c.t**2,
    ),
}


def _verdict(loss: Callable[[Case], Tensor], declared: dict[str, Any]) -> str:
    one = Judge(Adapter(lambda case: loss(case).mean(), "loss", "mean", 60.0), declare(**declared), max_examples=6)
    outcomes = (
        [check_gradient(one), check_clip(one)]
        if Piece.RATIO in one.conventions.derivation.pieces
        else [check_gradient(one)]
    )
    return together(outcomes).status


@pytest.mark.parametrize("name", _TWINS)
def test_right_code_conforms_and_its_twin_does_not(name: str) -> None:
    declared, right, wrong = _TWINS[name]
    assert _verdict(right, declared) == "passed"
    assert _verdict(wrong, declared) == "failed"


def _with_what_it_needs(keyword: str, value: Any) -> dict[str, Any]:
    """A declaration of the value, beside the convention that it says more of, if it does."""
    if ON_TOP[keyword].says_more_of is None:
        return {keyword: value}
    of, word = ON_TOP[keyword].says_more_of or ("", "")
    return {of: word or ON_TOP[of].examples[0], keyword: value}


_VALUES = [(keyword, value) for keyword, one in ON_TOP.items() for value in one.examples]
_COMPOSITIONS: dict[str, dict[str, Any]] = {
    **{f"{keyword}-{value}": _with_what_it_needs(keyword, value) for keyword, value in _VALUES},
    **{f"{kind}-old": {"kl": kind, "kl_to": "old"} for kind in ON_TOP["kl"].words},
    "all": {"clip": "dual", "log_ratio_max": 20.0, "kl": "k3", "weight": "min(5, (1-t)**2/t**2)"},
}


def _composed(algorithm: Algorithm, declared: dict[str, Any]) -> Derivation | None:
    """The algorithm's mean form, or else its first, with what is declared; ``None`` where that does not go with it."""
    variants = sorted(algorithm.variants, key=lambda v: "mean" not in v.options.values())
    for variant in variants[:1] if "mask_reduction" in declared else algorithm.variants[:1]:
        try:
            return composed(algorithm.derive(variant), tuple(sorted(declared.items())), mean=True)
        except InputError:  # a loss without a ratio has no clip; that the reason is told, another test sees
            continue
    return None


@pytest.mark.parametrize("name", _COMPOSITIONS)
def test_every_value_is_proved_for_every_algorithm_that_it_goes_with(name: str) -> None:
    """And refused with a reason for the others: a loss without a ratio has no clip."""
    made = [d for algorithm in ALGORITHMS if (d := _composed(algorithm, _COMPOSITIONS[name])) is not None]
    assert len(made) >= 3
    for derivation in made:
        proof = derivation.prove()
        assert proof.holds, (derivation.label, [r.step.name for r in proof.refused])


@pytest.mark.parametrize("keyword", ON_TOP)
def test_every_convention_says_what_it_takes_and_refuses_the_rest(keyword: str) -> None:
    one = ON_TOP[keyword]
    assert one.meaning
    assert f"  {keyword:20} {one.meaning}" in options_text()
    for value in one.examples:
        assert not list(on_top_problems(_with_what_it_needs(keyword, value)))
    for wrong in (object(), float("nan"), True, *(f"{word}x" for word in one.words)):
        assert keyword in {name for name, _, _ in on_top_problems(_with_what_it_needs(keyword, wrong))}
    if one.says_more_of is not None:
        assert keyword in {name for name, _, _ in on_top_problems({keyword: one.examples[0]})}


@pytest.mark.parametrize("keyword", ON_TOP)
def test_what_is_tried_in_place_of_a_declaration_may_be_declared_and_goes_with_the_loss(keyword: str) -> None:
    one = ON_TOP[keyword]
    tried = 0
    for algorithm in ALGORITHMS:
        for declared in ({}, _with_what_it_needs(keyword, one.examples[0])):
            derivation = _composed(algorithm, declared)
            if derivation is None:
                continue
            for name, value, other in others_on_top(derivation, tuple(sorted(declared.items()))):
                if name == keyword:
                    assert dict(other) != declared
                    assert not list(on_top_problems(dict(other)))
                    assert dict(other).get(name) == value
                    tried += 1
    assert tried or not (one.tried or one.may_lack)


@pytest.mark.parametrize("keyword", [keyword for keyword, one in ON_TOP.items() if one.put is not None])
def test_every_convention_changes_a_gradient(keyword: str) -> None:
    """A convention that leaves every loss as it is judges nothing."""
    for value in ON_TOP[keyword].examples:
        declared = _with_what_it_needs(keyword, value)
        made = [(a.derive(), d) for a in ALGORITHMS if (d := _composed(a, declared)) is not None]
        assert any(plain.gradient != new.gradient for plain, new in made), value


def test_a_number_that_a_convention_brings_may_be_held_by_the_code() -> None:
    """In a loss of one line too, which has no such number of its own."""
    declared = declare(loss="A*norm2(v_theta - v_gt)", kl="velocity", kl_weight=0.04)
    assert declared.fixed == {"kl_weight": 0.04}
    assert "kl_weight" in declared.derivation.given


@pytest.mark.parametrize("reduction", MASK_REDUCTIONS)
def test_a_mask_is_proved_for_means_too(reduction: str) -> None:
    pieces = (("mask", "coordinates"), ("mask_reduction", reduction))
    for label in ("flow_grpo[mean]", "flow_dppo[mean]", "awm[clipped]", "diffusion_dpo[mean]", "fpo[mean]"):
        (entry,) = entries(label)
        assert composed(entry.derivation, pieces, mean=True).prove().holds


def test_a_sum_over_a_mask_is_divided_by_nothing() -> None:
    with pytest.raises(InputError, match="no mask_reduction"):
        _ = declare("awm", mask="coordinates", mask_reduction="mean").derivation


@pytest.mark.parametrize(
    ("declared", "argument", "wanted"),
    [
        ({**_GRPO, "clip": "dul"}, "clip", "did you mean 'dual'"),
        ({**_GRPO, "dual_clip": 3.0}, "dual_clip", "clip='dual' with it"),
        ({**_GRPO, "clip": "dual", "dual_clip": 0.5}, "dual_clip", "above 1"),
        ({**_GRPO, "kl_to": "old"}, "kl_to", "kl= with it"),
        ({**_GRPO, "log_ratio_max": -3}, "log_ratio_max", "above 0"),
        ({**_AWM, "weight": "1/(t**2 + )"}, "weight", "something is missing"),
        ({**_AWM, "weight": "norm2(v_theta)"}, "weight", "free of what the network puts out"),
        ({**_AWM, "weight": 2.0}, "weight", "one line"),
        ({**_AWM, "mask": "coordinate"}, "mask", "did you mean 'coordinates'"),
        ({**_AWM, "mask_reduction": "mean"}, "mask_reduction", "mask= with it"),
    ],
)
def test_a_piece_that_cannot_be_is_refused_with_its_name(declared: dict[str, Any], argument: str, wanted: str) -> None:
    with pytest.raises(InputError) as raised:
        declare(**declared)
    assert argument in {name for name, _, _ in raised.value.problems}
    assert wanted in str(raised.value)


def test_a_piece_that_the_loss_has_no_place_for_is_refused() -> None:
    with pytest.raises(InputError, match="goes with"):
        _ = declare("rwr", clip="dual").derivation
