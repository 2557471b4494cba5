"""Each rule of the error analysis: however far its operands are off within their bounds, its result is within its own.

Operands may be off by up to half of their size, which in float64 is all that there is to see: what the rules add for
rounding is nothing beside it, and a rule that is linearised, or leaves an operand's error out, is refused.
"""

from __future__ import annotations

import pytest
import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import Dot, MeanAbs, Norm2, Surrogate, VectorSymbol
from gradcheck.rounding.bounds import Analysis
from gradcheck.tensor_ops import dot, norm2, surrogate

a, b, c = (sp.Symbol(name, positive=True) for name in "abc")
x, y = VectorSymbol("x"), VectorSymbol("y")
_SAMPLES, _LATENT = 400, 3

RULES: dict[str, tuple[sp.Expr, object]] = {
    "sum": (a - b + c, lambda a, b, c: a - b + c),
    "product": (a * b * c, lambda a, b, c: a * b * c),
    "inverse": (1 / a, lambda a: 1 / a),
    "square": (a**2, lambda a: a**2),
    "root": (sp.sqrt(a), lambda a: a**0.5),
    "inverse root": (1 / sp.sqrt(a), lambda a: a**-0.5),
    "three halves": (a ** sp.Rational(3, 2), lambda a: a**1.5),
    "power": (a**b, lambda a, b: a**b),
    "exponential": (sp.exp(a - b), lambda a, b: torch.exp(a - b)),
    "logarithm": (sp.log(a), torch.log),
    "logistic": (sp.exp(a - b) / (1 + sp.exp(a - b)), lambda a, b: torch.sigmoid(a - b)),
    "logistic slope": (
        sp.exp(a - b) / (1 + sp.exp(a - b)) ** 2,
        lambda a, b: torch.sigmoid(a - b) * torch.sigmoid(b - a),
    ),
    "softplus": (sp.log(1 + sp.exp(a - b)), lambda a, b: torch.logaddexp(a - b, torch.zeros_like(a))),
    "sine": (sp.sin(a), torch.sin),
    "cosine": (sp.cos(a), torch.cos),
    "least": (sp.Min(a, b, c), lambda a, b, c: torch.minimum(torch.minimum(a, b), c)),
    "greatest": (sp.Max(a, b, c), lambda a, b, c: torch.maximum(torch.maximum(a, b), c)),
    "sign": (sp.sign(a - b), lambda a, b: torch.sign(a - b)),
    "inner product": (Dot(x, y), dot),
    "squared length": (Norm2(x), norm2),
    "mean size": (MeanAbs(x), lambda x: x.abs().mean(1, keepdim=True)),
    "surrogate": (
        Surrogate(a - b, c, sp.Rational(1, 5), sp.Rational(1, 4)),
        lambda a, b, c: surrogate(
            a - b, c, torch.tensor(0.2, dtype=torch.float64), torch.tensor(0.25, dtype=torch.float64)
        ),
    ),
}


def operands(expr: sp.Expr, part: float, cu: float) -> dict[sp.Symbol, tuple[Tensor, Tensor]]:
    """Numbers of every size from 1/30 to 30, and how far each may be off."""
    g = torch.Generator().manual_seed(0)
    out = {}
    for symbol in sorted(expr.free_symbols, key=str):
        vector = isinstance(symbol, VectorSymbol)
        shape = (_SAMPLES, _LATENT if vector else 1)
        size = 10 ** (3 * torch.rand(shape, generator=g, dtype=torch.float64) - 1.5)
        sign = torch.randn(shape, generator=g, dtype=torch.float64).sign() if vector else 1.0
        out[symbol] = sign * size, part * size * torch.rand(shape, generator=g, dtype=torch.float64).round() / cu
    return out


@pytest.mark.parametrize("part", [1e-4, 0.05, 0.5])
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_keeps_what_its_operands_lose(rule: str, part: float) -> None:
    expr, function = RULES[rule]
    analysis = Analysis({"nothing": torch.zeros(_SAMPLES, 1, dtype=torch.float64)}, torch.float64)
    given = operands(expr, part, analysis.cu)
    analysis.memo.update(given)
    value, error = analysis(expr)
    known = error.isfinite()
    assert known.double().mean() > 0.5, "the rule gives up where something can be said"
    g = torch.Generator().manual_seed(1)
    names = sorted(given, key=str)
    worst = 0.0
    for draw in range(200):
        # first to the corners of what they may be, then inside
        sway = torch.rand((len(names), _SAMPLES, _LATENT), generator=g, dtype=torch.float64) * 2 - 1
        sway = sway.sign() if draw < 150 else sway
        moved = {
            s: given[s][0] + way[:, : given[s][0].shape[1]] * analysis.cu * given[s][1]
            for s, way in zip(names, sway, strict=True)
        }
        left = (function(*(moved[s] for s in names)) - value).abs()  # type: ignore[operator]
        allowed = analysis.cu * error
        assert bool((left <= allowed * (1 + 1e-9))[known].all()), (
            f"off by {float((left / allowed)[known].nan_to_num(0.0).max())} of what it may be"
        )
        worst = max(worst, float((left / allowed)[known].nan_to_num(0.0).max()))
    assert worst > 0.3 or not bool((error > 0).any()), "the bound is wider than anything that happens"


def test_float16_loses_what_it_cannot_hold() -> None:
    """A number that may overflow within its error is not judged, and one that underflows may be off by the least."""
    analysis = Analysis({"a": torch.tensor([[60000.0], [60000.0], [3e-4]], dtype=torch.float64)}, torch.float16)
    analysis.memo[b] = torch.ones(3, 1, dtype=torch.float64), torch.tensor([[0.0], [0.2 / analysis.cu], [0.0]])
    _, error = analysis(a * b)
    assert error[0].isfinite()
    assert not error[1].isfinite(), "60000 · 1.2 may be out of range"
    squared, error = analysis(a**2)
    assert error[2].isfinite()
    lost = (squared[2].to(torch.float16).to(torch.float64) - squared[2]).abs()
    assert 0.2 * float(squared[2]) < float(lost) <= analysis.cu * float(error[2]), "9e-8 is between two numbers"
