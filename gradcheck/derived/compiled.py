"""A derivation's formulas as torch functions: generated, compiled once, called on a case."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sympy as sp
import torch
from torch import Tensor

from derivations.derivation import Derivation
from derivations.writing.torchgen import torch_source
from gradcheck import tensor_ops
from gradcheck.case import Case

__all__ = ["evaluate"]

_HELPERS = (
    *("dot", "norm2", "total", "mean_abs", "clip_mask", "other_mask", "unless", "other_unless", "softplus"),
    "surrogate",
)


@lru_cache(maxsize=600)
def _compiled(
    derivation: Derivation, outputs: tuple[sp.Expr, ...]
) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[str, ...]]:
    source, arguments = torch_source(derivation, "formulas", {str(i): e for i, e in enumerate(outputs)})
    namespace: dict[str, Any] = {name: getattr(tensor_ops, name) for name in _HELPERS}
    namespace |= {"torch": torch, "math": math}
    exec(compile(source, f"<torch of {derivation.label}>", "exec"), namespace)
    return namespace["formulas"], arguments


def evaluate(
    derivation: Derivation, case: Case, *outputs: sp.Expr, dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]:
    r"""Numbers of expressions in a derivation's symbols, from a case's given quantities.

    Definitions and coefficients are evaluated from the given quantities, not read from the case.  With a
    ``dtype`` everything is computed in it, without a graph; else in the case's own dtype, differentiably.

    Returns:
        One tensor for each expression, of shape (B, \*latent) or (B, 1, …, 1).
    """
    if not outputs:
        return ()
    function, arguments = _compiled(derivation, outputs)
    results = function(**case.broadcast(dtype, arguments))
    v = case.output
    return tuple(
        x if isinstance(x, Tensor) else torch.tensor(float(x), dtype=dtype or v.dtype, device=v.device) for x in results
    )
