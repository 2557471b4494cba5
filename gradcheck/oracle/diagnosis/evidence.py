"""The evidence: a few well-conditioned problems in float64, and what the implementation made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from derivations import notation as n
from derivations.derivation import Derivation
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.oracle.arrangement import unit
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.mistakes import Mistake, Prediction, Trial
from gradcheck.oracle.mistakes.places import stated
from gradcheck.oracle.problem import effective_case, working_dtype
from gradcheck.oracle.required import Required, output_unit, overall_factor, required_of
from gradcheck.problems.building import Spec, complete
from gradcheck.problems.regimes import AdvantageRegime, PolicyRegime
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff

__all__ = [
    "SHAPES",
    "SPREAD",
    "Evidence",
    "evidence_of",
    "evidence_on",
    "explains",
    "lengths",
    "observe",
    "plain",
    "rows_of",
    "spread",
]

SHAPES = ((4, (3, 5)), (6, (2, 3, 4)), (3, (13,)), (5, (2, 2, 5)), (4, (2, 3, 2, 3)))
"""Batch and latent of the problems, one after the other."""


_FAINT = 0.02
"""A share of the problem's largest gradient that counts as rounding at most, however coarse the precision is."""
_EQUAL = 1e-8
"""Relative distance below which two gradients are one: far above rounding here, far below any two mistakes."""


@dataclass(frozen=True)
class Evidence:
    """One problem, and what the implementation made of it.

    Attributes:
        spec: what the problem was drawn from.
        conventions: the declaration.
        case: the problem.
        observed: the implementation's gradient.
        wanted: the required one, on each branch that rounding leaves open.
        slack: what a gradient may be off besides, where the problem is an extreme one.
    """

    spec: Spec
    conventions: Conventions
    case: Case
    observed: Tensor
    wanted: Required
    slack: float = 1.0

    @property
    def required(self) -> Tensor:
        return self.wanted.gradient

    @property
    def scale(self) -> Tensor:
        return self.wanted.scale

    def fits(self, predicted: Tensor | Prediction) -> tuple[Tensor, Tensor]:
        """Per sample: whether the observed gradient is the predicted one, and whether that could be judged.

        Where rounding leaves a comparison open, in the prediction or in the required gradient, either branch is right.
        """
        if isinstance(predicted, Tensor):
            return self._fits(predicted)
        same, judged = self._fits(predicted.gradient, predicted.loose.cpu())
        open_, either = predicted.undecided.cpu() | self.undecided, same
        for other in predicted.others:
            either = either | (open_ & self._fits(other, predicted.loose.cpu())[0])
        return either, judged & (same | ~either)

    def allows(self, predicted: Tensor | Prediction) -> bool:
        """Whether the observed gradient of every sample that can be judged is the predicted one, on either branch."""
        if isinstance(predicted, Prediction):  # most are out by a sample whose branch nothing leaves open
            same, _ = self._fits(predicted.gradient, predicted.loose.cpu())
            if not bool((same | predicted.undecided.cpu() | self.undecided).all()):
                return False
        return bool(self.fits(predicted)[0].all())

    @cached_property
    def _seen(self) -> tuple[Tensor, Tensor, Tensor]:
        """The observed gradient as rows, their lengths, and which are finite."""
        seen = rows_of(self.observed)
        return seen, lengths(seen), seen.isfinite().all(1)

    def _fits(self, predicted: Tensor, loose: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        (seen, length, finite), other = self._seen, rows_of(predicted)
        judged = finite & other.isfinite().all(1)
        distance, size = lengths(seen - other), torch.maximum(length, lengths(other))
        return ~judged | (distance <= (self.equal + loose) * size + self.rounding), judged

    def nearer(self, predicted: Tensor | Prediction) -> Tensor:
        """Per sample, the distance of the observed gradient from the predicted one, by that from the required one."""
        gradients = (predicted,) if isinstance(predicted, Tensor) else (predicted.gradient, *predicted.others)
        seen = rows_of(self.observed)
        away = torch.stack([lengths((seen - rows_of(x)).nan_to_num(0.0, 0.0, 0.0)) for x in gradients]).amin(0)
        return away / lengths((seen - rows_of(self.required)).nan_to_num(0.0, 0.0, 0.0)).clamp(min=1e-300)

    def explained_by(self, seen: Tensor) -> Tensor:
        """Per sample, whether another observed gradient is the required one."""
        return replace(self, observed=seen).fits(self.required)[0]

    @cached_property
    def undecided(self) -> Tensor:
        """Samples whose clip branch the precision does not decide in the required gradient, (B,)."""
        found: Tensor = self.wanted.undecided.cpu().reshape(-1).expand(len(self.case.output))
        return found

    @cached_property
    def rounding(self) -> Tensor:
        """What rounding may leave of a gradient that should be 0, per sample."""
        u = unit_roundoff(working_dtype(self.conventions, self.case))
        noise = THRESHOLD * u * lengths(rows_of(self.scale).nan_to_num(0.0, 0.0, 0.0))
        return noise + min(1e3 * u, _FAINT) * float(lengths(rows_of(self.required)).nan_to_num(0.0, 0.0, 0.0).amax())

    @cached_property
    def equal(self) -> float:
        """Relative distance below which two gradients are one."""
        rounded = 4 * output_unit(self.conventions)
        u = unit_roundoff(working_dtype(self.conventions, self.case))
        return max(self.slack * max(_EQUAL, 64 * u), rounded)

    @cached_property
    def wrong(self) -> Tensor:
        """Samples that call for an explanation."""
        same, judged = self._fits(self.required)
        for other, _ in self.wanted.ways()[1:]:
            same = same | (self.undecided & self._fits(other)[0])
        return judged & ~same

    @cached_property
    def trial(self) -> Trial:
        """The problem as the loss sees it, on which mistakes in it are tried."""
        effective = effective_case(self.conventions, self.case)
        own = stated(self.conventions.derivation)
        return Trial(effective, own, working_dtype(self.conventions, self.case), unit(self.conventions))

    @cached_property
    def loose(self) -> Tensor:
        """How far rounding may put each sample's length off, relative to it, (B,): its ratio's rounding."""
        return self.trial.loose.cpu()

    @cached_property
    def _trials(self) -> dict[tuple[int, float | None, float], Trial]:
        """By the loss, and by what makes the case that it sees: the advantage's clamp, and the policy's factor."""
        return {}

    def under(self, other: Conventions) -> Trial:
        """The problem as the loss of another declaration sees it.

        Raises:
            KeyError: that loss asks for a quantity that the case does not have.
        """
        derivation = other.derivation
        key = id(derivation), other.adv_clip_max, other.policy_factor
        known = self._trials.get(key)
        if known is None:
            missing = [name for name in derivation.given if name not in self.case.names and name != "D"]
            if missing:
                raise KeyError(missing[0])
            effective = effective_case(other, self.case)
            known = Trial(
                effective, stated(derivation), working_dtype(self.conventions, self.case), unit(self.conventions)
            )
            self._trials[key] = known
        return known

    @cached_property
    def _predictions(self) -> dict[int, Prediction]:
        return {}

    def predicted(self, mistake: Mistake) -> Prediction:
        """What a mistake predicts here, under the declared conventions."""
        known = self._predictions.get(id(mistake))
        if known is not None:
            return known
        trial = self.trial
        if mistake.stated is not trial.stated:  # a mistake in other variables is known as a loss of its own
            effective = effective_case(self.conventions, self.case)
            trial = Trial(effective, mistake.stated, working_dtype(self.conventions, self.case), unit(self.conventions))
        found = trial.predict(mistake.edits).times(overall_factor(self.conventions, self.case))
        if mistake.listed:  # one that was composed for a try is gone before the next one, and its id with it
            self._predictions[id(mistake)] = found
        return found


def rows_of(x: Tensor) -> Tensor:
    r"""(B, \*latent) as float64 rows (B, D) on the CPU."""
    return x.detach().to("cpu", torch.float64).flatten(1)


def plain(number: float, slack: float) -> float:
    """The number of the fewest digits that is nearer than the slack, relative to its size; else the number itself."""
    rounded = (float(f"{number:.{digits}g}") for digits in range(1, 6))
    return next((x for x in rounded if abs(x - number) <= slack * abs(number)), number)


def lengths(rows: Tensor) -> Tensor:
    """Length of each row, (B,), without overflow."""
    largest = rows.abs().amax(1, keepdim=True).clamp(min=1e-300)
    length: Tensor = torch.linalg.vector_norm(rows / largest, dim=1) * largest[:, 0]
    return length


def observe(judge: Judge, i: int, policies: tuple[PolicyRegime, ...], advantage: AdvantageRegime) -> Evidence:
    """The i-th problem, and what the implementation makes of it."""
    batch, latent = SHAPES[i % len(SHAPES)]
    clip = 1 if "clip_low" not in judge.conventions.fixed else 0  # an asymmetric one tells its edges apart
    mixed: AdvantageRegime = "mixed" if advantage == "typical" and i % 2 else advantage
    policy = policies[i % len(policies)]
    spec = Spec(batch, latent, seed=7_000 + i, policy=policy, advantage=mixed, time="middle", clip=clip)
    return evidence_on(judge, spec)


def evidence_on(judge: Judge, spec: Spec, slack: float = 1.0) -> Evidence:
    """What the implementation makes of a problem."""
    return evidence_of(judge, spec, judge.case(spec), slack)


def evidence_of(judge: Judge, spec: Spec, case: Case, slack: float = 1.0) -> Evidence:
    """The same of a case that was drawn from a specification, or changed since."""
    wanted = required_of(judge.conventions, case)
    return Evidence(spec, judge.conventions, case, judge.observe(case).gradient, wanted, slack)


_FAR_OFF = 1e3
"""How much more a gradient may be off there: log-probabilities far off are large, and lose digits in the ratio."""
_WIDE = 40
"""Samples of a spread problem, and half of one where a divergence has a bound."""


SPREAD = 5
"""How many such problems there are: three at all distances, and two whose ratios are rare, up to 50 and beyond e²⁰."""


def spread(judge: Judge, i: int) -> Evidence:
    """A problem whose samples lie at all distances from the old policy, so that edges are seen wherever they are.

    Two hypotheses that differ in a threshold alone predict the same on ordinary problems.
    """
    latent = SHAPES[i % len(SHAPES)][1]
    if i >= SPREAD - 2:
        rare: Literal["ratios", "huge-ratios"] = "ratios" if i == SPREAD - 2 else "huge-ratios"
        spec = Spec(_WIDE, latent, seed=8_000 + i, policy=rare, advantage="typical", time="middle")
        return evidence_of(judge, spec, judge.case(spec), _FAR_OFF)
    clip = 1 if "clip_low" not in judge.conventions.fixed else 0
    derivation = judge.conventions.derivation
    samples = 2 * _WIDE if Piece.DIVERGENCE in derivation.pieces else _WIDE
    spec = Spec(samples, latent, seed=8_000 + i, policy="off", advantage="typical", time="middle", clip=clip)
    case = judge.case(spec)
    pairs = {n.v_theta: n.v_old, n.noise_theta: n.noise_old, n.x_0_theta: n.x_0_old}
    old = pairs[derivation.output].name
    if old in case.names:
        generator = torch.Generator().manual_seed(i)
        count = len(case.output)  # in whole pairs, groups or rows
        exponents = 4.5 * torch.rand(count, generator=generator, dtype=torch.float64) - 3
        sign = torch.where(torch.rand(count, generator=generator, dtype=torch.float64) < 0.5, -1.0, 1.0)
        v, start = case.output.detach(), getattr(case, old)
        size = case.expand((sign * 10**exponents).to(v))
        given = {name: getattr(case, name) for name in derivation.given} | {
            case.output_name: start + size * (v - start)
        }
        if Piece.DIVERGENCE in derivation.pieces:
            given |= _beyond_the_state(derivation, case, given[case.output_name], generator)
        rest = {x: getattr(case, x) for x in case.names if x not in given and x not in derivation.defined}
        case = complete(derivation, given, case.output.device, rest)
    return evidence_of(judge, spec, case, _FAR_OFF)


def _beyond_the_state(derivation: Derivation, case: Case, v: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Noise and outputs with which the mean of every other sample lies beyond the sampled state.

    Elsewhere the ratio falls as exp(−d): where a bound on d is passed by far, nothing is left of the gradient, and two
    measures that differ there look alike.  Beyond the state the ratio stays near 1 however large d is: with
    μ_θ = μ_old + α C2 ε and q = ‖ε‖²/2 (over D where the log-probability is averaged), log r = (2α − α²) q and
    d = α² q, so that α = 1 + √(1 − log r/q).
    """
    noise, count = case.noise, len(case.output)
    far, near, sign = torch.rand(3, count, generator=generator, dtype=torch.float64)
    half = case.divergence_max * 10 ** (6 * far - 3)
    log_ratio = torch.where(sign < 0.5, -1.0, 1.0) * half.clamp(max=1.0) * near
    averaged = Piece.AVERAGED in derivation.pieces
    now = lengths(rows_of(noise)) ** 2 / (2 * noise[0].numel() if averaged else 2)
    alpha = 1 + (1 - log_ratio / half).sqrt()
    longer = case.expand((half / now).sqrt().to(noise)) * noise
    beyond = getattr(case, case.output_name.replace("theta", "old")) - case.expand(alpha * case.C2 / case.C1) * longer
    moved = case.expand(torch.arange(count) % 2 == 0)
    return {"noise": torch.where(moved, longer, noise), case.output_name: torch.where(moved, beyond, v)}


_NEARER = 0.5
"""In the median the observed gradients lie this much nearer to what a cause predicts than to the required ones: in a
coarse precision a tolerance may hold both."""


def explains(evidence: list[Evidence], predict: Callable[[Evidence], Tensor | Prediction]) -> bool:
    """Whether a hypothesis predicts every sample that can be judged, among them at least half of the wrong ones.

    Samples whose branch rounding leaves open say nothing either way.
    """
    explained, wrong = [], sum(int((e.wrong & ~e.undecided).sum()) for e in evidence)
    for e in evidence:
        predicted = predict(e)
        if not e.allows(predicted):
            return False
        _, judged = e.fits(predicted)
        explained.append(e.nearer(predicted)[e.wrong & judged])
    nearer = torch.cat(explained)
    if len(nearer) == 0 or 2 * len(nearer) < wrong or float(nearer.median()) > _NEARER:
        return False
    return float(nearer.median()) <= max(_ALIKE, _TIMES_FARTHER * _off_a_multiple(evidence))


_ALIKE, _TIMES_FARTHER = 1e-6, 4.0
"""In a coarse precision a mistake may fit where one factor throughout is what was made: the batch's size, 2 to 5, where
it is 4.  What is as near as this is as good; what is so many times farther away than the factor is not the cause."""


def _off_a_multiple(evidence: list[Evidence]) -> float:
    """How near, in the median, the observed gradients are to one multiple of the required ones."""
    factors = torch.cat([_along(e)[e.wrong & ~e.undecided] for e in evidence])
    if len(factors) == 0:
        return math.inf
    factor = float(factors.median())
    return float(torch.cat([e.nearer(factor * e.required)[e.wrong & ~e.undecided] for e in evidence]).median())


def _along(e: Evidence) -> Tensor:
    """Per sample, the multiple of the required gradient that lies nearest to the observed one."""
    seen, wanted = (rows_of(x).nan_to_num(0.0, 0.0, 0.0) for x in (e.observed, e.required))
    return (seen * wanted).sum(1) / (wanted * wanted).sum(1).clamp(min=1e-300)
