r"""Problems of a declaration, and what is required on them: made once for every loss that declares the same.

Drawing a problem and bounding what rounding may do to its gradient take most of a judgement, and depend on nothing that
the judged code does.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.oracle.problem import oracle_case
from gradcheck.oracle.required import Required
from gradcheck.problems.building import Spec

__all__ = ["drawn", "handed_over", "made", "packed"]

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

    def __init__(self, declared: _Declared, name: str, label: str, quantities: dict[str, Tensor | float]) -> None:
        super().__init__(label, quantities)
        self._declared = declared
        self._name = name
        self._made: dict[Callable[..., Any], Any] = {}
        _LIVING.add(self)


_LIVING: WeakSet[_Drawn] = WeakSet()
_PACKED: dict[str, bytes] = {}
"""Problems that another process has made, by their names."""


@lru_cache(maxsize=_MOST)
def _drawn(declared: _Declared, spec: Spec, dtype: torch.dtype, place: str) -> Case:
    name = f"{declared.words} {spec} {dtype} {place}"
    if name in _PACKED:
        label, quantities, made_of_it = pickle.loads(_PACKED[name])
        found = _Drawn(declared, name, label, quantities)
        found._made |= made_of_it
        return found
    case = oracle_case(declared.conventions, spec, dtype, place)
    return _Drawn(declared, name, case.label, {n: getattr(case, n) for n in case.names})


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


# ------------------------------------------------------------------------------------------ from process to process


def packed(known: dict[str, int]) -> list[tuple[str, bytes]]:
    """The problems that are kept, each with what was made of it: those of which ``known`` does not have as much.

    Args:
        known: how much was made of each problem when it was last packed, by name; it is brought up to date.
    """
    out = []
    for one in list(_LIVING):
        if known.get(one._name, -1) < len(one._made):
            known[one._name] = len(one._made)
            out.append((one._name, _bytes_of(one)))
    return out


def handed_over(problems: Iterable[tuple[str, bytes]]) -> None:
    """Take what a process of our own has :func:`packed`, for this process and those that are forked from it."""
    _PACKED.update(problems)


def _bytes_of(one: _Drawn) -> bytes:
    quantities = {name: getattr(one, name) for name in one.names}
    plain = {make: x for make, x in one._made.items() if isinstance(x, Tensor | Required | tuple | str)}
    out = io.BytesIO()
    _Pickler(out, protocol=pickle.HIGHEST_PROTOCOL).dump((one.label, quantities, plain))
    return out.getvalue()


class _Pickler(pickle.Pickler):
    """Writes small tensors in a tenth of the time that torch's own way takes, in the layout that they have."""

    def reducer_override(self, x: Any) -> Any:
        if type(x) is not Tensor:
            return NotImplemented
        plain = x.detach().cpu()
        span = 1 + sum((n - 1) * step for n, step in zip(plain.shape, plain.stride(), strict=True)) if x.numel() else 0
        data = plain.as_strided((span,), (1,)).contiguous().view(torch.uint8).numpy().tobytes()
        return _tensor, (data, x.dtype, tuple(x.shape), plain.stride(), x.requires_grad)


def _tensor(
    data: bytes, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool
) -> Tensor:
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).clone() if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(dtype).as_strided(shape, stride).requires_grad_(requires_grad)
