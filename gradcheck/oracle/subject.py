r"""What is judged, and how thoroughly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.devices import DTYPES, DeviceChoice, DtypeName
from gradcheck.errors import InputError
from gradcheck.judging.check import unknown
from gradcheck.judging.isolation.memory import available_memory
from gradcheck.oracle.obligations import OBLIGATIONS

__all__ = ["Settings", "Subject", "sizes"]


@dataclass(frozen=True)
class Subject:
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
        problems = unknown("expected_failures", self.expected_failures, [o.id for o in OBLIGATIONS], "docs/oracle.md")
        if problems:
            raise InputError(*problems)


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
        batch: the number of samples, where the usual few will not do.
        latent: the shape of one sample, where the usual small ones will not do: ``(16, 21, 60, 104)`` for a video.
    """

    device: DeviceChoice = "cpu"
    dtype: DtypeName = "float64"
    max_examples: int = 10
    seed: int = 0
    compiled: bool = False
    timeout: float = 60.0
    latent: tuple[int, ...] | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.dtype not in DTYPES:
            problems.append(("dtype", repr(self.dtype), f"one of {', '.join(DTYPES)}"))
        if not 1 <= self.max_examples <= _MOST_EXAMPLES:
            problems.append(("max_examples", repr(self.max_examples), f"at least 1 and at most {_MOST_EXAMPLES}"))
        if not abs(self.seed) <= _LARGEST_SEED:
            problems.append(("seed", repr(self.seed), "a whole number of at most 12 digits"))
        if not 0 < self.timeout < math.inf:
            problems.append(("timeout", repr(self.timeout), "seconds, more than 0"))
        if self.latent is not None and (not 1 <= len(self.latent) <= 4 or min(self.latent) < 1):
            problems.append(("latent", repr(self.latent), "one to four sizes, each at least 1"))
        elif self.latent is not None and not _fits(math.prod(self.latent) * (self.batch or 5)):
            wanted = f"latents that {available_memory() / 2**30:.2g} GiB of free memory can hold some {_COPIES} times"
            problems.append(("latent", f"{self.latent!r}, {math.prod(self.latent):.2g} numbers a sample", wanted))
        if self.batch is not None and (isinstance(self.batch, bool) or self.batch < 1):
            problems.append(("batch", repr(self.batch), "at least 1"))
        if problems:
            raise InputError(*problems)


_MOST_EXAMPLES = 1_000_000
_LARGEST_SEED = 10**12  # times a million it is a seed of 64 bits still
_COPIES = 20
"""A case's latents, the intermediate ones of both routes, and their gradients."""


def _fits(numbers: int) -> bool:
    return numbers < 10**6 or 8.0 * numbers * _COPIES < available_memory()


def sizes(text: str | None) -> tuple[int, ...] | None:
    """A latent's shape as a command line has it: ``16,64,64``.

    Raises:
        InputError: these are no whole numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        raise InputError(("latent", repr(text), "sizes such as 16,64,64")) from None
