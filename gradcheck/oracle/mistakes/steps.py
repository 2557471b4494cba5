r"""Mistakes in the reverse step of the policy-gradient losses: its mean, its standard deviation, its normaliser."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import sympy as sp
import torch

from derivations import notation as n
from derivations.calculus import MeanAbs, Norm2
from derivations.derivation import Derivation, inline
from derivations.pieces import Piece
from derivations.steps.sde import SDES, reverse_step, step_with
from gradcheck.oracle.mistakes import places as at
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import (
    BatchFirst,
    BatchMean,
    Bounded,
    GridStep,
    GridTime,
    Huber,
    Neighbour,
    Right,
    SmallHalf,
    TimeRounded,
)
from gradcheck.oracle.mistakes.general import latent_sizes, mixed_reduction
from gradcheck.oracle.mistakes.places import Place, stated

__all__ = ["FLOAT32_ERRORS", "step_mistakes"]


# a step with a number of its own cannot be tried: cases of the others do not hold it
_STEPS = tuple(step.name for step in SDES if n.sigma_min not in step.formulas.get(n.sigma_t, n.C2).free_symbols)

_NAMES = {
    at.STD: "std",
    at.SCALE: "scale",
    at.BIAS_STD: "bias-std",
    at.DIVERGENCE_STD: "divergence-std",
    at.KL_STD: "kl-std",
}
_TIMES = (n.t, n.dt, n.alpha_bar, n.alpha_bar_prev)


def step_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The reverse step's mean and standard deviation."""
    if not {n.mean_theta, n.mean_old} <= d.definitions.keys():
        return
    table = stated(d).table
    yield from _deviation_mistakes(d)
    if at.SCORE in table:
        yield from _mean_mistakes(d, table)
    else:
        yield from _other_means(d)
    if at.STD in table:
        yield from _state_mistakes(d)
        yield from _density_mistakes(d)
        yield from _normaliser_mistakes(d)


def _deviation_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Another standard deviation than the step's: at one place, or at several at once."""
    own = stated(d)
    has_dt = Piece.STEP_LENGTH in d.pieces
    root = sp.sqrt(n.dt) if has_dt else sp.S.One
    sigma = own.table[n.C2] / root if not has_dt else n.C2 / root
    kind = step_with(d.coefficients)
    for place in own.deviations:
        right = own.table[place]
        where, prefix = at.WHERE[place], _NAMES[place]
        wrong = f"the standard deviation in {where} is"

        def put(name: str, what: str, value: sp.Expr, place: Place = place, wrong: str = wrong) -> Candidate:
            return name, f"{wrong} {what}", d.loss, {place: value}

        if has_dt and right == n.C2:
            without = {"scale": "scale-sigma", "divergence-std": "divergence-sigma"}.get(prefix, f"{prefix}-without-dt")
            yield put(without, "σ_t; the step's is σ_t √Δt (√Δt is missing)", right / root)
            yield put(f"{prefix}-dt-twice", "multiplied by √Δt twice: σ_t Δt in place of σ_t √Δt", right * root)
        averaged = {"std": "std-mean", "scale": "std-averaged"}.get(prefix, f"{prefix}-averaged")
        for value in _averaged(right, root):
            yield put(averaged, "averaged over the batch; it must be per sample", value)
        yield put(
            "std-first" if prefix == "std" else f"{prefix}-first",
            "the first sample's; it must be per sample",
            BatchFirst(right),
        )
        for by in (1, -1):
            yield put(f"{prefix}-of-neighbour", "another sample's", Neighbour(right, by))
        if prefix == "std":
            yield put(
                "std-not-squared", "its root: the squared error is divided by 2C2 where 2C2² belongs", sp.sqrt(right)
            )
        yield put(f"{prefix}-squared", "the variance, its square", right**2)
        if has_dt and right == n.C2 and at.SIGMA_T in own.table:
            sigma_at = own.table[n.sigma_t]
            for which, what, moment in (
                ("time-after", "σ √Δt with σ taken at t − Δt, where the step ends; it must be at t", n.t - n.dt),
                ("time-before", "σ √Δt with σ taken at t + Δt; it must be at t, where the step starts", n.t + n.dt),
                ("time-after", "σ √Δt with σ taken one place later in the grid; it must be at t", GridTime(n.t, 1)),
                ("time-before", "σ √Δt with σ taken one place earlier in the grid; it must be at t", GridTime(n.t, -1)),
            ):
                yield put(f"{prefix}-{which}", what, sigma_at.xreplace({at.SIGMA_T: moment}) * root)
        for other in _STEPS:
            if kind is not None and other != kind.name and kind.path == "rectified":
                yield put(
                    f"{prefix}-of-{other}", f"that of the {other} step", inline(n.C2, reverse_step(other).formulas)
                )
        if prefix in ("scale", "std"):
            yield put(f"{prefix}-doubled", "twice the step's", 2 * right)
        for least in ("1/100", "1/50", "1/20", "1/10", "1/5", "1/2"):
            floor = sp.Rational(least)
            # which samples are beyond a bound tells a number only roughly
            limit = f"about {float(floor):g}" if place == at.DIVERGENCE_STD else f"at least {float(floor):g}"
            yield put(f"{prefix}-floor", f"clamped from below, to {limit}", sp.Max(right, floor))
    several = [p for p in own.deviations if own.table[p] == n.C2]
    both = [*several, at.OVER] if at.OVER in own.table else several
    for size in range(2, len(both) + 1):
        # the log-probability is mostly computed apart: what stands elsewhere has one deviation more often
        for chosen in sorted(itertools.combinations(both, size), key=lambda places: at.STD in places):
            yield from _in_several(d, chosen, root, sigma, has_dt)


def _averaged(right: sp.Expr, root: sp.Expr) -> Iterator[sp.Expr]:
    yield BatchMean(right)
    if right == n.C2 and root != 1:
        yield BatchMean(right / root) * BatchMean(root)
        yield BatchMean(right / root) * root
        yield right / root * BatchMean(root)
        yield BatchMean(right / root) * sp.sqrt(BatchMean(n.dt))
    yield sp.sqrt(BatchMean(right**2))
    yield 1 / sp.sqrt(BatchMean(right**-2))  # every sample under every deviation: (B, 1, B)


def _in_several(
    d: Derivation, chosen: tuple[Place, ...], root: sp.Expr, sigma: sp.Expr, has_dt: bool
) -> Iterator[Candidate]:
    """One wrong deviation that stands at several places; under the policy term its part Δt with it."""
    words = [at.WHERE[p] for p in chosen if p != at.OVER] + (
        ["what divides the policy term"] if at.OVER in chosen else []
    )
    where = ", ".join(words[:-1]) + " and " + words[-1]
    averaged = f"the step's standard deviation is averaged over the batch in {where}; it must be per sample"
    options: list[tuple[str, str, sp.Expr, sp.Expr]] = []
    if has_dt:
        mean_root = BatchMean(root)
        options += [
            ("std-averaged", averaged, BatchMean(sigma) * mean_root, mean_root**2),
            ("std-averaged", averaged, BatchMean(n.C2), BatchMean(n.dt)),
            ("std-averaged", averaged, sigma * mean_root, mean_root**2),
            ("std-averaged", averaged, BatchMean(sigma) * sp.sqrt(BatchMean(n.dt)), BatchMean(n.dt)),
        ]
        if at.OVER not in chosen:
            options += [
                ("std-without-dt", f"the standard deviation is σ_t in {where}; the step's is σ_t √Δt", sigma, root),
                ("std-dt-twice", f"the standard deviation has √Δt twice in {where}", n.C2 * root, root),
            ]
    else:
        options.append(("std-averaged", averaged, BatchMean(n.C2), sp.S.One))
    for name, sentence, value, over in options:
        yield name, sentence, d.loss, {p: over if p == at.OVER else value for p in chosen}


def _mean_mistakes(d: Derivation, table: Mapping[sp.Symbol, sp.Expr]) -> Iterator[Candidate]:
    """The mean x − (v + s (x + (1 − t) v)) Δt, and the times and σ_t in the whole step."""

    def put(name: str, sentence: str, edits: Overrides) -> Candidate:
        return name, sentence, d.loss, edits

    score, slope, offset = table[at.SCORE], table[n.C1], table[n.mean_offset]
    kind = step_with(d.coefficients)
    assert kind is not None
    for other in _STEPS:
        if other != kind.name:
            theirs = reverse_step(other).formulas
            mean = {s: inline(s, theirs) for s in (n.C1, n.mean_offset)}
            yield put(f"mean-of-{other}", f"the step's mean is that of the {other} step", mean)
            whole = {**mean, n.C2: inline(n.C2, theirs)}
            yield put(f"step-of-{other}", f"the step is that of sde={other!r}: mean and deviation", whole)
    missing = "the score correction σ_t²/(2t)·(x + (1 − t)v) is missing from the step's mean"
    yield put("score-correction-missing", f"{missing}, in its velocity's part", {n.C1: at.MEAN_DT})
    yield put("score-correction-missing", f"{missing}, in its state's part", {n.mean_offset: n.x_t})
    yield put("score-correction-missing", missing, {at.SCORE: sp.S.Zero})
    yield put("score-sign", "the score correction has the wrong sign in the step's mean", {at.SCORE: -score})
    yield put(
        "score-sign",
        "the score correction's velocity part has the wrong sign",
        {n.C1: at.MEAN_DT * (1 - (1 - at.MEAN_T) * at.SCORE)},
    )
    yield put("score-sign", "the score correction's state part has the wrong sign", {n.mean_offset: 2 * n.x_t - offset})
    yield put("velocity-sign-in-mean", "the velocity has the wrong sign in the step's mean: x + C1 v", {n.C1: -slope})
    backwards = "the step goes the wrong way: Δt has the wrong sign in the mean"
    yield put("dt-sign", backwards, {at.MEAN_DT: -at.STEP_DT})
    yield put(
        "velocity-sign-in-mean",
        "the velocity has the wrong sign in the step's mean; the score is right",
        {n.C1: at.MEAN_DT * (-1 + (1 - at.MEAN_T) * at.SCORE)},
    )
    yield put(
        "drift-sigma-not-squared",
        "the score correction has σ_t where σ_t² belongs",
        {at.DRIFT_SIGMA: sp.sqrt(n.sigma_t)},
    )
    yield put("drift-half-missing", "the score correction lacks its factor 1/2", {at.SCORE: 2 * score})
    yield put("drift-half-twice", "the score correction has a factor 1/2 too many", {at.SCORE: score / 2})
    yield put("drift-time-missing", "the score correction is not divided by t", {at.SCORE: at.MEAN_T * score})
    yield put("drift-time-squared", "the score correction is divided by t²", {at.SCORE: score / at.MEAN_T})
    yield put(
        "drift-time-reversed",
        "the score correction is divided by 1 − t; it must be by t",
        {at.SCORE: at.MEAN_T / (1 - at.MEAN_T) * score},
    )
    yield put(
        "drift-factor-missing",
        "the velocity's part of the score correction lacks its factor 1 − t",
        {n.C1: at.MEAN_DT * (1 + at.SCORE)},
    )
    yield put(
        "drift-factor-reversed",
        "the velocity's part of the score correction has t where 1 − t belongs",
        {n.C1: at.MEAN_DT * (1 + at.MEAN_T * at.SCORE)},
    )
    yield put("dt-missing-in-mean", "the step's mean lacks its factor Δt", {at.MEAN_DT: sp.S.One})
    yield put("root-dt-in-mean", "the step's mean has √Δt where Δt belongs", {at.MEAN_DT: sp.sqrt(at.STEP_DT)})
    yield put("dt-squared-in-mean", "the step's mean has Δt² where Δt belongs", {at.MEAN_DT: at.STEP_DT**2})
    where = {
        at.STEP_T: ("step", "the step"),
        at.MEAN_T: ("mean", "the step's mean"),
        at.SIGMA_T: ("sigma", "σ_t"),
    }
    for place, (prefix, word) in where.items():
        start = at.STEP_T if place != at.STEP_T else n.t
        yield put(
            f"{prefix}-time-after",
            f"{word} is taken at t − Δt, where the step ends; it must be at t, where it starts",
            {place: start - n.dt},
        )
        yield put(f"{prefix}-time-before", f"{word} is taken at t + Δt: the grid is off by one", {place: start + n.dt})
        if place != at.SIGMA_T:
            yield put(
                f"{prefix}-time-reversed",
                f"{word} is taken at 1 − t: the time axis is reversed in it",
                {place: 1 - start},
            )
        for steps in (10, 100, 1000):
            for how, verb in ((0, "rounded to"), (-1, "cut off to")):
                yield put(
                    "time-rounded",
                    f"t is {verb} a table of {steps} times in {word}",
                    {place: TimeRounded(start, steps, how)},
                )
        for by in (1, -1):
            yield put(
                "step-of-neighbour",
                f"{word} is another sample's: the batch is out of step with the times",
                {place: Neighbour(start, by)},
            )
    for by, side, word in ((1, "after", "later"), (-1, "before", "earlier")):
        off = f"one place {word} in the sampler's grid: the step's index is off by one"
        time, length = GridTime(n.t, by), GridStep(n.t, by)
        yield put(f"step-time-{side}", f"t and Δt are those {off}", {at.STEP_T: time, at.STEP_DT: length})
        yield put(f"step-time-{side}", f"t is that {off}", {at.STEP_T: time})
        yield put(f"sigma-time-{side}", f"σ_t is taken {off}", {at.SIGMA_T: time})
        yield put(f"step-dt-{side}", f"Δt is that {off}", {at.STEP_DT: length})
        yield put(f"step-dt-{side}", f"Δt in the mean is that {off}", {at.MEAN_DT: length})
        yield put(f"step-dt-{side}", f"Δt in the standard deviation is that {off}", {at.STD_DT: length})
    yield put("sigma-reversed", "σ_t is taken at 1 − t: the time axis is reversed in it", {at.SIGMA_T: 1 - at.STEP_T})
    sigma = table[n.sigma_t]
    yield put("sigma-not-rooted", "σ_t lacks its root: η t/(1 − t)", {n.sigma_t: sigma**2 / at.ETA})
    yield put("sigma-without-level", "σ_t lacks the noise level η", {at.ETA: sp.S.One})
    yield put("noise-level-squared", "the noise level η is squared in σ_t", {at.ETA: n.noise_level**2})
    yield put("noise-level-rooted", "the noise level η is under a root in σ_t", {at.ETA: sp.sqrt(n.noise_level)})
    for factor, word in (
        (2, "twice"),
        (sp.Rational(1, 2), "half"),
        (sp.sqrt(2), "√2 times"),
        (1 / sp.sqrt(2), "1/√2 times"),
    ):
        yield put("noise-level-scaled", f"the noise level is {word} the given one", {at.ETA: factor * n.noise_level})
    for name, sentence, change in (
        ("step-of-first-sample", "the first sample's time step is used for every sample", BatchFirst),
        ("step-averaged", "the time step is averaged over the batch; it must be per sample", BatchMean),
    ):
        yield put(name, sentence, {at.STEP_T: change(n.t), at.STEP_DT: change(n.dt)})
        yield put(name, sentence.replace("the time step", "t"), {at.STEP_T: change(n.t)})
        yield put(name, sentence.replace("the time step", "Δt"), {at.STEP_DT: change(n.dt)})
        yield put(name, sentence.replace("the time step", "Δt in the mean"), {at.MEAN_DT: change(n.dt)})
        yield put(name, sentence.replace("the time step", "σ_t"), {n.sigma_t: change(sigma)})
    for by in (1, -1):
        yield put(
            "step-of-neighbour",
            "the step is another sample's: the batch is out of step with t and Δt",
            {at.STEP_T: Neighbour(n.t, by), at.STEP_DT: Neighbour(n.dt, by)},
        )
        yield put("step-of-neighbour", "Δt is another sample's in the step", {at.STEP_DT: Neighbour(n.dt, by)})


def _other_means(d: Derivation) -> Iterator[Candidate]:
    """The same for steps that are written otherwise: CPS and DDIM."""
    own = step_with(d.coefficients)
    if own is None:
        return
    formulas = own.formulas

    def put(name: str, sentence: str, edits: Overrides) -> Candidate:
        return name, sentence, d.loss, edits

    def formula(symbol: sp.Symbol, change: Mapping[sp.Expr, sp.Expr]) -> sp.Expr:
        """A coefficient of the declared step in t and Δt, with a change in them."""
        return inline(symbol, formulas).xreplace(dict(change))

    for other in _STEPS:
        if other != own.name and own.path == "rectified":
            theirs = reverse_step(other).formulas
            mean = {s: inline(s, theirs) for s in (n.C1, n.mean_offset)}
            yield put(f"mean-of-{other}", f"the step's mean is that of the {other} step", mean)
            whole = {**mean, n.C2: inline(n.C2, theirs)}
            yield put(f"step-of-{other}", f"the step is that of sde={other!r}: mean and deviation", whole)
    backwards = "the step goes the wrong way: Δt has the wrong sign in the mean"
    yield put("dt-sign", backwards, {n.C1: -formulas[n.C1]})
    yield put(
        "dt-sign",
        backwards,
        {n.C1: -formulas[n.C1], n.mean_offset: 2 * n.x_t - formulas[n.mean_offset]},
    )
    changed = [s for s in (n.C1, n.C2, n.mean_offset) if s in formulas]
    for name, sentence, change in (
        ("step-of-first-sample", "the first sample's time step is used for every sample", BatchFirst),
        ("step-averaged", "the time step is averaged over the batch; it must be per sample", BatchMean),
        ("step-of-neighbour", "the step is another sample's: the batch is out of step", lambda x: Neighbour(x, 1)),
        ("step-of-neighbour", "the step is another sample's: the batch is out of step", lambda x: Neighbour(x, -1)),
    ):
        moved = {x: change(x) for x in _TIMES}
        yield put(name, sentence, {s: formula(s, moved) for s in changed})
    if own.name == "ddim":
        yield from _ddim_mistakes(d, formulas)
    if own.name == "cps":
        yield from _cps_mistakes(d, formulas)


def _cps_mistakes(d: Derivation, formulas: Mapping[sp.Symbol, sp.Expr]) -> Iterator[Candidate]:
    after, level = n.t - n.dt, n.noise_level
    for name, sentence, std in (
        ("noise-level-angle", "the step's deviation is t' η; it must be t' sin(η π/2)", after * level),
        ("noise-level-angle", "the step's deviation is t' sin(η); it must be t' sin(η π/2)", after * sp.sin(level)),
        (
            "noise-level-angle",
            "the step's deviation is t' sin(η π); it must be t' sin(η π/2)",
            after * sp.sin(level * sp.pi),
        ),
        (
            "noise-level-angle",
            "the step's deviation is t' cos(η π/2); it must be t' sin(η π/2)",
            after * sp.cos(level * sp.pi / 2),
        ),
        (
            "std-time-before",
            "the step's deviation is t sin(η π/2); it must be t' sin(η π/2)",
            n.t * sp.sin(level * sp.pi / 2),
        ),
    ):
        yield name, sentence, d.loss, {n.C2: std}
    right = sp.sqrt(after**2 - n.C2**2)
    for name, sentence, kept in (
        (
            "noise-not-taken-off",
            "the predicted noise keeps t'; what the step adds must be taken off, √(t'² − C2²)",
            after,
        ),
        ("noise-not-taken-off", "the predicted noise keeps t' − C2; it must keep √(t'² − C2²)", after - n.C2),
        (
            "noise-kept-before-the-step",
            "the predicted noise keeps √(t² − C2²); it must keep √(t'² − C2²)",
            sp.sqrt(n.t**2 - n.C2**2),
        ),
    ):
        mean = {s: formulas[s].xreplace({n.t_prev: after}).xreplace({right: kept}) for s in (n.C1, n.mean_offset)}
        yield name, sentence, d.loss, mean
    signal = 1 - n.t
    yield (
        "signal-before-the-step",
        "the predicted data has the coefficient 1 − t, of x before the step; x after it has 1 − t'",
        d.loss,
        {n.C1: n.t * signal - signal * right, n.mean_offset: (signal + right) * n.x_t},
    )


def _ddim_mistakes(d: Derivation, formulas: Mapping[sp.Symbol, sp.Expr]) -> Iterator[Candidate]:
    a, a_prev = n.alpha_bar, n.alpha_bar_prev
    wrong_std = "the log-probability's standard deviation is"
    kept = sp.sqrt(1 - a_prev - n.C2**2)
    yield (
        "signal-before-the-step",
        "the predicted data has the coefficient √ᾱ, of x before the step; x after it has √ᾱ'",
        d.loss,
        {n.C1: sp.sqrt(a * (1 - a)) - sp.sqrt(a) * kept, n.mean_offset: (a + sp.sqrt(1 - a) * kept) * n.x_t},
    )
    yield (
        "noise-not-taken-off",
        "the predicted noise keeps √(1 − ᾱ'); what the step adds must be taken off, √(1 − ᾱ' − C2²)",
        d.loss,
        {s: e.xreplace({n.C2: sp.S.Zero}) for s, e in formulas.items() if s != n.C2},
    )
    plain = sp.oo  # no limit
    of_next = "made with ᾱ' where ᾱ belongs"
    for name, sentence, signal, noised, limit, data_sign, noise_sign in (
        ("data-of-the-next-step", f"the predicted data is {of_next}", a_prev, a, plain, 1, 1),
        ("noise-of-the-next-step", f"the predicted noise is {of_next}", a, a_prev, plain, 1, 1),
        ("alphas-exchanged", f"the predicted data and noise are {of_next}", a_prev, a_prev, plain, 1, 1),
        ("data-sign", "the velocity has the wrong sign in the predicted data √ᾱ x − √(1 − ᾱ) v", a, a, plain, -1, 1),
        ("noise-sign", "x has the wrong sign in the predicted noise √ᾱ v + √(1 − ᾱ) x", a, a, plain, 1, -1),
        ("data-clipped", "the predicted data is clipped to [−1, 1]; the declared step is without", a, a, 1, 1, 1),
        ("data-clipped", "the predicted data is clipped to [−5, 5]; the declared step is without", a, a, 5, 1, 1),
    ):
        means = {}
        for mean, v in ((n.mean_theta, n.v_theta), (n.mean_old, n.v_old)):
            data = sp.sqrt(signal) * n.x_t - data_sign * sp.sqrt(1 - signal) * v
            kept_data = data if limit == plain else Bounded(data, -limit, limit)
            noise = sp.sqrt(noised) * v + noise_sign * sp.sqrt(1 - noised) * n.x_t
            means[mean] = sp.sqrt(a_prev) * kept_data + kept * noise
        yield name, sentence, d.loss, means
        if limit != plain:  # the noise that goes with the clipped data
            for mean, v in ((n.mean_theta, n.v_theta), (n.mean_old, n.v_old)):
                data = Bounded(sp.sqrt(signal) * n.x_t - sp.sqrt(1 - signal) * v, -limit, limit)
                noise = (n.x_t - sp.sqrt(a) * data) / sp.sqrt(1 - a)
                means[mean] = sp.sqrt(a_prev) * data + kept * noise
            yield name, f"{sentence}, and the noise is made of it", d.loss, dict(means)
    yield (
        "std-squared",
        "the step's deviation is its variance, the root is missing",
        d.loss,
        {n.C2: formulas[n.C2] ** 2 / n.noise_level},
    )
    yield "std-squared", "the step's deviation is the variance, its square", d.loss, {n.C2: formulas[n.C2] ** 2}
    for name, sentence, value in (
        ("std-without-eta", f"{wrong_std} the one of η = 1", formulas[n.C2] / n.noise_level),
        (
            "std-of-the-chain",
            f"{wrong_std} η √(1 − ᾱ/ᾱ'), of the noising chain; the step's is that of its posterior",
            n.noise_level * sp.sqrt(1 - a / a_prev),
        ),
    ):
        yield name, sentence, d.loss, {at.STD: value}


def _state_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Another state than the sampled one in the log-probability, or than x_t in the mean."""
    for name, sentence, edits in (
        (
            "state-exchanged",
            "the log-probability is that of x_t; it must be that of the sampled state x_prev",
            {at.STATE: n.x_t},
        ),
        (
            "state-exchanged",
            "the step starts from the sampled state x_prev; it must start from x_t",
            {n.x_t: Right(n.x_prev)},
        ),
        (
            "state-exchanged",
            "x_t and the sampled state x_prev are exchanged",
            {n.x_t: Right(n.x_prev), at.STATE: Right(n.x_t)},
        ),
        (
            "mean-for-state",
            "the log-probability is that of the behaviour model's mean; it must be that of the sampled state",
            {at.STATE: n.mean_old},
        ),
    ):
        yield name, sentence, d.loss, edits
    for by in (1, -1):
        for symbol, word in ((at.STATE, "the sampled state x_prev"), (n.x_t, "the state x_t")):
            own = n.x_prev if symbol == at.STATE else Right(n.x_t)
            sentence = f"{word} is another sample's: the batch is out of step with the stored states"
            yield "state-of-neighbour", sentence, d.loss, {symbol: Neighbour(own, by)}


def _density_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The exponent of the density."""
    table = stated(d).table
    formulas = {s: table[s] for s in (n.log_prob_theta, n.log_prob_old)}

    def each(change: Mapping[sp.Expr, sp.Expr]) -> Overrides:
        return {s: e.xreplace(dict(change)) for s, e in formulas.items()}

    def scaled(factor: sp.Expr) -> Overrides:
        return {s: e.replace(Norm2, lambda x: factor * Norm2(x)) for s, e in formulas.items()}

    def of_each(wrong: Callable[[sp.Expr], sp.Expr]) -> Overrides:
        return {s: e.replace(Norm2, wrong) for s, e in formulas.items()}

    exponent = "the log-probability's exponent"
    linear = Piece.RATIO not in d.pieces  # then a factor of the log-probability is one of its whole term
    if formulas[n.log_prob_theta].has(at.STD):
        variance = 2 * at.STD**2
        yield (
            "exponent-without-variance",
            f"{exponent} is not divided by twice the variance 2C2²",
            d.loss,
            scaled(variance),
        )
        yield "exponent-without-variance", f"{exponent} is not divided by the variance C2²", d.loss, scaled(at.STD**2)
        for name, wrong, square in (
            ("exponent-std", "C2, not its square", at.STD),
            ("exponent-std", "C2⁴, the variance's square", at.STD**4),
            ("exponent-std", "the mean variance of the batch; it must be per sample", BatchMean(at.STD) ** 2),
            *(
                (("exponent-std", "σ_t², without Δt", at.STD**2 / n.dt), ("exponent-std", "σ_t² Δt²", at.STD**2 * n.dt))
                if Piece.STEP_LENGTH in d.pieces
                else ()
            ),
        ):
            sentence = f"{exponent} is divided by twice {wrong}"
            yield name, sentence, d.loss, scaled(at.STD**2 / square)
        for delta in (1, 2, 5):
            for factor in (1, 2):
                sentence = f"{exponent} has Huber's function of (x − μ)/C2 (smooth L1, δ = {delta}), not its square"
                yield "huber", sentence, d.loss, of_each(partial(_huber, factor, delta * at.STD))
        for factor in (1, 2):
            sentence = f"{exponent} has |x − μ|/C2, not its square"
            yield "exponent-not-squared", sentence, d.loss, of_each(partial(_absolute, factor * n.D * at.STD))
        if not linear:
            yield "exponent-half-missing", f"{exponent} lacks its factor 1/2", d.loss, scaled(sp.Integer(2))
            yield "exponent-half-twice", f"{exponent} has a factor 1/2 too many", d.loss, scaled(sp.Rational(1, 2))
    if linear:
        for name, word, wrong in (
            ("ratio-for-log-prob", "the importance ratio", sp.exp(n.log_prob_theta - n.log_prob_old)),
            ("probability-for-log-prob", "the probability itself", sp.exp(n.log_prob_theta)),
        ):
            sentence = f"{word} stands where the log-probability must"
            yield name, sentence, d.loss.xreplace({n.log_prob_theta: wrong}), {}
    else:
        yield "exponent-sign", f"{exponent} has the wrong sign", d.loss, scaled(sp.S.NegativeOne)
    for power, sentence in (
        (1, "the log-probability is summed over coordinates; it must be averaged"),
        (-1, "the log-probability is averaged over coordinates; it must be summed"),
    ):
        yield "log-prob-reduction", sentence, d.loss, {s: n.D**power * e for s, e in formulas.items()}
    averaged = Piece.AVERAGED in d.pieces
    for words, size in latent_sizes(n.t if d.path == "rectified" else n.alpha_bar):
        sentence = mixed_reduction("the log-probability", words, averaged)
        yield (
            "log-prob-reduction",
            sentence,
            d.loss,
            {s: e * (size if averaged else 1 / size) for s, e in formulas.items()},
        )
    half = {s: e.replace(Norm2, lambda x: SmallHalf(x, 0)) for s, e in formulas.items()}
    yield "half-of-the-coordinates", "the log-probability is that of half of the coordinates alone", d.loss, half


def _huber(factor: int, delta: sp.Expr, x: sp.Expr) -> sp.Expr:
    return factor * Huber(x, delta)


def _absolute(factor: sp.Expr, x: sp.Expr) -> sp.Expr:
    return factor * MeanAbs(x)


def _normaliser_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The trained model's normaliser alone: it cancels in the ratio only if both log-probabilities have the same."""
    placed = stated(d).table[n.log_prob_theta]
    normaliser = placed.replace(Norm2, lambda x: sp.S.Zero)
    if normaliser == 0:
        return
    sentence = "the log-probability's normaliser is not the old one's, so that the ratio is not 1 on-policy"
    two_pi, std = sp.log(2 * sp.pi), at.NORMALISER_STD
    changes: list[tuple[str, Mapping[sp.Expr, sp.Expr]]] = [
        ("log C2 is missing", {std: sp.S.One}),
        ("½ log 2π is missing", {two_pi: sp.S.Zero}),
        ("log 2π lacks its factor 1/2", {two_pi: 2 * two_pi}),
        ("it is that of the variance", {std: std**2}),
        *(("½ log 2π is a float32 number", {two_pi: two_pi + 2 * sp.Float(x)}) for x in FLOAT32_ERRORS),
    ]
    if Piece.STEP_LENGTH in d.pieces:
        changes += [("it has log σ_t in place of log σ_t √Δt", {std: std / sp.sqrt(n.dt)})]
        for other in _STEPS:
            theirs = inline(n.C2, reverse_step(other).formulas)
            word = f"it is that of the {other} step"
            changes += [(word, {std: theirs}), (f"{word}, without √Δt", {std: theirs / sp.sqrt(n.dt)})]
    yield "normaliser", f"{sentence}: it is missing", d.loss, {n.log_prob_theta: placed - normaliser}
    for what, change in changes:
        wrong = normaliser.xreplace(dict(change))
        if wrong != normaliser:
            yield "normaliser", f"{sentence}: {what}", d.loss, {n.log_prob_theta: placed - normaliser + wrong}


def _float32_errors() -> tuple[float, float]:
    """By how much ½ log 2π is off if it is made of a float32 tensor: with a root of 2π, or with its logarithm."""
    exact = math.log(2 * math.pi) / 2
    rooted = float(torch.log(torch.sqrt(2 * torch.as_tensor(math.pi, dtype=torch.float32))))
    logged = float(torch.log(2 * torch.as_tensor(math.pi, dtype=torch.float32))) / 2
    return logged - exact, rooted - exact


FLOAT32_ERRORS = _float32_errors()
"""How far ½ log 2π is off in code that makes it of a float32 tensor."""
