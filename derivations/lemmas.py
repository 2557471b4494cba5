r"""The lemmas that carry every derivation, each proved for a symbolic dimension D.

L1 (sg-MSE): the gradient of any loss is the gradient of a squared distance to a detached target.
L2 (Gaussian step): the gradient of a log-density through a reverse step, and the log-ratio's closed form.
L3 (mixture of MSEs): a weighted sum of squared distances is one squared distance and a constant.
L4 (PPO clip): the clipped surrogate's gradient is a 0/1 mask times the unclipped one's.
"""

from __future__ import annotations

import sympy as sp

from derivations.calculus import Dot, Norm2, Surrogate, VectorSymbol, sg
from derivations.claims import Equal, EqualUpToConstant, GradientIs
from derivations.derivation import Step, Theorem
from derivations.notation import C1, C2, D, delta, k, mean_offset, mean_old, mean_theta, noise, v_old, v_theta, x_prev

__all__ = ["LEMMAS", "gaussian_definitions"]

_half = sp.Rational(1, 2)


def gaussian_definitions() -> dict[sp.Symbol, sp.Expr]:
    """A Gaussian reverse step in the form of lemma L2: the mean is affine in the velocity."""
    return {
        delta: v_theta - v_old,
        k: C1 / C2,
        mean_theta: mean_offset - C1 * v_theta,
        mean_old: mean_offset - C1 * v_old,
        x_prev: mean_old + C2 * noise,
    }


def _sg_mse() -> Theorem:
    g, w = VectorSymbol("g"), sp.Symbol("w", positive=True)
    target = v_theta - g / (2 * w)
    return Theorem(
        "L1",
        "Every gradient is the gradient of an MSE to a detached target",
        (
            Step(
                "sg-mse",
                "For any vector g, the loss's gradient say, and any w > 0, the squared distance to the detached "
                "point v_theta − g/(2w) has gradient g.",
                GradientIs(w * Norm2(v_theta - sg(target)), g, label=r"w\,\|v_\theta-\mathrm{sg}(v_\theta-g/(2w))\|^2"),
            ),
            Step(
                "half-weight",
                "With w = 1/2 the target is v_theta − g: one step of gradient descent with step size 1.",
                Equal(target, v_theta - g, {w: _half}),
            ),
            Step(
                "unit-weight", "With w = 1 the target is v_theta − g/2.", Equal(target, v_theta - g / 2, {w: sp.S.One})
            ),
        ),
    )


def _gaussian_step() -> Theorem:
    lam = sp.Symbol("lambda", positive=True)
    log_p = -lam * Norm2(x_prev - mean_theta)
    log_ratio = log_p + lam * Norm2(x_prev - mean_old)
    true = {lam: 1 / (2 * C2**2)}
    closed = -(k**2) / 2 * Norm2(delta) - k * Dot(delta, noise)
    return Theorem(
        "L2",
        "The policy gradient through a Gaussian step",
        (
            Step(
                "step-residual",
                "The sampled state lies off the trained model's mean by the velocities' difference and by the noise.",
                Equal(x_prev - mean_theta, C1 * delta + C2 * noise),
            ),
            Step(
                "log-prob-gradient",
                "So the log-density −λ‖x_prev − mean‖² has a gradient along δ and ε alone.",
                GradientIs(log_p, -2 * lam * C1 * (C1 * delta + C2 * noise), label=r"\log p_\theta"),
            ),
            Step(
                "log-ratio-lambda",
                "The log-ratio to the behaviour model, for any λ.",
                Equal(log_ratio, -lam * (C1**2 * Norm2(delta) + 2 * C1 * C2 * Dot(delta, noise))),
            ),
            Step("log-ratio", "For the true Gaussian, λ = 1/(2 C2²).", Equal(log_ratio, closed, true)),
            Step(
                "log-ratio-mean",
                "Where the implementation takes the mean over coordinates, λ = 1/(2 C2² D).",
                Equal(log_ratio, closed / D, {lam: 1 / (2 * C2**2 * D)}),
            ),
        ),
        gaussian_definitions(),
    )


def _mixture() -> Theorem:
    v = v_theta
    c1, c2 = VectorSymbol("c_1"), VectorSymbol("c_2")
    w1, w2 = sp.symbols("w_1 w_2", real=True)
    total = w1 + w2
    centre = (w1 * c1 + w2 * c2) / total
    mixture = w1 * Norm2(v - c1) + w2 * Norm2(v - c2)
    constant = w1 * Norm2(c1) + w2 * Norm2(c2) - total * Norm2(centre)
    return Theorem(
        "L3",
        "A mixture of MSEs is one MSE",
        (
            Step(
                "merge-two",
                "Two squared distances are one to the weighted centre, and a constant (W ≠ 0).",
                EqualUpToConstant(mixture, total * Norm2(v - centre), constant),
            ),
            Step(
                "constant",
                "The constant is the distance between the two centres, weighted.",
                Equal(constant, w1 * w2 / total * Norm2(c1 - c2)),
            ),
            Step(
                "mixture-gradient",
                "Hence the gradient points away from the centre.",
                GradientIs(mixture, 2 * total * (v - centre), label=r"\left[\sum_i w_i\|v_\theta-c_i\|^2\right]"),
            ),
        ),
    )


def _ppo_clip() -> Theorem:
    # Every branch is parametrised by positive symbols, so that the order of the two terms is decided by signs.
    a, s, u, low, high = sp.symbols("a s u l h", positive=True)
    A, r = sp.symbols("A r", real=True)
    clipped = sp.Min(sp.Max(r, 1 - low, evaluate=False), 1 + high, evaluate=False)
    surrogate = -sp.Min(r * A, clipped * A, evaluate=False)
    below, above = {r: 1 - low - s}, {r: 1 + high + s}
    inside = {r: 1 - low + (low + high) / (1 + u)}
    steps = []
    for sign, word, bound in ((1, "positive", 1 + high), (-1, "negative", 1 - low)):
        for place, at in (("below", below), ("inside", inside), ("above", above)):
            clips = (sign, place) in {(1, "above"), (-1, "below")}
            value = -A * bound if clips else -A * r
            where = {A: sign * a, **at}
            steps += [
                Step(
                    f"value-{word}-{place}",
                    f"For a {word} advantage and a ratio {place} the clip range, the surrogate is "
                    + ("constant in the ratio." if clips else "−A·ratio."),
                    Equal(surrogate, value, where),
                ),
                Step(
                    f"slope-{word}-{place}",
                    f"Its slope there is −A·m with m = {0 if clips else 1}.",
                    Equal(sp.diff(value, r), sp.diff(Surrogate(A, r, low, high), r), where),
                ),
            ]
    return Theorem("L4", "PPO's clip is a mask on the gradient", tuple(steps))


LEMMAS: tuple[Theorem, ...] = (_sg_mse(), _gaussian_step(), _mixture(), _ppo_clip())
"""L1 to L4."""
