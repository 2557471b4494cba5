"""The processes of one run: who they are, what they agree on, and what becomes of one that raises or hangs.

Each rank tells a store of our own what became of its call of the step, beside the trainer's collectives.  While a call
runs, a thread watches that store: where another rank has failed, or the time is up, this one may be waiting in a
collective for ever, and no signal reaches it there; so every rank says where it is, rank 0 tells it, and all end.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from gradcheck.errors import GradcheckError, InputError
from gradcheck.judging.adapter import AdapterError, NotCheckedError, problem_of
from gradcheck.judging.isolation.limits import TimeUp, time_limit
from gradcheck.judging.isolation.state import State
from gradcheck.judging.isolation.words import frame_place, place, said, users_own

__all__ = ["STATUS_FILE", "Processes", "processes", "write_status"]

STATUS_FILE = "GRADCHECK_STATUS_FILE"
"""Environment variable: a file into which rank 0 writes the exit status, since torchrun makes 1 of every other."""

_GRACE = 3.0  # seconds that other ranks have to end their calls by themselves after one has failed
_POLL = 0.05
_SETTLE = 0.05  # gloo's thread needs the interpreter to let go of the last message, and torch 2.6 waits for it for ever

T = TypeVar("T")


@contextlib.contextmanager
def processes(cuda: bool, timeout: float) -> Iterator[Processes]:
    """Join the process group that ``torchrun`` describes (or one of a single process), or take the one there is.

    Args:
        cuda: also with NCCL, each rank on its own GPU.
        timeout: seconds that one call of a step may take.
    """
    own = not dist.is_initialized()
    if own:
        limit = datetime.timedelta(seconds=timeout + 60)  # ours comes first, with a better message
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend, timeout=limit)
        else:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=limit)
    try:
        yield Processes.meet(timeout)
    finally:
        if own:
            time.sleep(_SETTLE)
            dist.destroy_process_group()


@dataclass
class Processes:
    """The ranks of this run.

    Attributes:
        rank, size: this process's, and how many there are.
        timeout: seconds that one call may take.
        group: for our own messages, beside the trainer's.
        store, watch: connections to the store that tells what became of each call; one for each thread.
        calls: so far.
        failing: call → when this rank first saw that another had failed in it.
    """

    rank: int
    size: int
    timeout: float
    group: Any
    store: Store
    watch: Store
    calls: int = 0
    failing: dict[int, float] = field(default_factory=dict)

    @classmethod
    def meet(cls, timeout: float) -> Processes:
        """Collective: open the store and the group."""
        rank, size = dist.get_rank(), dist.get_world_size()
        if size == 1:
            alone = HashStore()
            return cls(rank, size, timeout, None, alone, alone)
        group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=10 * timeout + 600))
        host = os.environ.get("MASTER_ADDR", "localhost")
        server = TCPStore(host, 0, is_master=True, wait_for_workers=False) if rank == 0 else None
        port = [server.port if server is not None else 0]
        dist.broadcast_object_list(port, src=0, group=group)
        store = server or TCPStore(host, port[0], is_master=False)
        return cls(rank, size, timeout, group, store, TCPStore(host, port[0], is_master=False))

    def agreed(self, work: Callable[[], T]) -> T:
        """Collective: rank 0's result, or its exception, on every rank."""
        found = self.on_rank_0(work)
        if self.size == 1:
            return found  # type: ignore[return-value]
        box = [found]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]  # type: ignore[return-value]

    def on_rank_0(self, work: Callable[[], T]) -> T | None:
        """Collective: rank 0's result there, and ``None`` elsewhere; its exception on every rank."""
        if self.size == 1:
            return work()
        result: T | None = None
        box: list[Any] = [(), ""]
        if self.rank == 0:
            try:
                result = work()
            except InputError as error:
                box = [error.problems, ""]
            except Exception as error:
                mine = isinstance(error, GradcheckError)
                box = [(), str(error) if mine else "".join(traceback.format_exception(error))]
        dist.broadcast_object_list(box, src=0, group=self.group)
        if box[0]:
            raise InputError(*box[0])
        if box[1]:
            raise GradcheckError(box[1])
        return result

    def gathered(self, value: T) -> list[T]:
        """Collective: every rank's value, on every rank."""
        values: list[Any] = [None] * self.size
        if self.size == 1:
            return [value]
        dist.all_gather_object(values, value, group=self.group)
        return values

    def call(self, name: str, work: Callable[[], Any]) -> tuple[Any, str]:
        """Collective: call a stranger's code on every rank; what it returned, and what it printed.

        Raises:
            AdapterError: it raised on some rank.  Where other ranks wait for that one for ever, or nobody ends in
                time, every process ends with status 2 instead.
        """
        self.calls += 1
        over = threading.Event()
        caller = threading.get_ident()
        watcher = threading.Thread(target=self._watch, args=(name, over, caller), daemon=True)
        start = time.monotonic()
        printed = io.StringIO()
        result, failure = None, ""
        limit = time_limit(self.timeout) if self.size == 1 else contextlib.nullcontext()
        if self.size > 1:
            watcher.start()
        try:
            with contextlib.redirect_stdout(printed), _apart(), limit:
                result = work()
        except (AdapterError, TimeUp) as error:
            failure = f"gave up: {error}"
        except BaseException as error:
            found = problem_of(error, name)  # which raises what ends the whole run
            if self.size == 1 and isinstance(found, NotCheckedError):
                raise found from error
            failure = f"raised {said(error)}{place(error)}"
        over.set()
        if self.size > 1:
            watcher.join()
        self.store.set(self._key("end"), failure or "returned")
        pause = _POLL / 50  # ranks end at almost the same time
        while not self.store.check([self._key("end", r) for r in range(self.size)]):
            self._give_up_if_stuck(name, self.store, start, lambda: failure or "has returned")
            time.sleep(pause)
            pause = min(2 * pause, _POLL)
        ends = [self.store.get(self._key("end", r)).decode() for r in range(self.size)]
        failed = [f"rank {r} {text}" for r, text in enumerate(ends) if text != "returned"]
        if failed:
            alike = len(set(ends)) == 1 and self.size > 1
            raise AdapterError(f"every rank {ends[0]}" if alike else "; ".join(failed))
        return result, printed.getvalue()

    def _key(self, what: str, rank: int | None = None) -> str:
        return f"{self.calls}/{self.rank if rank is None else rank}/{what}"

    def _watch(self, name: str, over: threading.Event, caller: int) -> None:
        start = time.monotonic()
        while not over.wait(_POLL):
            self._give_up_if_stuck(name, self.watch, start, lambda: f"is{_where(caller)}")

    def _give_up_if_stuck(self, name: str, store: Store, start: float, here: Callable[[], str]) -> None:
        """End all processes, if one has failed and this one does not come after, or if the time is up."""
        late = time.monotonic() - start > self.timeout
        ends = [self._key("end", r) for r in range(self.size)]
        failed = [r for r in range(self.size) if store.check([ends[r]]) and store.get(ends[r]) != b"returned"]
        since = self.failing.setdefault(self.calls, time.monotonic()) if failed else math.inf
        if not late and time.monotonic() - since < _GRACE:
            return
        store.set(self._key("at"), here())
        told = self._key("told", 0)
        if self.rank == 0:
            print(f"[gradcheck] {name} could not be judged: {self._account(store, late)}", file=sys.stderr, flush=True)
            write_status(2)
            store.set(told, "1")
            time.sleep(0.5)  # the store ends with this process
        else:
            _until(lambda: bool(store.check([told])), 10.0)
        os._exit(0 if STATUS_FILE in os.environ else 2)

    def _account(self, store: Store, late: bool) -> str:
        """Where every rank is."""

        def known(r: int) -> bool:
            return bool(store.check([self._key("at", r)])) or bool(store.check([self._key("end", r)]))

        _until(lambda: all(map(known, range(self.size))), 3.0)
        parts = []
        for r in range(self.size):
            ended = store.check([self._key("end", r)])
            text = "does not answer"
            if ended:
                text = store.get(self._key("end", r)).decode()
            elif store.check([self._key("at", r)]):
                text = store.get(self._key("at", r)).decode()
            parts.append(f"rank {r} {'has returned' if text == 'returned' else text}")
        head = f"one step took longer than {self.timeout:g} s: " if late else ""
        return head + "; ".join(parts)


def write_status(status: int) -> None:
    """Tell the launcher."""
    file = os.environ.get(STATUS_FILE)
    if file and int(os.environ.get("RANK", "0")) == 0:
        Path(file).write_text(str(status))


def _until(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(_POLL)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """The step's random numbers and settings, apart from ours."""
    random, state = torch.get_rng_state(), State.now()
    try:
        yield
    finally:
        state.restore()
        torch.set_rng_state(random)


def _where(thread: int) -> str:
    frame = sys._current_frames().get(thread)
    if frame is None:
        return " gone"
    where = frame_place(frame)
    if not where:
        return " outside the step"
    inside = "" if users_own(frame.f_code.co_filename) else f", in {frame.f_code.co_name}"
    return f" at {where.strip(' ()')}{inside}"
