r"""Tasks that are shared among processes forked from this one, and what each came to."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from gradcheck.errors import GradcheckError
from gradcheck.forking import die_with_parent

__all__ = ["Shared"]


class Shared:
    """Results of tasks, in the order in which they are asked for.  It is a context, at whose end no process is left.

    Args:
        do: does a task in a process that has this one's state; it and the result must not depend on what was done
            before in the same process.
        batches: every task, those of a batch in one process one after the other; the next batch is the next process's
            that has nothing to do.
        processes: how many.
    """

    def __init__(self, do: Callable[[Any], Any], batches: Sequence[Sequence[Hashable]], processes: int) -> None:
        # what the initializer is given is forked and not pickled, so that it may be any function
        self._executor = ProcessPoolExecutor(
            min(processes, len(batches)), multiprocessing.get_context("fork"), initializer=_begin, initargs=(do,)
        )
        self._found: dict[Hashable, tuple[Future[list[Any]], int]] = {}
        others = multiprocessing.active_children()
        try:
            for batch in batches:
                future = self._executor.submit(_done, batch)
                self._found.update({task: (future, i) for i, task in enumerate(batch)})
        finally:
            self._processes = [one for one in multiprocessing.active_children() if one not in others]
            if len(self._found) < sum(map(len, batches)):  # the system lets no more processes begin
                self._end()

    def __call__(self, task: Hashable) -> Any:
        """What a task came to; what it raised is raised here.

        Raises:
            GradcheckError: its process died.
        """
        future, place = self._found[task]
        try:
            return future.result()[place]
        except BrokenProcessPool:
            raise GradcheckError(f"[gradcheck] the processes ended before {task} was done") from None

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._executor.shutdown(cancel_futures=True)
        else:
            self._end()

    def _end(self) -> None:
        """End at once: nobody asks for what is still being done, which may take minutes."""
        for process in self._processes:
            process.kill()
        self._executor.shutdown(cancel_futures=True)


_do: Callable[[Any], Any]


def _begin(do: Callable[[Any], Any]) -> None:
    global _do
    _do = do
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal interrupts all of them, and the first one ends the rest
    for number in (signal.SIGTERM, signal.SIGHUP):  # of which the first one may have made exceptions
        signal.signal(number, signal.SIG_DFL)
    gc.freeze()  # what was there before stays, so that no collection need go through it


def _done(batch: Sequence[Hashable]) -> list[Any]:
    return [_do(task) for task in batch]
