r"""Where a loss may read what the network puts out: in several places autograd rounds several gradients.

Behind an output of half precision each place sends back a gradient of that precision, and they are added up in it.  By
type promotion (``x_t - t * v`` with a bfloat16 ``v``) a loss casts it up in each place by itself.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from derivations.derivation import Derivation
from derivations.notation import C1

__all__ = ["reads"]


@lru_cache(maxsize=300)
def reads(derivation: Derivation) -> tuple[sp.Expr, ...]:
    """Vectors whose sum is the gradient, one for each place.

    These are its terms, as autograd finds them.  The mean of a reverse step reads the output twice: as itself and in
    the score, or in the predicted data and in the predicted noise.  So a term that it goes through has two parts, which
    for a short step by way of data and noise are far larger than their sum.
    """
    found: list[sp.Expr] = []
    parts = _summands(derivation.coefficients.get(C1, sp.S.One))
    for term in sp.Add.make_args(derivation.raw_gradient):
        through = len(parts) > 1 and any(factor.as_base_exp()[0] == C1 for factor in sp.Mul.make_args(term))
        found += [term / C1 * part for part in parts] if through else [term]
    return tuple(found)


def _summands(expr: sp.Expr) -> tuple[sp.Expr, ...]:
    """Those of a sum, or of a product with a sum."""
    inner = next((x for x in sp.Mul.make_args(expr) if isinstance(x, sp.Add)), None)
    return (expr,) if inner is None else tuple(expr / inner * x for x in inner.args)
