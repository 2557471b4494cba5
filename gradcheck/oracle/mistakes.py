r"""Named mistakes: the wrong losses that the field has really written, as changes to a derivation's own formulas.

A mistake is a loss expression; autograd of its value on a case predicts the gradient of an implementation that
makes it.  If the prediction fits to rounding on every problem, the failure is consistent with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import MeanAbs, Norm2, Surrogate, drop_sg, sg
from derivations.derivation import Derivation, inline
from derivations.sde import SDES, reverse_step
from gradcheck.bounds import Analysis
from gradcheck.case import Case

__all__ = ["BatchFirst", "BatchMean", "Mistake", "gradient_of_mistake", "mistakes"]


class BatchMean(sp.Function):
    """A per-sample scalar, averaged over the batch (and its gradient with it)."""

    nargs = 1

    def _eval_is_positive(self) -> bool | None:
        return bool(self.args[0].is_positive) or None

    def _eval_is_real(self) -> bool:
        return True


class BatchFirst(BatchMean):
    """The first sample's scalar, used for every sample."""


class Rounded(sp.Function):
    """1 where the argument exceeds one half, else 0."""

    nargs = 1


class WrongSurrogate(sp.Function):
    """What stands in the place of PPO's surrogate; the arguments are (A, r, ε⁻, ε⁺)."""

    nargs = 4


class MaxSurrogate(WrongSurrogate):
    """−max(rA, clip(r)A), the max where the min belongs."""


class OneSided(WrongSurrogate):
    """−clip(r)A: only the clipped term, so that the pessimistic side has no gradient either."""


class TieLost(WrongSurrogate):
    """A gradient only where the unclipped term is strictly the worse one, so none inside the clip."""


class Crossed(WrongSurrogate):
    """Every advantage with every ratio, averaged over the advantages: (B,) against (B, 1)."""


class LogClipped(sp.Function):
    """−min(rA, exp(clip(log r, −ε⁻, ε⁺))A): the clip applied to the log-ratio."""

    nargs = 4


class MaskedBy(sp.Function):
    """−rA where the surrogate of another ratio is not clipped; the arguments are (A, r, other, ε⁻, ε⁺)."""

    nargs = 5


@dataclass(frozen=True)
class Mistake:
    """A named mistake.

    Attributes:
        name: its id; a mistake that is made in several ways has several entries of one name.
        sentence: what the implementation seems to do, and what it must do.
        loss: the wrong loss, with every live definition inlined.
    """

    name: str
    sentence: str
    loss: sp.Expr


_Overrides = Mapping[sp.Symbol, sp.Expr]
_Candidate = tuple[str, str, sp.Expr, _Overrides]


@lru_cache(maxsize=200)
def mistakes(derivation: Derivation) -> tuple[Mistake, ...]:
    """Every named mistake that can be made with this derivation's formulas."""
    right = _inlined(derivation, derivation.loss, {})
    available = {*derivation.given, *derivation.defined, "D"}
    found = []
    for name, sentence, loss, overrides in _candidates(derivation):
        wrong = _inlined(derivation, loss, overrides)
        if wrong != right and {s.name for s in wrong.free_symbols} <= available:
            found.append(Mistake(name, sentence, wrong))
    return tuple(found)


def _inlined(d: Derivation, loss: sp.Expr, overrides: _Overrides) -> sp.Expr:
    # the sampled state is an input: a wrong step does not change it
    return inline(loss, {s: e for s, e in {**d.definitions, **overrides}.items() if s != n.x_prev})


def _candidates(d: Derivation) -> Iterator[_Candidate]:
    yield from _term_mistakes(d)
    yield from _surrogate_mistakes(d)
    yield from _log_ratio_mistakes(d)
    yield from _corrected_ratio_mistakes(d)
    yield from _step_mistakes(d)
    yield from _target_mistakes(d)
    yield from _weight_mistakes(d)
    yield from _mixture_mistakes(d)
    yield from _reference_mistakes(d)


def _term_mistakes(d: Derivation) -> Iterator[_Candidate]:
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


def _surrogate_mistakes(d: Derivation) -> Iterator[_Candidate]:
    surrogates = d.loss.atoms(Surrogate)
    if not surrogates:
        return
    (s,) = surrogates
    a, r, low, high = s.args

    def swap(new: sp.Expr) -> sp.Expr:
        return d.loss.xreplace({s: new})

    yield "clip-missing", "the ratio is not clipped", swap(-r * a), {}
    yield (
        "max-for-min",
        "min and max are exchanged in the clipped surrogate, so that it clips the side that must stay free",
        swap(MaxSurrogate(*s.args)),
        {},
    )
    yield (
        "clip-on-log-ratio",
        "the clip is applied to the log-ratio; it must be applied to the ratio",
        swap(LogClipped(a, n.log_ratio, low, high)),
        {},
    )
    yield (
        "clipped-term-alone",
        "only the clipped term is used; the surrogate is the worse of the clipped and the unclipped one",
        swap(OneSided(*s.args)),
        {},
    )
    yield (
        "tie-lost",
        "no gradient is left inside the clip: there the clipped and the unclipped term tie, and a detached one wins",
        swap(TieLost(*s.args)),
        {},
    )
    yield (
        "ratio-missing",
        "the importance ratio is missing, or the model's ratio to itself: the advantage multiplies the log-probability",
        swap(-a * n.log_ratio),
        {},
    )
    yield (
        "clip-edges-exchanged",
        "the lower and the upper clip edge are exchanged",
        swap(Surrogate(a, r, high, low)),
        {},
    )
    yield (
        "advantage-broadcast",
        "every advantage meets every ratio: (B,) is broadcast against (B, 1)",
        swap(Crossed(*s.args)),
        {},
    )
    if n.mean_theta in d.definitions:
        plain = n.log_prob_theta - n.log_prob_old
        if d.definitions[n.log_ratio] != plain:
            yield (
                "clip-on-plain-ratio",
                "the clip is decided by the plain importance ratio; it must be by the corrected one",
                swap(MaskedBy(a, r, sp.exp(plain), low, high)),
                {},
            )
    for name, sentence, wrong in _wrong_advantages(a):
        yield name, sentence, swap(Surrogate(wrong, r, low, high)), {}
    yield (
        "advantage-sign",
        "the advantage enters with the wrong sign (or −A is missing inside the max)",
        swap(Surrogate(-a, r, low, high)),
        {},
    )


def _wrong_advantages(a: sp.Expr) -> Iterator[tuple[str, str, sp.Expr]]:
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


def _log_ratio_mistakes(d: Derivation) -> Iterator[_Candidate]:
    """What every loss with a ratio can get wrong in it."""
    if n.log_ratio not in d.definitions:
        return
    log_ratio = d.definitions[n.log_ratio]
    doubled = {s: 2 * d.definitions[s] for s in (n.log_prob_theta, n.log_prob_old)}
    halved = {s: d.definitions[s] / 2 for s in (n.log_prob_theta, n.log_prob_old)}
    yield "log-ratio-sign", "the log-ratio has the wrong sign: old − new", d.loss, {n.log_ratio: -log_ratio}
    yield "half-missing", "the log-probability lacks a factor 1/2: it is twice the declared one", d.loss, doubled
    yield "half-twice", "the log-probability has a factor 1/2 too many: it is half the declared one", d.loss, halved
    yield (
        "ratio-linear",
        "the ratio is 1 + log r; the exponential is missing",
        d.loss,
        {n.ratio: 1 + n.log_ratio},
    )
    yield (
        "log-ratio-averaged",
        "the log-probability is averaged over the batch too: it is reduced before the ratio is taken",
        d.loss,
        {n.log_ratio: BatchMean(log_ratio)},
    )
    yield (
        "ratio-averaged",
        "the ratio is averaged over the batch before it meets the advantage",
        d.loss,
        {n.ratio: BatchMean(d.definitions[n.ratio])},
    )
    live = d.definitions[n.log_prob_theta]
    yield (
        "old-prediction-live",
        "the old log-probability is the trained model's own, with its gradient: the ratio is 1 whatever happens",
        d.loss,
        {n.log_prob_old: live},
    )


def _corrected_ratio_mistakes(d: Derivation) -> Iterator[_Candidate]:
    """GRPO-Guard's bias, scale and step length."""
    plain = n.log_prob_theta - n.log_prob_old
    if n.mean_theta not in d.definitions or d.definitions[n.log_ratio] == plain:
        return
    bias = sp.expand(d.definitions[n.log_ratio] / n.C2 - plain)
    root = sp.sqrt(n.dt)

    def put(name: str, sentence: str, log_ratio: sp.Expr) -> _Candidate:
        return name, sentence, d.loss, {n.log_ratio: log_ratio}

    yield put("bias-missing", "the ratio's bias ‖μ_θ − μ_old‖²/(2C2²) is not added back", n.C2 * plain)
    yield put(
        "bias-averaged",
        "your ratio bias is averaged over the batch; it must be per sample",
        n.C2 * (plain + BatchMean(bias)),
    )
    yield put("bias-detached", "the ratio's bias is detached: its gradient is missing", n.C2 * (plain + sg(bias)))
    yield put("bias-sign", "the ratio's bias has the wrong sign", n.C2 * (plain - bias))
    yield put("bias-twice", "the ratio's bias lacks its factor 1/2", n.C2 * (plain + 2 * bias))
    yield put("plain-ratio", "the corrected ratio is not used: the plain importance ratio takes its place", plain)
    yield put(
        "scale-missing",
        "the corrected log-ratio is not multiplied by the step's standard deviation",
        plain + bias,
    )
    averaged = "the standard deviation that multiplies the log-ratio is averaged over the batch; it must be per sample"
    yield put("std-averaged", averaged, BatchMean(n.C2) * (plain + bias))
    yield put("std-averaged", averaged, BatchMean(n.C2 / root) * BatchMean(root) * (plain + bias))
    yield put("std-averaged", averaged, BatchMean(n.C2 / root) * root * (plain + bias))
    yield put(
        "scale-sigma",
        "the log-ratio is multiplied by σ_t where the step's standard deviation σ_t √Δt belongs",
        n.C2 / root * (plain + bias),
    )
    policy = d.loss.xreplace({n.kl_weight: sp.S.Zero})
    for name, sentence, factor in (
        ("dt-missing", "the policy term is not divided by Δt", n.dt),
        ("root-dt", "the policy term is divided by √Δt; it must be by Δt", root),
        ("dt-averaged", "Δt is averaged over the batch; it must be per sample", n.dt / BatchMean(n.dt)),
        ("dt-averaged", "√Δt is averaged over the batch; it must be per sample", n.dt / BatchMean(root) ** 2),
    ):
        yield name, sentence, policy * factor + (d.loss - policy), {}


_STEPS = tuple(step.name for step in SDES)
_STEP = (n.C1, n.C2, n.mean_offset, n.sigma_t)


def _step_mistakes(d: Derivation) -> Iterator[_Candidate]:
    """The reverse step's mean and standard deviation."""
    if n.mean_theta not in d.definitions:
        return
    wrong_std = "the log-probability's standard deviation is"
    root = sp.sqrt(n.dt)

    def std(name: str, sentence: str, value: sp.Expr) -> _Candidate:
        used = (n.log_prob_theta, n.log_prob_old, n.log_ratio)
        return name, sentence, d.loss, {s: d.definitions[s].xreplace({n.C2: value}) for s in used}

    yield std("std-without-dt", f"{wrong_std} σ_t; the step's is σ_t √Δt", n.C2 / root)
    yield std("std-dt-twice", f"{wrong_std} multiplied by √Δt twice", n.C2 * root)
    yield std("std-mean", f"{wrong_std} averaged over the batch; it must be per sample", BatchMean(n.C2))
    yield std("std-mean", f"{wrong_std} averaged over the batch; it must be per sample", BatchMean(n.C2 / root) * root)
    yield std("std-first", f"{wrong_std} the first sample's; it must be per sample", BatchFirst(n.C2))
    yield std("std-not-squared", "the squared error is divided by 2C2 where the variance 2C2² belongs", sp.sqrt(n.C2))
    own = d.variant.options.get("sde", "flow")
    formulas = reverse_step(own).formulas

    def step(name: str, sentence: str, changes: _Overrides) -> _Candidate:
        definitions = {s: e.xreplace(dict(changes)) for s, e in d.definitions.items()}
        return name, sentence, d.loss.xreplace(dict(changes)), definitions

    def formula(symbol: sp.Symbol, change: _Overrides) -> sp.Expr:
        """A coefficient of the declared step in t and Δt, with a change in them."""
        return inline(symbol, formulas).xreplace(dict(change))

    for other in _STEPS:
        if other != own:
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
        both = {n.t: change(n.t), n.dt: change(n.dt)}
        yield step(name, sentence, {s: formula(s, both) for s in changed})
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
    yield from _normaliser_mistakes(d)


def _normaliser_mistakes(d: Derivation) -> Iterator[_Candidate]:
    """The trained model's normaliser alone: it cancels in the ratio only if both log-probabilities have the same."""
    log_prob, c = d.definitions[n.log_prob_theta], sp.Dummy("c", positive=True)
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


def _target_mistakes(d: Derivation) -> Iterator[_Candidate]:
    """The regression target of the forward process."""
    if n.v_gt not in d.definitions:
        return
    for name, seen, target in (
        ("velocity-sign", "x_0 − ε", n.x_0 - n.noise),
        ("velocity-sum", "ε + x_0", n.x_0 + n.noise),
        ("noise-for-velocity", "ε alone", n.noise),
        ("data-for-velocity", "x_0", n.x_0),
    ):
        yield name, f"the regression target is {seen}; it must be ε − x_0", d.loss, {n.v_gt: target}
    loss = d.inline(d.loss)
    absolute = loss.replace(Norm2, lambda x: n.D * MeanAbs(x))
    rooted = loss.replace(Norm2, lambda x: sp.sqrt(Norm2(x)))
    mean_rooted = loss.replace(Norm2, lambda x: sp.sqrt(n.D * Norm2(x)))
    for wrong in (absolute, rooted, mean_rooted):
        yield "not-squared", "the error is a distance, not a squared one", wrong, {}


def _weight_mistakes(d: Derivation) -> Iterator[_Candidate]:
    """What multiplies a squared error: the advantage, ω(t), an exponentiated reward."""
    loss = d.inline(d.loss)
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
            yield name, sentence, loss.xreplace({n.omega: weight}), {}
    if n.v_gt in d.definitions and n.advantage in d.loss.free_symbols and not d.loss.atoms(Surrogate):
        for name, sentence, wrong in _wrong_advantages(n.advantage):
            yield name, sentence, loss.xreplace({n.advantage: wrong}), {}
    if n.temperature in d.loss.free_symbols:
        exponential = sp.exp(n.reward / n.temperature)
        for name, sentence, weight in (
            ("temperature-inverted", "the reward is multiplied by the temperature", sp.exp(n.reward * n.temperature)),
            ("temperature-missing", "the temperature is missing", sp.exp(n.reward)),
            ("exponential-missing", "the reward is not exponentiated", n.reward / n.temperature),
            ("reward-missing", "the reward is missing: every sample counts alike", sp.S.One),
        ):
            yield name, sentence, loss.xreplace({exponential: weight}), {}


def _mixture_mistakes(d: Derivation) -> Iterator[_Candidate]:
    """DiffusionNFT's two branches: the loss is r·P + (1 − r)·N."""
    if n.reward_prob.name not in d.given:
        return
    r, loss = n.reward_prob, d.inline(d.loss)
    reference = loss - loss.xreplace({n.kl_weight: sp.S.Zero})
    policy = loss - reference
    positive, negative = policy.xreplace({r: sp.S.One}), policy.xreplace({r: sp.S.Zero})

    def weighed(a: sp.Expr, b: sp.Expr) -> sp.Expr:
        return a * positive + b * negative + reference

    def put(change: _Overrides) -> sp.Expr:
        return policy.xreplace(dict(change)) + reference

    def mixed(plus: sp.Expr, minus: sp.Expr) -> sp.Expr:
        """With other mixtures: v_θ enters each branch through its mixture alone, so solve the mixture for it."""
        weights = {s: d.inline(d.coefficients[s]) for s in (n.w_plus, n.w_minus) if s in d.coefficients}
        from_plus = {n.v_theta: (plus - (1 - n.beta) * n.v_old) / n.beta}
        from_minus = {n.v_theta: ((1 + n.beta) * n.v_old - minus) / n.beta}
        good, bad = positive.xreplace(weights).xreplace(from_plus), negative.xreplace(weights).xreplace(from_minus)
        return r * good + (1 - r) * bad + reference

    b, new, old = n.beta, n.v_theta, n.v_old
    plus, minus = (1 - b) * old + b * new, (1 + b) * old - b * new
    yield "branches-swapped", "v⁺ and v⁻ are exchanged (or r and 1 − r)", weighed(1 - r, r), {}
    yield (
        "advantage-for-probability",
        "the advantage stands where the optimality probability r belongs",
        weighed(2 * r - 1, 2 - 2 * r),
        {},
    )
    yield "positive-branch-alone", "the negative branch is missing", weighed(r, sp.S.Zero), {}
    yield "negative-branch-alone", "the positive branch is missing", weighed(sp.S.Zero, 1 - r), {}
    half = sp.Rational(1, 2)
    yield "branches-unweighted", "the branches are not weighted by r and 1 − r", weighed(half, half), {}
    yield "branches-unweighted", "the branches are not weighted by r and 1 − r", weighed(sp.S.One, sp.S.One), {}
    yield "probability-rounded", "r is rounded to 0 or 1", weighed(Rounded(r), 1 - Rounded(r)), {}
    mean = BatchMean(r)
    yield "probability-averaged", "r is averaged over the batch; it must be per sample", weighed(mean, 1 - mean), {}
    yield "beta-squared", "β enters the mixtures squared", put({b: b**2}), {}
    yield "beta-squared", "β enters the mixtures squared", mixed(old + b**2 * (new - old), old - b**2 * (new - old)), {}
    other_plus, other_minus = b * old + (1 - b) * new, (2 - b) * old - (1 - b) * new
    yield "beta-exchanged", "β and 1 − β are exchanged in the mixtures", mixed(other_plus, other_minus), {}
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
    if n.w_plus in d.coefficients:
        live = {s: drop_sg(d.inline(d.coefficients[s])) for s in (n.w_plus, n.w_minus)}
        averaged = {s: BatchMean(s) for s in (n.w_plus, n.w_minus)}
        yield "weights-live", "the adaptive weights carry a gradient; they must be detached", put(live), {}
        yield "weights-missing", "the adaptive weights are missing", put(dict.fromkeys(live, sp.S.One)), {}
        swapped = {n.w_plus: n.w_minus, n.w_minus: n.w_plus}
        yield "weights-swapped", "the adaptive weights of the two branches are exchanged", put(swapped), {}
        yield "weights-averaged", "the adaptive weights are averaged over the batch", put(averaged), {}
        yield (
            "weights-shared",
            "both branches have the positive branch's adaptive weight",
            put({n.w_minus: n.w_plus}),
            {},
        )
        yield (
            "weights-shared",
            "both branches have the negative branch's adaptive weight",
            put({n.w_plus: n.w_minus}),
            {},
        )


def _reference_mistakes(d: Derivation) -> Iterator[_Candidate]:
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


def gradient_of_mistake(mistake: Mistake, case: Case) -> Tensor:
    """Autograd of the wrong loss, in float64, summed over the batch."""
    values = {name: x.detach() for name, x in case.broadcast(torch.float64).items()}
    v = values["v_theta"].clone().requires_grad_()
    values["v_theta"] = v
    values.setdefault("D", torch.tensor(float(v[0].numel()), dtype=torch.float64, device=v.device))
    loss, _ = _WrongAnalysis(values, torch.float64)(mistake.loss)
    if not loss.requires_grad:
        return torch.zeros_like(v)
    loss = loss.expand(v.shape[0], *loss.shape[1:]) if loss.ndim else loss.expand(v.shape[0])
    (gradient,) = torch.autograd.grad(loss.sum(), v)
    return gradient


class _WrongAnalysis(Analysis):
    """Evaluates the wrong losses' own functions too; their error bounds are not needed."""

    def _evaluate(self, expr: sp.Expr) -> tuple[Tensor, Tensor]:
        rule = _WRONG.get(type(expr))
        if rule is None:
            return super()._evaluate(expr)
        value = rule(*(self(arg)[0] for arg in expr.args))
        return value, value.detach().abs()


def _clip(r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(r, 1 - low), 1 + high)


def _tie_lost(a: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    clipped = -_clip(r, low, high).detach() * a
    return torch.where(-r * a > clipped, -r * a, clipped)


def _crossed(a: Tensor, r: Tensor, low: Tensor, high: Tensor) -> Tensor:
    every_a, every_r = a.flatten()[:, None], r.flatten()[None, :]
    losses = -torch.minimum(every_r * every_a, _clip(every_r, low, high) * every_a)
    return losses.mean(0).reshape(r.shape)


def _masked_by(a: Tensor, r: Tensor, other: Tensor, low: Tensor, high: Tensor) -> Tensor:
    off = ((a > 0) & (other > 1 + high)) | ((a < 0) & (other < 1 - low))
    return torch.where(off, r.detach(), r) * -a


_WRONG: dict[type, Callable[..., Tensor]] = {
    BatchMean: lambda x: x.mean(0, keepdim=True).expand(x.shape),
    BatchFirst: lambda x: x[:1].expand(x.shape),
    Rounded: lambda x: (x > 0.5).to(x.dtype),
    sp.Abs: torch.abs,
    MaxSurrogate: lambda a, r, low, high: -torch.maximum(r * a, _clip(r, low, high) * a),
    OneSided: lambda a, r, low, high: -_clip(r, low, high) * a,
    TieLost: _tie_lost,
    Crossed: _crossed,
    MaskedBy: _masked_by,
    LogClipped: lambda a, x, low, high: (
        -torch.minimum(x.exp() * a, torch.minimum(torch.maximum(x, -low), high).exp() * a)
    ),
    MeanAbs: lambda x: x.abs().mean(tuple(range(1, x.ndim)), keepdim=True),
}
