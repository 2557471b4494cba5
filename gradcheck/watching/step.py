r"""One step judged: every check that can be made of what was given, put together to a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradcheck.watching.causes import causes, declared_otherwise
from gradcheck.watching.consistent import check_given, check_guidance, check_times
from gradcheck.watching.constants import Constants
from gradcheck.watching.declared import Declared
from gradcheck.watching.evidence import evidence_of
from gradcheck.watching.faults import Checked, Fault
from gradcheck.watching.given import Given, Problem
from gradcheck.watching.judge import Seen, judge_step
from gradcheck.watching.lines import StepLine
from gradcheck.watching.policy import check_on_policy, check_reference, check_refreshed
from gradcheck.watching.precision import Precision
from gradcheck.watching.problem import StepProblem, step_problem
from gradcheck.watching.rewards import check_advantages
from gradcheck.watching.state import check_state

__all__ = ["Context", "Judgement", "judge_call"]


@dataclass
class Context:
    """What holds for every step.

    Attributes:
        declared: the loss.
        constants: ``accumulation``, ``world_size``, ``loss_scale``, those that were given.
        sigmas: the scheduler's grid.
        on_policy: whether no update lies between a rollout and its steps.
        told: a constant of which nobody said anything, as it was at the first step.
        complete: names of calls from which a problem could be made.
    """

    declared: Declared
    constants: Mapping[str, Any]
    sigmas: Tensor | None = None
    on_policy: bool | None = None
    told: str | None = None
    complete: set[frozenset[str]] = field(default_factory=set)

    @property
    def output_name(self) -> str:
        return self.declared.derivation.output.name

    def also(self, given: Given | None) -> list[Problem]:
        """Fill in what holds for every step, and say what is still missing."""
        if given is None:
            return []
        if self.sigmas is not None:
            given.extra.setdefault("sigmas", self.sigmas)
        index, grid = given.samples.get("step_index"), given.extra.get("sigmas")
        if index is not None and grid is not None and "t" not in given.samples:
            inside = (index >= 0) & (index < len(grid) - 1) & (index == index.round())
            if not bool(inside.all()):
                wanted = f"places from 0 to {len(grid) - 2} on the grid of {len(grid)} times"
                return [("step_index", f"{float(index[~inside][0]):g}", wanted)]
        names = frozenset(given.names | given.extra.keys())
        if names in self.complete:
            return []  # what is wrong with its numbers is told when it is judged
        problems = _missing(self.declared, given)
        if not problems:
            self.complete.add(names)
        return problems

    def constants_of(self, given: Given) -> Constants:
        values = dict(self.constants)
        values |= {k: given.extra[k] for k in ("accumulation", "loss_scale") if k in given.extra}
        numbers = {name: _number(x) for name, x in values.items()}
        batch, size = given.batch, math.prod(given.output.shape[1:])
        declared = bool(numbers) or self.declared.constant_declared
        return Constants(numbers, batch, size, declared)


def _number(value: Any) -> float:
    """A number, or a GradScaler's."""
    return float(value.get_scale()) if hasattr(value, "get_scale") else float(value)


def _missing(declared: Declared, given: Given) -> list[Problem]:
    """Whether the problem could be made, without making anything of the latents' size."""
    few = replace(
        given,
        output=given.output.detach().flatten(1)[:, :1],
        latents={name: x.flatten(1)[:, :1] for name, x in given.latents.items()},
        live={},
    )
    with torch.no_grad():
        _, problems = step_problem(declared.conventions, few)
    return problems


@dataclass
class Judgement:
    """A step's line, and what could not be checked."""

    line: StepLine
    seen: Seen | None
    unchecked: dict[str, str] = field(default_factory=dict)

    def with_checks(self, checks: list[Checked], rank: int, seconds: float) -> StepLine:
        """The line with the checks that were made after the backward pass."""
        line = _with(self.line, checks)
        self.unchecked |= {c.name: c.unchecked for c in checks if c.unchecked}
        return replace(line, rank=rank, seconds=round(seconds, 6))

    def as_before(self, line: StepLine, before: StepLine) -> StepLine:
        """A wrong step whose cause is not looked for again."""
        return replace(line, causes=before.causes, because=f"as at step {before.step}: {before.because}")


def _with(line: StepLine, checks: list[Checked]) -> StepLine:
    faults = [f for c in checks for f in c.faults]
    statuses = {**line.checks, **{c.name: c.status for c in checks if c.faults or not c.unchecked}}
    if not faults:
        return replace(line, checks=statuses)
    names = dict.fromkeys([*line.causes, *(f.name for f in faults)])
    told = [line.because] if line.verdict == "wrong" else []
    because = "; ".join([*told, *(f.sentence for f in faults)])
    return replace(line, verdict="wrong", causes=tuple(names), because=because, checks=statuses)


def judge_call(
    context: Context,
    step: int,
    given: Given,
    gradient: Tensor,
    network_dtype: torch.dtype | None,
    dropout: Callable[[], str],
    explain: bool,
) -> Judgement:
    """Judge one step, inside its backward pass."""
    problem, missing = step_problem(context.declared.conventions, given)
    if problem is None:
        text = "; ".join(f"{name}: got {got}; wanted {wanted}" for name, got, wanted in missing)
        return Judgement(StepLine(step, "unjudged", because=text), None)
    precision = Precision.of(given, context.declared.conventions.computes_in)
    checks = [
        *check_times(problem, given),
        check_given(problem, given, precision.unit if precision.output is None else 0.0),
        check_guidance(given, precision.unit),
        _advantages(problem, given),
        check_reference(given),
    ]
    note = problem.why
    if bool(problem.left_out.any()):
        keep = ~problem.left_out
        if not bool(keep.any()):
            return Judgement(_with(StepLine(step, "unjudged", because=problem.why), checks), None)
        problem, given, gradient = _rows(problem, given, gradient, keep)
    constants = context.constants_of(given)
    checks.append(check_state(problem, given, _unit(precision)))
    seen = judge_step(problem, gradient, precision, constants)
    if given.extra.get("on_policy") is True:
        checks.append(check_on_policy(problem, given, network_dtype, seen.ratios, dropout()))
    elif given.extra.get("on_policy") is False and given.moved:
        checks.append(check_refreshed(problem, given, network_dtype))
    line = _line(context, step, problem, given, gradient, precision, constants, seen, note, explain)
    unchecked = {c.name: c.unchecked for c in checks if c.unchecked and c.name not in ("state", "reference")}
    return Judgement(_with(line, checks), seen, unchecked)


def _unit(precision: Precision) -> float:
    return float(torch.finfo(precision.loss).eps) / 2


def _rows(problem: StepProblem, given: Given, gradient: Tensor, keep: Tensor) -> tuple[StepProblem, Given, Tensor]:
    """Some samples alone; the loss still averages over all."""
    total = given.batch
    there = keep.to(gradient.device)
    kept = replace(
        given,
        output=given.output[there],
        latents={name: x[there] for name, x in given.latents.items()},
        samples={name: x[keep] for name, x in given.samples.items()},
    )
    own = problem.rows(keep)
    if problem.conventions.batch_reduction == "mean":
        share = int(keep.sum()) / total
        own = replace(own, conventions=replace(own.conventions, factor=own.conventions.factor * share))
    return own, kept, gradient[there]


def _advantages(problem: StepProblem, given: Given) -> Checked:
    advantage, reward = given.samples.get("advantage"), given.samples.get("reward")
    clamp = problem.conventions.adv_clip_max
    if advantage is None and "reward_prob" in given.samples:
        advantage, clamp = 2 * given.samples["reward_prob"] - 1, 1.0
    if advantage is None or reward is None or "reward" in problem.derivation.given:
        return Checked("advantages", unchecked="reward was not given")
    return check_advantages(advantage, reward, given.samples.get("group"), whole=False, clamp=clamp)


def _line(
    context: Context,
    step: int,
    problem: StepProblem,
    given: Given,
    gradient: Tensor,
    precision: Precision,
    constants: Constants,
    seen: Seen,
    note: str,
    explain: bool,
) -> StepLine:
    result = seen.judged.comparison
    ratios = seen.ratios
    line = StepLine(
        step,
        "conforms",
        because=note,
        ratio=result.ratio,
        resolution=seen.resolution,
        factor=seen.constant.formula,
        factor_value=seen.constant.value,
        importance_ratio=None if ratios is None else (float(ratios.min()), float(ratios.max())),
        judged=result.judged,
        checks={"gradient": "holds"},
    )
    if not bool(gradient.isfinite().all()):
        return _not_finite(line, given, gradient, constants)
    if seen.holds and not seen.constant.cause:
        return _constant_told(context, line, seen, constants)
    line = replace(line, verdict="wrong", checks={"gradient": "fails"})
    if seen.holds:
        own = Fault(seen.constant.cause, seen.constant.because)
        found = [own]
        if own.name in ("mean-for-sum", "sum-for-mean"):
            found = [*declared_otherwise(evidence_of(problem, given, gradient, constants.expected, precision)), own]
        return replace(line, causes=tuple(f.name for f in found), because="; ".join(f.sentence for f in found))
    if not all(bool(x.isfinite().all()) for x in (given.output, *given.latents.values())):
        names = [k for k, x in {given.output_name: given.output, **given.latents}.items() if not x.isfinite().all()]
        return replace(line, verdict="unjudged", because=f"{', '.join(names)} is not finite", checks={})
    line = replace(line, factor=None, factor_value=None)
    if not explain:
        return replace(line, causes=("gradient",), because="the gradient is not the derived one")
    constant = constants.expected
    found = causes(evidence_of(problem, given, gradient, constant, precision), seen)
    return replace(line, causes=tuple(f.name for f in found), because=_because(found, seen))


def _not_finite(line: StepLine, given: Given, gradient: Tensor, constants: Constants) -> StepLine:
    inputs = {given.output_name: given.output, **given.latents}
    already = [name for name, x in inputs.items() if not bool(x.isfinite().all())]
    # in float16 alone a loss scale takes a gradient out of range, and GradScaler lowers it
    narrow = already or gradient.dtype == torch.float16
    if "loss_scale" in constants.given and narrow:
        because = f"{', '.join(already) or 'the gradient'} overflows at this loss scale; GradScaler skips the step"
        return replace(line, verdict="unjudged", because=because, checks={}, ratio=None)
    bad = (~gradient.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    where = f"{len(bad)} of {len(gradient)} samples ({', '.join(map(str, bad[:5]))}{' …' if len(bad) > 5 else ''})"
    sentence = f"the gradient in {given.output_name} is not finite in {where}"
    if already:
        sentence += f", and neither is {', '.join(already)}"
    return replace(line, verdict="wrong", causes=("not-finite",), because=sentence, checks={"gradient": "fails"})


def _constant_told(context: Context, line: StepLine, seen: Seen, constants: Constants) -> StepLine:
    if seen.judged.comparison.lost or not math.isfinite(seen.resolution):
        because = "the required gradient is 0, or lost in rounding: nothing would be seen of a mistake"
        return replace(line, verdict="unjudged", because=because, checks={})
    if not constants.declared:
        if context.told is None:
            context.told = seen.constant.formula
        elif context.told != seen.constant.formula:
            because = f"the whole gradient is times {seen.constant.formula}, and was times {context.told} before"
            return replace(line, verdict="wrong", causes=("factor-changed",), because=because)
    told = "; ".join(x for x in (line.because, seen.constant.because) if x)
    return replace(line, because=told)


def _because(found: list[Fault], seen: Seen) -> str:
    c = seen.judged.comparison
    where = ", ".join(map(str, c.index))
    figures = f"the gradient at ({where}) is {c.observed:.6g}, required {c.required:.6g}"
    if len(found) == 1:
        return f"{found[0].sentence}; {figures}"
    told = "; or: ".join(f"{f.sentence} ({f.name})" for f in found)
    return f"consistent with {len(found)} causes: {told}; {figures}"
