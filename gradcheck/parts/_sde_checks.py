"""The obligations of a reverse step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice, pairwise

import torch
from torch import Tensor

from derivations import notation as n
from gradcheck.case import Case
from gradcheck.judging.adapter import AdapterError, StoppedError
from gradcheck.judging.check import Wrong
from gradcheck.judging.results import Diagnosis, Outcome
from gradcheck.parts._calls import compared, repeated
from gradcheck.parts._sde_subject import Subject
from gradcheck.problems.building import Spec
from gradcheck.rounding.compare import Comparison, compare

__all__ = [
    "check_determinism",
    "check_generator",
    "check_log_prob",
    "check_log_prob_gradient",
    "check_log_ratio",
    "check_mean",
    "check_replay",
    "check_slope",
    "check_std",
    "check_time_grid",
    "has",
    "lacking",
    "no_graph",
    "replay_cause",
    "taken_generator",
]

_Found = Iterator[tuple[Spec | None, Comparison]]


def check_mean(subject: Subject) -> Outcome:
    def each() -> _Found:
        for spec, case in subject.problems():
            mean = subject.call(case, replay=True).mean
            assert mean is not None
            yield spec, subject.compare(mean, subject.formulas.mean, case)

    return compared(each())


def check_std(subject: Subject) -> Outcome:
    def each() -> _Found:
        for spec, case in subject.problems():
            std = subject.call(case, replay=True).std
            assert std is not None
            yield spec, subject.compare(std, subject.formulas.returned, case)

    return compared(each())


def _log_prob(subject: Subject, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Observed, required, error scale, each (B,)."""
    log_prob = subject.call(case, replay=True).log_prob
    assert log_prob is not None
    value, scale = subject.required(subject.formulas.log_prob, case)
    return log_prob.detach(), value.flatten(), scale.flatten()


def check_log_prob(subject: Subject) -> Outcome:
    def each() -> _Found:
        for spec, case in subject.problems():
            yield spec, compare(*_log_prob(subject, case), subject.dtype)

    return compared(each())


def check_log_ratio(subject: Subject) -> Outcome:
    def each() -> _Found:
        for spec, case in subject.problems():
            moved = case.replace(v_theta=(case.v_theta + 0.1 * case.noise).to(subject.dtype))
            (a, wanted_a, scale_a), (b, wanted_b, scale_b) = _log_prob(subject, case), _log_prob(subject, moved)
            ratio = b.to(torch.float64) - a.to(torch.float64)
            yield spec, compare(ratio, wanted_b - wanted_a, scale_a + scale_b, subject.dtype)

    return compared(each())


def check_replay(subject: Subject) -> Outcome:
    def each() -> _Found:
        for spec, case in subject.problems():
            sampled = subject.call(case, replay=False, seed=spec.seed)
            again = case.replace(x_prev=sampled.x_prev.detach())
            replayed = subject.call(again, replay=True, seed=spec.seed + 1)
            if not torch.equal(replayed.x_prev, sampled.x_prev):
                raise Wrong("given the x_prev that it sampled, the function returns another x_prev")
            if sampled.log_prob is not None and replayed.log_prob is not None:
                _, scale = subject.required(subject.formulas.log_prob, again)
                yield spec, compare(replayed.log_prob, sampled.log_prob, scale.flatten(), subject.dtype)

    return compared(each())


def replay_cause(subject: Subject) -> Diagnosis:
    for _, case in subject.problems():
        sampled = subject.call(case, replay=False, seed=3)
        again = case.replace(x_prev=sampled.x_prev.detach())
        if not torch.equal(subject.call(again, replay=True, seed=4).x_prev, sampled.x_prev):
            return Diagnosis(
                "resampled", "the x_prev that is handed in is not used: the step is sampled again, or changed"
            )
    return Diagnosis(
        "stored-rounded",
        "the log-probability of the sampled state is not that of the state returned: it is computed before the state "
        "is cast, clamped or changed, or another formula is used for replay, so that the ratio is not 1 on-policy",
    )


def slope(subject: Subject, case: Case, seed: int) -> Comparison:
    """∂mean/∂v along a direction; without a mean, from two samples that share their noise."""
    wanted, scale = subject.required(subject.formulas.slope, case)
    direction = case.noise
    call = subject.call(case, replay=False, seed=seed, grad=True)
    if subject.convention.differentiable and call.mean is not None:
        if not call.mean.requires_grad:
            raise Wrong("the mean carries no graph to v")
        (gradient,) = torch.autograd.grad(call.mean, call.v, direction, allow_unused=True, materialize_grads=True)
        return compare(gradient, wanted * direction, scale * direction.abs(), subject.dtype)
    moved = case.replace(v_theta=case.v_theta + direction)
    step = (moved.v_theta - case.v_theta).to(torch.float64)
    other = subject.call(moved, replay=False, seed=seed)
    a, b = (call.x_prev, other.x_prev) if call.mean is None or other.mean is None else (call.mean, other.mean)
    rounding = sum(subject.required(subject.formulas.mean, c)[1] for c in (case, moved))
    rounding = rounding + 2 * (a.abs() + b.abs()).detach()
    difference = b.detach().to(torch.float64) - a.detach().to(torch.float64)
    return compare(difference, wanted * step, scale * step.abs() + rounding, subject.dtype)


def check_slope(subject: Subject) -> Outcome:
    return compared((spec, slope(subject, case, spec.seed)) for spec, case in subject.problems())


def check_log_prob_gradient(subject: Subject) -> Outcome:
    f = subject.formulas
    expr = 2 * f.precision * f.slope * (n.x_prev - f.mean)

    def each() -> _Found:
        for spec, case in subject.problems():
            call = subject.call(case, replay=True, grad=True)
            assert call.log_prob is not None
            if not call.log_prob.requires_grad:
                raise Wrong("the log-probability carries no graph to v")
            (gradient,) = torch.autograd.grad(call.log_prob.sum(), call.v, allow_unused=True, materialize_grads=True)
            yield spec, subject.compare(gradient, expr, case)

    return compared(each())


def check_generator(subject: Subject) -> Outcome:
    for count, (spec, case) in enumerate(subject.problems(), 1):
        a, b = (subject.call(case, replay=False, seed=spec.seed, elsewhere=i).x_prev for i in (0, 1))
        if not torch.equal(a, b):
            raise Wrong("two generators of the same seed give different samples")
        if count == 3:
            break
    return Outcome("passed", count)


def check_determinism(subject: Subject) -> Outcome:
    cases = [case for _, case in islice(subject.problems(), 3)]

    def call(i: int, k: int) -> Tensor:
        found = subject.call(cases[i], replay=True, seed=i, elsewhere=k)
        parts = (found.x_prev, found.log_prob, found.mean, found.std)
        return torch.cat([x.detach().to(torch.float64).flatten() for x in parts if x is not None])

    return repeated(call, "states, log-probabilities, means or standard deviations")


def grid(subject: Subject) -> list[float]:
    """The declared time grid, or nine points with shift 3."""
    if subject.convention.schedule is not None:
        return [float(x) for x in subject.convention.schedule]
    return [3 * s / (1 + 2 * s) for s in (i / 8 for i in range(8, -1, -1))]


def check_time_grid(subject: Subject) -> Outcome:
    points = grid(subject)
    if not (len(points) > 1 and points[0] <= 1 and points[-1] == 0 and all(a > b for a, b in pairwise(points))):
        raise Wrong(f"the schedule {_brief(points)} does not decrease strictly from 1 or less to 0")

    def each() -> _Found:
        for i, times in enumerate(pairwise(points)):
            if times[0] == 1 and subject.convention.at_one == "skip":
                continue
            spec = Spec(2, subject.convention.latents[0], 31 * subject.seed + i)
            case = subject.problem(spec, times)
            call = subject.call(case, replay=True)
            for what in (call.x_prev, call.mean, call.std):
                if what is not None and not bool(what.isfinite().all()):
                    pole = Diagnosis(
                        "pole", "σ_t is infinite at t = 1; the next grid value must stand in for t (at_one)"
                    )
                    where = f"the step from t = {times[0]:g} to {times[1]:g} is not finite"
                    raise Wrong(where, pole if times[0] == 1 else None)
            if call.mean is None:
                yield spec, slope(subject, case, i)
            else:
                yield spec, subject.compare(call.mean, subject.formulas.mean, case)
            if call.std is not None:
                yield spec, subject.compare(call.std, subject.formulas.returned, case)
            if call.log_prob is not None and bool((subject.value(subject.formulas.std, case) > 0).all()):
                yield spec, compare(*_log_prob(subject, case), subject.dtype)
            _check_noise(subject, case, i)

    return compared(each())


_LEAST, _MOST = 0.3, 2.0


def _check_noise(subject: Subject, case: Case, seed: int) -> None:
    """A sampled state is off the mean by about the standard deviation, at the last step too.

    The mean square of 40 standard normal numbers is below 0.3² or above 2² once in 10¹³ times, and that of more numbers
    more rarely: several states are sampled where a latent has fewer.
    """
    std, mean = (subject.value(e, case) for e in (subject.formulas.std, subject.formulas.mean))
    if not bool((std > 0).all()):
        return
    states = subject.samples(case, max(1, -(-40 // mean.numel())), seed)
    noise = torch.cat([((x - mean) / std).flatten() for x in states])
    size = float(noise.square().mean().sqrt())
    floor = 64 * torch.finfo(subject.dtype).eps * float((mean.abs() / std).max())  # what rounding adds where S is small
    if not _LEAST < size < _MOST + floor:
        where = f"the step from t = {float(case.t[0]):g} to {float(case.t_prev[0]):g}"
        raise Wrong(f"{where} samples states that are {size:.3g} standard deviations off the mean, in mean square")


def _brief(points: list[float]) -> str:
    shown = [f"{x:.4g}" for x in points]
    return ", ".join(shown if len(shown) < 8 else [*shown[:4], "…", *shown[-3:]])


def taken_generator(subject: Subject) -> str:
    """When the function takes a generator: there are steps that have none, or none where x_prev is given."""
    spec, case = next(subject.problems())
    for when in ("always", "sampling", "never"):
        one = replace(subject, hands_generator=when)
        try:
            for replay in (True, False):
                one.call(case, replay=replay, seed=spec.seed)
        except StoppedError:
            raise
        except AdapterError:
            continue
        except Wrong:
            pass  # what it returns is for the checks to say
        return when
    return "always"


def lacking(subject: Subject) -> frozenset[str]:
    """What the function does not return."""
    spec, case = next(subject.problems())
    try:
        call = subject.call(case, replay=False, seed=spec.seed)
    except Wrong:
        return frozenset()  # the checks themselves say what is wrong
    return frozenset(name for name in ("mean", "std", "log_prob") if getattr(call, name) is None)


def has(*names: str, graph: bool = False) -> Callable[[Subject], str | None]:
    def applies(subject: Subject) -> str | None:
        if graph and not subject.convention.differentiable:
            return "declared as not differentiable"
        lacking = [name for name in names if name in subject.lacks]
        return f"the function returns no {', no '.join(lacking)}" if lacking else None

    return applies


def no_graph(subject: Subject) -> Diagnosis | None:
    _, case = next(subject.problems())
    call = subject.call(case, replay=True, grad=True)
    if all(x is None or x.requires_grad for x in (call.mean, call.log_prob)):
        return None
    return Diagnosis(
        "detached", "computed without a graph: a loss on it has a value and no gradient", "differentiable=False"
    )
