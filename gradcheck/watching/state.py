r"""The state that was sampled: is x_prev what the behaviour model's step gives?

Where the noise was stored, x_prev must be mean + C2·noise.  Where it was not, the noise is read off x_prev, and it must
be noise: D independent numbers of mean 0 and variance 1, independent of everything that the step was made of.  So
‖ε‖² is χ² with D degrees of freedom, and ⟨ε, y⟩/‖y‖ is normal for y = 1, x_t and v_old.  The wrong time, index, noise
level, velocity or order of samples shows in them, the sooner the larger D.

A sample fails beyond seven standard deviations: one in 10¹¹ of right ones, for four statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from derivations import notation as n
from gradcheck.conventions import Conventions
from gradcheck.devices import dtype_name
from gradcheck.errors import GradcheckError
from gradcheck.watching.faults import Checked, Fault
from gradcheck.watching.given import Given
from gradcheck.watching.half import held_in
from gradcheck.watching.linear import blocks_of, coefficients, residual, solved
from gradcheck.watching.problem import StepProblem, step_problem

__all__ = ["check_state"]

_BEYOND = 7.0
_FITS = 5.0
"""Of several stories that one is told under which the samples are nearest to noise, if none is beyond this.  Some of
them have a free number, a noise level say, that can hide one statistic: so the samples together must be noise too."""
_LEVELS = [x / 20 for x in range(2, 41)]
_COORDINATES = 2**14
"""Of each sample, that are looked at for the cause."""


def check_state(problem: StepProblem, given: Given, unit: float) -> Checked:
    """Whether x_prev is the behaviour model's step from x_t."""
    name = "state"
    if problem.derivation.process != "backward":
        return Checked(name, unchecked="no state is sampled")
    if not problem.recovered:
        return Checked(name, unchecked="x_prev was not given")
    old = problem.derivation.output.name.replace("theta", "old")
    if old in problem.derived and problem.derived[old] == "on_policy=True":
        return Checked(name, unchecked=f"{old} was not given")
    c2 = problem.deviation
    faults: list[Fault] = []
    if "noise" in given.latents:
        faults += _against_stored(problem, given, c2, unit)
    if not faults:
        dtype = held_in(given.latents["x_prev"])
        off = _statistics(problem.case.noise, _beside(problem, old), _slack(given, c2, dtype))
        if bool((off > _BEYOND).any()):
            faults.append(_explained(problem, given, off))
        elif dtype is not None:
            faults += _rounded(given, dtype)
    return Checked(name, tuple(faults))


def _fits(off: Tensor) -> bool:
    """Whether samples are noise under a story, one by one and on average: the largest of four magnitudes of normal
    numbers is 1.46 on average, with a standard deviation of 0.55; allowed are five of those of the average."""
    return float(off.max()) <= _FITS and float(off.mean()) <= 1.5 + 2.8 / len(off) ** 0.5


def _beside(problem: StepProblem, old: str) -> list[Tensor]:
    return [problem.case.x_t, getattr(problem.case, old)]


def _slack(given: Given, c2: Tensor, dtype: torch.dtype | None) -> Tensor:
    """By how much the variance of noise that is read off a state that was rounded to ``dtype`` may exceed 1."""
    if dtype is None:
        return torch.zeros_like(c2)
    size = float(given.latents["x_prev"].detach().float().square().mean())
    return 3 * size * (float(torch.finfo(dtype).eps) / c2) ** 2


def _statistics(noise: Tensor, beside: list[Tensor], slack: Tensor) -> Tensor:
    """The largest of the four statistics of each sample, in standard deviations, (B,)."""
    rows = [x.reshape(x.shape[0], -1) for x in (noise, *beside)]
    size = rows[0].shape[1]
    sums = _sums(rows).cpu().numpy()
    variance = sums[0] / size
    more = slack.numpy()
    # Wilson and Hilferty: the cube root of χ²/D is normal to a good approximation, for small D too
    spread = 2 / (9 * size)
    low, high = ((np.maximum(x, 1e-300) ** (1 / 3) - 1 + spread) / spread**0.5 for x in (variance, variance - more))
    scale = 1 / np.sqrt(1 + more)
    worst = np.maximum(np.maximum(-low, high), np.abs(sums[1]) / size**0.5 * scale)
    for product, square in zip(sums[2::2], sums[3::2], strict=True):
        worst = np.maximum(worst, np.abs(product) / np.maximum(np.sqrt(square), 1e-300) * scale)
    worst[np.isnan(worst)] = math.inf
    return torch.from_numpy(worst)


def _sums(rows: list[Tensor]) -> Tensor:
    """‖ε‖², Σε, then ⟨ε, y⟩ and ‖y‖² of each y beside it; (2 + 2·len(beside), B)."""
    sums = torch.zeros(2 * len(rows), rows[0].shape[0], dtype=torch.float64, device=rows[0].device)
    for block in blocks_of(rows[0]):
        every = torch.stack([x[block].to(torch.float64) for x in rows])
        sums[0::2, block[0]].add_((every[0] * every).sum(2))
        sums[1, block[0]].add_(every[0].sum(1))
        sums[3::2, block[0]].add_(every[1:].square_().sum(2))
    return sums


def _against_stored(problem: StepProblem, given: Given, c2: Tensor, unit: float) -> list[Fault]:
    """x_prev beside mean + C2·noise of the stored noise, within 16 roundings of everything that it is made of."""
    terms, _ = coefficients(problem.derivation, n.x_prev, *_numbers(problem))
    latents = {x: getattr(problem.case, x) for x in terms if x != "noise"} | {"noise": given.latents["noise"]}
    relative, squares = residual(terms, latents, given.latents["x_prev"])
    worst = float(relative.max())
    if worst <= 16 * unit:
        return []
    dtype = held_in(given.latents["x_prev"])
    if dtype is not None and worst <= 2 * float(torch.finfo(dtype).eps):
        return [Fault("state-rounded", _ROUNDED.format(dtype_name(dtype)))]
    typical = float((squares / c2**2).mean().sqrt())
    sentence = (
        f"x_prev is not mean + C2·noise of v_old's step and the stored noise: it is off by {typical:.2g} standard "
        "deviations of the step"
    )
    own = _statistics(
        problem.case.noise,
        _beside(problem, problem.derivation.output.name.replace("theta", "old")),
        torch.zeros_like(c2),
    )
    if bool((own > _BEYOND).any()):
        found = _explained(problem, given, own)
        return [Fault(found.name, f"{sentence}; {found.sentence}")]
    return [
        Fault(
            "stored-noise",
            f"{sentence}, and what is read off x_prev is other noise: the stored one belongs to "
            "another step, sample or run",
        )
    ]


_ROUNDED = (
    "x_prev was rounded to {} after it was sampled: the log-probabilities of the rollout belong to the state before "
    "that; store it, and train on it, in the sampler's precision"
)


def _rounded(given: Given, dtype: torch.dtype) -> list[Fault]:
    """States of one trajectory that are not held alike: x_prev is the next step's x_t."""
    if given.latents["x_prev"].dtype == dtype or held_in(given.latents["x_t"]) is not None:
        return []
    return [Fault("state-rounded", _ROUNDED.format(dtype_name(dtype)))]


def _numbers(problem: StepProblem) -> tuple[dict[str, Tensor], dict[str, float]]:
    values = {name: getattr(problem.case, name) for name in problem.case.names}
    samples = {name: x for name, x in values.items() if isinstance(x, Tensor) and x.ndim == 1}
    return samples, {name: x for name, x in values.items() if not isinstance(x, Tensor)}


# ------------------------------------------------------------------------------------------------ the cause


@dataclass(frozen=True)
class _Way:
    """Another story of how x_prev came about."""

    name: str
    sentence: str
    conventions: Conventions
    given: Given


def _explained(problem: StepProblem, given: Given, off: Tensor) -> Fault:
    """The first other story under which what is read off x_prev is noise."""
    if torch.equal(given.latents["x_prev"], given.latents["x_t"]):
        sentence = "x_prev is x_t, bit for bit: one tensor that was changed in place after it was stored, or one index"
        return Fault("states-same", sentence)
    clamped = _clamped(given.latents["x_prev"])
    if clamped is not None:
        return clamped
    few = _fewer(given, problem)
    fitting: list[tuple[float, Fault]] = []
    for way in _ways(problem, few):
        worst = _off_under(way)
        if worst is not None and _fits(worst):
            fitting.append((float(worst.max()), Fault(way.name, way.sentence)))
    fitting += _order(problem, few)
    best = min(fitting, key=lambda x: x[0], default=None)
    if best is not None:
        return best[1]
    count = int((off > _BEYOND).sum())
    sentence = (
        f"x_prev is not what v_old's step from x_t gives: in {count} of {len(off)} samples what is read off it is not "
        f"noise ({float(off.max()):.3g} standard deviations from it); another time, index, noise level, model or sample"
    )
    return Fault("state", sentence)


def _clamped(x_prev: Tensor) -> Fault | None:
    """Sampled numbers are all different, but for a few in float32; those of a clamp are at its ends."""
    if held_in(x_prev) is not None:
        return None
    low, high = x_prev.aminmax()
    ends = [(float(end), int((x_prev == end).sum())) for end in (low, high)]
    at = [f"{count} are {end:g}" for end, count in ends if count >= 4]
    if not at:
        return None
    sentence = (
        f"x_prev was clamped after it was sampled ({' and '.join(at)}, to the last digit): "
        "it is not a sample of the step"
    )
    return Fault("state-clamped", sentence)


def _fewer(given: Given, problem: StepProblem) -> Given:
    """The call on the first coordinates alone, in float64 on the CPU: the statistics are sums over coordinates."""

    def cut(x: Tensor) -> Tensor:
        return x.detach().reshape(x.shape[0], -1)[:, :_COORDINATES].to("cpu", torch.float64)

    latents = {name: cut(x) for name, x in given.latents.items() if name != "noise"}
    old = problem.derivation.output.name.replace("theta", "old")
    latents.setdefault(old, cut(getattr(problem.case, old)))
    few = replace(given, output=cut(given.output), latents=latents, live={})
    few.samples = {name: x for name, x in given.samples.items() if name not in ("C1", "C2", "sigma_t")}
    for name in ("t", "dt"):
        if name in problem.case.names:
            few.samples[name] = getattr(problem.case, name)
    few.samples.pop("t_prev", None)
    return few


def _off_under(way: _Way) -> Tensor | None:
    try:
        problem, missing = step_problem(way.conventions, way.given)
    except (GradcheckError, KeyError, ValueError):
        return None
    if problem is None or missing or not problem.recovered or bool(problem.left_out.any()):
        return None
    c2 = problem.deviation
    old = problem.derivation.output.name.replace("theta", "old")
    slack = _slack(way.given, c2, held_in(way.given.latents["x_prev"]))
    return _statistics(problem.case.noise, _beside(problem, old), slack)


def _ways(problem: StepProblem, given: Given) -> Iterator[_Way]:
    declared = problem.conventions

    def put(**latents: Tensor) -> Given:
        return replace(given, latents={**given.latents, **latents})

    yield from _other_times(problem, given)
    for other in declared.alternatives():
        if other.keyword == "sde":
            sentence = f"x_prev was sampled as {other.written} says"
            yield _Way("convention:sde", sentence, other.conventions, given)
    own = getattr(problem.case, "noise_level", None)
    for level in _LEVELS:
        if own is not None and abs(level - own) > 1e-6:
            fixed = {name: x for name, x in declared.fixed.items() if name != "noise_level"}
            moved = replace(given, numbers={**given.numbers, "noise_level": level})
            sentence = f"x_prev was sampled with noise_level={level:g}; {own:g} is given here"
            yield _Way("noise-level", sentence, replace(declared, fixed=fixed), moved)
    old = problem.derivation.output.name.replace("theta", "old")
    sentence = f"x_prev was sampled with {given.output_name}, not with {old}: {old} is not the rollout's"
    yield _Way("stale-old", sentence, declared, put(**{old: given.output}))
    if "v_ref" in given.latents and old == "v_old":
        yield _Way(
            "old-is-reference",
            "x_prev was sampled with v_ref, not with v_old",
            declared,
            put(v_old=given.latents["v_ref"]),
        )
    x_t, x_prev = given.latents["x_t"], given.latents["x_prev"]
    yield _Way("states-exchanged", "x_t and x_prev are exchanged", declared, put(x_t=x_prev, x_prev=x_t))


def _other_times(problem: StepProblem, given: Given) -> Iterator[_Way]:
    """Neighbours on the grid."""
    sigmas = given.extra.get("sigmas")
    if sigmas is None or "dt" not in problem.case.names:
        return
    grid = torch.as_tensor(sigmas).detach().to("cpu", torch.float64).flatten()
    t, dt = problem.case.t, problem.case.dt
    here = (grid[None] - t[:, None]).abs().argmin(1)
    there = (grid[None] - (t - dt)[:, None]).abs().argmin(1)
    for start, end, words in (
        (here - 1, here, "one place earlier on the grid"),
        (here + 1, here + 2, "one place later on the grid"),
        (here, here + 1, "to the next place on the grid"),
        (there - 1, there, "that ends where this one does, and starts one place before it"),
        (here, here + 2, "over two places of the grid"),
    ):
        inside = bool(((start >= 0) & (end < len(grid)) & (start < end)).all())
        if not inside or (bool((start == here).all()) and bool((end == there).all())):
            continue
        moved = {**given.samples, "t": grid[start], "dt": grid[start] - grid[end]}
        sentence = (
            f"the index is off: x_prev was sampled by the step {words}, not by the one from t to t_prev given here"
        )
        yield _Way("step-index", sentence, problem.conventions, replace(given, samples=moved))


def _order(problem: StepProblem, given: Given) -> list[tuple[float, Fault]]:
    """Whether another order of the states fits: each x_prev beside every sample's step."""
    batch = given.batch
    if not 2 <= batch <= 64:
        return []
    x_prev = given.latents["x_prev"]
    terms, _ = coefficients(problem.derivation, n.x_prev, *_numbers(problem))
    old = problem.derivation.output.name.replace("theta", "old")
    beside, none = [given.latents["x_t"], given.latents[old]], torch.zeros(batch, dtype=torch.float64)
    worst = torch.zeros(batch, batch, dtype=torch.float64)  # of sample i with the state at j
    for shift in range(batch):
        noise = solved(terms, "noise", given.latents, x_prev.roll(-shift, 0))
        rows = torch.arange(batch)
        worst[rows, (rows + shift) % batch] = _statistics(noise, beside, none)
    least, place = worst.min(1)
    if len(set(place.tolist())) < batch or not _fits(least) or bool((place == torch.arange(batch)).all()):
        return []
    pairs = ", ".join(f"{i}'s is at {int(j)}" for i, j in enumerate(place.tolist()) if i != int(j))
    sentence = f"the states are in another order than the rest of the batch: sample {pairs}"
    return [(float(least.max()), Fault("states-order", sentence))]
