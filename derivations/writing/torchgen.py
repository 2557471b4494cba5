r"""Torch source from a derivation's formulas.

The text that comes out is ordinary torch: vectors have shape (B, \*latent), per-sample scalars have shape
(B, 1, …, 1), and inner products keep their dimensions, so that everything broadcasts.  It calls the helpers of
``gradcheck.tensor_ops`` (``dot``, ``norm2``, ``clip_mask``, ``softplus`` …).  Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.printing.pycode import PythonCodePrinter

from derivations.derivation import Derivation
from derivations.notation import NOTATION, rows

__all__ = ["ordered_formulas", "torch_source"]

_HELPERS = {
    "Dot": "dot",
    "Norm2": "norm2",
    "Total": "total",
    "MeanAbs": "mean_abs",
    "ClipMask": "clip_mask",
    "OtherMask": "other_mask",
    "Unless": "unless",
    "OtherUnless": "other_unless",
    "Surrogate": "surrogate",
    "softplus": "softplus",
}


_RANK = {q.symbol: i for i, q in enumerate(NOTATION)}


def _is_one_number(expr: sp.Expr) -> bool:
    return bool(expr.free_symbols <= {q.symbol for q in rows() if q.axes == "problem"})


class _TorchPrinter(PythonCodePrinter):
    """Python source whose functions are torch's."""

    def _print_Function(self, expr: Any) -> str:
        name = type(expr).__name__
        args = ", ".join(self._print(arg) for arg in expr.args)
        if name == "sg":
            return f"({args}).detach()"
        if name == "Each":
            return f"({args})"
        if name in _HELPERS:
            return f"{_HELPERS[name]}({args})"
        if name in {"exp", "log", "sin", "cos", "tanh", "sqrt"}:
            return f"{'math' if expr.is_number else 'torch'}.{name}({args})"
        raise NotImplementedError(f"torchgen does not know the function {name}")

    _print_exp = _print_sin = _print_cos = _print_tanh = _print_Function

    def _print_log(self, expr: Any) -> str:
        """log(1 + eˣ) without the exponential, which overflows where the logarithm is near x."""
        inside = expr.args[0]
        powers = [e for e in inside.args if isinstance(e, sp.exp)] if isinstance(inside, sp.Add) else []
        if len(powers) == 1 and inside - powers[0] == 1 and not _is_one_number(inside):
            return f"softplus({self._print(powers[0].args[0])})"
        return self._print_Function(expr)

    def _print_Max(self, expr: Any) -> str:
        return self._extremum(expr, "max", "min")

    def _print_Min(self, expr: Any) -> str:
        return self._extremum(expr, "min", "max")

    def _extremum(self, expr: Any, function: str, bound: str) -> str:
        """A clamp of what is a tensor; one-number quantities may be Python's, which ``torch.maximum`` refuses."""
        tensors = [arg for arg in expr.args if not _is_one_number(arg)]
        numbers = [arg for arg in expr.args if _is_one_number(arg)]
        if not tensors:
            return f"{function}({', '.join(map(self._print, numbers))})"
        out = self._print(tensors[0])
        for other in (*tensors[1:], *numbers):
            out = f"torch.clamp({out}, {bound}={self._print(other)})"
        return out

    def _print_sign(self, expr: Any) -> str:
        return f"torch.sign({self._print(expr.args[0])})"

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:
        module = "math" if expr.is_number else "torch"
        if expr.exp == sp.Rational(1, 2):
            return f"{module}.sqrt({self._print(expr.base)})"
        if expr.exp == -sp.Rational(1, 2):
            return f"1/{module}.sqrt({self._print(expr.base)})"
        return str(super()._print_Pow(expr, rational=rational))

    def _print_Pi(self, expr: Any) -> str:
        return "math.pi"

    def _print_Symbol(self, expr: Any) -> str:
        return str(expr.name)


@lru_cache(maxsize=600)
def ordered_formulas(derivation: Derivation, *wanted: sp.Expr) -> tuple[tuple[sp.Symbol, sp.Expr], ...]:
    """Definitions and coefficients that the wanted expressions need, each after those that it needs itself."""
    formulas: Mapping[sp.Symbol, sp.Expr] = {**derivation.definitions, **derivation.coefficients}
    done: dict[sp.Symbol, sp.Expr] = {}

    def visit(expr: sp.Expr) -> None:
        for symbol in sorted(expr.free_symbols, key=lambda s: (_RANK.get(s, len(_RANK)), s.name)):
            if symbol in formulas and symbol not in done:
                visit(formulas[symbol])
                done[symbol] = formulas[symbol]

    for expr in wanted:
        visit(expr)
    return tuple(done.items())


def torch_source(derivation: Derivation, name: str, outputs: Mapping[str, sp.Expr]) -> tuple[str, tuple[str, ...]]:
    """Source of a function that computes the outputs from the derivation's given quantities.

    Returns:
        The source text of ``def name(...)``, which returns a tuple in the order of ``outputs``, and the names
        of its arguments.
    """
    printer = _TorchPrinter({"fully_qualified_modules": False, "allow_unknown_functions": False})
    lines = ordered_formulas(derivation, *outputs.values())
    defined = {symbol for symbol, _ in lines}
    used = set().union(*(e.free_symbols for _, e in lines), *(e.free_symbols for e in outputs.values()))
    arguments = tuple(q.name for q in rows() if q.symbol in used - defined)
    body = [f"    {symbol.name} = {printer.doprint(formula)}" for symbol, formula in lines]
    results = ", ".join(printer.doprint(expr) for expr in outputs.values())
    text = "\n".join([f"def {name}({', '.join(arguments)}):", *body, f"    return ({results},)"])
    return text + "\n", arguments
