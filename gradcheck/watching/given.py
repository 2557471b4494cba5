r"""What one call hands over: latents as they are, numbers per sample, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from derivations.notation import NOTATION
from gradcheck.errors import did_you_mean

__all__ = ["EXTRA", "Given", "Problem", "read_call"]

Problem = tuple[str, str, str]
"""Name, what was given, what is wanted: as :class:`gradcheck.errors.InputError` takes it."""

EXTRA = {
    "clip_range": "one number, or the pair (low, high)",
    "group": "(B,): which group of rewards each sample belongs to",
    "guidance": "the scale w of v_uncond + w (v_cond − v_uncond)",
    "loss_scale": "what the loss is multiplied by before backward: a number, or a GradScaler",
    "accumulation": "the number of micro-batches that one update averages",
    "on_policy": "True where no update lies between the rollout and this step",
    "sigmas": "the scheduler's grid of times, from 1 down to 0",
    "step": "the number under which this step is reported",
    "step_index": "(B,): where on the grid each sample's step starts",
    "timestep": "what the network received as its time",
    "v_cond": "the velocity with the prompt, live",
    "v_uncond": "the velocity without it, live",
}
"""What a call may hand over besides the quantities of the notation table."""

_AXES = {q.name: q.axes for q in NOTATION} | {"v_cond": "latent", "v_uncond": "latent"}
_PER_SAMPLE = {"group", "step_index", "timestep"}


@dataclass
class Given:
    r"""One call's tensors and numbers.

    Attributes:
        output_name: the quantity that the network puts out.
        output: it, live.
        latents: detached, (B, \*latent), in whatever dtype they came.
        samples: one number a sample, (B,), float64, on the CPU.
        numbers: one number for all.
        live: what came with a graph, by name, besides the output.
        extra: what no formula takes: the grid, the groups, the declared constants.
        versions: of every tensor that is kept, to see whether somebody changed it in place.
        moved: whether the trained parameters are other ones than at the rollout, if that is known.
        moved_ever: whether they are known to be other ones than at the first judged step.
    """

    output_name: str
    output: Tensor
    latents: dict[str, Tensor] = field(default_factory=dict)
    samples: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    live: dict[str, Tensor] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    moved: bool | None = None
    moved_ever: bool = False

    @property
    def batch(self) -> int:
        return self.output.shape[0]

    @property
    def names(self) -> set[str]:
        return {self.output_name, *self.latents, *self.samples, *self.numbers}

    def changed_in_place(self) -> list[str]:
        """The tensors that are not what they were when the call was made."""
        kept = {self.output_name: self.output, **self.latents}
        return [name for name, x in kept.items() if version_of(x) != self.versions[name]]


def version_of(x: Tensor) -> int:
    """How often a tensor was changed in place; one of inference mode does not count it."""
    return 0 if x.is_inference() else x._version


def read_call(output_name: str, values: Mapping[str, Any]) -> tuple[Given | None, list[Problem]]:
    """Sort a call's keywords by what they are; ``None`` where there is no output to watch."""
    known = [*_AXES, *EXTRA]
    problems: list[Problem] = [
        (name, "a name that there is not", f"a quantity of the notation table{did_you_mean(name, known)}")
        for name in values
        if name not in known
    ]
    output = values.get(output_name)
    if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point() or 0 in output.shape:
        wanted = "what the network put out, a floating-point tensor of shape (B, *latent)"
        return None, [*problems, (output_name, describe(output), wanted)]
    given = Given(output_name, output)
    given.versions[output_name] = version_of(output)
    for name, value in values.items():
        if name == output_name or name not in known or value is None:
            continue
        if isinstance(value, Tensor) and value.requires_grad and value is not output:
            given.live[name] = value
        axes = _AXES.get(name, "")
        if axes == "latent":
            problems += _latent(given, name, value)
        elif axes == "sample" or name in _PER_SAMPLE:
            problems += _sample(given, name, value)
        elif axes == "problem":
            problems += _number(given, name, value)
        else:
            problems += _extra(given, name, value)
    return given, [*problems, *_ranges(given)]


def grid_of(sigmas: Any) -> Tensor | None:
    """A scheduler's times in float64 on the CPU; ``None`` if they are none."""
    try:
        grid = torch.as_tensor(sigmas).detach().to("cpu", torch.float64).flatten()
    except (TypeError, ValueError, RuntimeError):
        return None
    return grid if len(grid) > 1 and bool(grid.isfinite().all()) else None


def _extra(given: Given, name: str, value: Any) -> list[Problem]:
    """What no formula takes as it is."""
    wanted = EXTRA[name]
    if name == "sigmas":
        grid = grid_of(value)
        if grid is None:
            return [(name, describe(value), f"{wanted}, at least two")]
        value = grid
    elif name in ("guidance", "accumulation", "loss_scale") and not hasattr(value, "get_scale"):
        try:
            number = math.nan if isinstance(value, str) else float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if not math.isfinite(number) or (number <= 0 and name != "guidance"):
            return [(name, describe(value), wanted)]
        value = number
    elif name == "on_policy":
        if not isinstance(value, bool) and not (isinstance(value, Tensor) and value.numel() == 1):
            return [(name, describe(value), "True or False")]
        value = bool(value)
    given.extra[name] = value
    return []


def _latent(given: Given, name: str, value: Any) -> list[Problem]:
    shape, device = tuple(given.output.shape), given.output.device
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    if not dense or tuple(value.shape) != shape or not value.is_floating_point():
        return [(name, describe(value), f"a floating-point tensor of shape {shape}, like {given.output_name}")]
    if value.device != device:
        return [(name, f"a tensor on {value.device}", f"one on {device}, like {given.output_name}")]
    given.latents[name] = value.detach()
    given.versions[name] = version_of(value)
    return []


def _sample(given: Given, name: str, value: Any) -> list[Problem]:
    batch = given.batch
    wanted = f"a tensor of shape ({batch},), one number a sample"
    if isinstance(value, bool) or not isinstance(value, (int, float, Tensor)):
        value = ids_of(value) if name == "group" else value
        try:
            value = torch.as_tensor(value, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            return [(name, describe(value), wanted)]
    x = (
        value.detach().to("cpu", torch.float64)
        if isinstance(value, Tensor)
        else torch.tensor(value, dtype=torch.float64, device="cpu")
    )
    if x.numel() == 1:
        x = x.reshape(1).expand(batch)
    elif x.shape[0] != batch or x.numel() != batch:
        return [(name, describe(value), wanted)]
    given.samples[name] = x.reshape(batch)
    return []


def _ranges(given: Given) -> list[Problem]:
    """Numbers per sample that are not finite, or no fractions where they must be."""
    if not given.samples:
        return []
    problems = []
    names, every = list(given.samples), torch.stack(tuple(given.samples.values()))
    for name, low, high in zip(names, *(end.tolist() for end in every.aminmax(dim=1)), strict=True):
        if not (math.isfinite(low) and math.isfinite(high)):  # NaN where any number is
            x = given.samples.pop(name)
            problems.append((name, f"{float(x[~x.isfinite()][0])!r}", "finite numbers"))
        elif low < 0 or high > 1:
            problems += _outside(name, given.samples[name])
    return problems


def ids_of(group: Any) -> Any:
    """Numbers for groups that have names, such as their prompts."""
    if not isinstance(group, (list, tuple)) or not all(isinstance(x, str) for x in group):
        return group
    known = {name: i for i, name in enumerate(dict.fromkeys(group))}
    return [known[x] for x in group]


def _outside(name: str, x: Tensor) -> list[Problem]:
    """A time that is no fraction, in the commonest ways."""
    if name in ("t", "t_prev", "dt"):
        worst = float(x[(x < 0) | (x > 1)][0])
        hint = "; divide the scheduler's timestep by 1000" if worst > 1 else "; it goes from t down to t_prev"
        return [(name, f"{worst:g}", f"a fraction between 0 and 1{hint}")]
    if name == "reward_prob":
        return [(name, f"{float(x[(x < 0) | (x > 1)][0]):g}", "a probability between 0 and 1")]
    return []


def _number(given: Given, name: str, value: Any) -> list[Problem]:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = float(value.detach())
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return [(name, describe(value), "a number")]
    given.numbers[name] = float(value)
    return []


def describe(value: object) -> str:
    """A value in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        kind = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')}, "
        return f"{kind}shape {tuple(value.shape)}, dtype {str(value.dtype).removeprefix('torch.')}, on {value.device}"
    if isinstance(value, (str, int, float, bool)):
        return f"{value!r:.60} ({type(value).__name__})"
    if isinstance(value, (list, tuple)):
        of = ", ".join(dict.fromkeys(type(x).__name__ for x in value[:5]))
        return f"a {type(value).__name__} of {len(value)}: {of}"
    return f"a {type(value).__name__}"
