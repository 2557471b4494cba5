"""Slips in a reverse SDE's drift and diffusion coefficient, as formulas of the whole step."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n

__all__ = ["DRIFTS", "SIGMAS", "Drift", "drifts", "slope_with"]

Drift = tuple[str, str, sp.Expr, sp.Expr]
"""A name, a sentence, what is added to the velocity, and ∂mean/∂v."""


def slope_with(sigma: sp.Expr) -> sp.Expr:
    """∂mean/∂v of the step with this diffusion coefficient."""
    return -n.dt * (1 + (1 - n.t) * sigma**2 / (2 * n.t))


_HALF = n.sigma_t**2 / (2 * n.t)
DRIFTS: tuple[Drift, ...] = (
    ("score-x-missing", "x_t is missing from the score correction", _HALF * (1 - n.t) * n.v_theta, -n.C1),
    ("score-v-missing", "v is missing from the score correction", _HALF * n.x_t, -n.dt),
    (
        "sigma-not-squared",
        "σ_t stands where σ_t² belongs in the score correction",
        n.sigma_t / (2 * n.t) * (n.x_t + (1 - n.t) * n.v_theta),
        slope_with(sp.sqrt(n.sigma_t)),
    ),
    *(
        (name, f"the score correction is σ_t²/(2t)·({wrong}); x + (1 − t)v belongs there", _HALF * score, slope)
        for name, wrong, score, slope in (
            ("score-data-for-noise", "x − t v", n.x_t - n.t * n.v_theta, -n.dt * (1 - n.t * _HALF)),
            ("score-time-reversed", "x + t v", n.x_t + n.t * n.v_theta, -n.dt * (1 + n.t * _HALF)),
            (
                "score-time-of-next",
                "x + (1 − t')v",
                n.x_t + (1 - n.t_prev) * n.v_theta,
                -n.dt * (1 + (1 - n.t_prev) * _HALF),
            ),
        )
    ),
    *(
        (
            name,
            f"the score correction is divided by {wrong}; it must be by 2t",
            part * (n.x_t + (1 - n.t) * n.v_theta),
            -n.dt * (1 + (1 - n.t) * part),
        )
        for name, wrong, part in (
            ("score-over-time-twice", "2t²", _HALF / n.t),
            ("score-not-over-time", "2", _HALF * n.t),
            ("score-over-time-reversed", "2(1 − t)", n.sigma_t**2 / (2 * (1 - n.t))),
            ("score-over-next-time", "2t'", n.sigma_t**2 / (2 * n.t_prev)),
        )
    ),
)


def drifts() -> Iterator[tuple[str, str, sp.Expr, sp.Expr]]:
    """Names, sentences, means and their slopes."""
    for name, sentence, correction, slope in DRIFTS:
        yield name, sentence, n.x_t - (n.v_theta + correction) * n.dt, slope


SIGMAS: tuple[tuple[str, str, sp.Expr], ...] = (
    ("sigma-without-root", "σ_t lacks its root: it is a·t/(1 − t)", n.sigma_t**2 / n.noise_level),
    ("sigma-inverted", "σ_t is a √((1 − t)/t); a √(t/(1 − t)) belongs there", n.noise_level**2 / n.sigma_t),
    (
        "sigma-of-next-time",
        "σ_t is taken at t', where the step ends; it must be at t",
        n.noise_level * sp.sqrt(n.t_prev / (1 - n.t_prev)),
    ),
    ("sigma-without-denominator", "σ_t is a √t; a √(t/(1 − t)) belongs there", n.noise_level * sp.sqrt(n.t)),
)
"""Names, sentences and the diffusion coefficient that stands for Flow-SDE's."""
