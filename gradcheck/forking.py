"""Whether children may be forked from this process, which then have all that it has imported."""

from __future__ import annotations

import multiprocessing
import sys
import threading

__all__ = ["may_fork"]


def may_fork() -> bool:
    """Whether it is safe: the system forks, this process has one thread, and no GPU is in use in it."""
    torch = sys.modules.get("torch")
    alone = threading.active_count() == 1 and not (torch is not None and torch.cuda.is_initialized())
    return alone and "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"
