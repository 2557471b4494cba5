r"""The cases of every set of vectors, as data, in the order in which failures are best read.

Cases are made so that a mistake shows in as few of them as can be: all have one sample, or several at the same time,
but for the one that mixes times; all have positive advantages but for those that are about the sign; all have their
ratio inside the clip but for those that are about the clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gradcheck.devices import DtypeName
from gradcheck.problems.regimes import NoiseRegime, PolicyRegime, TimeRegime

__all__ = ["CLIP", "GROUPS", "RECIPES", "Recipe"]

CLIP = {"clip_low": 0.1, "clip_high": 0.15}
"""Clip ranges of all cases but the one at the edge: two numbers, so that exchanging them shows."""

GROUPS = {
    "axes2": (4,),
    "axes2-one": (1,),
    "axes3": (3, 4),
    "axes4": (3, 1, 4),
    "axes5": (3, 1, 2, 4),
}
"""Cases with latents of one shape lie in one group, stacked along its first axis."""


@dataclass(frozen=True)
class Recipe:
    """How to draw one case.

    Attributes:
        name: of the case.
        flag: its note in :data:`gradcheck.vectors.flags.FLAGS`.
        needs: quantities that the loss must take for the case to make sense; ``"signal"`` stands for the advantage or
            what takes its place, ``"clip"`` for a clipped ratio.
        batch: number of samples; ``signal="pair"`` doubles it.
        group: one of :data:`GROUPS`.
        policy: regime of ``v_theta``, as in :data:`gradcheck.problems.regimes.POLICY`.
        side: where the ratio must lie, ``"high"`` above 1 or ``"low"`` below; ``""`` for either.
        at_edge: move the clip to where the ratio is.
        time, noise: regimes of :mod:`gradcheck.problems.regimes`.
        mixed: draw a time for every sample; else all share one.
        signal: ``"typical"``, ``"zero"``, ``"extreme"`` (two samples), or ``"pair"``, each sample with both signs.
        seen: precisions in which a mistake of a percent must be visible, unless nothing is demanded.
    """

    name: str
    flag: str
    needs: tuple[str, ...] = ()
    batch: int = 1
    group: str = "axes2"
    policy: PolicyRegime = "inside"
    side: str = ""
    at_edge: bool = False
    time: TimeRegime = "middle"
    noise: NoiseRegime = "typical"
    mixed: bool = False
    signal: Literal["typical", "zero", "extreme", "pair"] = "typical"
    seen: tuple[DtypeName, ...] = ("float64", "float32")


_SHARP: tuple[DtypeName, ...] = ("float64",)

RECIPES = (
    Recipe("typical", "typical"),
    Recipe("batch", "batch", batch=3),
    Recipe("mixed-times", "mixed-times", ("t",), batch=3, mixed=True),
    Recipe("on-policy", "on-policy", ("v_old",), policy="on-policy"),
    Recipe("zero-advantage", "zero-advantage", ("centred",), signal="zero"),
    Recipe("advantage-signs", "advantage-signs", ("signal",), signal="pair"),
    Recipe("extreme-advantage", "extreme-advantage", ("signal",), batch=2, policy="near", signal="extreme"),
    Recipe("clip-inside-high", "clip-inside-high", ("clip",), side="high", signal="pair"),
    Recipe("clip-inside-low", "clip-inside-low", ("clip",), side="low", signal="pair"),
    Recipe("clip-outside-high", "clip-outside-high", ("clip",), policy="outside", side="high", signal="pair"),
    Recipe("clip-outside-low", "clip-outside-low", ("clip",), policy="outside", side="low", signal="pair"),
    Recipe("clip-edge", "clip-edge", ("clip",), side="high", at_edge=True, signal="pair"),
    Recipe("near-data", "near-data", ("t",), policy="near", time="near-data", seen=_SHARP),
    Recipe("near-noise", "near-noise", ("t",), policy="near", time="near-noise", seen=_SHARP),
    Recipe("tiny-noise", "tiny-noise", ("noise_level",), policy="near", noise="tiny", seen=_SHARP),
    Recipe("one-coordinate", "one-coordinate", batch=2, group="axes2-one"),
    Recipe("three-axes", "axes", batch=2, group="axes3"),
    Recipe("four-axes", "axes", batch=2, group="axes4"),
    Recipe("five-axes", "axes", batch=2, group="axes5"),
)
"""Every case, the plainest first."""
