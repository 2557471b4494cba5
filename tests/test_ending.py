"""However a command is told to end, it says so, and leaves nothing behind: no process, no line half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gradcheck.doors
from gradcheck import __main__ as command
from gradcheck.console import Progress
from gradcheck.doors.check import _cleared
from gradcheck.doors.ending import EndedError, in_order, status_of
from gradcheck.verifying.sharing import Shared

forks = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks Linux what runs")

SHARING = """
import os, pathlib, sys, time
from gradcheck.verifying.sharing import Shared

def do(name):
    pathlib.Path(sys.argv[1], name).write_text(str(os.getpid()))
    time.sleep(60)

with Shared(do, [["first"], ["second"]], 2) as results:
    results("first")
"""


def _processes(folder: Path, names: tuple[str, ...] = ("first", "second")) -> list[Path]:
    """Where Linux shows the processes that have said that they have begun."""
    marks = [folder / name for name in names]
    _until(lambda: all(m.exists() and m.read_text() for m in marks))
    return [Path("/proc", mark.read_text()) for mark in marks]


def _until(done: Any, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(done())


@forks
def test_an_error_does_not_wait_for_what_is_still_being_done() -> None:
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Shared(time.sleep, [[30], [31]], 2):
        raise KeyboardInterrupt
    assert time.monotonic() - start < 15


@forks
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_processes_that_share_the_work_die_with_the_first_one(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SHARING, str(tmp_path)]) as running:
        workers = _processes(tmp_path)
        running.send_signal(number)
        running.wait(30)
    try:
        assert _until(lambda: not any(map(Path.exists, workers)), 10)
    finally:
        for worker in workers:
            if worker.exists():
                os.kill(int(worker.name), signal.SIGKILL)


def test_a_signal_is_raised_once_and_only_where_it_would_end_the_process() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with pytest.raises(EndedError) as told:
            _asked_twice()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (str(told.value), status_of(told.value), status_of(KeyboardInterrupt())) == ("SIGTERM", 143, 130)


def _asked_twice() -> None:
    with in_order():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # `timeout` sends two, and the first has to be seen to


def test_an_interrupt_while_modules_are_imported_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "gradcheck.doors.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "gradcheck.doors.cli", raising=False)
    monkeypatch.delattr(gradcheck.doors, "cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert command.main([]) == 130
    assert capsys.readouterr().err == "[gradcheck] interrupted\n"


def test_the_line_of_progress_is_gone_where_judging_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress()

    def judging() -> Iterator[Any]:
        progress("half of it")
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        list(_cleared(progress, judging()))
    assert capsys.readouterr().err == f"\rhalf of it\r{'':10}\r"


RANKS = """
import os, pathlib, time
import gradcheck.distributed

@gradcheck.distributed.conforms("awm")
def step(model, shard):
    rank = "first" if os.environ["RANK"] == "0" else "second"
    pathlib.Path(__file__).with_name(rank).write_text(str(os.getpid()))
    time.sleep(60)
"""


@forks
def test_ranks_end_with_their_launcher(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(RANKS)
    start = [sys.executable, "-m", "gradcheck", "distributed", str(tmp_path / "steps.py"), "--ranks", "2"]
    with subprocess.Popen(start, stderr=subprocess.PIPE, text=True) as running:
        ranks = _processes(tmp_path)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 143
    assert err.endswith("[gradcheck] ended by SIGTERM\n")
    assert not any(map(Path.exists, ranks))


def test_what_ranks_cannot_understand_is_told_in_a_line(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "gradcheck", "distributed", str(tmp_path / "none.py"), "--ranks", "2"]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.py" in done.stderr
    assert "Traceback" not in done.stderr, "torchrun tells at length of a rank that ends with a status of its own"


WITHOUT_FILES = """
import errno, multiprocessing.heap, multiprocessing.synchronize, os, sys

def none(*given, **options):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

multiprocessing.heap.Heap.malloc = multiprocessing.synchronize.SemLock.__init__ = none
from gradcheck.doors.cli import main
sys.exit(main(sys.argv[1:]))
"""


@forks
@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "awm[paper]", "--no-networks", "--max-examples=1", "--jobs=2", "--device=cpu"),
        ("check", "mine.py", "--max-examples=1", "--only=gradient"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_neither_a_writable_folder_nor_semaphores_are_needed(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A file system that is read-only has no room for memory that is shared, and some have no ``/dev/shm``."""
    (tmp_path / "mine.py").write_text(
        "import gradcheck\n\n@gradcheck.conforms('awm')\ndef mine(case):\n"
        "    error = (case.v_theta - (case.noise - case.x_0)) ** 2\n"
        "    return (case.advantage * error.flatten(1).sum(1)).mean()\n"
    )
    start = [sys.executable, "-c", WITHOUT_FILES, *arguments]
    done = subprocess.run(start, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
