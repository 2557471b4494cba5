"""Advantage estimators, with a switch for each mistake."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def make_advantage(
    *,
    std: Callable[[Tensor, Tensor], Tensor] = lambda own, everyone: own.std(correction=0),
    divide: Callable[[Tensor], Tensor] = lambda s: s + 1e-4,
    centre: Callable[[Tensor, Tensor], Tensor] = lambda own, everyone: own.mean(),
    sign: float = 1.0,
    clamp: float = math.inf,
) -> Callable[[Tensor, Tensor], Tensor]:
    """A loop over the groups, with a switch for each mistake."""

    def advantage(rewards: Tensor, group_ids: Tensor) -> Tensor:
        out = torch.empty_like(rewards)
        for i in set(group_ids.tolist()):
            own = rewards[group_ids == i]
            out[group_ids == i] = sign * (own - centre(own, rewards)) / divide(std(own, rewards))
        return out.clamp(-clamp, clamp)

    return advantage


def scattered(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """The same by scatter_add, in one pass over the squares."""
    _, index = torch.unique(group_ids, return_inverse=True)
    count = torch.bincount(index).to(rewards.dtype)
    mean = torch.zeros_like(count).scatter_add(0, index, rewards) / count
    square = torch.zeros_like(count).scatter_add(0, index, rewards**2) / count
    std = (square - mean**2).clamp(min=0).sqrt()
    return (rewards - mean[index]) / (std[index] + 1e-4)


def reshaped(rewards: Tensor, group_ids: Tensor) -> Tensor:
    table = rewards.reshape(len(set(group_ids.tolist())), -1)
    return ((table - table.mean(1, keepdim=True)) / (table.std(1, correction=0, keepdim=True) + 1e-4)).flatten()


def wrong_axis(rewards: Tensor, group_ids: Tensor) -> Tensor:
    table = rewards.reshape(len(set(group_ids.tolist())), -1)
    return ((table - table.mean(0)) / (table.std(0, correction=0) + 1e-4)).flatten()


def unbiased_std(own: Tensor, everyone: Tensor) -> Tensor:
    return own.std() if len(own) > 1 else own.new_zeros(())


def tiny_eps(rewards: Tensor, group_ids: Tensor) -> Tensor:
    return make_advantage(divide=lambda s: s + 1e-8)(rewards, group_ids)


def writes(rewards: Tensor, group_ids: Tensor) -> Tensor:
    found = make_advantage()(rewards, group_ids)
    rewards.zero_()
    return found


def others_mean(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """RLOO's: each reward less the mean of the group's others."""
    same = (group_ids[:, None] == group_ids).to(rewards) - torch.eye(len(rewards)).to(rewards)
    count = same.sum(1)
    return torch.where(count > 0, rewards - same @ rewards / count.clamp(min=1), 0.0)


def trimmed(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """Mean and standard deviation without the best and the worst fifth of each group."""
    out = torch.empty_like(rewards)
    for i in set(group_ids.tolist()):
        own = rewards[group_ids == i]
        cut = len(own) // 5
        inner = own.sort().values[cut : len(own) - cut]
        out[group_ids == i] = (own - inner.mean()) / (inner.std(correction=0) + 1e-4)
    return out


def twice(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """GDPO's: standardised in each group, and once more over the batch."""
    first = make_advantage()(rewards, group_ids)
    return (first - first.mean()) / (first.std(correction=0) + 1e-4)


def only_equal(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same, which refuses groups of different sizes."""

    def advantage(rewards: Tensor, group_ids: Tensor) -> Tensor:
        if len(set(torch.unique(group_ids, return_counts=True)[1].tolist())) > 1:
            raise ValueError("groups differ in size")
        return function(rewards, group_ids)

    return advantage


def floor(rewards: Tensor, group_ids: Tensor) -> Tensor:
    return make_advantage(divide=lambda s: s.clamp(min=1e-4))(rewards, group_ids)


def root(rewards: Tensor, group_ids: Tensor) -> Tensor:
    return make_advantage(divide=lambda s: (s**2 + 1e-4).sqrt())(rewards, group_ids)


def from_everyone(rewards: Tensor, group_ids: Tensor) -> Tensor:
    """One mean and one standard deviation over all rewards, as REINFORCE++ does."""
    return (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-4)
