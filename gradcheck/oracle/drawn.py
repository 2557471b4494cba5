r"""Problems of a declaration, and what is required on them: made once for every loss that declares the same.

Drawing a problem and bounding what rounding may do to its gradient take most of a judgement, and depend on nothing that
the judged code does.  An implementation is handed copies (:mod:`.adapter`), so that it cannot change what is kept here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import torch

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.oracle.reference import oracle_case
from gradcheck.problems.building import Spec

__all__ = ["drawn", "made"]

T = TypeVar("T")

_MOST = 400
"""Problems that are kept; a judgement looks at some 200."""

_LARGEST = 2**16
"""Numbers of a latent above which a problem is not kept."""


@dataclass(frozen=True)
class _Declared:
    """A declaration, by all that it says."""

    words: str
    conventions: Conventions = field(compare=False)

    @classmethod
    def by(cls, conventions: Conventions) -> _Declared:
        return cls(repr(conventions), conventions)


class _Drawn(Case):
    """A problem with what was made of it; what :meth:`Case.replace` gives is an ordinary case again."""

    def __init__(self, case: Case, declared: _Declared) -> None:
        super().__init__(case.label, {name: getattr(case, name) for name in case.names})
        self._declared = declared
        self._made: dict[Callable[..., Any], Any] = {}


@lru_cache(maxsize=_MOST)
def _drawn(declared: _Declared, spec: Spec, dtype: torch.dtype, place: str) -> Case:
    return _Drawn(oracle_case(declared.conventions, spec, dtype, place), declared)


def drawn(conventions: Conventions, spec: Spec, dtype: torch.dtype, place: str) -> Case:
    """A random problem of the declared form: the same object as long as it is kept.  Nothing may change its tensors."""
    if spec.batch * math.prod(spec.latent) > _LARGEST:
        return oracle_case(conventions, spec, dtype, place)
    return _drawn(_Declared.by(conventions), spec, dtype, place)


def made(make: Callable[[Conventions, Case], T], conventions: Conventions, case: Case) -> T:
    """What a function makes of a declaration and a problem; once, of a problem that was drawn for that declaration."""
    if not isinstance(case, _Drawn) or case._declared != _Declared.by(conventions):
        return make(conventions, case)
    if make not in case._made:
        case._made[make] = make(conventions, case)
    found: T = case._made[make]
    return found
