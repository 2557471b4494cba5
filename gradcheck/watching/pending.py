"""A call between its forward and its backward pass."""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gradcheck.watching.faults import Checked
from gradcheck.watching.given import Given
from gradcheck.watching.lines import StepLine
from gradcheck.watching.step import Judgement
from gradcheck.watching.trainer import Arrivals, Parameters

__all__ = ["Pending", "goes_on", "network_dtype", "quiet", "untraced"]


class Pending:
    """A call whose gradient has not come yet."""

    def __init__(self, step: int, given: Given, output: weakref.ref[Tensor], arrivals: Arrivals) -> None:
        self.step, self.given, self.output, self.arrivals = step, given, output, arrivals
        self.parameters: Parameters | None = None
        self.hook: Any = None
        self.network_dtype: torch.dtype | None = None
        self.checks: list[Checked] = []
        self.judgement: Judgement | None = None
        self.line: StepLine | None = None
        self.part: Tensor | None = None
        self.length = 0.0
        self.seconds = 0.0
        self.goes_on = True


def goes_on(output: Tensor | None) -> bool:
    """Whether this backward pass goes on below the output: ``torch.autograd.grad`` with respect to it does not."""
    if output is None or output.grad_fn is None:
        return False
    nodes = [node for node, _ in output.grad_fn.next_functions if node is not None]
    try:
        return any(torch._C._will_engine_execute_node(node) for node in nodes)
    except (AttributeError, RuntimeError):
        return True


def network_dtype(output: Tensor) -> torch.dtype | None:
    """The precision of autocast, where it is on."""
    device = output.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


@contextlib.contextmanager
def quiet(gradient: Tensor) -> Iterator[None]:
    """No graph, no autocast, whatever the training has set."""
    device = gradient.device.type
    with torch.no_grad():
        if not torch.is_autocast_enabled(device):  # the context manager itself takes longer than a hundred products
            yield
            return
        with torch.autocast(device, enabled=False):
            yield


def untraced(function: Callable[..., None]) -> Callable[..., None]:
    """The same function, and nothing that it calls, traced by Dynamo, where that is at work."""
    if "torch._dynamo" not in sys.modules:
        return function
    return _disabled(function)


@lru_cache(maxsize=10)
def _disabled(function: Callable[..., None]) -> Callable[..., None]:
    found: Callable[..., None] = sys.modules["torch._dynamo"].disable(function)
    return found
