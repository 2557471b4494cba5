"""Losses on noised data, wrong in one place or in two: AWM, DiffusionNFT, FPO, DPO, DGPO, and weighted regressions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from gradcheck.case import Case

from .composed import Composed, Style, Trainer, each, in_turn, pairs, wrong
from .composed_reverse import ADVANTAGE, BATCH, CLIP, DUAL, _all_alike, _of_first

F32, F64 = torch.float32, torch.float64

STYLES = (
    Style("averaged"),
    Style("float32", F32, clip=0.2),
    Style("summed", reduction="sum", clip=0.2),
    Style("images", axes=3, clip=0.05),
    Style("narrow", clip=1e-3),
)


class Matching(Trainer):
    """Regression to the velocity, with a weight."""

    def target(self, c: Case) -> Tensor:
        return self.style.cast(c.noise) - self.style.cast(c.x_0)

    def distance(self, c: Case, gap: Tensor) -> Tensor:
        return gap**2

    def error(self, c: Case, v: Tensor) -> Tensor:
        return self.reduce(self.distance(c, self.style.cast(v) - self.target(c)))

    def weight(self, c: Case) -> Tensor:
        raise NotImplementedError

    def per_sample(self, c: Case) -> Tensor:
        return self.weight(c) * self.error(c, c.v_theta)


class Awm(Matching):
    algorithm = "awm"

    def weight(self, c: Case) -> Tensor:
        return self.advantage(c)


class AwmReference(Awm):
    extra: ClassVar = {"reference": "on"}

    def reference(self, c: Case) -> Tensor:
        return self.style.cast(c.v_ref)

    def kl_weight(self, c: Case) -> float:
        value: float = c.kl_weight
        return value

    def hold(self, c: Case) -> Tensor:
        return self.reduce((self.style.cast(c.v_theta) - self.reference(c)) ** 2)

    def penalty(self, c: Case) -> Tensor:
        return self.kl_weight(c) * self.hold(c)


class Fpo(Matching):
    algorithm = "fpo"
    clipped = True

    def old_error(self, c: Case) -> Tensor:
        return self.error(c, c.v_old).detach()

    def log_ratio(self, c: Case) -> Tensor:
        return self.old_error(c) - self.error(c, c.v_theta)

    def ratio(self, c: Case) -> Tensor:
        return torch.exp(self.log_ratio(c))

    def per_sample(self, c: Case) -> Tensor:
        return self.surrogate(c, self.ratio(c), self.advantage(c))


class AwmClipped(Fpo):
    algorithm = "awm"
    extra: ClassVar = {"clip": "ppo", "omega": "t"}

    def omega(self, c: Case) -> Tensor:
        return self.style.cast(c.t)

    def log_ratio(self, c: Case) -> Tensor:
        return self.omega(c) * super().log_ratio(c)


class Rwr(Matching):
    algorithm = "rwr"

    def temperature(self, c: Case) -> float:
        value: float = c.temperature
        return value

    def weight(self, c: Case) -> Tensor:
        return torch.exp(self.style.cast(c.reward) / self.temperature(c))


class Awr(Rwr):
    algorithm = "awr"

    def cap(self, c: Case, w: Tensor) -> Tensor:
        return w.clamp(max=c.weight_max)

    def weight(self, c: Case) -> Tensor:
        return self.cap(c, torch.exp(self.advantage(c) / self.temperature(c)))


class Nft(Matching):
    algorithm = "diffusion_nft"

    def probability(self, c: Case) -> Tensor:
        return self.style.cast(c.reward_prob)

    def other_probability(self, c: Case) -> Tensor:
        return 1 - self.probability(c)

    def beta(self, c: Case) -> float:
        value: float = c.beta
        return value

    def old(self, c: Case) -> Tensor:
        return self.style.cast(c.v_old)

    def positive(self, c: Case) -> Tensor:
        b = self.beta(c)
        return (1 - b) * self.old(c) + b * self.style.cast(c.v_theta)

    def negative(self, c: Case) -> Tensor:
        b = self.beta(c)
        return (1 + b) * self.old(c) - b * self.style.cast(c.v_theta)

    def per_sample(self, c: Case) -> Tensor:
        good, bad = self.error(c, self.positive(c)), self.error(c, self.negative(c))
        return self.probability(c) * good + self.other_probability(c) * bad


class NftAdaptive(Nft):
    """In x_0-space, each branch over its own mean absolute error, all over β."""

    extra: ClassVar = {"weighting": "adaptive"}

    def state(self, c: Case) -> Tensor:
        t = self.style.column(c, c.t)
        return (1 - t) * self.style.cast(c.x_0) + t * self.style.cast(c.noise)

    def gap(self, c: Case, v: Tensor) -> Tensor:
        return self.state(c) - self.style.column(c, c.t) * v - self.style.cast(c.x_0)

    def floor(self, c: Case) -> float:
        return 1e-5

    def adaptive(self, c: Case, gap: Tensor) -> Tensor:
        return gap.detach().abs().flatten(1).mean(1).clamp(min=self.floor(c))

    def error(self, c: Case, v: Tensor) -> Tensor:
        gap = self.gap(c, v)
        return self.reduce(gap**2) / self.adaptive(c, gap)

    def over(self, c: Case) -> float:
        value: float = c.beta
        return value

    def per_sample(self, c: Case) -> Tensor:
        return super().per_sample(c) / self.over(c)


class Dpo(Matching):
    algorithm = "diffusion_dpo"

    def anchor(self, c: Case) -> Tensor:
        return self.error(c, c.v_ref).detach()

    def own(self, c: Case) -> Tensor:
        return self.error(c, c.v_theta) - self.anchor(c)

    def others(self, c: Case) -> Tensor:
        return self.style.cast(c.partner_gap)

    def preference(self, c: Case) -> Tensor:
        return self.style.cast(c.preference)

    def strength(self, c: Case) -> float:
        value: float = c.beta_dpo
        return value

    def margin(self, c: Case) -> Tensor:
        return self.preference(c) * (self.own(c) - self.others(c))

    def link(self, c: Case, x: Tensor) -> Tensor:
        return -functional.logsigmoid(x)

    def per_sample(self, c: Case) -> Tensor:
        return self.link(c, -self.strength(c) * self.margin(c))


class Dgpo(Dpo):
    algorithm = "dgpo"

    def others(self, c: Case) -> Tensor:
        return self.style.cast(c.group_gap)

    def margin(self, c: Case) -> Tensor:
        return self.advantage(c) * self.own(c) + self.others(c)


# ------------------------------------------------------------------------------------------ the mistakes


def _t(s: Matching, c: Case) -> Tensor:
    return s.style.column(c, c.t)


def _masked(s: Matching, gap: Tensor, share: float) -> Tensor:
    mask = torch.ones_like(gap)
    mask[:, -1] = share
    return mask * gap**2


TARGET = {
    "target-sign": wrong("sign|exchanged|x_0 − ε|reversed", target=lambda s, c: -Matching.target(s, c)),
    "target-noise": wrong("noise|ε alone", target=lambda s, c: s.style.cast(c.noise)),
    "target-data": wrong("data|x_0", target=lambda s, c: s.style.cast(c.x_0)),
    "target-sum": wrong(r"sum|added|plus|\+", target=lambda s, c: s.style.cast(c.x_0) + s.style.cast(c.noise)),
    "target-zero": wrong("target|v_gt", target=lambda s, c: 0 * Matching.target(s, c)),
    "target-state-minus-data": wrong(
        "x_t − x_0|t·v_gt|state", target=lambda s, c: s.style.cast(c.x_t) - s.style.cast(c.x_0)
    ),
    "target-noise-minus-state": wrong(
        "x_t|1 − t|state", target=lambda s, c: s.style.cast(c.noise) - s.style.cast(c.x_t)
    ),
    "target-state": wrong("x_t|state", target=lambda s, c: s.style.cast(c.x_t)),
    "target-neighbour": wrong("neighbour|another sample", target=lambda s, c: Matching.target(s, c).roll(1, 0)),
    "target-averaged": wrong("averag|mean", target=lambda s, c: _all_alike(Matching.target(s, c))),
    "target-doubled": wrong("v_gt|target", target=lambda s, c: 2 * Matching.target(s, c)),
}
DISTANCE = {
    "absolute": wrong("absolute|squared", distance=lambda s, c, gap: gap.abs()),
    "huber": wrong(
        "huber", distance=lambda s, c, gap: functional.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none")
    ),
    "fourth-power": wrong("squared|power", distance=lambda s, c, gap: gap**4),
    "pseudo-huber": wrong("huber|squared|root", distance=lambda s, c, gap: 2 * ((1 + gap**2).sqrt() - 1)),
    "last-channel-half": wrong("last index|channel|coordinate", distance=lambda s, c, gap: _masked(s, gap, 0.5)),
    "last-channel-off": wrong("last index|channel|coordinate", distance=lambda s, c, gap: _masked(s, gap, 0.25)),
    "time-weighted": wrong(r"\bt\b", distance=lambda s, c, gap: _t(s, c) * gap**2),
    "snr-weighted": wrong(r"\bt\b", distance=lambda s, c, gap: ((1 - _t(s, c)) / _t(s, c)) ** 2 * gap**2),
    "half-square": wrong("half|½|0.5", distance=lambda s, c, gap: gap**2 / 2),
    "other-reduction": wrong(
        "reduction=|over coordinates",
        reduce=lambda s, x: x.flatten(1).sum(1) if s.style.reduction == "mean" else x.flatten(1).mean(1),
    ),
    "norm": wrong("squared|norm|root", reduce=lambda s, x: s.style.reduce(x).sqrt()),
    "batch-mean": wrong("averag|mean", reduce=lambda s, x: _all_alike(s.style.reduce(x))),
}
OUTER = {
    "column": wrong(
        "averag|broadcast", per_sample=lambda s, c: (s.weight(c)[:, None] * s.error(c, c.v_theta)[None, :]).mean(0)
    ),
    "weight-live": wrong(
        "live|detach",
        weight=lambda s, c: s.advantage(c) * torch.exp(s.error(c, c.v_theta) - s.error(c, c.v_theta).detach()),
    ),
}

LR = Fpo.log_ratio
RATIO = {
    "ratio-one": wrong("ratio", old_error=lambda s, c: s.error(c, c.v_theta).detach()),
    "old-missing": wrong("old|behaviour|ratio", old_error=lambda s, c: 0 * Fpo.old_error(s, c)),
    "old-neighbour": wrong("neighbour|another sample", old_error=lambda s, c: Fpo.old_error(s, c).roll(1)),
    "log-ratio-sign": wrong("sign|exchang|revers|inver", ratio=lambda s, c: torch.exp(-s.log_ratio(c))),
    "log-ratio-half": wrong("half|½|0.5", ratio=lambda s, c: torch.exp(s.log_ratio(c) / 2)),
    "log-ratio-twice": wrong("twice|2 times|half|squared", ratio=lambda s, c: torch.exp(2 * s.log_ratio(c))),
    "log-ratio-mean": wrong("averag|mean", ratio=lambda s, c: torch.exp(_all_alike(s.log_ratio(c)))),
    "ratio-mean": wrong("averag|mean", ratio=lambda s, c: _all_alike(torch.exp(s.log_ratio(c)))),
    "ratio-neighbour": wrong("neighbour|another sample", ratio=lambda s, c: torch.exp(s.log_ratio(c)).roll(1)),
    "exponential-missing": wrong("log|exp", ratio=lambda s, c: s.log_ratio(c)),
    "linearised": wrong("1 \\+ |linear|first order|exp", ratio=lambda s, c: 1 + s.log_ratio(c)),
    "log-ratio-clamped": wrong("clamp", ratio=lambda s, c: torch.exp(s.log_ratio(c).clamp(-0.3, 0.3))),
    "ratio-shifted": wrong("constant|shift|added|0.05", ratio=lambda s, c: torch.exp(s.log_ratio(c) + 0.05)),
}
OMEGA = {
    "omega-missing": wrong("weight|omega|ω", omega=lambda s, c: torch.ones_like(s.style.cast(c.t))),
    "omega-reversed": wrong("1 − t|revers|other way", omega=lambda s, c: 1 - s.style.cast(c.t)),
    "omega-squared": wrong("omega=.t2", omega=lambda s, c: s.style.cast(c.t) ** 2),
    "omega-averaged": wrong("averag|mean", omega=lambda s, c: _all_alike(s.style.cast(c.t))),
    "omega-first": wrong("first", omega=lambda s, c: _of_first(s.style.cast(c.t))),
    "omega-neighbour": wrong("neighbour|another sample", omega=lambda s, c: s.style.cast(c.t).roll(1)),
    "omega-root": wrong("root|ω|weight", omega=lambda s, c: s.style.cast(c.t).sqrt()),
    "omega-inverse": wrong("1/t|over t|inver|ω|weight", omega=lambda s, c: 1 / s.style.cast(c.t)),
    "omega-timestep": wrong("1000|timestep", omega=lambda s, c: 1000 * s.style.cast(c.t)),
}
REFERENCE = {
    "hold-no-grad": wrong(
        "no gradient|without (a )?gradient|detach|no_grad", hold=lambda s, c: AwmReference.hold(s, c).detach()
    ),
    "hold-half": wrong("half|½", hold=lambda s, c: AwmReference.hold(s, c) / 2),
    "hold-sign": wrong("sign", kl_weight=lambda s, c: -c.kl_weight),
    "hold-unweighted": wrong("weight|β", kl_weight=lambda s, c: 1.0),
    "hold-at-zero": wrong("reference|v_ref", reference=lambda s, c: 0 * AwmReference.reference(s, c)),
    "hold-at-target": wrong("reference|v_ref|v_gt", reference=lambda s, c: s.target(c)),
    "hold-averaged": wrong("averag|mean", reference=lambda s, c: _all_alike(AwmReference.reference(s, c))),
    "hold-neighbour": wrong("neighbour|another sample", reference=lambda s, c: AwmReference.reference(s, c).roll(1, 0)),
    "hold-times-A": wrong("advantage|A ", hold=lambda s, c: s.advantage(c) * AwmReference.hold(s, c)),
    "hold-over-D": wrong("over D|mean|sum|times D", hold=lambda s, c: AwmReference.hold(s, c) / c.v_theta[0].numel()),
}
WEIGHT = {
    "exp-missing": wrong("exp|linear|reward", weight=lambda s, c: s.style.cast(c.reward) / c.temperature),
    "softmax": wrong(
        "normalis|batch|softmax", weight=lambda s, c: torch.softmax(s.style.cast(c.reward) / c.temperature, 0)
    ),
    "temperature-inverse": wrong(
        "temperature|τ", weight=lambda s, c: torch.exp(s.style.cast(c.reward) * c.temperature)
    ),
    "temperature-one": wrong("temperature|τ", weight=lambda s, c: torch.exp(s.style.cast(c.reward))),
    "reward-sign": wrong(
        "smaller weight|sign|revers", weight=lambda s, c: torch.exp(-s.style.cast(c.reward) / c.temperature)
    ),
    "reward-centred": wrong(
        "averag|mean|centred|batch",
        weight=lambda s, c: torch.exp((s.style.cast(c.reward) - s.style.cast(c.reward).mean()) / c.temperature),
    ),
    "reward-mean": wrong(
        "averag|mean", weight=lambda s, c: torch.exp(_all_alike(s.style.cast(c.reward)) / c.temperature)
    ),
    "reward-neighbour": wrong(
        "neighbour|another sample", weight=lambda s, c: torch.exp(s.style.cast(c.reward) / c.temperature).roll(1)
    ),
    "reward-clamped": wrong(
        "clamp|clip|cut|at most", weight=lambda s, c: torch.exp((s.style.cast(c.reward) / c.temperature).clamp(max=1.0))
    ),
    "weight-missing": wrong("weight|reward", weight=lambda s, c: torch.ones_like(s.style.cast(c.reward))),
    "weight-squared": wrong("squared|twice", weight=lambda s, c: Rwr.weight(s, c) ** 2),
}
CAPPED = {
    "uncapped": wrong("clip|cap|max|bound|limit", cap=lambda s, c, w: w),
    "capped-below": wrong("below|min|least|wrong", cap=lambda s, c, w: w.clamp(min=c.weight_max)),
    "cap-silences": wrong("clip|cap|max|zero|dropped", cap=lambda s, c, w: torch.where(w < c.weight_max, w, 0 * w)),
    "cap-doubled": wrong("2|clip|cap|max", cap=lambda s, c, w: w.clamp(max=2 * c.weight_max)),
    "cap-of-sum": wrong(
        "normalis|batch", cap=lambda s, c, w: w.clamp(max=c.weight_max) / w.clamp(max=c.weight_max).sum()
    ),
    "cap-soft": wrong("", cap=lambda s, c, w: c.weight_max * torch.tanh(w / c.weight_max)),
    "temperature-inverse": wrong("temperature|τ", temperature=lambda s, c: 1 / c.temperature),
    "temperature-one": wrong("temperature|τ", temperature=lambda s, c: 1.0),
}
del CAPPED["cap-soft"]  # nothing that has a name
BRANCHES = {
    "r-rounded": wrong(
        "round|binar|0.5|half", probability=lambda s, c: (s.style.cast(c.reward_prob) > 0.5).to(s.style.dtype)
    ),
    "r-averaged": wrong("averag|mean", probability=lambda s, c: _all_alike(Nft.probability(s, c))),
    "r-neighbour": wrong("neighbour|another sample", probability=lambda s, c: Nft.probability(s, c).roll(1)),
    "r-reversed": wrong("swap|exchang|1 − r", probability=lambda s, c: 1 - Nft.probability(s, c)),
    "r-advantage": wrong("advantage", probability=lambda s, c: 2 * Nft.probability(s, c) - 1),
    "r-half": wrong("weigh|half|½|0.5", probability=lambda s, c: 0 * Nft.probability(s, c) + 0.5),
    "r-squared": wrong("squared|r²", probability=lambda s, c: Nft.probability(s, c) ** 2),
    "r-clamped": wrong("clamp|clip|0.1", probability=lambda s, c: Nft.probability(s, c).clamp(0.1, 0.9)),
    "negative-off": wrong("negative|alone", other_probability=lambda s, c: 0 * Nft.probability(s, c)),
    "negative-sign": wrong("sign|negative", other_probability=lambda s, c: -(1 - Nft.probability(s, c))),
    "negative-as-positive": wrong("negative|alike", other_probability=lambda s, c: Nft.probability(s, c)),
    "positive-detached": wrong(
        "positive branch is missing|negative|alone|detach", positive=lambda s, c: Nft.positive(s, c).detach()
    ),
    "negative-detached": wrong(
        "negative branch is missing|positive|alone|detach", negative=lambda s, c: Nft.negative(s, c).detach()
    ),
    "beta-one": wrong("β|beta", beta=lambda s, c: 1.0),
    "beta-squared": wrong("β|beta", beta=lambda s, c: c.beta**2),
    "beta-exchanged": wrong("β|beta", beta=lambda s, c: 1 - c.beta),
    "beta-doubled": wrong("β|beta", beta=lambda s, c: 2 * c.beta),
    "beta-negative": wrong("swap|exchang|sign|β", beta=lambda s, c: -c.beta),
    "negative-plus": wrong(
        "v⁻|negative", negative=lambda s, c: (1 + s.beta(c)) * s.old(c) + s.beta(c) * s.style.cast(c.v_theta)
    ),
    "negative-old-share": wrong(
        "v⁻|negative", negative=lambda s, c: (1 - s.beta(c)) * s.old(c) - s.beta(c) * s.style.cast(c.v_theta)
    ),
    "positive-old-share": wrong(
        "v⁺|positive|β|old", positive=lambda s, c: s.old(c) + s.beta(c) * s.style.cast(c.v_theta)
    ),
    "old-live": wrong("live|trained|v_old|old", old=lambda s, c: s.style.cast(c.v_theta)),
    "old-live-detached": wrong("v_old|old|behaviour|live", old=lambda s, c: s.style.cast(c.v_theta).detach()),
    "old-neighbour": wrong("neighbour|another sample", old=lambda s, c: Nft.old(s, c).roll(1, 0)),
    "old-averaged": wrong("averag|mean", old=lambda s, c: _all_alike(Nft.old(s, c))),
    "old-zero": wrong("v_old|old|behaviour", old=lambda s, c: 0 * Nft.old(s, c)),
}
ADAPTIVE = {
    "weights-live": wrong(
        "live|detach|gradient", adaptive=lambda s, c, gap: gap.abs().flatten(1).mean(1).clamp(min=1e-5)
    ),
    "weights-missing": wrong("weight", adaptive=lambda s, c, gap: torch.ones_like(gap.flatten(1)[:, 0])),
    "weights-averaged": wrong("averag|mean", adaptive=lambda s, c, gap: _all_alike(NftAdaptive.adaptive(s, c, gap))),
    "weights-squared": wrong(
        "squared|square|weight", adaptive=lambda s, c, gap: gap.detach().square().flatten(1).mean(1)
    ),
    "weights-neighbour": wrong(
        "neighbour|another sample", adaptive=lambda s, c, gap: NftAdaptive.adaptive(s, c, gap).roll(1)
    ),
    "weights-summed": wrong("sum|times D|weight", adaptive=lambda s, c, gap: gap.detach().abs().flatten(1).sum(1)),
    "over-missing": wrong("β|beta", over=lambda s, c: 1.0),
    "over-squared": wrong("β|beta", over=lambda s, c: c.beta**2),
    "state-missing": wrong("t is missing|velocit|x_0|t²|space", gap=lambda s, c, v: s.target(c) - v),
    "x0-sign": wrong("sign|x_t", gap=lambda s, c, v: s.state(c) + _t(s, c) * v - s.style.cast(c.x_0)),
    "x0-from-noise": wrong(
        "1 − t|noise|x_0", gap=lambda s, c, v: s.state(c) + (1 - _t(s, c)) * v - s.style.cast(c.x_0)
    ),
    "time-neighbour": wrong(
        "time|neighbour|another sample",
        state=lambda s, c: (
            (1 - _t(s, c).roll(1, 0)) * s.style.cast(c.x_0) + _t(s, c).roll(1, 0) * s.style.cast(c.noise)
        ),
    ),
}
MARGIN = {
    "preference-sign": wrong("exchang|sign|lose|win", strength=lambda s, c: -c.beta_dpo),
    "beta-half": wrong("half|β|0.5", strength=lambda s, c: 0.5 * c.beta_dpo),
    "beta-missing": wrong("β|beta", strength=lambda s, c: 1.0),
    "beta-squared": wrong("β|beta", strength=lambda s, c: c.beta_dpo**2),
    "anchor-missing": wrong("subtracted is missing|reference|anchor|v_ref", anchor=lambda s, c: 0 * Dpo.anchor(s, c)),
    "anchor-live": wrong("reference|anchor|live|v_ref", anchor=lambda s, c: s.error(c, c.v_theta).detach()),
    "anchor-neighbour": wrong("neighbour|another sample", anchor=lambda s, c: Dpo.anchor(s, c).roll(1)),
    "anchor-averaged": wrong("averag|mean", anchor=lambda s, c: _all_alike(Dpo.anchor(s, c))),
    "others-missing": wrong(
        "partner|group|other", others=lambda s, c: torch.zeros_like(s.error(c, c.v_theta).detach())
    ),
    "others-sign": wrong(
        "added up|partner|group|other|sign",
        others=lambda s, c: -s.style.cast(c.partner_gap if s.algorithm == "diffusion_dpo" else c.group_gap),
    ),
    "others-neighbour": wrong(
        "neighbour|another sample",
        others=lambda s, c: s.style.cast(c.partner_gap if s.algorithm == "diffusion_dpo" else c.group_gap).roll(1),
    ),
    "sigmoid-missing": wrong("margin itself|sigmoid|log", link=lambda s, c, x: -x),
    "logarithm-missing": wrong("log", link=lambda s, c, x: -torch.sigmoid(x)),
    "hinge": wrong("margin itself|hinge|sigmoid|relu", link=lambda s, c, x: torch.relu(1 - x)),
    "squared-margin": wrong("ipo|squared|sigmoid", link=lambda s, c, x: (x - 0.5) ** 2),
    "over-beta": wrong("β|beta", link=lambda s, c, x: -functional.logsigmoid(x) / c.beta_dpo),
    "margin-averaged": wrong(
        "averag|mean", margin=lambda s, c: _all_alike((Dpo if s.algorithm == "diffusion_dpo" else Dgpo).margin(s, c))
    ),
}
PREFERENCE = {
    "preference-neighbour": wrong("neighbour|another sample", preference=lambda s, c: Dpo.preference(s, c).roll(1)),
    "winners-alone": wrong("lose|winner|dropped", per_sample=lambda s, c: Dpo.per_sample(s, c) * (c.preference > 0)),
    "half-preference": wrong("half|β|0.5", preference=lambda s, c: Dpo.preference(s, c) / 2),
}

_LINEAR = STYLES[:4]
_MATCHED = {**TARGET, **DISTANCE}
_SQUARED = {name: m for name, m in _MATCHED.items() if name not in ("time-weighted", "norm", "fourth-power")}
NEW: tuple[Composed, ...] = (
    *in_turn(Awm, _LINEAR, each({**_MATCHED, **ADVANTAGE, **BATCH, **OUTER})),
    *in_turn(AwmReference, _LINEAR, each(REFERENCE)),
    *in_turn(Fpo, STYLES, each({**RATIO, **_SQUARED, **ADVANTAGE, **CLIP, **DUAL})),
    *in_turn(AwmClipped, STYLES, each({**OMEGA, **RATIO, **ADVANTAGE, **CLIP, **TARGET})),
    *in_turn(Rwr, _LINEAR, each({**WEIGHT, **_MATCHED})),
    *in_turn(Awr, _LINEAR, each({**CAPPED, **ADVANTAGE, **TARGET})),
    *in_turn(Nft, _LINEAR, each({**BRANCHES, **_MATCHED, **BATCH})),
    *in_turn(NftAdaptive, STYLES[:2], each({**ADAPTIVE, **BRANCHES})),
    *in_turn(Dpo, _LINEAR, each({**MARGIN, **PREFERENCE, **_SQUARED, **BATCH})),
    *in_turn(Dgpo, _LINEAR, each({**MARGIN, **ADVANTAGE, **TARGET})),
)
"""One mistake each."""

_ALL = {**_MATCHED, **ADVANTAGE, **BATCH, **CLIP, **RATIO}
PAIRS: tuple[Composed, ...] = (
    *in_turn(
        Awm,
        _LINEAR,
        pairs(_ALL, "target-sign+A-mean target-noise+A-abs A-neighbour+summed target-data+other-reduction"),
    ),
    *in_turn(
        Fpo,
        STYLES,
        pairs(_ALL, "log-ratio-twice+unclipped log-ratio-mean+A-abs target-noise+unclipped A-mean+min-for-max"),
    ),
    *in_turn(
        AwmClipped,
        STYLES,
        pairs({**_ALL, **OMEGA}, "omega-missing+A-abs omega-reversed+unclipped omega-averaged+A-mean"),
    ),
    *in_turn(
        Nft,
        _LINEAR,
        pairs({**_ALL, **BRANCHES}, "beta-one+r-averaged r-reversed+target-noise negative-off+target-sign"),
    ),
    *in_turn(
        Dpo,
        _LINEAR,
        pairs(
            {**_ALL, **MARGIN, **PREFERENCE},
            "anchor-missing+beta-half target-noise+preference-neighbour anchor-missing+target-noise",
        ),
    ),
    *in_turn(Rwr, _LINEAR, pairs({**_ALL, **WEIGHT}, "temperature-one+target-sign softmax+target-noise")),
)
"""Two mistakes each."""
