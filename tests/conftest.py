"""Settings of the test run: hypothesis profiles, one thread, and the CUDA devices that there are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, settings

_EXAMPLES = 30
_COMMON = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.differing_executors],
}
settings.register_profile("dev", max_examples=_EXAMPLES, **_COMMON)
settings.register_profile("ci", max_examples=_EXAMPLES, derandomize=True, database=None, **_COMMON)
settings.register_profile("deep", max_examples=100 * _EXAMPLES, database=None, **_COMMON)
settings.load_profile("dev")

torch.set_num_threads(1)  # small tensors, and one worker for each core

CUDA = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")],
)


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> str:
    """Each device that there is; CUDA is skipped, visibly, where there is none."""
    return str(request.param)
