r"""Mistakes in the reverse step of the policy-gradient losses: its mean, its standard deviation, its normaliser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import sympy as sp

from derivations import notation as n
from derivations.derivation import Derivation, inline
from derivations.pieces import Piece
from derivations.steps.sde import reverse_step, step_with
from gradcheck.oracle.mistakes import places as at
from gradcheck.oracle.mistakes.candidates import Candidate
from gradcheck.oracle.mistakes.densities import density_mistakes, normaliser_mistakes, state_mistakes
from gradcheck.oracle.mistakes.functions import (
    BatchFirst,
    BatchMean,
    GridTime,
    Neighbour,
)
from gradcheck.oracle.mistakes.means import STEPS, mean_mistakes, other_mean_mistakes
from gradcheck.oracle.mistakes.places import Place, stated

__all__ = ["step_mistakes"]


_NAMES = {
    at.STD: "std",
    at.SCALE: "scale",
    at.BIAS_STD: "bias-std",
    at.DIVERGENCE_STD: "divergence-std",
    at.KL_STD: "kl-std",
}


def step_mistakes(d: Derivation) -> Iterator[Candidate]:
    """The reverse step's mean and standard deviation."""
    if not {n.mean_theta, n.mean_old} <= d.definitions.keys():
        return
    table = stated(d).table
    yield from _deviation_mistakes(d)
    if at.SCORE in table:
        yield from mean_mistakes(d, table)
    else:
        yield from other_mean_mistakes(d)
    if at.STD in table:
        yield from state_mistakes(d)
        yield from density_mistakes(d)
        yield from normaliser_mistakes(d)


def _deviation_mistakes(d: Derivation) -> Iterator[Candidate]:
    """Another standard deviation than the step's: at one place, or at several at once."""
    own = stated(d)
    has_dt = Piece.STEP_LENGTH in d.pieces
    root = sp.sqrt(n.dt) if has_dt else sp.S.One
    sigma = own.table[n.C2] / root if not has_dt else n.C2 / root
    kind = step_with(d.coefficients)
    for place in own.deviations:
        right = own.table[place]
        where, prefix = at.WHERE[place], _NAMES[place]
        wrong = f"the standard deviation in {where} is"

        def put(name: str, what: str, value: sp.Expr, place: Place = place, wrong: str = wrong) -> Candidate:
            return name, f"{wrong} {what}", d.loss, {place: value}

        if has_dt and right == n.C2:
            without = {"scale": "scale-sigma", "divergence-std": "divergence-sigma"}.get(prefix, f"{prefix}-without-dt")
            yield put(without, "σ_t; the step's is σ_t √Δt (√Δt is missing)", right / root)
            yield put(f"{prefix}-without-sigma", "√Δt; the step's is σ_t √Δt (σ_t is missing)", root)
            yield put(f"{prefix}-dt-twice", "multiplied by √Δt twice: σ_t Δt in place of σ_t √Δt", right * root)
        averaged = {"std": "std-mean", "scale": "std-averaged"}.get(prefix, f"{prefix}-averaged")
        for value in _averaged(right, root):
            yield put(averaged, "averaged over the batch; it must be per sample", value)
        yield put(
            "std-first" if prefix == "std" else f"{prefix}-first",
            "the first sample's; it must be per sample",
            BatchFirst(right),
        )
        for by in (1, -1):
            yield put(f"{prefix}-of-neighbour", "another sample's", Neighbour(right, by))
        if prefix == "std":
            yield put(
                "std-not-squared", "its root: the squared error is divided by 2C2 where 2C2² belongs", sp.sqrt(right)
            )
        yield put(f"{prefix}-squared", "the variance, its square", right**2)
        if has_dt and right == n.C2 and at.SIGMA_T in own.table:
            sigma_at = own.table[n.sigma_t]
            for which, what, moment in (
                ("time-after", "σ √Δt with σ taken at t − Δt, where the step ends; it must be at t", n.t - n.dt),
                ("time-before", "σ √Δt with σ taken at t + Δt; it must be at t, where the step starts", n.t + n.dt),
                ("time-after", "σ √Δt with σ taken one place later in the grid; it must be at t", GridTime(n.t, 1)),
                ("time-before", "σ √Δt with σ taken one place earlier in the grid; it must be at t", GridTime(n.t, -1)),
            ):
                yield put(f"{prefix}-{which}", what, sigma_at.xreplace({at.SIGMA_T: moment}) * root)
        for other in STEPS:
            if kind is not None and other != kind.name and kind.path == "rectified":
                yield put(
                    f"{prefix}-of-{other}", f"that of the {other} step", inline(n.C2, reverse_step(other).formulas)
                )
        if prefix in ("scale", "std"):
            yield put(f"{prefix}-doubled", "twice the step's", 2 * right)
        for least in ("1/100", "1/50", "1/20", "1/10", "1/5", "1/2"):
            floor = sp.Rational(least)
            # which samples are beyond a bound tells a number only roughly
            limit = f"about {float(floor):g}" if place == at.DIVERGENCE_STD else f"at least {float(floor):g}"
            yield put(f"{prefix}-floor", f"clamped from below, to {limit}", sp.Max(right, floor))
    several = [p for p in own.deviations if own.table[p] == n.C2]
    both = [*several, at.OVER] if at.OVER in own.table else several
    for size in range(2, len(both) + 1):
        # the log-probability is mostly computed apart: what stands elsewhere has one deviation more often
        for chosen in sorted(itertools.combinations(both, size), key=lambda places: at.STD in places):
            yield from _in_several(d, chosen, root, sigma, has_dt)


def _averaged(right: sp.Expr, root: sp.Expr) -> Iterator[sp.Expr]:
    yield BatchMean(right)
    if right == n.C2 and root != 1:
        yield BatchMean(right / root) * BatchMean(root)
        yield BatchMean(right / root) * root
        yield right / root * BatchMean(root)
        yield BatchMean(right / root) * sp.sqrt(BatchMean(n.dt))
    yield sp.sqrt(BatchMean(right**2))
    yield 1 / sp.sqrt(BatchMean(right**-2))  # every sample under every deviation: (B, 1, B)


def _in_several(
    d: Derivation, chosen: tuple[Place, ...], root: sp.Expr, sigma: sp.Expr, has_dt: bool
) -> Iterator[Candidate]:
    """One wrong deviation that stands at several places; under the policy term its part Δt with it."""
    words = [at.WHERE[p] for p in chosen if p != at.OVER] + (
        ["what divides the policy term"] if at.OVER in chosen else []
    )
    where = ", ".join(words[:-1]) + " and " + words[-1]
    averaged = f"the step's standard deviation is averaged over the batch in {where}; it must be per sample"
    options: list[tuple[str, str, sp.Expr, sp.Expr]] = []
    if has_dt:
        mean_root = BatchMean(root)
        options += [
            ("std-averaged", averaged, BatchMean(sigma) * mean_root, mean_root**2),
            ("std-averaged", averaged, BatchMean(n.C2), BatchMean(n.dt)),
            ("std-averaged", averaged, sigma * mean_root, mean_root**2),
            ("std-averaged", averaged, BatchMean(sigma) * sp.sqrt(BatchMean(n.dt)), BatchMean(n.dt)),
        ]
        if at.OVER not in chosen:
            options += [
                ("std-without-dt", f"the standard deviation is σ_t in {where}; the step's is σ_t √Δt", sigma, root),
                ("std-dt-twice", f"the standard deviation has √Δt twice in {where}", n.C2 * root, root),
            ]
    else:
        options.append(("std-averaged", averaged, BatchMean(n.C2), sp.S.One))
    for name, sentence, value, over in options:
        yield name, sentence, d.loss, {p: over if p == at.OVER else value for p in chosen}
