r"""A list of judgements as plain data that is valid JSON; :func:`schema` describes it, and allows nothing else.

Numbers that JSON cannot write are the strings ``"Infinity"``, ``"-Infinity"`` and ``"NaN"``; what there isn't is
``null``; half a surrogate pair, which no UTF-8 file can hold, is its escape.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from gradcheck.judging.results import Diagnosis, Judgement, Result
from gradcheck.oracle.subject import Settings
from gradcheck.problems.building import Spec
from gradcheck.reports.shared import decomposition, environment, timestamp
from gradcheck.rounding.compare import Comparison

__all__ = ["JSON_VERSION", "SCHEMA_NAME", "decoded", "encoded", "schema", "to_json"]

SCHEMA_NAME = "gradcheck-check"
"""Name of the schema that is written."""

JSON_VERSION = 3
"""Version of the schema that is written."""

_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of :func:`to_json`."""
    text = files("gradcheck.reports").joinpath("schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def to_json(judgements: Sequence[Judgement], settings: Settings) -> dict[str, Any]:
    """The report as plain data, schema version :data:`JSON_VERSION`."""
    report = {
        "schema": {"name": SCHEMA_NAME, "version": JSON_VERSION},
        "date": timestamp(),
        "environment": environment(judgements),
        "settings": asdict(settings),
        "holds": bool(judgements) and all(j.holds for j in judgements),
        "targets": [_target(j) for j in judgements],
    }
    writable: dict[str, Any] = _writable(report)
    return writable


def _writable(node: Any) -> Any:
    if isinstance(node, dict):
        return {_writable(key): _writable(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_writable(value) for value in node]
    return node.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(node, str) else node


def encoded(x: float) -> float | str:
    """A number as JSON can hold it."""
    return "NaN" if math.isnan(x) else _NAMES.get(x, x)


def decoded(x: float | str) -> float:
    """The number that :func:`encoded` wrote.

    Raises:
        ValueError: a string that is no number.
    """
    return float(x)


def _target(judgement: Judgement) -> dict[str, Any]:
    return {
        "target": judgement.subject,
        "declaration": judgement.declaration,
        "holds": judgement.holds,
        "unjudged": judgement.unjudged,
        "reference": judgement.reference,
        "seed": judgement.seed,
        "seconds": judgement.seconds,
        "threshold": judgement.threshold,
        "printed": judgement.printed,
        "obligations": [_obligation(r) for r in judgement.results],
    }


def _obligation(r: Result) -> dict[str, Any]:
    o = r.outcome
    return {
        "id": r.id,
        "status": r.status,
        "statement": r.statement,
        "catches": r.catches,
        "device": r.device,
        "dtype": r.dtype,
        "seconds": r.seconds,
        "examples": o.examples,
        "ratio": encoded(o.ratio),
        "ratios": [encoded(x) for x in o.ratios],
        "resolution": None if o.resolution is None else encoded(o.resolution),
        "detail": o.detail,
        "meaning": o.meaning,
        "note": o.note,
        "expected": r.expected,
        "comparison": None if o.comparison is None else _comparison(o.comparison),
        "problem": None if o.spec is None else _problem(o.spec),
        "diagnosis": None if r.diagnosis is None else _diagnosis(r.diagnosis),
        "script": r.script,
    }


def _comparison(c: Comparison) -> dict[str, Any]:
    return {
        "ratio": encoded(c.ratio),
        "index": list(c.index),
        "observed": encoded(c.observed),
        "required": encoded(c.required),
        "bound": encoded(c.bound),
        "judged": encoded(c.judged),
        "resolution": encoded(c.resolution),
    }


def _problem(spec: Spec) -> dict[str, Any]:
    return {**asdict(spec), "latent": list(spec.latent)}


def _diagnosis(d: Diagnosis) -> dict[str, Any]:
    rows = [{"direction": name, "observed": yours, "required": wanted} for name, yours, wanted in decomposition(d)]
    return {"name": d.name, "cause": d.cause, "declare": d.declare, "decomposition": rows}
