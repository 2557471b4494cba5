r"""How a trainer holds its batch: pairs, groups, rows of steps, one time, latents of one rank, guided velocities.

A problem is drawn sample by sample, with the samples that belong together (a *unit*: a pair, a group, a row of steps)
next to each other.  :func:`fitted` chooses its sizes, :func:`arranged` makes what belongs together agree, and
:func:`presented` hands it over as the declaration says, differentiably, so that the gradient comes back by sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from math import ceil, prod

import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import error_gap
from derivations.on_top import MASK_REDUCTIONS
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.problems.building import Spec, complete

__all__ = [
    "STEPS",
    "arranged",
    "branch_shares",
    "branches",
    "branches_apart",
    "counts_samples",
    "fitted",
    "guidance_scale",
    "in_units",
    "masks_samples",
    "needs_presenting",
    "of_rank",
    "others_error",
    "presented",
    "unit",
]

STEPS = 3
"""Time steps in a row, where ``steps=True`` is declared."""

_PER_ROW = ("advantage", "reward", "reward_prob", "preference")
"""What a row of steps has once."""

_SCALES = (1.5, 4.5, 7.0)
"""Guidance scales that problems are drawn with."""


def unit(conventions: Conventions) -> int:
    """How many samples belong together."""
    if conventions.pairs is not None:
        return 2
    if conventions.groups is not None:
        return conventions.groups
    return STEPS if conventions.steps else 1


def masks_samples(conventions: Conventions) -> bool:
    """Whether a mask says which samples count."""
    return dict(conventions.on_top).get("mask") == "samples"


def masks_tokens(conventions: Conventions) -> bool:
    """Whether a mask says which tokens count: places on the latent's first axis, with all their coordinates."""
    return dict(conventions.on_top).get("mask") == "tokens"


def counts_samples(conventions: Conventions) -> bool:
    """Whether a batch's sum is divided by how many of its samples count."""
    reduction = dict(conventions.on_top).get("mask_reduction", MASK_REDUCTIONS[0])
    return masks_samples(conventions) and reduction == MASK_REDUCTIONS[0]


def in_units(units: list[int], size: int) -> list[int]:
    """The samples of some units, in the order of the units."""
    return [size * i + j for i in units for j in range(size)]


# --------------------------------------------------------------------------------------------- the sizes


def fitted(conventions: Conventions, spec: Spec, latent: tuple[int, ...] | None = None) -> Spec:
    """A problem of the shapes that are declared: whole units, and latents of the rank (or one of the shapes)."""
    size = unit(conventions)
    spec = replace(spec, batch=size * ceil(spec.batch / size), one_time=conventions.one_time)
    if conventions.latents:
        return replace(spec, latent=conventions.latents[spec.seed % len(conventions.latents)])
    axes = conventions.latent_axes or (None if latent is None else len(latent))
    return spec if axes is None else replace(spec, latent=of_rank(spec.latent, axes))


def of_rank(latent: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """A latent with as many axes: the last ones merged, or small ones of other sizes added."""
    if len(latent) > axes:
        return (*latent[: axes - 1], prod(latent[axes - 1 :]))
    if prod(latent) == 1:
        return (1,) * axes
    free = [n for n in (2, 3, 5, 4) if n not in latent]
    return (*latent, *free[: axes - len(latent)])


# ------------------------------------------------------------------------------- what belongs together


def arranged(conventions: Conventions, case: Case) -> Case:
    """The problem in which a unit's samples agree: one advantage a row, each other's gaps in a pair or group."""
    changes = _changes(conventions, case)
    if not changes:
        return case
    derivation = conventions.derivation
    given = {name: changes.get(name, getattr(case, name)) for name in derivation.given}
    extra: dict[str, Tensor | float] = {n: getattr(case, n) for n in ("sigmas", "step_index") if n in case.names}
    first = complete(derivation, given, case.output.device, extra)
    gap = _gap_name(conventions)
    if gap is None:
        return first
    given = {name: getattr(first, name) for name in derivation.given}
    given[gap] = _others(conventions, derivation, first)
    given = {n: x.detach() if isinstance(x, Tensor) else x for n, x in given.items()}
    return complete(derivation, given, case.output.device, extra)


def _changes(conventions: Conventions, case: Case) -> dict[str, Tensor]:
    changes: dict[str, Tensor] = {}
    if conventions.steps:
        for name in _PER_ROW:
            if name in case.names:
                changes[name] = getattr(case, name)[::STEPS].repeat_interleave(STEPS)
    if conventions.pairs is not None:
        won = torch.ones(len(case.output) // 2, dtype=case.output.dtype, device=case.output.device)
        if conventions.pairs == "given":
            won = case.preference[::2].sign()
        changes["preference"] = torch.stack([won, -won], 1).flatten()
    if conventions.groups is not None:
        changes["group_gap"] = case.group_gap
    if masks_tokens(conventions):
        changes["mask"] = _by_tokens(case.mask)
    if masks_samples(conventions):  # of any part of the batch that is looked at, one counts
        changes["window"] = case.window.index_fill(
            0, torch.tensor([0, -1], device=case.window.device) % len(case.window), 1
        )
    if conventions.guidance is not None:
        for name in ("v_theta", "v_old", "v_ref"):
            if name in case.names:
                changes[name] = _of_two_branches(conventions, case, getattr(case, name).detach())
    return changes


def _by_tokens(mask: Tensor) -> Tensor:
    """A mask that is the same in all coordinates of a token: the first one's, or where none is left, any one's."""
    each = mask.reshape(*mask.shape[:2], -1)
    first, some = each[..., 0], each.amax(2)
    kept = torch.where(first.any(1, keepdim=True), first, some)
    return kept.reshape(*kept.shape, *(1,) * (mask.ndim - 2)).expand(mask.shape).clone()


def guidance_scale(conventions: Conventions, case: Case) -> float:
    """The w of v_uncond + w·(v_cond − v_uncond)."""
    if conventions.guidance is True:
        return _SCALES[case.output[0].numel() % len(_SCALES)]
    return float(conventions.guidance or 1.0)


def branch_shares(conventions: Conventions, case: Case) -> tuple[float, float]:
    r"""How much of the velocity's gradient comes back by way of one v_cond, and of one v_uncond: 1 + (1 − w)κ, 1 − wκ.

    If each branch's gradient came back as it is, code that detaches w·(v_cond − v_uncond) whole would be right, since
    1 = w + (1 − w).  So the branches' difference moves with v at a rate κ, which cancels only in
    w·v_cond + (1 − w)·v_uncond.  Its sign is the one with which no single branch comes back as 1; \|wκ\| is about
    1/2, since rounding is enlarged by 2\|w(1 − w)κ\|.
    """
    w = guidance_scale(conventions, case)
    rate = math.copysign(2.0 ** -max(1, round(math.log2(2 * max(abs(w), 1.0)))), 1 - w)
    return 1 + (1 - w) * rate, 1 - w * rate


def branches_apart(case: Case) -> Tensor:
    """v_cond − v_uncond, the same for every sample, so that a part of the batch has the same one: few binary places."""
    seeded = torch.Generator().manual_seed(case.output[0].numel())
    drawn = torch.randn(case.output.shape[1:], generator=seeded, dtype=torch.float64)
    return _places(drawn, _COARSE).clamp(-2, 2).to(case.output.device)


def branches(conventions: Conventions, case: Case) -> tuple[Tensor, Tensor]:
    """The numbers v_cond and v_uncond that make up the velocity up to the rounding of it, in float64.

    They have so few binary places that every precision in question holds them, whatever the scale is; where the
    velocity was changed since it was made of such branches, they follow it.
    """
    gap, v = branches_apart(case), case.output.detach().to(torch.float64)
    free = v - guidance_scale(conventions, case) * gap
    held = _places(free, _held(conventions, case.output.dtype))
    rounding = 4 * torch.finfo(case.output.dtype).eps * (v.abs() + 1)
    uncond = torch.where((held - free).abs() <= rounding, held, free)
    return uncond + gap, uncond


def _of_two_branches(conventions: Conventions, case: Case, x: Tensor) -> Tensor:
    """A velocity near x that such branches make up.  In half precision they are below 8, which bfloat16 has."""
    gap = guidance_scale(conventions, case) * branches_apart(case)
    uncond = _places(x.to(torch.float64) - gap, _held(conventions, x.dtype))
    if conventions.output_dtype is not None:
        uncond = uncond.clamp(-4, 4)
    return (uncond + gap).to(x.dtype)


_COARSE, _FINE = 5, 12


def _held(conventions: Conventions, dtype: torch.dtype) -> int:
    """Binary places of the branches."""
    half = conventions.output_dtype is not None or torch.finfo(dtype).bits < 32
    return _COARSE if half else _FINE


def _places(x: Tensor, count: int) -> Tensor:
    """The nearest numbers with so many binary places."""
    return torch.round(x.to(torch.float64) * 2**count).div(2**count)


def _gap_name(conventions: Conventions) -> str | None:
    if conventions.pairs is not None:
        return "partner_gap"
    return "group_gap" if conventions.groups is not None else None


def _others(conventions: Conventions, derivation: Derivation, case: Case) -> Tensor:
    """What the other samples of each one's unit bring in: the partner's gap, or the sum over the rest of the group."""
    (gap,) = evaluate(derivation, case, error_gap, dtype=torch.float64)
    terms = gap.reshape(-1, unit(conventions))
    if conventions.groups is not None:
        terms = terms * case.advantage.to(torch.float64).reshape(terms.shape)
    return (terms.sum(1, keepdim=True) - terms).flatten().to(case.output.dtype)


# -------------------------------------------------------------------------------------- as it is handed over


def presented(conventions: Conventions, case: Case) -> Case:
    """The case in the form in which the implementation expects it; differentiable in the case's own output."""
    values: dict[str, Tensor | float] = {name: getattr(case, name) for name in case.names}
    for change in _PRESENTATIONS:
        values = change(conventions, case, values)
    return Case(case.label, values)


_Values = dict[str, "Tensor | float"]


def _guided(conventions: Conventions, case: Case, values: _Values) -> _Values:
    """v_cond and v_uncond with v_uncond + w·(v_cond − v_uncond) = v_theta; both are live."""
    if conventions.guidance is None:
        return values
    v = case.output
    put_out = v.dtype if conventions.output_dtype is None else getattr(torch, conventions.output_dtype)
    still = v - v.detach()  # 0, and a gradient
    names, shares = ("v_cond", "v_uncond"), branch_shares(conventions, case)
    handed = {
        name: x.to(v.dtype) + share * still
        for name, x, share in zip(names, branches(conventions, case), shares, strict=True)
    }
    kept = {name: x for name, x in values.items() if name != "v_theta"}
    scale = guidance_scale(conventions, case)
    return {**{name: x.to(put_out) for name, x in handed.items()}, **kept, "guidance_scale": scale}


def _paired(conventions: Conventions, case: Case, values: _Values) -> _Values:
    if conventions.pairs is None:
        return values
    count = len(case.output)
    kept = {name: x for name, x in values.items() if name != "partner_gap"}
    if conventions.pairs == "halves":
        order = [*range(0, count, 2), *range(1, count, 2)]
        kept = {n: x[order] if isinstance(x, Tensor) and _has_rows(case, x) else x for n, x in kept.items()}
        partner = [(i + count // 2) % count for i in range(count)]
    else:
        partner = [i ^ 1 for i in range(count)]
    return {**kept, "partner": torch.tensor(partner, device=case.output.device)}


def _grouped(conventions: Conventions, case: Case, values: _Values) -> _Values:
    if conventions.groups is None:
        return values
    kept = {name: x for name, x in values.items() if name != "group_gap"}
    return {**kept, "group_ids": torch.arange(len(case.output), device=case.output.device) // conventions.groups}


def _in_rows(conventions: Conventions, case: Case, values: _Values) -> _Values:
    if not conventions.steps:
        return values

    def shaped(name: str, x: Tensor | float) -> Tensor | float:
        if not isinstance(x, Tensor) or not _has_rows(case, x) or name == "sigmas":
            return x
        rows = x.reshape(-1, STEPS, *x.shape[1:])
        return rows[:, 0] if name in _PER_ROW else rows

    return {name: shaped(name, x) for name, x in values.items()}


def _has_rows(case: Case, x: Tensor) -> bool:
    return x.ndim > 0 and len(x) == len(case.output)


def _masked(conventions: Conventions, case: Case, values: _Values) -> _Values:
    if masks_tokens(conventions):
        return {**values, "mask": case.mask.reshape(*case.mask.shape[:2], -1)[..., 0]}
    if not masks_samples(conventions):
        return values
    return {"mask" if name == "window" else name: x for name, x in values.items()}


_PRESENTATIONS: tuple[Callable[[Conventions, Case, _Values], _Values], ...] = (
    _guided,
    _paired,
    _grouped,
    _masked,
    _in_rows,
)


def needs_presenting(conventions: Conventions) -> bool:
    """Whether the case is handed over in another form than it is held in."""
    held = conventions.steps or conventions.pairs or conventions.groups or conventions.guidance
    return bool(held) or masks_samples(conventions) or masks_tokens(conventions)


def others_error(conventions: Conventions, scale: Tensor, advantage: Tensor | None) -> Tensor:
    """How far the other samples' part of a unit may be off, from how far each sample's own gap may be, both (B,)."""
    terms = scale.reshape(-1, unit(conventions))
    if advantage is not None:
        terms = terms * advantage.abs().to(terms).reshape(terms.shape)
    return (terms.sum(1, keepdim=True) - terms).flatten()
