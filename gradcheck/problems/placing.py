r"""Where the trained model's velocity lies: at a wanted log-ratio, or at a wanted divergence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import divergence, log_ratio
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.tensor_ops import dot, norm2

__all__ = ["at_divergence", "at_log_ratio"]

_HIGHEST_LOG_RATIO = 3.0
"""To which a step of a wanted divergence may bring it: a ratio of 20."""


def at_log_ratio(
    derivation: Derivation, given: Mapping[str, Tensor | float], v_old: Tensor, direction: Tensor, wanted: Tensor
) -> Tensor:
    """Move along a direction that raises (or lowers) the log-ratio until it is the wanted one, or at its peak."""
    case = Case(derivation.label, {**given, "v_theta": v_old})

    def log_ratio_at(v: Tensor) -> Tensor:
        return evaluate(derivation, case.replace(v_theta=v), log_ratio)[0]

    start = v_old.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(log_ratio_at(start).sum(), start)
    length = norm2(slope).sqrt().clamp(min=1e-300)
    d = slope / length * norm2(direction).sqrt() + 0.3 * direction
    d = d * torch.where(dot(slope, d) * wanted < 0, -1.0, 1.0)
    # Along d the log-ratio is close to b s − a s²; start at that parabola's root, then bisect on what it really is.
    b = dot(slope, d)
    probe = wanted.abs().clamp(min=1e-12) / b.abs().clamp(min=1e-300)
    a = (b * probe - log_ratio_at(v_old + probe * d)) / probe**2
    curved = a.abs() * wanted.abs() > 1e-12 * b**2
    root = b**2 - 4 * a * wanted
    s = torch.where(curved & (root > 0), 2 * wanted / (b + torch.sign(b) * root.clamp(min=0).sqrt()), wanted / b)
    s = torch.where(root <= 0, b / (2 * a), s)
    for _ in range(3):  # secant steps: exact for the Gaussian's parabola, a refinement for other log-densities
        h = 1e-6 * s
        at, ahead = log_ratio_at(v_old + s * d), log_ratio_at(v_old + (s + h) * d)
        change = (wanted - at) * h / (ahead - at)
        usable = change.isfinite() & (change.abs() < 0.5 * s.abs()) & (root > 0)
        s = torch.where(usable, s + change, s)
    s = torch.where((wanted == 0) | ~s.isfinite(), 0.0, s)
    return v_old + s * d


def at_divergence(
    derivation: Derivation,
    given: Mapping[str, Tensor | float],
    v_old: Tensor,
    direction: Tensor,
    wanted: Tensor,
    up: Tensor,
) -> Tensor:
    """Move until the divergence, a parabola, is the wanted one.

    Up or down (±1) the log-ratio's slope while the ratio is a number that trainers see, and across it for the rest.
    """
    case = Case(derivation.label, {**given, "v_theta": v_old})
    start = v_old.detach().clone().requires_grad_()
    (r,) = evaluate(derivation, case.replace(v_theta=start), log_ratio)
    (slope,) = torch.autograd.grad(r.sum(), start)
    along = slope / norm2(slope).sqrt().clamp(min=1e-300)
    across = direction - dot(direction, along) * along
    across = across / norm2(across).sqrt().clamp(min=1e-300)
    (unit,) = evaluate(derivation, case.replace(v_theta=v_old + along), divergence, dtype=torch.float64)
    length = torch.sqrt(wanted / unit)
    share = (_HIGHEST_LOG_RATIO / (length * dot(slope, along)).clamp(min=1e-300)).clamp(max=0.95)
    share = torch.where(norm2(across) > 0, share, 1.0)  # there is one coordinate
    return v_old + length * (up * share * along + torch.sqrt(1 - share**2) * across)
