r"""Taylor coefficients of an expression along a line, made from those of its parts.

Along x = x₀ + s·h an expression f is f₀ + f₁s + f₂s² + …, whose coefficients follow from its arguments': a sum's are
the sums, a product's and an inner product's are convolutions, a power's are its binomial series', and an exponential's
obey a recurrence.  No derivative is written out away from x₀, so that what is 0 there drops out at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp
from sympy.core.function import ArgumentIndexError

from derivations.algebra.nodes import CalculusError, Dot, Each, Norm2, Total

__all__ = ["coefficients"]

_STEP = sp.Dummy("s", real=True)

Series = tuple[sp.Expr, ...]


def coefficients(expr: sp.Expr, at: Mapping[sp.Expr, sp.Expr], along: Mapping[sp.Expr, sp.Expr], count: int) -> Series:
    """The first ``count`` Taylor coefficients f₀, f₁, … of a scalar or vector where it is smooth.

    Args:
        expr: without ``sg``.
        at: for each symbol that moves its value at s = 0.
        along: for each of them the direction h.
        count: how many.

    Raises:
        CalculusError: it holds a function whose derivative is not known.
    """
    return _Line(at, along, count)(expr)


class _Line:
    def __init__(self, at: Mapping[sp.Expr, sp.Expr], along: Mapping[sp.Expr, sp.Expr], count: int) -> None:
        self.count = count
        self.moved = frozenset(at)
        self.known: dict[sp.Expr, Series] = {x: self._padded(value, along[x]) for x, value in at.items()}

    def _padded(self, *first: sp.Expr) -> Series:
        return (*first, *(sp.S.Zero,) * self.count)[: self.count]

    def __call__(self, expr: sp.Expr) -> Series:
        found = self.known.get(expr)
        if found is None:
            found = self.known[expr] = self._made(expr) if self.moved & expr.free_symbols else self._padded(expr)
        return found

    def _made(self, expr: sp.Expr) -> Series:
        if isinstance(expr, sp.Add):
            return tuple(sp.Add(*terms) for terms in zip(*map(self, expr.args), strict=True))
        if isinstance(expr, sp.Mul):
            out, *others = map(self, expr.args)
            for other in others:
                out = self._convolved(out, other, sp.Mul)
            return out
        if isinstance(expr, Norm2):
            (a,) = map(self, expr.args)
            return self._convolved(a, a, Dot)
        if isinstance(expr, Dot):
            a, b = map(self, expr.args)
            return self._convolved(a, b, Dot)
        if isinstance(expr, (Total, Each)):
            return tuple(map(expr.func, self(expr.args[0])))
        if isinstance(expr, sp.exp):
            return self._exponential(expr)
        if isinstance(expr, sp.Pow) and not self.moved & expr.exp.free_symbols:
            return self._power(expr)
        return self._differentiated(expr)

    def _convolved(self, a: Series, b: Series, product: type) -> Series:
        return tuple(sp.Add(*(product(a[i], b[k - i]) for i in range(k + 1))) for k in range(self.count))

    def _exponential(self, expr: sp.Expr) -> Series:
        """From e′ = f′·e: k·e_k = Σ i·f_i·e_{k−i}."""
        f = self(expr.args[0])
        out = [sp.exp(f[0])]
        for k in range(1, self.count):
            out.append(sp.Add(*(sp.Rational(i, k) * f[i] * out[k - i] for i in range(1, k + 1))))
        return tuple(out)

    def _power(self, expr: sp.Expr) -> Series:
        """The binomial series of (f₀ + g)ⁿ, where g begins with f₁s; a whole n ≥ 0 divides by nothing."""
        f, n = self(expr.base), expr.exp
        g = (sp.S.Zero, *f[1:])
        power, factor, parts = self._padded(sp.S.One), sp.S.One, []
        for j in range(self.count):
            if factor == 0:
                break
            parts.append([factor * f[0] ** (n - j) * c for c in power])
            power, factor = self._convolved(power, g, sp.Mul), factor * (n - j) / (j + 1)
        return tuple(sp.Add(*terms) for terms in zip(*parts, strict=True))

    def _differentiated(self, expr: sp.Expr) -> Series:
        """Of any other function: by its slopes in its arguments, or with the arguments' series put in."""
        if self.count == 2 and (slopes := self._by_slopes(expr)) is not None:
            return slopes
        args = [sp.Add(*(c * _STEP**k for k, c in enumerate(self(arg)))) for arg in expr.args]
        left, out = expr.func(*args), []
        for k in range(self.count):
            if k:
                left = sp.diff(left, _STEP) / k
            if left.has(sp.Derivative, sp.Subs):
                raise CalculusError(f"{expr} holds a function whose derivative is not known")
            out.append(left.xreplace({_STEP: sp.S.Zero}))
        return tuple(out)

    def _by_slopes(self, expr: sp.Expr) -> Series | None:
        """The first two coefficients by the chain rule, where the function tells its slopes."""
        args = [self(arg) for arg in expr.args]
        here = expr.func(*(arg[0] for arg in args))
        if not isinstance(here, sp.Function) or here.func is not expr.func:
            return None
        try:
            slope = sp.Add(*(here.fdiff(i) * arg[1] for i, arg in enumerate(args, 1) if arg[1] != 0))
        except ArgumentIndexError:
            return None
        return None if slope.has(sp.Derivative, sp.Subs) else (here, slope)
