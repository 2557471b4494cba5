r"""What is judged, and how thoroughly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.errors import InputError, did_you_mean
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.verification import DTYPES

__all__ = ["Settings", "Target"]


@dataclass(frozen=True)
class Target:
    """An implementation and what it declares.

    Attributes:
        function: from a case to a loss.
        name: how reports call it.
        conventions: the declaration.
        expected_failures: obligation id → reason.
        source: ``file.py::function`` or ``module:function``, for scripts that import it; empty if it has no such name.
    """

    function: Callable[[Case], Any]
    name: str
    conventions: Conventions
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        known = [o.id for o in OBLIGATIONS]
        unknown = [name for name in self.expected_failures if name not in known]
        if unknown:
            wanted = f"obligations: {', '.join(known)}{did_you_mean(unknown[0], known)}"
            raise InputError(("expected_failures", repr(unknown[0]), wanted))


@dataclass(frozen=True)
class Settings:
    """How thoroughly to look.

    Attributes:
        device: ``cpu``, ``cuda`` or ``all``.
        dtype: the precision of the cases; ``float64`` unless the implementation refuses it.
        max_examples: problems for each obligation.
        seed: of the problems.
        compiled: also under ``torch.compile``.
        timeout: seconds that one call may take.
    """

    device: str = "cpu"
    dtype: str = "float64"
    max_examples: int = 10
    seed: int = 0
    compiled: bool = False
    timeout: float = 60.0

    def __post_init__(self) -> None:
        problems = []
        if self.dtype not in DTYPES:
            problems.append(("dtype", repr(self.dtype), f"one of {', '.join(DTYPES)}"))
        if self.max_examples < 1:
            problems.append(("max_examples", repr(self.max_examples), "at least 1"))
        if not self.timeout > 0:
            problems.append(("timeout", repr(self.timeout), "seconds, more than 0"))
        if problems:
            raise InputError(*problems)
