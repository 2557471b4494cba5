r"""Writing vectors: one safetensors file for each loss and precision, and the manifest that explains them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sympy as sp
import torch
from safetensors.torch import save
from torch import Tensor

from derivations.derivation import Derivation
from derivations.notation import NOTATION, quantity
from derivations.writing import render
from derivations.writing.torchgen import ordered_formulas
from gradcheck.case import Case
from gradcheck.catalogue import Entry, entries
from gradcheck.errors import InputError
from gradcheck.rounding.bounds import THRESHOLD, unit_roundoff
from gradcheck.vectors.flags import FLAGS
from gradcheck.vectors.layout import FORMAT, MANIFEST, VERSION
from gradcheck.vectors.making import DTYPES, Expected, make, recipes_for
from gradcheck.vectors.recipes import GROUPS, Recipe

__all__ = ["EXPECTED", "RULE", "export"]

RULE = (
    "An answer g passes where |g - gradient| <= threshold * u * gradient_scale in every component, u being "
    "unit_roundoff of the file's precision; likewise loss with loss_scale. A component is not judged where |gradient| "
    "+ threshold * u * gradient_scale is not below the largest number of the precision. A row that is marked undecided "
    "may meet other_gradient, or a half or a quarter of one and the rest of the other, in place of gradient."
)
"""How answers are judged, as the manifest says it."""

EXPECTED = {
    "gradient": ("latent", "gradient of the sum of the case's losses in v_theta"),
    "gradient_scale": ("latent", "e, the error of one evaluation of the gradient in units of u"),
    "loss": ("sample", "loss of each sample, to be minimised"),
    "loss_scale": ("sample", "e of the loss"),
    "weight": ("sample", "w of the squared distance w |v_theta - target|^2 that has the same gradient"),
    "target": ("latent", "where the loss pulls v_theta"),
    "undecided": ("sample", "whether rounding leaves open on which side of the clip the sample is"),
    "other_gradient": ("latent", "the gradient on the clip's other side"),
}
"""What is demanded: axes and meaning, as in the notation table; float64 in every file, ``undecided`` boolean."""

_RECEIVED = ("x_t", "x_prev", "log_prob_old")
"""Quantities that follow from the given ones, and that trainers have at hand."""

_ONLY_UNDECIDED = ("undecided", "other_gradient")

Made = dict[str, tuple[Case, Expected]]


def export(folder: Path, *names: str, seed: int = 0) -> tuple[Path, ...]:
    """Write the vectors of the named catalogue entries, or of all; the same seed gives the same bytes.

    The manifest comes last, and files of its names are replaced.  Returns what was written.

    Raises:
        InputError: an unknown name, or a folder that cannot be made.
    """
    chosen = entries(*names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(("--out", f"{folder} ({error.strerror})", "a folder, there or to be made")) from None
    written, sets = [], []
    for entry in chosen:
        recipes = recipes_for(entry.derivation)
        made = {recipe.name: make(entry.derivation, recipe, seed) for recipe in recipes}
        used = {g: [r for r in recipes if r.group == g] for g in GROUPS if any(r.group == g for r in recipes)}
        files = {}
        for dtype in DTYPES:
            content = save(_tensors(entry.derivation, used, made, dtype))
            file = folder / f"{entry.algorithm.name}.{entry.variant}.{dtype}.safetensors"
            file.write_bytes(content)
            written.append(file)
            files[dtype] = {"name": file.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        sets.append(_set(entry, used, made) | {"files": files})
    manifest = folder / MANIFEST
    manifest.write_text(_json(_manifest(chosen, sets, seed)) + "\n", encoding="utf-8")
    return (*written, manifest)


# ---------------------------------------------------------------------------------------------------- tensors


def _inputs(derivation: Derivation) -> tuple[str, ...]:
    received = {*derivation.given, *(name for name in _RECEIVED if name in derivation.defined)}
    names = (q for q in sorted(received, key=_order) if quantity(q).axes != "problem")
    return tuple(names)


def _order(name: str) -> int:
    return NOTATION.index(quantity(name))


def _names(derivation: Derivation, recipes: Iterable[Recipe]) -> tuple[str, ...]:
    """The tensors of a group."""
    open_rows = any(recipe.at_edge for recipe in recipes)
    demanded = (name for name in EXPECTED if open_rows or name not in _ONLY_UNDECIDED)
    return (*_inputs(derivation), *demanded)


def _tensors(
    derivation: Derivation, used: dict[str, list[Recipe]], made: dict[str, Made], dtype: str
) -> dict[str, Tensor]:
    out = {}
    for group, recipes in used.items():
        parts = [made[recipe.name][dtype] for recipe in recipes]
        for name in _names(derivation, recipes):
            rows = [getattr(e if name in EXPECTED else case, name).detach() for case, e in parts]
            out[f"{group}/{name}"] = torch.cat(rows).contiguous()
    return out


# --------------------------------------------------------------------------------------------------- manifest


def _manifest(chosen: Iterable[Entry], sets: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    used = {flag for s in sets for case in s["cases"] for flag in case["flags"]}
    inputs = sorted({name for e in chosen for name in (*_inputs(e.derivation), *_numbers(e.derivation))}, key=_order)
    return {
        "format": {"name": FORMAT, "version": VERSION},
        "seed": seed,
        "rule": RULE,
        "threshold": THRESHOLD,
        "unit_roundoff": {name: unit_roundoff(dtype) for name, dtype in DTYPES.items()},
        "inputs": [_row(name) for name in inputs],
        "expected": [
            {"name": name, "axes": _axes(axes), "dtype": "bool" if name == "undecided" else "float64", "meaning": words}
            for name, (axes, words) in EXPECTED.items()
        ],
        "flags": {
            name: {"bug_type": f.bug_type, "description": f.description, "effect": f.effect}
            for name, f in FLAGS.items()
            if name in used
        },
        "vectors": sets,
    }


def _row(name: str) -> dict[str, Any]:
    row = quantity(name)
    kind = "float64" if row.axes == "problem" else "as the file"
    return {"name": name, "axes": _axes(row.axes), "dtype": kind, "latex": row.latex, "meaning": row.meaning}


def _axes(axes: str) -> list[str]:
    return {"latent": ["row", "latent"], "sample": ["row"], "problem": []}[axes]


def _numbers(derivation: Derivation) -> tuple[str, ...]:
    return tuple(name for name in derivation.given if quantity(name).axes == "problem")


def _set(entry: Entry, used: dict[str, list[Recipe]], made: dict[str, Made]) -> dict[str, Any]:
    d = entry.derivation
    formulas = ordered_formulas(d, d.loss, d.gradient, d.weight, d.target)
    groups, cases = [], {}
    for group, recipes in used.items():
        row = 0
        for recipe in recipes:
            case, _ = made[recipe.name][next(iter(DTYPES))]
            rows = [row, row + case.v_theta.shape[0]]
            row = rows[1]
            numbers = {name: getattr(case, name) for name in _numbers(d)}
            cases[recipe.name] = {
                "name": recipe.name,
                "flags": [recipe.flag],
                "group": group,
                "rows": rows,
                "numbers": numbers,
            }
        groups.append({"name": group, "latent": list(GROUPS[group]), "rows": row, "tensors": list(_names(d, recipes))})
    return {
        "label": entry.label,
        "algorithm": d.name,
        "variant": entry.variant,
        "title": d.title,
        "summary": d.variant.summary,
        "reference": d.reference,
        "loss": _formula(d.loss, d),
        "where": [{"symbol": _formula(s, d), "name": s.name, "formula": _formula(e, d)} for s, e in formulas],
        "gradient": _formula(d.gradient, d),
        "weight": _formula(d.weight, d),
        "target": _formula(d.target, d),
        "groups": groups,
        "cases": [cases[recipe.name] for recipe in recipes_for(d)],
    }


def _formula(expr: sp.Expr, of: Derivation) -> dict[str, str]:
    return {"text": render.text(expr, of=of), "latex": render.latex(expr, of=of)}


def _json(data: Any, depth: int = 0) -> str:
    """A line for whatever fits on one, and for each case and formula."""
    line = json.dumps(data, ensure_ascii=False, allow_nan=False)
    if len(line) < 110 or depth == 5 or not isinstance(data, dict | list):
        return line
    pad, end = "\n" + " " * (depth + 1), "\n" + " " * depth
    if isinstance(data, dict):
        return "{" + ",".join(f"{pad}{json.dumps(k)}: {_json(v, depth + 1)}" for k, v in data.items()) + end + "}"
    return "[" + ",".join(pad + _json(v, depth + 1) for v in data) + end + "]"
