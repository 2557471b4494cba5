r"""Mistakes in the mean of the reverse step, and in the times that the whole step is taken at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import sympy as sp

from derivations import notation as n
from derivations.derivation import Derivation, inline
from derivations.steps.sde import SDES, ReverseStep, reverse_step, step_with
from gradcheck.oracle.mistakes import places as at
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import (
    BatchFirst,
    BatchMean,
    Bounded,
    GridStep,
    GridTime,
    Neighbour,
    TimeRounded,
)

__all__ = ["STEPS", "mean_mistakes", "other_mean_mistakes"]

# a step with a number of its own cannot be tried: cases of the others do not hold it
STEPS = tuple(step.name for step in SDES if n.sigma_min not in step.formulas.get(n.sigma_t, n.C2).free_symbols)
"""The reverse steps that may stand in another one's place."""

_TIMES = (n.t, n.dt, n.alpha_bar, n.alpha_bar_prev)


def mean_mistakes(d: Derivation, table: Mapping[sp.Symbol, sp.Expr]) -> Iterator[Candidate]:
    """The mean x − (v + s (x + (1 − t) v)) Δt, and the times and σ_t in the whole step."""

    def put(name: str, sentence: str, edits: Overrides) -> Candidate:
        return name, sentence, d.loss, edits

    score, slope, offset = table[at.SCORE], table[n.C1], table[n.mean_offset]
    kind = step_with(d.coefficients)
    assert kind is not None
    yield from _of_another_step(d, kind)
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
    yield put(
        "drift-data-for-noise",
        "the score correction has the predicted data x − t v where the predicted noise x + (1 − t)v belongs",
        {n.C1: at.MEAN_DT * (1 - at.MEAN_T * at.SCORE)},
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


def _of_another_step(d: Derivation, own: ReverseStep) -> Iterator[Candidate]:
    """The mean of another step of the rectified path, or all of it."""
    for other in STEPS:
        if other != own.name:
            theirs = reverse_step(other).formulas
            mean = {s: inline(s, theirs) for s in (n.C1, n.mean_offset)}
            yield f"mean-of-{other}", f"the step's mean is that of the {other} step", d.loss, mean
            whole = {**mean, n.C2: inline(n.C2, theirs)}
            yield f"step-of-{other}", f"the step is that of sde={other!r}: mean and deviation", d.loss, whole


def other_mean_mistakes(d: Derivation) -> Iterator[Candidate]:
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

    if own.path == "rectified":
        yield from _of_another_step(d, own)
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
