r"""Other predictions and the other direction of time by hand, as trainers convert them before they call a loss.

The losses beside this file are written for velocities with the noise at t = 1.  A case in other variables is turned
into such a case, differentiably, and handed to them.

=========  ===================================  ===========================================
predicted  rectified path, noise at t = 1       variance-preserving path
=========  ===================================  ===========================================
noise      v = (noise − x_t)/(1 − t)            v = (noise − √(1 − ᾱ) x_t)/√ᾱ
data       v = (x_t − x_0)/t                    v = (√ᾱ x_t − x_0)/√(1 − ᾱ)
=========  ===================================  ===========================================

Source: Lipman et al., arXiv:2210.02747, and Salimans & Ho, arXiv:2202.00512, appendix D.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.losses._common import Path, Prediction, expand

__all__ = ["as_velocities", "in_velocities"]

_MODELS = ("theta", "old", "ref")
_PREFIX = {"epsilon": "noise", "x0": "x_0"}


def in_velocities(case: Case, *, prediction: Prediction, noise_at: int, path: Path) -> Case:
    """The same problem with velocities, and with the noise at t = 1."""
    held = {name: getattr(case, name) for name in case.names}
    if noise_at == 0:
        held["t"] = 1 - case.t if "t" in held else None
    if prediction == "v":
        for name in ("v_theta", "v_old", "v_ref"):
            if noise_at == 0 and name in held:
                held[name] = -held[name]
    else:
        for model in _MODELS:
            predicted = held.pop(f"{_PREFIX[prediction]}_{model}", None)
            if predicted is not None:
                held[f"v_{model}"] = _velocity(predicted, _state(case, held, path), held, prediction, path)
    return Case(case.label, {name: x for name, x in held.items() if x is not None})


def as_velocities(case: Case, *, prediction: Prediction, noise_at: int, path: Path) -> Case:
    """A problem in which the predicted noise (or data) and the true one take the velocities' places in the formulas."""
    kind, sign = _PREFIX[prediction], 1 if noise_at == 1 else -1
    truth = sign * (case.noise if prediction == "epsilon" else case.x_0)
    held = {name: getattr(case, name) for name in case.names if name not in ("noise", "x_0", "v_gt", "x_t")}
    for model in _MODELS:
        predicted = held.pop(f"{kind}_{model}", None)
        if predicted is not None:
            held[f"v_{model}"] = sign * predicted
    if noise_at == 0 and "t" in held:
        held["t"] = 1 - case.t
    return Case(case.label, {**held, "noise": truth, "x_0": torch.zeros_like(truth)})


def _state(case: Case, held: dict[str, Tensor], path: Path) -> Tensor:
    """x_t: given where a sampler was there, else made of the clean latent and the noise."""
    if "x_0" not in held:
        state: Tensor = case.x_t
        return state
    if path == "vp":
        alpha_bar = expand(held["alpha_bar"], held["x_0"])
        return torch.sqrt(alpha_bar) * held["x_0"] + torch.sqrt(1 - alpha_bar) * held["noise"]
    t = expand(held["t"], held["x_0"])
    return (1 - t) * held["x_0"] + t * held["noise"]


def _velocity(predicted: Tensor, x_t: Tensor, held: dict[str, Tensor], prediction: Prediction, path: Path) -> Tensor:
    if path == "vp":
        alpha_bar = expand(held["alpha_bar"], x_t)
        signal, noise = torch.sqrt(alpha_bar), torch.sqrt(1 - alpha_bar)
        return (predicted - noise * x_t) / signal if prediction == "epsilon" else (signal * x_t - predicted) / noise
    t = expand(held["t"], x_t)
    return (predicted - x_t) / (1 - t) if prediction == "epsilon" else (x_t - predicted) / t
