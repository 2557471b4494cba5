"""Unveil finds the catalogue's formulas from code alone, and says none where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch
from torch import Tensor

import gradcheck
from derivations import calculus
from derivations import notation as n
from derivations.calculus import ClipMask, Norm2
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.conventions import declare
from gradcheck.doors.cli import main
from gradcheck.doors.collecting import ATTRIBUTE
from gradcheck.errors import InputError
from gradcheck.judging.adapter import Adapter, AdapterError
from gradcheck.oracle.diagnosis.diagnose import diagnose
from gradcheck.oracle.judge import Judge
from gradcheck.problems.building import Spec
from gradcheck.reading.formulas import recognise
from gradcheck.unveiling.assumed import Assumed
from gradcheck.unveiling.character import clip_words
from gradcheck.unveiling.library import Data, search, sigmoid
from gradcheck.unveiling.text import unveiled_text
from gradcheck.unveiling.universal import UNIVERSES, family
from gradcheck.unveiling.unveil import unveil

WEIGHTED = ("rwr", "awr")
"""Algorithms whose gradient is a weighted regression's: that the samples are the model's own is not in it."""

KNOWN = [e for e in CATALOGUE if any(e in family(u.process, u.sde) for u in UNIVERSES)]
UNREAD = [e for e in KNOWN if {"weight_max", "advantage_clip"} & set(e.derivation.given) or e.label == "fpo[noise]"]
"""Entries with a function of a function, a clipped one or one of more factors, which the formulas that are tried do not
hold."""
READ = [e for e in KNOWN if e not in UNREAD]


@pytest.mark.thin(2)
@pytest.mark.parametrize("entry", READ, ids=lambda e: e.label)
def test_the_catalogues_formulas_are_found(entry: Entry) -> None:
    """The formula read off the numbers is, by proof, the derived gradient inside the clip; and of the right kind."""
    found = unveil(lambda case: entry.loss(case).mean(), entry.label)
    derivation = entry.derivation
    assert found.reason == ""
    assert found.gradient is not None
    assert found.weight is not None
    assert found.target is not None
    inside = derivation.gradient.xreplace(dict.fromkeys(derivation.gradient.atoms(ClipMask), sp.S.One))
    numbers = {n.omega: derivation.coefficients.get(n.omega), n.sigma_t: n.C2 / sp.sqrt(n.dt)}
    numbers = {symbol: formula for symbol, formula in numbers.items() if formula is not None}
    difference = derivation.inline(found.gradient) - derivation.inline(inside)
    assert calculus.is_zero(difference.xreplace(numbers))
    towards = 2 * found.weight * (n.v_theta - found.target)
    assert calculus.is_zero(derivation.inline(towards) - derivation.inline(found.gradient)), "lemma L1"
    assert found.reduction == "mean"
    assert found.precision == "float64"
    assert any(match.startswith(f"{entry.label}, batch_reduction='mean'") for match in found.matches)
    # its kind
    weighted = entry.algorithm.name in WEIGHTED and entry.variant != "reward"  # whose weight is the signal itself
    held = derivation.inline(derivation.loss)  # by a distance to v_ref, or to v_old
    if weighted and derivation.loss.has(n.kl_weight):
        assert found.policy == "off-policy", "between v_gt and v_ref the signal moves the target"
    else:
        assert found.policy == ("weighted" if weighted else f"{derivation.policy}-policy")
    assert found.fixed == (derivation.policy == "off" or weighted)
    to_old = derivation.loss.has(n.kl_weight) and not held.has(n.v_ref)
    assert ("v_old" in found.trust) == (derivation.policy == "off" or to_old)
    assert ("v_ref" in found.trust) == held.has(n.v_ref)
    assert found.clip.startswith("PPO's: " if derivation.gradient.has(ClipMask) else "none seen")
    assert (found.clipped > 0) == derivation.gradient.has(ClipMask)


@pytest.mark.parametrize("entry", UNREAD, ids=lambda e: e.label)
@pytest.mark.parametrize("factor", [1, -2])
def test_the_catalogue_has_the_formulas_that_are_not_read_off_the_numbers(entry: Entry, factor: int) -> None:
    """Where the gradient is an entry's, up to a constant factor: that entry's derivation is told."""
    found = unveil(lambda case: factor * entry.loss(case).mean(), entry.label)
    assert (found.reason, found.source) == ("", entry.label)
    assert found.matches == (f"{entry.label}, batch_reduction='mean'" + ("" if factor == 1 else ", factor=-2"),)
    derivation = entry.derivation
    assert found.gradient == factor * derivation.gradient
    pulled = 2 * found.weight * (derivation.output - found.target)
    assert calculus.is_zero(derivation.inline(pulled) - derivation.inline(found.gradient))


# ------------------------------------------------------------------------------------ losses of other people


def _mean(x: Tensor) -> Tensor:
    return (x**2).flatten(1).mean(1)


def _error(case: Any) -> Tensor:
    return _mean(case.v_theta - (case.noise - case.x_0))


def _x_0_regression(case: Any) -> Tensor:
    t = case.expand(case.t)
    return ((case.x_t - t * case.v_theta - case.x_0) ** 2).mean()


def _noise_regression(case: Any) -> Tensor:
    t = case.expand(case.t)
    return ((case.x_t + (1 - t) * case.v_theta - case.noise) ** 2).mean()


def _kl_alone(case: Any) -> Tensor:
    t, dt = case.expand(case.t), case.expand(case.dt)
    variance = case.noise_level**2 * t / (1 - t) * dt
    slope = dt + variance / (2 * t) * (1 - t)
    return case.kl_weight * (slope**2 * (case.v_theta - case.v_ref) ** 2 / (2 * variance)).flatten(1).sum(1).mean()


FIELD = (n.v_theta - n.v_gt) / n.D


@pytest.mark.parametrize(
    ("function", "gradient", "policy", "trust"),
    [
        (lambda case: _error(case).mean(), 2 * FIELD, "regression", "none"),
        (_x_0_regression, 2 * n.t**2 * FIELD, "regression", "none"),
        (_noise_regression, 2 * (1 - n.t) ** 2 * FIELD, "regression", "none"),
        (_kl_alone, n.kl_weight * n.k**2 * (n.v_theta - n.v_ref), "regulariser", "held at v_ref, by β_KL k²/2"),
        (lambda case: ((1 - case.t) * _error(case)).mean(), 2 * (1 - n.t) * FIELD, "regression", "none"),
        (
            lambda case: (case.advantage**2 * _error(case) + _mean(case.v_theta - case.v_ref)).mean(),
            2 * n.advantage**2 * FIELD + 2 * (n.v_theta - n.v_ref) / n.D,
            "off-policy",
            "held at v_ref, by 1/D",
        ),
    ],
    ids=["flow-matching", "x_0", "noise", "kl-alone", "one-minus-t", "fixed-by-the-signal"],
)
def test_what_is_no_policy_gradient_is_not_called_one(
    function: Callable[[Any], Tensor], gradient: sp.Expr, policy: str, trust: str
) -> None:
    found = unveil(function, "mine")
    assert found.gradient is not None
    assert calculus.is_zero(found.gradient - gradient)
    assert found.policy == policy
    assert found.trust == trust
    assert found.clip == "none seen"
    assert found.fixed


def _min_snr(case: Any) -> Tensor:
    snr = ((1 - case.t) / case.t) ** 2
    return (snr.clamp(max=5) / (snr + 1) * _error(case)).mean()


def _surrogate_dpo(case: Any) -> Tensor:
    gap = _error(case) - _mean(case.v_ref - (case.noise - case.x_0))
    return -torch.nn.functional.logsigmoid(-5 * gap).mean()


GAP = (Norm2(n.v_theta - n.v_gt) - Norm2(n.v_ref - n.v_gt)) / n.D
PATH = n.t**2 + (1 - n.t) ** 2
WEIGHTS: dict[str, tuple[Callable[[Any], Tensor], sp.Expr]] = {
    "exp-A": (lambda c: (torch.exp(c.advantage / 0.3) * _error(c)).mean(), 2 * sp.exp(n.advantage * 10 / 3)),
    "inverse": (lambda c: (_error(c) / (c.t + 0.1)).mean(), 2 / (n.t + sp.Rational(1, 10))),
    "A-plus-beta": (lambda c: ((c.advantage + c.kl_weight) * _error(c)).mean(), 2 * (n.advantage + n.kl_weight)),
    "r-minus": (lambda c: ((c.reward_prob - (1 - c.reward_prob)) * _error(c)).mean(), 2 * n.advantage),
    "one-minus-r": (lambda c: ((1 - c.reward_prob) * _error(c)).mean(), 2 * (1 - n.reward_prob)),
    "sigmoid": (_surrogate_dpo, 10 * sigmoid(5 * GAP)),
    "min-snr": (_min_snr, 2 * sp.Min(5 * n.t**2, (1 - n.t) ** 2) / PATH),
    "cosmap": (lambda c: (2 / math.pi / (1 - 2 * c.t + 2 * c.t**2) * _error(c)).mean(), 4 / sp.pi / PATH),
    "three-terms": (lambda c: ((1 + 2 * c.t + 3 * c.t**3) * _error(c)).mean(), 2 + 4 * n.t + 6 * n.t**3),
    "pseudo-huber": (
        lambda c: (_error(c) + 0.03**2).sqrt().mean(),
        1 / sp.sqrt(Norm2(n.v_theta - n.v_gt) / n.D + sp.Rational(9, 10**4)),
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_no_monomials_are_read_exactly(name: str) -> None:
    function, weight = WEIGHTS[name]
    found = unveil(function, name)
    assert found.gradient is not None, found.reason
    ((formula),) = [t.formula for t in found.terms]
    assert formula is not None
    quotient = (formula * n.D / weight).xreplace({n.advantage: sp.Rational(3, 7), n.t: sp.Rational(2, 7)})
    quotient = quotient.xreplace({n.reward_prob: sp.Rational(1, 7), n.kl_weight: sp.Rational(5, 7), n.D: sp.Integer(3)})
    for norm in quotient.atoms(Norm2):
        quotient = quotient.xreplace({norm: sp.Rational(11, 9) if norm.has(n.v_theta) else sp.Rational(13, 9)})
    quotient = quotient.replace(sigmoid, lambda z: 1 / (1 + sp.exp(-z)))
    assert float(quotient) == pytest.approx(1, abs=1e-6)
    assert found.reduction == "mean"


def test_a_weight_without_a_formula_is_told_by_what_it_depends_on() -> None:
    def loss(case: Any) -> Tensor:
        return (torch.cos(7 * case.t + case.advantage) * _error(case)).mean()

    found = unveil(loss, "odd")
    (term,) = found.terms
    assert found.gradient is None
    assert term.formula is None
    assert set(term.names) == {"advantage", "t"}
    assert not term.mixes
    text = unveiled_text(found)
    assert "a function of t and A that the library of formulas does not have" in text
    value, scalars = term.examples[0]
    expected = 2 * math.cos(7 * scalars[n.t] + scalars[n.advantage]) / 4 / 15
    assert value == pytest.approx(expected, rel=1e-9), "the value shown goes with the numbers shown"


def test_a_weight_that_depends_on_the_batch_is_told_so() -> None:
    found = unveil(lambda case: (torch.softmax(case.reward, 0) * _error(case)).sum(), "softmax")
    (term,) = found.terms
    assert term.formula is None
    assert term.mixes
    assert term.names == ("reward",)
    assert "R and the batch's other samples" in unveiled_text(found)


def _smooth_l1(case: Any) -> Tensor:
    return torch.nn.functional.smooth_l1_loss(case.v_theta, case.x_0)


def _cosine(case: Any) -> Tensor:
    a, b = case.v_theta.flatten(1), (case.noise - case.x_0).flatten(1)
    return (1 - torch.nn.functional.cosine_similarity(a, b)).mean()


def _cubic(case: Any) -> Tensor:
    return (case.advantage * (case.v_theta - case.noise).flatten(1).abs().pow(3).sum(1)).mean()


def _across_samples(case: Any) -> Tensor:
    return ((case.v_theta - case.v_theta.roll(1, 0)) ** 2).mean()


def _squares_and_a_few_magnitudes(case: Any) -> Tensor:
    gt = case.noise - case.x_0
    return (((case.v_theta - gt) ** 2).mean() + 1e-4 * (case.v_theta - gt).abs().mean()).mean()


@pytest.mark.parametrize(
    "function",
    [_smooth_l1, _cubic, _across_samples, _cosine, _squares_and_a_few_magnitudes],
    ids=lambda f: f.__name__.strip("_"),
)
def test_an_unrelated_loss_is_none_of_them(function: Callable[[Any], Tensor]) -> None:
    found = unveil(function, "unrelated")
    assert found.matches == ()
    assert found.gradient is None
    assert found.reason.startswith("none: up to ")
    assert found.residual > 1e-6
    assert "catalogue  none" in unveiled_text(found)


def test_a_new_loss_is_read_though_nobody_named_it() -> None:
    """Not in the catalogue: pull to v_gt with the advantage squared, and hold at the reference."""

    def loss(case: Any) -> Tensor:
        return (3 * case.advantage**2 * _error(case) + case.kl_weight * _mean(case.v_theta - case.v_ref)).sum()

    found = unveil(loss, "mine")
    assert found.matches == ()
    assert found.reduction == "sum"
    text = unveiled_text(found)
    assert "gradient   6A² (1/D)(v_θ − v_gt) + (2β_KL/D)(v_θ − v_ref)" in text or "(6A²/D)(v_θ − v_gt)" in text


def test_a_loss_per_sample_is_read_too() -> None:
    found = unveil(lambda case: case.advantage * _error(case), "per sample")
    assert found.reduction == "none"
    assert found.gradient is not None
    assert calculus.is_zero(found.gradient - 2 * n.advantage * FIELD)
    assert found.matches == ("awm[mean], batch_reduction='none'",)


# ------------------------------------------------------------------------------------------------- the clip


def test_clips_are_told_apart() -> None:
    ratio = np.array([0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 2.0, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 2.0])
    advantage = np.array([1.0] * 7 + [-1.0] * 7)
    ppo = ((advantage > 0) & (ratio > 1.2)) | ((advantage < 0) & (ratio < 0.8))

    def told(silent: np.ndarray) -> str:
        words, ruled = clip_words(silent, advantage, [ratio], np.full(14, 0.2), np.full(14, 0.2))
        assert ruled != ("by no rule" in words)
        return words

    assert told(ppo).startswith("PPO's: ")
    assert told((ratio > 1.2) | (ratio < 0.8)).startswith("on both sides")
    assert told(advantage < 0) == "no policy gradient where A < 0"
    own = told(((advantage > 0) & (ratio > 1.05)) | ((advantage < 0) & (ratio < 0.95)))
    assert "between 1 and 1.1" in own
    assert "between 0.9 and 1" in own
    assert "by no rule" in told(((advantage > 0) & (ratio < 0.8)) | ((advantage < 0) & (ratio > 1.2))), "the wrong side"
    assert told(np.zeros(14, dtype=bool)) == "none seen"


def test_dropping_bad_samples_is_not_hidden() -> None:
    """max(A, 0) has the formula of A where it has a gradient at all."""
    found = unveil(lambda case: (case.advantage.clamp(min=0) * _error(case)).mean(), "positives")
    assert found.clip == "no policy gradient where A < 0"


# --------------------------------------------------------------------------------- what the cases offer


def test_every_universe_has_its_steps_on_one_grid() -> None:
    """So that code which looks its step up in a scheduler can be called; also where one quantity was changed."""
    for universe in UNIVERSES:
        given = universe.draw(Spec(7, (2, 5), 3, policy="off", advantage="typical", time="middle"))
        for problem in (given, *(other for _, other in universe.changed(given))):
            case = universe.case(problem)
            assert torch.equal(case.sigmas[case.step_index], case.t)
            assert bool((case.sigmas.diff() < 0).all())
            assert (float(case.sigmas[0]), float(case.sigmas[-1])) == (1.0, 0.0)
            assert torch.equal(case.timestep, 1000 * case.t)
            assert torch.equal(case.sigmas, case.sigmas.float().double()), "float32 code works on the same grid"
            if universe.process == "backward":
                assert torch.equal(case.sigmas[case.step_index + 1], case.t_prev)
                assert torch.equal(case.t - case.dt, case.t_prev)


def test_a_loss_with_a_scheduler_is_read() -> None:
    """REINFORCE on a predicted noise, the step looked up by its index."""

    def loss(case: Any) -> Tensor:
        s, after = (case.expand(case.sigmas[case.step_index + i]) for i in (0, 1))
        dt, eta = s - after, case.noise_level * torch.sqrt(s / (1 - s))
        noise = case.x_t + (1 - s) * case.v_theta
        clean = case.x_t - s * case.v_theta
        mean = case.x_t - dt * (noise - clean + eta**2 / (2 * s) * noise)
        log_prob = torch.distributions.Normal(mean, eta * dt.sqrt()).log_prob(case.x_prev).flatten(1).sum(1)
        return -(case.advantage * log_prob).mean()

    found = unveil(loss, "reinforce")
    assert found.gradient is not None, found.reason
    assert calculus.is_zero(found.gradient - n.advantage * n.k * (n.noise + n.k * (n.v_theta - n.v_old)))
    assert found.policy == "on-policy"


# ------------------------------------------------------------------------------------------- what is declared


@gradcheck.conforms("diffusion_nft", beta=0.1)
def nft_with_its_own_beta(case: Any) -> Tensor:
    gt, beta, r = case.noise - case.x_0, 0.1, case.reward_prob
    plus = (1 - beta) * case.v_old + beta * case.v_theta
    minus = (1 + beta) * case.v_old - beta * case.v_theta
    return (r * ((plus - gt) ** 2).flatten(1).sum(1) + (1 - r) * ((minus - gt) ** 2).flatten(1).sum(1)).mean()


@gradcheck.conforms("flow_grpo", sde="dance", noise_level=0.3, clip_range=(0.1, 0.3), log_prob_reduction="mean")
def dance_with_its_own_numbers(case: Any) -> Tensor:
    t, dt, eta = case.expand(case.t), case.expand(case.dt), 0.3

    def log_prob(v: Tensor) -> Tensor:
        mean = case.x_t - dt * (v + eta**2 / (2 * t) * (case.x_t + (1 - t) * v))
        return torch.distributions.Normal(mean, eta * dt.sqrt()).log_prob(case.x_prev).flatten(1).mean(1)

    ratio = torch.exp(log_prob(case.v_theta) - log_prob(case.v_old))
    return torch.max(-case.advantage * ratio, -case.advantage * ratio.clamp(0.9, 1.3)).mean()


def test_declared_numbers_are_used() -> None:
    """β = 0.1 is a number of the code: 2β² is read as such, and not as 1/50."""
    subject = getattr(nft_with_its_own_beta, ATTRIBUTE)
    found = unveil(subject.function, "nft", assumed=Assumed.of(declared=subject.conventions))
    assert found.target is not None
    assert calculus.is_zero(found.target - (n.v_old + n.advantage / n.beta * (n.v_gt - n.v_old)))
    assert found.matches[0].startswith("as declared, diffusion_nft")


def test_what_is_declared_is_not_found_once_more() -> None:
    def awm(case: Case) -> Tensor:
        return (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean()

    found = unveil(awm, "awm", assumed=Assumed.of(declared=declare("awm")))
    assert found.matches == ("as declared, awm, batch_reduction='mean'",)
    assert "awm, batch_reduction='mean'" in unveil(awm, "awm").matches


def test_the_declared_step_and_clip_are_used() -> None:
    subject = getattr(dance_with_its_own_numbers, ATTRIBUTE)
    found = unveil(subject.function, "dance", assumed=Assumed.of(declared=subject.conventions))
    assert found.sde == "dance"
    assert found.clip.startswith("PPO's: ")
    assert found.matches[0].startswith("as declared, flow_grpo")
    without = unveil(subject.function, "dance")
    assert not without.clip.startswith("PPO's: ") or without.gradient is None, "else the declaration does nothing"
    by_hand = Assumed.of(["sde=dance", "noise_level=0.3", "clip_range=0.1,0.3"])
    assert unveil(subject.function, "dance", assumed=by_hand).clip.startswith("PPO's: ")


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(InputError) as caught:
        Assumed.of(["banana=1", "clip_range=wide", "noise_level=-1", "sde=flo", "beta", "clip_range=0.1,0.2,0.3"])
    text = str(caught.value)
    for wrong in ("banana=1", "clip_range=wide", "noise_level=-1", "sde=flo", "'beta'", "0.1,0.2,0.3"):
        assert wrong in text
    assert "one of clip_range" in text
    assert "flow, dance, cps" in text


def test_a_loss_on_another_path_is_refused() -> None:
    """No case of the unveiling holds its schedule; the step is told, where there is one."""
    with pytest.raises(
        InputError, match=r"algorithm: got 'ddpo'; wanted a loss on a rectified path's step: flow, dance"
    ):
        Assumed.of(declared=declare("ddpo"))
    assert Assumed.of(declared=declare("flow_grpo", sde="cps")).sde == "cps"
    assert Assumed.of(declared=declare("grpo_guard")).sde == "flow"
    assert Assumed.of(declared=declare("awm")).sde == ""


# ------------------------------------------------------------------------------------------------- precision


def test_code_that_casts_to_float32_is_read_to_float32s_precision() -> None:
    def loss(case: Any) -> Tensor:
        v, gt, a = case.v_theta.float(), (case.noise - case.x_0).float(), case.advantage.float()
        return (2 * a * _mean(v - gt)).mean()

    found = unveil(loss, "single")
    assert found.precision == "float32"
    assert found.gradient == 4 * n.advantage * FIELD
    assert found.matches == ("awm[mean], batch_reduction='mean', factor=2",)
    assert "float32's rounding" in unveiled_text(found)


@pytest.mark.parametrize(("factor", "name"), [(2.0, "factor-2"), (-1.0, "sign"), (0.37, "factor")])
def test_a_pure_factor_is_named_though_the_code_works_in_float32(factor: float, name: str) -> None:
    conventions = gradcheck.conventions.declare("flow_grpo", log_prob_reduction="mean", working_dtype="float32")
    own = entry("flow_grpo", "mean")

    def loss(case: Any) -> Tensor:
        single = {q: getattr(case, q) for q in case.names}
        single = {q: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for q, x in single.items()}
        return factor * own.loss(gradcheck.case.Case(case.label, single)).mean()

    found = diagnose(Judge(Adapter(loss, "single"), conventions))
    assert found.name == name


def test_the_simplest_formula_within_the_errors_is_taken() -> None:
    generator = np.random.default_rng(0)
    a, t = generator.normal(size=30), generator.uniform(0.1, 0.9, 30)
    numbers = [{n.advantage: float(x), n.t: float(y)} for x, y in zip(a, t, strict=True)]
    exact = a * np.sqrt(t) / 3
    noise = 1 + 1e-4 * generator.uniform(-1, 1, 30)
    wanted = n.advantage * sp.sqrt(n.t) / 3
    assert recognise(list(exact), numbers) == wanted
    assert recognise(list(exact * noise), numbers) is None, "as float64 goes, these are other numbers"
    assert recognise(list(exact * noise), numbers, list(1e-4 * np.abs(exact))) == wanted
    half = recognise(list(exact * noise), numbers, list(0.4e-4 * np.abs(exact)))
    assert half is None, "errors are believed"


def test_noise_is_no_member_of_the_library() -> None:
    """Whatever the samples kept apart say: a fit needs an exact formula."""
    generator = np.random.default_rng(1)
    t, r = generator.uniform(0.1, 0.9, (2, 60))
    values = generator.uniform(1, 2, 60)
    data = Data(values, 5e-8 * values, {}, {n.t: t, n.reward_prob: r})
    assert search(data, lambda formula: True) is None


def test_a_formula_has_to_hold_on_samples_kept_apart() -> None:
    t = np.random.default_rng(2).uniform(0.1, 0.9, 60)
    values = 1 + 3 * t
    data = Data(values, 5e-8 * values, {}, {n.t: t})
    assert search(data, lambda formula: True) == 1 + 3 * n.t
    assert search(data, lambda formula: False) is None


# ------------------------------------------------------------------------------------------------- the command


def test_the_example_in_the_guide_is_what_it_prints() -> None:
    guide = (Path(__file__).parent.parent / "docs" / "oracle.md").read_text()
    example = guide.partition("```text\nmy_losses.py::min_snr\n")[2].partition("```")[0].splitlines()
    printed = unveiled_text(unveil(_min_snr, "my_losses.py::min_snr")).splitlines()
    assert [line for line in example if "…" not in line] == [line for line in printed[1:] if "\\" not in line]


def test_a_mistake_is_told_once() -> None:
    def broken(case: Any) -> Tensor:
        raise ValueError(f"no such layout: {tuple(case.v_theta.shape)}, {float(case.t[0])}, use channels last")

    with pytest.raises(AdapterError) as caught:
        unveil(broken, "broken")
    assert str(caught.value).count("use channels last") == 1

    def unknown(case: Any) -> Tensor:
        found: Tensor = case.banana
        return found

    with pytest.raises(AdapterError) as caught:
        unveil(unknown, "unknown")
    text = str(caught.value)
    assert text.count("has no quantity 'banana'") == 1
    assert text.count("in the backward process it has") == text.count("in the forward process it has") == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def loss(case):\n"
        "    error = (case.v_theta - case.noise + case.x_0) ** 2\n"
        "    return (case.advantage * error.flatten(1).sum(1)).mean()\n"
    )
    assert main(["unveil", f"{file}::loss"]) == 0
    out = capsys.readouterr().out
    assert "gradient   2A(v_θ − v_gt)" in out
    assert "policy     on-policy" in out
    assert "catalogue  awm, batch_reduction='mean'" in out
    assert main(["unveil", f"{file}::nothing"]) == 2
    assert main(["unveil", f"{file}::loss", "--set", "banana=1"]) == 2
    assert "banana=1" in capsys.readouterr().err
    file.write_text("def loss(case):\n    return case.banana\n")
    assert main(["unveil", f"{file}::loss"]) == 2
    assert "has no quantity 'banana'" in capsys.readouterr().err


def test_a_loss_of_what_both_processes_have_belongs_to_both() -> None:
    def pulled(case: Case) -> Tensor:
        t = case.expand(case.t)
        pull = (t * (case.v_ref - case.v_old)).detach()
        x = case.x_t - t * case.v_theta
        return ((x - (x - pull).detach()) ** 2).mean() / 2

    assert unveil(pulled, "pulled").process == "forward or backward"


def test_a_target_that_is_a_share_of_the_velocity_is_read() -> None:
    def state_minus_data(case: Case) -> Tensor:
        return ((case.v_theta - (case.x_t - case.x_0)) ** 2).mean()

    found = unveil(state_minus_data, "state_minus_data")
    assert (found.process, found.target) == ("forward", n.t * n.v_gt)


def _halves(case: Case) -> Tensor:
    gap = ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1) - ((case.v_ref - case.v_gt) ** 2).flatten(1).sum(1)
    won, lost = gap.chunk(2)
    return torch.nn.functional.softplus(case.beta_dpo * (won - lost)).mean()


def _counted(case: Case) -> Tensor:
    each = case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)
    return (each * case.mask).sum() / case.mask.sum()


def _rows(case: Case) -> Tensor:
    error = ((case.v_theta - case.v_gt) ** 2).flatten(2).sum(2)
    return (case.advantage[:, None] * error).mean()


def _guided(case: Case) -> Tensor:
    v = case.v_uncond + case.guidance_scale * (case.v_cond - case.v_uncond)
    return (case.advantage * ((v - case.v_gt) ** 2).flatten(1).sum(1)).mean()


@pytest.mark.parametrize(
    ("function", "declared", "other"),
    [
        (_halves, {"algorithm": "diffusion_dpo", "pairs": "halves"}, {"pairs": "adjacent"}),
        (_counted, {"algorithm": "awm", "mask": "samples"}, {"mask_reduction": "mean"}),
        (_rows, {"algorithm": "awm", "steps": True}, {"reduction": "mean"}),
        (_guided, {"algorithm": "awm", "guidance": True}, {"reduction": "mean"}),
        (lambda c: 2 * _guided(c), {"algorithm": "awm", "guidance": True}, {"reduction": "mean"}),
    ],
)
def test_a_batch_is_looked_at_as_it_is_declared(
    function: Callable[[Case], Tensor], declared: dict[str, Any], other: dict[str, Any]
) -> None:
    """The derivation is told of code that has its gradient, a factor apart, and not under another declaration."""
    conventions = declare(**declared)
    found = unveil(function, "loss", assumed=Assumed.of((), conventions))
    assert found.reason == ""
    assert found.derivation is conventions.derivation
    factor = 1 if "factor" not in found.matches[0] else 2
    assert found.gradient == factor * conventions.derivation.gradient
    text = unveiled_text(found)
    assert f"as declared, {declared['algorithm']}: the gradient is the derived one" in " ".join(text.split())
    wrong = unveil(function, "loss", assumed=Assumed.of((), declare(**{**declared, **other})))
    if wrong.matches:  # sum for mean differs by a number where all latents are of one size
        pytest.fail(f"{wrong.matches} under another declaration")
    assert "not the gradient of what is declared" in wrong.reason
    assert unveiled_text(wrong)


def test_code_for_one_rank_of_latents_is_looked_at_there() -> None:
    def images(case: Case) -> Tensor:
        return (case.advantage * ((case.v_theta - case.v_gt) ** 2).mean(dim=(1, 2, 3))).mean()

    found = unveil(images, "images")
    assert (found.axes, found.reason) == (3, "")
    assert "awm[mean], batch_reduction='mean'" in found.matches
    assert "of 3 axes besides the batch's alone" in unveiled_text(found)


def test_the_command_takes_a_declaration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def loss(case):\n"
        "    s = case.expand(case.s)\n"
        "    return ((case.v_theta - case.v_ref + s * case.adjoint) ** 2).flatten(1).sum(1).mean()\n"
    )
    line = ["--loss", "norm2(v_theta - v_ref + s*adjoint)", "--given", "adjoint=latent", "--given", "s=sample > 0"]
    assert main(["unveil", f"{file}::loss", *line]) == 0
    assert "gradient   2(v_θ − v_ref) + 2s adjoint" in capsys.readouterr().out
    assert main(["check", f"{file}::loss", *line, "--only", "gradient", "--isolation", "none"]) == 0
    capsys.readouterr()
    assert main(["unveil", f"{file}::loss", "--given", "adjoint"]) == 2
    assert "--given" in capsys.readouterr().err
    assert main(["unveil", f"{file}::loss", *line[:2], "--given", "adjoint"]) == 2
    assert "NAME=KIND" in capsys.readouterr().err
