"""Does a reverse step sample the distribution that it declares?  Statistical tests with a bounded false-alarm rate."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import torch
from torch import Tensor

from gradcheck.judging.check import Wrong
from gradcheck.judging.results import Outcome
from gradcheck.parts._sde_subject import Subject
from gradcheck.parts._statistics import (
    FALSE_ALARM,
    chi_square_interval,
    ks_bound,
    ks_distance,
    mean_bound,
    normal_cdf,
    product_bound,
)
from gradcheck.problems.building import Spec
from gradcheck.rounding.bounds import THRESHOLD

__all__ = ["check_sampling"]

_LATENTS = {1: (8192,), 2: (64, 128), 3: (4, 32, 64), 4: (2, 8, 16, 32)}
_BATCH, _CALLS, _COORDINATES = 3, 2, 8192
_TIMES = (0.8, 0.6)
_MIXED = ((0.8, 0.5, 0.3), (0.6, 0.45, 0.1))
_ALPHA = FALSE_ALARM / 16  # for each test: at most 16 are made


def check_sampling(subject: Subject) -> Outcome:
    rank = min(len(subject.convention.latents[0]), 4)
    spec = Spec(_BATCH, _LATENTS[rank], 17 * subject.seed + 5)
    case = subject.problem(spec, None if subject.convention.per_sample_time else _TIMES)
    if subject.convention.per_sample_time:  # away from the ends, where rounding is small beside the noise
        t, t_prev = (torch.tensor(x, dtype=torch.float64).to(subject.dtype).to(torch.float64) for x in _MIXED)
        case = case.replace(t=t, t_prev=t_prev, dt=t - t_prev)
    mean, std = subject.value(subject.formulas.mean, case), subject.value(subject.formulas.std, case)
    # two calls on one generator, which must move on
    samples = subject.samples(case, _CALLS, seed=spec.seed)
    if not bool((std > 0).all()):
        return _without_noise(subject, samples, *subject.required(subject.formulas.mean, case))
    z = torch.stack([(x - mean) / std for x in samples]).flatten(2)  # (calls, B, coordinates)
    if not bool(z.isfinite().all()):
        raise Wrong("the sampled state is not finite")
    _moments(z)
    if "independence" not in subject.ignored:
        _independence(z)
    if "shape" not in subject.ignored:
        n = z.numel()
        distance = ks_distance(normal_cdf(z.flatten()))
        if distance > ks_bound(n, _ALPHA):
            raise Wrong(
                f"(x_prev − mean)/std is not normally distributed: Kolmogorov–Smirnov distance {distance:.4f} over "
                f"{n} numbers, {ks_bound(n, _ALPHA):.4f} allowed"
            )
    return Outcome("passed", _CALLS, note=f"{z.numel()} numbers")


def _without_noise(subject: Subject, samples: list[Tensor], mean: Tensor, rounding: Tensor) -> Outcome:
    allowed = THRESHOLD * float(torch.finfo(subject.dtype).eps) / 2 * rounding
    for x in samples:
        if bool(((x - mean).abs() > allowed).any()):
            raise Wrong(
                f"the step has no noise, and its state is up to {float((x - mean).abs().max()):.3g} off the mean"
            )
    return Outcome("passed", len(samples))


def _moments(z: Tensor) -> None:
    n = z.numel()
    centre, allowed = float(z.mean()), mean_bound(n, _ALPHA)
    if abs(centre) > allowed:
        raise Wrong(f"(x_prev − mean)/std has mean {centre:.4f} over {n} numbers; within ±{allowed:.4f} is required")
    rows = [("", z.flatten())] + [(f" in sample {i}", z[:, i].flatten()) for i in range(z.shape[1])]
    for where, row in rows:
        k = row.numel()
        low, high = chi_square_interval(k, _ALPHA)
        square = float((row**2).sum())
        if not low <= square <= high:
            raise Wrong(
                f"(x_prev − mean)/std has root mean square {math.sqrt(square / k):.4f}{where} over {k} numbers; "
                f"{math.sqrt(low / k):.4f} … {math.sqrt(high / k):.4f} is required"
            )


def _independence(z: Tensor) -> None:
    rows = [(f"sample {i}", f"sample {j}", z[0, i], z[0, j]) for i, j in combinations(range(z.shape[1]), 2)]
    rows += [(f"call {i + 1}", f"call {i + 2}", a, b) for i, (a, b) in enumerate(pairwise(z[:, 0]))]
    for first, second, a, b in rows:
        n = a.numel()
        if abs(float(a @ b)) > product_bound(n, _ALPHA):
            raise Wrong(f"the noise of {first} and of {second} is correlated: {float(a @ b) / n:.3f}")
