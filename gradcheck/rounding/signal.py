r"""How much of a gradient a precision leaves, and which operation of the loss loses the rest.

The error analysis of :mod:`gradcheck.rounding.bounds` says how far rounding may carry the gradient.  An operation
loses the signal if that bound falls to less than a third of itself once its result is taken for exact; of nested
ones, the innermost is named.  So a sum over coordinates is told from the difference inside of it, and the difference
from its operands.  To first order the answer is the same for every precision: what differs is how much is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sympy as sp
import torch
from torch import Tensor

from derivations.calculus import Dot, MeanAbs, Norm2, Total, kind
from derivations.derivation import Derivation
from derivations.writing.render import text
from derivations.writing.torchgen import ordered_formulas
from gradcheck.case import Case
from gradcheck.rounding.bounds import Analysis, Value

__all__ = ["Loss", "digits", "lost_by"]


_TOO_MUCH = 30
"""An expression of more operations than this is no single one, and naming it would help nobody."""


@dataclass(frozen=True)
class Loss:
    """The operation that rounding hurts most.

    Attributes:
        operation: the expression whose exact value would remove most of the bound.
        share: the fraction of the bound that it accounts for.
    """

    operation: sp.Expr
    share: float

    def __str__(self) -> str:
        return in_words(self.operation)


def digits(gradient: Tensor, error: Tensor) -> float:
    """Decimal digits of a gradient that an error of this size leaves, for the median sample; 0 where nothing is left.

    Args:
        gradient: (B, \\*latent).
        error: of the same shape, the difference from the exact gradient or a bound on it.
    """
    size, off = (x.detach().to(torch.float64).abs().flatten(1).sum(1) for x in (gradient, error))
    alive = (size > 0) & size.isfinite()
    if not bool(alive.any()):
        return 0.0
    return max(
        0.0, float((size[alive] / torch.nan_to_num(off[alive], nan=torch.inf).clamp(min=1e-300)).log10().median())
    )


def lost_by(derivation: Derivation, case: Case) -> Loss | None:
    """The operation of a derivation's loss in which rounding loses most of its gradient; ``None`` if none does.

    Args:
        derivation: of the loss.
        case: one problem of it.
    """
    with torch.no_grad():
        values = case.broadcast(torch.float64)
        formulas = ordered_formulas(derivation, derivation.raw_gradient)
        whole = _Exact(values, None)
        own = _total(whole, formulas, derivation.raw_gradient)
        if own == 0:
            return None
        parts = _Parts(dict(formulas))
        found: Loss | None = None
        for node in _operations(formulas, derivation.raw_gradient):
            if node.count_ops() > _TOO_MUCH:
                continue
            run = _Exact(values, node)
            run.memo |= {expr: value for expr, value in whole.memo.items() if node not in parts[expr]}
            share = 1 - _total(run, formulas, derivation.raw_gradient) / own
            if share > 2 / 3 and (found is None or node.count_ops() <= found.operation.count_ops()):
                found = Loss(node, share)
        return found


class _Exact(Analysis):
    """The error analysis with one operation taken for exact."""

    def __init__(self, values: dict[str, Tensor], exact: sp.Expr | None) -> None:
        super().__init__(values, torch.float64)
        self.exact = exact

    def define(self, symbol: sp.Symbol, formula: sp.Expr) -> None:
        super().define(symbol, formula)
        if symbol == self.exact:
            self.memo[symbol] = self.memo[symbol][0], self.memo[symbol][1] * 0

    def _evaluate(self, expr: sp.Expr) -> Value:
        value, error = super()._evaluate(expr)
        return (value, torch.zeros_like(error)) if expr == self.exact else (value, error)


class _Parts(dict[sp.Expr, frozenset[sp.Expr]]):
    """Everything that an expression is computed from, itself included, through the symbols that formulas define."""

    def __init__(self, formulas: dict[sp.Symbol, sp.Expr]) -> None:
        self._formulas = formulas

    def __missing__(self, expr: sp.Expr) -> frozenset[sp.Expr]:
        inside = [self[arg] for arg in expr.args]
        if expr in self._formulas:
            inside.append(self[self._formulas[expr]])
        self[expr] = found = frozenset({expr}).union(*inside)
        return found


def _total(run: Analysis, formulas: Sequence[tuple[sp.Symbol, sp.Expr]], gradient: sp.Expr) -> float:
    """The bound's mean over coordinates, for the median sample."""
    for symbol, formula in formulas:
        run.define(symbol, formula)
    _, error = run(gradient)
    shape = torch.broadcast_shapes(*(x.shape for x in run.values.values()))
    return float(error.expand(shape).flatten(1).mean(1).median())


def _operations(formulas: Sequence[tuple[sp.Symbol, sp.Expr]], gradient: sp.Expr) -> Iterator[sp.Expr]:
    """Everything that is computed or handed over, the outermost first."""
    seen: set[sp.Expr] = set()
    for expr in (gradient, *(formula for _, formula in reversed(formulas))):
        for node in sp.preorder_traversal(expr):
            if node not in seen and not node.is_number and not (isinstance(node, sp.Symbol) and kind(node) == "scalar"):
                seen.add(node)
                yield node


def in_words(operation: sp.Expr) -> str:
    """What an operation is called, for people."""
    if isinstance(operation, (Dot, Norm2, MeanAbs, Total)):
        return f"the sum over the coordinates in {text(operation)}"
    if isinstance(operation, sp.Symbol):
        return f"{text(operation)}, rounded as it is handed over"
    if operation.is_Add:
        return f"the difference {text(operation)}"
    return text(operation)
