r"""Is an error rounding?  Rounding is rough; a wrong formula is smooth.

Two questions, each asked by moving a problem's inputs, every number by its own random share.

- *Does anything round to this precision?*  Moves of a few units of its last place draw its rounding anew, while the
  error of a formula changes by as little as the inputs do.
- *Is what is wrong more than its rounding?*  On moves of up to a hundredth the mean error is what a formula does, and
  the spread about it is rounding.  (Small moves would not do: 1 + x rounds alike for all small x that are close.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.oracle.arrangement import arranged
from gradcheck.oracle.displaced import by_guards
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.problem import as_trainers_have_it, effective_case, output_dtype
from gradcheck.oracle.required import Required, overall_factor, required_of
from gradcheck.problems.building import Spec, as_put_out, complete
from gradcheck.rounding.bounds import unit_roundoff

__all__ = ["Roughness", "moved", "roughness"]

_COARSE, _COARSE_MOVES = 2.0**-7, 8
_FINE_MOVES = 3
_DEVIATIONS = 10.0
"""The mean of eight draws is off by ten of its own standard errors in one of 50,000 samples (Student's t)."""
_CONSTANTS = 8.0
"""Units of roundoff by which a gradient may be off, smoothly, where constants alone were rounded: the noise level, an
edge, a weight that is held in the lower precision.  Each is off by one; they stand squared, and in an exponent."""
_SMOOTH = 2.0**-4
"""In units of roundoff: a spread below that is none of this precision."""
_MOSTLY = 4.0
"""Rounding that every move shares (1 + x for a small x) is of the size of that which is drawn anew."""
_OTHER_BRANCH = 0.5
"""A share of the gradient: between clipped and not, all of it changes."""
_TOGETHER = ("alpha_bar", "alpha_bar_prev")
"""Quantities that are moved by the same share: ᾱ' stays above ᾱ."""
_VALUES = ("preference", "window", "mask")
"""Quantities that take certain values only, and are not moved."""


@dataclass(frozen=True)
class Roughness:
    """An implementation's error on one problem, in parts; lengths over the latent's coordinates, each (B,).

    Attributes:
        smooth: of the part that every coarse move shares.
        spread: standard deviation of the rest.
        fine: standard deviation of the error on fine moves.
        bound: u·e, what one rounding after another may add up to.
        required: of the required gradient.
        guards: of what a declared small number may carry the gradient, which no rounding draws anew.
        dtype: the precision whose rounding it may be.
    """

    smooth: Tensor
    spread: Tensor
    fine: Tensor
    bound: Tensor
    required: Tensor
    guards: Tensor
    dtype: torch.dtype

    @property
    def is_rough(self) -> Tensor:
        """Samples in which something is rounded to this precision at all, (B,)."""
        return self.fine > _SMOOTH * unit_roundoff(self.dtype) * self.required

    @property
    def is_systematic(self) -> Tensor:
        """Samples whose error is more than rounding to this precision: part of it is there on every move, (B,).

        Where nothing rounds to it, constants that were rounded may still shift the gradient by some units; where
        something does, whatever happens to be rounded alike on all moves may shift it as far as the bound says.
        """
        constants = _CONSTANTS * unit_roundoff(self.dtype) * self.required
        chance = _DEVIATIONS * self.spread / _COARSE_MOVES**0.5
        return self.smooth > constants + self.guards + chance + torch.where(self.is_rough, self.bound, 0.0)

    @property
    def is_rounding(self) -> bool:
        """Whether the error is this precision's rounding and nothing else: rough, and rough for the most part."""
        size = self.required.clamp(min=1e-300)
        mostly = float((self.smooth / size).sum()) <= _MOSTLY * float((self.spread / size).sum())
        return mostly and bool(self.is_rough.any()) and not bool(self.is_systematic.any())

    @property
    def relative(self) -> float:
        """The smooth part beside the gradient, for the systematic sample where it is largest; 0 if there is none."""
        return float(torch.where(self.is_systematic, self.smooth / self.required, 0.0).nan_to_num().max())


def roughness(judge: Judge, case: Case, dtype: torch.dtype, seen: bool = False) -> Roughness:
    """Measure an implementation's error on a problem in float64, as the rounding of a lower precision that it may be.

    Samples whose branch of a clip that precision does not decide, or whose gradient is not finite, have no error here.
    With ``seen``, branches are read off the gradient instead: one that is off by half has taken the other branch
    (which is off by all of it) or is no rounding; the rest is on the branch that float64 takes.

    Raises:
        AdapterError: the implementation cannot be judged.
    """
    coarse = list(_errors(judge, case, dtype, max(_COARSE, 8 * torch.finfo(dtype).eps), _COARSE_MOVES, seen))
    fine = list(_errors(judge, case, dtype, 8 * torch.finfo(dtype).eps, _FINE_MOVES, seen))
    doubtful = torch.stack([doubt for _, _, doubt in (*coarse, *fine)]).any(0)
    errors = torch.stack([error for error, _, _ in coarse])
    wanted = [one for _, one, _ in coarse]
    return Roughness(
        smooth=torch.where(doubtful, 0.0, _length(errors.mean(0))),
        spread=torch.where(doubtful, 0.0, _spread(errors)),
        fine=torch.where(doubtful, 0.0, _spread(torch.stack([error for error, _, _ in fine]))),
        bound=unit_roundoff(dtype) * torch.stack([_length(w.scale.flatten(1)) for w in wanted]).mean(0),
        required=torch.stack([_length(w.gradient.flatten(1)) for w in wanted]).mean(0),
        guards=_by_guards(judge, case),
        dtype=dtype,
    )


def _by_guards(judge: Judge, case: Case) -> Tensor:
    conventions = judge.conventions
    if not conventions.eps:
        return torch.zeros(len(case.output), dtype=torch.float64)
    effective = effective_case(conventions, case)
    off, _ = by_guards(conventions.derivation, effective, conventions.eps, False)
    return _length((abs(overall_factor(conventions, case)) * torch.as_tensor(off)).expand(case.output.shape).flatten(1))


def _errors(
    judge: Judge, case: Case, dtype: torch.dtype, step: float, count: int, seen: bool
) -> Iterator[tuple[Tensor, Required, Tensor]]:
    """On each move the error, (B, D), what was required, and the samples that nothing can be said of, (B,)."""
    for seed in range(count):
        one = moved(judge.conventions, case, dtype, step, seed)
        decided = required_of(judge.conventions, one, torch.float64 if seen else dtype)
        error = judge.observe(one).gradient.to(torch.float64).flatten(1) - decided.gradient.flatten(1)
        undecided = decided.undecided.expand(len(error), *decided.undecided.shape[1:]).reshape(-1)
        finite = error.isfinite().all(1) & decided.scale.isfinite().flatten(1).all(1)
        off = _length(error) > _OTHER_BRANCH * _length(decided.gradient.flatten(1)) if seen else ~finite
        yield error.nan_to_num(0.0, 0.0, 0.0), decided, undecided | ~finite | off


def _length(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1)


def _spread(errors: Tensor) -> Tensor:
    """Standard deviation over the moves, which come first."""
    return (_length(errors - errors.mean(0)).square().sum(0) / (len(errors) - 1)).sqrt()


def moved(conventions: Conventions, case: Case, dtype: torch.dtype, step: float, seed: int) -> Case:
    """The same problem with its inputs smaller by shares of up to ``step``; what follows from them is computed anew.

    They never grow, so that probabilities stay below 1.  Points of a time grid are numbers of ``dtype``, as those of
    cases for code that casts are.
    """
    derivation = conventions.derivation
    g = torch.Generator().manual_seed(seed)

    def share(*shape: int) -> Tensor:
        return 1 - step * torch.rand(shape, generator=g, dtype=torch.float64)

    together = share(len(case.output))
    given: dict[str, Tensor | float] = {}
    for name in derivation.given:
        value = getattr(case, name)
        if isinstance(value, Tensor) and name not in _VALUES:
            x = value.detach()
            alike = name == "t" and conventions.one_time
            shares = share() if alike else together if name in _TOGETHER else share(*x.shape)
            value = (x * shares.to(x.device)).to(x.dtype)
        elif not isinstance(value, Tensor) and name != "D" and name not in conventions.fixed:
            value = value * float(share())
        given[name] = value
    given = as_put_out(given, output_dtype(conventions))
    extra: dict[str, Tensor | float] = {
        name: getattr(case, name) for name in ("sigmas", "step_index") if name in case.names
    }
    if extra:
        extra["sigmas"], times = _compressed(case, dtype, float(share()))
        given |= times
    spec = Spec(len(case.output), tuple(case.output.shape[1:]), seed)
    one = complete(derivation, given, case.output.device, extra)
    return as_trainers_have_it(conventions, arranged(conventions, one), spec)


def _compressed(case: Case, dtype: torch.dtype, share: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The case's time grid times a share, all points alike as they may lie close, and the times on it."""
    before = case.sigmas.to(torch.float64)
    inner = (before * share).to(dtype).to(torch.float64)
    grid = torch.where(before == 1, before, inner).to(case.sigmas.dtype)
    here, there = grid[case.step_index], grid[case.step_index + 1]
    times = {"t": here.to(case.output.dtype), "dt": (here - there).abs().to(case.output.dtype)}
    return grid, {name: x for name, x in times.items() if name in case.names}
