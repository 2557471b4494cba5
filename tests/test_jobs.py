"""Targets judged at once, in processes, come out as one after the other does, and each costs itself alone."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gradcheck.doors.cli import main

LOSSES = """
import os, time
import torch
import gradcheck

def loss(case, sign=1):
    return sign * (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean()

@gradcheck.conforms("awm")
def slow_and_first(case):
    time.sleep(0.01)
    return loss(case)

@gradcheck.conforms("awm")
def wrong(case):
    print("seen")
    return loss(case, -1)

@gradcheck.conforms("awm")
def leaves(case):
    os._exit(3)

@gradcheck.conforms("awm", expected_failures={"gradient": "known"})
def known(case):
    return loss(case, 2)

@gradcheck.conforms("awm")
def right(case):
    return loss(case)
"""
NAMES = ["slow_and_first", "wrong", "leaves", "known", "right"]


def told(folder: Path, jobs: int, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What a run says and writes, without times and without the folder in which it writes."""
    (folder / "mine.py").write_text(LOSSES)
    (folder / "other.py").write_text("import gradcheck\n1 / 0\n")
    reports = {kind: folder / kind for kind in ("json", "html", "junit", "summary")}
    options = ["--jobs", str(jobs), *(f"--{kind}={file}" for kind, file in reports.items())]
    only = ["--max-examples=2", "--only=determinism", "--only=gradient", "--only=micro-batching"]
    status = main(["check", str(folder / "mine.py"), str(folder / "other.py"), *only, *options])
    out, err = capsys.readouterr()
    files = {kind: file.read_text(encoding="utf-8") for kind, file in reports.items()}
    texts = {"status": str(status), "out": out, "err": err, **files}
    return {kind: _timeless(text) for kind, text in texts.items()}


def _timeless(text: str) -> str:
    text = re.sub(r'("seconds": )[\d.e-]+|((?:time|timestamp)=")[^"]*', r"\1\2", text)
    return re.sub(r"\d+(\.\d+)?(?= s\b)|gradcheck-\w+\.py|\d{4}-\d\d-\d\d[T ][\d:.+]+", "", text)


def test_reports_do_not_say_how_many_ran_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone, together = (told(tmp_path, jobs, capsys) for jobs in (1, 3))
    assert alone["status"] == "2"
    assert re.findall(r'"target": "(.*)"', together["json"])[:-1] == NAMES
    for kind, text in alone.items():
        assert together[kind] == text, kind


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_some_process_must_be_allowed(jobs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(LOSSES)
    assert main(["check", str(tmp_path / "mine.py"), f"--jobs={jobs}"]) == 2
    assert f"--jobs: got {jobs}; wanted a number of processes, at least 1" in capsys.readouterr().err


SPY = """
import os, pathlib, time
import gradcheck

def loss(case):
    return (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean()

def open_files():
    for number in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            pass  # the listing's own

def meet(case, own, other):
    folder = pathlib.Path(__file__).parent
    (folder / own).write_text("\\n".join(x for x in open_files() if x.startswith("pipe:")))
    end = time.monotonic() + 20
    while not (folder / other).exists() and time.monotonic() < end:
        time.sleep(0.01)
    return loss(case)

@gradcheck.conforms("awm")
def first(case):
    return meet(case, "first", "second")

@gradcheck.conforms("awm")
def second(case):
    return meet(case, "second", "first")
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not list open files")
def test_they_run_at_once_and_have_none_of_each_others_pipes(tmp_path: Path) -> None:
    """Each waits for the other one's call, so that neither could end if they ran one after the other."""
    (tmp_path / "mine.py").write_text(SPY)
    command = [sys.executable, "-m", "gradcheck.doors.cli", "check", str(tmp_path / "mine.py"), "--jobs=2", "--brief"]
    done = subprocess.run([*command, "--only=gradient", "--max-examples=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = ({*(tmp_path / name).read_text().split()} for name in ("first", "second"))
    assert first
    assert second
    assert len(first & second) <= 2, "but for the two with which multiprocessing hears of an end"


_INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")],
    ids=["interrupt", "terminate"],
)
def test_a_signal_ends_all(number: int, status: int, told: str, tmp_path: Path) -> None:
    marks = [tmp_path / name for name in ("first", "second")]
    (tmp_path / "mine.py").write_text(
        "import os, pathlib, time, gradcheck\n"
        + "".join(
            f"@gradcheck.conforms('awm')\ndef {m.name}(case):\n"
            f"    pathlib.Path({str(m)!r}).write_text(str(os.getpid()))\n    time.sleep(60)\n"
            for m in marks
        )
    )
    command = [sys.executable, "-m", "gradcheck.doors.cli", "check", str(tmp_path / "mine.py"), "--jobs=2"]
    # a shell starts what runs in its background with interrupts ignored, and Python then takes none
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTIBLE, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        end = time.monotonic() + 60
        while not all(m.exists() and m.read_text() for m in marks) and time.monotonic() < end:
            time.sleep(0.05)
        running.send_signal(number)
        try:
            _, err = running.communicate(timeout=30)
        finally:
            running.kill()
    assert running.returncode == status
    assert err.strip() == f"[gradcheck] {told}"
    for mark in marks:
        assert not Path(f"/proc/{mark.read_text()}").exists()
