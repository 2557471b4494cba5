r"""Mistakes that any loss can make: a term without gradient or sign, a wrong advantage, a wrong reference term."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Norm2
from derivations.derivation import Derivation
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import BatchMean

__all__ = ["reference_mistakes", "term_mistakes", "wrong_advantages"]


def term_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The policy's term as a whole, beside a reference term."""
    if not d.loss.has(n.kl_weight):
        return
    policy = d.loss.xreplace({n.kl_weight: sp.S.Zero})
    yield (
        "policy-detached",
        "the policy's term has no gradient: the prediction in it is detached, or the behaviour model's",
        d.loss - policy,
        {},
    )
    yield "policy-sign", "the policy's term has the wrong sign", d.loss - 2 * policy, {}


def wrong_advantages(a: sp.Expr) -> Iterator[tuple[str, str, sp.Expr]]:
    """What may stand in the advantage's place: name, cause, formula."""
    centred = a - BatchMean(a)
    yield "advantage-absolute", "the advantage's sign is lost", sp.Abs(a)
    yield "advantage-squared", "the advantage enters twice", a * sp.Abs(a)
    yield "advantage-squared", "the advantage enters twice", a**2
    yield (
        "advantage-averaged",
        "the advantage is averaged over the batch, or broadcast over it; it must be per sample",
        BatchMean(a),
    )
    yield "advantage-centred", "the advantage is centred over the batch once more", centred
    yield (
        "advantage-normalised-twice",
        "the advantage is normalised over the batch once more",
        centred / sp.sqrt(BatchMean(centred**2)),
    )
    yield (
        "probability-for-advantage",
        "the optimality probability (1 + A)/2 stands where the advantage belongs",
        (1 + a) / 2,
    )
    yield "bad-samples-dropped", "negative advantages are dropped", sp.Max(a, 0)
    yield "advantage-missing", "the advantage is missing: every sample counts alike", sp.S.One


def reference_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Mistakes in the KL or reference term."""
    if not d.loss.has(n.kl_weight):
        return
    loss, w = d.inline(d.loss), n.kl_weight
    policy = loss.xreplace({w: sp.S.Zero})
    term = "the KL or reference term"
    yield (
        "kl-without-gradient",
        f"{term} has no gradient (it is computed under no_grad, or detached)",
        policy,
        {},
    )
    yield (
        "kl-to-old",
        f"{term} is taken to the behaviour model",
        policy + (loss - policy).xreplace({n.v_ref: n.v_old}),
        {},
    )
    for name, sentence, weight in (
        ("kl-sign", f"{term} has the wrong sign", -w),
        ("kl-half", f"{term} is twice the declared one: a factor 1/2 is missing", 2 * w),
        ("kl-doubled", f"{term} is half the declared one", w / 2),
        ("kl-squared-weight", "the KL weight enters twice", w**2),
        ("kl-weight-missing", "the KL weight is missing", sp.S.One),
        ("kl-times-D", f"{term} is summed where it must be averaged over coordinates", w * n.D),
        ("kl-over-D", f"{term} is averaged over coordinates where it must be summed", w / n.D),
    ):
        yield name, sentence, loss.xreplace({w: weight}), {}
    if "dt" in d.given:
        yield "kl-times-dt", f"{term}'s denominator lacks Δt", loss.xreplace({w: w * n.dt}), {}
        yield "kl-over-dt", f"{term} is divided by Δt once too often", loss.xreplace({w: w / n.dt}), {}
    if n.mean_theta in d.definitions:
        between = "the KL term compares the velocities; it must compare the steps' means, over their variance"
        for each in (sp.S.One, 1 / n.D):
            for half in (sp.S.One, sp.Rational(1, 2)):
                yield "kl-on-velocities", between, policy + half * each * w * Norm2(n.v_theta - n.v_ref), {}
