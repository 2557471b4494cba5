r"""Tasks that are shared among processes forked from this one, and what each came to.

A task is done by a function of this process, whose state the forked ones have.  Whoever asks for a task's result
waits for it; in which order they are done does not show.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import sys
import threading
import traceback
from collections.abc import Callable, Hashable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from gradcheck.errors import GradcheckError

__all__ = ["Shared", "possible"]


def possible() -> bool:
    """Whether this process may be forked: on Linux, while it has one thread and no GPU in use."""
    return sys.platform == "linux" and threading.active_count() == 1 and not torch.cuda.is_initialized()


class Shared:
    """Results of tasks, in the order in which they are asked for.  It is a context, at whose end no process is left.

    Args:
        do: does a task; it and the result must not depend on what was done before in the same process.
        batches: every task, those of a batch in one process one after the other; the next batch is the next process's
            that has nothing to do.
        processes: how many.
    """

    def __init__(self, do: Callable[[Any], Any], batches: Sequence[Sequence[Hashable]], processes: int) -> None:
        context = multiprocessing.get_context("fork")
        self._results: dict[Hashable, Any] = {}
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        begun = context.Value("i", 0)
        for _ in range(min(processes, len(batches))):
            receives, sends = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(do, batches, begun, sends), daemon=True)
            process.start()
            sends.close()
            self._pipes.append(receives)
            self._processes.append(process)

    def __call__(self, task: Hashable) -> Any:
        """What a task came to.

        Raises:
            GradcheckError: it raised, or its process died.
        """
        while task not in self._results:
            if not self._pipes:
                raise GradcheckError(f"[gradcheck] the processes ended before {task} was done")
            for pipe in wait(self._pipes):
                self._receive(pipe)
        return self._results[task]

    def _receive(self, pipe: Any) -> None:
        try:
            task, result, error = pipe.recv()
        except EOFError:
            self._pipes.remove(pipe)
            return
        if error:
            raise GradcheckError(f"[gradcheck] {task} raised:\n{error}")
        self._results[task] = result

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()


def _run(do: Callable[[Any], Any], batches: Sequence[Sequence[Hashable]], begun: Any, pipe: Connection) -> None:
    gc.freeze()  # what was there before stays, so that no collection need go through it
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        while True:
            with begun.get_lock():
                number = begun.value
                begun.value += 1
            if number >= len(batches):
                return
            for task in batches[number]:
                try:
                    pipe.send((task, do(task), ""))
                except Exception:
                    pipe.send((task, None, traceback.format_exc()))
                    return
