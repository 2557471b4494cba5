r"""Named mistakes: the wrong losses that the field has really written, as changes to a derivation's own formulas.

A mistake is a loss expression; autograd of its value on a case predicts the gradient of an implementation that
makes it.  If the prediction fits to rounding on every problem, the failure is consistent with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import sympy as sp

from derivations import notation as n
from derivations.derivation import Derivation
from gradcheck.oracle.mistakes.candidates import Candidate, Mistake, Overrides
from gradcheck.oracle.mistakes.conversions import carried_over, conversion_mistakes
from gradcheck.oracle.mistakes.divergence import divergence_mistakes
from gradcheck.oracle.mistakes.errors import (
    coordinate_mask_mistakes,
    error_mistakes,
    error_weight_mistakes,
    prediction_mistakes,
)
from gradcheck.oracle.mistakes.forward import mixture_mistakes, target_mistakes, weight_mistakes
from gradcheck.oracle.mistakes.functions import BatchFirst, BatchMean, Right
from gradcheck.oracle.mistakes.general import (
    CROSSED,
    OUTER_PRODUCT,
    advantage_mistakes,
    reference_mistakes,
    term_mistakes,
)
from gradcheck.oracle.mistakes.generic import node_mistakes, quantity_mistakes
from gradcheck.oracle.mistakes.guard import corrected_ratio_mistakes
from gradcheck.oracle.mistakes.pairs import of_the_unit, pair_mistakes
from gradcheck.oracle.mistakes.places import LOSS, MEAN_BEHIND, Place, Stated, stated, symbols_of
from gradcheck.oracle.mistakes.steps import step_mistakes
from gradcheck.oracle.mistakes.surrogate import (
    EXCHANGED,
    ONE_EDGE,
    dual_clip_mistakes,
    log_ratio_mistakes,
    surrogate_mistakes,
)
from gradcheck.oracle.mistakes.trial import Prediction, Trial
from gradcheck.oracle.mistakes.weighting import time_weight_mistakes

__all__ = [
    "ALIKE",
    "CROSSED",
    "EXCHANGED",
    "KINDS",
    "ONE_EDGE",
    "OUTER_PRODUCT",
    "BatchFirst",
    "BatchMean",
    "Mistake",
    "Prediction",
    "Trial",
    "mistakes",
]

KINDS: tuple[Callable[[Derivation], Iterator[Candidate]], ...] = (
    term_mistakes,
    surrogate_mistakes,
    dual_clip_mistakes,
    divergence_mistakes,
    log_ratio_mistakes,
    advantage_mistakes,
    corrected_ratio_mistakes,
    reference_mistakes,
    step_mistakes,
    time_weight_mistakes,
    target_mistakes,
    weight_mistakes,
    mixture_mistakes,
    pair_mistakes,
    coordinate_mask_mistakes,
    error_mistakes,
    prediction_mistakes,
    quantity_mistakes,
    node_mistakes,
    error_weight_mistakes,
)
"""In the order in which they are tried: of two mistakes that predict the same gradient, the first one is named."""


_BY_RULE = ("error-averaged", "error-of-first-sample", "error-of-neighbour", "exponent-std")
"""Where a mistake that names what was done has the same gradient, that one alone is told."""


ALIKE: Mapping[str, frozenset[str]] = {
    "ratio-missing": frozenset({"old-prediction-detached-copy"}),
    "half-missing": frozenset({"ratio-squared"}),
    "half-twice": frozenset({"ratio-root"}),
    "positive-branch-alone": frozenset({"error-missing"}),
    "negative-branch-alone": frozenset({"error-missing"}),
    "reference-missing": frozenset({"v-ref-is-v-gt", "v-old-is-v-gt", "error-missing"}),
}
"""What is no cause of its own beside a mistake: it is the same in other words, and no problem tells them apart."""


@lru_cache(maxsize=200)
def mistakes(derivation: Derivation) -> tuple[Mistake, ...]:
    """Every named mistake that can be made with this derivation's formulas.

    In other variables the loss can be wrong in all the ways in which it can be in its own, and the conversion besides.
    """
    change = derivation.change
    if change is not None:
        available = {*derivation.given, *derivation.defined, "D"}
        own = stated(derivation)
        every = [carried_over(mistake, change, own) for mistake in mistakes(change.origin)]
        found = [m for m in conversion_mistakes(derivation) if {s.name for s in m.loss.free_symbols} <= available]
        return (*found, *(m for m in every if _needs(own, m.edits) <= available))
    available = {*derivation.given, *derivation.defined, "D"}
    if derivation.process == "forward" and derivation.path == "rectified":
        available |= {"t", "x_t", "x_0", "noise"}  # every case of the forward process holds them
    own = stated(derivation)
    named, seen = [], set()
    every_kind = ((kind, candidate) for kind in KINDS for candidate in kind(derivation))
    for kind, (name, sentence, loss, overrides) in every_kind:
        edits = {s: e for s, e in overrides.items() if own.table.get(s, s) != e}
        if loss != derivation.loss:
            edits[LOSS] = loss
        for one in (edits, *_kept(own, edits), *of_the_unit(derivation, edits, own.reach(frozenset(edits)))):
            key = frozenset(one.items())
            if one and key not in seen and _needs(own, one) <= available:
                seen.add(key)
                generic = kind in (quantity_mistakes, node_mistakes, error_weight_mistakes) or name in _BY_RULE
                named.append(Mistake(name, sentence, own, one, generic, listed=True))
    return tuple(named)


_GIVEN = (
    (n.log_prob_old,),
    (n.mean_old,),
    (MEAN_BEHIND,),
    (n.log_prob_old, MEAN_BEHIND),
    (n.x_t,),
)
"""What a trainer may have stored, or read from its case, and so doesn't compute with its own mistake.

The behaviour model's mean stands in the old log-probability and in a bias or divergence, and may be given in one alone.
"""


def _kept(own: Stated, edits: Overrides) -> Iterator[Overrides]:
    """The same mistake in code that takes the behaviour's side as it was given: only the trained model's is wrong."""
    reached = own.reach(frozenset(edits)) & _read({**own.table, **edits})
    sides = [chosen for chosen in _GIVEN if set(chosen) <= reached]
    if n.mean_ref in reached:
        sides = [*sides, (n.mean_ref,), *((*chosen, n.mean_ref) for chosen in sides)]
    for chosen in sides:
        if not set(edits) <= set(chosen):
            yield {**edits, **{s: Right(n.mean_old if s == MEAN_BEHIND else s) for s in chosen}}


def _read(table: Overrides) -> set[sp.Symbol]:
    """The symbols that a loss is made of."""
    seen: set[sp.Symbol] = set()
    pending = {LOSS}
    while pending:
        symbol = pending.pop()
        seen.add(symbol)
        pending |= (symbols_of(sp.sympify(table[symbol])) if symbol in table else frozenset()) - seen
    return seen


def _needs(own: Stated, edits: Overrides) -> set[str]:
    """Names that a case must hold for a wrong loss."""
    return {s.name for s in _read({**own.table, **edits}) if s not in own.table and not isinstance(s, Place)}
