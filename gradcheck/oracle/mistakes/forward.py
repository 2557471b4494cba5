r"""Mistakes in the forward process's losses: the regression target, what weighs it, DiffusionNFT's two branches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import sympy as sp

from derivations import notation as n
from derivations.calculus import MeanAbs, Norm2, drop_sg, sg
from derivations.derivation import Derivation, inline
from derivations.pieces import Piece
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import (
    BatchFirst,
    BatchGreatest,
    BatchMean,
    BatchSize,
    Neighbour,
    Right,
    Rounded,
)
from gradcheck.oracle.mistakes.places import EXPONENTIAL, SHARE_MINUS, SHARE_PLUS, WEIGHT, stated

__all__ = ["mixture_mistakes", "target_mistakes", "weight_mistakes"]


def target_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The regression target of the forward process."""
    if n.v_gt not in d.definitions:
        return
    for name, seen, target in (
        ("velocity-sign", "x_0 − ε", n.x_0 - n.noise),
        ("velocity-sum", "ε + x_0", n.x_0 + n.noise),
        ("noise-for-velocity", "ε alone", n.noise),
        ("data-for-velocity", "x_0", n.x_0),
        ("state-for-velocity", "ε − x_t", n.noise - n.x_t),
        ("state-for-velocity", "x_t − x_0", n.x_t - n.x_0),
        ("state-for-velocity", "x_t", n.x_t),
        ("velocity-times-time", "t (ε − x_0)", n.t * (n.noise - n.x_0)),
    ):
        yield name, f"the regression target is {seen}; it must be ε − x_0", d.loss, {n.v_gt: target}


def weight_mistakes(d: Derivation) -> Iterator[Candidate]:
    """What multiplies a squared error: the advantage, ω(t), an exponentiated reward."""
    if d.coefficients.get(n.omega, sp.S.One) != 1:
        formula = d.coefficients[n.omega]
        for name, sentence, weight in (
            ("weighting-missing", "the time weighting ω(t) is missing", sp.S.One),
            ("weighting-reversed", "the time weighting is taken at 1 − t", formula.xreplace({n.t: 1 - n.t})),
            (
                "weighting-averaged",
                "the time weighting is averaged over the batch; it must be per sample",
                BatchMean(formula),
            ),
        ):
            yield name, sentence, d.loss, {n.omega: weight}
        yield from _weighting_of_the_ratio(d)
    if Piece.TEMPERATURE in d.pieces:
        for name, sentence, edits in _exponential_mistakes(d):
            yield name, sentence, d.loss, edits


def _weighting_of_the_ratio(d: Derivation) -> Iterator[Candidate]:
    """The time weighting stands in both log-probabilities, so that it weighs the log-ratio."""
    plain = {
        s: d.definitions[s].xreplace({n.omega: sp.S.One})
        for s in (n.log_prob_theta, n.log_prob_old)
        if s in d.definitions and n.omega in d.definitions[s].free_symbols
    }
    if len(plain) < 2:
        return
    for symbol, whose in ((n.log_prob_theta, "the new"), (n.log_prob_old, "the old")):
        sentence = f"the time weighting ω(t) is missing from {whose} log-probability alone"
        yield "weighting-on-one-side", sentence, d.loss, {symbol: plain[symbol]}
    yield (
        "weighting-outside",
        "the time weighting ω(t) multiplies the loss; it must weigh the log-probabilities, inside the ratio",
        d.loss,
        {**plain, n.advantage: d.coefficients[n.omega] * Right(n.advantage)},
    )


def _exponential_mistakes(d: Derivation) -> Iterator[tuple[str, str, Overrides]]:
    """RWR's weight exp(R/τ), and AWR's min(exp(A/τ), w_max)."""
    table = stated(d).table
    if EXPONENTIAL not in table:
        return
    signal, word = (n.reward, "reward") if n.reward in d.loss.free_symbols else (n.advantage, "advantage")
    for name, sentence, weight in (
        ("temperature-inverted", f"the {word} is multiplied by the temperature", sp.exp(signal * n.temperature)),
        ("temperature-missing", "the temperature is missing", sp.exp(signal)),
        ("exponential-missing", f"the {word} is not exponentiated", signal / n.temperature),
        ("exponent-sign", f"a greater {word} has a smaller weight", sp.exp(-signal / n.temperature)),
    ):
        yield name, sentence, {EXPONENTIAL: weight}
    sized = WEIGHT if WEIGHT in table else EXPONENTIAL
    weight = table[sized]
    mean = "the weights are divided by their mean over the batch, so that one sample's rests on the others"
    total = "the weights are a softmax over the batch: they are divided by their sum"
    yield "weight-normalised", mean, {sized: weight / BatchMean(weight)}
    for rest, word_of in ((BatchGreatest(signal), "largest"), (BatchMean(signal), "mean")):
        subtracted = f"the batch's {word_of} {word} is subtracted in the exponent, so that one sample's weight rests on"
        yield "weight-normalised", f"{subtracted} the others", {EXPONENTIAL: sp.exp((signal - rest) / n.temperature)}
    yield "weight-normalised", total, {sized: weight / (BatchSize(weight) * BatchMean(weight))}
    if WEIGHT not in table:
        yield f"{word}-missing", f"the {word} is missing: every sample counts alike", {EXPONENTIAL: sp.S.One}
        return
    most, exponential = n.weight_max, EXPONENTIAL
    beyond = (1 + sp.sign(most - exponential)) / 2
    for name, sentence, weight in (
        ("weight-unclipped", "the weight is not clipped at w_max", exponential),
        ("weight-clip-silences", "a sample whose weight is clipped has no gradient", beyond * exponential),
        ("weight-clip-below", "w_max is the least weight instead of the greatest", sp.Max(exponential, most)),
        (
            "exponent-clipped",
            "w_max clips the exponent instead of the weight",
            sp.exp(sp.Min(sp.log(exponential), most)),
        ),
        ("weight-missing", "the weight is missing: every sample counts alike", sp.S.One),
    ):
        yield name, sentence, {WEIGHT: weight}


def mixture_mistakes(d: Derivation) -> Iterator[Candidate]:
    """DiffusionNFT's two branches: the loss is r·P + (1 − r)·N."""
    if n.reward_prob.name not in (*d.given, *d.defined):
        return
    # the target stays a symbol, so that a mistake in it goes with one in the mixtures
    r, loss = n.reward_prob, inline(d.loss, {s: e for s, e in d.definitions.items() if s not in (n.v_gt, n.x_t)})
    reference = loss - loss.xreplace({n.kl_weight: sp.S.Zero})
    policy = loss - reference
    positive, negative = policy.xreplace({r: sp.S.One}), policy.xreplace({r: sp.S.Zero})

    shares = stated(d).table
    apart = SHARE_PLUS in shares

    def weighed(a: sp.Expr, b: sp.Expr) -> tuple[sp.Expr, Overrides]:
        """Other shares of the branches: the loss, and the edits that make it."""
        if apart:
            return d.loss, {SHARE_PLUS: sp.sympify(a), SHARE_MINUS: sp.sympify(b)}
        return a * positive + b * negative + reference, {}

    def put(change: Overrides) -> sp.Expr:
        return policy.xreplace(dict(change)) + reference

    def mixed(plus: sp.Expr, minus: sp.Expr) -> sp.Expr:
        """With other mixtures: v_θ enters each branch through its mixture alone, so solve the mixture for it."""
        weights = {s: d.inline(d.coefficients[s]) for s in (n.w_plus, n.w_minus) if s in d.coefficients}
        from_plus = {n.v_theta: (plus - (1 - n.beta) * n.v_old) / n.beta}
        from_minus = {n.v_theta: ((1 + n.beta) * n.v_old - minus) / n.beta}
        good, bad = positive.xreplace(weights).xreplace(from_plus), negative.xreplace(weights).xreplace(from_minus)
        plus_share, minus_share = (SHARE_PLUS, SHARE_MINUS) if apart else (r, 1 - r)
        return plus_share * good + minus_share * bad + reference

    b, new, old = n.beta, n.v_theta, n.v_old
    plus, minus = (1 - b) * old + b * new, (1 + b) * old - b * new
    yield "branches-swapped", "v⁺ and v⁻ are exchanged (or r and 1 − r)", *weighed(1 - r, r)
    yield (
        "advantage-for-probability",
        "the advantage stands where the optimality probability r belongs",
        *weighed(2 * r - 1, 2 - 2 * r),
    )
    yield "positive-branch-alone", "the negative branch is missing", *weighed(r, sp.S.Zero)
    yield "negative-branch-alone", "the positive branch is missing", *weighed(sp.S.Zero, 1 - r)
    half = sp.Rational(1, 2)
    yield "branches-unweighted", "the branches are not weighted by r and 1 − r", *weighed(half, half)
    yield "branches-unweighted", "the branches are not weighted by r and 1 − r", *weighed(sp.S.One, sp.S.One)
    given = stated(d).table.get(r, Right(r))
    yield "probability-rounded", "r is rounded to 0 or 1", d.loss, {r: Rounded(given)}
    averaged = "r is averaged over the batch; it must be per sample"
    yield "probability-averaged", averaged, d.loss, {r: BatchMean(given)}
    yield "negative-branch-sign", "the negative branch is subtracted; it must be added", *weighed(r, r - 1)
    yield (
        "branches-weighted-alike",
        "both branches are weighted by r; the negative one must be by 1 − r",
        *weighed(r, r),
    )
    yield (
        "shares-squared",
        "r and 1 − r stand inside the squares, so that r² and (1 − r)² weigh the branches",
        *weighed(r**2, (1 - r) ** 2),
    )
    blend = r * plus + (1 - r) * minus
    yield (
        "branches-blended",
        "one squared error is taken of r v⁺ + (1 − r) v⁻; each of the two mixtures must have its own",
        mixed(blend, blend),
        {},
    )
    yield "beta-squared", "β enters the mixtures squared", put({b: b**2}), {}
    yield "beta-squared", "β enters the mixtures squared", mixed(old + b**2 * (new - old), old - b**2 * (new - old)), {}
    other_plus, other_minus = b * old + (1 - b) * new, (2 - b) * old - (1 - b) * new
    yield "beta-exchanged", "β and 1 − β are exchanged in the mixtures", mixed(other_plus, other_minus), {}
    yield (
        "beta-doubled",
        "β is twice what it must be in the mixtures",
        mixed(plus + b * (new - old), minus - b * (new - old)),
        {},
    )
    yield "beta-halved", "β is half of what it must be in the mixtures", mixed((plus + old) / 2, (minus + old) / 2), {}
    share = "v_old has the share {} in v{}; it must be {}"
    for had, wrong in (("1", old + b * new), ("1 + β", (1 + b) * old + b * new), ("0", b * new)):
        yield "old-share", share.format(had, "⁺", "1 − β"), mixed(wrong, minus), {}
    for had, wrong in (("1", old - b * new), ("1 − β", (1 - b) * old - b * new), ("0", -b * new)):
        yield "old-share", share.format(had, "⁻", "1 + β"), mixed(plus, wrong), {}
    for sign, wrong in (("⁺", mixed(new, minus)), ("⁻", mixed(plus, 2 * old - new))):
        yield "beta-missing", f"β is missing from v{sign}: it is taken as 1 there", wrong, {}
    one = "β and 1 − β are exchanged in one of the mixtures"
    yield "beta-on-one-branch", one, mixed(plus, other_minus), {}
    yield "beta-on-one-branch", one, mixed(other_plus, minus), {}
    yield "beta-one", "β is taken as 1 in the mixtures", mixed(new, 2 * old - new), {}
    alike = "v⁻ moves the same way as v⁺: its sign of β is wrong"
    for wrong in ((1 + b) * old + b * new, (1 - b) * old + b * new):
        yield "negative-branch-mixed-alike", alike, mixed(plus, wrong), {}
    yield (
        "mixture-live",
        "v_old is taken from the trained model in the mixtures, with its gradient",
        mixed(plus.xreplace({old: new}), minus.xreplace({old: new})),
        {},
    )
    yield (
        "mixture-of-the-trained",
        "v_old is the trained model's own prediction, detached, in the mixtures: the behaviour model's is not used",
        mixed(plus.xreplace({old: sg(new)}), minus.xreplace({old: sg(new)})),
        {},
    )
    if r in d.coefficients:
        half, unclipped = sp.Rational(1, 2), n.advantage / (2 * n.advantage_clip)
        clipped = sp.Min(sp.Max(n.advantage, -n.advantage_clip), n.advantage_clip)
        for name, sentence, map_ in (
            ("map-unclipped", "r is not clipped to [0, 1]", half + unclipped),
            ("map-reversed", "r falls where the advantage rises", 1 - r),
            (
                "map-of-the-unit",
                "the advantage is clipped at ±1 instead of ±c",
                half + sp.Min(sp.Max(n.advantage, -1), 1) / 2,
            ),
            ("map-not-halved", "the clipped advantage over c is not halved", half + clipped / n.advantage_clip),
        ):
            yield name, sentence, *weighed(map_, 1 - map_)
    if n.w_plus in d.coefficients:
        yield from _adaptive_weight_mistakes(d)


def _adaptive_weight_mistakes(d: Derivation) -> Iterator[Candidate]:
    """What each branch's error is divided by: its mean absolute error, detached."""
    weights = (n.w_plus, n.w_minus)
    right = {s: d.coefficients[s] for s in weights}

    def each(change: Callable[[sp.Expr], sp.Expr]) -> Overrides:
        return {s: change(right[s]) for s in weights}

    def measured(wrong: Callable[[sp.Expr], sp.Expr]) -> Overrides:
        return each(lambda e: e.replace(MeanAbs, wrong))

    each_branch = "the adaptive weights"
    for name, sentence, edits in (
        ("weights-live", f"{each_branch} carry a gradient; they must be detached", each(drop_sg)),
        ("weights-missing", f"{each_branch} are missing", each(lambda e: sp.S.One)),
        (
            "weights-swapped",
            f"{each_branch} of the two branches are exchanged",
            {n.w_plus: Right(n.w_minus), n.w_minus: Right(n.w_plus)},
        ),
        ("weights-averaged", f"{each_branch} are averaged over the batch", each(BatchMean)),
        ("weights-of-first-sample", f"{each_branch} are the first sample's", each(BatchFirst)),
        ("weights-of-neighbour", f"{each_branch} are another sample's", each(lambda e: Neighbour(e, 1))),
        ("weights-of-neighbour", f"{each_branch} are another sample's", each(lambda e: Neighbour(e, -1))),
        ("weights-shared", "both branches have the positive branch's adaptive weight", {n.w_minus: Right(n.w_plus)}),
        ("weights-shared", "both branches have the negative branch's adaptive weight", {n.w_plus: Right(n.w_minus)}),
        ("weights-summed", f"{each_branch} are sums over coordinates; they must be means", each(lambda e: n.D * e)),
        *(
            (
                "weights-of-another-error",
                f"{each_branch} are made of {whose} error; each must be of its own branch's",
                each(partial(_with_error_of, model)),
            )
            for model, whose in ((n.v_old, "v_old's"), (n.v_theta, "v_θ's"))
        ),
        (
            "weights-squared",
            f"{each_branch} are mean squares; they must be mean absolute errors",
            measured(lambda x: Norm2(x) / n.D),
        ),
        (
            "weights-squared",
            f"{each_branch} are roots of mean squares; they must be mean absolute errors",
            measured(lambda x: sp.sqrt(Norm2(x) / n.D)),
        ),
    ):
        yield name, sentence, d.loss, edits
    # e² over the detached |e| has the gradient of 2|e|
    of_branches = {x: 2 * n.D * MeanAbs(x.args[0]) for x in d.loss.atoms(Norm2) if x.has(n.x_0)}
    coordinatewise = f"{each_branch} are taken coordinate by coordinate; they must be a mean, one number a sample"
    yield "weights-per-coordinate", coordinatewise, d.loss.xreplace(of_branches), each(lambda e: sp.S.One)


def _with_error_of(model: sp.Expr, weight: sp.Expr) -> sp.Expr:
    return weight.replace(MeanAbs, lambda error: MeanAbs(n.x_t - n.t * model - n.x_0))
