"""An advantage estimator beside what it declares, and the values that this requires."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradcheck.oracle.parts._calls import calling, tensor_result, unchanged, working

__all__ = ["AdvantageConvention", "Subject"]


@dataclass(frozen=True)
class AdvantageConvention:
    """What an advantage estimator declares about itself.

    Attributes:
        std: of the ``"group"`` (default), of all rewards (``"global"``), or ``"none"``: centred only.
        unbiased: the standard deviation divides by n − 1; by n by default.
        eps: added to the standard deviation (default 1e-4).
        clamp: the advantage is clamped to ± this; ``None`` (default): it isn't.
        layout: groups in ``"any"`` order and of any sizes (default), or ``"contiguous"`` and equal.
        working_dtype: the precision that it works in, in which it is also given the rewards; ``None``: float64.
        smallest_group: 1 (default), or 2 where no group has one member, whose unbiased standard deviation is 0/0.
    """

    std: str = "group"
    unbiased: bool = False
    eps: float = 1e-4
    clamp: float | None = None
    layout: str = "any"
    working_dtype: str | None = None
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

    def call(self, rewards: Tensor, ids: Tensor) -> Tensor:
        """Call the function on copies; the advantages, (N,), in float64."""
        given = {"rewards": rewards.clone(), "group_ids": ids.clone()}
        with calling(self.name, self.seed):
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
        mean, std = self._statistics(r, ids)
        growth = 4 + 2 * math.log2(max(r.numel(), 2))
        centred = r - {"mean-global": r.mean(), "mean-missing": torch.zeros_like(r)}.get(self.mistake, mean)
        divisor = self._divisor(std)
        value = (-centred if self.mistake == "sign" else centred) / divisor
        size = r.abs().max()
        off = growth * size * (1 + torch.where(std > 0, size / std.clamp(min=1e-300), 0.0))
        scale = (growth * size + value.abs() * (off + std)) / divisor + value.abs()
        scale = torch.where(divisor > 0, scale, torch.inf)
        return self.clamped(value), scale

    def divisor(self, rewards: Tensor, ids: Tensor) -> Tensor:
        """What the centred rewards are divided by, (N,)."""
        return self._divisor(self._statistics(rewards.to(torch.float64), ids)[1])

    def clamped(self, advantages: Tensor) -> Tensor:
        limit = self.convention.clamp
        return advantages if limit is None else advantages.clamp(-limit, limit)

    def _statistics(self, r: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Each sample's mean and standard deviation, (N,)."""
        groups = [torch.nonzero(ids == i).flatten() for i in set(ids.tolist())]
        mean, std = torch.zeros_like(r), torch.zeros_like(r)
        for members in groups:
            mean[members], std[members] = r[members].mean(), self._std(r[members])
        if self.mistake == "wrong-axis" and len({len(m) for m in groups}) == 1:
            table = r.reshape(len(groups), -1)
            mean, std = table.mean(0).repeat(len(groups)), table.std(0, correction=0).repeat(len(groups))
        if self.mistake == "std-of-centred":
            return mean, self._std(r - mean).expand_as(r)
        return mean, {"global": self._std(r).expand_as(r), "none": torch.ones_like(r)}.get(self.convention.std, std)

    def _std(self, r: Tensor) -> Tensor:
        return r.std(correction=int(self.convention.unbiased)) if r.numel() > 1 else r.new_zeros(())

    def _divisor(self, std: Tensor) -> Tensor:
        eps = self.convention.eps
        if self.convention.std == "none":
            return std
        forms = {"variance": std**2 + eps, "eps-in-root": (std**2 + eps).sqrt(), "eps-floor": std.clamp(min=eps)}
        return forms.get(self.mistake, std + eps)
