"""False statements by hand, each with what is wrong with it; the prover refuses all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import sympy as sp

from derivations.algebra.nodes import OtherMask
from derivations.calculus import ClipMask, Dot, MeanAbs, Norm2, Surrogate, Unless, VectorSymbol, sg
from derivations.claims import (
    Approximates,
    Claim,
    Equal,
    EqualUpToConstant,
    GradientIs,
    Parallel,
    Positive,
    SameHessian,
)
from derivations.notation import (
    C1,
    D,
    advantage,
    alpha_bar,
    alpha_bar_prev,
    beta,
    clip_high,
    clip_low,
    delta,
    dt,
    k,
    noise,
    noise_level,
    noise_theta,
    ratio,
    reward_prob,
    sigma_t,
    t,
    t_prev,
    v_gt,
    v_old,
    v_ref,
    v_theta,
    w_minus,
    w_plus,
    x_0,
    x_0_theta,
)

__all__ = ["FALSE_STATEMENTS", "FalseStatement"]


@dataclass(frozen=True)
class FalseStatement:
    """A claim that does not hold.

    Attributes:
        why: what is wrong with it.
        claim: the claim.
        definitions, coefficients: what its symbols stand for.
    """

    why: str
    claim: Claim
    definitions: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    coefficients: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)


A, v = advantage, v_theta
x, y = sp.symbols("x y", real=True)
p, q, c = sp.symbols("p q c", positive=True)
nn = sp.Symbol("n", nonnegative=True)
G = sp.Symbol("G", positive=True)
ones, u, w = VectorSymbol("ones"), VectorSymbol("u"), VectorSymbol("w")
N = Norm2
m = ClipMask(A, ratio, clip_low, clip_high)
low, high = 1 - clip_low, 1 + clip_high
clip = sp.Min(sp.Max(ratio, low), high)
d = v - v_old
at_old = {v: v_old}
log_r = -(k**2) / 2 * N(d) - k * Dot(d, noise)
r = sp.exp(log_r)
moved = N(v + v_old) - 4 * Dot(v, v_old)  # ‖v − v_old‖²
hidden = N(2 * u) - 4 * N(u)  # 0


def surrogate(a: sp.Expr, of: sp.Expr = ratio) -> sp.Expr:
    return Surrogate(a, of, clip_low, clip_high)


def _false(why: str, claim: Claim, *formulas: Mapping[sp.Symbol, sp.Expr]) -> FalseStatement:
    return FalseStatement(why, claim, *formulas)


_DETACHED = {w_plus: sg(N(v - v_gt) + 1), w_minus: sg(N(v - v_old) + 2)}

FALSE_STATEMENTS: dict[str, FalseStatement] = {
    # denominators that vanish
    "zero-over-zero": _false("0/0 is no number", Equal(N(u) / hidden, 2 * N(u) / hidden)),
    "zero-denominator-both": _false("both sides are undefined", Equal(1 / hidden, 2 / hidden)),
    "zero-denominator-vector": _false("no vector is divided by 0", Equal(u / hidden, w / hidden)),
    "zero-to-the-minus-half": _false("a root of 0 below", Equal(x / sp.sqrt(hidden), y / sp.sqrt(hidden))),
    "zero-in-a-sum": _false("1/(N(2u) − 4N(u)) + 1", Equal(1 + x / hidden, y + x / hidden + 1)),
    "zero-where-norm": _false(
        "N − G is 0 under the condition", Equal((N(ones) ** 2 - G**2) / (N(ones) - G), -1, {N(ones): G})
    ),
    "zero-where-hidden-norm": _false(
        "N(2·1)/4 − G is", Equal((N(2 * ones) ** 2 / 16 - G**2) / (N(2 * ones) / 4 - G), -1, {N(ones): G})
    ),
    "zero-where-symbol": _false("x − y is 0", Equal((x**2 - y**2) / (x - y), -1, {x: y})),
    "zero-where-vectors": _false("‖v − v_old‖² is 0", Equal((N(v) - N(v_old)) / N(d), 5, at_old)),
    "zero-gradient": _false("the loss is undefined", GradientIs(N(v) / hidden, v / hidden)),
    "zero-parallel": _false("both sides are undefined", Parallel(u / hidden, w / hidden, sp.S.One)),
    "zero-constant": _false("both sides are undefined", EqualUpToConstant(N(v) / hidden, sp.S.Zero, sp.S.One)),
    "zero-definition": _false("k is 1/0", Equal(k * x, y * k), {k: 1 / hidden}),
    "zero-log": _false("log 0", Equal(sp.log(hidden), sp.log(2 * hidden))),
    "positive-over-zero": _false("1/0 is not positive", Positive(1 / hidden**2)),
    # limits
    "unit-vector-vanishes": _false("its length is 1 all along", Approximates(d / sp.sqrt(moved), 0 * v_old, at_old)),
    "quotient-half": _false(
        "it tends to 1/2",
        Approximates(1 + (N(v) - N(v_old)) / (N(v + v_old) - 4 * N(v_old)), sp.S.One, at_old),
    ),
    "line-but-not-parabola": _false(
        "along parabolas it stays 1/2",
        Approximates(Dot(d, u) ** 2 * Dot(d, w) / (Dot(d, u) ** 4 + Dot(d, w) ** 2), sp.S.Zero, at_old),
    ),
    "distance-is-of-order-two": _false("‖δ‖ is of order 1", Approximates(sp.sqrt(moved), sp.S.Zero, at_old, order=2)),
    "ratio-order-two": _false("log r has a linear term", Approximates(r, sp.S.One, at_old, order=2)),
    "gradient-order-two": _false(
        "δ and ⟨δ, ε⟩ε are left", Approximates(A * k * r * (noise + k * d), A * k * noise, at_old, order=2)
    ),
    "expansion-sign": _false(
        "the ratio's term has the other sign",
        Approximates(r * (noise + k * d), noise + k * (d + Dot(d, noise) * noise), at_old, order=2),
    ),
    "expansion-without-half": _false(
        "½ is missing",
        Approximates(r, 1 - k * Dot(d, noise) + k**2 * (Dot(d, noise) ** 2 - N(d) / 2), at_old, order=3),
    ),
    "limit-elsewhere": _false("at v_ref δ is not 0", Approximates(A * (noise + k * d), A * noise, {v: v_ref})),
    "limit-of-nothing": _false("no limit is named", Approximates(A * (noise + k * d), A * noise, {})),
    "order-zero": _false("order 0 says nothing", Approximates(A * noise, A * v, at_old, order=0)),
    "mask-at-its-kink": _false(
        "the clip's edge lies in the limit", Approximates(ClipMask(A, x, clip_low, clip_high), sp.S.One, {x: high})
    ),
    "mask-beyond-its-kink": _false(
        "a good sample is masked", Approximates(ClipMask(p, x, clip_low, clip_high), sp.S.One, {x: 1 + 2 * clip_high})
    ),
    "kink-in-the-limit": _false("|x| has a kink", Approximates(sp.Abs(x), x, {x: sp.S.Zero}, order=2)),
    "log-in-the-limit": _false("log x runs away", Approximates(p * sp.log(p), sp.S.Zero, {p: sp.S.Zero})),
    # constants and Hessians
    "constant-of-the-output": _false(
        "it depends on ε_θ", EqualUpToConstant(N(noise_theta - noise), sp.S.Zero, N(noise_theta - noise))
    ),
    "constant-of-the-data-output": _false(
        "it depends on x_0,θ", EqualUpToConstant(N(x_0_theta - x_0), sp.S.Zero, N(x_0_theta - x_0))
    ),
    "constant-detached": _false("sg keeps the value, which moves", EqualUpToConstant(N(v), N(v) - sg(N(v)), sg(N(v)))),
    "constant-by-a-coefficient": _false(
        "w⁺ moves with v_θ", EqualUpToConstant(N(v) + w_plus, N(v), w_plus), {}, _DETACHED
    ),
    "constant-by-a-weight": _false(
        "the weights move with v_θ",
        EqualUpToConstant(w_plus * N(v - u), w_plus * (N(v) - 2 * Dot(v, u)), w_plus * N(u)),
        {},
        _DETACHED,
    ),
    "constant-by-a-definition": _false("k is ‖v_θ‖²", EqualUpToConstant(N(v) + k, N(v), k), {k: N(v) + 1}),
    "gradient-lost-in-sg": _false("the gradients differ", EqualUpToConstant(N(v), sg(N(v)), sp.S.Zero)),
    "wrt-another": _false(
        "it depends on v_old, declared", EqualUpToConstant(N(v - v_old), N(v) - 2 * Dot(v, v_old), N(v_old), v_old)
    ),
    "hessian-of-the-output": _false("2 against 6 …‖ε_θ‖⁴", SameHessian(N(noise_theta), N(noise_theta) ** 3)),
    "hessian-of-two-outputs": _false("which output?", SameHessian(N(noise_theta) + N(v), N(noise_theta) + 2 * N(v))),
    "hessian-live": _false(
        "w⁺ moves, and is not said to be held", SameHessian(w_plus * N(v - u), w_plus * N(v)), {}, _DETACHED
    ),
    "hessian-held-otherwise": _false(
        "w⁻ is held, and w⁺ is not", SameHessian(w_plus * N(v), w_plus * N(v - u), held=(w_minus,)), {}, _DETACHED
    ),
    "hessian-twice": _false("a factor of 2", SameHessian(N(v - u), 2 * N(v))),
    "hessian-detached": _false("sg takes the cross terms", SameHessian(sg(N(v)) * Dot(v, u), N(v) * Dot(v, u))),
    # names, freezing
    "captured-vector": _false(
        "_sg0 is any vector", GradientIs(N(v - sg(v_old)) + N(v - VectorSymbol("_sg0")), 4 * (v - v_old))
    ),
    "captured-scalar": _false("sg0 is any number", GradientIs(sg(A) * N(v), 2 * sp.Symbol("sg0", real=True) * v)),
    "captured-direction": _false(
        "h is a vector of the loss", GradientIs(Dot(v, VectorSymbol("h")) ** 2, 2 * N(VectorSymbol("h")) * v)
    ),
    "two-frozen-are-one": _false("sg(u) and sg(w) differ", GradientIs(Dot(v, sg(u)) - Dot(v, sg(w)), 0 * v)),
    "live-target": _false("the target is not detached", GradientIs(N(v - (v - u)), 2 * u)),
    "weight-live": _false("the weight's own slope is missing", GradientIs(N(v) * N(v - u), 2 * N(v) * (v - u))),
    # signs and domains
    "definition-negative": _false("C1 is positive, −β is not", Equal(sp.sqrt(C1**2) * x, C1 * x), {C1: -beta}),
    "definition-of-any-sign": _false("|k| is not A", Equal(sp.Abs(k) + x, k + x), {k: A}),
    "coefficient-negative": _false(
        "σ_t is positive", Equal(sp.Max(sigma_t, 0, evaluate=False), sigma_t), {}, {sigma_t: -p}
    ),
    "probability-above-one": _false("r is at most 1", Equal(reward_prob + x, x + 1 + p), {reward_prob: 1 + p}),
    "where-negative": _false("p is positive", Equal(sp.Max(p, 0, evaluate=False), p, {p: -q})),
    "where-outside-unit": _false("t is below 1", Equal(t, 2, {t: sp.Integer(2)})),
    "where-below-unit": _false("r is at least 0", Equal(reward_prob, -1, {reward_prob: -sp.S.One})),
    "where-negative-norm": _false("‖u‖² is not −1", Equal(N(u), -1, {N(u): -sp.S.One})),
    "where-against-schwarz": _false(
        "⟨u, w⟩² is at most ‖u‖²‖w‖²",
        Equal(Dot(u, w), 2, {N(u): sp.S.One, N(w): sp.S.One, Dot(u, w): sp.Integer(2)}),
    ),
    "where-in-a-circle": _false("y is x, and x is 0: which x?", Equal(y, 0, {x: sp.S.Zero, y: x})),
    "where-of-a-sum": _false("a condition on no symbol", Equal(x + y, 5, {x + y: sp.Integer(5)})),
    "where-no-count": _false("D is a whole number", Equal(D, p, {D: p})),
    "given-something-else": _false("β > 0 does not make p − 1 positive", Equal(q, p - 1, {q: p - 1}, (beta,))),
    "positive-with-an-end": _false("r may be 0", Positive(reward_prob, {reward_prob: 1 / (1 + p)})),
    "positive-with-the-other-end": _false("1 − r may be 0", Positive(1 - reward_prob, {reward_prob: 1 / (1 + p)})),
    "positive-plain-end": _false("a number that may be 0", Positive(nn, {nn: p})),
    "positive-half-covered": _false("t is not only below 1/2", Positive(sp.Rational(1, 2) - t, {t: 1 / (2 * (1 + p))})),
    "positive-one-point": _false("only t = 1/2 is tried", Positive(1 - t, {t: sp.Rational(1, 2)})),
    "positive-borrowed": _false("p stands in it already", Positive(p * (1 + p) * (1 - t) + 1 - p, {t: 1 / (1 + p)})),
    "positive-step": _false("dt is below t, not t_prev", Positive(t_prev - dt)),
    "positive-signal": _false("ᾱ' is above ᾱ", Positive(alpha_bar - alpha_bar_prev)),
    "positive-sine": _false("beyond η = 2 the sine is negative", Positive(sp.sin(noise_level * sp.pi / 2))),
    "positive-root": _false("√p is not above p", Positive(sp.sqrt(p) - p)),
    "positive-square": _false("x² may be 0", Positive(x**2)),
    "parallel-backwards": _false("the factor is negative", Parallel(-p * u, u, -p)),
    "parallel-unknown": _false("A has either sign", Parallel(A * u, u, A)),
    "parallel-difference": _false("p − q has either sign", Parallel((p - q) * u, u, p - q)),
    "log-of-any-sign": _false("A may be negative", Equal(sp.log(A**2), 2 * sp.log(A))),
    "exp-log": _false("A may be negative", Equal(sp.exp(k) * x, A * x), {k: sp.log(A)}),
    "exp-log-unevaluated": _false("A may be negative", Equal(sp.exp(sp.log(A), evaluate=False), A)),
    "log-of-a-product": _false("x and y may be negative", Equal(sp.log(x * y), sp.log(x) + sp.log(y))),
    "root-of-a-square": _false("x may be negative", Equal(sp.sqrt(x**2), x)),
    "power-of-a-power": _false("x may be negative", Equal((x**2) ** sp.Rational(3, 2), x**3)),
    # masks, minima, functions
    "mask-negative": _false("m² is m, not −m", Equal(m**2, -m)),
    "mask-other": _false("m(1 − m) is 0", Equal(m * OtherMask(*m.args), m)),
    "mask-twice": _false("m + m is 2m", Equal(m + m, m)),
    "mask-other-advantage": _false(
        "a bad sample is masked elsewhere", Equal(ClipMask(-A, ratio, clip_low, clip_high), m)
    ),
    "mask-range-turned": _false("the two ranges differ", Equal(ClipMask(A, ratio, clip_high, clip_low), m)),
    "unless-turned": _false("the condition's sign counts", Equal(Unless(-x, y), Unless(x, y))),
    "surrogate-max": _false("a minimum, not a maximum", Equal(surrogate(A), -sp.Max(ratio * A, clip * A))),
    "surrogate-unclipped": _false("the clip is missing", Equal(surrogate(A), -ratio * A)),
    "surrogate-ranges": _false(
        "the two ranges are exchanged",
        Equal(surrogate(A), -sp.Min(ratio * A, sp.Min(sp.Max(ratio, 1 - clip_high), 1 + clip_low) * A)),
    ),
    "surrogate-odd": _false("it is not odd in A", Equal(surrogate(-A), -surrogate(A))),
    "surrogate-by-any-number": _false("x may be negative", Equal(surrogate(x * A), x * surrogate(A))),
    "surrogate-slope": _false("the mask is missing", GradientIs(surrogate(A, r), A * r * k * (noise + k * d))),
    "min-by-any-number": _false("x may be negative", Equal(sp.Min(x * p, x * q, evaluate=False), x * sp.Min(p, q))),
    "max-of-negatives": _false("−min(x, y) is max(−x, −y)", Equal(-sp.Min(x, y), sp.Max(x, y))),
    "clip-without-order": _false(
        "y may be above p",
        Equal(sp.Min(sp.Max(x, y), p, evaluate=False), sp.Max(sp.Min(x, p), y, evaluate=False)),
    ),
    "mean-abs-by-any-number": _false("|x| is meant", Equal(MeanAbs(x * v), x * MeanAbs(v))),
    "mean-abs-of-a-sum": _false("a triangle", Equal(MeanAbs(u + w), MeanAbs(u) + MeanAbs(w))),
    "softplus-sign": _false("x is added, not subtracted", Equal(sp.log(1 + sp.exp(x)), sp.log(1 + sp.exp(-x)) - x)),
    "log-of-a-sum": _false("no logarithm of a sum", Equal(sp.log(p + q), sp.log(p) + sp.log(q))),
    "exp-of-a-sum": _false("exponentials multiply", Equal(sp.exp(x + y), sp.exp(x) + sp.exp(y))),
    # the algebra of vectors
    "norm-of-a-sum": _false("the cross term is missing", Equal(N(u + w), N(u) + N(w))),
    "norm-linear": _false("a norm is squared", Equal(N(2 * u), 2 * N(u))),
    "schwarz-equal": _false("an inequality", Equal(Dot(u, w) ** 2, N(u) * N(w))),
    "in-one-dimension": _false("true for D = 1 alone", Equal(Dot(u, w) * u, N(u) * w)),
    "sum-of-kinds": _false("no number is added to a vector", Equal(u + x, x + u + 1)),
    "definition-forgotten": _false("δ is v_θ − v_old", GradientIs(N(delta), 2 * v), {delta: v - v_old}),
}
"""By name."""
