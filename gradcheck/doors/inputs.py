r"""Cases from a user's own tensors: checked against the notation table, all mistakes in one error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import Quantity, quantity
from gradcheck.case import Case
from gradcheck.catalogue import Entry, entry
from gradcheck.derived.equivalent import equivalent_loss as _equivalent_loss
from gradcheck.derived.equivalent import target as _target
from gradcheck.errors import InputError
from gradcheck.problems.building import complete
from gradcheck.rounding.compare import NOTHING_SEEN, Comparison
from gradcheck.rounding.streaming import compare_gradient as _compare_gradient
from gradcheck.rounding.streaming import judge_gradient

__all__ = ["compare_gradient", "equivalent_loss", "make_case", "original_loss", "target"]

_Problem = tuple[str, str, str]


def make_case(name: str, variant: str = "paper", **quantities: Tensor | float) -> Case:
    r"""A case from tensors, with the quantities that follow from them added.

    Args:
        name: an algorithm of the catalogue, ``"flow_grpo"`` for instance.
        variant: one of its variants.
        quantities: what the algorithm needs, by the notation table's names: latents of shape (B, \*latent),
            per-sample scalars of shape (B,), and numbers.  ``D`` may be left out.

    Returns:
        The case; its ``v_theta`` is a leaf that requires grad.

    Raises:
        InputError: an unknown or missing name, a wrong shape, dtype or device, a value that is not finite or is
            outside its domain.  Every mistake is listed.

    Example:
        >>> import torch
        >>> from gradcheck.doors.inputs import make_case
        >>> v, x_0, noise = torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1, 2)
        >>> case = make_case("awm", v_theta=v, x_0=x_0, noise=noise, advantage=torch.ones(1))
        >>> case.v_gt
        tensor([[-1., -1.]])
    """
    chosen = entry(name, variant)
    derivation = chosen.derivation
    given = dict(quantities)
    v = given.get("v_theta")
    if "D" in derivation.given and "D" not in given and isinstance(v, Tensor):
        given["D"] = float(math.prod(v.shape[1:]))
    problems = list(_problems(derivation, given))
    if problems:
        raise InputError(*problems)
    return complete(derivation, {q: given[q] for q in derivation.given}, v.device if isinstance(v, Tensor) else "cpu")


def original_loss(name: str, case: Case, variant: str = "paper") -> Tensor:
    """The algorithm's loss as its paper writes it, per sample, shape (B,).

    Raises:
        InputError: no such algorithm or variant, or a case of another one.
    """
    return _matching(name, variant, case).loss(case)


def equivalent_loss(name: str, case: Case, variant: str = "paper") -> Tensor:
    """``weight · ‖v_theta − sg(target)‖²``, which has the same gradient, per sample, shape (B,).

    Raises:
        InputError: no such algorithm or variant, or a case of another one.
    """
    return _equivalent_loss(_matching(name, variant, case).derivation, case)


def target(name: str, case: Case, variant: str = "paper") -> tuple[Tensor, Tensor]:
    r"""The weight, (B, 1, …, 1), and the point to which the loss pulls the velocity, (B, \*latent).

    Raises:
        InputError: no such algorithm or variant, or a case of another one.
    """
    return _target(_matching(name, variant, case).derivation, case)


def compare_gradient(
    name: str,
    case: Case,
    gradient: Tensor,
    variant: str = "paper",
    *,
    factor: float = 1.0,
    working_dtype: torch.dtype | None = None,
    output_dtype: torch.dtype | None = None,
) -> Comparison:
    r"""Compare a gradient that your code computed, on your own tensors of any size, with the derived one.

    It reads the latents in chunks and keeps nothing of their size, so that a training step's own tensors can be
    judged where they are: a video latent, a batch on the GPU.

    Args:
        name: an algorithm of the catalogue.
        case: of that algorithm, as :func:`make_case` returns it.
        gradient: d loss / d v_theta, (B, \*latent), without the batch's average or with it (then ``factor=1 / B``).
        variant: of the algorithm.
        factor: what multiplies every sample's gradient in your loss.
        working_dtype: the lowest precision that your loss computes in; the case's own by default.
        output_dtype: the precision in which the network puts out its velocities, where your loss casts them up first:
            ``torch.bfloat16`` under autocast.  The case holds the upcast velocities, and the gradient is that of what
            the network put out; autograd has rounded it to this precision, once for each place in the loss that reads
            the velocity.

    Returns:
        The worst component, its test ratio, ``holds``, and the smallest relative error that would have been refused.
        Where rounding leaves nothing of the gradient, ``reason`` says so, and ``holds`` is false.

    Raises:
        InputError: no such algorithm or variant, a case of another one, a gradient of another shape or device, a dtype
            that is none.
    """
    derivation = _matching(name, variant, case).derivation
    v = case.v_theta
    if not isinstance(gradient, Tensor) or gradient.shape != v.shape or gradient.device != v.device:
        given = _describe(gradient) + (f" on {gradient.device}" if isinstance(gradient, Tensor) else "")
        raise InputError(("gradient", given, f"a tensor of shape {tuple(v.shape)} on {v.device}, like v_theta"))
    floats = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    problems = [
        (argument, f"{given!r:.60}", "one of torch's real floating-point dtypes, or None")
        for argument, given in (("working_dtype", working_dtype), ("output_dtype", output_dtype))
        if given is not None and given not in floats
    ]
    if problems:
        raise InputError(*problems)
    if output_dtype is None:
        return _answered(_compare_gradient(derivation, case, gradient, factor=factor, dtype=working_dtype))
    return _answered(
        judge_gradient(
            derivation,
            case,
            gradient,
            factor=factor,
            dtype=working_dtype or v.dtype,
            output_dtype=output_dtype,
            uses=sp.Add.make_args(derivation.raw_gradient),
        ).comparison
    )


def _answered(found: Comparison) -> Comparison:
    """The comparison, which says so where it could not have seen a mistake."""
    return replace(found, reason=NOTHING_SEEN) if found.lost and found.holds else found


def _matching(name: str, variant: str, case: Case) -> Entry:
    chosen = entry(name, variant)
    if not isinstance(case, Case):
        raise InputError(("case", f"a {type(case).__name__}", "a gradcheck.Case, as make_case returns"))
    if case.label != chosen.label:
        raise InputError(("case", f"a case of {case.label}", f"one of {chosen.label}, as make_case returns"))
    return chosen


def _problems(derivation: Derivation, given: dict[str, Tensor | float]) -> Iterator[_Problem]:
    wanted = ", ".join(derivation.given)
    for name in given:
        if name not in derivation.given:
            yield name, "a quantity that this algorithm does not take", f"only {wanted}"
    for name in derivation.given:
        if name not in given:
            yield name, "nothing", quantity(name).meaning
    v = given.get("v_theta")
    if "v_theta" not in given:
        return
    shape = tuple(v.shape) if isinstance(v, Tensor) else ()
    if len(shape) < 2 or 0 in shape:
        yield "v_theta", _describe(v), "a tensor of shape (B, *latent) with at least two axes and no empty one"
        return
    assert isinstance(v, Tensor)
    if not v.is_floating_point():
        yield "v_theta", _describe(v), "a real floating-point dtype"
        return
    for name in derivation.given:
        if name in given:
            yield from _value_problems(quantity(name), given[name], v)
    dt, t = given.get("dt"), given.get("t")
    if isinstance(dt, Tensor) and isinstance(t, Tensor) and dt.shape == t.shape and bool((dt >= t).any()):
        i = int((dt >= t).nonzero()[0])
        yield "dt", f"{float(dt[i])!r} for sample {i} at t = {float(t[i])!r}", "a step that ends at a time t − dt > 0"
    before, after = given.get("alpha_bar"), given.get("alpha_bar_prev")
    if isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == after.shape:
        for i in (before >= after).nonzero().flatten()[:1].tolist():
            seen = f"{float(after[i])!r} for sample {i} with alpha_bar = {float(before[i])!r}"
            yield "alpha_bar_prev", seen, "a step towards data: alpha_bar_prev > alpha_bar"
    if given.get("D") not in (None, float(math.prod(shape[1:]))):
        yield "D", repr(given["D"]), f"{math.prod(shape[1:])}, the number of coordinates of one sample"


def _value_problems(row: Quantity, value: Tensor | float, v: Tensor) -> Iterator[_Problem]:
    if row.axes == "problem":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            yield row.name, _describe(value), "a Python number"
        elif not math.isfinite(value) or not row.domain.contains(
            sp.Float(value) if row.domain != sp.S.Naturals else int(value)
        ):
            yield row.name, repr(value), f"a number in {_interval(row.domain)}"
        return
    shape = tuple(v.shape) if row.axes == "latent" else (v.shape[0],)
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        yield (
            row.name,
            _describe(value),
            f"a tensor of shape {shape}" + (", like v_theta" if row.axes == "latent" else ""),
        )
    elif value.dtype != v.dtype:
        yield row.name, f"dtype {value.dtype}", f"{v.dtype}, like v_theta"
    elif value.device != v.device:
        yield row.name, f"device {value.device}", f"{v.device}, like v_theta"
    elif not bool(value.isfinite().all()):
        at = tuple(int(i) for i in (~value.isfinite()).nonzero()[0])
        yield row.name, f"{float(value[at])} at {at}", "finite values"
    elif row.axes == "sample":
        outside = ~_inside(row.domain, value)
        if bool(outside.any()):
            i = int(outside.nonzero()[0])
            yield row.name, f"{float(value[i])!r} for sample {i}", f"values in {_interval(row.domain)}"


def _inside(domain: sp.Set, value: Tensor) -> Tensor:
    low = value > float(domain.inf) if domain.left_open else value >= float(domain.inf)
    high = value < float(domain.sup) if domain.right_open else value <= float(domain.sup)
    return low & high


def _interval(domain: sp.Set) -> str:
    if domain == sp.S.Naturals:
        return "1, 2, 3, …"
    left, right = "(" if domain.left_open else "[", ")" if domain.right_open else "]"
    return f"{left}{_end(domain.inf)}, {_end(domain.sup)}{right}"


def _end(x: sp.Expr) -> str:
    return str(x).replace("oo", "∞").replace("-", "−")


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}, dtype {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "shape"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    return f"{value!r:.60} ({type(value).__name__})"
