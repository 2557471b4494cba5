r"""Named mistakes: the wrong losses that the field has really written, as changes to a derivation's own formulas.

A mistake is a loss expression; autograd of its value on a case predicts the gradient of an implementation that
makes it.  If the prediction fits to rounding on every problem, the failure is consistent with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import sympy as sp

from derivations import notation as n
from derivations.derivation import Derivation, inline
from gradcheck.oracle.mistakes.candidates import Candidate, Mistake, Overrides
from gradcheck.oracle.mistakes.conversions import carried_over, conversion_mistakes
from gradcheck.oracle.mistakes.divergence import divergence_mistakes
from gradcheck.oracle.mistakes.evaluation import gradient_of_mistake
from gradcheck.oracle.mistakes.forward import mixture_mistakes, target_mistakes, weight_mistakes
from gradcheck.oracle.mistakes.functions import BatchFirst, BatchMean
from gradcheck.oracle.mistakes.general import reference_mistakes, term_mistakes
from gradcheck.oracle.mistakes.guard import corrected_ratio_mistakes
from gradcheck.oracle.mistakes.pairs import pair_mistakes
from gradcheck.oracle.mistakes.steps import step_mistakes
from gradcheck.oracle.mistakes.surrogate import EXCHANGED, ONE_EDGE, log_ratio_mistakes, surrogate_mistakes
from gradcheck.oracle.mistakes.weighting import time_weight_mistakes

__all__ = ["EXCHANGED", "KINDS", "ONE_EDGE", "BatchFirst", "BatchMean", "Mistake", "gradient_of_mistake", "mistakes"]

KINDS: tuple[Callable[[Derivation], Iterator[Candidate]], ...] = (
    term_mistakes,
    surrogate_mistakes,
    divergence_mistakes,
    log_ratio_mistakes,
    corrected_ratio_mistakes,
    step_mistakes,
    time_weight_mistakes,
    target_mistakes,
    weight_mistakes,
    mixture_mistakes,
    pair_mistakes,
    reference_mistakes,
)
"""In the order in which they are tried: of two mistakes that predict the same gradient, the first one is named."""


@lru_cache(maxsize=200)
def mistakes(derivation: Derivation) -> tuple[Mistake, ...]:
    """Every named mistake that can be made with this derivation's formulas.

    In other variables the loss can be wrong in all the ways in which it can be in its own, and the conversion besides.
    """
    change = derivation.change
    if change is not None:
        available = {*derivation.given, *derivation.defined, "D"}
        carried = [carried_over(mistake, change) for mistake in mistakes(change.origin)]
        every = [*conversion_mistakes(derivation), *carried]
        return tuple(m for m in every if {s.name for s in m.loss.free_symbols} <= available)
    right = _inlined(derivation, derivation.loss, {})
    available = {*derivation.given, *derivation.defined, "D"}
    found = []
    for name, sentence, loss, overrides in (candidate for kind in KINDS for candidate in kind(derivation)):
        wrong = _inlined(derivation, loss, overrides)
        if wrong != right and {s.name for s in wrong.free_symbols} <= available:
            found.append(Mistake(name, sentence, wrong))
    return tuple(found)


def _inlined(d: Derivation, loss: sp.Expr, overrides: Overrides) -> sp.Expr:
    # the sampled state is an input: a wrong step does not change it
    return inline(loss, {s: e for s, e in {**d.definitions, **overrides}.items() if s != n.x_prev})
