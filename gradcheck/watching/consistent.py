r"""What was given and follows from the rest: times, x_t, v_gt, σ_t, C1, C2, the guided velocity.

A check fails on numbers, never on their absence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from derivations import notation as n
from gradcheck.watching.faults import Checked, Fault
from gradcheck.watching.given import Given
from gradcheck.watching.half import held_in
from gradcheck.watching.linear import residual
from gradcheck.watching.problem import StepProblem, numbers_of

__all__ = ["check_given", "check_guidance", "check_times"]

Numbers = np.ndarray[Any, Any]

_TIMES = 2.0**-18
"""Relative distance within which two times are one: two roundings to float32, and a product by 1000."""
_NUMBERS = 1e-3
"""Within which coefficients in float32 are one: near t = 1 a division by 1 − t costs some digits."""


def check_times(problem: StepProblem, given: Given) -> list[Checked]:
    """Whether each step goes from one point of the scheduler's grid to the next one, and whether the network received
    the time of the loss."""
    t = given.samples.get("t", problem.case.t if "t" in problem.case.names else None)
    sigmas = given.extra.get("sigmas")
    steps = None if sigmas is None or t is None else _Steps.of(problem, sigmas, t.numpy())
    if sigmas is None:
        grid = Checked("grid", unchecked="sigmas was not given")
    else:
        grid = Checked("grid", unchecked="no time was given") if steps is None else _check_grid(steps, given)
    return [grid, _check_timestep(problem, given, t, steps)]


@dataclass(frozen=True)
class _Steps:
    """The steps of a batch on the scheduler's grid; few numbers, on which NumPy takes a third of torch's time.

    Attributes:
        grid: the scheduler's times.
        t, t_prev: (B,), where each step starts and ends; ``t_prev`` is ``None`` where the loss has no Δt.
        start, end: (B,), the nearest points of the grid.
        off, off_prev: (B,), the relative distances from them.
    """

    grid: Numbers
    t: Numbers
    start: Numbers
    off: Numbers
    t_prev: Numbers | None
    end: Numbers
    off_prev: Numbers

    @classmethod
    def of(cls, problem: StepProblem, sigmas: Any, t: Numbers) -> _Steps:
        grid = torch.as_tensor(sigmas).detach().to("cpu", torch.float64).flatten().numpy()
        t_prev = t - problem.case.dt.numpy() if "dt" in problem.case.names else None
        both, batch = t if t_prev is None else np.concatenate([t, t_prev]), len(t)
        distance = np.abs(grid - both[:, None])
        place, off = distance.argmin(1), distance.min(1) / np.maximum(np.abs(both), 1e-6)
        return cls(grid, t, place[:batch], off[:batch], t_prev, place[batch:], off[batch:])

    def spacing(self) -> Numbers:
        """(B,), how far the nearer neighbour on the grid is."""
        gaps = np.abs(np.diff(self.grid))
        return np.minimum(gaps[np.maximum(self.start - 1, 0)], gaps[np.minimum(self.start, len(gaps) - 1)])


def _check_grid(steps: _Steps, given: Given) -> Checked:
    name = "grid"
    grid, t, start = steps.grid, steps.t, steps.start
    if bool((steps.off > _TIMES).any()):
        i = int(steps.off.argmax())
        nearest = float(grid[start[i]])
        sentence = f"t = {float(t[i]):.6g} of sample {i} is not a point of the grid; the nearest is {nearest:.6g}"
        return Checked(name, (Fault("time-off-grid", sentence),))
    index = None if "step_index" not in given.samples else given.samples["step_index"].numpy()
    if index is not None and bool((index != start).any()):
        i = int((index != start).argmax())
        sentence = f"step_index is {int(index[i])} for sample {i}, whose t is at place {int(start[i])} of the grid"
        return Checked(name, (Fault("step-index", sentence),))
    if steps.t_prev is None:
        return Checked(name)
    wrong = (steps.end != start + 1) | (steps.off_prev * steps.t_prev > _TIMES)
    if not bool(wrong.any()):
        return Checked(name)
    i = int(wrong.argmax())
    after = float(grid[start[i] + 1]) if int(start[i]) + 1 < len(grid) else 0.0
    sentence = (
        f"the step of sample {i} goes from t = {float(t[i]):.6g} to {float(steps.t_prev[i]):.6g}; the next point "
        f"of the grid is {after:.6g}"
    )
    return Checked(name, (Fault("step-index", sentence),))


def _check_timestep(problem: StepProblem, given: Given, t: Tensor | None, steps: _Steps | None) -> Checked:
    """Whether the network received the time of the loss, as t or as 1000·t."""
    name = "timestep"
    seen = given.samples.get("timestep")
    if seen is None or t is None:
        return Checked(name, unchecked="timestep was not given")
    unit = 1000.0 if float(seen.max()) > 1 else 1.0
    got = seen / unit
    slack = 2.0**-8  # schedulers' timesteps are rounded to bfloat16 with the network
    # half the way to the next point of the grid
    allowed = slack * t.numpy() if steps is None else 0.25 * steps.spacing()
    wrong = np.abs(got.numpy() - t.numpy()) > allowed
    if not bool(wrong.any()):
        return Checked(name)
    i = int(wrong.argmax())
    after = given.samples.get("t_prev", t - problem.case.dt if "dt" in problem.case.names else t)
    for value, words in ((after, "the time after the step, t_prev"), (1 - t, "1 − t")):
        if not bool(((got - value).abs() > slack * value.clamp(min=1e-3)).any()) and bool((value != t).any()):
            return Checked(name, (Fault("timestep", f"the network received {words}; the loss is that of t"),))
    sentence = f"sample {i}: the network received time {float(got[i]):.6g}, the loss is that of t = {float(t[i]):.6g}"
    return Checked(name, (Fault("timestep", sentence),))


def check_given(problem: StepProblem, given: Given, unit: float) -> Checked:
    """Every given quantity that has a formula in the others, beside it."""
    faults = [*_coefficients(problem, given), *_forward(problem, given, unit)]
    return Checked("given", tuple(faults))


def _coefficients(problem: StepProblem, given: Given) -> list[Fault]:
    if problem.derivation.process != "backward":
        return []
    faults = []
    symbols = [
        n.sigma_t,
        n.C1,
        n.C2,
    ]
    known = [s for s in symbols if s.name in given.samples and s in problem.derivation.coefficients]
    known = [s for s in known if problem.derived.get("noise_level") != s.name]
    for symbol, value in zip(known, numbers_of(problem, *known) if known else [], strict=True):
        own = given.samples[symbol.name]
        off = (own / value - 1).abs()
        if bool((off <= _NUMBERS).all()):
            continue
        i = int(off.argmax())
        said = f"{symbol.name} is {float(own[i]):.6g} for sample {i}, and that step's is {float(value[i]):.6g}"
        faults.append(Fault(f"given-{symbol.name}", said + _twin(symbol.name, own, problem)))
    return faults


def _twin(name: str, own: Tensor, problem: StepProblem) -> str:
    """What else it is."""
    if "dt" not in problem.case.names or n.sigma_t not in problem.derivation.coefficients:
        return ""
    sigma, c2, dt = *numbers_of(problem, n.sigma_t, n.C2), problem.case.dt
    for value, words in (
        (sigma, "σ_t, without √Δt"),
        (c2, "σ_t√Δt, with √Δt"),
        (c2**2, "the step's variance"),
        (c2 * dt.sqrt(), "σ_tΔt, with √Δt twice"),
    ):
        if bool(((own / value - 1).abs() <= _NUMBERS).all()):
            return f": it is {words}"
    return ""


def _forward(problem: StepProblem, given: Given, unit: float) -> list[Fault]:
    """x_t = (1 − t) x_0 + t·noise and v_gt = noise − x_0, where all of them are given."""
    if problem.derivation.process != "forward" or problem.derivation.path != "rectified":
        return []
    if problem.derivation.noise_at != 1 or not {"x_0", "noise"} <= given.latents.keys():
        return []
    one = torch.ones(given.batch, dtype=torch.float64, device="cpu")
    faults = []
    if "x_t" in given.latents and "t" in given.samples:
        t = given.samples["t"]
        faults += _combination(
            given,
            "x_t",
            {"x_0": 1 - t, "noise": t},
            unit,
            "(1 − t) x_0 + t·noise",
            [
                ({"x_0": t, "noise": 1 - t}, "time-turned", "x_t is t·x_0 + (1 − t)·noise: time runs the other way"),
                (
                    {"x_0": 1 - t, "noise": -t},
                    "noise-sign",
                    "x_t is (1 − t) x_0 − t·noise: the noise has the wrong sign",
                ),
            ],
        )
    if "v_gt" in given.latents:
        faults += _combination(
            given,
            "v_gt",
            {"noise": one, "x_0": -one},
            unit,
            "noise − x_0",
            [
                (
                    {"noise": -one, "x_0": one},
                    "v_gt-sign",
                    "v_gt is x_0 − noise; with the noise at t = 1 it is the opposite",
                ),
            ],
        )
    return faults


def _combination(
    given: Given,
    name: str,
    terms: dict[str, Tensor],
    unit: float,
    formula: str,
    others: list[tuple[dict[str, Tensor], str, str]],
) -> list[Fault]:
    tensors = [given.latents[x] for x in (name, *terms)]
    # x_t as the network read it may have been rounded to its precision, and made wider again
    allowed = 8 * max(unit, *(torch.finfo(held_in(x) or x.dtype).eps for x in tensors))
    if float(residual(terms, given.latents, given.latents[name])[0].max()) <= allowed:
        return []
    for other, cause, sentence in others:
        if float(residual(other, given.latents, given.latents[name])[0].max()) <= allowed:
            return [Fault(cause, sentence)]
    sentence = f"{name} is not {formula} of what is given: of other noise, another time, or in another order"
    if name != "x_t":
        return [Fault(f"given-{name}", sentence)]
    return [_mixed_otherwise(given, terms) or Fault("noised-latent", sentence)]


def _mixed_otherwise(given: Given, terms: dict[str, Tensor]) -> Fault | None:
    """x_t as another combination of its x_0 and its noise, of the first numbers: other times, or a factor."""
    x_t, *parts = (
        given.latents[x].detach().flatten(1)[:, : 2**14].to("cpu", torch.float64) for x in ("x_t", "x_0", "noise")
    )
    basis = torch.stack(parts, 2)  # (B, D, 2)
    seen = torch.linalg.lstsq(basis, x_t[:, :, None]).solution
    left = (basis @ seen)[:, :, 0] - x_t
    if float((left.norm(dim=1) / x_t.norm(dim=1)).max()) > 1e-5:
        return None
    of_data, of_noise = seen[:, 0, 0], seen[:, 1, 0]
    if bool(((of_data + of_noise - 1).abs() <= 1e-4).all()):
        i = int((of_noise - terms["noise"]).abs().argmax())
        there, here = float(of_noise[i]), float(terms["noise"][i])
        return Fault("noised-time", f"x_t of sample {i} is noised at t = {there:.6g}; t = {here:.6g} is given")
    for name, found in (("x_0", of_data), ("noise", of_noise)):
        factors = found / terms[name]
        factor = float(factors.mean())
        if abs(factor - 1) > 1e-4 and bool(((factors - factor).abs() <= 1e-4 * abs(factor)).all()):
            sentence = f"x_t holds {factor:.6g} times its {name}: a scale is applied twice, or not at all"
            return Fault("noised-scale", sentence)
    return None


def check_guidance(given: Given, unit: float) -> Checked:
    """Whether the velocity is v_uncond + w (v_cond − v_uncond), of two branches that are both live."""
    name = "guidance"
    if not {"v_uncond", "v_cond"} <= given.latents.keys():
        return Checked(name, unchecked="v_uncond and v_cond were not given")
    dead = [x for x in ("v_uncond", "v_cond") if x not in given.live]
    if dead:
        which = " and ".join(dead)
        sentence = f"{which} is detached: the gradient in the parameters lacks that branch, and is of another length"
        return Checked(name, (Fault("guidance-detached", sentence),))
    scale = given.extra.get("guidance")
    if scale is None:
        return Checked(name, unchecked="guidance was not given")
    w = float(scale)
    one = torch.ones(given.batch, dtype=torch.float64, device="cpu")
    value = given.output.detach()
    worst = float(residual({"v_uncond": (1 - w) * one, "v_cond": w * one}, given.latents, value)[0].max())
    if worst <= 16 * unit:
        return Checked(name)
    found = _scale_of(given)
    if found is not None and abs(found - w) > 1e-3 * max(1.0, abs(w)):
        return Checked(name, (Fault("guidance-scale", f"the guidance is {found:.4g}, and {w:g} is given"),))
    return Checked(name, (Fault("guidance", f"{given.output_name} is not v_uncond + {w:g} (v_cond − v_uncond)"),))


def _scale_of(given: Given) -> float | None:
    """The w that fits, of the first numbers."""
    u, c, v = (
        x.detach().reshape(-1)[: 2**16].to("cpu", torch.float64)
        for x in (given.latents["v_uncond"], given.latents["v_cond"], given.output)
    )
    size = float((c - u).square().sum())
    return float(((v - u) * (c - u)).sum()) / size if size else None
