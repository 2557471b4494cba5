r"""The gradient that a mistake predicts on a case: autograd of the wrong loss."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import MeanAbs
from gradcheck.bounds import Analysis
from gradcheck.case import Case
from gradcheck.oracle.mistakes.candidates import Mistake
from gradcheck.oracle.mistakes.functions import (
    BatchFirst,
    BatchMean,
    Crossed,
    LogClipped,
    MaskedBy,
    MaxSurrogate,
    OneSided,
    Rounded,
    TieLost,
)

__all__ = ["gradient_of_mistake"]


def gradient_of_mistake(mistake: Mistake, case: Case) -> Tensor:
    """Autograd of the wrong loss, in float64, summed over the batch."""
    values = {name: x.detach() for name, x in case.broadcast(torch.float64).items()}
    v = values[case.output_name].clone().requires_grad_()
    values[case.output_name] = v
    values.setdefault("D", torch.tensor(float(v[0].numel()), dtype=torch.float64, device=v.device))
    loss, _ = _WrongAnalysis(values, torch.float64)(mistake.loss)
    if not loss.requires_grad:
        return torch.zeros_like(v)
    loss = loss.expand(v.shape[0], *loss.shape[1:]) if loss.ndim else loss.expand(v.shape[0])
    (gradient,) = torch.autograd.grad(loss.sum(), v)
    return gradient


class _WrongAnalysis(Analysis):
    """Evaluates the wrong losses' own functions too; their error bounds are not needed."""

    def _evaluate(self, expr: sp.Expr) -> tuple[Tensor, Tensor]:
        rule = _WRONG.get(type(expr))
        if rule is None:
            return super()._evaluate(expr)
        value = rule(*(self(arg)[0] for arg in expr.args))
        return value, value.detach().abs()


def _clip(r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(r, 1 - low), 1 + high)


def _tie_lost(a: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    clipped = -_clip(r, low, high).detach() * a
    return torch.where(-r * a > clipped, -r * a, clipped)


def _crossed(a: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    every_a, every_r = a.flatten()[:, None], r.flatten()[None, :]
    losses = -torch.minimum(every_r * every_a, _clip(every_r, low, high) * every_a)
    return losses.mean(0).reshape(r.shape)


def _masked_by(a: Tensor, r: Tensor, other: Tensor, low: Tensor, high: Tensor) -> Tensor:
    off = ((a > 0) & (other > 1 + high)) | ((a < 0) & (other < 1 - low))
    return torch.where(off, r.detach(), r) * -a


_WRONG: dict[type, Callable[..., Tensor]] = {
    BatchMean: lambda x: x.mean(0, keepdim=True).expand(x.shape),
    BatchFirst: lambda x: x[:1].expand(x.shape),
    Rounded: lambda x: (x > 0.5).to(x.dtype),
    sp.Abs: torch.abs,
    MaxSurrogate: lambda a, r, low, high: -torch.maximum(r * a, _clip(r, low, high) * a),
    OneSided: lambda a, r, low, high: -_clip(r, low, high) * a,
    TieLost: _tie_lost,
    Crossed: _crossed,
    MaskedBy: _masked_by,
    LogClipped: lambda a, x, low, high: (
        -torch.minimum(x.exp() * a, torch.minimum(torch.maximum(x, -low), high).exp() * a)
    ),
    MeanAbs: lambda x: x.abs().mean(tuple(range(1, x.ndim)), keepdim=True),
}
