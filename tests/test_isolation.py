"""Hostile adapters: each costs itself its verdict, in one message that says where, and its neighbours nothing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gradcheck.doors.cli import main
from gradcheck.judging.isolation.parent import _Unpickler

HEAD = """
import asyncio, ctypes, functools, os, random, signal, sys, threading, time, unittest, warnings
from unittest.mock import MagicMock
import numpy as np
import pytest, torch
from torch import ops
import gradcheck

spy = MagicMock()

class Raises:
    def __getattr__(self, name):
        raise RuntimeError(name)

raises = Raises()

def right_loss(case):
    return (case.advantage * ((case.v_theta - case.v_gt) ** 2).flatten(1).sum(1)).mean()

def bmm_loss(case):
    d = (case.v_theta - case.v_gt).flatten(1)
    return (case.advantage * torch.bmm(d[:, None], d[..., None])[:, 0, 0]).mean()

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError
    __repr__ = __str__

class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))

class Stuck(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()
    @staticmethod
    def backward(ctx, g):
        while True:
            try:
                time.sleep(0.01)
            except BaseException:
                pass

class Odd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()
    @staticmethod
    def backward(ctx, g):
        raise KeyError("backward")

kept = []
awm = gradcheck.conforms("awm")

@awm
def first(case):
    return bmm_loss(case)
"""
TAIL = """

@awm
def last(case):
    return bmm_loss(case)
"""
R = "return right_loss(case)"

# name → the body, and what the message says; HERE stands for the line of the body
HOSTILE: dict[str, tuple[str, str]] = {
    "exits": ("sys.exit(0)", "raised SystemExit: 0 HERE"),
    "leaves": ("os._exit(0)", "ended the process: os._exit(0) HERE"),
    "leaves_through_c": ("ctypes.CDLL(None)._exit(0)", "ended with status 0 before it was judged"),
    "crashes": ("ctypes.string_at(0)", "crashed (SIGSEGV) HERE"),
    "aborts": ("os.abort()", "crashed (SIGABRT) HERE"),
    "is_killed": ("os.kill(os.getpid(), signal.SIGKILL)", "was ended (SIGKILL)"),
    "stuck": ("return Stuck.apply(case.v_theta)", "longer than the 3 s that --timeout allows"),
    "forks": (f"os.fork(); {R}", "made by fork(), returned from the call too HERE"),
    "swaps": (f"if os.fork(): os._exit(0)\n    {R}", "ended the process"),
    "thread": (f"threading.Thread(target=lambda: time.sleep(9)).start(); {R}", "running HERE"),
    "autocast": (f"torch.autocast('cpu', dtype=torch.bfloat16).__enter__(); {R}", "left autocast on (cpu) HERE"),
    "device": ("l = right_loss(case); torch.set_default_device('meta'); return l", "from cpu to meta HERE"),
    "matmul": (f"torch.set_float32_matmul_precision('medium'); {R}", "float32 matmul precision"),
    "anomaly": (f"torch.autograd.set_detect_anomaly(True); {R}", "left anomaly mode on HERE"),
    "inference": ("m = torch.inference_mode(); m.__enter__(); kept.append(m); " + R, "without a graph"),
    "saved": (f"torch.autograd.graph.saved_tensors_hooks(id, id).__enter__(); {R}", "saved"),
    "module_hook": (
        f"torch.nn.modules.module.register_module_forward_hook(lambda *a: None); {R}",
        "left global module hooks HERE",
    ),
    "mode": ("l = right_loss(case); Mode().__enter__(); return l", "left a torch function mode on HERE"),
    "filters": (f"warnings.simplefilter('ignore'); {R}", "changed the warnings filters HERE"),
    "cwd": (f"os.chdir('/'); {R}", "working directory"),
    "environment": (f"os.environ['GRADCHECK_TEST'] = str(time.time()); {R}", "environment: GRADCHECK_TEST HERE"),
    "closed": (f"sys.stdout.close(); {R}", "closed sys.stdout"),
    "closed_files": (f"os.close(1); os.close(2); {R}", "closed standard output and standard error HERE"),
    "closed_all": (f"os.closerange(0, 300); {R}", "closed the pipe"),
    "stdout": (f"sys.stdout = open(os.devnull, 'w'); {R}", "replaced sys.stdout HERE"),
    "handler": (f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {R}", "changed the handler of SIGTERM HERE"),
    "alarm": (f"signal.alarm(100); {R}", "left an alarm"),
    "patch": (f"torch.equal = lambda *a: True; {R}", "replaces torch.equal HERE"),
    "patch_us": (f"gradcheck.rounding.compare.THRESHOLD = 1e9; {R}", "replaces gradcheck.rounding.compare.THRESHOLD"),
    "recursion": (f"sys.setrecursionlimit(5000); {R}", "recursion limit from"),
    "trace": (f"sys.settrace(lambda *a: None); {R}", "left a trace function on"),
    "skip": ("pytest.skip('not today')", "skips itself: not today HERE"),
    "xfail": ("pytest.xfail('known')", "skips itself: known HERE"),
    "skip_test": ("raise unittest.SkipTest('old')", "skips itself: old HERE"),
    "pytest_exit": ("pytest.exit('bye')", "raised Exit: bye HERE"),
    "pytest_fail": ("pytest.fail('bad')", "raised Failed: bad HERE"),
    "interrupt": ("raise KeyboardInterrupt", "raised KeyboardInterrupt HERE"),
    "cancelled": ("raise asyncio.CancelledError", "raised CancelledError HERE"),
    "unprintable": ("raise Unprintable", "raised Unprintable (its message cannot be printed) HERE"),
    "backward": ("return Odd.apply(case.v_theta)", "raised KeyError: 'backward' in its backward pass"),
    "sparse": ("return right_loss(case).to_sparse()", "of layout sparse_coo"),
    "complex": ("return right_loss(case) * 1j", "of dtype torch.complex128"),
    "boolean": ("return right_loss(case) > 0", "of dtype torch.bool"),
    "nothing": ("right_loss(case)", "returned None"),
    "mock": ("return MagicMock(spec=torch.Tensor)", "returned a MagicMock"),
    "generator": ("yield right_loss(case)", "do not yield it"),
    "memory": ("while True: kept.append(torch.ones(4 << 20))", "than the 0.5 GiB of memory that --memory allows"),
    "escapes": ("print('\\x1b[2J\\x1b]0;t\\x07seen'); raise ValueError('\\x1b[31mred')", "raised ValueError: red HERE"),
    "forges": (f"[os.write(n, b'x' * 99) for n in range(3, 30) if os.path.exists(f'/dev/fd/{{n}}')]; {R}", ""),
}


def written(folder: Path) -> tuple[Path, dict[str, str]]:
    """The file of all of them, and what each one's message must say."""
    text, wanted = HEAD, {}
    for name, (body, words) in HOSTILE.items():
        text += f"\n@awm\ndef {name}(case):\n    {body}\n"
        line = len(text.splitlines()) - body.count("\n")
        wanted[name] = words.replace("HERE", f"(hostile.py:{line})")
    file = folder / "hostile.py"
    file.write_text(text + TAIL)
    return file, wanted


def reported(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """A run of the command, and its report by name."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "gradcheck.doors.cli", "check", *arguments, "--json", str(report)]
    only = [x for name in ("determinism", "inputs-untouched", "gradient") for x in ("--only", name)]
    done = subprocess.run([*command, *only, "--max-examples", "1"], capture_output=True, text=True, timeout=300)
    targets = json.loads(report.read_text())["targets"] if report.exists() else []
    return done, {t["target"]: t for t in targets}


def test_each_costs_itself_alone(tmp_path: Path) -> None:
    file, wanted = written(tmp_path)
    done, found = reported(tmp_path, str(file), "--timeout", "3", "--memory", "0.5G")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert list(found) == ["first", *HOSTILE, "last"], "each by name, in the file's order"
    told = {name: found[name]["unjudged"] for name in HOSTILE}
    assert {n: text for n, text in told.items() if not text or wanted[n] not in text} == {}
    assert "seen" in found["escapes"]["printed"]
    for name in HOSTILE:
        assert done.stderr.count(f"[gradcheck] {name} could not be judged") == 1, "one message"
    neighbours = [_seen(found[name]) for name in ("first", "last")]
    alone = _seen(reported(tmp_path, f"{file}::last")[1]["last"])
    assert neighbours == [alone, alone], "as if each were alone"
    assert found["last"]["holds"]


def _seen(target: dict[str, Any]) -> list[Any]:
    return [(o["id"], o["status"], o["ratios"]) for o in target["obligations"]]


WRONG = "-right_loss(case)"
OBJECTS = f"""
{HEAD}
by_lambda = awm(lambda case: {WRONG})
by_partial = awm(functools.partial(lambda sign, case: sign * right_loss(case), -1))

class Object:
    def __call__(self, case):
        return {WRONG}

by_object = awm(Object())

class TestInside:
    @awm
    def test_method(self, case):
        return {WRONG}

    @staticmethod
    @awm
    def test_static(case):
        return {WRONG}

@awm
def twice(case):
    return {WRONG}

@awm
def twice(case):
    return right_loss(case)

alias = twice
in_a_list = [awm(lambda case: {WRONG})]

def around(function):
    @functools.wraps(function)
    def inner(*a, **k):
        return function(*a, **k)
    return inner

@around
@awm
def wrapped(case):
    return right_loss(case)
"""


def test_whatever_is_decorated_is_judged_or_named(tmp_path: Path) -> None:
    file = tmp_path / "objects.py"
    file.write_text(OBJECTS)
    done, found = reported(tmp_path, str(file))
    assert done.returncode == 2
    wrong = [n for n, t in found.items() if any(o["status"] == "failed" for o in t["obligations"])]
    assert [n.partition(" (line")[0] for n in wrong] == [
        "by_lambda",
        "by_partial",
        "by_object",
        "TestInside.test_method",
        "TestInside.test_static",
        "twice",
        "<lambda>",
    ]
    assert [n for n, t in found.items() if t["holds"]] == ["first", "twice"], "once, though under two names"
    assert "must be the uppermost" in found["wrapped"]["unjudged"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sys.exit(0)", "raises SystemExit: 0 (bad.py:"),
        ("os._exit(0)", "ended the process: os._exit(0) (bad.py:"),
        ("pytest.skip('x', allow_module_level=True)", "raises Skipped: x"),
        ("time.sleep(60)", "its import took longer than the 2 s that --timeout allows (bad.py:"),
        ("torch.autocast('cpu').__enter__()", "left autocast on"),
        ("torch.equal = lambda *a: True", "replaces torch.equal (bad.py:"),
        ("raise Unprintable", "Unprintable (its message cannot be printed)"),
        ("awm(3)", "wanted a function that takes a case"),
    ],
)
def test_an_import_costs_its_own_file(
    line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(HEAD)
    bad.write_text(f"{HEAD}\n{line}\n")
    options = ["--only", "gradient", "--max-examples", "1", "--timeout", "2"]
    assert main(["check", str(bad), str(good), *options]) == 2
    out, err = capsys.readouterr()
    assert words in err + out
    assert "first conforms" in out


def test_a_folder_is_its_tests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 2
    (tmp_path / "test_other.py").write_text("import nothing_that_is_there\n")
    assert main(["check", str(tmp_path)]) == 2, "nothing of ours was found"
    capsys.readouterr()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "test_mine.py").write_text(HEAD)
    assert main(["check", str(tmp_path), "--only", "gradient", "--max-examples", "1"]) == 0
    assert "first conforms" in capsys.readouterr().out


def test_a_file_chooses_how_its_own_processes_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As trainers do at their top; that a process is forked to judge it must not have chosen already."""
    file = tmp_path / "mine.py"
    file.write_text(f"import multiprocessing\nmultiprocessing.set_start_method('spawn')\n{HEAD}")
    assert main(["check", str(file), "--only", "gradient", "--max-examples", "1"]) == 0
    assert "first conforms" in capsys.readouterr().out


def test_a_file_of_a_package_imports_its_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Judged from outside, in a project whose modules lie in ``src``; and so does the script of its failure."""
    folder = tmp_path / "src" / "outer" / "inner"
    folder.mkdir(parents=True)
    for package in (folder, folder.parent):
        (package / "__init__.py").write_text("")
    (folder.parent / "helpers.py").write_text("def error(a, b):\n    return ((a - b) ** 2).flatten(1).sum(1)\n")
    file = folder / "losses.py"
    file.write_text(
        "import gradcheck\nfrom ..helpers import error\n\n"
        "def right(case):\n    return (case.advantage * error(case.v_theta, case.noise - case.x_0)).mean()\n\n"
        "@gradcheck.conforms('awm')\ndef wrong(case):\n    return -right(case)\n"
    )
    options = ["--only", "gradient", "--max-examples", "1"]
    assert main(["check", f"{file}::right", "--algorithm", "awm", *options]) == 0
    report = tmp_path / "report.json"
    assert main(["check", f"{file}::wrong", "--json", str(report), *options]) == 1
    capsys.readouterr()
    (result,) = (r for r in json.loads(report.read_text())["targets"][0]["obligations"] if r["status"] == "failed")
    done = subprocess.run([sys.executable, "-c", result["script"]], capture_output=True, text=True, check=False)
    assert "the gradient obligation fails" in done.stderr


@pytest.mark.parametrize("options", [["--only", "compiled"], ["--only", "value"]])
def test_nothing_conforms_that_was_not_checked(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(HEAD)
    assert main(["check", str(tmp_path / "mine.py"), *options]) == 2
    assert "no obligation was seen to hold" in capsys.readouterr().err


def test_one_obligation_that_raises_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "assert case.v_theta.ndim < 5; return right_loss(case)"
    (tmp_path / "mine.py").write_text(f"{HEAD}\n@awm\ndef refuses(case):\n    {body}\n")
    assert main(["check", f"{tmp_path / 'mine.py'}::refuses", "--max-examples", "3"]) == 1
    out = capsys.readouterr().out
    assert "raises on batch 2, latent (2, 2, 3, 3)" in out
    assert "gradient             ok" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seed", "1e30"], "argument --seed: got '1e30'"),
        (["--seed", "9" * 30], "argument --seed: got"),
        (["--timeout", "inf"], "argument --timeout: got 'inf'"),
        (["--timeout", "0"], "timeout: got 0.0"),
        (["--max-examples", "100000000000"], "max_examples: got 100000000000"),
        (["--latent", "1000000,1000000"], "latent: got (1000000, 1000000)"),
        (["--memory", "much"], "--memory: got 'much'"),
        (["--json", "."], "--json: got .; wanted a file, not a folder"),
        (["--json", "/dev/full", "--only", "gradient"], "--json: got /dev/full (No space left on device)"),
    ],
)
def test_options_that_cannot_be_met(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(HEAD)
    try:
        status = main(["check", str(tmp_path / "mine.py"), "--max-examples", "1", *options])
    except SystemExit as left:
        status = int(str(left.code))
    assert status == 2
    out, err = capsys.readouterr()
    assert words in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize("kind", ["fifo", "deep", "binary", "empty"])
def test_no_manifest_stops_the_judge_of_vectors(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "manifest.json"
    match kind:
        case "fifo":
            os.mkfifo(manifest)
        case "deep":
            manifest.write_text("[" * 200_000)
        case "binary":
            manifest.write_bytes(bytes(range(128, 256)))
        case "empty":
            manifest.write_text('{"format": {"name": "gradcheck-vectors", "version": 1}, "vectors": []}')
    assert main(["vectors", "check", str(tmp_path), str(tmp_path)]) == 2
    assert "[gradcheck] DIR: got" in capsys.readouterr().err


def test_without_isolation_a_hang_ends_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(f"{HEAD}\n@awm\ndef hangs(case):\n    while True: time.sleep(0.01)\n")
    options = ["--isolation", "none", "--timeout", "0.5", "--only", "gradient"]
    assert main(["check", f"{tmp_path / 'mine.py'}::hangs", *options]) == 2
    assert "longer than the 0.5 s that --timeout allows (mine.py:" in capsys.readouterr().err


def test_a_terminal_without_greek_and_a_reader_that_leaves(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{HEAD}\n@awm\ndef wrong(case):\n    return {WRONG}\n")
    command = f"{sys.executable} -m gradcheck.doors.cli check {tmp_path / 'mine.py'} --max-examples 1"
    shell = f"set -o pipefail; PYTHONIOENCODING=ascii {command} | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 1, "its own verdict, though nobody read it"
    assert done.stderr == ""


UNDER_PYTEST = f"""{HEAD}
@awm
def test_skips(case):
    pytest.skip("not today")

@awm
def test_exits(case):
    sys.exit(0)

@awm
def test_leaves_autocast_on(case):
    torch.autocast("cpu", dtype=torch.bfloat16).__enter__(); {R}

@awm
def test_right(case):
    return bmm_loss(case)
"""


def test_under_pytest(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(UNDER_PYTEST)
    options = ["-p", "no:cacheprovider", "--gradcheck-max-examples=1", "-rA", "-k", "gradient or untouched"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "test_skips: NOT CHECKED" in done.stdout
    assert "test_skips skips itself: not today" in done.stdout
    assert "could not be judged: test_exits raised SystemExit: 0 (test_mine.py:" in done.stdout
    assert "could not be judged: the call left autocast on (cpu)" in done.stdout
    assert "test_right: conforms" in done.stdout


def test_whatever_a_judgement_holds_can_be_sent() -> None:
    """A child's judgement is read class by class, and one that holds another class is lost."""
    for module in ("gradcheck.oracle.runner", "gradcheck.doors.parts", "gradcheck.doors.trainers"):
        importlib.import_module(module)
    known = set(_Unpickler._KNOWN)
    pending = [getattr(importlib.import_module(module), name) for module, name in known]
    while pending:
        cls = pending.pop()
        assert (cls.__module__, cls.__name__) in known
        pending += cls.__subclasses__()


def test_a_gradient_that_is_lost_on_the_shown_problem_alone_has_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 − σ(x) is 0 beyond a margin of 37, which few of the ordinary problems have."""
    (tmp_path / "test_margin.py").write_text(
        "import gradcheck, torch\n\n\n@gradcheck.conforms('diffusion_dpo')\ndef dpo(case):\n"
        "    error = lambda v: ((v - case.v_gt) ** 2).flatten(1).sum(1)\n"
        "    gap = error(case.v_theta) - error(case.v_ref) - case.partner_gap\n"
        "    return -torch.log(1 - torch.sigmoid(case.beta_dpo * case.preference * gap)).mean()\n"
    )
    assert main(["check", str(tmp_path / "test_margin.py")]) == 1
    told = capsys.readouterr().out
    assert "consistent with overflow" in " ".join(told.split())
