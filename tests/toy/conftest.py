"""A base model that is good enough to be improved, trained once for all tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradcheck.toy.pretraining import pretrain


@pytest.fixture(scope="session")
def base() -> list[Tensor]:
    """A small network in float64, so that rounding is far below what the tests look for."""
    return [p.to(torch.float64) for p in pretrain(800, batch=256, hidden=(32, 32))]
