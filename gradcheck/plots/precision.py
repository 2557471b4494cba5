r"""What float32 and bfloat16 leave of Flow-GRPO's gradient, measured and bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sympy as sp
import torch
from matplotlib.figure import Figure
from torch import Tensor

from derivations.notation import C2, k, log_prob_theta, log_ratio, mean_theta, noise, x_prev
from gradcheck.case import Case
from gradcheck.catalogue import entry
from gradcheck.derived.compiled import evaluate
from gradcheck.problems.building import complete
from gradcheck.reports.style import CYCLE, DASHES, STYLE, curve, labels, legend, styled, subplots
from gradcheck.rounding.bounds import unit_roundoff
from gradcheck.rounding.compare import gradient_of
from gradcheck.rounding.error_scale import error_scale

__all__ = [
    "DIMENSIONS",
    "LATENT",
    "Lost",
    "gradient_loss",
    "last_digit",
    "precision_picture",
    "problem",
    "rounded_state_loss",
    "stage_losses",
]

DIMENSIONS = tuple(4**n for n in range(2, 11))  # 16 … 1,048,576
"""Numbers of coordinates for which rounding is drawn."""

LATENT = 65_536
"""Number of coordinates of a real latent."""

_DISTANCE = 0.2  # k‖δ‖
_SAMPLES = 1
_VARIANTS = {"sum": "paper", "mean": "mean"}


@dataclass(frozen=True)
class Lost:
    """An error, and what the running error analysis allows for it, in the same unit.

    Attributes:
        measured: what one evaluation was off by.
        bound: u·e; infinite where nothing can be said.
    """

    measured: float
    bound: float


def problem(reduction: str, d: int, dtype: torch.dtype, seed: int = 0) -> Case:
    """A step at t = 0.6 of length 0.1, with v_theta a little off v_old, in a precision."""
    derivation = entry("flow_grpo", _VARIANTS[reduction]).derivation
    generator = torch.Generator().manual_seed(seed)
    v_old, x_t, eps, away = (torch.randn(_SAMPLES, d, generator=generator, dtype=torch.float64) for _ in range(4))
    one = torch.ones(_SAMPLES, dtype=torch.float64)
    given: dict[str, Tensor | float] = {
        "v_old": v_old, "x_t": x_t, "noise": eps, "t": 0.6 * one, "dt": 0.1 * one, "advantage": one,
        "noise_level": 0.7, "clip_low": 0.9, "clip_high": 9.0, "D": float(d), "v_theta": v_old,
    }  # fmt: skip
    (slope,) = evaluate(derivation, Case(derivation.label, given), k)
    given["v_theta"] = v_old + _DISTANCE / slope * away / away.norm(dim=1, keepdim=True)
    rounded = {n: x.to(dtype) if isinstance(x, Tensor) else x for n, x in given.items()}
    return complete(derivation, {n: rounded[n] for n in derivation.given})


def _relative(error: Tensor, value: Tensor) -> float:
    return float(error.norm() / value.norm())


def _required(case: Case, reduction: str) -> Tensor:
    derivation = entry("flow_grpo", _VARIANTS[reduction]).derivation
    return evaluate(derivation, case, derivation.gradient, dtype=torch.float64)[0]


def last_digit(value: float, dtype: torch.dtype) -> float:
    """What one unit in the last binary digit of a number is worth in a precision."""
    return float(2.0 ** math.floor(math.log2(abs(value))) * torch.finfo(dtype).eps)


def gradient_loss(reduction: str, d: int, dtype: torch.dtype) -> Lost:
    """Relative error of the gradient by the loss by hand, all of it in one precision."""
    chosen = entry("flow_grpo", _VARIANTS[reduction])
    case = problem(reduction, d, dtype)
    observed = gradient_of(chosen.loss(case), case.v_theta).to(torch.float64)
    required = _required(case, reduction)
    (scale,), _ = error_scale(chosen.derivation, case, chosen.derivation.raw_gradient)
    return Lost(_relative(observed - required, required), unit_roundoff(dtype) * _relative(scale, required))


def rounded_state_loss(reduction: str, d: int) -> float:
    """Relative error of the gradient where only the stored x_prev was rounded to bfloat16, the rest being float32."""
    chosen = entry("flow_grpo", _VARIANTS[reduction])
    case = problem(reduction, d, torch.float32)
    case = case.replace(x_prev=case.x_prev.to(torch.bfloat16).to(torch.float32))
    required = _required(case, reduction)
    return _relative(gradient_of(chosen.loss(case), case.v_theta).to(torch.float64) - required, required)


def stage_losses(reduction: str, dtype: torch.dtype, d: int = LATENT) -> dict[str, Lost]:
    """Errors of the stages on the way, each in the unit that matters to the gradient.

    The residual's is relative to the noise that it should hold; those of log p and of log r are absolute, for the
    ratio is their exponential; the gradient's is relative.
    """
    derivation = entry("flow_grpo", _VARIANTS[reduction]).derivation
    case = problem(reduction, d, dtype)
    stages: dict[str, tuple[sp.Expr, sp.Expr | None]] = {
        "mean": (mean_theta, C2 * noise),
        "x_prev − mean": (x_prev - mean_theta, C2 * noise),
        "log p": (log_prob_theta, None),
        "log r": (log_ratio, None),
    }
    out = {}
    for name, (expr, unit) in stages.items():
        (exact,) = evaluate(derivation, case, expr, dtype=torch.float64)
        (rounded,) = evaluate(derivation, case, expr, dtype=dtype)
        (scale,), _ = error_scale(derivation, case, expr)
        size = 1.0 if unit is None else float(evaluate(derivation, case, unit, dtype=torch.float64)[0].norm())
        error = rounded.to(torch.float64) - exact
        if unit is None:
            out[name] = Lost(float(error.abs().max()), unit_roundoff(dtype) * float(scale.max()))
        else:
            out[name] = Lost(float(error.norm()) / size, unit_roundoff(dtype) * float(scale.norm()) / size)
    out["gradient"] = gradient_loss(reduction, d, dtype)
    return out


_KINDS = (
    ("sum", torch.float32, "sum, float32", "o"),
    ("mean", torch.float32, "mean, float32", "s"),
    ("sum", torch.bfloat16, "sum, bfloat16", "D"),
    ("mean", torch.bfloat16, "mean, bfloat16", "^"),
)


@styled()
def precision_picture() -> Figure:
    """Left: the gradient's error over D. Right: the stages on the way to it. Lines are bounds, marks are measured."""
    figure, (over_d, stages) = subplots(1, 2, height=4.3, sharey=True)
    for i, (reduction, dtype, name, mark) in enumerate(_KINDS):
        lost = [gradient_loss(reduction, d, dtype) for d in DIMENSIONS]
        marks = {"marker": mark, "markersize": 6, "linestyle": "", "color": CYCLE[i], "markeredgecolor": "white"}
        curve(over_d, DIMENSIONS, [x.bound for x in lost], "", i, linewidth=1.5)
        over_d.plot(DIMENSIONS, [x.measured for x in lost], label=name, **marks)
        at_stages = stage_losses(reduction, dtype)
        places = [j + 0.16 * (i - 1.5) for j in range(len(at_stages))]
        stages.plot(places, [x.measured for x in at_stages.values()], **marks)
        for place, x in zip(places, at_stages.values(), strict=True):
            stages.plot([place - 0.07, place + 0.07], [x.bound] * 2, color=CYCLE[i], linestyle=DASHES[0], linewidth=2)
        stages.set_xticks(range(len(at_stages)), list(at_stages), rotation=25, ha="right")
    state = [rounded_state_loss("mean", d) for d in DIMENSIONS]
    over_d.plot(
        DIMENSIONS, state, "x", color=STYLE["ink"], label="only x_prev in bfloat16", markersize=7, markeredgewidth=1.8
    )
    for panel in (over_d, stages):
        panel.axhline(1, color=STYLE["faint"], linewidth=1.0)
    over_d.set(xscale="log", yscale="log", ylim=(1e-9, 1e4))
    over_d.text(DIMENSIONS[0], 1.3, "nothing left above", fontsize=9, color=STYLE["faint"])
    labels(over_d, "latent coordinates $D$", "error (1: all is lost)", "gradient, relative error")
    labels(stages, "stage", "", f"stages, D = {LATENT:,}")
    legend(figure, columns=3)
    figure.set_label(
        "Left: relative error of the gradient over D from 16 to a million. The sum's error grows with D, the "
        "mean's stays at the rounding level. Right: the errors of the stages at D = 65,536; the sum's "
        "log-density is where float32 loses its digits, and in bfloat16 already the difference x_prev minus "
        "mean has only two."
    )
    return figure
