"""The masks of a gradient in words: which there are, and where each is 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import sympy as sp

from derivations.calculus import ClipMask, Mask
from derivations.grammar.kinks import is_kink

__all__ = ["mask_lines", "mask_names"]


def mask_names(gradient: sp.Expr) -> dict[sp.Expr, sp.Symbol]:
    """Names for the masks in a gradient: m, or m_1, m_2 … where there are several."""
    found = sorted(gradient.atoms(Mask), key=sp.default_sort_key)
    if len(found) < 2:
        return {mask: sp.Symbol("m", nonnegative=True) for mask in found}
    return {mask: sp.Symbol(f"m_{i}", nonnegative=True) for i, mask in enumerate(found, 1)}


def mask_lines(names: Mapping[sp.Expr, sp.Symbol], write: Callable[[sp.Expr], str], plain: bool) -> list[str]:
    """Where each mask is 0; ``write`` renders a formula, as plain text or as LaTeX."""
    join, either = (" and ", ", or ") if plain else (r" \text{ and } ", r" \text{ or } ")
    low, other = ("0 where ", "; else 1") if plain else (r"0 \text{ where } ", r", \text{ else } 1")
    out = []
    for mask, symbol in names.items():
        if not isinstance(mask, ClipMask):
            out.append(f"{write(symbol)} = {low}{join.join(f'{write(c)} > 0' for c in mask.args)}{other}")
            continue
        a, r, low_range, high_range = mask.args
        above, below = f"{write(r)} > {write(sp.expand(1 + high_range))}", f"{write(r)} < {write(1 - low_range)}"
        sides = (f"{write(a)} > 0{join}{above}", f"{write(a)} < 0{join}{below}")
        out.append(f"{write(symbol)} = {low}{above if is_kink(mask) else either.join(sides)}{other}")
    return out
