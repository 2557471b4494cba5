"""Children forked from this process, which have all that it has imported: whether they may be, and how they end."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import sys
import threading

__all__ = ["die_with_parent", "may_fork"]


def may_fork() -> bool:
    """Whether it is safe: the system forks, this process has one thread, and no GPU is in use in it."""
    torch = sys.modules.get("torch")
    alone = threading.active_count() == 1 and not (torch is not None and torch.cuda.is_initialized())
    return alone and "fork" in multiprocessing.get_all_start_methods() and sys.platform != "darwin"


def die_with_parent() -> None:
    """In a child: it is killed as soon as its parent has died, of whatever, where the system can do that."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
