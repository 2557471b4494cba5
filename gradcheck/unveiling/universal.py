r"""Cases that hold every quantity of a process at once, for a loss of which nobody said what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from derivations.derivation import Derivation, Process
from derivations.notation import quantity
from derivations.pieces import Piece
from derivations.steps.sde import SDES, StepName, step_with
from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.conventions import Conventions
from gradcheck.oracle.arrangement import of_rank
from gradcheck.problems.building import Spec, complete, draw_given

__all__ = ["UNIVERSES", "Universe", "Watched", "family"]

Quantities = dict[str, Tensor | float]


def family(process: Process, sde: StepName | Literal[""]) -> list[Entry]:
    """The catalogue's entries whose quantities a case of this process holds."""

    held = set() if process == "forward" else {"D", *_on_step(sde).given}

    def belongs(e: Entry) -> bool:
        d = e.derivation
        if d.process != process or Piece.PREFERENCE in d.pieces:
            return False  # a case of independent samples holds no pairs or groups
        step = step_with(d.coefficients)
        return process == "forward" or (step is not None and step.name == sde and set(d.given) <= held)

    return [e for e in CATALOGUE if belongs(e)]


def _on_step(sde: StepName | Literal[""], reduction: str = "sum") -> Derivation:
    """The loss that needs every quantity of a case on this reverse step."""
    options = {"sde": sde, "kl": "step", "log_prob_reduction": reduction}
    return Conventions("flow_grpo", options=options).derivation


@dataclass(frozen=True)
class Universe:
    """One process, and on the backward one a reverse step, whose cases hold whatever a loss may ask for.

    Attributes:
        process: ``"forward"`` or ``"backward"``.
        sde: the reverse step; empty for the forward process.
        log_prob_reduction: of the stored log-probability over the latent's coordinates, ``"sum"`` or ``"mean"``.
        numbers: one-number quantities that are given instead of drawn; ``adv_clip_max`` keeps advantages below it.
        declared: a loss of which it is declared that it is this one; its quantities are there too.
        axes: how many axes its latents have, without the batch's; ``None``: now as many, now others.
    """

    process: Process
    sde: StepName | Literal[""] = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    log_prob_reduction: str = "sum"
    declared: Derivation | None = None
    axes: int | None = None

    def __str__(self) -> str:
        return self.process + (f", on {self.sde} steps" if self.sde else "")

    def draw(self, spec: Spec) -> Quantities:
        """What a problem is made from, consistent among themselves, every step on one time grid."""
        if self.axes is not None:
            spec = replace(spec, latent=of_rank(spec.latent, self.axes))
        members = self._members()
        names = list(dict.fromkeys(name for d in (*members, *self._own()) for name in d.given))
        names += ["D"] if "D" not in names else []
        fixed: Quantities = {name: x for name, x in self.numbers.items() if name in names}
        given = draw_given(members[0], spec, names, fixed)
        fixed |= {name: given[name] for name in ("advantage", "t", "dt") if name in given}
        fixed |= _apart(fixed)
        if self.process == "forward":
            r = given["reward_prob"]
            assert isinstance(r, Tensor)
            fixed["advantage"] = 2 * r - 1
        limit = self.numbers.get("adv_clip_max")
        if limit is not None:
            a = fixed["advantage"]
            assert isinstance(a, Tensor)
            fixed["advantage"] = a * min(1.0, 0.9 * limit / max(float(a.abs().max()), 1e-300))
        return draw_given(members[0], spec, names, fixed)

    def case(self, given: Quantities) -> Case:
        """The case of these quantities, with all that follows from them and what schedulers ask for besides."""
        quantities = dict(given)
        for d in (*self._own(), *reversed(self._members())):
            part = complete(d, {name: given[name] for name in d.given})
            quantities |= {name: getattr(part, name) for name in part.names}
        t = given["t"]
        assert isinstance(t, Tensor)
        if self.process == "forward":
            quantities["omega"] = torch.ones_like(t)
        if given["clip_low"] == given["clip_high"]:
            quantities["clip_range"] = given["clip_high"]
        if "adv_clip_max" in self.numbers:
            quantities["adv_clip_max"] = self.numbers["adv_clip_max"]
        quantities |= {"timestep": 1000 * t, **_grid(given)}
        return Case(f"unveil[{self.process}]", quantities)

    def changed(self, given: Quantities) -> Iterator[tuple[str, Quantities]]:
        """The same problem with one quantity changed at a time; r and A = 2r − 1 together in the forward process."""
        generator = torch.Generator().manual_seed(0)
        for name, value in given.items():
            if name in ("D", *self.numbers) or (name == "advantage" and self.process == "forward"):
                continue
            if not isinstance(value, Tensor):
                yield name, {**given, name: 0.7 * value}
            elif name in ("mask", "window"):
                yield name, {**given, name: torch.ones_like(value)}
            elif quantity(name).axes == "latent":
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                yield name, {**given, name: value.detach() + 0.2 * noise}
            elif name == "reward_prob":
                for r in (value**1.5, 1 - value):
                    yield name, {**given, name: r, "advantage": 2 * r - 1}
            elif name == "t":
                yield name, {**given, **_later(given)}
            elif name == "dt":
                t = given["t"]
                yield name, {**given, name: t - (t - 0.7 * value).float().double()}
            else:
                yield name, {**given, name: 0.7 * value}
                if quantity(name).domain.inf.is_negative:
                    yield name, {**given, name: -value}

    def _own(self) -> list[Derivation]:
        return [] if self.declared is None else [self.declared]

    def _members(self) -> list[Derivation]:
        if self.process == "backward":
            return [_on_step(self.sde, self.log_prob_reduction)]
        members = [e.derivation for e in family("forward", "")]
        members.sort(
            key=lambda d: (
                d.name != "awm" or d.variant.name != "clipped-reference",
                d.variant.name != "adaptive-reference",
            )
        )
        return members


class Watched(Case):
    """A case that notes in ``read`` what it is asked for."""

    def __init__(self, case: Case, read: set[str]) -> None:
        super().__init__(repr(case), {name: getattr(case, name) for name in case.names})
        self._read = read

    def __getattr__(self, name: str) -> Any:
        found = super().__getattr__(name)
        self._read.add(name)
        return found


UNIVERSES = (*(Universe("backward", step.name) for step in SDES), Universe("forward"))
"""Where a loss is looked at, in this order."""


def _apart(given: Quantities) -> Quantities:
    """Times whose steps do not overlap, so that all of them are neighbours on one grid; float32 holds its points."""
    t = given["t"]
    assert isinstance(t, Tensor)
    place = t.argsort().argsort()
    t = (0.05 + 0.9 * (place + 0.1 + 0.8 * (t - 0.05) / 0.9) / len(t)).float().double()
    if "dt" not in given:
        return {"t": t}
    ascending = t.sort().values
    below = torch.cat([t.new_zeros(1), ascending[:-1]])[place]
    dt = torch.minimum(torch.as_tensor(given["dt"]), 0.8 * (t - below))
    return {"t": t, "dt": t - (t - dt).float().double()}


def _later(given: Quantities) -> Quantities:
    """The same steps, each a tenth of the way to the next one up."""
    t, dt = given["t"], given.get("dt", 0.0)
    assert isinstance(t, Tensor)
    end = t - dt
    above = torch.cat([end.sort().values[1:], end.new_ones(1)])[t.argsort().argsort()]
    moved = (t + 0.1 * (above - t)).float().double()
    return {"t": moved} if "dt" not in given else {"t": moved, "dt": moved - (moved - dt).float().double()}


def _grid(given: Quantities) -> Quantities:
    """The grid from 1 down to 0, where each sample is on it, and where its step ends."""
    t, dt = given["t"], given.get("dt")
    assert isinstance(t, Tensor)
    ends = t - dt if isinstance(dt, Tensor) else t[:0]
    sigmas = torch.cat([t.new_ones(1), t, ends, t.new_zeros(1)]).unique().flip(0)
    index = (sigmas[None, :] == t[:, None]).to(torch.int64).argmax(1)
    out: Quantities = {"sigmas": sigmas, "step_index": index}
    return out | ({"t_prev": ends} if isinstance(dt, Tensor) else {})
