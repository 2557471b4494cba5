r"""Functions of torch, Python and this package that a stranger's code has replaced: what they compute is not judged."""

from __future__ import annotations

import builtins
import inspect
import math
import operator
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch

from gradcheck.judging.isolation.words import users_own

__all__ = ["Namespaces"]

_WATCHED: dict[str, Any] = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch._C.TensorBase": torch._C.TensorBase,
    "torch.autograd": torch.autograd,
    "torch.linalg": torch.linalg,
    "torch.nn.functional": torch.nn.functional,
    "torch.distributions.Normal": torch.distributions.Normal,
    "numpy": np,
    "builtins": builtins,
    "math": math,
    "os": os,
    "random": random,
    "time": time,
}
_OURS = ("gradcheck.", "derivations.")


def _watched() -> dict[str, Any]:
    ours = {n: m for n, m in list(sys.modules.items()) if n.startswith(_OURS) and isinstance(m, ModuleType)}
    return {**_WATCHED, **ours}


@dataclass(frozen=True)
class Namespaces:
    """What every watched name meant at one moment."""

    names: Mapping[str, dict[str, Any]]

    @classmethod
    def now(cls) -> Namespaces:
        return cls({name: dict(vars(space)) for name, space in _watched().items()})

    def replaced(self, *, restore: bool = True) -> list[str]:
        """The names that the user's own code has given another meaning, put back where that is asked for."""
        return list(self._replaced(restore))

    def _replaced(self, restore: bool) -> Iterator[str]:
        spaces = _watched()
        for where, before in self.names.items():
            space = spaces.get(where)
            if space is None:
                continue
            now = vars(space)
            if all(map(operator.is_, before.values(), map(now.get, before))):
                continue
            for name, value in before.items():
                now_is = now.get(name)
                if now_is is not value and not name.startswith("__") and not _a_librarys(now_is):
                    if restore:
                        setattr(space, name, value)
                    yield f"{where}.{name}{_made_at(now_is)}"


def _a_librarys(value: Any) -> bool:
    """Whether a library may have put this there: a module, a class or a function, none of them the user's own."""
    if isinstance(value, ModuleType):
        return True
    if isinstance(value, FunctionType):
        return not users_own(value.__code__.co_filename)
    if isinstance(value, type):
        try:
            return not users_own(inspect.getfile(value))
        except (TypeError, OSError):
            return True
    return False


def _made_at(value: Any) -> str:
    """Where a function of the user's own stands."""
    code = getattr(value, "__code__", None) if isinstance(value, FunctionType) else None
    return f" ({Path(code.co_filename).name}:{code.co_firstlineno})" if code is not None else ""
