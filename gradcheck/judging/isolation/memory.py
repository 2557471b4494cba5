r"""How much memory there is, and how much a process holds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["available_memory", "resident"]


def resident(process: int) -> int:
    """Bytes of memory that a process holds; 0 where the system does not say."""
    try:
        with open(f"/proc/{process}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def available_memory() -> float:
    """Bytes that are free for one child: most of what the machine, or the container, has left."""
    found = [float(1 << 40)]
    with contextlib.suppress(OSError, ValueError, IndexError):
        (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable"))
        found.append(float(line.split()[1]) * 1024)
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        found.append(float((folder / "memory.max").read_text()) - float((folder / "memory.current").read_text()))
    return 0.8 * max(min(found), float(1 << 28))
