"""How far rounding may carry an expression of a derivation: densely, or in chunks where the latents are large."""

from __future__ import annotations

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import Each, Total, kind
from derivations.derivation import Derivation
from derivations.writing.torchgen import ordered_formulas
from gradcheck.case import Case
from gradcheck.rounding.bounds import Analysis
from gradcheck.rounding.chunks import ChunkedAnalysis, Latents

__all__ = ["LARGE", "error_scale"]

LARGE = 2**18
"""Latents of more numbers than this are analysed in chunks, with a wider bound (:mod:`gradcheck.rounding.chunks`)."""


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
    dtype = dtype or case.output.dtype
    formulas = ordered_formulas(derivation, *exprs)
    by_coordinate = any(e.has(Total, Each) for e in (*exprs, *(formula for _, formula in formulas)))
    if case.output.numel() > LARGE and not by_coordinate:  # no combination of latents with a number a sample each
        return _in_chunks(derivation, case, *exprs, dtype=dtype)
    with torch.no_grad():
        analysis = Analysis(case.broadcast(torch.float64), dtype)
        analysis.hold(derivation.coarse)
        for symbol, formula in formulas:
            analysis.define(symbol, formula)
        errors = [analysis(expr)[1] + analysis.floor for expr in exprs]
        if by_coordinate:  # a gradient that is the same in every coordinate
            errors = [
                e.expand(case.output.shape) if kind(x) == "vector" else e for e, x in zip(errors, exprs, strict=True)
            ]
        return tuple(errors), analysis.undecided


def _in_chunks(
    derivation: Derivation, case: Case, *exprs: sp.Expr, dtype: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    """For large latents: nothing of their size is held but the results."""
    with torch.no_grad():
        latents = Latents.of(case, case.output)
        run = ChunkedAnalysis(derivation, latents, case, dtype, exprs)
        column = (latents.batch, *(1,) * (case.output.ndim - 1))
        errors = []
        for expr in exprs:
            if kind(expr) == "vector":
                errors.append(_written_out(latents, run, expr).reshape(case.output.shape))
            else:
                errors.append((run.bounds(expr) + run.floor).reshape(column))
        return tuple(errors), run.undecided.reshape(column)


def _written_out(latents: Latents, run: ChunkedAnalysis, expr: sp.Expr) -> Tensor:
    out = torch.empty(latents.observed.shape, dtype=torch.float64, device=latents.observed.device)
    names = run.names(expr)
    weights = run.bounds(expr, names)
    for rows, columns, block in latents.blocks(names):
        error = (weights[rows, None] @ block.abs_())[:, 0] + run.floor
        out[rows, columns] = run.held(expr, names, rows, block, error)
    return out
