"""Symbols that the theorems use beside the notation table's, and how they are written."""

from __future__ import annotations

import sympy as sp

from derivations.algebra.nodes import VectorSymbol

__all__ = ["NAMES", "divergence", "guard_log_ratio", "guard_ratio", "kappa", "value_slope"]

kappa = sp.Symbol("kappa", positive=True)
"""κ = k‖δ‖: how many standard deviations the step's mean has moved."""

guard_ratio, guard_log_ratio = sp.Symbol("r_guard", positive=True), sp.Symbol("l_guard", real=True)
"""GRPO-Guard's ratio and its logarithm."""

divergence = sp.Symbol("KL", nonnegative=True)
"""KL divergence between the two models' reverse steps, κ²/2."""

value_slope = VectorSymbol("grad_V")
"""Gradient of the value V(x_t) = E[A | x_t]."""

_TILDE = "\N{COMBINING TILDE}"

NAMES: dict[sp.Symbol, tuple[str, str]] = {
    guard_ratio: (f"r{_TILDE}", r"\tilde r"),
    guard_log_ratio: (f"log r{_TILDE}", r"\log \tilde r"),
    value_slope: ("∇V", r"\nabla V"),
    divergence: ("KL", r"\mathrm{KL}"),
}
"""Symbol → its name in plain text and in LaTeX, where it is not that which its letters give."""
