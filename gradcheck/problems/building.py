"""Random problems as cases: drawn, in the derivation's own variables, rounded, and completed by what follows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from derivations.derivation import PREDICTIONS, Change, Derivation
from derivations.notation import quantity
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.problems.drawing import Draw
from gradcheck.problems.regimes import Spec

__all__ = [
    "Spec",
    "as_put_out",
    "build",
    "complete",
    "draw_given",
    "in_its_variables",
    "more_names",
]


def build(
    derivation: Derivation,
    spec: Spec,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    *,
    fixed: Mapping[str, float] | None = None,
    on_grid: bool = False,
    grid_dtype: torch.dtype | None = None,
    output_dtype: torch.dtype | None = None,
) -> Case:
    """Make the case.

    Base quantities are drawn in float64, as velocities and with the noise at t = 1, converted to the derivation's own
    variables, and rounded to ``dtype``; quantities with a definition (``x_prev``, ``v_gt`` …) are computed from the
    rounded ones in float64 and then rounded.

    Args:
        derivation: says which quantities there are.
        spec: shapes, regimes and seed.
        dtype: of the tensors.
        device: where they go.
        fixed: one-number quantities that are given instead of drawn.
        on_grid: take every step from one time grid, and add ``sigmas`` (the grid, from noise to data) and
            ``step_index`` (B,), for implementations that look their step up in a scheduler.
        grid_dtype: the precision whose numbers the grid's points are; ``dtype`` by default.  An implementation
            that casts its times to float32 and takes their difference works on another grid than the one of a
            float64 case, unless its points are float32 numbers.
        output_dtype: the lower precision whose numbers networks put out; ``dtype`` by default.
    """
    small = spec.batch * math.prod(spec.latent) <= _SMALL
    if small and not fixed and not on_grid:
        own, grid = _drawn_once(derivation, spec), dict[str, Tensor]()
    else:
        own, grid = _drawn(derivation, spec, fixed or {}, (grid_dtype or dtype) if on_grid else None)
    extra: dict[str, Tensor | float] = {n: x.to(dtype) if n == "sigmas" else x for n, x in grid.items()}
    rounded = as_put_out(
        {name: x.to(dtype, copy=True) if isinstance(x, Tensor) else x for name, x in own.items()}, output_dtype
    )
    return complete(derivation, {name: rounded[name] for name in derivation.given}, device, extra)


_SMALL = 2**12
"""Numbers of a latent up to which what was drawn is kept for a while: the same problem is asked for in two
precisions."""


@lru_cache(maxsize=64)
def _drawn_once(derivation: Derivation, spec: Spec) -> dict[str, Tensor | float]:
    return _drawn(derivation, spec, {}, None)[0]


def _drawn(
    derivation: Derivation, spec: Spec, fixed: Mapping[str, float], grid_dtype: torch.dtype | None
) -> tuple[dict[str, Tensor | float], dict[str, Tensor]]:
    """The numbers of a problem in float64, before anything is rounded; and its time grid, if it is to be on one."""
    draw = Draw(derivation.canonical, spec, dict(fixed))
    drawn: dict[str, Tensor | float] = {}
    grid: dict[str, Tensor] = {}
    for names in (derivation.canonical.given, more_names(derivation)):
        drawn |= {name: draw.quantity(name) for name in names if name != "v_theta"}
        if grid_dtype is not None and "t" in drawn and not grid:
            grid = draw.grid(drawn, grid_dtype, derivation.noise_at)
        if spec.policy == "start" and "v_ref" in drawn and "v_old" in drawn:
            drawn["v_ref"] = drawn["v_old"]
        if "v_theta" not in drawn:
            drawn["v_theta"] = draw.v_theta(drawn)
    return in_its_variables(derivation, drawn), grid


def as_put_out(quantities: Mapping[str, Tensor | float], output_dtype: torch.dtype | None) -> dict[str, Tensor | float]:
    """Quantities of which those that a network puts out are numbers of its precision, held in their own dtype."""
    if output_dtype is None:
        return dict(quantities)
    return {
        name: x.to(output_dtype).to(x.dtype) if isinstance(x, Tensor) and name in _PUT_OUT else x
        for name, x in quantities.items()
    }


_PUT_OUT = {symbol.name for symbol in PREDICTIONS}


def more_names(derivation: Derivation) -> tuple[str, ...]:
    """What changes of variables need besides what the derivation before them is given."""
    converted = {s.name for d in _changes(derivation) for s in d.conversion} - {"t"}
    return tuple(n for n in derivation.given if n not in derivation.canonical.given and n not in converted)


def _changes(derivation: Derivation) -> list[Change]:
    """The changes of variables, the first one first."""
    change = derivation.change
    return [] if change is None else [*_changes(change.origin), change]


def in_its_variables(derivation: Derivation, drawn: dict[str, Tensor | float]) -> dict[str, Tensor | float]:
    """Quantities of a problem in the derivation's own variables, which was drawn in those before all changes."""
    values = dict(drawn)
    for change in _changes(derivation):
        known = {s: e for s, e in change.conversion.items() if all(x.name in values for x in change.origin.inputs(e))}
        found = evaluate(change.origin, Case(change.origin.label, values), *known.values(), dtype=torch.float64)
        outputs = {s.name for s in PREDICTIONS} & set(values)
        kept = {name: x for name, x in values.items() if name not in outputs}
        row = {s.name: quantity(s.name).axes == "sample" for s in known}
        values = kept | {s.name: x.reshape(-1) if row[s.name] else x for s, x in zip(known, found, strict=True)}
    return values


def draw_given(
    derivation: Derivation,
    spec: Spec,
    names: Sequence[str],
    given: Mapping[str, Tensor | float] | None = None,
) -> dict[str, Tensor | float]:
    """Draw quantities by name, some of which another derivation than this one may ask for; v_theta comes last.

    What is ``given`` takes the place of what would be drawn, and changes nothing else of the problem but v_theta.
    """
    draw = Draw(derivation, spec, {})
    drawn = {name: draw.quantity(name) for name in names if name != "v_theta"} | dict(given or {})
    drawn["v_theta"] = draw.v_theta(drawn)
    return drawn


def complete(
    derivation: Derivation,
    given: Mapping[str, Tensor | float],
    device: str | torch.device = "cpu",
    extra: Mapping[str, Tensor | float] | None = None,
) -> Case:
    """Add the defined quantities to the given ones, and make the network's output a leaf that requires grad."""
    output = derivation.output.name
    v = given[output]
    assert isinstance(v, Tensor)
    case = Case(derivation.label, {**given, output: v.detach()})
    symbols = [quantity(name).symbol for name in derivation.defined]
    values = evaluate(derivation, case, *symbols, dtype=torch.float64)
    defined = {}
    for symbol, value in zip(symbols, values, strict=True):
        axes = quantity(symbol.name).axes
        full = value.to(v.dtype).expand(v.shape if axes == "latent" else (v.shape[0], *(1,) * (v.ndim - 1)))
        defined[symbol.name] = full.contiguous() if axes == "latent" else full.reshape(-1).clone()
    everything = {**given, **defined, **(extra or {})}
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in everything.items()}
    moved[output] = v.detach().to(device).clone().requires_grad_()
    return Case(derivation.label, moved)
