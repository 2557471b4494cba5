"""Where, and in which precisions, checks run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch

from gradcheck.errors import InputError

__all__ = ["DTYPES", "Device", "DeviceChoice", "DtypeName", "HalfName", "devices", "dtype_name"]

HalfName = Literal["bfloat16", "float16"]
"""A precision of 16 bits."""

DtypeName = Literal["float64", "float32", HalfName]
"""A precision that is judged in."""

Device = Literal["cpu", "cuda"]
"""A kind of device."""

DeviceChoice = Literal[Device, "all"]
"""Where to judge: on one kind of device, or on each that is there."""

DTYPES: Mapping[DtypeName, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The precisions by name."""


def dtype_name(dtype: torch.dtype) -> DtypeName:
    """A precision's name: ``float64``."""
    return cast(DtypeName, str(dtype).removeprefix("torch."))


def devices(choice: str) -> tuple[Device, ...]:
    """``cpu``, ``cuda`` or ``all`` (the CPU, and CUDA where there is a device).

    Raises:
        InputError: another word, or ``cuda`` without a device.
    """
    available = torch.cuda.is_available()
    if choice == "all":
        return ("cpu", "cuda") if available else ("cpu",)
    if choice == "cpu":
        return ("cpu",)
    if choice != "cuda":
        raise InputError(("device", repr(choice), "cpu, cuda or all"))
    if not available:
        raise InputError(("device", "'cuda', but torch sees no CUDA device", "cpu or all on this machine"))
    return ("cuda",)
