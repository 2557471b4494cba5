r"""Mistakes in a squared error, of whatever model: what is summed over the coordinates, what weighs it, whose it is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial

import sympy as sp

from derivations import notation as n
from derivations.calculus import MeanAbs, Norm2, Total, sg
from derivations.derivation import Derivation
from derivations.writing.render import text
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import (
    BatchFirst,
    BatchMean,
    FourthPowers,
    Huber,
    Masked,
    Neighbour,
    PseudoHuber,
    Right,
)
from gradcheck.oracle.mistakes.general import latent_sizes, mixed_reduction
from gradcheck.oracle.mistakes.places import Stated, stated

__all__ = [
    "MASKS",
    "coordinate_mask_mistakes",
    "error_mistakes",
    "error_weight_mistakes",
    "errors_of",
    "in_errors",
    "prediction_mistakes",
]

_DELTAS = tuple(map(sp.Rational, ("1/10", "1/2", "1", "2", "5", "10")))
MASKS = (
    "the first index of the first axis",
    "the last index of the first axis",
    "the first index of the last axis",
    "the last index of the last axis",
)
"""Where a mask may leave something out, by its number."""


def errors_of(own: Stated) -> dict[sp.Symbol, list[sp.Expr]]:
    """The squared errors of a regression: the symbols in whose formulas they stand, and which."""
    found = {
        s: sorted((x for x in e.atoms(Norm2) if x.has(n.v_gt) or x.has(n.x_0)), key=str) for s, e in own.table.items()
    }
    return {s: norms for s, norms in found.items() if norms}


def in_errors(own: Stated, wrong: Callable[[sp.Expr], sp.Expr], only: sp.Expr | None = None) -> Overrides:
    """Every squared error changed, or one alone."""
    return {
        s: own.table[s].xreplace({x: wrong(x) for x in norms if only is None or x == only})
        for s, norms in errors_of(own).items()
    }


def error_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Mistakes in the squared errors of a regression."""
    own = stated(d)
    every = list(dict.fromkeys(x for norms in errors_of(own).values() for x in norms))
    if n.v_gt not in d.definitions or not every:
        return

    def put(name: str, sentence: str, wrong: Callable[[sp.Expr], sp.Expr], only: sp.Expr | None = None) -> Candidate:
        return name, sentence, d.loss, in_errors(own, wrong, only)

    yield from _of_coordinates(put)
    for power, done, wanted in ((1, "summed", "averaged"), (-1, "averaged", "summed")):
        sentence = f"the squared error is {done} over coordinates; it must be {wanted}"
        yield put("error-reduction", sentence, partial(operator.mul, n.D**power))
    averaged = _is_averaged(own)
    for words, size in latent_sizes(n.t):
        sentence = mixed_reduction("the squared error", words, averaged)
        yield put("error-reduction", sentence, partial(operator.mul, size if averaged else 1 / size))
    for x in every:
        of = f"the squared error {text(x)}"
        out_of_step = f"{of} is another sample's: the batch is out of step (a roll, a shuffle, an off-by-one)"
        yield put("error-averaged", f"{of} is averaged over the batch; it must be per sample", BatchMean, x)
        yield put("error-of-first-sample", f"{of} is the first sample's for every sample", BatchFirst, x)
        for by in (1, -1):
            yield put("error-of-neighbour", out_of_step, partial(_neighbour, by), x)
        if len(every) > 1:
            yield put("error-missing", f"{of} is missing", lambda x: sp.S.Zero, x)
            yield put("error-doubled", f"{of} is twice what it must be", lambda x: 2 * x, x)
            yield put("error-halved", f"{of} is half of what it must be", lambda x: x / 2, x)
            yield put("error-detached", f"{of} is detached: its gradient is missing", sg, x)
            if not x.has(n.v_theta):
                live = f"the trained model's error, detached, stands where {of} must"
                yield put("error-of-the-trained", live, lambda x: sg(_trained(x)), x)


def coordinate_mask_mistakes(d: Derivation) -> Iterator[Candidate]:
    """A mask of coordinates: ignored, the other way round, or counted otherwise."""
    own = stated(d)
    masked = {s: e for s, e in own.table.items() if e.has(n.mask)}
    if not masked:
        return
    yield "mask-ignored", "the mask is ignored: every coordinate counts", d.loss, {n.mask: sp.S.One}
    inverted = "the coordinates that the mask leaves out count, and those that it keeps do not"
    yield "mask-inverted", inverted, d.loss, {n.mask: 1 - Right(n.mask)}
    size = Total(n.mask)
    if any(e.has(size) for e in masked.values()):
        shared = "a sample's sum is divided by the mean mask of the batch; it must be by its own mask's sum"
        yield (
            "mask-counted-over-batch",
            shared,
            d.loss,
            {s: e.xreplace({size: BatchMean(size)}) for s, e in masked.items()},
        )
        hidden = sp.Dummy()
        bare = {
            s: e.xreplace({size: hidden}).xreplace({n.mask: sp.S.One}).xreplace({hidden: size})
            for s, e in masked.items()
        }
        yield (
            "mask-counted-alone",
            "the mask is counted in the denominator alone: every coordinate has its error",
            d.loss,
            bare,
        )


def _is_averaged(own: Stated) -> bool:
    """Whether the errors are averaged over coordinates."""
    return any(own.table[s].has(n.D) for s in errors_of(own))


def _neighbour(by: int, x: sp.Expr) -> sp.Expr:
    return Neighbour(x, by)


def error_weight_mistakes(d: Derivation) -> Iterator[Candidate]:
    """A weight of the time that multiplies every squared error."""
    if n.v_gt in d.definitions and d.path == "rectified":
        for weight in _weights():
            sentence = f"the squared error is multiplied by {text(weight)}"
            yield "error-weighed", sentence, d.loss, in_errors(stated(d), partial(operator.mul, weight))


def _trained(x: sp.Expr) -> sp.Expr:
    return x.xreplace({n.v_old: n.v_theta, n.v_ref: n.v_theta})


def _of_coordinates(put: Callable[..., Candidate]) -> Iterator[Candidate]:
    each = "of each coordinate"
    yield put(
        "fourth-power", f"the error {each} has the fourth power; it must be squared", lambda x: FourthPowers(x.args[0])
    )
    yield put(
        "not-squared", "the error is the absolute one (L1), not the squared one", lambda x: n.D * MeanAbs(x.args[0])
    )
    for rooted in (sp.sqrt, lambda x: sp.sqrt(n.D * x), lambda x: n.D * sp.sqrt(x)):
        yield put("not-squared", "the error is a distance (the root is taken), not a squared one", rooted)
    centred = "the error's variance over the coordinates stands where its square must: its mean is subtracted first"
    yield put("error-centred", centred, lambda x: x - Total(x.args[0]) ** 2 / n.D)
    for delta in _DELTAS:
        for factor, what in ((1, "½x² inside"), (2, "x² inside")):
            sentence = f"the error {each} is Huber's (smooth L1, δ = {float(delta):g}, {what}), not squared"
            yield put("huber", sentence, lambda x, c=factor, size=delta: c * Huber(x.args[0], size))
    for delta in _DELTAS[:4]:
        for factor in (1, 2):
            form = "δ²(√(1 + (x/δ)²) − 1)" if factor == 1 else "2δ²(√(1 + (x/δ)²) − 1)"
            sentence = f"the error {each} is a pseudo-Huber one, {form} with δ = {float(delta):g}, not squared"
            yield put("huber", sentence, lambda x, c=factor, size=delta: c * PseudoHuber(x.args[0], size))
    for where, words in enumerate(MASKS):
        for share in (sp.S.Zero, sp.Rational(1, 2), sp.Integer(2)):
            much = "left out of the error" if share == 0 else f"weighed {float(share):g} in the error"
            sentence = f"the coordinates at {words} are {much}"
            yield put("coordinates-masked", sentence, lambda x, w=where, share=share: Masked(x.args[0], w, share))


def _weights() -> Iterator[sp.Expr]:
    t = n.t
    yield from (t, 1 - t, t**2, (1 - t) ** 2, sp.sqrt(t), 1 / t, 1 / (1 - t), t / (1 - t), (1 - t) / t)
    yield from (1 / t**2, 1 / (1 - t) ** 2, ((1 - t) / t) ** 2, (t / (1 - t)) ** 2, 1 / (t * (1 - t)), t * (1 - t))


_MODELS = ((n.v_old, "v_old"), (n.v_ref, "v_ref"))


def prediction_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Another model's prediction in the place of the behaviour's or the reference's."""
    if {"v_old", "v_ref"} <= set(d.given):
        yield (
            "old-and-reference-exchanged",
            "the behaviour model's prediction and the reference's are exchanged",
            d.loss,
            {n.v_old: Right(n.v_ref), n.v_ref: Right(n.v_old)},
        )
    if n.v_gt not in d.definitions:
        return
    for symbol, name in _MODELS:
        if name not in d.given:
            continue
        others = [(s, other) for s, other in (*_MODELS, (n.v_gt, "v_gt")) if s != symbol and _is_held(d, s)]
        slug = name.replace("_", "-")
        trained = f"the trained model's own prediction, detached, stands where {name} must"
        yield f"{slug}-is-the-trained", trained, d.loss, {symbol: sg(Right(n.v_theta))}
        yield (
            f"{slug}-live",
            f"the trained model's own prediction stands where {name} must",
            d.loss,
            {symbol: Right(n.v_theta)},
        )
        for other, its in others:
            yield (
                f"{slug}-is-{its.replace('_', '-')}",
                f"{its} stands where {name} must",
                d.loss,
                {symbol: Right(other)},
            )
    outputs = [s for s in (n.v_theta, n.v_old, n.v_ref) if s.name in d.given]
    yield (
        "prediction-sign",
        "the networks' velocities have the wrong sign: noise and data, or the time axis, are exchanged for them",
        d.loss,
        {s: -Right(s) for s in outputs},
    )
    if n.x_t in d.definitions and d.loss.has(n.t):
        yield (
            "noise-for-data",
            "the noise x_t + (1 − t)v is predicted where the data x_t − t v must be",
            d.loss,
            {s: -(1 - n.t) / n.t * Right(s) for s in outputs},
        )


def _is_held(d: Derivation, symbol: sp.Symbol) -> bool:
    return symbol.name in (*d.given, *d.defined)
