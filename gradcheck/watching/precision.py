"""What a step computes in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gradcheck.rounding.bounds import unit_roundoff
from gradcheck.watching.given import Given

__all__ = ["Precision"]

_SINGLE = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Precision:
    """The precisions of a step.

    Attributes:
        loss: the precision of the loss.
        output: that of the network's output where it is lower: its gradient is rounded to it at the end.
    """

    loss: torch.dtype
    output: torch.dtype | None = None

    @classmethod
    def of(cls, given: Given, declared: str | None) -> Precision:
        """A loss is computed in float32 where the network puts out less, or where anything else is in float32; unless
        another precision is declared."""
        own = given.output.dtype
        single = any(torch.finfo(x.dtype).eps >= _SINGLE for x in (given.output, *given.latents.values()))
        loss = (torch.float32 if single else own) if declared is None else getattr(torch, declared)
        narrower = torch.finfo(own).eps > torch.finfo(loss).eps
        return cls(loss, own if narrower else None)

    @property
    def unit(self) -> float:
        """The unit roundoff of what arrives."""
        return unit_roundoff(self.output or self.loss)
