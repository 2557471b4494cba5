"""A clip like PPO's, at other ratios than declared: at which?"""

from __future__ import annotations

import math

import sympy as sp
import torch
from torch import Tensor

from derivations import notation as n
from derivations.calculus import ClipMask
from derivations.derivation import Derivation
from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.derived.compiled import evaluate
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.mistakes import EXCHANGED, ONE_EDGE
from gradcheck.oracle.problem import effective_case
from gradcheck.oracle.required import overall_factor, required_of
from gradcheck.problems.building import Spec, complete
from gradcheck.problems.regimes import PolicyRegime

__all__ = ["clip_edges", "misused_edges"]

_OTHER_EDGES = "convention:clip_range"


_MANY = 64


def clip_edges(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """Clipped as PPO does, at other ratios than declared: at which?"""
    derivation = judge.conventions.derivation
    if Piece.RATIO not in derivation.pieces or not derivation.gradient.atoms(ClipMask):
        return None
    for clip in (0,) if "clip_low" in judge.conventions.fixed else (1, 2):  # an asymmetric one, and a narrow one
        found = _edges(judge, clip)
        if found is not None:
            return found
    return None


def misused_edges(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """The declared edges in the wrong places, which ordinary problems may not tell from other mistakes."""
    found = clip_edges(judge, evidence)
    return None if found is None or found.name == _OTHER_EDGES else found


def _edges(judge: Judge, clip: int) -> Diagnosis | None:
    low, high = [0.0, math.inf], [0.0, math.inf]  # what the edges' distances from 1 are between
    loose, noise, every = 0.0, 0.0, list[tuple[float, float, bool]]()
    policies: tuple[PolicyRegime, ...] = ("near", "inside", "outside", "off", "off")
    for seed, policy in enumerate(policies, 1):
        case = judge.case(Spec(_MANY, (3,), seed=9_000 + seed, policy=policy, time="middle", clip=clip))
        seen = _clipped(judge, case)
        if seen is None:
            return None
        _narrow(low, high, seen[0])
        loose = max(loose, seen[1])
        every += seen[0]
    declared = float(case.clip_low), float(case.clip_high)
    for _ in range(_ROUNDS):
        noise = max(noise, _settle(low, loose), _settle(high, loose))
        if low[0] > low[1] or high[0] > high[1] or low[1] == high[1] == math.inf:
            return None  # not a clip at fixed ratios, or none
        if low[0] <= declared[0] <= low[1] and high[0] <= declared[1] <= high[1]:
            return None
        between = _between(judge, clip, low, high)
        seen = None if between is None else _clipped(judge, between)
        if seen is None:
            break
        _narrow(low, high, seen[0])
        every += seen[0]
    noise = max(noise, _settle(low, loose), _settle(high, loose))
    if low[0] <= declared[1] <= low[1] and high[0] <= declared[0] <= high[1]:
        return Diagnosis("clip-edges-exchanged", EXCHANGED)
    for which, one in zip(("lower", "upper"), declared, strict=True):
        if low[0] <= one <= low[1] and high[0] <= one <= high[1]:
            return Diagnosis("clip-symmetric", ONE_EDGE.format(which))
    found = _read_off(low, high)
    if not _explains(found, every, max(_NEAR * min(*found, *declared), min(2 * noise, _NEARER * min(found)))):
        return None
    at = " and ".join(
        f"{'above' if up else 'below'} 1 {'+' if up else '−'} {x:g}" if math.isfinite(x) else f"not at all {side}"
        for up, x, side in ((False, found[0], "below 1"), (True, found[1], "above 1"))
    )
    cause = f"the ratio is clipped {at}, where {declared[0]:g} below and {declared[1]:g} above are declared"
    finite = all(0 < x < math.inf for x in found)
    written = f"clip_range={found[0]:g}" if found[0] == found[1] else f"clip_range=({found[0]:g}, {found[1]:g})"
    return Diagnosis(_OTHER_EDGES, cause, written if finite else "")


_ROUNDS = 3
"""How often what lies between two ratios is looked at: each time some thirty ratios tell where in it an edge is."""


def _read_off(low: list[float], high: list[float]) -> tuple[float, float]:
    """The roundest numbers that the edges may be: one for both if there is one that may be either.

    Each may be as far outside its limits as they are apart, where rounding has drawn them.
    """
    (a, b), (c, d) = ((max(2 * least - most, least / 2), 2 * most - least) for least, most in (low, high))
    least, most = max(a, c), min(b, d)
    if least <= most < math.inf:
        both = _roundest(least, most)
        return both, both
    return _roundest(a, b), _roundest(c, d)


_NEAR, _NEARER = 0.1, 0.5
"""How far off an edge, as a share of it, a ratio may be clipped or not: where samples contradict each other, by twice
as much as they do, up to the second share."""


def _explains(found: tuple[float, float], seen: list[tuple[float, float, bool]], near: float) -> bool:
    """Whether every sample is clipped where these edges say so, but for those next to one."""
    for advantage, ratio, clipped in seen:
        edge, beyond = (found[1], ratio - 1) if advantage > 0 else (found[0], 1 - ratio)
        if abs(beyond - edge) > near and clipped != (beyond > edge):
            return False
    return True


def _settle(edge: list[float], loose: float) -> float:
    """Where samples contradict each other by no more than rounding may put a ratio off, the edge is between them.

    Returns:
        By how much they do.
    """
    if not edge[1] < edge[0] <= edge[1] + 2 * loose:
        return 0.0
    edge[:] = edge[::-1]
    return edge[1] - edge[0]


def _narrow(low: list[float], high: list[float], seen: list[tuple[float, float, bool]]) -> None:
    """What samples that are clipped, or are not, say of where the edges are."""
    for advantage, ratio, clipped in seen:
        edge, beyond = (high, ratio - 1) if advantage > 0 else (low, 1 - ratio)
        if clipped:
            edge[1] = min(edge[1], beyond)
        else:
            edge[0] = max(edge[0], beyond)


def _between(judge: Judge, clip: int, low: list[float], high: list[float]) -> Case | None:
    """A problem whose ratios lie where the edges may be, as far as its samples can be moved there."""
    case = judge.case(Spec(_MANY, (3,), seed=9_100, policy="off", time="middle", clip=clip))
    derivation = judge.conventions.derivation
    old = next((names[1] for names in _MODELS if names[0] == case.output_name and names[1] in case.names), None)
    if old is None:
        return None
    v, good = case.output.detach(), case.advantage > 0
    wanted = torch.zeros(len(v), dtype=torch.float64)
    for chosen, (least, most) in ((good, high), (~good, low)):
        share = torch.linspace(0, 1, int(chosen.sum()) + 2, dtype=torch.float64)[1:-1]
        wanted[chosen] = least + (min(most, 10 * least + 1) - least) * share
    steps = torch.logspace(-5, 1, _STEPS, dtype=torch.float64)
    at = torch.cat([steps, -steps])
    beyond = torch.stack([_beyond(judge, case, old, torch.full((len(v),), float(s)).to(v)) for s in at])
    off = (beyond - wanted).abs().nan_to_num(math.inf, math.inf, math.inf)
    return _moved(derivation, case, old, at[off.argmin(0)].to(v))


_MODELS = (("v_theta", "v_old"), ("noise_theta", "noise_old"), ("x_0_theta", "x_0_old"))
_STEPS = 120


def _moved(derivation: Derivation, case: Case, old: str, by: Tensor) -> Case:
    """The problem with each sample's output so many times as far from the behaviour model's."""
    start = getattr(case, old)
    given = {name: getattr(case, name) for name in derivation.given}
    given[case.output_name] = start + case.expand(by) * (case.output.detach() - start)
    rest = {x: getattr(case, x) for x in case.names if x not in given and x not in derivation.defined}
    return complete(derivation, given, case.output.device, rest)


def _beyond(judge: Judge, case: Case, old: str, by: Tensor) -> Tensor:
    """By how much the ratios are then beyond 1, to the side on which their advantage is clipped."""
    derivation = judge.conventions.derivation
    moved = effective_case(judge.conventions, _moved(derivation, case, old, by))
    (ratio,) = evaluate(derivation, moved, n.ratio, dtype=torch.float64)
    return torch.where(case.advantage > 0, ratio.flatten() - 1, 1 - ratio.flatten())


def _clipped(judge: Judge, case: Case) -> tuple[list[tuple[float, float, bool]], float] | None:
    """Advantage, ratio, and whether it is clipped, of samples that tell, and how far rounding may put a ratio off.

    ``None`` if a gradient is neither the clipped one nor the free one.
    """
    derivation, effective = judge.conventions.derivation, effective_case(judge.conventions, case)
    gradients = [derivation.gradient.replace(ClipMask, lambda *_, m=m: m) for m in (sp.S.One, sp.S.Zero)]
    free, off, ratio = evaluate(derivation, effective, *gradients, n.ratio, dtype=torch.float64)
    wanted = required_of(judge.conventions, case)
    factor = overall_factor(judge.conventions, case)
    shape = case.output.shape
    e = Evidence(Spec(1, (1,), 0), judge.conventions, case, judge.observe(case).gradient, wanted)
    (is_free, judged), (is_off, _) = (e.fits(factor * x.expand(shape)) for x in (free, off))
    if not bool((is_free | is_off | ~judged).all()):
        return None
    telling = judged & (is_free ^ is_off)
    rows = zip(case.advantage.tolist(), ratio.flatten().tolist(), is_off.tolist(), telling.tolist(), strict=True)
    return [(a, r, c) for a, r, c, tells in rows if tells and a != 0], float(e.loose.max())


def _roundest(low: float, high: float) -> float:
    """The number of the fewest digits between two."""
    if math.isinf(high):
        return high
    middle = (low + high) / 2
    rounded = (float(f"{middle:.{digits}g}") for digits in range(1, 17))
    return next((x for x in rounded if low <= x <= high), middle)
