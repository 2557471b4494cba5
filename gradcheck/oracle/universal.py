r"""Cases that hold every quantity of a process at once, for a loss of which nobody said what it needs."""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.conventions import Conventions
from gradcheck.problems import Spec, complete, draw_given

__all__ = ["family", "universal_case"]


def family(process: str, sde: str) -> list[Entry]:
    """The catalogue's entries whose quantities a case of this process holds."""

    def belongs(e: Entry) -> bool:
        options = e.derivation.variant.options
        return e.derivation.process == process and (process == "forward" or options.get("sde", "flow") == sde)

    return [e for e in CATALOGUE if belongs(e)]


def universal_case(process: str, sde: str, spec: Spec) -> Case:
    """A case with every quantity that losses of a process use, consistent among themselves."""
    if process == "backward":
        members = [Conventions("flow_grpo", options={"sde": sde, "kl": "step"}).derivation]
    else:
        members = [e.derivation for e in family(process, sde)]
        members.sort(
            key=lambda d: (
                d.name != "awm" or d.variant.name != "clipped-reference",
                d.variant.name != "adaptive-reference",
            )
        )
    names = list(dict.fromkeys(name for d in members for name in d.given))
    given = draw_given(members[0], spec, [*names, *(("D",) if "D" not in names else ())])
    if process == "forward":
        r = given["reward_prob"]
        assert isinstance(r, Tensor)
        given["advantage"] = 2 * r - 1
    quantities: dict[str, Tensor | float] = dict(given)
    for d in reversed(members):
        part = complete(d, {name: given[name] for name in d.given})
        quantities |= {name: getattr(part, name) for name in part.names}
    t = given["t"]
    assert isinstance(t, Tensor)
    if process == "forward":
        quantities["omega"] = torch.ones_like(t)
    else:
        dt = given["dt"]
        assert isinstance(dt, Tensor)
        quantities |= {"t_prev": t - dt, "clip_range": given["clip_high"]}
    quantities["timestep"] = 1000 * t
    return Case(f"unveil[{process}]", quantities)
