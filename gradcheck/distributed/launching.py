"""Starting the processes, for whoever does not call ``torchrun`` himself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gradcheck.distributed.processes import STATUS_FILE
from gradcheck.errors import InputError

__all__ = ["launch"]

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def launch(*targets: str, ranks: int = 2, options: Sequence[str] = ()) -> int:
    """Judge decorated steps on several processes of this machine, with ``torchrun`` on a free port.

    Args:
        targets: ``file.py``, ``file.py::step`` or ``package.module:step``.
        ranks: how many processes.
        options: of ``python -m gradcheck.distributed``, ``("--dtype", "float32")`` for instance.

    Returns:
        The exit status: 0 all conform, 1 one does not, 2 one could not be judged.

    Raises:
        InputError: no target, or no whole number of ranks from 1.
    """
    if not targets:
        raise InputError(("targets", "nothing", "file.py::step"))
    if not isinstance(ranks, int) or isinstance(ranks, bool) or ranks < 1:
        raise InputError(("ranks", repr(ranks), "a whole number from 1"))
    with tempfile.TemporaryDirectory() as folder:
        status = Path(folder) / "status"
        environment = {k: v for k, v in os.environ.items() if k not in _TORCHRUN and not k.startswith("TORCHELASTIC")}
        environment |= {STATUS_FILE: str(status), "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1")}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += ["-m", "gradcheck.distributed", *targets, *options]
        with subprocess.Popen(command, env=environment) as running:
            try:
                ended = running.wait()
            except BaseException:
                running.terminate()  # whereupon it ends the ranks, which it could not if it were killed
                running.wait()
                raise
        if status.is_file():
            return int(status.read_text())
        return 2 if ended else 0
