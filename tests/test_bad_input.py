r"""Bad input gives one clear message, what was given and what is wanted, and exit status 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradcheck.doors.cli import main

FILES = {
    "mine.py": (
        "import gradcheck\n\n@gradcheck.conforms('awm')\ndef test_awm(case):\n    return case.v_theta.sum()\n\n"
        "def plain(case):\n    return None\n\ndef several(v, target):\n    return None\n\nnumber = 3\n"
    ),
    "empty.py": "",
    "syntax.py": "def broken(:\n    pass\n",
    "raises.py": "import os\n\nraise ValueError('no data here')\n",
    "missing.py": "import gradcheck\nimport a_module_that_is_not_there\n",
    "exits.py": "import gradcheck\nimport sys\n\nsys.exit(0)\n",
    "declares.py": "import gradcheck\n\n@gradcheck.conforms('awn')\ndef test_it(case):\n    return 0\n",
    "text.txt": "hello",
    "broken.json": "{",
    "other.json": "{}",
    "line.jsonl": "not json\n",
    "folder/readme.txt": "no tests",
}

BAD = [
    # commands and options
    ([], "the following arguments are required: COMMAND"),
    (["chek"], "did you mean 'check'?"),
    (["Verify"], "did you mean 'verify'?"),
    (["verify", "--max-exampels", "3"], "did you mean '--max-examples'?"),
    (["verify", "--max-examples", "many"], "got 'many'; wanted a whole number"),
    (["verify", "--max-examples", "0"], "max_examples: got 0; wanted at least 1"),
    (["verify", "--max-examples", "1e99"], "wanted a whole number"),
    (["verify", "--seed", "1.5"], "got '1.5'; wanted a whole number"),
    (["verify", "--device", "gpu"], "device: got 'gpu'; wanted cpu, cuda or all"),
    (["verify", "--dtype", "float128"], "dtype: got 'float128'"),
    (["verify", "awm", "--json", "no/such/folder.json"], "--json: got no/such/folder.json; wanted a file in a folder"),
    (["verify", "--all", "awn"], "did you mean 'awm'"),
    # names
    (["verify", "flow_gpro"], "did you mean 'flow_grpo'?"),
    (["verify", "awm[huber]"], "awm[clipped-huber]"),
    (["explain", "dancegrpo"], "wanted flow_grpo[dance], which is dancegrpo"),
    (["explain", "L9"], "did you mean 'L1', 'L2' or 'L3'?"),
    (["explain", "clpi"], "did you mean 'clip'?"),
    (["explain", ""], "NAME: got ''"),
    (["explain", "awm", "--prediction", "x1"], "prediction: got 'x1'; wanted one of 'v', 'epsilon', 'x0'"),
    (["explain", "awm", "--noise-at", "2"], "noise_at: got 2"),
    (["explain", "ddpo", "--noise-at", "0"], "noise_at: got 0"),
    (["explain", "clip", "--D", "0", "--clip", "0.1"], "--D: got 0; wanted a whole number between 0 and 1e+12"),
    (["explain", "clip", "--D", "100"], "--clip: got nothing"),
    (["explain", "clip", "--D", "9", "--clip", "0.1", "--scale", "2"], "--scale: got a number for clip; wanted only"),
    (["explain", "awm", "--D", "100"], "NAME one of"),
    (["fields"], "algorithm: got nothing"),
    (["fields", "amw"], "did you mean 'awm'?"),
    (["fields", "awm", "--declare", "reduction"], "KEY=VALUE"),
    (["fields", "awm", "--declare", "reducton=mean"], "did you mean 'reduction'"),
    (["new", "awm", "--declare", "reduction=maen"], "did you mean 'mean'?"),
    (["new", "--preset", "flow_grpo-oficial"], "did you mean 'flow_grpo-official'"),
    (["new", "awm", "--preset", "flow_grpo-official"], "'flow_grpo', which the preset is of"),
    (["new", "awm", "--loss", "A*norm2(v_theta)"], "nothing with it, where loss= states the loss itself"),
    # targets
    (["check"], "the following arguments are required: TARGET"),
    (["check", "nofile.py"], "'nofile.py'; wanted a file that exists"),
    (["check", "mine.py::test_amw"], "did you mean 'test_awm'?"),
    (["check", "mine.py::plain"], "which declares nothing"),
    (["check", "mine.py::several", "--algorithm", "awm"], "which takes (v, target); wanted a function of one argument"),
    (["unveil", "mine.py::several"], "which takes (v, target); wanted a function of one argument"),
    (["check", "mine.py::number"], "a int; wanted a function that takes a case"),
    (["check", "empty.py"], "no function decorated with gradcheck.conforms"),
    (["check", "syntax.py"], "SyntaxError: invalid syntax (syntax.py, line 1) (syntax.py:1)"),
    (["check", "raises.py"], "ValueError: no data here (raises.py:3)"),
    (["check", "missing.py"], "No module named 'a_module_that_is_not_there' (missing.py:2)"),
    (["check", "exits.py"], "SystemExit: 0 (exits.py:4)"),
    (["check", "declares.py"], "algorithm: got 'awn'"),
    (["check", "folder"], "a folder without test_*.py"),
    (["check", "no.such.package:loss"], "No module named 'no'"),
    (["check", "text.txt"], "wanted file.py, file.py::function or package.module:function"),
    # the options of check
    (["check", "mine.py", "--only", "gradeint"], "did you mean 'gradient'"),
    (["check", "mine.py", "--device", "tpu"], "cpu, cuda or all"),
    (["check", "mine.py", "--dtype", "int8"], "dtype: got 'int8'"),
    (["check", "mine.py", "--max-examples", "-1"], "max_examples"),
    (["check", "mine.py", "--timeout", "0"], "timeout"),
    (["check", "mine.py", "--timeout", "nan"], "wanted a finite number"),
    (["check", "mine.py", "--memory", "lots"], "--memory: got 'lots'; wanted a size"),
    (["check", "mine.py", "--latent", "4,x"], "latent"),
    (["check", "mine.py", "--batch", "0"], "batch"),
    (["check", "mine.py", "--isolation", "docker"], "got 'docker'; wanted one of process, none"),
    (["check", "mine.py", "--declare", "a=b"], "--algorithm, --loss or --preset with it"),
    (["check", "mine.py::plain", "--algorithm", "amw"], "did you mean 'awm'?"),
    (
        ["check", "mine.py::plain", "--loss", "A*norm2(v_theta"],
        "an expression that can be read: this '(' is never closed",
    ),
    (["check", "mine.py", "--baseline", "nothing.json"], "nothing.json"),
    (["check", "mine.py", "--baseline", "broken.json"], "broken.json"),
    (["check", "mine.py", "--html", "folder"], "wanted a file, not a folder"),
    (["check", "mine.py", "--json", "a.txt", "--junit", "a.txt"], "wanted a file of its own"),
    # other commands
    (["unveil", "nofile.py::loss"], "a file that exists"),
    (["unveil", "mine.py"], "wanted file.py::function or package.module:function"),
    (["unveil", "mine.py::plain", "--timeout", "-1"], "timeout"),
    (["unveil", "mine.py::plain", "--set", "clip_rage=0.2"], "did you mean 'clip_range'"),
    (["derive", "A*norm2(v_thta - v_gt)"], "v_thta"),
    (["derive", "A*("], "the expression ends too early"),
    (["derive", "A*norm2(v_theta)", "--sde", "flwo"], "sde: got 'flwo'"),
    (["derive", "A*norm2(v_theta)", "--let", "a"], "--let: got 'a'; wanted NAME=EXPR"),
    (["derive", "A*norm2(v_theta)", "--given", "a=tensor"], "a"),
    (["vectors", "export", "awn", "--out", "out"], "did you mean 'awm'"),
    (["replay", "nofolder"], "nofolder"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)


def test_there_are_enough() -> None:
    assert len({" ".join(argv) for argv, _ in BAD}) >= 60


@pytest.mark.parametrize(("argv", "words"), BAD, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_bad_input_gives_one_message_and_status_2(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    in_process = ["--isolation", "none"] if argv[:1] == ["check"] and "--isolation" not in argv and argv[1:] else []
    try:
        status = main([*argv, *in_process])
    except SystemExit as ended:  # argparse's own
        status = ended.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert status == 2
    assert words in err
    assert "Traceback" not in err
    assert "mistake of gradcheck's" not in err
    shown = 2 if argv[:1] == ["derive"] or "--loss" in argv else 0  # the line, and a mark below the place
    assert len(err.strip().splitlines()) <= 1 + shown, "one message"
    assert err.count(",") <= 14, "no wall of names"
    assert not re.search(r"\bFAILED\b|\bconforms\b", out), "nothing that reads like a verdict"
