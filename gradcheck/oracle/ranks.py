"""Code that takes latents of some ranks alone, or batches of one time: found out, and judged where it works."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from derivations.pieces import Piece
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.judge import Judge, look_at_gradient
from gradcheck.problems.building import Spec
from gradcheck.problems.regimes import PolicyRegime

__all__ = ["another_batch", "axes_in_words", "narrowed", "taken_axes"]

_LATENTS = {1: ((7,), (5,)), 2: ((4, 5), (3, 7)), 3: ((2, 3, 4), (3, 5, 2)), 4: ((2, 4, 5, 3), (3, 2, 2, 5))}
"""Two latents of each rank."""

_BATCHES = (3, 4)


def _specs(axes: int, judge: Judge) -> list[Spec]:
    pairs = zip(_BATCHES, _LATENTS[axes], strict=True)
    return [Spec(b, latent, judge.seed + 31 * i, time="middle") for i, (b, latent) in enumerate(pairs)]


def _is_declared(judge: Judge) -> bool:
    return bool(judge.conventions.latent_axes or judge.conventions.latents or judge.latent)


def taken_axes(judge: Judge) -> tuple[int, ...]:
    """The ranks of latents on which an implementation does not raise; none if that is declared, or if it takes all."""
    if _is_declared(judge):
        return ()
    taken = tuple(axes for axes in _LATENTS if _runs_on(judge, axes))
    return () if len(taken) == len(_LATENTS) else taken


def _runs_on(judge: Judge, axes: int) -> bool:
    try:
        for spec in _specs(axes, judge):
            judge.observe(judge.case(spec))
    except AdapterError:
        return False
    return True


def narrowed(judge: Judge, taken: tuple[int, ...]) -> Judge:
    """The same judge for latents of these ranks alone."""
    if len(taken) == 1:
        return replace(judge, conventions=replace(judge.conventions, latent_axes=taken[0]))
    shapes = tuple(latent for axes in taken for latent in _LATENTS[axes])
    return replace(judge, conventions=replace(judge.conventions, latents=shapes))


def axes_in_words(taken: tuple[int, ...]) -> str:
    """What was left out, and what to declare if that is meant."""
    others = [axes for axes in _LATENTS if axes not in taken]
    declare = f"latent_axes={taken[0]}" if len(taken) == 1 else "latents, the shapes that occur"
    return f"raises on latents of {_listed(others)} axes; if yours always have {_listed(taken)}, declare {declare}"


def _listed(numbers: tuple[int, ...] | list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def another_batch(judge: Judge) -> Diagnosis | None:
    """Right for batches of one time, or for latents of one rank, and wrong (or raising) for others."""
    conventions = judge.conventions
    if not conventions.one_time and not conventions.steps and {"t", "alpha_bar"} & set(conventions.derivation.given):
        one_time = replace(judge, conventions=replace(conventions, one_time=True))
        # what is right on such problems whatever their times are is wrong for another reason
        if all(_right_on(one_time, axes) for axes in (2, 3)) and not all(_right_on(judge, axes) for axes in (2, 3)):
            cause = "right where all samples of a batch have the same time, and wrong where they differ"
            return Diagnosis("convention:one_time", cause, "one_time=True")
    if _is_declared(judge):
        return None
    right = [axes for axes in _LATENTS if _right_on(judge, axes)]
    if not right or len(right) == len(_LATENTS):
        return None
    if not all(_right_arranged(judge, axes, right[0]) for axes in _LATENTS if axes not in right):
        return None  # the same numbers are wrong in any layout
    cause = f"right for latents of {_listed(right)} axes and wrong for others: a reshape or broadcast for one layout"
    return Diagnosis("layout", cause, f"latent_axes={right[0]}" if len(right) == 1 else "")


def _right_on(judge: Judge, axes: int) -> bool:
    try:
        return all(
            look_at_gradient(judge, judge.case(spec)).holds for spec in _on_both_sides(_specs(axes, judge), judge)
        )
    except AdapterError:
        return False


def _on_both_sides(specs: list[Spec], judge: Judge) -> list[Spec]:
    """The same, and where ratios are clipped too: code without a clip is right inside it."""
    clipped: tuple[PolicyRegime, ...] = ("far", "mixed") if Piece.RATIO in judge.conventions.derivation.pieces else ()
    return [*specs, *(replace(spec, policy=policy) for policy in clipped for spec in specs)]


def _right_arranged(judge: Judge, axes: int, taken: int) -> bool:
    """Whether what is wrong, or refused, on latents of some axes is right where the numbers have ``taken`` axes."""
    for spec in _on_both_sides(_specs(axes, judge), judge):
        case = judge.case(spec)
        shape = case.output.shape
        ones = (1,) * (taken - axes)
        other = (shape[0], *ones, -1, *shape[len(shape) - taken + len(ones) + 1 :])
        arranged = {
            name: getattr(case, name).detach().reshape(other)
            for name in case.names
            if isinstance(getattr(case, name), Tensor) and getattr(case, name).shape == shape
        }
        arranged[case.output_name] = arranged[case.output_name].clone().requires_grad_()
        try:
            seen = judge.observe(case.replace(**arranged)).gradient.reshape(shape)
        except AdapterError:
            return False
        if not judge.required(case).compare(seen).holds:
            return False
    return True
