"""The interactive page loads nothing, and its numbers are :func:`gradcheck.target`'s."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from gradcheck import target
from gradcheck.catalogue import entry
from gradcheck.plots.interactive import LOSSES, main, page, script
from gradcheck.problems import Spec, build

ROOT = Path(__file__).parent.parent
NODE = shutil.which("node")
NAMES = ("v_theta", "v_old", "v_gt", "noise", "advantage", "beta", "C1", "C2", "dt", "clip_low", "clip_high")
NAMES += ("reward_prob",)


@pytest.mark.skipif(NODE is None, reason="there is no node here to run the page's formulas")
@pytest.mark.parametrize("name", LOSSES)
def test_the_numbers_are_the_targets(name: str) -> None:
    derivation = entry(name).derivation
    for seed in range(3):
        case = build(derivation, Spec(batch=6, latent=(2,), seed=seed, clip=1, policy="near", time="middle"))
        weight, point = target(name, case)
        problems = []
        for i in range(6):
            q = {}
            for symbol in NAMES:
                if symbol in case.names:
                    value = torch.as_tensor(getattr(case, symbol), dtype=torch.float64)
                    q[symbol] = (value[i] if value.ndim else value).detach().double().reshape(-1).tolist()
                    q[symbol] = q[symbol] if len(q[symbol]) == 2 else q[symbol][0]
            problems.append(q)
        code = f"{script()}\nconst all = {json.dumps(problems)};\nconst l = losses.{name};\n"
        code += "console.log(JSON.stringify(all.map((q) => [l.target(q), l.weight(q)])));"
        assert NODE is not None
        shown = json.loads(subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=True).stdout)
        for i, (at, w) in enumerate(shown):
            # exp of a log-ratio whose terms are some 10 times as large as it is
            torch.testing.assert_close(torch.tensor(at, dtype=torch.float64), point[i].double(), rtol=1e-9, atol=1e-9)
            assert w == pytest.approx(float(torch.as_tensor(weight).flatten().expand(6)[i]), rel=1e-12)


def test_it_loads_nothing() -> None:
    text = page()
    assert "/* FORMULAS */" not in text
    assert not re.search(r"""(src|href)=|url\(|import\s|fetch\(|@import""", text)
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a namespace, not a place


def test_the_committed_page_is_the_generated_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    out = tmp_path / "pulls.html"
    assert main([str(out)]) == 0
    assert out.read_text() == (ROOT / "docs" / "assets" / "pulls.html").read_text()
