r"""A part of a trainer from its function and the keywords that declare it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gradcheck.errors import InputError
from gradcheck.judging.engine import Declared

__all__ = ["declare"]

S = TypeVar("S")


def declare(part: Callable[..., Declared[S]], function: Callable[..., Any], declared: Mapping[str, Any]) -> Declared[S]:
    """A part of a function and its declaration.

    Raises:
        InputError: an unknown convention or a value out of its domain; all mistakes are listed.
    """
    keywords = {
        name for name, p in inspect.signature(part).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(part).parameters.values())
    unknown = [] if takes_any else [name for name in declared if name not in keywords]
    if unknown:
        known = ", ".join(sorted(keywords - {"seed", "expected_failures"}))
        raise InputError(*((name, repr(declared[name]), f"a convention of this part: {known}") for name in unknown))
    return part(function, **declared)
