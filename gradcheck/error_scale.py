"""How far rounding may carry an expression of a derivation: densely, or in chunks where the latents are large."""

from __future__ import annotations

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import kind
from derivations.derivation import Derivation
from derivations.torchgen import ordered_formulas
from gradcheck.bounds import Analysis
from gradcheck.case import Case
from gradcheck.chunks import ChunkedAnalysis, Combination, Latents

__all__ = ["LARGE", "error_scale"]

LARGE = 2**18
"""Latents of more numbers than this are analysed in chunks, with a wider bound (:mod:`gradcheck.chunks`)."""


def error_scale(
    derivation: Derivation, case: Case, *exprs: sp.Expr, dtype: torch.dtype | None = None
) -> tuple[tuple[Tensor, ...], Tensor]:
    r"""Bounds e of expressions in a derivation's symbols, evaluated on a case.

    Args:
        derivation: gives the definitions.
        case: the tensors that an implementation received.
        exprs: usually :attr:`Derivation.raw_gradient`.
        dtype: the precision that is judged; the case's own by default.

    Returns:
        For each expression a float64 tensor e, of the expression's shape: an evaluation in ``dtype`` is off by at
        most about ``unit_roundoff(dtype) * e``; it is infinite or NaN where the precision leaves nothing to judge.
        And a boolean tensor, (B, 1, …, 1) or (): samples whose clip branch the precision does not decide.
    """
    dtype = dtype or case.v_theta.dtype
    if case.v_theta.numel() > LARGE:
        return _in_chunks(derivation, case, *exprs, dtype=dtype)
    with torch.no_grad():
        analysis = Analysis(case.broadcast(torch.float64), dtype)
        for symbol, formula in ordered_formulas(derivation, *exprs):
            analysis.define(symbol, formula)
        return tuple(analysis(expr)[1] + analysis.floor for expr in exprs), analysis.undecided


def _in_chunks(
    derivation: Derivation, case: Case, *exprs: sp.Expr, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    """For large latents: nothing of their size is held but the results."""
    with torch.no_grad():
        latents = Latents.of(case, case.v_theta)
        run = ChunkedAnalysis(derivation, latents, case, dtype, exprs)
        column = (latents.batch, *(1,) * (case.v_theta.ndim - 1))
        errors = []
        for expr in exprs:
            if kind(expr) == "vector":
                errors.append(_written_out(latents, run.combination(expr), run.floor).reshape(case.v_theta.shape))
            else:
                errors.append((run(expr)[1] + run.floor).expand(latents.batch, 1).reshape(column))
        return tuple(errors), run.undecided.reshape(-1, *(1,) * (case.v_theta.ndim - 1))


def _written_out(latents: Latents, found: Combination, floor: float) -> Tensor:
    out = torch.empty(latents.observed.shape, dtype=torch.float64, device=latents.observed.device)
    names = sorted(found.error)
    _, weights = found.weights(names, out.new_ones(latents.batch, 1))
    for rows, columns, block in latents.blocks(names):
        out[rows, columns] = (weights[rows, None] @ block.abs_())[:, 0] + floor
    return out
