"""The findings as data; docs/derive.md describes every field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sympy as sp

from derivations.calculus import Mask
from derivations.derivation import Proof
from derivations.grammar.kinks import shown
from derivations.writing import render
from derivations.writing.torchgen import ordered_formulas
from gradcheck.deriving.checking import Checked
from gradcheck.deriving.text import masks, shortened
from gradcheck.rounding.bounds import THRESHOLD

if TYPE_CHECKING:
    from gradcheck.deriving.result import Derived

__all__ = ["JSON_VERSION", "to_json"]

JSON_VERSION = 1
"""Version of the JSON that is written."""


def to_json(derived: Derived) -> Mapping[str, Any]:
    """What ``gradcheck derive --json`` prints."""
    d, form = derived.derivation, derived.form
    named = masks(derived) if len(d.gradient.atoms(Mask)) > 1 else {}

    def formula(expr: sp.Expr | None) -> dict[str, str] | None:
        if expr is None:
            return None
        plain = shown(expr.xreplace(named))
        return {"text": render.text(plain, of=d), "latex": render.latex(plain, of=d)}

    formulas = ordered_formulas(d, d.loss, d.gradient, d.weight, d.target)
    return {
        "schema": {"name": "gradcheck-derive", "version": JSON_VERSION},
        "source": derived.statement.source,
        "holds": derived.holds,
        "process": derived.process,
        "given": list(d.given),
        "loss": formula(d.loss),
        "definitions": [{"name": s.name, "formula": formula(e)} for s, e in formulas],
        "gradient": formula(d.gradient),
        "optimisation": formula(derived.optimisation),
        "trust_region": formula(derived.trust_region),
        "terms": [
            {"coefficient": formula(x.coefficient), "direction": formula(x.direction), "trust_region": x.trust}
            for x in form.terms
        ],
        "weight": formula(d.weight),
        "target": formula(d.target),
        "exact": derived.exact,
        "fixed": form.fixed,
        "quadratic": form.quadratic,
        "centre": formula(form.centre),
        "own_weight": formula(form.own_weight),
        "constant": formula(form.constant),
        "output": _output(derived),
        "proof": _proof(derived.proof),
        "threshold": THRESHOLD,
        "checks": [_check(c) for c in derived.checks],
        "catalogue": [
            {
                "label": m.label,
                "factor": str(m.factor),
                "same_target": m.same_target,
                "assumed": list(m.step),
                "clip_range": [str(bound) for bound in m.clip],
            }
            for m in derived.matches
        ],
        "torch": derived.torch_source,
    }


def _output(derived: Derived) -> dict[str, Any] | None:
    if derived.output is None:
        return None
    d, named = derived.output.derivation, masks(derived)

    def formula(expr: sp.Expr) -> dict[str, str]:
        plain = shown(expr.xreplace(named))
        return {"text": render.text(plain, of=d), "latex": render.latex(plain, of=d)}

    return {
        "name": d.output.name,
        "given": list(d.given),
        "gradient": formula(d.gradient),
        "weight": formula(d.weight),
        "target": formula(d.target),
        "proof": _proof(derived.output.proof),
        "check": _check(derived.output.check),
    }


def _proof(proof: Proof) -> list[dict[str, Any]]:
    return [
        {"step": r.step.name, "sentence": r.step.sentence, "proved": r.proved, "residual": shortened(r.residual)}
        for r in proof.results
    ]


def _check(c: Checked) -> dict[str, Any]:
    return {
        "dtype": c.dtype,
        "problems": c.problems,
        "ratio": c.ratio if math.isfinite(c.ratio) else None,
        "judged": c.judged,
        "skipped": c.skipped,
        "holds": c.holds,
        "error": c.error,
    }
