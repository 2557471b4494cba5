r"""Right code that is declared too little: a weight of the time, whole pairs or groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import sympy as sp
import torch

from derivations.derivation import Derivation
from derivations.grammar import ParseError
from derivations.grammar.statement import read_scalar
from derivations.pieces import Piece
from gradcheck.conventions import Conventions
from gradcheck.derived.compiled import evaluate
from gradcheck.judging.adapter import AdapterError
from gradcheck.judging.results import Diagnosis
from gradcheck.oracle.diagnosis.evidence import Evidence, explains
from gradcheck.oracle.judge import Judge, look_at_gradient
from gradcheck.problems.building import Spec

__all__ = ["known_weight", "weight_declared", "whole_units"]

_SNR = "(1-t)**2/t**2"
_WEIGHTS = {
    "min-SNR": (f"min({{}}, {_SNR})", (5, 1, 3, 10, 20)),
    "min-SNR over SNR, as a network that predicts noise has it": (
        f"min({{}}, {_SNR})*t**2/(1-t)**2",
        (5, 1, 3, 10, 20),
    ),
    "min-SNR over SNR + 1, as one that predicts velocities has it": (
        f"min({{}}, {_SNR})/({_SNR}+1)",
        (5, 1, 3, 10, 20),
    ),
    "the density of logit-normal times": ("exp(-log(t/(1-t))**2/2)/(t*(1-t)*sqrt(2*pi))", ()),
    "the density of the cosine map": ("2/(pi*(1-2*t+2*t**2))", ()),
    "1/(t² + {})": ("1/(t**2+{})", ("0.01", "0.1", "0.001", "0.0001", "1")),
}
"""Weights of the time that public code has, as one declares them."""


def known_weight(judge: Judge, evidence: list[Evidence]) -> Diagnosis | None:
    """A weight of the time by which public trainers multiply a regression's loss."""
    declared = judge.conventions
    if not _takes_a_weight(declared) or "t" not in evidence[0].case.names:
        return None
    for what, (formula, numbers) in _WEIGHTS.items():
        for number in numbers or ("",):
            line = formula.format(number)
            weight = read_scalar(line)

            def weighed(e: Evidence, weight: sp.Expr = weight) -> torch.Tensor:
                (w,) = evaluate(e.conventions.derivation, e.case, weight, dtype=torch.float64)
                return w * e.required

            if explains(evidence, weighed):
                return Diagnosis(
                    "convention:weight", f"the loss is weighed by {what.format(number)}", f"weight={line!r}"
                )
    return None


def _takes_a_weight(declared: Conventions) -> bool:
    return "weight" not in dict(declared.on_top) and declared.derivation.path == "rectified"


def weight_declared(declared: Conventions, formula: sp.Expr) -> str:
    """How a factor of every sample's gradient is declared as its weight; empty where it cannot be."""
    d = declared.derivation
    names = {s.name for s in formula.free_symbols}
    if not _takes_a_weight(declared) or not names or not names <= {"t", "dt"} & set(d.given):
        return ""
    line = str(formula)
    try:
        return f"weight={line!r}" if sp.simplify(read_scalar(line) - formula) == 0 else ""
    except ParseError:
        return ""


_GROUPS = (2, 3, 4, 6, 8)


def whole_units(judge: Judge) -> Diagnosis | None:
    """Code that refuses single samples, and is right on whole pairs, or groups."""
    declared = judge.conventions
    if Piece.PREFERENCE not in declared.derivation.pieces or declared.pairs or declared.groups:
        return None
    for other, written in _in_units(declared, declared.derivation):
        try:
            if _is_right(replace(judge, conventions=other)):
                what = "pairs" if other.pairs else "groups"
                return Diagnosis(f"convention:{what}", f"it takes whole {what}, and is right on them", written)
        except AdapterError:
            continue
    return None


def _in_units(declared: Conventions, d: Derivation) -> Iterator[tuple[Conventions, str]]:
    if Piece.PAIR in d.pieces:
        for kind in ("halves", "adjacent"):
            yield replace(declared, pairs=kind), f"pairs={kind!r}"
        return
    for size in _GROUPS:
        yield replace(declared, groups=size), f"groups={size}"


def _is_right(judge: Judge) -> bool:
    specs = (Spec(12, (3, 4), judge.seed + 1), Spec(24, (5,), judge.seed + 2))
    return all(look_at_gradient(judge, judge.case(spec)).holds for spec in specs)
