r"""Watching a child process from outside: its results, its time, its memory, and how it ended."""

from __future__ import annotations

import contextlib
import io
import mmap
import multiprocessing
import os
import pickle
import re
import signal
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from gradcheck.forking import may_fork
from gradcheck.judging.isolation.child import CLOSED, HEAD, MAGIC, Job, run
from gradcheck.judging.isolation.limits import overdue
from gradcheck.judging.isolation.memory import resident
from gradcheck.judging.isolation.words import plain, users_own

__all__ = ["POLL", "Child", "possible"]

POLL = 0.05
"""Seconds between two looks at a process that sends nothing."""

_GRACE = 0.5  # seconds that a process has to say where it hangs
_MOST_PRINTED = 10_000
_MOST_SENT = 1 << 30


def possible() -> bool:
    """Whether this system can watch a process as is done here."""
    return os.name == "posix"


def _context() -> Any:
    """How to start a child.

    The command line's own process imports torch and this package and does nothing else, so it is itself the server
    that children are forked from; a process with threads or CUDA of its own asks multiprocessing's.
    """
    if may_fork():
        return multiprocessing.get_context("fork")
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["gradcheck.doors.checking"])
        return context
    return multiprocessing.get_context("spawn")


def _clock(context: Any) -> Any:
    """One number that this process and its child share: of a file only where the child does not inherit memory."""
    if context.get_start_method() == "fork":
        return memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")
    return context.RawArray("d", 1)


@dataclass
class Child:
    """A job in a process of its own.

    Attributes:
        job: what it does.
        timeout: seconds that one call, or the import, may take.
        memory: bytes that it may hold beyond what it started with.
        name: how messages call it.
        printed: what it printed, cut, without escape sequences.
        reason: why it did not end as it should; empty if it did.
        pipes: where something may come from it, while it runs.
    """

    job: Job
    timeout: float
    memory: float
    name: str
    printed: str = ""
    reason: str = ""
    pipes: dict[Connection, bytearray] = field(default_factory=dict)
    _notes: bytearray = field(default_factory=bytearray)
    _output: bytearray = field(default_factory=bytearray)
    _dropped: int = 0
    _calling: bool = False

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Run it; what it sends, as it arrives.  Afterwards ``reason`` and ``printed`` are there."""
        with contextlib.closing(self.turns()) as turns:
            for message in turns:
                if message is None:
                    wait(list(self.pipes), POLL)
                else:
                    yield message

    def turns(self, siblings: Iterable[Child] = ()) -> Generator[tuple[Any, ...] | None, None, None]:
        """The same without waiting: ``None`` where nothing has come, so that one thread can watch several.

        Args:
            siblings: those that run already, whose pipes a process that is forked beside them must not have.
        """
        theirs = [pipe.fileno() for one in siblings for pipe in one.pipes]
        context = _context()
        clock = _clock(context)
        (results, sends), (printed, prints), (notes, writes) = (context.Pipe(duplex=False) for _ in range(3))
        forked = theirs if context.get_start_method() == "fork" else []  # other processes inherit no descriptors
        process = context.Process(target=run, args=(self.job, sends, prints, writes, clock, forked), daemon=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a library's idle threads
            process.start()
        for end in (sends, prints, writes):
            end.close()
        received = bytearray()
        self.pipes = {results: received, printed: self._output, notes: self._notes}
        try:
            yield from self._watched(process, clock, received)
        finally:
            self.pipes = {}
            _end(process)
            for pipe in (results, printed, notes):
                pipe.close()

    def _watched(self, process: Any, clock: Any, received: bytearray) -> Iterator[tuple[Any, ...] | None]:
        ended = False
        at_start = resident(process.pid)
        while not ended and not self.reason:
            gone = process.exitcode is not None
            self._read()
            while (message := self._message(received)) is not None:
                if message == ("end",):
                    ended = True
                else:
                    yield message
            if gone and not ended and not self.reason:
                self.reason = self._ended(process.exitcode)
            elif not ended and not self.reason:
                self.reason = self._too_much(process, clock, at_start)
                yield None
        self._read()
        copies = re.findall(r"^fork(.*)$", bytes(self._notes).decode(errors="replace"), re.MULTILINE)
        if b"copied\n" in self._notes and not self.reason:
            self.reason = (
                f"a copy of the process, made by fork(), returned from the call too{copies[-1] if copies else ''}"
            )
        text = bytes(self._output).decode("utf-8", errors="backslashreplace")
        dropped = f"\n… and {self._dropped} more characters\n" if self._dropped else ""
        self.printed = plain(text) + dropped

    def _read(self) -> None:
        """What there is to read now."""
        for pipe in wait(list(self.pipes), 0.0):
            assert isinstance(pipe, Connection)
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                del self.pipes[pipe]
            elif self.pipes[pipe] is self._output:
                room = max(_MOST_PRINTED - len(self._output), 0)
                self._output += data[:room]
                self._dropped += len(data[room:])
            else:
                self.pipes[pipe] += data

    def _message(self, received: bytearray) -> tuple[Any, ...] | None:
        """The next complete message."""
        if len(received) < HEAD.size or self.reason:
            return None
        magic, length = HEAD.unpack_from(received)
        if magic != MAGIC or length > _MOST_SENT:
            self.reason = f"{self.name} wrote into a pipe that is gradcheck's own"
            return None
        if len(received) < HEAD.size + length:
            return None
        body = bytes(received[HEAD.size : HEAD.size + length])
        del received[: HEAD.size + length]
        try:
            message = _Unpickler(io.BytesIO(body)).load()
        except Exception as error:
            self.reason = f"its judgement could not be read: {error}"
            return None
        self._calling = True
        return message if isinstance(message, tuple) else None

    def _too_much(self, process: Any, clock: Any, at_start: int) -> str:
        """Why it must end now; empty if it need not."""
        deadline = clock[0]
        if deadline and time.monotonic() > deadline:
            where = self._asked_where(process)
            return overdue("one call" if self._calling else "its import", self.timeout, where)
        if resident(process.pid) - at_start > self.memory:
            where = self._asked_where(process)
            return f"it needs more than the {self.memory / 2**30:.3g} GiB of memory that --memory allows{where}"
        return ""

    def _asked_where(self, process: Any) -> str:
        """The user's file and line at which it is."""
        before = len(self._notes)
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGUSR1)
        end = time.monotonic() + _GRACE
        size = -1
        while time.monotonic() < end and not (size > before and len(self._notes) == size):  # until no more comes
            size = len(self._notes)
            time.sleep(0.05)
            self._read()
        return _where(bytes(self._notes[before:]).decode(errors="replace"))

    def _ended(self, status: int) -> str:
        """How a process ended that had not finished."""
        notes = bytes(self._notes).decode(errors="replace")
        left = re.findall(r"^exit (.*)$", notes, re.MULTILINE)
        if left:
            return f"it ended the process: {plain(left[-1])}"
        where = _where(notes)
        if status < 0:
            try:
                name = signal.Signals(-status).name
            except ValueError:
                name = f"signal {-status}"
            what = "crashed" if name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT") else "was ended"
            return f"its process {what} ({name}){where}"
        if status == CLOSED:
            return "it closed the pipe over which gradcheck hears of it"
        return f"its process ended with status {status} before it was judged{where}"


def _where(dump: str) -> str:
    """The user's deepest line in what :mod:`faulthandler` wrote, of the thread that it looked at first or last."""
    for thread in reversed(re.split(r"^(?=.*most recent call first)", dump, flags=re.MULTILINE)):
        for file, line in re.findall(r'^  File "(.*)", line (\d+) in ', thread, re.MULTILINE):
            if users_own(file):
                return f" ({plain(Path(file).name)}:{line})"
    return ""


def _end(process: Any) -> None:
    """End it and all that it started."""
    if process.exitcode is None:
        process.join(POLL)
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.exitcode is None:
        process.kill()
    process.join()


class _Unpickler(pickle.Unpickler):
    """Reads plain data and what this package sends, and runs nothing else."""

    _KNOWN = (
        ("gradcheck.judging.results", "Judgement"),
        ("gradcheck.judging.results", "Result"),
        ("gradcheck.judging.results", "Outcome"),
        ("gradcheck.judging.results", "Raised"),
        ("gradcheck.judging.results", "Diagnosis"),
        ("gradcheck.reports.directions", "Directions"),
        ("gradcheck.rounding.compare", "Comparison"),
        ("gradcheck.problems.regimes", "Spec"),
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)
