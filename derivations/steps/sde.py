r"""Reverse steps: each a Gaussian whose mean is affine in the velocity, :math:`\mu = a - C_1 v`, with std :math:`C_2`.

===========  ===========================================  ==========================================
step         source                                       noise
===========  ===========================================  ==========================================
Flow-SDE     Flow-GRPO, arXiv:2505.05470, Eq. 9–12        σ_t = η √(t/(1−t)), C2 = σ_t √Δt
Dance-SDE    DanceGRPO, arXiv:2505.07818                  σ_t = η, C2 = η √Δt
CPS          Coefficients-Preserving, arXiv:2509.05952    C2 = t' sin(ηπ/2)
Wan-SDE      Flow-GRPO's public code for Wan              σ_t = σ_min + (η − σ_min) t, C2 = σ_t √Δt
DDIM         Song et al., arXiv:2010.02502, Eq. 12, 16    C2 = η √((1−ᾱ')/(1−ᾱ)) √(1 − ᾱ/ᾱ')
===========  ===========================================  ==========================================

All but the last are on the rectified path x = (1−t) x_0 + t ε, with v = ε − x_0; DDIM's is on the variance-preserving
one (:mod:`derivations.steps.ddim`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import sympy as sp

from derivations.calculus import Norm2, VectorSymbol
from derivations.claims import Equal, GradientIs, Positive
from derivations.derivation import PathName, Step, Theorem
from derivations.notation import (
    C1,
    C2,
    dt,
    mean_offset,
    noise,
    noise_level,
    sigma_min,
    sigma_t,
    t,
    t_prev,
    v_theta,
    x_t,
)
from derivations.steps.ddim import DDIM_FORMULAS, DDIM_MEAN, DDIM_REFERENCE, cps_is_ddim, ddim_facts

__all__ = ["REVERSE_STEPS", "SDES", "ReverseStep", "StepName", "reverse_step", "step_with"]


StepName = Literal["flow", "dance", "cps", "wan", "ddim"]
"""The reverse steps by name."""


@dataclass(frozen=True)
class ReverseStep:
    """One reverse step.

    Attributes:
        name: ``"flow"``, ``"dance"``, ``"cps"``, ``"wan"`` or ``"ddim"``.
        mean: the mean as the source writes it, in ``v_theta``.
        formulas: the numbers behind the symbols: ``sigma_t`` (where there is one), ``C1``, ``C2``, ``mean_offset``.
        facts: the machine-checked facts about it, which are stated when they are asked for.
        reference: BibTeX.
        path: what x_t is made of, as ``Derivation.path``; its velocity is that path's.
        within: where it is a step that adds noise: its quantities' domains, where they are narrower than the table's.
    """

    name: StepName
    title: str
    mean: sp.Expr
    formulas: Mapping[sp.Symbol, sp.Expr]
    facts: Callable[[], Theorem]
    reference: str
    path: PathName = "rectified"
    within: Mapping[sp.Symbol, sp.Interval] = field(default_factory=dict)

    @cached_property
    def theorem(self) -> Theorem:
        """What is proved of it."""
        return self.facts()


def _affine_steps(mean: sp.Expr) -> tuple[Step, ...]:
    return (
        Step("mean", "The mean is affine in the velocity: a − C1·v.", Equal(mean, mean_offset - C1 * v_theta)),
        Step(
            "mean-slope",
            "C1 is minus the mean's slope in the velocity: moving v by h moves the mean by −C1·h.",
            Equal(mean.xreplace({v_theta: v_theta + VectorSymbol("h")}) - mean, -C1 * VectorSymbol("h")),
        ),
    )


def _sde(
    name: StepName,
    title: str,
    reference: str,
    sigma: sp.Expr,
    schedule: sp.Expr | None,
    schedule_words: str = "",
    more: Callable[[], tuple[Step, ...]] = tuple,
) -> ReverseStep:
    """A reverse SDE with the diffusion coefficient ``sigma``, which obeys σ² · schedule = η², or what ``more`` says."""
    drift = v_theta + sigma_t**2 / (2 * t) * (x_t + (1 - t) * v_theta)
    mean = x_t - drift * dt
    formulas = {
        sigma_t: sigma,
        C1: dt * (1 + (1 - t) * sigma_t**2 / (2 * t)),
        C2: sigma_t * sp.sqrt(dt),
        mean_offset: x_t * (1 - sigma_t**2 * dt / (2 * t)),
    }

    def facts() -> Theorem:
        late = {t: 1 / (1 + sp.Symbol("u", positive=True))}  # t in (0, 1)
        inlined = {s: e for s, e in formulas.items() if s != sigma_t}
        steps = (
            *_score_steps(),
            *_affine_steps(mean),
            Step(
                "slope-positive",
                "C1 > 0 for every t in (0, 1): more velocity always means less mean.",
                Positive(C1, late),
            ),
            Step("variance", "The step's variance is σ_t² Δt.", Equal(C2**2, sigma_t**2 * dt)),
            *(() if schedule is None else _schedule_step(sigma, schedule, schedule_words)),
            *more(),
        )
        return Theorem(f"sde-{name}", title, steps, inlined, reference)

    return ReverseStep(name, title, mean, formulas, facts, reference)


def _schedule_step(sigma: sp.Expr, schedule: sp.Expr, words: str) -> tuple[Step, ...]:
    claim = Equal(sigma_t**2 * schedule, noise_level**2, {sigma_t: sigma})
    return (Step("noise-schedule", f"The diffusion coefficient: {words}.", claim),)


def _score_steps() -> tuple[Step, ...]:
    """Where the correction σ²/(2t)·(x + (1−t)v) comes from, and that it leaves the marginals alone."""
    x_clean = VectorSymbol("x_0")
    v_path = noise - x_clean
    x_path = (1 - t) * x_clean + t * noise
    # One coordinate x of the state with the rest held fixed; the identities sum over coordinates.
    x = sp.Symbol("x", real=True)
    sigma = sp.Symbol("sigma", positive=True)
    p, velocity = sp.Function("p", positive=True)(x), sp.Function("v", real=True)(x)
    score = sp.diff(p, x) / p
    drift = velocity - sigma**2 / 2 * score
    fokker_planck = -sp.diff(drift * p, x) - sigma**2 / 2 * sp.diff(p, x, 2)  # time runs backwards: −½σ²∂²p
    score_of_velocity = -(x_t + (1 - t) * v_theta) / t
    log_density = -Norm2(x_t - (1 - t) * x_clean) / (2 * t**2)
    return (
        Step(
            "noise-from-velocity", "On the path, the noise is x_t + (1 − t)·v.", Equal(x_path + (1 - t) * v_path, noise)
        ),
        Step(
            "score",
            "Given x_0, x_t is Gaussian, and this is its score.",
            GradientIs(log_density, -(x_t - (1 - t) * x_clean) / t**2, wrt=x_t, label=r"\log p(x_t \mid x_0)"),
        ),
        Step(
            "score-is-noise",
            "The same score, written with the noise that made x_t, …",
            Equal(-(x_t - (1 - t) * x_clean) / t**2, -noise / t, {x_t: x_path}),
        ),
        Step(
            "score-from-velocity",
            "… and with the path's velocity, in which it is affine.",
            Equal(score_of_velocity, -noise / t, {x_t: x_path, v_theta: v_path}),
        ),
        Step(
            "drift",
            "With the model's velocity in that formula, v less σ²/2 times it is the drift of the reverse SDE.",
            Equal(
                v_theta - sigma_t**2 / 2 * score_of_velocity,
                v_theta + sigma_t**2 / (2 * t) * (x_t + (1 - t) * v_theta),
            ),
        ),
        Step(
            "marginals",
            "Fokker–Planck, coordinate by coordinate: with the density's own score, the SDE moves it as the ODE does, "
            "−∇·(v p).",
            Equal(fokker_planck, -sp.diff(velocity * p, x)),
        ),
    )


_kept = sp.Symbol("κ", nonnegative=True)  # of the predicted noise
_UP_TO_ONE = {noise_level: sp.Interval.Lopen(0, 1)}
_BEFORE_THE_LAST = {t_prev: sp.Interval.open(0, t), C2: sp.Interval.Lopen(0, t_prev)}


def _cps() -> ReverseStep:
    after = t - dt
    x_0_hat, noise_hat = x_t - t * v_theta, x_t + (1 - t) * v_theta
    direction = sp.sqrt(t_prev**2 - C2**2)
    mean = (1 - t_prev) * x_0_hat + direction * noise_hat
    formulas = {
        t_prev: after,
        C2: t_prev * sp.sin(noise_level * sp.pi / 2),
        C1: t * (1 - t_prev) - (1 - t) * direction,
        mean_offset: (1 - t_prev + direction) * x_t,
    }

    def facts() -> Theorem:
        steps = (
            Step(
                "signal",
                "With the true velocity the mean keeps exactly the data coefficient that x at time t' has, 1 − t'.",
                Equal(
                    mean.xreplace(
                        {x_t: (1 - t) * VectorSymbol("x_0") + t * noise, v_theta: noise - VectorSymbol("x_0")}
                    ),
                    (1 - t_prev) * VectorSymbol("x_0") + direction * noise,
                ),
            ),
            Step(
                "noise-budget",
                "The noise kept and the noise added have together the variance t'² of x at time t'.",
                Equal(_kept**2 + C2**2, t_prev**2, {_kept: direction}),
            ),
            Step(
                "all-noise",
                "At η = 1 the step's noise is fresh: nothing of the predicted noise is kept.",
                Equal(formulas[C2], t_prev, {noise_level: sp.S.One}),
            ),
            Step(
                "no-noise", "At η = 0 the step is the ODE's.", Equal(formulas[C2], sp.S.Zero, {noise_level: sp.S.Zero})
            ),
            *_affine_steps(mean),
            Step(
                "slope-split",
                "C1 is the sum of Δt and of what the noise that is not kept adds.",
                Equal(C1, (t - t_prev) + (t_prev - direction) * (1 - t)),
            ),
            Step("slope-positive", "C1 > 0 where 0 < C2 ≤ t' < t: more velocity always means less mean.", Positive(C1)),
            Step(
                "noise-positive",
                "For η up to 1 every step but the last, which ends at t' = 0, adds noise.",
                Positive(formulas[C2], within=_UP_TO_ONE),
            ),
        )
        inlined = {C1: formulas[C1], mean_offset: formulas[mean_offset]}
        return Theorem("sde-cps", "Coefficients-Preserving Sampling", steps, inlined, _CPS, _BEFORE_THE_LAST)

    return ReverseStep(
        "cps", "Coefficients-Preserving Sampling", mean, formulas, facts, _CPS, within=_UP_TO_ONE | _BEFORE_THE_LAST
    )


def _wan() -> ReverseStep:
    sigma = sigma_min + (noise_level - sigma_min) * t
    return _sde(
        "wan",
        "Wan-SDE",
        _WAN,
        sigma,
        None,
        more=lambda: (
            Step(
                "noise-schedule",
                "The diffusion coefficient: a straight line in t.",
                Equal(sigma, (1 - t) * sigma_min + t * noise_level),
            ),
            Step(
                "noise-at-data", "At t = 0 the diffusion coefficient is σ_min.", Equal(sigma, sigma_min, {t: sp.S.Zero})
            ),
            Step(
                "noise-at-noise",
                "At t = 1 it is η: there is no pole.",
                Equal(sigma, noise_level, {t: sp.S.One}),
            ),
        ),
    )


def _ddim() -> ReverseStep:
    def facts() -> Theorem:
        cps = _cps()
        steps = (*ddim_facts(), *_affine_steps(DDIM_MEAN), *cps_is_ddim(cps.mean, cps.formulas[C1]))
        inlined = {s: DDIM_FORMULAS[s] for s in (C1, mean_offset)}
        return Theorem("sde-ddim", "DDIM and DDPM", steps, inlined, DDIM_REFERENCE)

    return ReverseStep("ddim", "DDIM", DDIM_MEAN, DDIM_FORMULAS, facts, DDIM_REFERENCE, "vp", _UP_TO_ONE)


_FLOW_GRPO = """@article{liu2025flowgrpo,
  title={Flow-GRPO: Training Flow Matching Models via Online RL},
  author={Liu, Jie and Liu, Gongye and Liang, Jiajun and others},
  journal={arXiv:2505.05470}, year={2025}}"""
_DANCE = """@article{xue2025dancegrpo,
  title={DanceGRPO: Unleashing GRPO on Visual Generation},
  author={Xue, Zeyue and others},
  journal={arXiv:2505.07818}, year={2025}}"""
_CPS = """@article{wang2025cps,
  title={Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching},
  author={Wang, Feng and Yu, Zihao and others},
  journal={arXiv:2509.05952}, year={2025}}"""
_WAN = """@misc{flowgrpo2025wan,
  title={Flow-GRPO, public code: the reverse step of its training script for Wan 2.1},
  author={Liu, Jie and others},
  howpublished={https://github.com/yifan123/flow_grpo}, year={2025}}"""
SDES: tuple[ReverseStep, ...] = (
    _sde(
        "flow",
        "Flow-SDE",
        _FLOW_GRPO,
        noise_level * sp.sqrt(t / (1 - t)),
        (1 - t) / t,
        "large near noise, t → 1, and small near data, σ_t² (1 − t)/t = η²",
    ),
    _sde("dance", "Dance-SDE", _DANCE, noise_level, sp.S.One, "the same at every t, σ_t² = η²"),
    _cps(),
    _wan(),
)
"""The reverse steps of the rectified path: a step from t to t − Δt."""

REVERSE_STEPS: tuple[ReverseStep, ...] = (*SDES, _ddim())
"""Every reverse step that there is."""


def reverse_step(name: str) -> ReverseStep:
    """Look a reverse step up by name.

    Raises:
        ValueError: there is no such step.
    """
    for step in REVERSE_STEPS:
        if step.name == name:
            return step
    raise ValueError(f"sde must be one of {', '.join(s.name for s in REVERSE_STEPS)}, but is {name!r}")


def step_with(coefficients: Mapping[sp.Symbol, sp.Expr]) -> ReverseStep | None:
    """The reverse step that a loss with these coefficients is on; ``None`` where it is on none."""
    return next((s for s in REVERSE_STEPS if s.formulas.items() <= coefficients.items()), None)
