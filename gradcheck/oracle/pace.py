"""How long a stranger's code will take on large problems, told from smaller ones."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from gradcheck.judging.adapter import AdapterError
from gradcheck.oracle.judge import Judge
from gradcheck.problems.building import Spec

__all__ = ["Pace"]


class Pace:
    """How long a call takes on large problems, from how long it took on two smaller ones.

    Time is taken to grow with the power of the size that those two show, and with the first at least.  The
    shortest of a few calls counts, so that a busy machine is not taken for slow code.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.taken: list[float] = []

    def expected(self, spec: Spec) -> float:
        """Seconds; 0 for a problem of ordinary size, or where a smaller one cannot be tried."""
        size = math.prod(self.judge.fitted(spec).latent)
        if size <= _PROBES[-1]:
            return 0.0
        if not self.taken:
            self.taken = [self._seconds(spec, n) for n in _PROBES]
        before, now = self.taken
        if now < _SLOW:
            return now
        power = math.log(max(now / max(before, 1e-9), 1e-9)) / math.log(_PROBES[1] / _PROBES[0])
        return float(now * (size / _PROBES[1]) ** min(max(power, 1.0), 3.0))

    def _seconds(self, spec: Spec, size: int) -> float:
        case = self.judge.case(replace(spec, batch=1, latent=(size, *(1,) * (len(spec.latent) - 1))))
        taken: list[float] = []
        while len(taken) < 2 or (min(taken) >= _SLOW and len(taken) < _MOST and sum(taken) < _ENOUGH):
            start = time.perf_counter()
            try:
                self.judge.observe(case)
            except AdapterError:  # of this shape alone, perhaps; the large ones will say
                return 0.0
            taken.append(time.perf_counter() - start)
        return min(taken)


_PROBES = (1000, 2000)
"""Sizes on which the time of a call is measured, before it is called on ten times as many numbers."""
_SLOW = 0.01
"""A call shorter than this, in seconds, becomes no long one on latents ten times as large."""
_MOST, _ENOUGH = 8, 1.0
"""Calls, and their seconds, after which code that took long each time is slow: a busy machine lets one through."""
