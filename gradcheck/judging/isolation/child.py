r"""A process of its own for one job: what it prints is caught, what it finds goes over a pipe that nobody else has.

The process says when a call must have ended, and leaves a note of where it was when it dies; :mod:`.parent` reads both.
Nothing that a stranger's code does here outlives it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import multiprocessing
import os
import pickle
import resource
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Protocol

from gradcheck.forking import die_with_parent
from gradcheck.judging.isolation.limits import watched_by
from gradcheck.judging.isolation.words import frame_place, otherwise_found, place, said

__all__ = ["CLOSED", "HEAD", "MAGIC", "Job", "Send", "run"]

HEAD = struct.Struct(">8sQ")
"""Before each message: a word that no text starts with, and the message's length."""

MAGIC = b"\x93gradchk"
"""With which every message on the pipe begins."""

CLOSED = 70
"""The status with which a process ends that can no longer tell anything."""

Send = Callable[..., None]
"""Sends a word and plain data."""

_exit, _getpid, _write, _dumps = os._exit, os.getpid, os.write, pickle.dumps


class Job(Protocol):
    """What a child does: plain data that can be handed to another process."""

    def run(self, send: Send) -> None:
        """Do it, and send what is found."""


def run(
    job: Job,
    results: Connection,
    printed: Connection,
    notes: Connection,
    clock: Sequence[float],
    others: Sequence[int] = (),
) -> None:
    """The child's main function; it never returns.  ``others`` are its siblings' descriptors, which it closes."""
    gc.freeze()  # what was imported stays, so that no collection need go through it, and its memory stays shared
    for number in others:
        os.close(number)
    multiprocessing.set_start_method(None, force=True)  # a file may choose, as in a program
    process = _getpid()
    channel = results.fileno()
    _apart()
    _catch_output(printed.fileno())
    _leave_notes(notes.fileno())
    _watched(clock, notes.fileno())

    def send(*message: Any) -> None:
        if _getpid() != process:  # a copy that a stranger's fork() made
            _exit(0)
        body = _dumps(message)
        data = memoryview(HEAD.pack(MAGIC, len(body)) + body)
        while data:
            data = data[_write(channel, data) :]

    try:
        try:
            job.run(send)
        except BaseException as error:
            send("broken", said(error) + place(error) + otherwise_found(error))
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        send("end")
    except BaseException:
        _exit(CLOSED)  # the pipe was closed or filled by somebody else: there is nobody to tell
    _exit(0)


def _apart() -> None:
    """A session of its own, which can be ended with all its children; it dies with its parent, and before others."""
    with contextlib.suppress(OSError):
        os.setsid()
    die_with_parent()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _catch_output(pipe: int) -> None:
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    for name, number in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(number, "w", closefd=False)
        stream = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _leave_notes(pipe: int) -> None:
    """Where it was, in the notes: when it crashes, when it is asked (SIGUSR1), when it ends itself, when it forks."""
    faulthandler.enable(pipe, all_threads=False)
    faulthandler.register(signal.SIGUSR1, pipe, all_threads=True, chain=False)

    process = _getpid()

    def note(what: str) -> None:
        if _getpid() == process:
            with contextlib.suppress(OSError):
                _write(pipe, f"{what}{frame_place(sys._getframe(2))}\n".encode(errors="replace"))

    def leave(status: int) -> None:
        note(f"exit os._exit({status!r})")
        _exit(status)

    os._exit = leave  # type: ignore[assignment]
    os.register_at_fork(before=lambda: note("fork"))


def _watched(clock: Any, notes: int) -> None:
    def watch(deadline: float) -> None:
        clock[0] = deadline

    def copied() -> None:
        with contextlib.suppress(OSError):
            _write(notes, b"copied\n")

    watched_by(watch, copied)
