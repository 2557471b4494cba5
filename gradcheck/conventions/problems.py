"""What is wrong with declared values, as an :class:`~gradcheck.errors.InputError` takes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from derivations.derivation import PathName
from derivations.notation import quantity
from derivations.steps.parameterisation import ERROR_SPACES, PREDICTIONS
from gradcheck.conventions.declaration import BatchReduction, OutputCasts, OutputRounding
from gradcheck.devices import DTYPES, HalfName
from gradcheck.errors import did_you_mean

__all__ = ["domain_problems", "variables_problems"]

_MOST_EPS = 1e-3
"""A number that is larger than this is no guard against division by zero, but another loss."""


def domain_problems(fixed: Mapping[str, Any], rest: Mapping[str, Any], path: PathName) -> list[tuple[str, str, str]]:
    """What is wrong with declared numbers, as an :class:`~gradcheck.errors.InputError` takes it."""
    problems = []
    for name, value in fixed.items():
        row = quantity(name)
        if not _is_number(value) or not row.domain.contains(float(value)):
            problems.append((name, repr(value), f"a number in {row.domain}"))
    if rest.get("batch_reduction", "mean") not in get_args(BatchReduction):
        problems.append(("batch_reduction", repr(rest["batch_reduction"]), "'mean', 'sum' or 'none'"))
    if rest.get("working_dtype") not in (None, *DTYPES):
        problems.append(
            ("working_dtype", repr(rest["working_dtype"]), "'float64', 'float32', 'bfloat16', 'float16' or None")
        )
    if rest.get("output_dtype") not in (None, *get_args(HalfName)):
        problems.append(("output_dtype", repr(rest["output_dtype"]), "'bfloat16', 'float16', or None"))
    rounding = rest.get("output_rounding", "nearest")
    if rounding not in get_args(OutputRounding):
        problems.append(("output_rounding", repr(rounding), "'nearest' or 'stochastic'"))
    elif rounding == "stochastic" and rest.get("output_dtype") is None:
        problems.append(("output_rounding", repr(rounding), "output_dtype= with it, the precision that is rounded to"))
    casts = rest.get("output_casts", "once")
    if casts not in get_args(OutputCasts):
        problems.append(("output_casts", repr(casts), "'once' or 'each'"))
    elif casts == "each" and rest.get("output_dtype") is None:
        problems.append(("output_casts", repr(casts), "output_dtype= with it, the precision that is cast from"))
    for name in ("factor", "policy_factor"):
        value = rest.get(name, 1.0)
        if not _is_number(value) or value == 0 or (name == "policy_factor" and value < 0):
            problems.append((name, repr(value), "a number other than 0" if name == "factor" else "a positive number"))
    if rest.get("error_space", "velocity") not in ERROR_SPACES:
        problems.append(("error_space", repr(rest["error_space"]), f"one of {', '.join(map(repr, ERROR_SPACES))}"))
    problems += variables_problems(rest.get("prediction", "v"), rest.get("noise_at", 1), path)
    if not _is_number(rest.get("eps", 0.0)) or not 0 <= rest.get("eps", 0.0) <= _MOST_EPS:
        problems.append(("eps", repr(rest["eps"]), f"a number from 0 to {_MOST_EPS:g}"))
    limit = rest.get("adv_clip_max")
    if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
        problems.append(("adv_clip_max", repr(limit), "a positive number or None"))
    return problems


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def variables_problems(prediction: Any, noise_at: Any, path: PathName = "rectified") -> list[tuple[str, str, str]]:
    """What is wrong with a declared prediction or direction of time, as an :class:`InputError` takes it."""
    problems = []
    if prediction not in PREDICTIONS:
        hint = did_you_mean(str(prediction), PREDICTIONS)
        problems.append(("prediction", repr(prediction), f"one of {', '.join(map(repr, PREDICTIONS))}{hint}"))
    if isinstance(noise_at, bool) or noise_at not in (0, 1):
        problems.append(("noise_at", repr(noise_at), "1, or 0 where time runs from noise at 0 to data at 1"))
    elif noise_at == 0 and path != "rectified":
        problems.append(("noise_at", "0", "1: on the variance-preserving path the noise is where alpha_bar is 0"))
    return problems
