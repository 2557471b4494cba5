r"""Minimum, maximum, clip and absolute value, as they are written and as the calculus can differentiate them.

Where nothing depends on the trained velocity they stay what they are.  Elsewhere the calculus knows one kink, PPO's
:class:`~derivations.algebra.nodes.Surrogate`, whose derivative lemma L4 proves, and all others are that one, since
:math:`-\mathrm{Surrogate}(1, x, 1-c, c-1) = \min(x, c)`:

* min(c·x, c·clip(x, l, h)) with a c free of the trained velocity is PPO's own form;
* min(a, b) = b + min(a − b, 0), max(a, b) = −min(−a, −b), clip(x, l, h) = min(max(x, l), h), \|x\| = max(x, −x).
"""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from derivations.calculus import ClipMask, Surrogate, sg

__all__ = ["Clip", "Greatest", "Least", "Magnitude", "is_kink", "lower", "shown"]


class _Kinked(sp.Function):
    def _eval_is_real(self) -> bool:
        return True


class Least(_Kinked):
    """min(a, b), not evaluated."""

    nargs = 2

    def _eval_is_positive(self) -> bool | None:
        return True if all(arg.is_positive for arg in self.args) else None


class Greatest(_Kinked):
    """max(a, b), not evaluated."""

    nargs = 2

    def _eval_is_positive(self) -> bool | None:
        return True if any(arg.is_positive for arg in self.args) else None


class Clip(_Kinked):
    """min(max(x, low), high), not evaluated."""

    nargs = 3


class Magnitude(_Kinked):
    """\\|x\\|, not evaluated."""

    nargs = 1


_WRITTEN = (Least, Greatest, Clip, Magnitude, sp.Abs)


def lower(expr: sp.Expr, is_live: Callable[[sp.Expr], bool], detached: bool = False) -> sp.Expr:
    """Replace what is written by what the calculus knows; ``is_live`` tells what depends on the trained velocity."""
    if not expr.has(*_WRITTEN):
        return expr
    if isinstance(expr, sg):
        return sg(lower(expr.args[0], is_live, True))

    def live(x: sp.Expr) -> bool:
        return not detached and is_live(x)

    if isinstance(expr, (Least, Greatest)):
        surrogate = _surrogate(expr.args[0], expr.args[1], isinstance(expr, Greatest), live)
        if surrogate is not None:
            return surrogate
    args = [lower(arg, is_live, detached) for arg in expr.args]
    match expr:
        case Least():
            return _least(args[0], args[1], live)
        case Greatest():
            return _greatest(args[0], args[1], live)
        case Clip():
            return _least(_greatest(args[0], args[1], live), args[2], live)
        case Magnitude() | sp.Abs():
            return _greatest(args[0], -args[0], live)
    return expr.func(*args)


def _surrogate(a: sp.Expr, b: sp.Expr, is_max: bool, live: Callable[[sp.Expr], bool]) -> sp.Expr | None:
    """PPO's form, if the two are c·x and c·clip(x, low, high)."""
    for plain, clipped in ((a, b), (b, a)):
        clips = [factor for factor in sp.Mul.make_args(clipped) if isinstance(factor, Clip)]
        if len(clips) != 1:
            continue
        x, low, high = clips[0].args
        factor = clipped / clips[0]
        if any(e.has(*_WRITTEN) for e in (factor, x, low, high)) or any(map(live, (factor, low, high))):
            continue
        if sp.expand(plain - factor * x) == 0 and sp.expand(high - low).is_nonnegative:
            bounds = sp.expand(1 - low), sp.expand(high - 1)
            return Surrogate(-factor, x, *bounds) if is_max else -Surrogate(factor, x, *bounds)
    return None


def _least(a: sp.Expr, b: sp.Expr, live: Callable[[sp.Expr], bool]) -> sp.Expr:
    if not live(a) and (live(b) or a.is_number):
        a, b = b, a
    if not live(a) and not live(b):
        return sp.Min(a, b)
    if not live(b):
        return -Surrogate(sp.S.One, a, 1 - b, b - 1)
    return b - Surrogate(sp.S.One, sp.expand(a - b), sp.S.One, sp.S.NegativeOne)


def _greatest(a: sp.Expr, b: sp.Expr, live: Callable[[sp.Expr], bool]) -> sp.Expr:
    if not live(a) and not live(b):
        return sp.Max(a, b)
    return -_least(-a, -b, live)


def is_kink(node: sp.Expr) -> bool:
    """Whether a surrogate or mask stands for a plain minimum."""
    return isinstance(node, (Surrogate, ClipMask)) and node.args[0] == 1 and sp.expand(node.args[2] + node.args[3]) == 0


def shown(expr: sp.Expr) -> sp.Expr:
    """For the reader: plain minima where surrogates stand for them."""
    kinks = [node for node in expr.atoms(Surrogate) if is_kink(node)]
    if not kinks:
        return expr

    def plain(node: sp.Expr) -> sp.Expr:
        if isinstance(node, Surrogate) and is_kink(node):
            return -sp.Min(plain(node.args[1]), sp.expand(1 + node.args[3]), evaluate=False)
        return node.func(*map(plain, node.args)) if node.has(Surrogate) and node.args else node

    return plain(expr)
