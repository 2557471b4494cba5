"""Whether the trained parameters have moved since the rollout: what ``on_policy`` says can be checked with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Moved"]

_TENSORS, _NUMBERS = 3, 256
"""How many parameters are looked at, and how many numbers of each: the optimiser moves them all."""


class Moved:
    """Remembers a few numbers of the parameters as they were at the rollout.

    They are looked at where the rollout is known to be just over: in ``watch.advantages``, and at a judged call with
    ``on_policy=True``.  Where the next rollout goes by unseen, what was remembered is forgotten.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        tensors = list(parameters.values())
        self._tensors = tensors[:: max(1, -(-len(tensors) // _TENSORS))]
        self._at_rollout: list[Tensor] = []
        self._at_first: list[Tensor] = []
        self._fresh = self._off = False

    def rollout(self) -> None:
        """A rollout is over, and no update was made since."""
        self._at_rollout, self._fresh = self._now(), True

    def called(self, on_policy: object) -> None:
        """A call said whether it is on-policy; the first one that is, after others that are not, has a new rollout."""
        if on_policy is True and self._off:
            if not self._fresh:
                self._at_rollout = []
            self._fresh = self._off = False
        elif on_policy is False:
            self._off, self._fresh = True, False

    def since(self) -> tuple[bool | None, bool]:
        """Whether the parameters are other ones than at the rollout, ``None`` if that is not known; and than when this
        was asked first."""
        now = self._now()
        self._at_first = self._at_first or now
        ever = _differ(self._at_first, now)
        return _differ(self._at_rollout, now) if self._at_rollout else None, ever

    def _now(self) -> list[Tensor]:
        with torch.no_grad():
            local = [p.to_local() if hasattr(p, "to_local") else p for p in self._tensors]
            return [p.reshape(-1)[:_NUMBERS].clone() for p in local]


def _differ(before: list[Tensor], now: list[Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))
