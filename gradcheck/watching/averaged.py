r"""The old model beside an average of the live one: does it follow old ← d·old + (1 − d)·live?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from gradcheck.rounding.bounds import unit_roundoff
from gradcheck.watching.faults import Checked, Fault

__all__ = ["Average", "shared_names"]

_MOST = 2**24
"""Numbers of the old model that are kept from one call to the next; the first parameters are looked at, up to these."""


def shared_names(
    live: Mapping[str, Tensor], old: Iterable[tuple[str, Tensor]], adapters: tuple[str, str] | None
) -> list[tuple[str, Tensor, Tensor]]:
    """Pairs (name, live, old) of one place in both models; adapters of one model by their two names."""
    of_old = dict(old)
    out = []
    for name, p in live.items():
        if adapters is not None and f".{adapters[0]}." not in name:
            continue
        twin = name if adapters is None else name.replace(f".{adapters[0]}.", f".{adapters[1]}.")
        if twin in of_old and of_old[twin].shape == p.shape:
            out.append((name, p, of_old[twin]))
    return out


class Average:
    """Looks at the old model at a judged step, and once more at the next call."""

    def __init__(self, pairs: list[tuple[str, Tensor, Tensor]], decay: float | None) -> None:
        self.decay = decay
        self.followed = False  # whether it was seen to move
        self.pairs: list[tuple[str, Tensor, Tensor]] = []
        size = 0
        for pair in pairs:
            size += pair[1].numel()
            if size > _MOST and self.pairs:
                break
            self.pairs.append(pair)
        self._before: list[tuple[Tensor, Tensor]] = []

    def aliased(self, output: Tensor, old: Tensor | None) -> Checked:
        """Two models in one storage, or one model that stands for both."""
        same = [name for name, p, q in self.pairs if p.data_ptr() == q.data_ptr() and p.numel()]
        if self.apart() and old is not None and torch.equal(output.detach(), old):
            sentence = "v_old is the trained model's own output, bit for bit, and the old model is another one"
            return Checked("old-model", (Fault("old-is-live", sentence),))
        if not same:
            return Checked("old-model")
        sentence = f"the old model is the live one: {len(same)} parameters share their storage ({same[0]} …)"
        return Checked("old-model", (Fault("old-aliased", sentence),))

    def apart(self) -> bool:
        """Whether the old model has other numbers than the live one."""
        return any(not torch.equal(p, q) for _, p, q in self.pairs)

    def remember(self) -> None:
        self._before = [(p.detach().clone(), q.detach().clone()) for _, p, q in self.pairs]

    @property
    def waiting(self) -> bool:
        return bool(self._before)

    def moved(self) -> Checked | None:
        """How the old model went on since ``remember``; ``None`` while it stood still."""
        now = [(p.detach(), q.detach()) for _, p, q in self.pairs]
        if all(torch.equal(q, before) for (_, q), (_, before) in zip(now, self._before, strict=True)):
            return None
        before, self._before = self._before, []
        if not all(bool(x.isfinite().all()) for pair in now for x in pair):
            return Checked(
                "old-model", (Fault("not-finite", "the parameters of the live or old model are not finite"),)
            )
        if all(torch.equal(p, q) for p, q in now) and not all(torch.equal(p, q) for p, q in before):
            if self.decay in (None, 0.0):
                return Checked("old-model")
            sentence = (
                f"the old model is a copy of the live one now, and with decay {self.decay:g} it must be an average"
            )
            return Checked("old-model", (Fault("old-copied", sentence),))
        for live in (1, 0):  # averaged after the update, or before it
            found = _decay(now, before, live)
            if found is None:
                continue
            d, error = found
            if self.decay is None or abs(d - self.decay) <= max(error, 1e-3 * (1 - self.decay)):
                return Checked("old-model") if 0 <= d <= 1 + error else Checked("old-model", (_outside(d),))
            if abs(d - (1 - self.decay)) <= max(error, 1e-3):
                sentence = (
                    f"decay {self.decay:g} and 1 − decay are exchanged: the old model moves {1 - d:.4g} of the way"
                )
                return Checked("old-model", (Fault("ema-exchanged", sentence),))
            sentence = f"the old model is averaged with decay {d:.6g}; {self.decay:g} is declared"
            return Checked("old-model", (Fault("ema-decay", sentence),))
        sentence = "the old model changed, and not to an average of itself and the live one"
        return Checked("old-model", (Fault("not-an-average", sentence),))


def _outside(d: float) -> Fault:
    return Fault("ema-decay", f"the old model is averaged with decay {d:.6g}, which is not between 0 and 1")


def _decay(
    now: list[tuple[Tensor, Tensor]], before: list[tuple[Tensor, Tensor]], which: int
) -> tuple[float, float] | None:
    """The d of old' = d·old + (1 − d)·live by least squares, and its error; ``None`` where no d fits to rounding."""
    way, step, size, noise = 0.0, 0.0, 0.0, 0.0
    rows = []
    for (p_now, q_now), (p_before, q_before) in zip(now, before, strict=True):
        p = (p_now if which else p_before).to(torch.float64)
        toward, moved = p - q_before.to(torch.float64), q_now.to(torch.float64) - q_before.to(torch.float64)
        way += float((toward * moved).sum())
        step += float((toward * toward).sum())
        unit = unit_roundoff(q_now.dtype)
        noise += float((4 * unit * (q_before.abs() + p.abs())).to(torch.float64).square().sum())
        size += float(moved.square().sum())
        rows.append((toward, moved))
    if step == 0:
        return None
    part = way / step
    left = sum(float((moved - part * toward).square().sum()) for toward, moved in rows)
    if left > noise + 1e-24 * size:
        return None
    return 1 - part, (noise / step) ** 0.5
