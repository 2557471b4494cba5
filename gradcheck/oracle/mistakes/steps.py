r"""Mistakes in the reverse step of the policy-gradient losses: its mean, its standard deviation, its normaliser."""

from __future__ import annotations

from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.calculus import Norm2
from derivations.derivation import Derivation, inline
from derivations.sde import SDES, reverse_step, step_with
from gradcheck.oracle.mistakes.candidates import Candidate, Overrides
from gradcheck.oracle.mistakes.functions import BatchFirst, BatchMean

__all__ = ["step_mistakes"]


# a step with a number of its own cannot be tried: cases of the others do not hold it
_STEPS = tuple(step.name for step in SDES if n.sigma_min not in step.formulas.get(n.sigma_t, n.C2).free_symbols)


_STEP = (n.C1, n.C2, n.mean_offset, n.sigma_t)
_TIMES = (n.t, n.dt, n.alpha_bar, n.alpha_bar_prev)


def step_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The reverse step's mean and standard deviation."""
    if n.mean_theta not in d.definitions:
        return
    wrong_std = "the log-probability's standard deviation is"
    root = sp.sqrt(n.dt)

    def std(name: str, sentence: str, value: sp.Expr) -> Candidate:
        used = [s for s in (n.log_prob_theta, n.log_prob_old, n.log_ratio) if s in d.definitions]
        return name, sentence, d.loss, {s: d.definitions[s].xreplace({n.C2: value}) for s in used}

    yield std("std-without-dt", f"{wrong_std} σ_t; the step's is σ_t √Δt", n.C2 / root)
    yield std("std-dt-twice", f"{wrong_std} multiplied by √Δt twice", n.C2 * root)
    yield std("std-mean", f"{wrong_std} averaged over the batch; it must be per sample", BatchMean(n.C2))
    yield std("std-mean", f"{wrong_std} averaged over the batch; it must be per sample", BatchMean(n.C2 / root) * root)
    yield std("std-first", f"{wrong_std} the first sample's; it must be per sample", BatchFirst(n.C2))
    yield std("std-not-squared", "the squared error is divided by 2C2 where the variance 2C2² belongs", sp.sqrt(n.C2))
    own = step_with(d.coefficients)
    if own is None:
        return
    formulas = own.formulas

    def step(name: str, sentence: str, changes: Overrides) -> Candidate:
        definitions = {s: e.xreplace(dict(changes)) for s, e in d.definitions.items()}
        return name, sentence, d.loss.xreplace(dict(changes)), definitions

    def formula(symbol: sp.Symbol, change: Overrides) -> sp.Expr:
        """A coefficient of the declared step in t and Δt, with a change in them."""
        return inline(symbol, formulas).xreplace(dict(change))

    for other in _STEPS:
        if other != own.name:
            theirs = reverse_step(other).formulas
            yield std(f"std-of-{other}", f"{wrong_std} that of the {other} step", inline(n.C2, theirs))
            mean = {s: inline(s, theirs) for s in (n.C1, n.mean_offset)}
            yield step(f"mean-of-{other}", f"the step's mean is that of the {other} step", mean)
    missing = "the score correction σ_t²/(2t)·(x + (1 − t)v) is missing from the step's mean"
    yield step("score-correction-missing", f"{missing}, in its velocity's part", {n.C1: n.dt})
    yield step("score-correction-missing", missing, {n.C1: n.dt, n.mean_offset: n.x_t})
    backwards = "the step goes the wrong way: Δt has the wrong sign in the mean"
    yield step("dt-sign", backwards, {n.C1: -n.C1})
    yield step("dt-sign", backwards, {n.C1: -n.C1, n.mean_offset: 2 * n.x_t - n.mean_offset})
    changed = [s for s in _STEP if s in formulas]
    for name, sentence, change in (
        ("step-of-first-sample", "the first sample's time step is used for every sample", BatchFirst),
        ("step-averaged", "the time step is averaged over the batch; it must be per sample", BatchMean),
    ):
        moved = {x: change(x) for x in _TIMES}
        yield step(name, sentence, {s: formula(s, moved) for s in changed})
    if n.sigma_t in formulas:
        reversed_time = formulas[n.sigma_t].xreplace({n.t: 1 - n.t})
        table = {**formulas, n.sigma_t: reversed_time}
        yield step(
            "sigma-reversed",
            "σ_t is taken at 1 − t: the time axis is reversed in it",
            {s: inline(s, table) for s in changed},
        )
        drift = {n.C1: formulas[n.C1], n.mean_offset: formulas[n.mean_offset]}
        for name, sentence, sigma in (
            ("drift-sigma-not-squared", "the score correction has σ_t where σ_t² belongs", sp.sqrt(n.sigma_t)),
            ("drift-half-missing", "the score correction lacks its factor 1/2", sp.sqrt(2) * n.sigma_t),
        ):
            yield step(name, sentence, {s: e.xreplace({n.sigma_t: sigma}) for s, e in drift.items()})
    if own.name == "ddim":
        a, a_prev = n.alpha_bar, n.alpha_bar_prev
        kept = sp.sqrt(1 - a_prev - n.C2**2)
        yield step(
            "signal-before-the-step",
            "the predicted data has the coefficient √ᾱ, of x before the step; x after it has √ᾱ'",
            {n.C1: sp.sqrt(a * (1 - a)) - sp.sqrt(a) * kept, n.mean_offset: (a + sp.sqrt(1 - a) * kept) * n.x_t},
        )
        spent = {s: e.xreplace({n.C2: sp.S.Zero}) for s, e in formulas.items() if s != n.C2}
        yield step(
            "noise-not-taken-off",
            "the predicted noise keeps √(1 − ᾱ'); what the step adds must be taken off, √(1 − ᾱ' − C2²)",
            spent,
        )
        yield std("std-without-eta", f"{wrong_std} the one of η = 1", formulas[n.C2] / n.noise_level)
        yield std("std-is-variance", f"{wrong_std} its variance: a root is missing", n.C2**2)
        yield std(
            "std-of-the-chain",
            f"{wrong_std} η √(1 − ᾱ/ᾱ'), of the noising chain; the step's is that of its posterior",
            n.noise_level * sp.sqrt(1 - a / a_prev),
        )
    yield from _normaliser_mistakes(d)


def _normaliser_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The trained model's normaliser alone: it cancels in the ratio only if both log-probabilities have the same."""
    log_prob, c = d.definitions.get(n.log_prob_theta, sp.S.Zero), sp.Dummy("c", positive=True)
    normaliser = log_prob.replace(Norm2, lambda x: sp.S.Zero)
    if normaliser == 0:
        return
    sentence = "the log-probability's normaliser is not the old one's, so that the ratio is not 1 on-policy"
    yield "normaliser", sentence, d.loss, {n.log_prob_theta: log_prob - normaliser}
    for other in _STEPS:
        theirs = inline(n.C2, reverse_step(other).formulas)
        for std in (theirs, theirs / sp.sqrt(n.dt)):
            changed = normaliser.xreplace({n.C2: c}).xreplace({c: std})
            yield "normaliser", sentence, d.loss, {n.log_prob_theta: log_prob - normaliser + changed}
