"""An advantage estimator beside what it declares, and the values that this requires."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from gradcheck.devices import DtypeName
from gradcheck.parts._advantage_mistakes import ACROSS_GROUPS, OTHER_RESULTS, OTHER_STATISTICS
from gradcheck.parts._calls import calling, tensor_result, unchanged, working

__all__ = ["AdvantageConvention", "Subject"]


Centre = Literal["group", "global", "others"]
Spread = Literal["group", "global", "none"]
EpsAt = Literal["std", "root", "floor"]
Then = Literal["nothing", "batch"]
Layout = Literal["any", "equal", "contiguous"]


@dataclass(frozen=True)
class AdvantageConvention:
    """What an advantage estimator declares about itself.

    Attributes:
        mean: what is subtracted: the mean of the ``"group"`` (default), of all rewards (``"global"``), or of the
            group's ``"others"``, as RLOO does.
        std: of the ``"group"`` (default), of all rewards (``"global"``), or ``"none"``: centred only.
        unbiased: the standard deviation divides by n − 1; by n by default.
        eps: keeps the divisor from 0 (default 1e-4).
        eps_at: where: added to the ``"std"`` (default), added to the variance under the ``"root"``, or as a ``"floor"``
            of the standard deviation, max(s, ε).
        trim: the share of a group's lowest rewards, and of its highest ones, that its mean and standard deviation leave
            out (default 0), rounded down to whole rewards.
        columns: how often each reward stands in the table whose standard deviation is taken, once a time step for
            instance (default 1); it matters to the unbiased one alone.
        then: ``"batch"`` where the advantages are standardised once more, over all of them, as GDPO does; ``"nothing"``
            (default).
        clamp: the advantage is clamped to ± this; ``None`` (default): it isn't.
        layout: groups in ``"any"`` order and of any sizes (default), ``"equal"`` in size, or ``"contiguous"`` and
            equal.
        working_dtype: the precision that it works in, in which it is also given the rewards; ``None``: float64.
        smallest_group: 1 (default), or 2 where no group has one member, whose unbiased standard deviation is 0/0.
    """

    mean: Centre = "group"
    std: Spread = "group"
    unbiased: bool = False
    eps: float = 1e-4
    eps_at: EpsAt = "std"
    trim: float = 0.0
    columns: int = 1
    then: Then = "nothing"
    clamp: float | None = None
    layout: Layout = "any"
    working_dtype: DtypeName | None = None
    smallest_group: int = 1


@dataclass(frozen=True)
class Subject:
    """A function, and the requirement that it is compared with: the declared one, or one with a named mistake."""

    function: Callable[[Tensor, Tensor], Tensor]
    name: str
    convention: AdvantageConvention
    seed: int
    mistake: str = ""

    @property
    def dtype(self) -> torch.dtype:
        return working(self.convention.working_dtype)

    def rewards(self, n: int, seed: int = 0) -> Tensor:
        """Rewards of size 1, some groups' far from 0, (N,)."""
        g = torch.Generator().manual_seed(1_013 * self.seed + seed)
        return (0.3 * torch.randn(n, generator=g, dtype=torch.float64) + 0.8).to(self.dtype)

    def equal_groups(self, seed: int = 0, outlier: bool = False, narrow: bool = False) -> tuple[Tensor, Tensor]:
        """Five contiguous groups of six, each around a mean of its own.

        With ``outlier``, one reward is far off; with ``narrow``, a group's rewards differ by about ε.
        """
        ids = torch.arange(5).repeat_interleave(6)
        rewards = self.rewards(30, seed) + 0.5 * ids
        if narrow:
            rewards = 0.5 * ids + 1e-3 * (0.05 + 0.5 * ids) * rewards
        if outlier:
            rewards[3] += 40.0
        return rewards.to(self.dtype), ids

    def rare_groups(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Equal contiguous groups that no ordinary batch holds: one of equal rewards beside others, rewards of 0 and 1,
        spreads about ε and its root around 0 (where every precision shows what ε is added to), and large groups with
        rewards far off, whose advantages reach √(n − 1)."""
        ids = torch.arange(5).repeat_interleave(6)
        constant = self.rewards(30, 20) + 0.5 * ids
        constant[12:18] = 0.5  # a mean that is exact
        yield constant.to(self.dtype), ids
        yield (self.rewards(30, 21) > 0.9).to(self.dtype), ids
        eps = self.convention.eps
        for spread in {1e-3, 2.0, *([math.sqrt(eps), 3 * eps] if eps else [])}:
            yield (spread * (self.rewards(30, 22).double() - 0.8)).to(self.dtype), ids
        large = torch.arange(2).repeat_interleave(400)
        rewards = self.rewards(800, 23).double()
        rewards[3], rewards[700], rewards[9] = 3e3, -4e3, rewards[:400].mean()
        yield rewards.to(self.dtype), large

    def call(self, rewards: Tensor, ids: Tensor, elsewhere: int = 0) -> Tensor:
        """Call the function on copies; the advantages, (N,), in float64."""
        given = {"rewards": rewards.clone(), "group_ids": ids.clone()}
        with calling(self.name, self.seed, elsewhere):
            found = self.function(given["rewards"], given["group_ids"])
            unchanged({"rewards": rewards, "group_ids": ids}, given)
            return tensor_result(found, tuple(rewards.shape), "the advantage").detach().to(torch.float64)

    def outputs(self, h: float) -> list[Tensor]:
        """The advantages of one batch whose rewards are scaled by 1 + h."""
        rewards, ids = self.equal_groups()
        return [self.call(rewards * (1 + h), ids)]

    def required(self, rewards: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        r"""The advantages and their error scale, (N,).

        The mean of n numbers up to M is off by at most (2 + log₂ n) u M, and so is what is left of a reward; a
        standard deviation s, in one pass over the squares or two, by as much times (1 + M/s).
        """
        r = rewards.to(torch.float64)
        r = _ranks(r, ids) if self.mistake == "ranks" else r
        mean, std = self._statistics(r, ids)
        value, scale = self._standardised(r, torch.zeros_like(r), mean, std)
        if self.mistake in OTHER_RESULTS:
            size = (ids[:, None] == ids).sum(1)
            value = OTHER_RESULTS[self.mistake](r, mean, std, size, self.convention.eps)
            scale = scale * (1 + std + self.convention.eps) ** 2 + value.abs()  # one of them multiplies by it
        if self.convention.then == "batch":
            # what nobody can judge, 0/0, is taken for the 0 that it is in code that guards against it
            known = scale.isfinite()
            value = torch.where(known, value, 0.0)
            own = replace(self.convention, mean="global", std="global", trim=0.0, columns=1)
            again = replace(self, convention=own, mistake="")
            off = torch.where(known, scale, 0.0)
            value, scale = again._standardised(value, off, *again._statistics(value, torch.zeros_like(ids)))
            scale = torch.where(known, scale, torch.inf)
        return self.clamped(value), scale

    def _standardised(self, r: Tensor, off: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of which each may be off by so much, less their mean and over their divisor, with error scales.

        Numbers that are off by up to e have a mean that is, and a standard deviation that is off by √2 e at most.
        """
        growth = 4 + 2 * math.log2(max(r.numel(), 2))
        growth = 2 * growth if self.convention.mean == "others" else growth  # n/(n − 1) times as much
        before = float(off.max())
        centred = r - mean
        divisor = self._divisor(std)
        value = centred / divisor
        size = r.abs().max()
        lost = growth * size * (1 + torch.where(std > 0, size / std.clamp(min=1e-300), 0.0)) + 1.5 * before
        scale = (growth * size + 2 * before + value.abs() * (lost + std)) / divisor + value.abs()
        return value, torch.where(divisor > 0, scale, torch.inf)

    def divisor(self, rewards: Tensor, ids: Tensor) -> Tensor:
        """What the centred rewards are divided by, (N,)."""
        return self._divisor(self._statistics(rewards.to(torch.float64), ids)[1])

    def numbers_seen(self) -> dict[str, float]:
        """An ε, or a clamp, that explains what the function returns on one batch: each to six digits."""
        *_, (rewards, ids) = self.rare_groups()  # whose advantages are the largest
        found = self._clamp_seen(rewards, ids, self.call(rewards, ids))
        rewards, ids = self.equal_groups(3, outlier=True)
        seen, r = self.call(rewards, ids), rewards.to(torch.float64)
        mean, std = self._statistics(r, ids)
        told = seen.abs() > 1e-3
        added = ((r - mean) / seen - std)[told]
        if self.convention.std != "none" and len(added) > 1 and float(added.std()) < 1e-6 * float(added.abs().mean()):
            found["eps"] = float(f"{float(added.mean()):.6g}")
        return found

    def _clamp_seen(self, rewards: Tensor, ids: Tensor, seen: Tensor) -> dict[str, float]:
        largest = float(seen.abs().max())
        free = replace(self, convention=replace(self.convention, clamp=None))
        beyond = free.required(rewards, ids)[0].abs() > 1.001 * largest
        piled = bool(beyond.any()) and bool((seen.abs()[beyond] == largest).all())
        return {"clamp": float(f"{largest:.6g}")} if piled else {}

    def clamped(self, advantages: Tensor) -> Tensor:
        limit = self.convention.clamp
        return advantages if limit is None else advantages.clamp(-limit, limit)

    def _statistics(self, r: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What is subtracted from each sample, and each one's standard deviation, (N,)."""
        groups = [torch.nonzero(ids == i).flatten() for i in sorted(set(ids.tolist()))]
        mean, std = torch.zeros_like(r), torch.zeros_like(r)
        for members in groups:
            counted = self._trimmed(r[members])
            mean[members], std[members] = counted.mean(), self._std(counted)
            if self.convention.mean == "others" and len(members) > 1:
                mean[members] = (r[members].sum() - r[members]) / (len(members) - 1)
            if self.mistake in OTHER_STATISTICS:
                mean[members], std[members] = OTHER_STATISTICS[self.mistake](r[members])
        if self.mistake in ACROSS_GROUPS:
            first = torch.stack([members[0] for members in groups])
            divisors = ACROSS_GROUPS[self.mistake](mean[first], std[first])
            for members, divisor in zip(groups, divisors, strict=True):
                std[members] = divisor
        if self.mistake == "std-of-first-group":
            std = self._std(r[ids == ids.min()]).expand_as(r)
        if self.mistake == "strided" and len({len(m) for m in groups}) == 1:
            table = r.reshape(-1, len(groups))
            mean, std = table.mean(0).repeat(len(table)), table.std(0, correction=0).repeat(len(table))
        if self.mistake == "wrong-axis" and len({len(m) for m in groups}) == 1:
            table = r.reshape(len(groups), -1)
            mean, std = table.mean(0).repeat(len(groups)), table.std(0, correction=0).repeat(len(groups))
        if self.mistake == "std-of-centred":
            return mean, self._std(r - mean).expand_as(r)
        std = {"global": self._std(r).expand_as(r), "none": torch.ones_like(r)}.get(self.convention.std, std)
        if self.convention.mean == "global":
            mean = r.mean().expand_as(r)
        return torch.zeros_like(r) if self.mistake == "mean-missing" else mean, std

    def _trimmed(self, r: Tensor) -> Tensor:
        count = math.floor(self.convention.trim * r.numel() + 1e-9)
        return r.sort().values[count : r.numel() - count] if count else r

    def _std(self, r: Tensor) -> Tensor:
        if r.numel() < 2:
            return r.new_zeros(())
        counted = r.numel() * self.convention.columns
        unbiased = math.sqrt(counted / (counted - 1)) if self.convention.unbiased else 1.0
        return r.std(correction=0) * unbiased

    def _divisor(self, std: Tensor) -> Tensor:
        eps = self.convention.eps
        if self.convention.std == "none":
            return std
        forms = {"root": (std**2 + eps).sqrt(), "floor": std.clamp(min=eps), "std": std + eps}
        return std**2 + eps if self.mistake == "variance" else forms[self.convention.eps_at]


def _ranks(r: Tensor, ids: Tensor) -> Tensor:
    """Each reward's place in its group, by size."""
    out = torch.zeros_like(r)
    for i in set(ids.tolist()):
        out[ids == i] = r[ids == i].argsort().argsort().to(r)
    return out
