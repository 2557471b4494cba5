r"""The DDIM step: the reverse step of a variance-preserving diffusion, in its velocity.

On the path x = √ᾱ x_0 + √(1−ᾱ) ε the velocity is v = √ᾱ ε − √(1−ᾱ) x_0, the path's derivative in the angle φ with
√ᾱ = cos φ (Salimans & Ho, arXiv:2202.00512).  A prime is for after the step, which is nearer to the data: ᾱ' > ᾱ.

.. math:: \mu = \sqrt{\bar\alpha'}\, \hat x_0 + \sqrt{1 - \bar\alpha' - C_2^2}\; \hat\varepsilon, \qquad
          C_2 = \eta \sqrt{\frac{1 - \bar\alpha'}{1 - \bar\alpha}} \sqrt{1 - \frac{\bar\alpha}{\bar\alpha'}}

Proved: η = 0 is a rotation of (x, v), η = 1 the posterior of DDPM's chain, and CPS is this step on the rectified path.
Source: Song et al., arXiv:2010.02502, Eq. 12 and 16; DDPM: Ho et al., arXiv:2006.11239, Eq. 7.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp

from derivations.calculus import VectorSymbol
from derivations.claims import Equal, Positive
from derivations.derivation import Step
from derivations.notation import (
    C1,
    C2,
    alpha_bar,
    alpha_bar_prev,
    mean_offset,
    noise,
    noise_level,
    t,
    t_prev,
    v_theta,
    x_t,
)

__all__ = ["DDIM_FORMULAS", "DDIM_MEAN", "DDIM_REFERENCE", "cps_is_ddim", "ddim_facts"]

DDIM_REFERENCE = """@article{song2020ddim,
  title={Denoising Diffusion Implicit Models},
  author={Song, Jiaming and Meng, Chenlin and Ermon, Stefano},
  journal={arXiv:2010.02502}, year={2020}}"""
"""BibTeX of the source."""

_signal, _spread, _signal_prev = sp.sqrt(alpha_bar), sp.sqrt(1 - alpha_bar), sp.sqrt(alpha_bar_prev)
_kept = sp.sqrt(1 - alpha_bar_prev - C2**2)
_x_0_hat, _noise_hat = _signal * x_t - _spread * v_theta, _signal * v_theta + _spread * x_t

DDIM_MEAN = _signal_prev * _x_0_hat + _kept * _noise_hat
"""The mean as the source writes it, with the predictions read off the velocity."""

DDIM_FORMULAS: Mapping[sp.Symbol, sp.Expr] = {
    C2: noise_level * sp.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar)) * sp.sqrt(1 - alpha_bar / alpha_bar_prev),
    C1: _signal_prev * _spread - _signal * _kept,
    mean_offset: (_signal_prev * _signal + _kept * _spread) * x_t,
}
"""The numbers behind the symbols."""


def ddim_facts() -> tuple[Step, ...]:
    """What is proved of the step on its own."""
    at_prev, kept = sp.sqrt(1 - alpha_bar_prev), sp.Symbol("κ", nonnegative=True)
    path = {
        x_t: _signal * VectorSymbol("x_0") + _spread * noise,
        v_theta: _signal * noise - _spread * VectorSymbol("x_0"),
    }
    return (
        Step(
            "data-from-velocity",
            "On the path, the data is √ᾱ·x_t − √(1 − ᾱ)·v …",
            Equal(_x_0_hat.xreplace(path), VectorSymbol("x_0")),
        ),
        Step(
            "noise-from-velocity",
            "… and the noise is √ᾱ·v + √(1 − ᾱ)·x_t.",
            Equal(_noise_hat.xreplace(path), noise),
        ),
        Step(
            "signal",
            "With the true velocity the mean keeps exactly the data coefficient that x after the step has, √ᾱ'.",
            Equal(DDIM_MEAN.xreplace(path), _signal_prev * VectorSymbol("x_0") + _kept * noise),
        ),
        Step(
            "noise-budget",
            "The noise kept and the noise added have together the variance 1 − ᾱ' of x after the step.",
            Equal(kept**2 + C2**2, 1 - alpha_bar_prev, {kept: _kept}),
        ),
        *_noise_level_steps(DDIM_FORMULAS[C2]),
        Step(
            "slope-split",
            "C1 is the sine of the angle that the step turns by, and what the noise that is not kept adds.",
            Equal(C1, _signal_prev * _spread - _signal * at_prev + _signal * (at_prev - _kept)),
        ),
        Step(
            "angle-positive",
            "That sine, times a sum of positive numbers, is ᾱ' − ᾱ, which is positive.",
            Equal(
                (_signal_prev * _spread - _signal * at_prev) * (_signal_prev * _spread + _signal * at_prev),
                alpha_bar_prev - alpha_bar,
            ),
        ),
        Step(
            "slope-positive", "C1 > 0 for every step down, ᾱ' > ᾱ: more velocity always means less mean.", Positive(C1)
        ),
    )


def _noise_level_steps(std: sp.Expr) -> tuple[Step, ...]:
    """What η does: at 0 the ODE's step, a rotation; at 1 the posterior of DDPM's chain; between them a real root."""
    a, a_prev = alpha_bar, alpha_bar_prev
    turn = (
        sp.sqrt(a) * sp.sqrt(a_prev) + sp.sqrt(1 - a) * sp.sqrt(1 - a_prev),
        sp.sqrt(1 - a) * sp.sqrt(a_prev) - sp.sqrt(a) * sp.sqrt(1 - a_prev),
    )
    beta = 1 - a / a_prev  # of DDPM's chain from x after the step to x before it
    posterior = sp.sqrt(a_prev) * beta / (1 - a) * _x_0_hat + sp.sqrt(a / a_prev) * (1 - a_prev) / (1 - a) * x_t
    kept_by_ddpm = sp.sqrt(a / a_prev) * (1 - a_prev) / sp.sqrt(1 - a)
    return (
        Step(
            "noise-room",
            "What the noise added leaves for the noise kept …",
            Equal(
                1 - a_prev - std**2,
                (1 - a_prev) * ((1 - noise_level**2) * (a_prev - a) + a * (1 - a_prev)) / (a_prev * (1 - a)),
            ),
        ),
        Step(
            "noise-room-positive",
            "… is positive for η up to 1, so that the root is real.",
            Positive(1 - a_prev - std**2, within={noise_level: sp.Interval.Lopen(0, 1)}),
        ),
        Step("noise-positive", "Every step adds noise.", Positive(std)),
        Step("no-noise", "At η = 0 the step adds no noise.", Equal(std, sp.S.Zero, {noise_level: sp.S.Zero})),
        Step(
            "rotation",
            "It is then a rotation: with √ᾱ = cos φ, it turns (x, v) by the angle φ − φ'.",
            Equal(DDIM_MEAN.xreplace({C2: sp.S.Zero}), turn[0] * x_t - turn[1] * v_theta),
        ),
        Step("rotation-length", "Its cosine and sine have the length 1.", Equal(turn[0] ** 2 + turn[1] ** 2, sp.S.One)),
        Step(
            "ddpm-variance",
            "At η = 1 the variance is that of DDPM's posterior, (1 − ᾱ')/(1 − ᾱ)·β with β = 1 − ᾱ/ᾱ' …",
            Equal(std**2, (1 - a_prev) / (1 - a) * beta, {noise_level: sp.S.One}),
        ),
        Step(
            "ddpm-kept-noise",
            "… so that of the predicted noise √(ᾱ/ᾱ')·(1 − ᾱ')/√(1 − ᾱ) is kept (both are positive) …",
            Equal(1 - a_prev - std**2, kept_by_ddpm**2, {noise_level: sp.S.One}),
        ),
        Step(
            "ddpm-mean",
            "… and the mean is that posterior's, at the predicted data.",
            Equal(sp.sqrt(a_prev) * _x_0_hat + kept_by_ddpm * _noise_hat, posterior),
        ),
        Step(
            "ddpm-pull",
            "C1²/C2² is then (ᾱ' − ᾱ)/(1 − ᾱ').",
            Equal(
                (sp.sqrt(a_prev) * sp.sqrt(1 - a) - sp.sqrt(a) * kept_by_ddpm) ** 2 / std**2,
                (a_prev - a) / (1 - a_prev),
                {noise_level: sp.S.One},
            ),
        ),
    )


def cps_is_ddim(cps_mean: sp.Expr, cps_slope: sp.Expr) -> tuple[Step, ...]:
    """One formula on both paths; only the choice of C2 differs."""
    # x = α x_0 + s ε, whose velocity is v = α̇ x_0 + ṡ ε with α ṡ − s α̇ = 1 on either path; a prime: after the step
    signal, spread, signal_prev, spread_prev = sp.symbols("alpha s alpha_prev s_prev", positive=True)
    signal_rate, spread_rate = sp.symbols("dalpha ds", real=True)
    kept = sp.sqrt(spread_prev**2 - C2**2)
    x_0_hat, noise_hat = spread_rate * x_t - spread * v_theta, signal * v_theta - signal_rate * x_t
    general, slope = signal_prev * x_0_hat + kept * noise_hat, signal_prev * spread - signal * kept
    coefficients = (signal, spread, signal_prev, spread_prev)
    vp = dict(zip(coefficients, (_signal, _spread, _signal_prev, sp.sqrt(1 - alpha_bar_prev)), strict=True))
    rectified = dict(zip(coefficients, (1 - t, t, 1 - t_prev, t_prev), strict=True))
    rates = {
        "vp": {signal_rate: -_spread, spread_rate: _signal},
        "rectified": {signal_rate: sp.S.NegativeOne, spread_rate: sp.S.One},
    }
    return (
        Step(
            "one-formula",
            "On a path x = α·x_0 + s·ε the mean is α' times the predicted data and √(s'² − C2²) times the predicted "
            "noise, both read off x and v …",
            Equal(general, DDIM_MEAN, {**vp, **rates["vp"]}),
        ),
        Step(
            "cps-is-ddim",
            "… and on the rectified path that is CPS's mean.",
            Equal(general, cps_mean, {**rectified, **rates["rectified"]}),
        ),
        Step("one-slope", "Its C1 is α's − α √(s'² − C2²), here …", Equal(slope, C1, vp)),
        Step(
            "cps-slope",
            "… and in CPS: the two steps differ only in their path and in how C2 is chosen.",
            Equal(slope, cps_slope, rectified),
        ),
    )
