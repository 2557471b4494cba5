r"""Functions in one form each, so that equal ones written differently are one atom.

What is used: a mask is 0 or 1, so that m² = m, and its other branch is 1 − m; masks and PPO's surrogate ask for the
advantage's sign alone, and the surrogate is −min(rA, clip(r)A), proportional to positive factors of A; a maximum is
minus the minimum of the negatives; means of absolute values are even and proportional; the logarithm of a product of
positive numbers is the sum of theirs, so that log(1 + eˣ) = x + log(1 + e⁻ˣ).
"""

from __future__ import annotations

import sympy as sp

from derivations.algebra.nodes import ClipMask, Mask, MeanAbs, OtherMask, OtherUnless, Surrogate, Unless
from derivations.algebra.signs import is_nonnegative, is_positive
from derivations.algebra.vectors import components, expand, maximal

__all__ = ["canonical", "idempotent"]

_REWRITTEN = (Mask, Surrogate, MeanAbs, sp.log, sp.Min, sp.Max)


def canonical(expr: sp.Expr) -> sp.Expr:
    """The expression with every such function in its one form."""
    if not expr.has(*_REWRITTEN):
        return expr
    open_surrogates = expr.has(Surrogate) and expr.has(sp.Min, sp.Max)
    return expr.xreplace({node: _one_form(node, open_surrogates) for node in maximal(expr, _REWRITTEN)})


def idempotent(expr: sp.Expr) -> sp.Expr:
    """An expanded polynomial with every power of a mask written as the mask."""
    powers = {p for p in expr.atoms(sp.Pow) if isinstance(p.base, Mask) and p.exp.is_integer and p.exp.is_positive}
    return expr.xreplace({p: p.base for p in powers}) if powers else expr


def _one_form(node: sp.Expr, open_surrogates: bool) -> sp.Expr:
    if isinstance(node, MeanAbs):
        return _mean_abs(node)
    args = [canonical(expand(arg)) for arg in node.args]
    if isinstance(node, ClipMask):
        advantage, ratio, low, high = args
        mask = ClipMask(_split(advantage)[1], ratio, low, high)
        return 1 - mask if isinstance(node, OtherMask) else mask
    if isinstance(node, Unless):
        mask = Unless(*(_split(c)[1] for c in args))
        return 1 - mask if isinstance(node, OtherUnless) else mask
    if isinstance(node, Surrogate):
        advantage, ratio, low, high = args
        if open_surrogates:
            clipped = sp.Min(sp.Max(ratio, 1 - low), 1 + high)
            return canonical(-sp.Min(ratio * advantage, clipped * advantage))
        size, sign = _split(advantage)
        return size * Surrogate(sign, ratio, low, high)
    if isinstance(node, sp.log):
        return _log(node, args[0])
    return _least([-a for a in args], -1) if isinstance(node, sp.Max) else _least(args, 1)


def _split(scalar: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """A number's positive factors, and the rest, which has its sign."""
    factors = sp.Mul.make_args(sp.factor_terms(sp.expand(scalar)))
    positive = [f for f in factors if is_positive(f)]
    return sp.Mul(*positive), sp.expand(sp.Mul(*(f for f in factors if f not in positive)))


def _least(args: list[sp.Expr], sign: int) -> sp.Expr:
    """sign · min(args), the arguments multiplied out, their common positive factor in front of it."""
    expanded = list(dict.fromkeys(sp.expand(a) for a in args))
    if len(expanded) == 1:
        return sign * expanded[0]
    clip = _clip(expanded)
    if clip is not None:
        return sign * clip
    markers = [sp.Dummy(f"a{i}") for i in range(len(expanded))]
    whole = sp.factor_terms(sp.Add(*(a * m for a, m in zip(expanded, markers, strict=True))))
    size = sp.Mul(*(f for f in sp.Mul.make_args(whole) if not f.has(*markers) and is_positive(f)))
    return sign * size * sp.Min(*(sp.expand(a / size) for a in expanded))


class _Clip(sp.Function):
    """x held between l and h, l ≤ h: what both min(max(x, l), h) and max(min(x, h), l) are."""

    nargs = 3

    def _eval_is_real(self) -> bool:
        return True


def _clip(args: list[sp.Expr]) -> sp.Expr | None:
    """The one form of min(high, max(x, low)), where low ≤ high; the maximum is written as −min of the negatives."""
    for high in args:
        rest = [a for a in args if a != high]
        if len(rest) != 1 or not isinstance(-rest[0], sp.Min) or len((-rest[0]).args) != 2:
            continue
        ends = [-end for end in (-rest[0]).args]
        for low in sorted(ends, key=sp.default_sort_key):
            if is_nonnegative(sp.expand(high - low)):
                x = next(e for e in ends if e != low)
                low, high = sp.expand(low), sp.expand(high)
                if x.could_extract_minus_sign():
                    return -_Clip(sp.expand(-x), -high, -low)
                return _Clip(sp.expand(x), low, high)
    return None


def _mean_abs(node: MeanAbs) -> sp.Expr:
    """|c|·mean|vector| with the vector's leading sign and common positive factor taken out."""
    parts = {u: sp.expand(canonical(expand(c))) for u, c in components(node.args[0]).items()}
    parts = {u: c for u, c in parts.items() if c != 0}
    if not parts:
        return sp.S.Zero
    markers = {u: sp.Dummy(f"u{i}", real=True) for i, u in enumerate(sorted(parts, key=lambda s: str(s.name)))}
    whole = sp.factor_terms(sp.Add(*(c * markers[u] for u, c in parts.items())))
    size = sp.Mul(*(f for f in sp.Mul.make_args(whole) if not f.has(*markers.values()) and is_positive(f)))
    parts = {u: sp.expand(c / size) for u, c in parts.items()}
    first = parts[min(parts, key=lambda s: str(s.name))]
    sign = -1 if first.could_extract_minus_sign() else 1
    return size * MeanAbs(sp.Add(*(sp.expand(sign * c) * u for u, c in parts.items())))


def _log(node: sp.log, arg: sp.Expr) -> sp.Expr:
    """The logarithm of a product of positive numbers, exponentials among them, as a sum."""
    if not is_positive(arg):
        return node.func(arg)
    exponents: dict[sp.Expr, sp.Symbol] = {}

    def power(exponential: sp.exp) -> sp.Expr:
        out = sp.S.One
        for term in sp.Add.make_args(sp.expand(exponential.args[0])):
            factor, rest = term.as_coeff_Mul(rational=True)
            if not factor.is_Integer:
                factor, rest = sp.S.One, term
            out *= exponents.setdefault(rest, sp.Dummy("e", positive=True)) ** factor
        return out

    free = arg.xreplace({e: power(e) for e in maximal(arg, (sp.exp,))})
    numerator, denominator = sp.fraction(sp.cancel(sp.together(free)))
    back = {symbol: sp.exp(exponent) for exponent, symbol in exponents.items()}
    logs = {symbol: exponent for exponent, symbol in exponents.items()}
    out = sp.S.Zero
    for sign, part in ((1, numerator), (-1, denominator)):
        rational = part.is_rational_function()  # SymPy factors no product of roots, D√s
        content, factors = sp.factor_list(part) if rational else (sp.S.One, [(part, 1)])
        whole = [(content, 1), *factors]
        if not all(is_positive(f) for f, _ in whole):
            whole = [(part, 1)]
        for factor, times in whole:
            term = logs.get(factor, sp.log(sp.expand(factor).xreplace(back)))
            out += sign * times * term
    return out
