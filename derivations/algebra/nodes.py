r"""The atoms of the calculus: vectors, inner products, stop-gradient, PPO's clip, and means over Gaussian noise.

They are SymPy classes, so that a loss is written, printed and searched like any SymPy expression.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.core.function import ArgumentIndexError

__all__ = [
    "Below",
    "CalculusError",
    "ClipMask",
    "Dot",
    "Each",
    "Mask",
    "Mean",
    "MeanAbs",
    "Norm2",
    "NormalCDF",
    "OtherMask",
    "OtherUnless",
    "Surrogate",
    "Total",
    "Unless",
    "VectorSymbol",
    "coordinatewise",
    "sg",
]


class CalculusError(ValueError):
    """An expression is neither a scalar nor a vector, or cannot be differentiated here."""


class VectorSymbol(sp.Symbol):
    """A vector of D real coordinates.

    It is a commutative symbol, so that sums and scalar multiples are ordinary SymPy; :func:`kind`
    refuses what is not linear in such symbols (a product of two vectors, the exponential of one).
    """

    def __new__(cls, name: str, **assumptions: bool) -> VectorSymbol:
        return super().__new__(cls, name, **({"real": True} | assumptions))

    @staticmethod
    def dummy(name: str) -> VectorSymbol:
        """A vector that is equal to no other one, of the same name either."""
        return _VectorDummy(name)


class _VectorDummy(VectorSymbol, sp.Dummy):
    def __new__(cls, name: str) -> _VectorDummy:
        vector: _VectorDummy = sp.Dummy.__new__(cls, name, real=True)
        return vector


class Dot(sp.Function):
    r"""Inner product :math:`\langle a, b\rangle` over the latent coordinates of one sample."""

    nargs = 2

    @classmethod
    def eval(cls, a: sp.Expr, b: sp.Expr) -> sp.Expr | None:
        if a == 0 or b == 0:
            return sp.S.Zero
        if a == b:
            return Norm2(a)
        first, second = sorted((a, b), key=sp.default_sort_key)
        return None if (first, second) == (a, b) else cls(first, second)

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        a, b = (printer._print(x) for x in self.args)
        body = rf"\langle {a},\, {b} \rangle"
        return body if exp is None else rf"{body}^{{{exp}}}"


class Norm2(sp.Function):
    r"""Squared norm :math:`\|a\|^2`, the sum over the latent coordinates of one sample."""

    nargs = 1

    @classmethod
    def eval(cls, a: sp.Expr) -> sp.Expr | None:
        return sp.S.Zero if a == 0 else None

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\left\Vert {printer._print(self.args[0])} \right\Vert^{{2}}"
        return body if exp is None else rf"\left({body}\right)^{{{exp}}}"


class MeanAbs(sp.Function):
    r"""Mean absolute coordinate :math:`\overline{|a|}`; it has no gradient here, so it lives inside ``sg``."""

    nargs = 1

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\overline{{\left| {printer._print(self.args[0])} \right|}}"
        return body if exp is None else rf"{body}^{{{exp}}}"


class Total(sp.Function):
    r"""Sum over coordinates, :math:`\sum_j f_j`, of a scalar function f of vectors' coordinates.

    Inside f a vector stands for its coordinate, so that f is any expression: √((v − u)² + c).  Numbers per sample may
    stand in it.  Its derivative in a scalar is the sum of f's.
    """

    nargs = 1

    @classmethod
    def eval(cls, f: sp.Expr) -> sp.Expr | None:
        return _without_scalars(cls, f)

    def _eval_derivative(self, s: sp.Symbol) -> sp.Expr:
        return Total(sp.diff(self.args[0], s))

    def _eval_is_real(self) -> bool:
        return True

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative else None

    def _eval_is_positive(self) -> bool | None:
        """A vector of numbers that are not negative is a mask, and a mask leaves something."""
        f = self.args[0]
        return True if f.is_positive or (isinstance(f, VectorSymbol) and f.is_nonnegative) else None

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\sum_{{j}} \left[{printer._print(self.args[0])}\right]_{{j}}"
        return body if exp is None else rf"\left({body}\right)^{{{exp}}}"


class Each(sp.Function):
    """The vector whose coordinates are a scalar function of vectors' coordinates: see :class:`Total`.

    What is linear in vectors is an ordinary vector expression, and is given back as that.
    """

    nargs = 1

    @classmethod
    def eval(cls, f: sp.Expr) -> sp.Expr | None:
        opened = _without_scalars(cls, f)
        if opened is None and _is_linear(f):
            return f
        return opened

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\left[{printer._print(self.args[0])}\right]"
        return body if exp is None else rf"{body}^{{{exp}}}"


@lru_cache(maxsize=1_000)
def coordinatewise(expr: sp.Expr) -> bool:
    """Whether an expression differs from coordinate to coordinate: it holds a vector outside of every sum over them."""
    if isinstance(expr, (VectorSymbol, Each)):
        return True
    if isinstance(expr, (Dot, Norm2, MeanAbs, Total)):
        return False
    return any(map(coordinatewise, expr.args))


def _without_scalars(kind: type, f: sp.Expr) -> sp.Expr | None:
    """The factors that are the same for all coordinates in front; within f, coordinates of vectors as they are."""
    if f == 0:
        return sp.S.Zero
    plain = _as_coordinates(f)
    scalars = [x for x in sp.Mul.make_args(plain) if not coordinatewise(x)]
    if plain == f and (not scalars or plain == 1):
        return None
    inner = sp.Mul(*(x for x in sp.Mul.make_args(plain) if coordinatewise(x)))
    out: sp.Expr = sp.Mul(*scalars) * kind(inner)
    return out


def _as_coordinates(expr: sp.Expr) -> sp.Expr:
    """Every :class:`Each` that is neither detached nor within another sum as its function."""
    if isinstance(expr, Each):
        inner: sp.Expr = expr.args[0]
        return inner
    if not expr.has(Each) or isinstance(expr, (sg, Dot, Norm2, MeanAbs, Total)):
        return expr
    return expr.func(*map(_as_coordinates, expr.args))


def _is_linear(f: sp.Expr) -> bool:
    """Whether a function of coordinates is a linear combination of vectors."""
    if isinstance(f, VectorSymbol):
        return True
    if isinstance(f, sg):
        return _is_linear(f.args[0])
    if isinstance(f, sp.Add):
        return all(map(_is_linear, f.args))
    if isinstance(f, sp.Mul):
        varying = [x for x in f.args if coordinatewise(x)]
        return len(varying) == 1 and _is_linear(varying[0])
    return False


class sg(sp.Function):  # noqa: N801 - the field's name for it
    """Stop-gradient: the value of its argument, and no gradient."""

    nargs = 1

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return x if x.is_number or isinstance(x, sg) else None

    def _eval_is_real(self) -> bool | None:
        return self.args[0].is_real

    def _eval_is_positive(self) -> bool | None:
        return self.args[0].is_positive

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\mathrm{{sg}}\left({printer._print(self.args[0])}\right)"
        return body if exp is None else rf"{body}^{{{exp}}}"


class Mask(sp.Function):
    r"""A factor m that is 0 or 1, as comparisons decide it; rounding leaves some samples *undecided*.

    It is constant but for the edges, so its derivative is 0.  Every kind has an ``other``, which is 1 − m.
    """

    @property
    def other(self) -> sp.Expr:
        """The other branch, for samples that rounding leaves undecided."""
        raise NotImplementedError

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero  # piecewise constant, and undefined on the kinks alone

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        return "m" if exp is None else f"m^{{{exp}}}"


class ClipMask(Mask):
    """PPO's gradient mask m(A, r, ε⁻, ε⁺): 0 where the clip is active, else 1.

    It is 0 where A > 0 and r > 1 + clip_high, or A < 0 and r < 1 - clip_low.
    """

    nargs = 4

    @classmethod
    def eval(cls, advantage: sp.Expr, ratio: sp.Expr, low: sp.Expr, high: sp.Expr) -> sp.Expr | None:
        """Decide the branch where the symbols' signs do, in particular at a ratio of exactly 1."""
        if ratio.has(Dot, Norm2, sp.exp):
            return None  # its sign is not known, and asking is slow
        above, below = sp.expand(ratio - 1 - high), sp.expand(1 - low - ratio)
        off_high = above.is_positive and advantage.is_positive
        off_low = below.is_positive and advantage.is_negative
        if off_high or off_low:
            return sp.S.Zero
        on_high = above.is_nonpositive or advantage.is_nonpositive
        on_low = below.is_nonpositive or advantage.is_nonnegative
        return sp.S.One if on_high and on_low else None

    @property
    def other(self) -> sp.Expr:
        return OtherMask(*self.args)


class OtherMask(ClipMask):
    """1 − :class:`ClipMask`: the other branch, for samples that rounding leaves undecided."""

    @classmethod
    def eval(cls, advantage: sp.Expr, ratio: sp.Expr, low: sp.Expr, high: sp.Expr) -> sp.Expr | None:
        return None

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = r"\left(1 - m\right)"
        return body if exp is None else f"{body}^{{{exp}}}"


class Unless(Mask):
    r"""A mask of comparisons: 1, unless every argument is positive; then 0."""

    @classmethod
    def eval(cls, *conditions: sp.Expr) -> sp.Expr | None:
        """Decide it where the symbols' signs do, in particular at a ratio of exactly 1."""
        plain = [c for c in conditions if not c.has(Dot, Norm2, sp.exp)]  # of others the sign is slow to ask for
        signs = [sp.expand(c) for c in plain]
        if any(c.is_nonpositive for c in signs):
            return sp.S.One
        return sp.S.Zero if len(plain) == len(conditions) and all(c.is_positive for c in signs) else None

    @property
    def other(self) -> sp.Expr:
        return OtherUnless(*self.args)


class OtherUnless(Unless):
    """1 − :class:`Unless`."""

    @classmethod
    def eval(cls, *conditions: sp.Expr) -> sp.Expr | None:
        return None

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = r"\left(1 - m\right)"
        return body if exp is None else f"{body}^{{{exp}}}"


class Surrogate(sp.Function):
    r"""PPO's clipped surrogate, to be minimised: :math:`-\min(rA, \mathrm{clip}(r, 1-\epsilon^-, 1+\epsilon^+)A)`.

    Lemma L4 (:mod:`derivations.lemmas`) proves the derivative used here, branch by branch.
    """

    nargs = 4

    def _eval_is_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        if argindex == 2:
            return -self.args[0] * ClipMask(*self.args)
        raise ArgumentIndexError(self, argindex)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        a, r, low, high = (printer._print(x) for x in self.args)
        clip = rf"\mathrm{{clip}}\left({r},\, 1-{low},\, 1+{high}\right)"
        body = rf"-\min\left({r}\,{a},\; {clip}\,{a}\right)"
        return body if exp is None else rf"\left({body}\right)^{{{exp}}}"


class Mean(sp.Function):
    r"""Expectation :math:`\mathbb{E}_z[f]` over Gaussian noise z: standard normal, independent of everything else in f.

    z is a vector, ε ~ N(0, I), or a real symbol, n ~ N(0, 1).  f is a scalar or a vector; so is its mean.
    :func:`derivations.theorems.expectations.averaged` carries it out.
    """

    nargs = 2

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        inner, over = (printer._print(x) for x in self.args)
        sign = r"\mathbb{P}" if isinstance(self.args[0], Below) else r"\mathbb{E}"
        body = rf"{sign}_{{{over}}}\left[{inner}\right]"
        return body if exp is None else rf"{body}^{{{exp}}}"


class Below(sp.Function):
    r"""1 where the first argument is less than the second, else 0: its mean is a probability."""

    nargs = 2

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _eval_is_real(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        return " < ".join(printer._print(x) for x in self.args)


class NormalCDF(sp.Function):
    r"""Distribution function :math:`\Phi` of N(0, 1)."""

    nargs = 1

    @classmethod
    def eval(cls, x: sp.Expr) -> sp.Expr | None:
        return sp.Rational(1, 2) if x == 0 else None

    def _eval_is_real(self) -> bool:
        return True

    def _eval_is_nonnegative(self) -> bool:
        return True

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        body = rf"\Phi\left({printer._print(self.args[0])}\right)"
        return body if exp is None else rf"{body}^{{{exp}}}"
