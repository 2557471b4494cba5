"""Whether numbers were rounded to half precision somewhere on their way."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["held_in"]

_LOOK_AT = 2**16


def held_in(x: Tensor) -> torch.dtype | None:
    """The half precision that holds every number of a tensor (of its first 65 536): its own dtype, or one that it was
    rounded to before it was made wider; ``None`` where neither does, or where all are 0."""
    if x.dtype in (torch.bfloat16, torch.float16):
        return x.dtype
    some = x.detach().reshape(-1)[:_LOOK_AT]
    for first in (some[:64], some):  # of numbers in full precision the first few are enough
        fitting = [
            dtype for dtype in (torch.bfloat16, torch.float16) if torch.equal(first.to(dtype).to(first.dtype), first)
        ]
        if not fitting:
            return None
    return fitting[0] if bool((some != 0).any()) else None
