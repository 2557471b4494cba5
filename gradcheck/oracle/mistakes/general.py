r"""Mistakes that any loss can make: a term without gradient or sign, a wrong advantage, a wrong reference term."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Norm2, sg
from derivations.derivation import Derivation
from derivations.notation import quantity
from derivations.pieces import Piece
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.functions import (
    BatchFirst,
    BatchMean,
    BatchSize,
    BatchStd,
    Bounded,
    LatentSize,
    Neighbour,
    Reversed,
    Right,
    Sorted,
)
from gradcheck.oracle.mistakes.places import KL, KL_STD, POLICY, SURROGATE, stated

__all__ = [
    "CROSSED",
    "OUTER_PRODUCT",
    "advantage_mistakes",
    "latent_sizes",
    "mixed_reduction",
    "reference_mistakes",
    "term_mistakes",
    "wrong_advantages",
]


OUTER_PRODUCT = "outer-product"
"""What may look like a sum over the batch, and hardly ever is meant."""
CROSSED = "(B,) is broadcast against (B, 1) before the batch is reduced, so that the mean becomes a sum"
"""What is said of it beside a declaration."""


def term_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The policy's term as a whole, beside a reference term."""
    summed = (
        "the batch is summed, or (B,) broadcast against (B, 1) before its mean, so that the loss is B times too large"
    )
    any_scalar = next((quantity(name).symbol for name in d.given if quantity(name).axes == "sample"), None)
    if any_scalar is not None:
        yield OUTER_PRODUCT, summed, BatchSize(Right(any_scalar)) * d.loss, {}
    if Piece.REFERENCE not in d.pieces:
        return
    yield (
        "policy-detached",
        "the policy's term has no gradient: the prediction in it is detached, or the behaviour model's",
        d.loss,
        {POLICY: sp.S.Zero},
    )
    yield "policy-sign", "the policy's term has the wrong sign", d.loss, {POLICY: -stated(d).table[POLICY]}


def latent_sizes(scalar: sp.Symbol) -> Iterator[tuple[str, sp.Expr]]:
    """Some axes of the latent, in words, and how many coordinates they have; the scalar is any per-sample one."""
    yield "the first axis", LatentSize(scalar, 0)
    yield "the last axis", LatentSize(scalar, -1)
    yield "all axes but the first", n.D / LatentSize(scalar, 0)
    yield "all axes but the last", n.D / LatentSize(scalar, -1)


def mixed_reduction(what: str, axes: str, averaged: bool) -> str:
    """That some axes are summed where all must be averaged, or the reverse."""
    done, others, wanted = ("summed", "averaged", "averaged") if averaged else ("averaged", "summed", "summed")
    return f"{what} is {done} over {axes} of the latent and {others} over the others; it must be {wanted} over all"


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
    scaled = "the advantage is divided by {} over the batch once more; it must be used as it is"
    for what, size in (
        ("its standard deviation", BatchStd(a, 0)),
        ("its standard deviation", BatchStd(a, 1)),
        ("its mean size |A|", BatchMean(sp.Abs(a))),
        ("the sum of its sizes |A|", BatchSize(a) * BatchMean(sp.Abs(a))),
    ):
        yield "advantage-normalised-twice", scaled.format(what), a / size
    for unbiased in (0, 1):
        for eps in ("1e-4", "1e-6", "1e-8"):
            yield (
                "advantage-normalised-twice",
                "the advantage is normalised over the batch once more",
                centred / (BatchStd(a, unbiased) + sp.Float(eps)),
            )
    yield (
        "probability-for-advantage",
        "the optimality probability (1 + A)/2 stands where the advantage belongs",
        (1 + a) / 2,
    )
    yield "advantage-sign-alone", "only the advantage's sign counts", sp.sign(a)
    yield "good-samples-dropped", "positive advantages are dropped", sp.Min(a, 0)
    yield "bad-samples-dropped", "negative advantages are dropped", sp.Max(a, 0)
    yield "advantage-missing", "the advantage is missing: every sample counts alike", sp.S.One


def advantage_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Everything that may stand in an advantage's place."""
    if Piece.ADVANTAGE not in d.pieces:
        return
    a = n.advantage
    for name, sentence, wrong in wrong_advantages(a):
        yield name, sentence, d.loss, {a: wrong.xreplace({a: Right(a)})}
    for by in (1, -1):
        yield (
            "advantage-of-neighbour",
            "the advantage is another sample's: the batch is out of step with it (a roll, a shuffle or an off-by-one)",
            d.loss,
            {a: Neighbour(Right(a), by)},
        )
    for order, wrong in (
        ("in the opposite order", Reversed(Right(a))),
        ("sorted, the largest first", Sorted(Right(a), -1)),
        ("sorted, the smallest first", Sorted(Right(a), 1)),
    ):
        sentence = f"the advantages are {order}; each must stay with its sample"
        yield "advantage-of-neighbour", sentence, d.loss, {a: wrong}
    yield (
        "advantage-of-first-sample",
        "every sample has the first sample's advantage",
        d.loss,
        {a: BatchFirst(Right(a))},
    )


def reference_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Mistakes in the KL or reference term."""
    table = stated(d).table
    if KL not in table:
        return
    kl, w = table[KL], n.kl_weight
    term = "the KL or reference term"

    def put(name: str, sentence: str, value: sp.Expr) -> Candidate:
        return name, sentence, d.loss, {KL: value}

    yield put(
        "kl-without-gradient",
        f"{term} has no gradient (it is computed under no_grad, or detached)",
        sp.S.Zero,
    )
    to_old = {n.v_ref: n.v_old, n.mean_ref: n.mean_old}
    yield put("kl-to-old", f"{term} is taken to the behaviour model", kl.xreplace(to_old))
    for name, sentence, factor in (
        ("kl-sign", f"{term} has the wrong sign", sp.S.NegativeOne),
        ("kl-half", f"{term} is twice the declared one: a factor 1/2 is missing", sp.Integer(2)),
        ("kl-doubled", f"{term} is half the declared one", sp.Rational(1, 2)),
        ("kl-squared-weight", "the KL weight enters twice", w),
        ("kl-weight-missing", "the KL weight is missing", 1 / w),
        ("kl-times-D", f"{term} is summed where it must be averaged over coordinates", n.D),
        ("kl-over-D", f"{term} is averaged over coordinates where it must be summed", 1 / n.D),
    ):
        yield put(name, sentence, factor * kl)
    if Piece.STEP_LENGTH in d.pieces:
        yield put("kl-times-dt", f"{term}'s denominator lacks Δt", n.dt * kl)
        yield put("kl-over-dt", f"{term} is divided by Δt once too often", kl / n.dt)
    if KL_STD in table:
        yield put(
            "kl-without-variance",
            f"{term} is not divided by twice the step's variance",
            kl.xreplace({KL_STD: sp.S.One / sp.sqrt(2)}),
        )
        yield put(
            "kl-without-variance", f"{term} is not divided by the step's variance", kl.xreplace({KL_STD: sp.S.One})
        )
    if n.advantage in table[POLICY].free_symbols or n.advantage in table.get(SURROGATE, sp.S.Zero).free_symbols:
        into = f"{term} is subtracted from the advantage; it must be added to the loss"
        for held, how in ((sg, " (there it is detached)"), (sp.sympify, "")):
            edits = {n.advantage: Right(n.advantage) - held(kl), KL: sp.S.Zero}
            yield "kl-in-advantage", f"{into}{how}", d.loss, edits
    if table[POLICY] == SURROGATE:
        a, r, low, high = table[SURROGATE].args
        plain, clipped = -r * a, -Bounded(r, 1 - low, 1 + high) * a
        inside = f"{term} is added inside the surrogate's max, to the {{}} term alone; it must be to the whole loss"
        for which, worse in (("unclipped", sp.Max(plain + kl, clipped)), ("clipped", sp.Max(plain, clipped + kl))):
            yield "kl-in-max", inside.format(which), d.loss, {SURROGATE: worse, KL: sp.S.Zero}
    terms = sp.Add.make_args(d.loss.coeff(w))
    quotients = [x for x in terms if x.has(sp.exp)]
    if len(quotients) == 1:  # k3, s − 1 − log s with s = p/p_θ
        (s,) = quotients
        log_s = s - sp.Add(*terms) - 1
        turned = f"{term} is k3 of the quotient p_θ/p; it must be of p/p_θ"
        yield put("kl-direction", turned, w * (1 / s - 1 + log_s))
    for symbol, word in ((n.advantage, "the advantage"), (n.ratio, "the ratio"), (n.t, "t")):
        if symbol.name in d.given or symbol in d.definitions:
            yield put("kl-weighed", f"{term} is multiplied by {word}; it must not be", Right(symbol) * kl)
            yield put("kl-weighed", f"{term} is multiplied by {word}; it must not be", symbol * kl)
    yield put("kl-averaged", f"{term} is averaged over the batch before it is weighed", BatchMean(kl))
    if Piece.REVERSE_STEP in d.pieces:
        between = "the KL term compares the velocities; it must compare the steps' means, over their variance"
        for each in (sp.S.One, 1 / n.D):
            for half in (sp.S.One, sp.Rational(1, 2)):
                yield put("kl-on-velocities", between, half * each * w * Norm2(n.v_theta - n.v_ref))
