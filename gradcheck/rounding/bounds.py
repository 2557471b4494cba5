r"""A-priori error bounds from a derivation's own formulas: a running error analysis of its expression tree.

Every node carries its value in float64 and a bound e, such that an implementation that evaluates the node in
a precision of unit roundoff u is off by at most about u·e, and c u e is still a bound when each step errs c times
as much.  The rules:

====================  =======================================================================
node                  e
====================  =======================================================================
symbol, constant      \|x\| (it was rounded once)
sum of n terms        Σ eᵢ + (n − 1) Σ \|xᵢ\|  (in whatever order it is added up)
product of n factors  Π(\|xᵢ\| + c u eᵢ) − Π\|xᵢ\|, over c u, + (n − 1)\|Πxᵢ\|
power bᵖ              the most that bᵖ moves while b moves by c u e_b, over c u, + (\|p\| or 1)\|bᵖ\|
exp x                 eˣ (expm1(c u eₓ)/(c u) + 1); infinite where c u eₓ > 60
log, sin, cos         likewise
eᶻ/(1 + eᶻ)           the most that it moves while z moves by c u e_z, + 4: see :class:`Logistic`
log(1 + eᶻ)           likewise
min, max              the largest eᵢ among those that rounding may make the least, or the greatest
sign                  0; 2/(c u) where rounding does not decide it
inner product         Σ (e_a\|b\| + \|a\|e_b + c u e_a e_b + \|ab\|) + (1 + log₂ D) Σ\|ab\|  (pairwise summation)
sum of coordinates    Σ e_j + (1 + log₂ D) Σ\|x_j\|  (likewise)
clip mask             0; where the ratio is within its own error of a kink the sample is *undecided*: either
                      branch is right there, and so are the means of both that autograd takes at a tie
other masks           0; undecided where no condition is surely false and one is not surely true
mask of a coordinate  0; 1/(c u), the whole of it, where rounding does not decide it
====================  =======================================================================

None is linearised, so that they hold in bfloat16 too, where u is 1/256.  In float16, whose range is narrow, every
number besides may lose what underflow takes, and nothing is said of what comes from one that may overflow.

The tree is :attr:`Derivation.raw_gradient`: the chain rule applied to the loss as it is stated, nothing
cancelled, so that an implementation's subtractions of nearly equal numbers are all in it.  A sum over
coordinates in sequential order, which no vectorised library does, would lose up to D/log₂ D more than this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import (
    ClipMask,
    Dot,
    Each,
    MeanAbs,
    Norm2,
    OtherMask,
    OtherUnless,
    Surrogate,
    Total,
    Unless,
    coordinatewise,
    sg,
)

__all__ = ["THRESHOLD", "Analysis", "Logistic", "Value", "factors_of", "unit_roundoff"]

THRESHOLD = 4.0
"""c: a difference of up to c·u·e passes.  u·e bounds one evaluation order to first order; implementations differ
in order and in the number of roundings, autograd adds a few, and a transcendental function may be off by
several units.  The catalogue's own losses stay below 0.6."""

_LOST = 60.0
"""An exponent that may be off by more than this may overflow: nothing can be said about its exponential."""

Value = tuple[Tensor, Tensor]
"""A value and its bound e."""


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number: 2⁻⁵³ for float64, 2⁻²⁴ for float32."""
    return float(torch.finfo(dtype).eps) / 2


class Analysis:
    """Values (float64, differentiable) and error bounds of expressions, each subexpression once.

    Attributes:
        values: by symbol name, tensors that broadcast with one another.
        floor: what underflow may lose, in units of u.
        undecided: samples whose clip branch the precision does not decide.
    """

    def __init__(self, values: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | None = None) -> None:
        self.u = unit_roundoff(dtype)
        self.tiny = float(torch.finfo(dtype).tiny)
        self.floor = self.tiny / self.u
        self.range = torch.finfo(dtype) if dtype == torch.float16 else None
        self.memo: dict[sp.Expr, Value] = {}
        self.values = values
        device = device or next(iter(values.values())).device
        self.magnitudes: dict[sp.Expr, Tensor] = {}
        self.reaches: dict[sp.Expr, Tensor] = {}
        self.undecided = torch.zeros((), dtype=torch.bool, device=device)
        # Tensors: of a Python number torch makes one at every operation, which takes as long as the operation.
        self.one = torch.ones((), dtype=torch.float64, device=device)
        self.none, self.infinite = self.one * 0, self.one * math.inf
        self.cu: Any = self.one * (THRESHOLD * self.u)

    def hold(self, coarse: Mapping[sp.Symbol, sp.Expr]) -> None:
        """Let symbols be rounded to the size of something else than their own, where that is larger."""
        for symbol, size in coarse.items():
            if symbol.name in self.values:
                value = self.values[symbol.name]
                self.memo[symbol] = value, torch.maximum(value.abs(), self(size)[0].abs())

    def define(self, symbol: sp.Symbol, formula: sp.Expr) -> None:
        """Let a symbol stand for its formula; what an implementation received for it was rounded once more."""
        value, error = self(formula)
        self.memo[symbol] = value, torch.maximum(error, value.abs())

    def __call__(self, expr: sp.Expr) -> Value:
        known = self.memo.get(expr)
        if known is None:
            known = self.memo[expr] = self.ranged(*self._evaluate(expr))
        return known

    def magnitude(self, expr: sp.Expr) -> Tensor:
        r"""\|x\|, which many sums and products ask for."""
        known = self.magnitudes.get(expr)
        if known is None:
            known = self.magnitudes[expr] = self(expr)[0].abs()
        return known

    def reach(self, expr: sp.Expr) -> Tensor:
        r"""\|x\| + c u e, which \|x\| may become."""
        known = self.reaches.get(expr)
        if known is None:
            known = self.reaches[expr] = self.magnitude(expr) + self.cu * self(expr)[1]
        return known

    def ranged(self, value: Tensor, error: Tensor) -> Value:
        """The bound of a number that is held in a narrow range: it may underflow, and must not overflow."""
        if self.range is None:
            return value, error
        fits = value.abs() + self.cu * error < self.range.max
        return value, torch.where(fits, error + self.range.tiny, self.infinite)

    def in_any_order(self, factors: Iterable[Tensor], error: Tensor) -> Tensor:
        """The bound of a product in a narrow range: its factors above 1 must not overflow together, as they do in some
        order, and multiply what underflows before them."""
        if self.range is None:
            return error
        partial = self.one
        for x in factors:
            partial = partial * x.abs().clamp(min=1)
        return torch.where(partial < self.range.max, error + self.floor * partial, self.infinite)

    def _evaluate(self, expr: sp.Expr) -> Value:
        if expr.is_Symbol:
            value = self.values[expr.name]
            return value, value.abs()
        number = _number(expr)
        if number is not None:
            value = self.one * number
            return value, (value * 0 if expr.is_Integer else value.abs())
        rule = _RULES.get(type(expr))
        if rule is None:
            raise NotImplementedError(f"no error rule for {type(expr).__name__} in {expr}")
        return rule(self, *expr.args)


@lru_cache(maxsize=500)
def _number(expr: sp.Expr) -> float | None:
    """The number that an expression is; a vector of equal coordinates is a vector."""
    return float(expr) if expr.is_number and not expr.has(Each) else None


def _sum(run: Analysis, *args: sp.Expr) -> Value:
    values, errors = zip(*map(run, args), strict=True)
    magnitude = _total(map(run.magnitude, args))
    return _total(values), _total(errors) + _times(len(args) - 1, magnitude)


def _times(count: int, x: Tensor) -> Tensor:
    return x if count == 1 else count * x


def _total(tensors: Iterable[Tensor]) -> Tensor:
    first, *rest = tensors
    for x in rest:
        first = first + x
    return first


class Logistic(sp.Function):
    r"""The logistic function of z where a loss's gradient holds it as eᶻ/(1 + eᶻ), the slope of log(1 + eᶻ).

    It is off by 4 units of 1, and not of its own size: torch's own cross-entropies take the difference of σ(−z) and a
    label for it, and ``log_softmax`` that of a probability and 1.  By the rules above, 1 − 1/(1 + eᶻ) with eᶻ small is
    off by 1 (1 + eᶻ rounds) + 1 (the inverse does) + 2 (the difference).  The forms that keep its own digits,
    eᶻ/(1 + eᶻ) and 1/(1 + e⁻ᶻ), are off by at most 4 units of its size, which is below 1.  Besides, ``softplus`` is z
    itself beyond its threshold of 20, and its slope 1: that leaves out e⁻ᶻ.  What it costs: an error of 16 u/σ(z) of a
    preference's gradient is not seen, nor one of 2·10⁻⁹ beyond z = 20.

    Code that takes the logarithm of 1 − σ(z) has no gradient where that rounds to 0, beyond z = 37 in float64.  It is
    refused there, as the logarithm of σ(−z) is where that underflows: only a ``logsigmoid`` or its like is right.

    z may be off by c u e_z.  Then eᶻ, and so σ(z) and 1 − σ(z), grow by at most the exponential of that, and neither
    leaves [0, 1].
    """

    nargs = 1


def factors_of(args: Iterable[sp.Expr]) -> tuple[sp.Expr, ...]:
    """The factors of a product, with :class:`Logistic` in the place of eᶻ/(1 + eᶻ)."""
    return _factors_of(tuple(args))


@lru_cache(maxsize=500)
def _factors_of(args: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
    factors = list(args)
    for rise in [f for f in factors if isinstance(f, sp.exp)]:
        for fall in factors:
            base, exponent = fall.as_base_exp()
            if base == 1 + rise and exponent.is_Integer and exponent <= -1:
                factors.remove(rise)
                factors.remove(fall)
                factors.append(Logistic(rise.args[0]))
                factors += [base ** (exponent + 1)] if exponent < -1 else []
                break
    return tuple(factors)


_SOFTPLUS_THRESHOLD = 20.0


def _logistic(run: Analysis, z: sp.Expr) -> Value:
    x, e = run(z)
    up, down = 1 / (1 + torch.exp(-x)), 1 / (1 + torch.exp(x))
    moved = torch.where(run.cu * e < _LOST, torch.minimum(up, down) * torch.expm1(run.cu * e) / run.cu, run.infinite)
    error = torch.minimum(moved, run.one / run.cu) + 4 + _beyond_threshold(run, x, e)
    return up, torch.where(e >= torch.inf, run.infinite, error)


def _beyond_threshold(run: Analysis, x: Tensor, e: Tensor) -> Tensor:
    """What ``softplus`` and its slope leave out."""
    return torch.where(x > _SOFTPLUS_THRESHOLD - run.cu * e, torch.exp(-x) / run.cu, run.none)


_LEAST_RIGHT = 2.0**-20
"""Of the probability 1 − σ(z), where its logarithm is taken: code that leaves fewer digits is no right code."""


def _softplus(run: Analysis, z: sp.Expr) -> Value:
    """log(1 + eᶻ), also as −log(1 − σ(z)), of which the difference is off by 4 units of 1."""
    x, e = run(z)
    down = 1 / (1 + torch.exp(x))
    value = torch.maximum(x, 0 * x) + torch.log1p(torch.exp(-x.abs()))
    return value, e + 4 / torch.maximum(down, run.one * _LEAST_RIGHT) + 2 * value + _beyond_threshold(run, x, e)


def _product(run: Analysis, *given: sp.Expr) -> Value:
    args = factors_of(given)
    if len(args) == 1:
        value, error = run(args[0])
        return value, run.in_any_order([value], error)
    value, error, size = _first_two(run, *args[:2])
    for arg in args[2:]:
        x, e = run(arg)
        # the magnitude of a product is the product of the magnitudes, to the last digit
        value, error, size = value * x, error * run.reach(arg) + size * e, size * run.magnitude(arg)
    factors = [run(arg)[0] for arg in args] if run.range is not None else []
    return value, run.in_any_order(factors, error + _times(len(args) - 1, size))


def _first_two(run: Analysis, a: sp.Expr, b: sp.Expr) -> tuple[Tensor, Tensor, Tensor]:
    """Value, bound and magnitude of a product; an integer has no error, and a sign changes none.

    In a narrow range an integer has what underflow takes of every number.
    """
    (x, ex), (y, ey) = run(a), run(b)
    if run.range is None and a == -1:
        return -y, ey, run.magnitude(b)
    if run.range is None and a.is_Integer:
        return x * y, run.magnitude(a) * ey, run.magnitude(a) * run.magnitude(b)
    return x * y, ex * run.reach(b) + run.magnitude(a) * ey, run.magnitude(a) * run.magnitude(b)


def _power(run: Analysis, base: sp.Expr, exponent: sp.Expr) -> Value:
    if base == sp.E:
        return _exp(run, exponent)
    b, e = run(base)
    if not exponent.is_number:
        q, eq = run(exponent)
        part, log = run.cu * e / b, b.log()
        moved = torch.where(part < 1, -torch.log1p(-part) / run.cu, run.infinite)  # the logarithm
        return _grown(run, b**q, q.abs() * moved + log.abs() * eq + run.cu * moved * eq)
    p = float(exponent)
    value = b**p
    error = torch.where(e == 0, run.none, _moved(run, run.magnitude(base), e, p))
    times = abs(p) if p.is_integer() else 1.0
    return value, error + (value.abs() if times == 1.0 else times * value.abs())


def _moved(run: Analysis, b: Tensor, e: Tensor, p: float) -> Tensor:
    """How far bᵖ moves at most while b ≥ 0 moves by c u e, over c u; infinite where a pole is in reach."""
    cu = run.cu
    part = cu * e / b
    if p < 0:
        return torch.where(part < 1, b**p * torch.expm1(p * torch.log1p(-part)) / cu, run.infinite)
    up = torch.where(b == 0, (cu * e) ** p, b**p * torch.expm1(p * torch.log1p(part))) / cu
    if p >= 1:
        return up
    down = torch.where(b == 0, run.none, -(b**p) * torch.expm1(p * torch.log1p(-part.clamp(max=1)))) / cu
    return torch.maximum(up, down)  # a root is steeper below


def _exp(run: Analysis, exponent: sp.Expr) -> Value:
    x, e = run(exponent)
    return _grown(run, torch.exp(x), e)


def _grown(run: Analysis, value: Tensor, e: Tensor) -> Value:
    """An exponential whose exponent may be off by c u e."""
    grown = value * (torch.expm1(run.cu * e) / run.cu + 1) + run.floor
    return value, torch.where(run.cu * e < _LOST, grown, run.infinite)


def _log(run: Analysis, arg: sp.Expr) -> Value:
    grown = arg - 1
    if isinstance(grown, sp.exp):
        return _softplus(run, grown.args[0])
    x, e = run(arg)
    part = run.cu * e / x
    value = torch.log(x)
    return value, torch.where(part < 1, -torch.log1p(-part) / run.cu, run.infinite) + value.abs()


def _wave(f: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Callable[..., Value]:
    """A function whose curvature is at most 1."""

    def rule(run: Analysis, arg: sp.Expr) -> Value:
        x, e = run(arg)
        value = f(x)
        return value, slope(x).abs() * e + run.cu / 2 * e**2 + value.abs()

    return rule


def _inner(run: Analysis, a: sp.Expr, b: sp.Expr) -> Value:
    (x, ex), (y, ey) = run(a), run(b)
    dims = tuple(range(1, x.ndim))
    growth = 2 + math.log2(max(math.prod(x.shape[1:]), 1))
    product = (x * y).abs()
    error = (ex * y.abs() + x.abs() * ey + run.cu * ex * ey + growth * product).sum(dims, keepdim=True)
    return (x * y).sum(dims, keepdim=True), error


def _total_of(run: Analysis, f: sp.Expr) -> Value:
    x, e = run(f)
    dims = tuple(range(1, x.ndim))
    growth = 1 + math.log2(max(math.prod(x.shape[1:]), 1))
    return x.sum(dims, keepdim=True), (e + growth * x.abs()).sum(dims, keepdim=True)


def _mean_abs(run: Analysis, a: sp.Expr) -> Value:
    x, e = run(a)
    dims = tuple(range(1, x.ndim))
    growth = 2 + math.log2(max(math.prod(x.shape[1:]), 1))
    return x.abs().mean(dims, keepdim=True), (e + growth * x.abs()).mean(dims, keepdim=True)


def _minimum(run: Analysis, *args: sp.Expr) -> Value:
    return _least([run(arg) for arg in args], run.cu)


def _maximum(run: Analysis, *args: sp.Expr) -> Value:
    value, error = _least([(-x, e) for x, e in map(run, args)], run.cu)
    return -value, error


def _least(found: list[Value], cu: float) -> Value:
    """The least of numbers: off by no more than any of those that rounding may make the least."""
    value, error = found[0]
    bound = value + cu * error
    for x, e in found[1:]:
        value, bound = torch.minimum(value, x), torch.minimum(bound, x + cu * e)
    worst = torch.zeros_like(value)
    for x, e in found:
        worst = torch.maximum(worst, torch.where(x - cu * e > bound, 0.0, e))
    return value, worst


def _sign(run: Analysis, arg: sp.Expr) -> Value:
    x, e = run(arg)
    return x.sign(), torch.where((e == 0) | (run.cu * e < x.abs()), torch.zeros_like(x), 2 / run.cu)


def _stop_gradient(run: Analysis, x: sp.Expr) -> Value:
    value, error = run(x)
    return value.detach(), error


def _clip_mask(run: Analysis, advantage: sp.Expr, ratio: sp.Expr, low: sp.Expr, high: sp.Expr) -> Value:
    (a, _), (r, e), (lo, _), (hi, _) = (run(x) for x in (advantage, ratio, low, high))
    off = ((a > 0) & (r > 1 + hi)) | ((a < 0) & (r < 1 - lo))
    cu = run.cu
    # At either kink and for either sign of A: where rounding makes the surrogate's two terms tie, autograd takes
    # half of each, or all of one.
    near = ((r - 1 - hi).abs() <= cu * (e + 1 + hi)) | ((r - 1 + lo).abs() <= cu * (e + 1))
    return (~off).to(r), _undecided(run, near, coordinatewise(ratio) or coordinatewise(advantage))


def _undecided(run: Analysis, open_: Tensor, by_coordinate: bool) -> Tensor:
    """The bound of a mask: it may be off by 1 in a single coordinate, and a whole sample is judged on both branches."""
    if by_coordinate:
        return open_.to(torch.float64) / run.cu
    run.undecided = run.undecided | open_
    return torch.zeros_like(open_, dtype=torch.float64)


def _other_mask(run: Analysis, *args: sp.Expr) -> Value:
    mask, error = _clip_mask(run, *args)
    return 1 - mask, error


def _unless(run: Analysis, *conditions: sp.Expr) -> Value:
    """Decided where every condition is positive by more than its error, or one is not by more than its own."""
    (x, e), *others = [run(x) for x in conditions]
    off = x > 0
    surely, hardly = x > run.cu * e, x <= -run.cu * e  # that all are positive, and that one is not
    for x, e in others:
        off = off & (x > 0)
        surely, hardly = surely & (x > run.cu * e), hardly | (x <= -run.cu * e)
    return (~off).to(torch.float64), _undecided(run, ~(surely | hardly), any(map(coordinatewise, conditions)))


def _other_unless(run: Analysis, *conditions: sp.Expr) -> Value:
    mask, error = _unless(run, *conditions)
    return 1 - mask, error


def _surrogate(run: Analysis, advantage: sp.Expr, ratio: sp.Expr, low: sp.Expr, high: sp.Expr) -> Value:
    (a, ea), (r, er), (lo, _), (hi, _) = (run(x) for x in (advantage, ratio, low, high))
    clipped = torch.minimum(torch.maximum(r, 1 - lo), 1 + hi)
    reach = torch.maximum(r.abs(), clipped.abs())
    return -torch.minimum(r * a, clipped * a), a.abs() * (er + reach) + ea * (reach + run.cu * er)


_RULES: dict[type, Callable[..., Value]] = {
    sp.Add: _sum,
    sp.Mul: _product,
    sp.Pow: _power,
    sp.exp: _exp,
    sp.log: _log,
    Logistic: _logistic,
    sp.sin: _wave(torch.sin, torch.cos),
    sp.cos: _wave(torch.cos, torch.sin),
    sp.Max: _maximum,
    sp.Min: _minimum,
    sp.sign: _sign,
    sg: _stop_gradient,
    Dot: _inner,
    Norm2: lambda run, x: _inner(run, x, x),
    MeanAbs: _mean_abs,
    Total: _total_of,
    Each: lambda run, f: run(f),
    ClipMask: _clip_mask,
    OtherMask: _other_mask,
    Unless: _unless,
    OtherUnless: _other_unless,
    Surrogate: _surrogate,
}
