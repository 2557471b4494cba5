r"""The obligations: named checks that every right implementation of a declared loss passes.

The order is that of a reading person: does it behave like a function, is its gradient the derived one, and where not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from derivations.pieces import Piece
from gradcheck.case import Case
from gradcheck.devices import DtypeName
from gradcheck.judging.check import Check
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle import bodies
from gradcheck.oracle.checks import batch, behaviour, gradient, shapes
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.precision import check_precision

__all__ = ["OBLIGATIONS", "Obligation", "gradient_is_wrong"]


_UNNAMED = Diagnosis("unknown", "no named mistake fits")


@dataclass(frozen=True)
class Obligation(Check[Judge]):
    """A named check of a loss.

    Attributes:
        dtype: the precision of its cases, where that is not the one asked for.
        body: the lines of a script that show its failure.
        alone: what it comes from where the gradient is right on ordinary problems.
        general: whether the gradient is wrong on ordinary problems where it fails.
        layouts: whether it is about other ranks, sizes and strides.
        other_inputs: whether code that raises everywhere else may pass it.
    """

    dtype: DtypeName | Literal[""] = ""
    body: Callable[[Judge, Case], list[str]] = bodies.gradient
    alone: Diagnosis = _UNNAMED
    general: bool = False
    layouts: bool = False
    other_inputs: bool = False


def gradient_is_wrong(judge: Judge) -> bool:
    """Whether it is on ordinary problems."""
    quick = replace(judge, max_examples=3, dtype=torch.float64)
    return any(o.check(quick).status == "failed" for o in OBLIGATIONS if o.general and not o.applies(judge))


def _always(name: str, cause: str) -> Callable[[Judge], Diagnosis | None]:
    return lambda judge: Diagnosis(name, cause)


def _unless_the_gradient_is_wrong(name: str, cause: str) -> Callable[[Judge], Diagnosis | None]:
    return lambda judge: None if gradient_is_wrong(judge) else Diagnosis(name, cause)


def _needs_clip(judge: Judge) -> str | None:
    return None if {Piece.RATIO, Piece.MASK} & judge.conventions.derivation.pieces else "this loss has no clip"


def _needs_old(judge: Judge) -> str | None:
    return (
        None if Piece.BEHAVIOUR in judge.conventions.derivation.canonical.pieces else "this loss has no behaviour model"
    )


def _needs_time(judge: Judge) -> str | None:
    return None if Piece.TIME in judge.conventions.derivation.pieces else "this loss does not depend on the time"


def _needs_advantage(judge: Judge) -> str | None:
    return (
        None
        if {Piece.ADVANTAGE, Piece.OPTIMALITY} & judge.conventions.derivation.pieces
        else "this loss has no advantage"
    )


def _needs_reference_term(judge: Judge) -> str | None:
    return None if Piece.REFERENCE in judge.conventions.derivation.pieces else "no KL or reference term is declared"


def _needs_values(judge: Judge) -> str | None:
    return None if judge.conventions.compare_values else "only gradients count, unless compare_values=True is declared"


def _needs_live_inputs(judge: Judge) -> str | None:
    return (
        None
        if not judge.conventions.inputs_detached
        else "the trainer hands these over without a graph (inputs_detached=True)"
    )


OBLIGATIONS: tuple[Obligation, ...] = (
    Obligation(
        "determinism",
        "the same case gives the same gradient, bit for bit",
        "hidden state, random numbers, buffers that are reused",
        behaviour.check_determinism,
        lambda j: "declared output_rounding='stochastic'" if j.conventions.output_rounding == "stochastic" else None,
        body=bodies.determinism,
        direct=_always("state", "the implementation keeps state between calls or draws random numbers"),
    ),
    Obligation(
        "inputs-untouched",
        "neither the case's tensors nor the process's settings are changed",
        "in-place operations, global seeds, dtypes and grad modes",
        behaviour.check_inputs_untouched,
        body=bodies.inputs_untouched,
        direct=_always("in-place", "an in-place operation on an input, or a change of a global setting"),
    ),
    Obligation(
        "gradient",
        "d loss / d v_theta is the derived gradient",
        "signs, factors, missing terms, reductions, wrong coefficients, detached or live quantities",
        gradient.check_gradient,
        general=True,
    ),
    Obligation(
        "equivalence",
        "weight · ‖v_theta − sg(target)‖² has the same gradient",
        "the same mistakes, seen against the squared distance",
        gradient.check_equivalence,
        body=bodies.equivalence,
    ),
    Obligation(
        "value",
        "the loss's value is the stated one",
        "terms under no_grad, wrong constants",
        gradient.check_value,
        _needs_values,
        body=bodies.value,
        alone=Diagnosis(
            "value", "the gradient is right and the value is not: a term without gradient, or a constant, is wrong"
        ),
    ),
    Obligation(
        "on-policy",
        "at v_theta = v_old the ratio is 1 and the gradient the derived one",
        "a ratio that is not 1 on-policy, ties of min and max that lose half the gradient",
        gradient.check_on_policy,
        _needs_old,
        alone=Diagnosis(
            "on-policy",
            "the gradient is wrong exactly where v_theta = v_old: a tie of min and max is lost, or the ratio is not 1",
        ),
    ),
    Obligation(
        "clip",
        "no gradient exactly where the clip is active, all of it elsewhere, for both signs of A",
        "clip missing, on the wrong side, on the log-ratio; min for max",
        gradient.check_clip,
        _needs_clip,
        general=True,
    ),
    Obligation(
        "sample-independence",
        "a sample's gradient depends on that sample alone",
        "coefficients, biases and weights averaged over the batch, broadcasts of (B,) against (B, 1)",
        batch.check_sample_independence,
        body=bodies.sample_independence,
        alone=Diagnosis("cross-sample", "one sample's gradient depends on the others"),
    ),
    Obligation(
        "permutation",
        "permuting the batch permutes the gradient",
        "indices and schedules that ignore the sample",
        batch.check_permutation,
        body=bodies.permutation,
        direct=_unless_the_gradient_is_wrong("position-dependence", "a sample's place in the batch matters"),
    ),
    Obligation(
        "micro-batching",
        "two halves, accumulated, give the whole",
        "reductions that do not scale with the batch",
        batch.check_micro_batching,
        body=bodies.micro_batching,
        direct=_unless_the_gradient_is_wrong(
            "batch-dependence", "something is normalised over the batch, or another batch_reduction is meant"
        ),
    ),
    Obligation(
        "shapes",
        "any rank, one sample, one coordinate, strided memory",
        "reshapes for one layout, broadcasts that happen to fit",
        shapes.check_shapes,
        alone=Diagnosis("layout", "right for other shapes: this layout is broadcast or reshaped wrongly ({shape})"),
        layouts=True,
        other_inputs=True,
    ),
    Obligation(
        "edge-times",
        "near data and near noise the gradient is still the derived one",
        "special cases of t, dt's sign, σ's of the wrong end",
        gradient.check_edge_times,
        _needs_time,
        alone=Diagnosis(
            "edge-times",
            "the gradient is right amid the time axis and wrong at its ends: a special case, a clamp of t or "
            "σ_t, or a floor under what becomes small there",
        ),
    ),
    Obligation(
        "zero-advantage",
        "without advantage there is no policy gradient",
        "terms that miss the advantage",
        gradient.check_zero_advantage,
        _needs_advantage,
        alone=Diagnosis("zero-advantage", "something is wrong exactly where the advantage is 0"),
    ),
    Obligation(
        "kl",
        "the reference term's gradient is the declared one",
        "KL under no_grad, its denominator, v_old for v_ref",
        gradient.check_kl,
        _needs_reference_term,
        alone=Diagnosis("kl", "the reference term is wrong where nothing else is left"),
    ),
    Obligation(
        "stop-gradient",
        "nothing flows into the behaviour model, the reference, the sample or the weights",
        "missing detach",
        behaviour.check_stop_gradient,
        _needs_live_inputs,
        body=bodies.stop_gradient,
        direct=_always("missing-detach", "a detach() or no_grad() is missing"),
    ),
    Obligation(
        "finite",
        "no NaN and no infinity where the mathematics is finite",
        "exponentials of large numbers, 0/0, where() over an overflowing branch",
        gradient.check_finite,
        body=bodies.finite,
        direct=_always("overflow", "an intermediate overflows, or a branch that is not taken back-propagates NaN"),
    ),
    Obligation(
        "precision",
        "float32 costs no more digits than its error bound says",
        "half precision inside, sums in an unlucky order",
        check_precision,
        dtype="float32",
        alone=Diagnosis(
            "half-precision", "right in float64 and worse than float32 in float32: part of it runs in a lower precision"
        ),
        other_inputs=True,
    ),
    Obligation(
        "compiled",
        "torch.compile changes nothing",
        "graph breaks that capture data, in-place tricks",
        behaviour.check_compiled,
        lambda j: None if j.compiled else "not asked for (--compiled)",
        body=bodies.compiled,
        direct=_always("compiled", "the function captures data or state that the compiler freezes"),
    ),
)
"""Every obligation, in the order in which it is checked and told."""
