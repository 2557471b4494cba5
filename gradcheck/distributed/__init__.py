r"""Trainers on many processes, judged at the parameters: sharded batches, accumulation, averaged gradients.

However a trainer shards a batch over ranks, accumulates micro-batches and averages gradients (DDP, FSDP2, by hand),
what its optimiser receives must be the gradient of the loss on the global batch,

.. math:: \nabla_\theta \mathcal{L} = \sum_i c_i\, J_i^{\mathsf T} g_i, \qquad
          J_i = \partial v_\theta(x_i, t_i)/\partial\theta,

with the derived gradient g_i of every sample and the weights c_i of the declared reduction: 1/B for the mean over a
global batch of B samples, wherever each of them lies.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradcheck.distributed.declaration import Declaration, Trainer
    from gradcheck.distributed.judging import judge
    from gradcheck.distributed.launching import launch
    from gradcheck.distributed.network import VelocityMLP
    from gradcheck.distributed.problems import Shard
    from gradcheck.doors.trainers import conforms

__all__ = ["Declaration", "Shard", "Trainer", "VelocityMLP", "conforms", "judge", "launch"]

_WHERE = {
    "Declaration": "gradcheck.distributed.declaration",
    "Shard": "gradcheck.distributed.problems",
    "Trainer": "gradcheck.distributed.declaration",
    "VelocityMLP": "gradcheck.distributed.network",
    "conforms": "gradcheck.doors.trainers",
    "judge": "gradcheck.distributed.judging",
    "launch": "gradcheck.distributed.launching",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that the command line need not wait for torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'gradcheck.distributed' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_WHERE[name]), name)
