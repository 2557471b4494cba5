r"""What a random problem is made from: the regimes of its quantities, and a specification of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

__all__ = [
    "ADVANTAGE",
    "CLIP_RANGES",
    "DIVERGENCES",
    "MARGIN",
    "NOISE",
    "POLICY",
    "RARE_ADVANTAGE",
    "RARE_NOISE",
    "RARE_POLICY",
    "RARE_TIME",
    "TIME",
    "AdvantageRegime",
    "MarginRegime",
    "NoiseRegime",
    "PolicyRegime",
    "Regimes",
    "Spec",
    "TimeRegime",
]

CommonPolicy = Literal["on-policy", "near", "off", "inside", "outside", "far"]
PolicyRegime = Literal[CommonPolicy, "mixed", "widths", "ratios", "huge-ratios", "start"]
"""Where v_theta is, from v_old and from the edges of the clip."""

AdvantageRegime = Literal["mixed", "typical", "zero", "extreme", "unit", "equal", "good", "bad", "tiny", "huge"]
"""Signs and sizes of the advantages."""

TimeRegime = Literal["mixed", "middle", "near-data", "near-noise", "between", "same", "pairs"]
"""Where on the time axis the samples are."""

NoiseRegime = Literal["typical", "tiny", "full"]
"""How much noise a reverse step adds."""

MarginRegime = Literal["typical", "wide", "far", "beyond"]
"""How far apart a pair's or a group's samples are in what a preference compares."""

POLICY: tuple[CommonPolicy, ...] = get_args(CommonPolicy)
"""Regimes of v_theta against v_old, and against the clip."""

ADVANTAGE: tuple[AdvantageRegime, ...] = ("typical", "zero", "extreme")
"""Regimes of the advantage."""

TIME: tuple[TimeRegime, ...] = ("middle", "near-data", "near-noise")
"""Regimes of t."""

NOISE: tuple[NoiseRegime, ...] = ("typical", "tiny")
"""Regimes of the noise level."""

RARE_POLICY: tuple[PolicyRegime, ...] = ("widths", "ratios", "huge-ratios", "start")
"""Regimes of v_theta that ``"mixed"`` holds none of: ratios off 1 by a tenth of the clip's width to thirty widths (or
divergences of as many bounds), where every precision tells another clip from the declared one; ratios between 1/1000
and 50, however the log-probability is reduced; ratios beyond e^±20; the first step of a training, where v_theta, v_old
and v_ref are one."""

RARE_ADVANTAGE: tuple[AdvantageRegime, ...] = ("unit", "equal", "good", "bad", "tiny", "huge")
"""The same for the advantage: ±1, one number for all samples, none that is negative, none that is positive, about
1e-9, about 10⁴."""

RARE_TIME: tuple[TimeRegime, ...] = ("between", "same", "pairs")
"""The same for t: between the middle of the time axis and its ends; one t for all samples; one for every two."""

RARE_NOISE: tuple[NoiseRegime, ...] = ("full",)
"""The same for the noise level: about 1, up to where a step allows it."""

MARGIN: tuple[MarginRegime, ...] = ("typical", "wide", "far", "beyond")
"""Regimes of what stands in a sigmoid, or in the exponent of a weight, of both signs: a few; 15 to 80; 90 to 320, where
float32's exponentials end; 720 to 2,000, where float64's do."""

CLIP_RANGES = ((0.2, 0.2), (0.2, 0.28), (0.05, 0.05), (1e-4, 1e-4))
"""Clip ranges (low, high) that problems are drawn with."""

DIVERGENCES = (0.02, 0.05, 2e-3, 1e-4)
"""Largest divergences that problems are drawn with, in a clip's place."""


class Regimes(TypedDict, total=False):
    """The regimes of a :class:`Spec`, those that are not the usual ones."""

    policy: PolicyRegime
    advantage: AdvantageRegime
    time: TimeRegime
    noise: NoiseRegime
    margin: MarginRegime


@dataclass(frozen=True)
class Spec:
    """What a random problem is made from.

    Attributes:
        batch: number of samples.
        latent: shape of one sample, of one to four axes.
        seed: of the torch generator.
        policy: regime of v_theta against v_old, one of :data:`POLICY` or ``"mixed"``, or of :data:`RARE_POLICY`.
        advantage: one of :data:`ADVANTAGE` or ``"mixed"``, or of :data:`RARE_ADVANTAGE`.
        time: one of :data:`TIME` or ``"mixed"``, or of :data:`RARE_TIME`.
        noise: one of :data:`NOISE` or :data:`RARE_NOISE`; it holds for the whole problem.
        clip: index into :data:`CLIP_RANGES`, or :data:`DIVERGENCES`.
        margin: one of :data:`MARGIN`.
        one_time: whether every sample has the first one's time and step.
    """

    batch: int
    latent: tuple[int, ...]
    seed: int
    policy: PolicyRegime = "mixed"
    advantage: AdvantageRegime = "mixed"
    time: TimeRegime = "mixed"
    noise: NoiseRegime = "typical"
    clip: int = 0
    margin: MarginRegime = "typical"
    one_time: bool = False
