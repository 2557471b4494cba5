r"""What commands print fits the terminal that it goes to: its width, its characters, and whether it shows colours."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest

import gradcheck
from derivations.lemmas import LEMMAS
from derivations.writing.render import claim_text
from derivations.writing.wrapping import BREAKS, is_formula, spelled, wrap_formula, wrap_words
from gradcheck.catalogue import CATALOGUE
from gradcheck.console import Progress
from gradcheck.conventions import PRESETS
from gradcheck.distributed import judging
from gradcheck.doors import unveiling
from gradcheck.doors.cli import main
from gradcheck.judging.isolation import parent
from gradcheck.vectors import checking
from gradcheck.vectors.export import export
from gradcheck.verifying import verification
from gradcheck.watching import explaining
from tests.vectors.answering import answer
from tests.watching import steps


@pytest.fixture(autouse=True)
def proofs_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run of `verify` is shown in every width."""
    monkeypatch.setattr(verification, "verify", _verified)


@lru_cache(maxsize=1)
def _verified_once(*names: str) -> verification.Report:
    return _VERIFY(*names, device="cpu", dtypes=("float64",), max_examples=1, with_networks=False)


def _verified(*names: str, **options: object) -> verification.Report:
    return _verified_once(*names)


_VERIFY = verification.verify

WRONG = """import gradcheck


@gradcheck.conforms("awm")
def test_awm(case):
    error = ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).sum(1, keepdim=True)
    return (case.advantage * error).mean()


def min_snr(case):
    weight = ((1 - case.t) ** 2 / case.t**2).clamp(max=5)
    return (weight * ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).mean(1)).mean()
"""

LOSS = "A*ratio + kl_weight*norm2(v_theta - v_ref)/(2*sigma_t**2) + exp(A)*norm2(v_theta - v_gt)"

_QUICK = ["--isolation", "none", "--max-examples", "2", "--only", "gradient", "--only", "determinism"]

COMMANDS = {
    "verify": ["verify", "awm", "flow_grpo[wan]", "--max-examples", "1", "--no-networks", "--dtype", "float64"],
    "check": ["check", "test_mine.py", *_QUICK],
    "check-brief": ["check", "--brief", "test_mine.py", *_QUICK],
    "derive": ["derive", LOSS, "--problems", "2"],
    "explain": ["explain", "diffusion_nft[adaptive-reference]"],
    "explain-lemma": ["explain", "L3"],
    "explain-numbers": ["explain", "clip", "--D", "65536", "--clip", "1e-4"],
    "fields": ["fields", "grpo_guard", "--declare", "kl=step"],
    "list": ["list"],
    "list-options": ["list", "--options"],
    "list-theorems": ["list", "--theorems"],
    "unveil": ["unveil", "test_mine.py::min_snr"],
    "watch-report": ["watch", "report", "gradcheck-watch.jsonl"],
    "replay": ["replay", "kept"],
    "vectors-export": ["vectors", "export", "--out", "exported", "awm[paper]"],
    "vectors-check": ["vectors", "check", "vectors", "answers"],
    "distributed": ["distributed", "trainer.py", "--max-examples", "1"],
}
"""Markdown to paste (`table`), code (`new`) and JSON are for no terminal."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands read: losses, a run's log and a step of it, vectors and answers, a trainer."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "test_mine.py").write_text(WRONG)
    (folder / "trainer.py").write_text(
        "import gradcheck.distributed\nfrom tests.distributed import trainers\n\n"
        "zero_grad_inside_the_loop = trainers.zero_grad_inside_the_loop\n"
    )
    watch = gradcheck.watch(
        "flow_grpo", every=1, sigmas=steps.GRID, log=folder / "gradcheck-watch.jsonl", **steps.DECLARED
    )
    for i in range(2):
        step = steps.PolicyStep(i)
        watch(**step.call)
        (-step.loss() if i else step.loss()).backward()
    watch.save(folder / "kept")
    export(folder / "vectors", "awm[paper]")
    answer(folder / "vectors", folder / "answers", wrong=lambda loss: lambda case: -loss(case))
    return folder


@pytest.fixture(autouse=True)
def verdicts_are_reached_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds does so in the first width that is tried."""
    monkeypatch.setattr(explaining, "explained", lambda *given: _once("replay", EXPLAINED, *given))
    monkeypatch.setattr(checking, "check", lambda *given, **options: _once("vectors", CHECKED, *given, **options))
    monkeypatch.setattr(judging, "judge_on", lambda *given: _once("distributed", JUDGED, *given))
    monkeypatch.setattr(parent, "possible", lambda: False)
    monkeypatch.setattr(unveiling.UnveilJob, "run", _unveiled)


EXPLAINED, CHECKED, JUDGED, UNVEILED = explaining.explained, checking.check, judging.judge_on, unveiling.UnveilJob.run
_KNOWN: dict[str, Any] = {}


def _once(name: str, function: Callable[..., Any], *given: Any, **options: Any) -> Any:
    if name not in _KNOWN:
        _KNOWN[name] = function(*given, **options)
    return _KNOWN[name]


def _unveiled(job: unveiling.UnveilJob, send: Callable[..., None]) -> None:
    def run() -> list[Any]:
        sent: list[Any] = []
        UNVEILED(job, lambda *message: sent.append(message))
        return sent

    for message in _once("unveil", run):
        send(*message)


def _printed(
    command: str, monkeypatch: pytest.MonkeyPatch, folder: Path, *, columns: int, encoding: str = "utf-8", tty: bool
) -> str:
    """What a command writes to a standard output of this kind."""
    monkeypatch.chdir(folder)
    shutil.rmtree("exported", ignore_errors=True)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    raw = io.BytesIO()
    out = (_Terminal if tty else io.TextIOWrapper)(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert main(COMMANDS[command]) in (0, 1)
    out.flush()
    return raw.getvalue().decode(encoding)


class _Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("columns", "encoding"), [(80, "utf-8"), (80, "ascii"), (100, "latin-1"), (160, "utf-8")])
def test_a_pipe_gets_lines_that_fit_in_its_characters_without_colours(
    command: str, columns: int, encoding: str, monkeypatch: pytest.MonkeyPatch, prepared: Path
) -> None:
    out = _printed(command, monkeypatch, prepared, columns=columns, encoding=encoding, tty=False)
    assert out.strip()
    for line in out.splitlines():
        assert len(line) <= columns, line
    assert "\x1b" not in out
    assert not re.search(r"\\[uxU][0-9a-f]{2}", out), "spelled, not escaped"
    if encoding != "utf-8":
        assert out.isascii()


def test_colours_are_for_terminals_and_not_where_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, prepared: Path
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31mFAILED\x1b[0m" in _printed("check", monkeypatch, prepared, columns=80, tty=True)
    monkeypatch.setenv("NO_COLOR", "1")
    for command in ("verify", "check"):
        assert "\x1b" not in _printed(command, monkeypatch, prepared, columns=80, tty=True)


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("unveil", "min(5, (1 − t)²/t²)(v_θ − v_gt)/D"),
        ("watch-report", "wrong"),
        ("replay", "wrong (sign)"),
        ("vectors-check", "sign"),
        ("distributed", "zero_grad_inside_the_loop"),
    ],
)
def test_what_was_found_is_in_it(command: str, part: str, monkeypatch: pytest.MonkeyPatch, prepared: Path) -> None:
    """A line that fits because nothing was said would be no finding."""
    assert part in _printed(command, monkeypatch, prepared, columns=80, tty=False)


def test_brief_is_one_row_a_target(monkeypatch: pytest.MonkeyPatch, prepared: Path) -> None:
    out = _printed("check-brief", monkeypatch, prepared, columns=80, tty=False)
    assert out == "test_awm: does not conform (advantage-averaged)\n"


def test_a_file_that_is_named_twice_is_judged_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one process, where it is imported anew each time: what an earlier import decorated is not found again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_mine.py").write_text(WRONG)
    quick = ["--isolation", "none", "--max-examples", "1", "--only", "determinism", "--brief"]
    assert main(["check", "test_mine.py", "test_mine.py", *quick]) == 0
    assert capsys.readouterr().out == "test_awm: conforms\n" * 2


def test_progress_is_silent_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress("half of it")
    progress.clear()
    assert capsys.readouterr().err == ""


def test_progress_leaves_nothing_of_a_longer_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress()
    for line in ("a long line", "short"):
        progress(line)
    progress.clear()
    assert capsys.readouterr().err == f"\ra long line\rshort{'':6}\r{'':5}\r"


# -------------------------------------------------------------------------------------------------- formulas

_ASIDES = ("the", "held")


@cache
def _formulas() -> list[str]:
    of_losses = [claim_text(s.claim, of=e.derivation) for e in CATALOGUE for s in e.derivation.all_steps]
    return of_losses + [claim_text(s.claim) for theorem in LEMMAS for s in theorem.steps]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("write", [str, spelled], ids=["unicode", "ascii"])
def test_formulas_are_broken_at_operators_alone_and_nothing_is_lost(width: int, write: object) -> None:
    broken = 0
    for formula in map(write, _formulas()):  # type: ignore[call-overload]
        first, *rest = wrap_formula(formula, width, "       ")
        broken += bool(rest)
        assert all(len(line) <= width for line in (first, *rest)), formula
        for line in rest:
            assert line.split()[0] in (*BREAKS, *_ASIDES), line
        joined = " ".join(line.strip() for line in (first, *rest))
        assert _plain(joined) == _plain(formula)
    assert broken > 50


def _plain(formula: str) -> str:
    """Without the sign that says that a product goes on."""
    return re.sub(r"\s+", " ", re.sub(r"(?<= )[·*] ", "", formula)).strip()


@pytest.mark.parametrize(
    ("formula", "width", "lines"),
    [
        ("L = a b", 80, ["L = a b"]),
        ("L = A m r k (ε + k δ) + β ‖v − w‖²", 28, ["L = A m r k (ε + k δ)", "    + β ‖v − w‖²"]),
        ("aaaa bbbb cccc dddd ε", 20, ["aaaa bbbb cccc dddd", "    · ε"]),
        ("f(a + bbbbbbbbbb, c) = 1   where a = 2", 30, ["f(a + bbbbbbbbbb, c) = 1", "    where a = 2"]),
    ],
)
def test_the_outermost_operator_is_broken_first(formula: str, width: int, lines: list[str]) -> None:
    assert wrap_formula(formula, width) == lines


def test_prose_keeps_short_formulas_whole() -> None:
    for width in range(20, 60):
        lines = wrap_words("the target lies at v_theta − g whatever g is, and so w = 1/2 in it", width)
        assert all(len(line) <= width for line in lines)
        text = "\n".join(lines)
        assert "v_theta − g" in text
        assert "w = 1/2" in text


@pytest.mark.parametrize(
    ("given", "ascii_text"),
    [
        ("v_θ − ε", "v_theta - eps"),
        ("‖x‖²", "||x||^2"),
        ("β⁻¹ ≈ √2", "beta^-1 ~= sqrt2"),
        ("Ã, r̃ and ᾱ", "A~, r~ and alphabar"),
        ("½ Δt → ∞", "1/2  Deltat -> inf"),
    ],
)
def test_ascii_says_what_was_meant(given: str, ascii_text: str) -> None:
    assert spelled(given) == ascii_text


def test_all_that_formulas_hold_can_be_spelled() -> None:
    for formula in _formulas():
        assert spelled(formula).isascii()
        assert "\\" not in spelled(formula)


def test_a_sentence_is_no_formula() -> None:
    assert is_formula("v_θ + A(v_gt − v_θ)")
    assert is_formula("2 min(5, (1 - t)^2/t^2)(v_theta - v_gt)/D")
    assert not is_formula("autograd agrees on 24 problems, difference = 2")
    assert not is_formula("v_theta")


# ------------------------------------------------------------------------------------------- explain, fields, new


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_every_letter_of_a_derivation_is_explained(entry: object) -> None:
    from derivations.writing.symbols import _all, letters_of

    d = entry.derivation  # type: ignore[attr-defined]
    explained = {letter.symbol for letter in letters_of(d)}
    assert all(letter.meaning for letter in letters_of(d))
    used = _all(d.all_steps).union(*(e.free_symbols for e in (d.loss, d.gradient, d.target, d.weight)))
    assert used <= explained


def test_letters_stand_before_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "flow_grpo"]) == 0
    out = capsys.readouterr().out
    assert out.index("velocity predicted by the model") < out.index("L = ")


@pytest.mark.parametrize("name", ["awm", "flow_grpo", "diffusion_dpo"])
def test_fields_are_those_of_a_case(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    import torch

    from gradcheck.conventions import declare
    from gradcheck.oracle.problem import oracle_case
    from gradcheck.problems.building import Spec

    assert main(["fields", name, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    case = oracle_case(declare(name), Spec(4, (3, 2), seed=1), torch.float64, "cpu")
    assert [f["name"] for f in fields] == list(case.names)
    for field in fields:
        value = getattr(case, field["name"])
        shapes = {"(B, *latent)": (4, 3, 2), "(B,)": (4,)}
        if field["shape"] in shapes:
            assert value.shape == shapes[field["shape"]]
        assert field["meaning"]


@pytest.mark.parametrize(("name", "declared"), [("diffusion_dpo", "pairs=halves"), ("dgpo", "groups=8")])
def test_fields_say_that_whole_pairs_and_groups_can_be_declared(
    name: str, declared: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fields", name]) == 0
    assert f"--declare {declared}" in " ".join(capsys.readouterr().out.split())
    assert main(["fields", name, "--declare", declared]) == 0
    assert "--declare" not in capsys.readouterr().out


PAIRS = """import gradcheck


@gradcheck.conforms("diffusion_dpo", reduction="mean"{declared})
def test_dpo(case):
    error = lambda v: ((v - case.noise + case.x_0) ** 2).flatten(1).mean(1)
    winner, loser = (error(case.v_theta) - error(case.v_ref)).chunk(2)
    return -(-case.beta_dpo * (winner - loser)).sigmoid().log().mean()
"""


def test_what_a_newcomer_has_not_declared_is_pointed_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code that takes whole pairs raises on an odd batch: the answer says where to find what to declare."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "test_dpo.py"
    file.write_text(PAIRS.format(declared=""))
    assert main(["check", "test_dpo.py", "--isolation", "none", "--max-examples", "3"]) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "perhaps your code follows conventions that are not declared" in told
    assert "`gradcheck list --options`" in told
    assert main(["list", "--options"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in ("pairs", "groups", "clip_range", "latent_axes", *PRESETS))
    file.write_text(PAIRS.format(declared=', pairs="halves"'))
    assert main(["check", "test_dpo.py", "--isolation", "none", "--max-examples", "3"]) == 0
    file.write_text(WRONG)
    assert main(["check", "test_dpo.py", *_QUICK]) == 1
    assert "perhaps" not in capsys.readouterr().out, "where the cause is known there is nothing to guess"


FILLED = "    error = (v_theta - (noise - x_0)) ** 2\n    return (advantage * error.flatten(1).sum(1)).mean()\n"


def test_a_new_test_fails_clearly_until_it_is_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "AWM"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "test_awm.py"
    file.write_text(text, encoding="utf-8")
    assert main(["check", str(file), *_QUICK]) == 2
    says = "compute your loss from the quantities above and return it"
    line = text.splitlines().index(f'    raise NotImplementedError("{says}")') + 1
    assert f"NotImplementedError: {says} (test_awm.py:{line})" in capsys.readouterr().err.replace("\n  ", " ")
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(file), "-k", "gradient"]
    ran = subprocess.run(pytest_, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 1
    assert "NotImplementedError: compute your loss" in ran.stdout
    file = tmp_path / "test_filled.py"
    file.write_text(re.sub(r"    raise NotImplementedError.*\n", FILLED, text), encoding="utf-8")
    assert main(["check", str(file), *_QUICK]) == 0
    assert "test_awm conforms" in capsys.readouterr().out


@pytest.mark.parametrize("declared", [["flow_grpo", "--declare", "kl=step"], ["--loss", "A*norm2(v_theta - v_gt)"]])
def test_a_new_test_declares_what_was_asked_for(declared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", *declared]) == 0
    names: dict[str, object] = {"__name__": "test_new"}
    exec(compile(capsys.readouterr().out, "test_new.py", "exec"), names)
    (subject,) = [x.gradcheck_subject for x in names.values() if hasattr(x, "gradcheck_subject")]
    described = subject.conventions.describe()
    assert ("kl='step'" in described) == ("--declare" in declared)
    assert ("A*norm2(v_theta - v_gt)" in described) == ("--loss" in declared)


# ----------------------------------------------------------------------------------------------- scripts in files


def test_the_script_of_a_failure_is_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_mine.py").write_text(WRONG)
    assert main(["check", "test_mine.py", "--max-examples", "2", "--only", "gradient"]) == 1
    (command,) = re.findall(r"^  reproduce  (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert command == "python .gradcheck/test_awm-gradient.py"
    ran = subprocess.run([sys.executable, *command.split()[1:]], capture_output=True, text=True, cwd=tmp_path)
    assert "AssertionError: the gradient obligation fails" in ran.stderr
    assert (tmp_path / ".gradcheck" / ".gitignore").read_text() == "*\n"


def test_where_no_file_can_be_written_the_script_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_mine.py").write_text(WRONG)
    (tmp_path / ".gradcheck").write_text("a file in the folder's place")
    assert main(["check", "test_mine.py", "--max-examples", "2", "--only", "gradient"]) == 1
    out = capsys.readouterr().out
    assert "reproduce  save and run this:" in out
    assert "case = Case('awm[declared]', quantities)" in out


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_stream_that_was_closed_before_the_command_began_leaves_the_status(closed: str) -> None:
    command = f'"$0" -m gradcheck derive "A*norm2(v_theta - v_gt)" --problems 2 {closed}'
    ran = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
