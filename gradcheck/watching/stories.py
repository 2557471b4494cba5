r"""Stories of how a step's gradient may have come about; each predicts the whole gradient."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.oracle.mistakes import Mistake, Trial, mistakes
from gradcheck.oracle.mistakes.places import Stated
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.required import overall_factor
from gradcheck.watching.evidence import Evidence
from gradcheck.watching.faults import Fault
from gradcheck.watching.problem import step_problem

__all__ = ["Story", "of_declaration", "of_factors", "of_loss", "of_trainer"]

Story = tuple[Fault, Callable[[], Tensor | None]]
"""What is told, and the gradient that it predicts."""


def _required(conventions: Conventions, case: Case) -> Tensor:
    effective = effective_case(conventions, case)
    (exact,) = evaluate(conventions.derivation, effective, conventions.derivation.gradient, dtype=torch.float64)
    return overall_factor(conventions, case) * exact.expand(case.output.shape)


def _under(e: Evidence, conventions: Conventions | None = None, **changed: Any) -> Tensor | None:
    """The gradient that a changed call requires; what follows from the call is derived again."""
    latents = {**e.given.latents, **{k: x for k, x in changed.items() if k in e.given.latents}}
    samples = {**e.given.samples, **{k: x for k, x in changed.items() if k in ("t", "dt", "advantage", "reward_prob")}}
    for name in ("t", "dt"):
        if name in e.case.names:
            samples.setdefault(name, getattr(e.case, name))
    if "t" in changed or "dt" in changed:
        samples.pop("t_prev", None)
    numbers = {**e.given.numbers, **{k: x for k, x in changed.items() if k in e.given.numbers}}
    given = replace(e.given, latents=latents, samples=samples, numbers=numbers)
    used = conventions or e.conventions
    if "noise_level" in changed:
        used = replace(used, fixed={k: x for k, x in used.fixed.items() if k != "noise_level"})
        given.numbers["noise_level"] = float(changed["noise_level"])
    problem, missing = step_problem(used, given)
    if problem is None or missing:
        return None
    return _required(used, problem.case)


def of_trainer(e: Evidence) -> Iterator[Story]:
    """What each named mistake of a trainer would give."""
    batch = e.case.output.shape[0]
    own = dict.fromkeys(e.case.names)

    if "advantage" in own and batch > 1:
        for words, order in _orders(batch):
            a = e.case.advantage[order]
            if not torch.equal(a, e.case.advantage):
                yield (
                    Fault("advantage-order", f"the loss has the advantages in another order: {words}"),
                    partial(_required, e.conventions, e.case.replace(advantage=a)),
                )
        a = e.case.advantage
        for words, other in (
            ("every sample has the batch's mean advantage", a.mean().expand(batch)),
            ("every sample has the first one's advantage", a[:1].expand(batch)),
            ("the advantages are centred and scaled once more, within this batch", (a - a.mean()) / (a.std() + 1e-300)),
            ("the advantages are centred once more, within this batch", a - a.mean()),
        ):
            name = "advantage-normalised-twice" if "once more" in words else "advantage-of-another"
            yield Fault(name, words), partial(_required, e.conventions, e.case.replace(advantage=other))
    sigmas = e.given.extra.get("sigmas")
    if sigmas is not None and "dt" in own:
        grid = torch.as_tensor(sigmas).detach().to("cpu", torch.float64).flatten()
        t, dt = e.case.t, e.case.dt
        here, there = ((grid[None] - x[:, None]).abs().argmin(1) for x in (t, t - dt))
        for i, j, words in (
            (here + 1, there + 1, "one place later on the grid"),
            (here - 1, there - 1, "one place earlier on the grid"),
            (here, there + 1, "over two places of the grid"),
        ):
            if bool(((i >= 0) & (j < len(grid))).all()):
                yield (
                    Fault("step-index", f"the index is off: the loss is that of the step {words}"),
                    partial(_under, e, t=grid[i], dt=grid[i] - grid[j]),
                )
    yield from _of_targets(e)
    yield from _of_latents(e)
    if "noise_level" in own:
        for level in (x / 20 for x in range(2, 41)):
            if abs(level - e.case.noise_level) > 1e-6:
                yield (
                    Fault("noise-level", f"the loss is that of noise_level={level:g}; {e.case.noise_level:g} is given"),
                    partial(_under, e, noise_level=level),
                )
    if "t" in own and batch > 1 and not bool((e.case.t == e.case.t[0]).all()):
        samples = {"t": e.case.t, **({"dt": e.case.dt} if "dt" in own else {})}
        yield (
            Fault("one-time", "every sample has the first one's time, also where theirs are others"),
            partial(_under, e, None, **{k: x[:1].expand(batch) for k, x in samples.items()}),
        )
        yield (
            Fault("mean-time", "every sample has the mean time of the batch"),
            partial(_under, e, None, **{k: x.mean().expand(batch) for k, x in samples.items()}),
        )


def _of_targets(e: Evidence) -> Iterator[Story]:
    """What else a network may be trained towards on noised samples."""
    forward = e.conventions.derivation.process == "forward" and e.conventions.prediction == "v"
    if not forward or not {"x_0", "noise"} <= set(e.case.names):
        return
    x_0, noise, zero = e.case.x_0, e.case.noise, torch.zeros_like(e.case.x_0)
    for name, words, target in (
        ("target-sign", "x_0 − noise", {"noise": x_0, "x_0": noise}),
        ("target-noise", "the noise", {"noise": noise, "x_0": zero}),
        ("target-data", "x_0", {"noise": x_0, "x_0": zero}),
    ):
        sentence = f"the network is trained towards {words}; its velocity is noise − x_0"
        yield Fault(name, sentence), partial(_required, e.conventions, e.case.replace(**target))


def _of_latents(e: Evidence) -> Iterator[Story]:
    """Rounded, in another order, or one in the place of another."""
    batch = e.case.output.shape[0]
    latents = e.given.latents
    for name in latents:
        for dtype in (torch.bfloat16, torch.float16):
            rounded = latents[name].to(dtype).to(torch.float64)
            if not torch.equal(rounded, latents[name]):
                what = "state-rounded" if name.startswith("x_") else "old-precision"
                sentence = f"the loss has {name} rounded to {str(dtype).removeprefix('torch.')}"
                yield Fault(what, sentence), partial(_under, e, None, **{name: rounded})
    for a, b in itertools.permutations(latents, 2):
        if (
            a != b
            and not torch.equal(latents[a], latents[b])
            and a in ("x_prev", "x_t", "v_old", "v_ref", "noise", "x_0")
        ):
            sentence = f"the loss has {b} in the place of {a}"
            yield Fault("exchanged", sentence), partial(_under, e, None, **{a: latents[b]})
    if "v_old" in e.case.names and not torch.equal(e.case.v_old, e.case.output):
        yield (
            Fault(
                "old-is-new",
                f"the loss has {e.given.output_name} itself, detached, in the place of v_old: the ratio is always 1",
            ),
            partial(_under, e, None, v_old=e.given.output),
        )
    if batch > 1:
        for name in latents:
            for words, order in _orders(batch):
                yield (
                    Fault("states-order", f"the loss has {name} in another order: {words}"),
                    partial(_under, e, None, **{name: latents[name][order]}),
                )


def _orders(batch: int) -> Iterator[tuple[str, Tensor]]:
    place = torch.arange(batch)
    if batch <= 5:
        for order in itertools.permutations(range(batch)):
            yield f"{', '.join(map(str, order))}", torch.tensor(order)
        return
    for k in range(1, min(batch, 33)):
        yield f"shifted by {k}", place.roll(-k)
    yield "reversed", place.flip(0)
    for parts in range(2, batch):
        if batch % parts == 0:
            yield f"{parts} parts interleaved", place.reshape(parts, batch // parts).T.flatten()


# ------------------------------------------------------------------------------------- stories of the loss


def of_declaration(e: Evidence) -> Iterator[Story]:
    """What another declaration would require."""
    for other in e.conventions.alternatives():
        yield (
            Fault(f"convention:{other.keyword}", f"the step behaves as {other.written} says"),
            partial(_under, e, other.conventions),
        )
    limit = e.conventions.adv_clip_max
    if limit is not None:
        free = replace(e.conventions, adv_clip_max=None)
        yield (
            Fault("advantage-unclamped", f"the advantage is not clamped to ±{limit:g} as adv_clip_max declares"),
            partial(_under, e, free),
        )


def of_loss(e: Evidence, generic: bool = False) -> Iterator[Story]:
    """What each named mistake in the loss would give: those that name what was done, or those made by a rule."""
    trials: dict[Stated, Trial] = {}  # what mistakes of one loss share is computed once
    for mistake in mistakes(e.conventions.derivation):
        if mistake.generic is generic:
            yield Fault(mistake.name, mistake.sentence), partial(_mistaken, e, mistake, trials)


def of_factors(e: Evidence) -> Iterator[Story]:
    """What a quantity too many or too few would give."""
    for value, name, words in (
        (n.ratio, "ratio-twice", "the importance ratio is squared"),
        (1 / n.ratio, "ratio-detached", "the importance ratio is missing from the gradient"),
        (n.dt, "dt-missing", "it is multiplied by Δt once too often"),
        (1 / n.dt, "over-dt", "it is divided by Δt once too often"),
        (sp.sqrt(n.dt), "root-dt", "it is multiplied by √Δt once too often"),
        (n.C2, "std-missing", "it is multiplied by the step's standard deviation once too often"),
        (n.sigma_t, "sigma-missing", "it is multiplied by σ_t once too often"),
        (n.beta, "beta-missing", "it is not divided by β, or multiplied by it once too often"),
        (1 / n.beta, "over-beta", "it is divided by β once too often"),
    ):
        yield Fault(name, words), partial(_times, e, value)


def _mistaken(e: Evidence, mistake: Mistake, trials: dict[Stated, Trial]) -> Tensor:
    own = mistake.stated
    if own not in trials:
        trials[own] = Trial(effective_case(e.conventions, e.case), own, torch.float64)
    return overall_factor(e.conventions, e.case) * trials[own].predict(mistake.edits).gradient


def _times(e: Evidence, value: sp.Expr) -> Tensor | None:
    derivation = e.conventions.derivation
    known = {*derivation.given, *derivation.defined}
    if not {s.name for s in value.free_symbols} <= known:
        return None
    (c,) = evaluate(derivation, e.case, value, dtype=torch.float64)
    return c * e.required
