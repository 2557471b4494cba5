r"""Named mistakes: the wrong losses that the field has really written, as changes to a derivation's own formulas.

A mistake is a loss expression; autograd of its value on a case predicts the gradient of an implementation that
makes it.  If the prediction fits to the error bound on every problem, the failure is consistent with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import MeanAbs, Norm2, Surrogate, drop_sg, sg
from derivations.derivation import Derivation, inline
from gradcheck.bounds import Analysis
from gradcheck.case import Case

__all__ = ["BatchMean", "Mistake", "gradient_of_mistake", "mistakes"]


class BatchMean(sp.Function):
    """A per-sample scalar, averaged over the batch (and its gradient with it)."""

    nargs = 1

    def _eval_is_positive(self) -> bool | None:
        return self.args[0].is_positive

    def _eval_is_real(self) -> bool:
        return True


class MaxSurrogate(sp.Function):
    """−max(rA, clip(r)A), the max where the min belongs."""

    nargs = 4


class LogClipped(sp.Function):
    """−min(rA, exp(clip(log r, −ε⁻, ε⁺))A): the clip applied to the log-ratio."""

    nargs = 4


class OneSided(sp.Function):
    """−clip(r)A: only the clipped term, so that the pessimistic side has no gradient either."""

    nargs = 4


@dataclass(frozen=True)
class Mistake:
    """A named mistake.

    Attributes:
        name: its id.
        sentence: what the implementation seems to do, and what it must do.
        loss: the wrong loss, with every live definition inlined.
    """

    name: str
    sentence: str
    loss: sp.Expr


def mistakes(derivation: Derivation) -> list[Mistake]:
    """Every named mistake that can be made with this derivation's formulas."""
    found = []
    for name, sentence, loss, overrides in _candidates(derivation):
        definitions = {**derivation.definitions, **overrides}
        wrong = inline(loss, definitions)
        if wrong != derivation.inline(derivation.loss):
            found.append(Mistake(name, sentence, wrong))
    return found


_Candidate = tuple[str, str, sp.Expr, dict[sp.Symbol, sp.Expr]]


def _candidates(d: Derivation) -> Iterator[_Candidate]:
    yield from _surrogate_mistakes(d)
    yield from _ratio_mistakes(d)
    yield from _forward_mistakes(d)
    yield from _mixture_mistakes(d)
    yield from _reference_mistakes(d)


def _surrogate_mistakes(d: Derivation) -> Iterator[_Candidate]:
    surrogates = d.loss.atoms(Surrogate)
    if not surrogates:
        return
    (s,) = surrogates
    a, r, low, high = s.args

    def swap(new: sp.Expr) -> sp.Expr:
        return d.loss.xreplace({s: new})

    yield "clip-missing", "the ratio is not clipped", swap(-r * a), {}
    yield "max-for-min", "min and max are exchanged in the clipped surrogate, so that it clips the side that must stay free", swap(MaxSurrogate(*s.args)), {}
    yield "clip-on-log-ratio", "the clip is applied to the log-ratio; it must be applied to the ratio", swap(LogClipped(a, n.log_ratio, low, high)), {}
    yield "clipped-term-alone", "only the clipped term is used; the surrogate is the worse of the clipped and the unclipped one", swap(OneSided(*s.args)), {}
    yield "ratio-missing", "the importance ratio is missing: the advantage multiplies the log-probability", swap(-a * n.log_ratio), {}
    yield "clip-edges-exchanged", "the lower and the upper clip edge are exchanged", swap(Surrogate(a, r, high, low)), {}
    yield "advantage-squared", "the advantage enters twice", swap(Surrogate(a * sp.Abs(a), r, low, high)), {}
    yield "advantage-absolute", "the advantage's sign is lost", swap(Surrogate(sp.Abs(a), r, low, high)), {}
    yield "advantage-averaged", "the advantage is averaged over the batch; it must be per sample", swap(Surrogate(BatchMean(a), r, low, high)), {}


def _ratio_mistakes(d: Derivation) -> Iterator[_Candidate]:
    if n.mean_theta not in d.definitions:
        return
    log_ratio = d.definitions[n.log_ratio]
    plain = n.log_prob_theta - n.log_prob_old
    if log_ratio != plain:  # a corrected ratio
        bias = sp.expand(log_ratio / n.C2 - plain)
        yield "bias-missing", "the ratio's bias ‖μ_θ − μ_old‖²/(2C2²) is not added back", d.loss, {n.log_ratio: n.C2 * plain}
        yield "bias-averaged", "your ratio bias is averaged over the batch; it must be per sample", d.loss, {n.log_ratio: n.C2 * (plain + BatchMean(bias))}
        yield "bias-detached", "the ratio's bias is detached, so that its gradient is missing", d.loss, {n.log_ratio: n.C2 * (plain + sg(bias))}
        yield "bias-sign", "the ratio's bias has the wrong sign", d.loss, {n.log_ratio: n.C2 * (plain - bias)}
        yield "bias-twice", "the ratio's bias lacks its factor 1/2", d.loss, {n.log_ratio: n.C2 * (plain + 2 * bias)}
        yield "plain-ratio", "the corrected ratio is not used: the plain importance ratio takes its place", d.loss, {n.log_ratio: plain}
        yield "scale-missing", "the corrected log-ratio is not multiplied by the step's standard deviation", d.loss, {n.log_ratio: plain + bias}
        yield "std-averaged", "the standard deviation that multiplies the log-ratio is averaged over the batch; it must be per sample", d.loss, {n.log_ratio: BatchMean(n.C2) * (plain + bias)}
        yield "scale-sigma", "the log-ratio is multiplied by σ_t where the step's standard deviation σ_t √Δt belongs", d.loss, {n.log_ratio: n.C2 / sp.sqrt(n.dt) * (plain + bias)}
        yield "dt-missing", "the policy term is not divided by Δt", d.loss * n.dt if not d.loss.has(n.kl_weight) else d.loss.xreplace({n.dt: sp.S.One}), {}
        yield "dt-averaged", "Δt is averaged over the batch; it must be per sample", d.loss.xreplace({n.dt: BatchMean(n.dt)}), {}

    def other_std(std: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
        keep = {n.x_prev: d.definitions[n.x_prev]}
        swapped = {s: d.definitions[s].xreplace({n.C2: std}) for s in (n.log_prob_theta, n.log_prob_old, n.log_ratio)}
        return {**keep, **swapped}

    yield "std-without-dt", "the log-probability uses σ_t where the step's standard deviation σ_t √Δt belongs", d.loss, other_std(n.C2 / sp.sqrt(n.dt))
    yield "std-dt-twice", "√Δt enters the standard deviation twice", d.loss, other_std(n.C2 * sp.sqrt(n.dt))
    yield "std-mean", "the standard deviation is averaged over the batch; it must be per sample", d.loss, other_std(BatchMean(n.C2))
    drift = {s: d.definitions[s] for s in (n.mean_theta, n.mean_old, n.mean_ref) if s in d.definitions}
    uncorrected = {s: e.xreplace({n.C1: n.dt}) for s, e in drift.items()}
    yield "score-correction-missing", "the mean's slope in the velocity is Δt alone: the score correction (1 − t)σ_t²/(2t) is missing", d.loss, _with_state(d, uncorrected)
    flipped = {s: e.xreplace({n.C1: -n.C1}) for s, e in drift.items()}
    yield "dt-sign", "the step goes the wrong way: Δt has the wrong sign in the mean", d.loss, _with_state(d, flipped)
    yield "old-mean-live", "the trained model's mean is detached, or the behaviour model's stands in its place", d.loss, {n.mean_theta: sg(d.definitions[n.mean_theta])}
    squared = {s: _square_root(d.definitions[s]) for s in (n.log_prob_theta, n.log_prob_old)}
    yield "half-missing", "the log-probability lacks its factor 1/2", d.loss, squared
    yield "log-ratio-sign", "the log-ratio has the wrong sign: old − new", d.loss, {n.log_ratio: -log_ratio}
    yield "advantage-normalised-twice", "the advantage is divided by the batch's mean square", d.loss.xreplace({n.advantage: n.advantage / BatchMean(n.advantage**2)}), {}


def _with_state(d: Derivation, means: dict[sp.Symbol, sp.Expr]) -> dict[sp.Symbol, sp.Expr]:
    """Wrong means of the implementation, while the sampled state stays what it is."""
    true_old = d.inline(n.mean_old)
    return {**means, n.x_prev: true_old + n.C2 * n.noise}


def _square_root(log_prob: sp.Expr) -> sp.Expr:
    return log_prob.replace(Norm2, lambda x: 2 * Norm2(x))


def _forward_mistakes(d: Derivation) -> Iterator[_Candidate]:
    if n.v_gt not in d.definitions:
        return
    yield "velocity-sign", "the regression target is x_0 − ε; it must be ε − x_0", d.loss, {n.v_gt: n.x_0 - n.noise}
    yield "velocity-sum", "the regression target is ε + x_0; it must be ε − x_0", d.loss, {n.v_gt: n.x_0 + n.noise}
    yield "noise-for-velocity", "the regression target is ε alone; it must be ε − x_0", d.loss, {n.v_gt: n.noise}
    yield "data-for-velocity", "the regression target is x_0; it must be ε − x_0", d.loss, {n.v_gt: n.x_0}
    if n.v_old in d.loss.free_symbols | set().union(*(e.free_symbols for e in d.definitions.values())):
        yield "old-for-new", "the trained model's prediction stands where the behaviour model's belongs", d.inline(d.loss).xreplace({n.v_old: n.v_theta}), {}
    if n.omega in d.coefficients and d.coefficients[n.omega] != 1:
        yield "weighting-missing", "the time weighting ω(t) is missing", d.inline(d.loss).xreplace({n.omega: sp.S.One}), {}
        yield "weighting-reversed", "the time weighting is taken at 1 − t", d.inline(d.loss).xreplace({n.omega: d.coefficients[n.omega].xreplace({n.t: 1 - n.t})}), {}
        yield "weighting-averaged", "the time weighting is averaged over the batch; it must be per sample", d.inline(d.loss).xreplace({n.omega: BatchMean(n.omega)}), {}
    if n.advantage in d.loss.free_symbols and not d.loss.atoms(Surrogate):
        yield "advantage-missing", "the advantage is missing: plain flow matching", d.loss.xreplace({n.advantage: sp.S.One}), {}
        yield "advantage-averaged", "the advantage is averaged over the batch; it must be per sample", d.loss.xreplace({n.advantage: BatchMean(n.advantage)}), {}
        yield "advantage-absolute", "the advantage's sign is lost", d.loss.xreplace({n.advantage: sp.Abs(n.advantage)}), {}
        yield "advantage-squared", "the advantage enters twice", d.loss.xreplace({n.advantage: n.advantage**2}), {}


def _mixture_mistakes(d: Derivation) -> Iterator[_Candidate]:
    if n.reward_prob not in d.given:
        return
    r, loss = n.reward_prob, d.inline(d.loss)

    def put(**change: sp.Expr) -> sp.Expr:
        return loss.xreplace({n.quantity(name).symbol: value for name, value in change.items()})

    yield "branches-swapped", "v⁺ and v⁻ are exchanged (or r and 1 − r)", put(reward_prob=1 - r), {}
    yield "advantage-for-probability", "the advantage stands where the optimality probability r belongs", put(reward_prob=2 * r - 1), {}
    yield "positive-branch-alone", "the negative branch is missing", _drop(loss, 1 - r), {}
    yield "negative-branch-alone", "the positive branch is missing", _drop(loss, r), {}
    yield "branches-unweighted", "the branches are not weighted by r and 1 − r", put(reward_prob=sp.Rational(1, 2)), {}
    yield "beta-squared", "β enters the mixtures squared", put(beta=n.beta**2), {}
    yield "beta-exchanged", "β and 1 − β are exchanged in the mixtures", put(beta=1 - n.beta), {}
    yield "beta-one", "β is taken as 1 in the mixtures", put(beta=sp.S.One), {}
    yield "mixture-live", "v_old is taken from the trained model in the mixtures", put(v_old=n.v_theta), {}
    yield "probability-averaged", "r is averaged over the batch; it must be per sample", put(reward_prob=BatchMean(r)), {}
    if n.w_plus in d.coefficients:
        live = {s: drop_sg(d.inline(d.coefficients[s])) for s in (n.w_plus, n.w_minus)}
        yield "weights-live", "the adaptive weights carry a gradient; they must be detached", loss.xreplace(live), {}
        yield "weights-missing", "the adaptive weights are missing", put(w_plus=sp.S.One, w_minus=sp.S.One), {}
        yield "weights-swapped", "the adaptive weights of the two branches are exchanged", put(w_plus=n.w_minus, w_minus=n.w_plus), {}
        yield "weights-averaged", "the adaptive weights are averaged over the batch; they must be per sample", put(w_plus=BatchMean(n.w_plus), w_minus=BatchMean(n.w_minus)), {}
        yield "weights-shared", "both branches use the positive branch's adaptive weight", put(w_minus=n.w_plus), {}


def _drop(loss: sp.Expr, weight: sp.Expr) -> sp.Expr:
    """The loss without the terms that carry a weight."""
    terms = sp.Add.make_args(sp.expand(loss, deep=False))
    return sp.Add(*(x for x in terms if weight not in sp.Mul.make_args(x)))


def _reference_mistakes(d: Derivation) -> Iterator[_Candidate]:
    if not d.loss.has(n.kl_weight):
        return
    loss = d.inline(d.loss)
    yield "kl-without-gradient", "the KL or reference term has no gradient (computed under no_grad, or detached)", loss.xreplace({n.kl_weight: sp.S.Zero}), {}
    yield "kl-to-old", "the KL or reference term is taken to the behaviour model", loss.xreplace({n.v_ref: n.v_old}), {}
    yield "kl-sign", "the KL or reference term has the wrong sign", loss.xreplace({n.kl_weight: -n.kl_weight}), {}
    yield "kl-half", "the KL or reference term lacks, or has, a factor 1/2 too many: twice the declared one", loss.xreplace({n.kl_weight: 2 * n.kl_weight}), {}
    yield "kl-doubled", "the KL or reference term is half the declared one", loss.xreplace({n.kl_weight: n.kl_weight / 2}), {}
    yield "kl-squared-weight", "the KL weight enters twice", loss.xreplace({n.kl_weight: n.kl_weight**2}), {}
    if "dt" in d.given:
        yield "kl-times-dt", "the KL term's denominator lacks Δt", loss.xreplace({n.kl_weight: n.kl_weight * n.dt}), {}
        yield "kl-over-dt", "the KL term is divided by Δt once too often", loss.xreplace({n.kl_weight: n.kl_weight / n.dt}), {}
    yield "kl-times-D", "the KL or reference term is summed where it must be averaged over coordinates", loss.xreplace({n.kl_weight: n.kl_weight * n.D}), {}
    yield "kl-over-D", "the KL or reference term is averaged over coordinates where it must be summed", loss.xreplace({n.kl_weight: n.kl_weight / n.D}), {}


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


_WRONG: dict[type, Callable[..., Tensor]] = {
    BatchMean: lambda x: x.mean(0, keepdim=True).expand(x.shape),
    sp.Abs: torch.abs,
    MaxSurrogate: lambda a, r, low, high: -torch.maximum(r * a, _clip(r, low, high) * a),
    OneSided: lambda a, r, low, high: -_clip(r, low, high) * a,
    LogClipped: lambda a, x, low, high: -torch.minimum(x.exp() * a, torch.minimum(torch.maximum(x, -low), high).exp() * a),
    MeanAbs: lambda x: x.abs().mean(tuple(range(1, x.ndim)), keepdim=True),
}
