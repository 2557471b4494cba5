r"""Whether its gradient is the derived one, in every regime of problems, and its value the stated one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product

import torch
from torch import Tensor

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.devices import dtype_name
from gradcheck.judging.results import Outcome
from gradcheck.oracle.drawn import made
from gradcheck.oracle.judge import (
    Judge,
    Look,
    compare_over,
    first_failure,
    gradient_on,
    look,
    look_at_gradient,
    together,
)
from gradcheck.oracle.problem import effective_case, working_dtype
from gradcheck.oracle.required import overall_factor, required_of
from gradcheck.oracle.roughness import roughness
from gradcheck.problems.building import Spec
from gradcheck.problems.regimes import AdvantageRegime, MarginRegime, NoiseRegime, PolicyRegime
from gradcheck.rounding.compare import judgeable, required_gradients, value_scale


def check_finite(judge: Judge) -> Outcome:
    def wrong(case: Case) -> str:
        wanted = judge.required(case)
        observed = judge.observe(case).gradient
        bad = ~observed.isfinite() & judgeable(wanted.gradient, wanted.scale, wanted.dtype)
        if not bool(bad.any()):
            return ""
        at = tuple(int(i) for i in bad.nonzero()[0])
        return f"the gradient is {float(observed[at])} at {at}, where {float(wanted.gradient[at]):.6g} is required"

    policies: tuple[PolicyRegime, ...] = (
        ("off", "far") if Piece.RATIO in judge.conventions.derivation.pieces else ("off",)
    )
    every = (judge.specs(policy=policy, time="mixed", advantage="mixed") for policy in policies)
    outcome = first_failure(judge, chain.from_iterable(every), wrong)
    if outcome.status == "failed" or not _has_margin(judge):
        return outcome
    again = [outcome]
    for dtype in dict.fromkeys((judge.dtype, torch.float32)):
        few = replace(judge, dtype=dtype, max_examples=_few(judge))
        specs = few.specs(policy="off", advantage="typical", time="middle", margin=_farthest(dtype))
        again.append(first_failure(few, specs, wrong))
    return together(again)


def _farthest(dtype: torch.dtype) -> MarginRegime:
    """Margins beyond a precision's exponentials, which end at e^±88 to e^±103 in float32, e^±709 in float64."""
    return "beyond" if dtype == torch.float64 else "far"


def _few(judge: Judge) -> int:
    """How many problems a regime gets that is visited besides the ordinary ones."""
    return min(judge.max_examples, 2)


def _has_margin(judge: Judge) -> bool:
    """Whether something of the loss stands in a sigmoid, or in an exponential that is no ratio."""
    return bool({"partner_gap", "group_gap", "reward"} & set(judge.conventions.derivation.canonical.given))


def check_gradient(judge: Judge) -> Outcome:
    """Where rounding leaves nothing of the gradient itself, the implementation cannot be judged at all."""
    outcome = gradient_on(judge, policy="mixed", time="middle")
    if outcome.status == "skipped":
        return replace(outcome, status="unjudged")
    if outcome.status == "passed":
        outcome = together([outcome, *_rare(judge)])
    return _systematic(judge) or outcome if outcome.status == "passed" else outcome


def _rare(judge: Judge) -> Iterator[Outcome]:
    """Problems of regimes that no mixed batch holds, each in several of them at once."""
    given = set(judge.conventions.derivation.canonical.given)
    own = "noise_level" in given and "noise_level" not in judge.conventions.fixed
    noises: tuple[NoiseRegime, ...] = ("full", "tiny") if own else ("typical", "typical")
    advantages = {Piece.ADVANTAGE, Piece.OPTIMALITY} & judge.conventions.derivation.pieces
    rare: tuple[AdvantageRegime, ...] = ("good", "bad", "unit", "equal", "tiny", "huge") if advantages else ("typical",)
    for i, advantage in enumerate(rare):
        batch, latent = ((4, (3, 5)), (3, (2, 7)), (5, (2, 1, 3)))[i % 3]
        spec = Spec(
            judge.batch or batch,
            judge.latent or latent,
            seed=judge.seed * 1_000_003 + 77 + i,
            policy="off",
            advantage=advantage,
            time=("same", "between", "pairs")[i % 3],
            noise=noises[i % 2] if i < 4 else "typical",
        )
        yield compare_over(judge, iter([spec]), lambda case: look_at_gradient(judge, case))
    if _has_margin(judge):
        few = replace(judge, max_examples=_few(judge))
        for margin in ("wide", _farthest(judge.dtype)):
            yield gradient_on(few, policy="off", advantage="typical", time="middle", margin=margin)


_MOST_ROUGH = 3


def _systematic(judge: Judge) -> Outcome | None:
    """An error that a declared lower precision allows for, and that is not its rounding; ``None`` if there is none."""
    if judge.conventions.working_dtype is None:
        return None
    specs = judge.specs(policy="off", advantage="typical", time="middle")
    for spec, count in zip(specs, range(1, _MOST_ROUGH + 1), strict=False):
        case = judge.case(spec)
        dtype = working_dtype(judge.conventions, case)
        if dtype == case.output.dtype:
            return None  # the cases are of that precision themselves
        found = roughness(judge, case, dtype)
        if bool(found.is_systematic.any()):
            name = dtype_name(dtype)
            detail = (
                f"off by a relative {found.relative:.2g} that stays when the inputs move: "
                f"not {name}'s rounding, which would be drawn anew"
            )
            return Outcome("failed", count, math.inf, detail, spec=spec)
    return None


def as_computed(judge: Judge) -> Judge:
    """The same judge without a declared precision: what its cases' own precision demands."""
    return replace(judge, conventions=replace(judge.conventions, working_dtype=None))


def check_equivalence(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        required, scale, dtype = squared_distance_gradient(judge, case)
        return look(judge.observe(case).gradient, required, scale, dtype)

    output = judge.conventions.derivation.output.name
    meaning = f"required is the gradient of weight · ‖{output} − sg(target)‖², by autograd"
    return compare_over(judge, judge.specs(policy="mixed", time="middle"), one, meaning=meaning)


def squared_distance_gradient(judge: Judge, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    """Autograd of the equivalent loss, its error scale, and the precision that this is for."""
    return judge.made(_squared_distance_gradient, case)


def _squared_distance_gradient(conventions: Conventions, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    effective, factor = effective_case(conventions, case), overall_factor(conventions, case)
    wanted = made(required_of, conventions, case)
    _, _, required, pull, _ = required_gradients(conventions.derivation, effective, False, wanted.dtype)
    scale = wanted.scale + abs(factor) * (pull + required.abs())  # the implementation's own rounding, and that of this
    scale = torch.where(wanted.undecided, torch.inf, scale)  # 'clip' judges these
    return factor * required, scale, wanted.dtype


def check_value(judge: Judge) -> Outcome:
    def one(case: Case) -> Look:
        required, scale, dtype = stated_value(judge, case)
        return look(judge.observe(case).loss.reshape(-1), required, scale, dtype)

    meaning = "observed is the loss that was returned, required the stated one"
    return compare_over(judge, judge.specs(policy="mixed", time="middle"), one, meaning=meaning)


def stated_value(judge: Judge, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    """The loss that the declaration states, reduced as declared, its error scale, and the precision of that."""
    return judge.made(_stated_value, case)


def _stated_value(conventions: Conventions, case: Case) -> tuple[Tensor, Tensor, torch.dtype]:
    derivation = conventions.derivation
    effective, dtype = effective_case(conventions, case), working_dtype(conventions, case)
    (loss,) = evaluate(derivation, effective, derivation.loss, dtype=torch.float64)
    scale = value_scale(derivation, effective, derivation.inline(derivation.loss), dtype)
    per_sample, error = loss.reshape(-1), (scale + 2 * loss.abs()).reshape(-1)
    if conventions.batch_reduction == "none":
        required, bound = per_sample, error
    else:
        count = len(per_sample) if conventions.batch_reduction == "mean" else 1
        required = (per_sample.sum() / count)[None]
        bound = ((error + len(per_sample) * per_sample.abs()).sum() / count)[None]
    factor = conventions.factor * conventions.policy_factor  # the effective case has the KL's weight over the latter
    return factor * required, abs(factor) * bound, dtype


def check_on_policy(judge: Judge) -> Outcome:
    outcome = gradient_on(judge, policy="on-policy", time="middle")
    if outcome.status == "failed" or Piece.ANCHOR not in judge.conventions.derivation.canonical.pieces:
        return outcome
    return together([outcome, gradient_on(replace(judge, max_examples=_few(judge)), policy="start", time="middle")])


def check_clip(judge: Judge) -> Outcome:
    outcomes = [gradient_on(judge, policy=policy, time="middle") for policy in ("inside", "outside", "far")]
    if Piece.RATIO in judge.conventions.derivation.pieces:
        outcomes.append(compare_over(judge, _in_widths(judge), lambda case: look_at_gradient(judge, case)))
        few = replace(judge, max_examples=min(judge.max_examples, 4))
        outcomes.append(gradient_on(few, policy="ratios", advantage="typical", time="middle"))
        few = replace(judge, max_examples=_few(judge))
        outcomes.append(gradient_on(few, policy="huge-ratios", advantage="typical", time="middle"))
    return together(outcomes)


def _in_widths(judge: Judge) -> Iterator[Spec]:
    """Many samples from well inside the clip to far beyond it, so that one at other edges is seen in any precision."""
    clips = (0,) if "clip_low" in judge.conventions.fixed else (0, 3)
    for i, (clip, latent) in enumerate(product(clips, ((3,), (2, 3)))):
        sizes = judge.batch or _MANY, judge.latent or latent
        yield Spec(*sizes, judge.seed + 700 + i, policy="widths", advantage="typical", time="middle", clip=clip)


_MANY = 96


def check_zero_advantage(judge: Judge) -> Outcome:
    return gradient_on(judge, policy="off", advantage="zero", time="middle")


def check_kl(judge: Judge) -> Outcome:
    """The reference term alone: no advantage, so that nothing else is left of a policy gradient."""
    outcome = gradient_on(judge, policy="near", advantage="zero", time="middle")
    few = replace(judge, max_examples=_few(judge))
    return together([outcome, gradient_on(few, policy="start", advantage="zero", time="middle")])


def check_edge_times(judge: Judge) -> Outcome:
    both = chain(judge.specs(time="near-data"), judge.specs(time="near-noise"))
    return compare_over(judge, both, lambda case: look_at_gradient(judge, case))
