r"""One problem of a declared loss: as it is drawn, as trainers have it, and as the loss sees it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.devices import DtypeName
from gradcheck.oracle.arrangement import arranged
from gradcheck.problems.building import Spec, build
from gradcheck.problems.drawing import Draw

__all__ = [
    "as_trainers_have_it",
    "effective_case",
    "oracle_case",
    "output_dtype",
    "per_sample",
    "sample_of",
    "working_dtype",
]


_APART = 0x9E3779B9
"""How far the seed of what is drawn besides a problem is from the problem's own."""


def working_dtype(conventions: Conventions, case: Case) -> torch.dtype:
    """The lower of the case's precision and of the one that the implementation works in."""
    return _lower(case.output.dtype, conventions.computes_in)


def _lower(own: torch.dtype, declared: DtypeName | None) -> torch.dtype:
    """The lower of two precisions."""
    if declared is None:
        return own
    other: torch.dtype = getattr(torch, declared)
    return other if torch.finfo(other).eps > torch.finfo(own).eps else own


def output_dtype(conventions: Conventions) -> torch.dtype | None:
    """The precision that networks put out, where it is declared."""
    found: torch.dtype | None = getattr(torch, conventions.output_dtype) if conventions.output_dtype else None
    return found


def effective_case(conventions: Conventions, case: Case) -> Case:
    """The case as the loss sees it: the advantage clamped where that is declared, and a factor of the policy term alone
    taken out of the KL's or reference term's weight, so that it multiplies the whole."""
    if conventions.policy_factor != 1 and "kl_weight" in case.names:
        case = case.replace(kl_weight=case.kl_weight / conventions.policy_factor)
    limit = conventions.adv_clip_max
    if limit is None or Piece.ADVANTAGE not in conventions.derivation.pieces:
        return case
    limit = min(limit, torch.finfo(case.advantage.dtype).max)
    return case.replace(advantage=case.advantage.clamp(-limit, limit))


def oracle_case(conventions: Conventions, spec: Spec, dtype: torch.dtype, device: str) -> Case:
    """A random problem of the declared form, with the quantities that schedulers and trainers ask for besides."""
    case = build(
        conventions.derivation,
        spec,
        dtype,
        device,
        fixed=conventions.fixed,
        on_grid=True,
        grid_dtype=_lower(dtype, conventions.computes_in),
        output_dtype=output_dtype(conventions),
    )
    return as_trainers_have_it(conventions, arranged(conventions, case), spec)


def as_trainers_have_it(conventions: Conventions, case: Case, spec: Spec) -> Case:
    """A problem with the quantities that schedulers and trainers ask for besides; ``spec`` draws what is lacking."""
    quantities: dict[str, Tensor | float] = {name: getattr(case, name) for name in case.names}
    if conventions.derivation.process == "forward" and conventions.derivation.path == "rectified":
        quantities |= _noised_data(conventions.derivation, case, spec)
    if "t" in quantities:
        quantities["timestep"] = 1000 * quantities["t"]
    if "dt" in quantities:
        # the grid's own next point, so that t − t_prev is dt to the last bit
        quantities["t_prev"] = case.sigmas[case.step_index + 1] if "sigmas" in quantities else case.t - case.dt
    if conventions.adv_clip_max is not None:
        quantities["adv_clip_max"] = conventions.adv_clip_max
    low, high = (conventions.fixed.get(f"clip_{side}") for side in ("low", "high"))
    if low is not None and low == high:  # else one number would be wrong on one side
        quantities["clip_range"] = high
    return Case(case.label, quantities)


def _noised_data(derivation: Derivation, case: Case, spec: Spec) -> dict[str, Tensor | float]:
    """What every trainer of the forward process has at hand, though the loss may not need it: x_0, noise, t, x_t."""
    names = [name for name in ("x_0", "noise", "t") if name not in case.names]
    # Drawn apart, so that the problem itself stays the one that its seed has always stood for.  torch's generator on
    # the CPU looks at the lowest 32 bits of its seed alone.
    draw = Draw(derivation.canonical, replace(spec, seed=spec.seed + _APART), {})
    dtype, device = case.output.dtype, case.output.device
    have: dict[str, Tensor] = {n: getattr(case, n) for n in ("x_0", "noise", "t") if n in case.names}
    for name in names:
        drawn = draw.quantity(name)
        assert isinstance(drawn, Tensor)
        have[name] = (1 - drawn if name == "t" and derivation.noise_at == 0 else drawn).to(dtype).to(device)
    if "x_t" not in case.names:
        t, x_0, noise = (have[n].to(torch.float64) for n in ("t", "x_0", "noise"))
        share = case.expand(t if derivation.noise_at == 1 else 1 - t)
        have["x_t"] = ((1 - share) * x_0 + share * noise).to(dtype)
    return {name: x for name, x in have.items() if name not in case.names}


def per_sample(case: Case) -> list[str]:
    """Quantities with a row for each sample."""
    return [name for name in case.names if isinstance(getattr(case, name), Tensor) and name != "sigmas"]


def sample_of(case: Case, row: slice) -> Case:
    """Some neighbours of a batch, as a case of their own that shares its numbers."""
    return case.replace(**{name: getattr(case, name)[row] for name in per_sample(case)})
