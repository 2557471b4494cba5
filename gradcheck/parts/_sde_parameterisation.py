r"""What right code may lose by one change of parameterisation, from the error analysis of that code's own formulas.

An implementation need not take the velocity as it comes.  It may work with the predicted noise and the predicted data,

.. math:: \hat\varepsilon = x_t + (1-t)v, \qquad \hat x_0 = x_t - t v,

or with the score :math:`-\hat\varepsilon/t`, and come back by any of

.. math:: v = \hat\varepsilon - \hat x_0 = (x_t - \hat x_0)/t = (\hat\varepsilon - x_t)/(1-t), \qquad
          x_t = (1-t)\hat x_0 + t\hat\varepsilon.

Or it may have 1 − t for its time, which knows t to the rounding of 1 alone.  Each subtracts what is larger than its
result, by up to 1/t near data and 1/(1 − t) near noise.  Their rounding errors, taken for those of v, x_t and t
themselves, go through the step's formulas like any other's.  A step that is written as
:math:`a\hat x_0 + b\hat\varepsilon` has coefficients that cancel in its slope too, −t·a + (1 − t)·b.
"""

from __future__ import annotations

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import VectorSymbol
from derivations.steps.sde import StepName, reverse_step
from gradcheck.rounding.bounds import Analysis

__all__ = ["ROUTES", "STATE", "predictions", "reparameterise", "slope_through_predictions"]

_DATA, _NOISE = VectorSymbol("x_0_hat"), VectorSymbol("noise_hat")

predictions: dict[sp.Symbol, sp.Expr] = {_DATA: n.x_t - n.t * n.v_theta, _NOISE: n.x_t + (1 - n.t) * n.v_theta}
"""The predicted data and noise."""

ROUTES: tuple[sp.Expr, ...] = (_NOISE - _DATA, (n.x_t - _DATA) / n.t, (_NOISE - n.x_t) / (1 - n.t))
"""The velocity, from the predictions."""

STATE: sp.Expr = (1 - n.t) * _DATA + n.t * _NOISE
"""The state, from the predictions."""


def slope_through_predictions(sde: StepName) -> sp.Expr:
    """C1, as it comes out of the predictions' coefficients a and b, in the symbols of the step."""
    p = reverse_step(sde).formulas[n.mean_offset] / n.x_t
    a, b = p * (1 - n.t) + n.C1, p * n.t - n.C1
    return n.t * a - (1 - n.t) * b


def reparameterise(analysis: Analysis) -> None:
    """Give v and x_t the rounding errors of the worst of the routes, and both times that of 1.

    At t = 1 and t = 0 a route that divides by 0 is no code, and leaves no trace.
    """
    times = {s: analysis(s)[0] for s in (n.t, n.t_prev, n.dt)}
    analysis.memo = {s: (x, torch.ones_like(x)) for s, x in times.items()}
    for symbol, formula in predictions.items():
        analysis.define(symbol, formula)
    worse: dict[sp.Symbol, tuple[Tensor, Tensor]] = {}
    for symbol, routes in ((n.v_theta, ROUTES), (n.x_t, (STATE,))):
        value, error = analysis(symbol)
        for route in routes:
            other = analysis(route)[1]
            error = torch.maximum(error, torch.where(other.isfinite(), other, 0.0))
        worse[symbol] = value, error
    analysis.memo = {symbol: analysis.memo[symbol] for symbol in times} | worse
