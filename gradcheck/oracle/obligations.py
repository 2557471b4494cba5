r"""The obligations: named checks that every right implementation of a declared loss passes.

The order is that of a reading person: does it behave like a function, is its gradient the derived one, and where not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from derivations.pieces import Piece
from gradcheck.conventions import Conventions
from gradcheck.oracle import checks
from gradcheck.oracle.judging import Judge
from gradcheck.oracle.precision import check_precision
from gradcheck.oracle.results import Outcome

__all__ = ["OBLIGATIONS", "Obligation"]


@dataclass(frozen=True)
class Obligation:
    """A named check.

    Attributes:
        id: as reports and ``expected_failures`` name it.
        statement: what a right implementation does.
        catches: the class of mistakes that it is for.
        check: the function.
        applies: ``None`` where it applies, else why not.
        dtype: the precision of its cases, where that is not the one asked for.
    """

    id: str
    statement: str
    catches: str
    check: Callable[[Judge], Outcome]
    applies: Callable[[Conventions], str | None] = lambda conventions: None
    dtype: str = ""


def _needs_clip(conventions: Conventions) -> str | None:
    return None if {Piece.RATIO, Piece.MASK} & conventions.derivation.pieces else "this loss has no clip"


def _needs_old(conventions: Conventions) -> str | None:
    return None if "v_old" in conventions.derivation.canonical.given else "this loss has no behaviour model"


def _needs_time(conventions: Conventions) -> str | None:
    given = {"t", "alpha_bar"} & set(conventions.derivation.given)
    return None if given else "this loss does not depend on the time"


def _needs_advantage(conventions: Conventions) -> str | None:
    given = {"advantage", "reward_prob"} & set(conventions.derivation.given)
    return None if given else "this loss has no advantage"


def _needs_reference_term(conventions: Conventions) -> str | None:
    return None if Piece.REFERENCE in conventions.derivation.pieces else "no KL or reference term is declared"


def _needs_values(conventions: Conventions) -> str | None:
    return None if conventions.compare_values else "only gradients count, unless compare_values=True is declared"


def _needs_live_inputs(conventions: Conventions) -> str | None:
    return (
        None
        if not conventions.inputs_detached
        else "the trainer hands these over without a graph (inputs_detached=True)"
    )


OBLIGATIONS: tuple[Obligation, ...] = (
    Obligation(
        "determinism",
        "the same case gives the same gradient, bit for bit",
        "hidden state, random numbers, buffers that are reused",
        checks.check_determinism,
        lambda c: "declared output_rounding='stochastic'" if c.output_rounding == "stochastic" else None,
    ),
    Obligation(
        "inputs-untouched",
        "neither the case's tensors nor the process's settings are changed",
        "in-place operations, global seeds, dtypes and grad modes",
        checks.check_inputs_untouched,
    ),
    Obligation(
        "gradient",
        "d loss / d v_theta is the derived gradient",
        "signs, factors, missing terms, reductions, wrong coefficients, detached or live quantities",
        checks.check_gradient,
    ),
    Obligation(
        "equivalence",
        "weight · ‖v_theta − sg(target)‖² has the same gradient",
        "the same mistakes, seen against the squared distance",
        checks.check_equivalence,
    ),
    Obligation(
        "value",
        "the loss's value is the stated one",
        "terms under no_grad, wrong constants",
        checks.check_value,
        _needs_values,
    ),
    Obligation(
        "on-policy",
        "at v_theta = v_old the ratio is 1 and the gradient the derived one",
        "a ratio that is not 1 on-policy, ties of min and max that lose half the gradient",
        checks.check_on_policy,
        _needs_old,
    ),
    Obligation(
        "clip",
        "no gradient exactly where the clip is active, all of it elsewhere, for both signs of A",
        "clip missing, on the wrong side, on the log-ratio; min for max",
        checks.check_clip,
        _needs_clip,
    ),
    Obligation(
        "sample-independence",
        "a sample's gradient depends on that sample alone",
        "coefficients, biases and weights averaged over the batch, broadcasts of (B,) against (B, 1)",
        checks.check_sample_independence,
    ),
    Obligation(
        "permutation",
        "permuting the batch permutes the gradient",
        "indices and schedules that ignore the sample",
        checks.check_permutation,
    ),
    Obligation(
        "micro-batching",
        "two halves, accumulated, give the whole",
        "reductions that do not scale with the batch",
        checks.check_micro_batching,
    ),
    Obligation(
        "shapes",
        "any rank, one sample, one coordinate, strided memory",
        "reshapes for one layout, broadcasts that happen to fit",
        checks.check_shapes,
    ),
    Obligation(
        "edge-times",
        "near data and near noise the gradient is still the derived one",
        "special cases of t, dt's sign, σ's of the wrong end",
        checks.check_edge_times,
        _needs_time,
    ),
    Obligation(
        "zero-advantage",
        "without advantage there is no policy gradient",
        "terms that miss the advantage",
        checks.check_zero_advantage,
        _needs_advantage,
    ),
    Obligation(
        "kl",
        "the reference term's gradient is the declared one",
        "KL under no_grad, its denominator, v_old for v_ref",
        checks.check_kl,
        _needs_reference_term,
    ),
    Obligation(
        "stop-gradient",
        "nothing flows into the behaviour model, the reference, the sample or the weights",
        "missing detach",
        checks.check_stop_gradient,
        _needs_live_inputs,
    ),
    Obligation(
        "finite",
        "no NaN and no infinity where the mathematics is finite",
        "exponentials of large numbers, 0/0, where() over an overflowing branch",
        checks.check_finite,
    ),
    Obligation(
        "precision",
        "float32 costs no more digits than its error bound says",
        "half precision inside, sums in an unlucky order",
        check_precision,
        dtype="float32",
    ),
    Obligation(
        "compiled",
        "torch.compile changes nothing",
        "graph breaks that capture data, in-place tricks",
        checks.check_compiled,
    ),
)
"""Every obligation, in the order in which it is checked and told."""
