r"""Every proved step once more, with numbers: random values for its symbols, autograd for its gradients.

The proofs trust SymPy and the vector calculus; this route trusts torch.  A claim's two sides are evaluated in
float64 on random tensors and compared within the error bounds of their own expressions.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp
import torch
from sympy.core.function import AppliedUndef
from torch import Tensor

from derivations import calculus
from derivations.calculus import VectorSymbol
from derivations.claims import Approximates, Claim, EqualUpToConstant, GradientIs, Parallel, Positive, SameHessian
from derivations.derivation import Step, inline
from derivations.notation import v_theta
from gradcheck.bounds import Analysis
from gradcheck.compare import Comparison, compare

__all__ = ["check_step"]

_LATENT = (4, 3)
_BATCH = 5
_RANGES = {
    # inside the domains that the derivations share: a reverse step from t down to t_prev with C2 < t_prev
    "t": (0.6, 0.9),
    "t_prev": (0.3, 0.5),
    "dt": (0.1, 0.3),
    "alpha_bar": (0.2, 0.5),
    "alpha_bar_prev": (0.6, 0.8),
    "C1": (0.01, 0.05),
    "C2": (0.05, 0.25),
    "window": (0.0, 1.0),
    "reward_prob": (0.1, 0.9),
    "clip_low": (0.1, 0.3),
    "clip_high": (0.1, 0.3),
    "l": (0.1, 0.3),
    "s": (0.05, 0.5),
}


def check_step(step: Step, definitions: Mapping[sp.Symbol, sp.Expr], seed: int = 0) -> Comparison:
    """Evaluate a step's claim on random numbers.

    Returns:
        The comparison of its two sides (of gradients, for claims about a gradient); positivity is compared as
        its truth value.
    """
    claim = step.claim
    sides = [_concrete(inline(side, definitions)) for side in _sides(claim)]
    where = {s: inline(e, definitions) for s, e in getattr(claim, "where", {}).items() if s.is_Symbol}
    sides = [_concrete(side.xreplace(where)) for side in sides]
    values = _values(sides, seed, getattr(claim, "within", {}))
    analysis = Analysis(values, torch.float64)
    if isinstance(claim, Positive):
        smallest = analysis(sides[0])[0].min()
        return compare((smallest > 0).double()[None], torch.ones(1), torch.ones(1), torch.float64)
    if isinstance(claim, GradientIs):
        observed = _autograd(sides[0], claim.wrt, values)
        return _compared(analysis, observed, _scale(sides[0], claim.wrt, analysis), sides[1])
    if isinstance(claim, SameHessian):
        left, right = (_autograd(side, v_theta, values, twice=True) for side in sides)
        h = calculus.fresh_vector(*sides)
        analysis = Analysis({**values, h.name: _fixed_vector(left)}, torch.float64)
        scale = sum(analysis(calculus.hessian_product(side, v_theta, h))[1] for side in sides)
        return compare(left, right, torch.as_tensor(scale), torch.float64)
    value, scale = analysis(sides[0])
    return _compared(analysis, value, scale, sides[1])


def _sides(claim: Claim) -> tuple[sp.Expr, ...]:
    """The two expressions that a claim says are equal."""
    if isinstance(claim, GradientIs):
        return claim.loss, claim.gradient
    if isinstance(claim, Approximates):
        return claim.lhs, claim.rhs + (claim.lhs - claim.rhs if claim.remainder is None else claim.remainder)
    if isinstance(claim, Parallel):
        return claim.lhs, claim.factor * claim.rhs
    if isinstance(claim, EqualUpToConstant):
        return claim.lhs, claim.rhs + claim.constant
    if isinstance(claim, Positive):
        return (claim.expr,)
    return claim.lhs, claim.rhs


def _concrete(expr: sp.Expr) -> sp.Expr:
    """Give unknown functions a form, p(x) = exp(−x²/2) and v(x) = sin x, and carry out derivatives."""
    forms = {"p": lambda x: sp.exp(-(x**2) / 2), "v": sp.sin}
    return expr.replace(lambda e: isinstance(e, AppliedUndef), lambda e: forms[e.func.__name__](*e.args)).doit()


def _values(sides: list[sp.Expr], seed: int, within: Mapping[sp.Symbol, sp.Interval]) -> dict[str, Tensor]:
    """A random value for each symbol: vectors as latents, scalars per sample, by their assumptions."""
    generator = torch.Generator().manual_seed(seed)
    names = sorted(set().union(*(side.free_symbols for side in sides)) | {v_theta}, key=str)
    column = (_BATCH, *(1,) * len(_LATENT))
    out = {}
    for symbol in names:
        if isinstance(symbol, VectorSymbol):
            value = torch.randn((_BATCH, *_LATENT), generator=generator, dtype=torch.float64)
            out[symbol.name] = torch.ones_like(value) if symbol.name == "ones" else value
            continue
        narrow = within.get(symbol, sp.S.Reals)
        inside = (0.1, 0.9) if narrow == sp.Interval.Lopen(0, 1) else None
        low, high = inside or _RANGES.get(symbol.name, (0.2, 2.0) if symbol.is_nonnegative else (-2.0, 2.0))
        value = low + (high - low) * torch.rand(column, generator=generator, dtype=torch.float64)
        if symbol.name in ("D", "G"):  # the latent's own size, which ‖ones‖² is
            value = torch.full(column, float(torch.Size(_LATENT).numel()), dtype=torch.float64)
        elif symbol.is_integer:
            value = value.round().clamp(min=1.0)
        out[symbol.name] = value
    return out


def _autograd(expr: sp.Expr, v: VectorSymbol, values: dict[str, Tensor], twice: bool = False) -> Tensor:
    """Gradient of a scalar expression in v; with ``twice``, its Hessian applied to a fixed vector."""
    at = values[v.name].clone().requires_grad_()
    value, _ = Analysis({**values, v.name: at}, torch.float64)(expr)
    if not value.requires_grad:
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(value.sum(), at, create_graph=twice)
    if not twice:
        return gradient
    (product,) = torch.autograd.grad((gradient * _fixed_vector(at)).sum(), at)
    return product


def _fixed_vector(like: Tensor) -> Tensor:
    return torch.linspace(-1, 1, like.numel(), dtype=like.dtype).reshape(like.shape)


def _scale(loss: sp.Expr, v: VectorSymbol, analysis: Analysis) -> Tensor:
    """Error scale of a loss's gradient: that of the chain rule's expression."""
    raw = calculus.gradient(loss, v)
    return analysis(raw)[1] if raw != 0 else torch.zeros((), dtype=torch.float64)


def _compared(analysis: Analysis, left: Tensor, scale: Tensor, right: sp.Expr) -> Comparison:
    required, other = analysis(sp.sympify(right))
    shape = torch.broadcast_shapes(left.shape, required.shape)
    total = (scale + other + analysis.floor).expand(shape)
    return compare(left.expand(shape), required.expand(shape), total, torch.float64)
