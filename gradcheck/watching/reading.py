"""A step's gradient on the field's own directions, ε, v_θ − v_old, v_θ − v_gt …, beside the required one."""

from __future__ import annotations

import torch

from gradcheck.oracle.required import required_gradient
from gradcheck.reading.xray import decompose, directions
from gradcheck.rounding.bounds import unit_roundoff
from gradcheck.watching.evidence import Evidence

__all__ = ["on_directions"]


def on_directions(e: Evidence) -> tuple[str, str]:
    """Observed and required gradient as Σ coefficient·direction, coefficients as formulas where they are."""
    exact = required_gradient(e.conventions, e.case)
    units = (max(e.precision.unit, unit_roundoff(torch.float32)), unit_roundoff(torch.float64))
    out = []
    for gradient, unit in zip((e.observed, exact), units, strict=True):
        samples = decompose(e.case, gradient, unit=unit)
        terms = [f"({d.text}) · ({d.name})" for d in directions(samples)] if samples else []
        left = max((s.residual for s in samples), default=0.0)
        if left > 100 * unit:
            terms.append(f"{left:.2g} of its length outside these directions")
        out.append(" + ".join(terms) or "0")
    return out[0], out[1]
