"""Losses on a reverse step, wrong in one place or in two: Flow-GRPO, GRPO-Guard, Flow-DPPO, DDPO."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from gradcheck.case import Case

from .composed import Composed, Style, Trainer, each, in_turn, pairs, wrong

F32, F64 = torch.float32, torch.float64

STYLES = (
    Style("stored"),
    Style("anew", stored=False, clip=0.2),
    Style("float32", F32, clip=0.2),
    Style("official", F64, clip=1e-4),
    Style("images", axes=3, clip=0.2),
    Style("float32-anew", F32, stored=False, clip=0.2),
    Style("dance", kind="dance", declared={"sde": "dance"}),
    Style("official-float32", F32, clip=1e-4),
    Style("summed", reduction="sum", clip=0.2),
)


class FlowGrpo(Trainer):
    """The step by way of its drift and score, the density written out."""

    algorithm = "flow_grpo"
    reduced = "log_prob_reduction"
    clipped = True

    def time(self, c: Case) -> Tensor:
        return self.style.column(c, c.t)

    def dt(self, c: Case) -> Tensor:
        return self.style.column(c, c.dt)

    def sigma(self, c: Case) -> Tensor:
        t = self.time(c)
        return c.noise_level * (torch.sqrt(t / (1 - t)) if self.style.kind == "flow" else torch.ones_like(t))

    def score(self, c: Case, v: Tensor) -> Tensor:
        t = self.time(c)
        return -(self.style.cast(c.x_t) + (1 - t) * v) / t

    def drift(self, c: Case, v: Tensor) -> Tensor:
        return v - self.sigma(c) ** 2 / 2 * self.score(c, v)

    def mean(self, c: Case, v: Tensor) -> Tensor:
        return self.style.cast(c.x_t) - self.drift(c, self.style.cast(v)) * self.dt(c)

    def std(self, c: Case) -> Tensor:
        return self.sigma(c) * torch.sqrt(self.dt(c))

    def log_std(self, c: Case) -> Tensor:
        return torch.log(self.std(c))

    def exponent(self, c: Case, error: Tensor) -> Tensor:
        return error**2 / (2 * self.std(c) ** 2)

    def log_prob(self, c: Case, v: Tensor) -> Tensor:
        error = self.style.cast(c.x_prev) - self.mean(c, v)
        return self.reduce(-self.exponent(c, error) - self.log_std(c) - math.log(2 * math.pi) / 2)

    def old_log_prob(self, c: Case) -> Tensor:
        if self.style.stored:
            return self.style.cast(c.log_prob_old)
        return self.log_prob(c, c.v_old).detach()

    def log_ratio(self, c: Case) -> Tensor:
        return self.log_prob(c, c.v_theta) - self.old_log_prob(c)

    def ratio(self, c: Case) -> Tensor:
        return torch.exp(self.log_ratio(c))

    def per_sample(self, c: Case) -> Tensor:
        return self.surrogate(c, self.ratio(c), self.advantage(c))


class FlowGrpoKl(FlowGrpo):
    extra: ClassVar = {"kl": "step"}

    def kl_std(self, c: Case) -> Tensor:
        return self.std(c)

    def reference(self, c: Case) -> Tensor:
        return self.mean(c, c.v_ref).detach()

    def weight(self, c: Case) -> float:
        value: float = c.kl_weight
        return value

    def divergence(self, c: Case) -> Tensor:
        gap = self.mean(c, c.v_theta) - self.reference(c)
        return self.reduce(gap**2 / (2 * self.kl_std(c) ** 2))

    def penalty(self, c: Case) -> Tensor:
        return self.weight(c) * self.divergence(c)


class Guard(FlowGrpo):
    algorithm = "grpo_guard"

    def mean_old(self, c: Case) -> Tensor:
        return self.style.cast(c.mean_old) if self.style.stored else self.mean(c, c.v_old).detach()

    def bias_std(self, c: Case) -> Tensor:
        return self.std(c)

    def bias(self, c: Case) -> Tensor:
        return self.reduce((self.mean(c, c.v_theta) - self.mean_old(c)) ** 2 / (2 * self.bias_std(c) ** 2))

    def scale(self, c: Case) -> Tensor:
        return self.std(c).flatten()

    def over(self, c: Case) -> Tensor:
        return self.dt(c).flatten()

    def ratio(self, c: Case) -> Tensor:
        return torch.exp((self.log_ratio(c) + self.bias(c)) * self.scale(c))

    def per_sample(self, c: Case) -> Tensor:
        return super().per_sample(c) / self.over(c)


class Dppo(Guard):
    algorithm = "flow_dppo"
    clipped = False

    def moved(self, c: Case) -> Tensor:
        return self.bias(c).detach()

    def threshold(self, c: Case) -> float:
        value: float = c.divergence_max
        return value

    def away(self, c: Case, r: Tensor) -> Tensor:
        return (self.advantage(c) * (r - 1)).detach() > 0

    def ratio(self, c: Case) -> Tensor:
        return torch.exp(self.log_ratio(c))

    def per_sample(self, c: Case) -> Tensor:
        r = self.ratio(c)
        off = (self.moved(c) > self.threshold(c)) & self.away(c, r)
        return -self.advantage(c) * torch.where(off, r.detach(), r)


class Ddpo(FlowGrpo):
    """DDIM's step, as v_prediction schedulers have it."""

    algorithm = "ddpo"

    def alpha(self, c: Case) -> Tensor:
        return self.style.column(c, c.alpha_bar)

    def alpha_prev(self, c: Case) -> Tensor:
        return self.style.column(c, c.alpha_bar_prev)

    def std(self, c: Case) -> Tensor:
        a, b = self.alpha(c), self.alpha_prev(c)
        return c.noise_level * torch.sqrt((1 - b) / (1 - a) * (1 - a / b))

    def data(self, c: Case, v: Tensor) -> Tensor:
        a = self.alpha(c)
        return a.sqrt() * self.style.cast(c.x_t) - (1 - a).sqrt() * v

    def epsilon(self, c: Case, v: Tensor) -> Tensor:
        a = self.alpha(c)
        return a.sqrt() * v + (1 - a).sqrt() * self.style.cast(c.x_t)

    def direction(self, c: Case) -> Tensor:
        return (1 - self.alpha_prev(c) - self.std(c) ** 2).sqrt()

    def mean(self, c: Case, v: Tensor) -> Tensor:
        v = self.style.cast(v)
        return self.alpha_prev(c).sqrt() * self.data(c, v) + self.direction(c) * self.epsilon(c, v)


# ------------------------------------------------------------------------------------------ the mistakes

A = Trainer.advantage
STD, SIGMA, DT, TIME = FlowGrpo.std, FlowGrpo.sigma, FlowGrpo.dt, FlowGrpo.time


def _all_alike(x: Tensor) -> Tensor:
    return x.mean(0, keepdim=True).expand_as(x)


def _of_first(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


ADVANTAGE = {
    "A-abs": wrong(r"sign|absolute|\|A\|", advantage=lambda s, c: A(s, c).abs()),
    "A-squared": wrong("twice|squared|A²", advantage=lambda s, c: A(s, c) ** 2),
    "A-shifted": wrong(r"0\.1\b.*(A|advantage)|(A|advantage).*0\.1\b", advantage=lambda s, c: A(s, c) + 0.1),
    "A-doubled": wrong("twice|2 times|factor.2|doubled", advantage=lambda s, c: 2 * A(s, c)),
    "A-mean": wrong("advantage is averaged", advantage=lambda s, c: A(s, c).mean().expand_as(A(s, c))),
    "A-neighbour": wrong("neighbour|another sample|next sample", advantage=lambda s, c: A(s, c).roll(1)),
    "A-first": wrong("first", advantage=lambda s, c: _of_first(A(s, c))),
    "A-centred": wrong(
        "(normalised|centred|mean|shifted).*batch|batch.*(normalised|centred|mean|shifted)",
        advantage=lambda s, c: A(s, c) - A(s, c).mean(),
    ),
    "A-standardised": wrong(
        "normalised|standardi[sz]ed|shifted and scaled",
        advantage=lambda s, c: (A(s, c) - A(s, c).mean()) / (A(s, c).std(correction=0) + 1e-4),
    ),
    "A-sign": wrong("sign", advantage=lambda s, c: A(s, c).sign()),
    "A-clamped": wrong("clamp|clip|beyond|cut", advantage=lambda s, c: A(s, c).clamp(-1, 1)),
    "A-positive": wrong("bad|negative|A < 0|dropped", advantage=lambda s, c: A(s, c).clamp(min=0)),
    "A-negated": wrong("smaller weight|exchanged|sign", advantage=lambda s, c: -A(s, c)),
    "A-missing": wrong("advantage", advantage=lambda s, c: torch.ones_like(A(s, c))),
}

BATCH = {
    "summed": wrong("batch_reduction.*sum|becomes a sum", batch=lambda s, c, x: x.sum()),
    "negated": wrong("sign", batch=lambda s, c, x: -x.mean()),
    "halved": wrong("half|0.5 times", batch=lambda s, c, x: x.mean() / 2),
    "thrice": wrong("3 times", batch=lambda s, c, x: 3 * x.mean()),
}

CLIP = {
    "unclipped": wrong("clip", surrogate=lambda s, c, r, a: -a * r),
    "min-for-max": wrong(
        "min|max|wrong side|optimistic", surrogate=lambda s, c, r, a: torch.minimum(-a * r, -a * s.clamp(c, r))
    ),
    "clamped-alone": wrong("clamp|clip|inside|either side|both", surrogate=lambda s, c, r, a: -a * s.clamp(c, r)),
    "no-upper": wrong("upper|above", clamp=lambda s, c, r: r.clamp(min=s.style.edges(c)[0])),
    "no-lower": wrong("lower|below", clamp=lambda s, c, r: r.clamp(max=s.style.edges(c)[1])),
    "half-as-wide": wrong(
        "clip|edge|range", clamp=lambda s, c, r: r.clamp(*(1 + (e - 1) / 2 for e in s.style.edges(c)))
    ),
    "twice-as-wide": wrong(
        "clip|edge|range", clamp=lambda s, c, r: r.clamp(*(1 + (e - 1) * 2 for e in s.style.edges(c)))
    ),
    "leaky": wrong(
        "leak|0.1",
        surrogate=lambda s, c, r, a: torch.maximum(-a * r, -a * (s.clamp(c, r) + 0.1 * (r - s.clamp(c, r)))),
    ),
    "spo": wrong(
        "spo", surrogate=lambda s, c, r, a: -(a * r - a.abs() / (2 * (s.style.edges(c)[1] - 1)) * (r - 1) ** 2)
    ),
}
DUAL = {
    "dual": wrong(
        "dual",
        surrogate=lambda s, c, r, a: torch.where(
            a < 0, torch.minimum(Trainer.surrogate(s, c, r, a), -1.5 * a), Trainer.surrogate(s, c, r, a)
        ),
    )
}

LR = FlowGrpo.log_ratio
RATIO = {
    "ratio-one": wrong("ratio", old_log_prob=lambda s, c: s.log_prob(c, c.v_theta).detach()),
    "old-of-neighbour": wrong(
        "neighbour|another sample", old_log_prob=lambda s, c: FlowGrpo.old_log_prob(s, c).roll(1)
    ),
    "exponential-missing": wrong("log|exp", ratio=lambda s, c: LR(s, c)),
    "linearised": wrong("1 \\+ |linear|first order|exp", ratio=lambda s, c: 1 + LR(s, c)),
    "ratio-squared": wrong("twice|squared|r²|half|2 times", ratio=lambda s, c: torch.exp(2 * LR(s, c))),
    "ratio-root": wrong("half|root|0.5", ratio=lambda s, c: torch.exp(LR(s, c) / 2)),
    "log-ratio-sign": wrong("sign|exchanged|reversed|inver", ratio=lambda s, c: torch.exp(-LR(s, c))),
    "log-ratio-mean": wrong("averaged|mean.*batch", ratio=lambda s, c: torch.exp(_all_alike(LR(s, c)))),
    "ratio-mean": wrong("averaged|mean.*batch", ratio=lambda s, c: _all_alike(torch.exp(LR(s, c)))),
    "ratio-shifted": wrong("constant|shift|added|0.05", ratio=lambda s, c: torch.exp(LR(s, c) + 0.05)),
    "ratio-neighbour": wrong("neighbour|another sample", ratio=lambda s, c: torch.exp(LR(s, c)).roll(1)),
    "ratio-over-itself": wrong(
        "advantage|ratio|constant|normalis|batch",
        ratio=lambda s, c: torch.exp(LR(s, c)) / torch.exp(LR(s, c)).mean().detach(),
    ),
}

STEP = {
    "no-score": wrong("score", score=lambda s, c, v: 0 * v),
    "score-sign": wrong("score", score=lambda s, c, v: -FlowGrpo.score(s, c, v)),
    "score-twice": wrong(
        "score.*1/2|score.*(twice|half|2)|half.*score", score=lambda s, c, v: 2 * FlowGrpo.score(s, c, v)
    ),
    "score-half": wrong("score.*(half|1/2)|half.*score", score=lambda s, c, v: 0.5 * FlowGrpo.score(s, c, v)),
    "score-of-state": wrong("score", score=lambda s, c, v: -s.style.cast(c.x_t) / s.time(c)),
    "score-t-for-1-t": wrong(
        "score|1 − t|t for", score=lambda s, c, v: -(s.style.cast(c.x_t) + s.time(c) * v) / s.time(c)
    ),
    "v-sign": wrong("velocity.*sign|sign.*velocity|−v|-v", drift=lambda s, c, v: FlowGrpo.drift(s, c, -v)),
    "drift-backwards": wrong("Δt|backward|sign", drift=lambda s, c, v: -FlowGrpo.drift(s, c, v)),
    "t-prev": wrong("t_prev|after|next|end", time=lambda s, c: s.style.column(c, c.t_prev.clamp(min=1e-3))),
    "t-averaged": wrong("averag|mean", time=lambda s, c: _all_alike(TIME(s, c))),
    "t-first": wrong("first", time=lambda s, c: _of_first(TIME(s, c))),
    "t-rounded": wrong("round|grid|table", time=lambda s, c: ((TIME(s, c) * 100).round() / 100).clamp(0.01, 0.99)),
    "t-reversed": wrong("1 − t|revers|other way", time=lambda s, c: 1 - TIME(s, c)),
    "t-neighbour": wrong("neighbour|another sample", time=lambda s, c: TIME(s, c).roll(1, 0)),
    "dt-averaged": wrong("(averag|mean).*|Δt", dt=lambda s, c: _all_alike(DT(s, c))),
    "dt-first": wrong("first", dt=lambda s, c: _of_first(DT(s, c))),
    "dt-half": wrong("half|Δt", dt=lambda s, c: DT(s, c) / 2),
    "dt-neighbour": wrong("neighbour|another sample|Δt", dt=lambda s, c: DT(s, c).roll(1, 0)),
    "dt-squared": wrong("Δt", dt=lambda s, c: DT(s, c) ** 2),
    "sigma-averaged": wrong("averag|mean", sigma=lambda s, c: _all_alike(SIGMA(s, c))),
    "sigma-no-eta": wrong("η|noise.level", sigma=lambda s, c: SIGMA(s, c) / c.noise_level),
    "sigma-eta-squared": wrong("η|noise.level|twice", sigma=lambda s, c: SIGMA(s, c) * c.noise_level),
    "sigma-reversed": wrong(
        "1 − t|revers|other way", sigma=lambda s, c: c.noise_level * torch.sqrt((1 - s.time(c)) / s.time(c))
    ),
    "sigma-half": wrong("σ|noise.level|half", sigma=lambda s, c: SIGMA(s, c) / 2),
    "sigma-other": wrong(
        "sde",
        sigma=lambda s, c: (
            c.noise_level
            * (torch.ones_like(s.time(c)) if s.style.kind == "flow" else torch.sqrt(s.time(c) / (1 - s.time(c))))
        ),
    ),
    "std-no-dt": wrong("√Δt|Δt", std=lambda s, c: s.sigma(c) + 0 * s.dt(c)),
    "std-dt-twice": wrong("√Δt|Δt", std=lambda s, c: s.sigma(c) * s.dt(c)),
    "std-squared": wrong("variance|squared", std=lambda s, c: STD(s, c) ** 2),
    "std-root": wrong("root|σ|standard deviation", std=lambda s, c: STD(s, c).sqrt()),
    "std-averaged": wrong("averag|mean", std=lambda s, c: _all_alike(STD(s, c))),
    "std-first": wrong("first", std=lambda s, c: _of_first(STD(s, c))),
    "std-neighbour": wrong("neighbour|another sample", std=lambda s, c: STD(s, c).roll(1, 0)),
    "std-doubled": wrong("twice|half|2 times|4 times|deviation", std=lambda s, c: 2 * STD(s, c)),
    "std-floor": wrong("floor|at least|smallest|clamp|min", std=lambda s, c: STD(s, c).clamp(min=0.05)),
    "std-eps": wrong("eps|added|0.001|10⁻³", std=lambda s, c: STD(s, c) + 1e-3),
    "std-other": wrong(
        "dance|flow|another kind",
        std=lambda s, c: (
            c.noise_level
            * (torch.ones_like(s.time(c)) if s.style.kind == "flow" else torch.sqrt(s.time(c) / (1 - s.time(c))))
            * s.dt(c).sqrt()
        ),
    ),
    "exponent-no-half": wrong("half|1/2|½|2 C2²|twice", exponent=lambda s, c, e: e**2 / s.std(c) ** 2),
    "exponent-std": wrong("squared|variance|C2 |not its square", exponent=lambda s, c, e: e**2 / (2 * s.std(c))),
    "exponent-unit": wrong("unit|without|C2|variance", exponent=lambda s, c, e: e**2),
    "exponent-abs": wrong("squared|absolute|not its square", exponent=lambda s, c, e: e.abs() / s.std(c)),
    "exponent-huber": wrong(
        "huber",
        exponent=lambda s, c, e: torch.nn.functional.smooth_l1_loss(
            e / s.std(c), torch.zeros_like(e), reduction="none"
        ),
    ),
    "other-reduction": wrong(
        "log_prob_reduction",
        reduce=lambda s, x: x.flatten(1).sum(1) if s.style.reduction == "mean" else x.flatten(1).mean(1),
    ),
    "first-coordinate-masked": wrong("coordinate|index", reduce=lambda s, x: _without_first(s, x)),
}


def _without_first(s: Trainer, x: Tensor) -> Tensor:
    mask = torch.ones_like(x)
    mask.flatten(1)[:, :1] = 0.5
    return s.style.reduce(x * mask)


STORED = {
    "no-normaliser": wrong("log|normalis", log_std=lambda s, c: 0 * FlowGrpo.log_std(s, c)),
    "normaliser-no-dt": wrong("log|normalis", log_std=lambda s, c: torch.log(s.sigma(c))),
    "no-constant": wrong(
        "constant|2π|normalis", log_std=lambda s, c: FlowGrpo.log_std(s, c) - math.log(2 * math.pi) / 2
    ),
}

KL = {
    "kl-to-old": wrong("v_old|behaviour|old", reference=lambda s, c: s.mean(c, c.v_old).detach()),
    "kl-no-grad": wrong(
        "no gradient|without (a )?gradient|detach|no_grad", divergence=lambda s, c: FlowGrpoKl.divergence(s, c).detach()
    ),
    "kl-no-half": wrong("half|twice|2 times|½", divergence=lambda s, c: 2 * FlowGrpoKl.divergence(s, c)),
    "kl-sign": wrong("sign|rewarded", weight=lambda s, c: -c.kl_weight),
    "kl-unweighted": wrong("weight|β", weight=lambda s, c: 1.0),
    "kl-weight-squared": wrong("weight|β", weight=lambda s, c: c.kl_weight**2),
    "kl-sigma": wrong("kl='sigma'|denominator lacks Δt", kl_std=lambda s, c: s.sigma(c)),
    "kl-mean": wrong("kl='mean'|variance", kl_std=lambda s, c: torch.ones_like(s.std(c)) / math.sqrt(2)),
    "kl-dt-twice": wrong("Δt", kl_std=lambda s, c: s.sigma(c) * s.dt(c)),
    "kl-std-averaged": wrong("averag|mean", kl_std=lambda s, c: _all_alike(s.std(c))),
    "kl-std-first": wrong("first", kl_std=lambda s, c: _of_first(s.std(c))),
    "kl-velocity": wrong(
        "velocit", divergence=lambda s, c: s.reduce((s.style.cast(c.v_theta) - s.style.cast(c.v_ref)) ** 2)
    ),
    "kl-times-D": wrong("times D|sum", divergence=lambda s, c: FlowGrpoKl.divergence(s, c) * c.v_theta[0].numel()),
    "kl-missing": wrong(
        "kl.*(missing|no)|missing.*(kl|reference|divergence)|without.*(kl|reference)|no gradient|β",
        divergence=lambda s, c: 0 * FlowGrpoKl.divergence(s, c),
    ),
    "kl-times-A": wrong("advantage|A ", weight=lambda s, c: c.kl_weight * s.advantage(c)),
    "kl-neighbour": wrong("neighbour|another sample", reference=lambda s, c: s.mean(c, c.v_ref).detach().roll(1, 0)),
}

GUARD = {
    "bias-missing": wrong("bias", bias=lambda s, c: 0 * Guard.bias(s, c)),
    "bias-sign": wrong("bias", bias=lambda s, c: -Guard.bias(s, c)),
    "bias-twice": wrong("bias", bias=lambda s, c: 2 * Guard.bias(s, c)),
    "bias-detached": wrong("bias", bias=lambda s, c: Guard.bias(s, c).detach()),
    "bias-averaged": wrong("bias.*averag", bias=lambda s, c: _all_alike(Guard.bias(s, c))),
    "bias-gap-averaged": wrong(
        "bias|averag",
        bias=lambda s, c: s.reduce((s.mean(c, c.v_theta) - s.mean_old(c)) ** 2).mean() / (2 * s.std(c).flatten() ** 2),
    ),
    "bias-of-neighbour": wrong("bias|neighbour|another sample", bias=lambda s, c: Guard.bias(s, c).roll(1, 0)),
    "bias-sigma": wrong("bias.*Δt|Δt.*bias|bias.*σ", bias_std=lambda s, c: s.sigma(c)),
    "bias-dt-twice": wrong("bias.*Δt|Δt.*bias", bias_std=lambda s, c: s.sigma(c) * s.dt(c)),
    "bias-no-variance": wrong("bias", bias_std=lambda s, c: torch.ones_like(s.std(c))),
    "bias-std-averaged": wrong("bias|averag", bias_std=lambda s, c: _all_alike(s.std(c))),
    "bias-std-first": wrong("first", bias_std=lambda s, c: _of_first(s.std(c))),
    "bias-velocities": wrong(
        "bias", bias=lambda s, c: s.reduce((s.style.cast(c.v_theta) - s.style.cast(c.v_old)) ** 2 / 2)
    ),
    "scale-missing": wrong("scale|multiplied by the step", scale=lambda s, c: torch.ones_like(Guard.scale(s, c))),
    "scale-sigma": wrong("scale|multiplies the log-ratio", scale=lambda s, c: s.sigma(c).flatten()),
    "scale-dt-twice": wrong("scale|multiplies the log-ratio", scale=lambda s, c: (s.sigma(c) * s.dt(c)).flatten()),
    "scale-variance": wrong("scale|multiplies the log-ratio", scale=lambda s, c: Guard.scale(s, c) ** 2),
    "scale-averaged": wrong("averag|mean", scale=lambda s, c: _all_alike(Guard.scale(s, c))),
    "scale-first": wrong("first", scale=lambda s, c: _of_first(Guard.scale(s, c))),
    "scale-inverse": wrong("scale|divided by the step", scale=lambda s, c: 1 / Guard.scale(s, c)),
    "plain-ratio": wrong("plain|Flow-GRPO", ratio=lambda s, c: torch.exp(s.log_ratio(c))),
    "bias-outside-scale": wrong("bias|scale", ratio=lambda s, c: torch.exp(s.log_ratio(c) * s.scale(c) + s.bias(c))),
    "over-missing": wrong("Δt", over=lambda s, c: torch.ones_like(Guard.over(s, c))),
    "over-root": wrong("Δt", over=lambda s, c: Guard.over(s, c).sqrt()),
    "over-squared": wrong("Δt", over=lambda s, c: Guard.over(s, c) ** 2),
    "over-averaged": wrong("averag|mean", over=lambda s, c: _all_alike(Guard.over(s, c))),
    "over-first": wrong("first|same time", over=lambda s, c: _of_first(Guard.over(s, c))),
    "over-sigma": wrong("Δt|σ|divided", over=lambda s, c: Guard.over(s, c) * s.sigma(c).flatten()),
    "over-inverse": wrong("Δt", over=lambda s, c: 1 / Guard.over(s, c)),
}

DPPO = {
    "moved-half": wrong("factor 1/2|half|½", moved=lambda s, c: 2 * Dppo.moved(s, c)),
    "moved-sigma": wrong("Δt", bias_std=lambda s, c: s.sigma(c)),
    "moved-dt-twice": wrong("Δt", bias_std=lambda s, c: s.sigma(c) * s.dt(c)),
    "moved-no-variance": wrong("variance", bias_std=lambda s, c: torch.ones_like(s.std(c))),
    "moved-std-averaged": wrong("averag|mean", bias_std=lambda s, c: _all_alike(s.std(c))),
    "moved-averaged": wrong("averag|mean", moved=lambda s, c: _all_alike(Dppo.moved(s, c))),
    "moved-root": wrong("root", moved=lambda s, c: Dppo.moved(s, c).sqrt()),
    "moved-summed": wrong("sum", moved=lambda s, c: Dppo.moved(s, c) * c.v_theta[0].numel()),
    "moved-k3": wrong("ratio", moved=lambda s, c: (s.ratio(c) - 1 - s.log_ratio(c)).detach()),
    "moved-neighbour": wrong("neighbour|another sample", moved=lambda s, c: Dppo.moved(s, c).roll(1)),
    "moved-velocities": wrong(
        "velocit", moved=lambda s, c: s.reduce((s.style.cast(c.v_theta) - s.style.cast(c.v_old)) ** 2 / 2).detach()
    ),
    "mask-missing": wrong("mask", moved=lambda s, c: torch.zeros_like(Dppo.moved(s, c))),
    "mask-both": wrong("mask|stopp", away=lambda s, c, r: torch.ones_like(Dppo.away(s, c, r))),
    "mask-back": wrong("mask|back|wrong way", away=lambda s, c, r: ~Dppo.away(s, c, r)),
    "mask-good-alone": wrong(
        "negative advantage|sign|bad|A < 0|one", away=lambda s, c, r: Dppo.away(s, c, r) & (s.advantage(c) > 0)
    ),
    "mask-by-ratio-alone": wrong("sign|mask|A", away=lambda s, c, r: r.detach() > 1),
    "threshold-doubled": wrong("threshold|divergence_max|2", threshold=lambda s, c: 2 * c.divergence_max),
    "threshold-squared": wrong(
        "threshold|divergence_max|squared|root of the divergence", threshold=lambda s, c: c.divergence_max**2
    ),
    "clipped-besides": wrong("clip", per_sample=lambda s, c: FlowGrpo.per_sample(s, c)),
}

DDIM = {
    "alpha-first": wrong("first", alpha=lambda s, c: _of_first(Ddpo.alpha(s, c))),
    "alpha-averaged": wrong("averag|mean", alpha=lambda s, c: _all_alike(Ddpo.alpha(s, c))),
    "alphas-exchanged": wrong(
        "ᾱ'|exchang|swap|before|after",
        data=lambda s, c, v: s.alpha_prev(c).sqrt() * s.style.cast(c.x_t) - (1 - s.alpha_prev(c)).sqrt() * v,
    ),
    "data-signs": wrong(
        "sign", data=lambda s, c, v: s.alpha(c).sqrt() * s.style.cast(c.x_t) + (1 - s.alpha(c)).sqrt() * v
    ),
    "data-clipped": wrong("clip|clamp|range", data=lambda s, c, v: Ddpo.data(s, c, v).clamp(-1, 1)),
    "epsilon-signs": wrong(
        "sign|sign", epsilon=lambda s, c, v: s.alpha(c).sqrt() * v - (1 - s.alpha(c)).sqrt() * s.style.cast(c.x_t)
    ),
    "direction-of-ode": wrong("noise|ode|std|determin", direction=lambda s, c: (1 - s.alpha_prev(c)).sqrt()),
    "direction-std": wrong(
        "variance|squared|std|noise", direction=lambda s, c: (1 - s.alpha_prev(c) - s.std(c)).clamp(min=0).sqrt()
    ),
    "signal-before": wrong(
        "before|ᾱ|signal",
        alpha_prev=lambda s, c: Ddpo.alpha_prev(s, c),
        mean=lambda s, c, v: (
            s.alpha(c).sqrt() * s.data(c, s.style.cast(v)) + s.direction(c) * s.epsilon(c, s.style.cast(v))
        ),
    ),
    "eta-missing": wrong("η|noise.level", std=lambda s, c: Ddpo.std(s, c) / c.noise_level),
    "variance-for-std": wrong(
        "variance|squared",
        log_std=lambda s, c: 2 * FlowGrpo.log_std(s, c),
        exponent=lambda s, c, e: e**2 / (2 * s.std(c) ** 4),
    ),
    "std-averaged": wrong(
        "averag|mean",
        exponent=lambda s, c, e: e**2 / (2 * _all_alike(s.std(c)) ** 2),
        log_std=lambda s, c: _all_alike(s.std(c)).log(),
    ),
    "no-half": wrong("half|1/2|½|2 C2²|twice", exponent=lambda s, c, e: e**2 / s.std(c) ** 2),
}

_BACKWARD = tuple(s for s in STYLES if s.kind == "flow")
_STORED = tuple(s for s in _BACKWARD if s.stored)
_DDIM = tuple(s for s in _BACKWARD if s.name != "official-float32")


_COMMON = {**ADVANTAGE, **BATCH, **CLIP, **RATIO}
_VOID = ("FlowGrpo-dance-sigma-averaged",)
"""No mistake: the Dance step's σ_t is the same for all."""
NEW: tuple[Composed, ...] = tuple(
    one
    for one in (
        *in_turn(FlowGrpo, STYLES, each({**STEP, **_COMMON})),
        *in_turn(FlowGrpo, STYLES[::-1], each({**DUAL, **STEP})),
        *in_turn(FlowGrpo, _STORED, each(STORED)),
        *in_turn(FlowGrpoKl, STYLES[:7], each(KL)),
        *in_turn(Guard, _BACKWARD, each({**GUARD, **ADVANTAGE, **CLIP})),
        *in_turn(Dppo, _BACKWARD, each({**DPPO, **ADVANTAGE, **BATCH})),
        *in_turn(Ddpo, _DDIM, each({**DDIM, **_COMMON})),
    )
    if one.name not in _VOID
)
"""One mistake each."""

PAIRS: tuple[Composed, ...] = (
    *in_turn(
        FlowGrpo,
        STYLES,
        pairs(
            {**STEP, **_COMMON},
            "no-score+unclipped std-no-dt+A-mean A-abs+unclipped A-neighbour+min-for-max std-averaged+A-missing "
            "no-score+std-no-dt score-sign+A-standardised exponent-no-half+unclipped t-averaged+A-centred "
            "std-dt-twice+unclipped sigma-other+A-squared A-mean+summed",
        ),
    ),
    *in_turn(
        FlowGrpoKl,
        STYLES[:6],
        pairs(
            {**STEP, **_COMMON, **KL},
            "kl-to-old+unclipped kl-sigma+A-abs kl-no-half+A-mean kl-sign+no-score kl-velocity+std-no-dt "
            "kl-no-grad+min-for-max",
        ),
    ),
    *in_turn(
        Guard,
        _BACKWARD,
        pairs(
            {**GUARD, **_COMMON},
            "bias-averaged+over-missing scale-missing+over-averaged bias-missing+unclipped bias-sign+A-abs "
            "scale-averaged+over-averaged over-root+A-mean bias-detached+scale-sigma",
        ),
    ),
    *in_turn(
        Dppo, _BACKWARD, pairs({**DPPO, **_COMMON}, "mask-missing+A-mean moved-sigma+A-abs mask-both+A-neighbour")
    ),
    *in_turn(Ddpo, _DDIM, pairs({**DDIM, **_COMMON}, "direction-of-ode+unclipped no-half+A-mean eta-missing+A-abs")),
)
"""Two mistakes each."""
