"""Where, and in which precisions, checks run."""

from __future__ import annotations

import torch

from gradcheck.errors import InputError

__all__ = ["DTYPES", "devices"]

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""The precisions by name."""


def devices(choice: str) -> tuple[str, ...]:
    """``cpu``, ``cuda`` or ``all`` (the CPU, and CUDA where there is a device).

    Raises:
        InputError: another word, or ``cuda`` without a device.
    """
    available = torch.cuda.is_available()
    if choice == "all":
        return ("cpu", "cuda") if available else ("cpu",)
    if choice not in ("cpu", "cuda"):
        raise InputError(("device", repr(choice), "cpu, cuda or all"))
    if choice == "cuda" and not available:
        raise InputError(("device", "'cuda', but torch sees no CUDA device", "cpu or all on this machine"))
    return (choice,)
