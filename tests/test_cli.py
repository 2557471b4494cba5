"""The commands as a user meets them: what they print, what they write, and the status they exit with."""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gradcheck import catalogue
from gradcheck.catalogue import CATALOGUE
from gradcheck.doors.cli import main
from gradcheck.verifying import report, verification

QUICK = ["--max-examples", "3", "--no-networks", "--device", "cpu"]


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    out, err = capsys.readouterr()
    return status, out, err


def test_verify_says_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "verify", "awm", *QUICK)
    assert status == 0
    assert "everything holds" in out
    assert "gradient  = 2A(v_θ − v_gt)" in out
    variants = sum(e.algorithm.name == "awm" for e in CATALOGUE) - 1
    assert f"{variants} more variants hold; --all shows them" in out
    assert "Networks were not checked: not asked for." in out
    assert "CUDA was not checked" in out
    assert err == "", "progress is for terminals alone"


def test_verify_shows_every_variant_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["awm", "--all"], [f"awm[{v}]" for v in ("paper", "mean", "clipped-ghuber")]):
        status, out, _ = run(capsys, "verify", *more, *QUICK)
        assert status == 0
        assert "AWM [mean]: forward process, on-policy" in out
        assert "AWM [clipped-ghuber]" in out
        assert "more variant" not in out


def test_long_work_shows_its_progress_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _, out, err = run(capsys, "verify", "awm[mean]", *QUICK)
    assert "awm[mean]: 3 problems in float32 on cpu: largest test ratio" in err
    assert "\n" not in err, "it stays on one line"
    assert err.endswith("\r"), "which is left empty"
    assert "\r" not in out


def test_verify_writes_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    status, _, _ = run(
        capsys, "verify", "awm", "diffusion_nft[adaptive]", *QUICK, "--dtype", "float64", "--json", str(file)
    )
    data = json.loads(file.read_text())
    assert status == 0
    assert data["schema"] == {"name": "gradcheck-verify", "version": report.JSON_VERSION}
    assert data["holds"] is True
    assert [r["name"] for r in data["results"]][-1] == "diffusion_nft[adaptive]"
    for result in data["results"]:
        assert all(step["proved"] for step in result["proof"]["steps"])
        assert [c["dtype"] for c in result["checks"]] == ["float64"]
        assert all(0 <= c["gradient_ratio"] <= data["threshold"] for c in result["checks"])


def test_the_same_seed_gives_the_same_figures() -> None:
    def figures(seed: int) -> list[float]:
        seen = verification.verify("grpo_guard[mean]", device="cpu", max_examples=5, seed=seed, with_networks=False)
        return [c.gradient for r in seen.results for c in r.checks]

    assert figures(1) == figures(1)
    assert figures(1) != figures(2)


def _wrong_loss(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    right = catalogue.entry("awm")

    def loss(case: Any, **options: str) -> torch.Tensor:
        value: torch.Tensor = factor * right.by_hand(case, **options)
        return value

    wrong = replace(right, by_hand=loss)
    monkeypatch.setattr(verification, "entries", lambda *names: (wrong,))


def test_a_wrong_loss_exits_with_1_and_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    _wrong_loss(monkeypatch, 2.0)
    status, out, _ = run(capsys, "verify", "awm", *QUICK)
    assert status == 1
    assert "FAILED awm in float64 on cpu: autograd of the original loss differs from the derived gradient" in out
    assert "smallest problem: Spec(batch=1, latent=(1,)" in out, "it was shrunk"
    assert "FAILED: 2 " not in out
    assert "2 FAILED" in out


def test_a_wrong_step_exits_with_1_and_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = catalogue.entry("awm")
    wrong = replace(right.derivation, gradient=2 * right.derivation.gradient, target=right.derivation.target)
    monkeypatch.setattr(catalogue, "_derive", lambda module, variant: wrong)
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = run(capsys, "verify", "awm[mean]", *QUICK)
    assert status == 1
    assert "step 'gradient' is refused" in out
    assert "what is left of it, and should be 0:" in out


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["verify", "flow_grop"], ["name", "'flow_grop'", "flow_grpo"]),
        (["verify", "awm[nope]"], ["name", "awm[nope]", "awm[clipped]"]),
        (["verify", "--device", "tpu"], ["device", "'tpu'", "cpu, cuda or all"]),
        (["verify", "--dtype", "half"], ["dtype", "'half'", "float64, float32"]),
        (["verify", "--max-examples", "0"], ["max_examples", "0", "at least 1"]),
        (["verify", "awm", "--json", "/no/such/folder/x.json"], ["--json", "/no/such/folder", "a folder that exists"]),
        (["explain", "ppo"], ["NAME", "'ppo'", "gradcheck list"]),
    ],
)
def test_what_is_not_understood_exits_with_2(
    capsys: pytest.CaptureFixture[str], argv: list[str], names: list[str]
) -> None:
    status, out, err = run(capsys, *argv)
    assert status == 2
    assert out == ""
    assert all(name in err for name in names), err
    assert "Traceback" not in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "verify", "awm", "--device", "cuda")
    assert status == 2
    assert "torch sees no CUDA device" in err


def test_list_shows_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == [e.label for e in CATALOGUE]


@pytest.mark.parametrize("name", ["flow_grpo", "flow_grpo[paper]", "awm[clipped]", "L2", "sde-cps", "ema"])
@pytest.mark.parametrize("latex", [[], ["--latex"]], ids=["text", "latex"])
def test_explain_shows_every_step(capsys: pytest.CaptureFixture[str], name: str, latex: list[str]) -> None:
    status, out, _ = run(capsys, "explain", name, *latex)
    assert status == 0
    entry = next((e for e in CATALOGUE if name in (e.label, f"{e.algorithm.name}[{e.variant}]")), None)
    if entry is not None:
        for step in entry.derivation.all_steps:
            assert step.name in out
    assert (r"\left\|" in out or "\\" in out) == bool(latex)


def test_a_command_s_own_process_ends_without_a_search_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a tenth of a check; whoever calls a command from Python keeps a collector that sees everything."""
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    monkeypatch.setattr(sys, "argv", ["gradcheck", "list", "--options"])
    assert main(["list", "--options"]) == 0
    assert not frozen
    assert main() == 0
    assert frozen
