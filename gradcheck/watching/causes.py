r"""Why a step's gradient is not the derived one: other stories of this very step, each tried by what it predicts.

The trainer's own mistakes come first (another order, another index, a rounded state, a clipped gradient), then other
declarations, then the named mistakes of the loss: each predicts the whole gradient, which must be the observed one
within the step's own rounding.  All that fit are named, the conventions first; before the first update many mistakes
of a loss are one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from derivations.pieces import Piece
from gradcheck.errors import GradcheckError
from gradcheck.oracle.required import required_of
from gradcheck.watching.evidence import Evidence
from gradcheck.watching.faults import Fault
from gradcheck.watching.judge import Seen
from gradcheck.watching.reading import on_directions
from gradcheck.watching.stories import Story, of_declaration, of_factors, of_loss, of_trainer

__all__ = ["causes", "declared_otherwise"]

_ROUGHLY = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.1}
"""The largest relative error that is called a precision's."""
_NAMED = 4
"""Causes of one step that are told."""


def causes(e: Evidence, seen: Seen) -> list[Fault]:
    """What the gradient is consistent with; never empty."""
    found = _without_prediction(e)
    if found:
        return found
    fitting = _fitting(e, [*of_trainer(e), *of_declaration(e), *of_loss(e), *of_factors(e)])
    fitting = fitting or _fitting(e, list(of_loss(e, generic=True)))
    if fitting:
        return sorted(fitting, key=lambda f: not f.name.startswith("convention:"))
    return [_by_shape(e, seen)]


def declared_otherwise(e: Evidence) -> list[Fault]:
    """Other declarations under which the step is right."""
    return _fitting(e, list(of_declaration(e)))


def _fitting(e: Evidence, stories: list[Story]) -> list[Fault]:
    """Those that predict what was observed, one of each name."""
    fitting: dict[str, Fault] = {}
    for fault, predict in stories:
        if fault.name in fitting:
            continue
        try:
            predicted = predict()
        except (GradcheckError, KeyError, ValueError, AttributeError, RuntimeError):
            continue  # this story asks for quantities that the step does not have
        if predicted is not None and e.fits(predicted):
            fitting[fault.name] = fault
        if len(fitting) >= _NAMED:
            break
    return list(fitting.values())


# ------------------------------------------------------------------------- what the gradient itself shows


def _without_prediction(e: Evidence) -> list[Fault]:
    seen, wanted = e.observed, e.required
    name = e.given.output_name
    if not bool(seen.isfinite().all()):
        return [Fault("not-finite", f"the gradient in {name} is not finite, and the derived one is")]
    if not bool((seen != 0).any()):
        why = "it is detached in the loss, or zeroed"
        if Piece.RATIO in e.conventions.derivation.pieces:
            why += ", or the old log-probability is made of it too and takes its gradient off again"
        return [Fault("no-gradient", f"the gradient in {name} is 0 throughout: {why}")]
    zero = ~(seen != 0).any(1) & (wanted.abs() > e.bound).any(1)
    rest = ~zero
    if bool(zero.any()) and _right(e, rest):
        which = ", ".join(map(str, zero.nonzero().flatten().tolist()[:5]))
        return [Fault("samples-masked", f"the gradient of sample {which} is 0, and must not be; the others are right")]
    return _clipped(e)


def _right(e: Evidence, rows: Tensor) -> bool:
    """Whether the gradient of some samples is the required one."""
    return bool(((e.observed - e.required).abs() <= e.bound)[rows].all())


def _clipped(e: Evidence) -> list[Fault]:
    """A plateau at the largest magnitude: clamped, component by component; or each sample's or the batch's norm cut."""
    top = float(e.observed.abs().max())
    slack = 2 * e.precision.unit * top
    at_top = e.observed.abs() >= top - slack
    inside = ~at_top
    same = ((e.observed - e.required).abs() <= e.bound)[inside]
    beyond = (e.required.abs() >= top - slack - e.bound)[at_top] & (e.required.sign() == e.observed.sign())[at_top]
    if int(at_top.sum()) > 1 and bool(same.all()) and bool(beyond.all()) and bool(inside.any()):
        sentence = f"every component of the gradient is clipped at ±{top:.3g} before it goes on into the network"
        return [Fault("gradient-clipped", sentence)]
    return []


def _by_shape(e: Evidence, seen: Seen) -> Fault:
    """What is known where no story fits."""
    multiples = _multiples(e)
    if seen.multiple is not None:
        return Fault(
            "factor",
            f"the whole gradient is {seen.multiple:.6g} times the required one, which no product of "
            "the given numbers is",
        )
    if multiples is not None:
        shown = ", ".join(f"{float(c):.4g}" for c in multiples[:5])
        norms = (multiples[:, None] * e.required).norm(dim=1)
        if len(norms) > 1 and bool(((norms / norms[0] - 1).abs() < 4 * e.precision.unit + 1e-4).all()):
            return Fault(
                "gradient-normalised",
                "each sample's gradient has the right direction and the same length: it "
                "is normalised, or its norm is clipped",
            )
        return Fault(
            "sample-factor",
            "each sample's gradient has the right direction and another length: times "
            f"{shown} … of the required one (advantage, weight, time or standard deviation of another sample?)",
        )
    for name in ("float32", "bfloat16", "float16"):
        low = required_of(replace(e.conventions, working_dtype=name), e.case)
        off = float((e.observed - e.required).norm() / e.required.norm())
        if off > _ROUGHLY[name] or not low.compare(e.observed).holds or not _rough(e):
            continue
        if name == "float32":
            sentence = f"right to a relative {off:.1g}, as float32 is: the loss casts to it inside"
            return Fault("convention:working_dtype", f"{sentence} (working_dtype='float32')")
        sentence = (
            f"right to a relative {off:.1g}, and rough, as {name} is: a part of the loss is computed in it (autocast "
            "around the loss?)"
        )
        return Fault("half-precision", sentence)
    off = (e.observed - e.required).norm(dim=1) / e.required.norm(dim=1).clamp(min=1e-300)
    wrong = ((e.observed - e.required).abs() > e.bound).any(1)
    which = ", ".join(map(str, wrong.nonzero().flatten().tolist()[:5]))
    observed, required = on_directions(e)
    return Fault(
        "unknown",
        f"no named cause fits; samples {which} are off by up to {float(off.max()):.2g} of their gradient's length; on "
        f"the field's directions it is {observed}, and must be {required}",
    )


def _rough(e: Evidence) -> bool:
    """Whether the error is rounding's: of both signs beside each component, and of no direction of the step's own."""
    error = (e.observed - e.required) * e.required.sign()
    share = float((error > 0).to(torch.float64).mean())
    return 0.2 < share < 0.8


def _multiples(e: Evidence) -> Tensor | None:
    """Each sample's observed gradient as a multiple of the required one; ``None`` unless all are parallel."""
    size = e.required.square().sum(1).clamp(min=1e-300)
    c = (e.observed * e.required).sum(1) / size
    left = (e.observed - c[:, None] * e.required).abs()
    allowed = e.bound * (1 + c.abs()[:, None]) + 2 * e.precision.unit * (c[:, None] * e.required).abs()
    return c if bool((left <= allowed).all()) else None
