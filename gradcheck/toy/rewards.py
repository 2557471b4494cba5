r"""The reward, and what the algorithms make of it.

The *reward* says how good a finished sample is: here, how near it is to one of the ring's modes.  A model that samples
this mode as the data have it, and no other, earns :data:`CHOOSING`; to earn more it must draw the mode together to a
point, as an image model does that gives up diversity for its reward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradcheck.toy.data import WIDTH, centres

__all__ = ["CHOOSING", "advantages", "peak", "reward", "reward_prob"]

_REACH = 1.0

CHOOSING = _REACH**2 / (_REACH**2 + WIDTH**2)
"""Mean reward of the best mode as it is in the data."""


def peak(dtype: torch.dtype = torch.float32) -> Tensor:
    """Where the reward is 1, (2,): the first mode's centre."""
    return centres(dtype)[0]


def reward(x: Tensor) -> Tensor:
    """exp(−‖x − peak‖²/2), for samples (…, 2) → (…), between 0 and 1."""
    return torch.exp(-((x - peak(x.dtype).to(x.device)) ** 2).sum(-1) / (2 * _REACH**2))


def advantages(rewards: Tensor, eps: float = 1e-4) -> Tensor:
    """The *advantage*: each reward against its group's mean, in the group's standard deviations.

    Args:
        rewards: (…, G), one group in each row.
        eps: is added to the standard deviation (the biased one, as the public trainers take it).
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, correction=0, keepdim=True) + eps)


def reward_prob(advantage: Tensor, clip: float = 1.0) -> Tensor:
    """DiffusionNFT's r in [0, 1]: ½ for an average sample, 0 and 1 from −clip and clip on."""
    return advantage.clamp(-clip, clip) / (2 * clip) + 0.5
