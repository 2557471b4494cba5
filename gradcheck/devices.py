"""Where, and in which precisions, checks run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch

from gradcheck.errors import InputError

__all__ = ["DTYPES", "Device", "DeviceChoice", "DtypeName", "HalfName", "devices", "dtype_name", "own_modes"]

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


@contextlib.contextmanager
def own_modes() -> Iterator[None]:
    """Differentiate, on the CPU unless a device is named, in whatever modes of torch a caller happens to be.

    Under ``no_grad``, inference mode, autocast or another default device a check would differentiate nothing, or
    round in another precision, and call right formulas wrong.
    """
    with contextlib.ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # the context is a function mode, which slows every call
            modes.enter_context(torch.device("cpu"))
        yield
