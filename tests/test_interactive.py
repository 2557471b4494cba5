"""The interactive page loads nothing, and its numbers are :func:`gradcheck.target`'s."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from derivations.calculus import drop_sg
from derivations.losses._policy_gradient import mask
from derivations.notation import NOTATION
from derivations.pieces import Piece
from gradcheck import target
from gradcheck.case import Case
from gradcheck.catalogue import Entry, entries
from gradcheck.derived.compiled import evaluate
from gradcheck.plots.interactive import LOSSES, main, page, script
from gradcheck.problems.building import Spec, build
from gradcheck.problems.regimes import POLICY

ROOT = Path(__file__).parent.parent
NODE = shutil.which("node")
VECTORS = ("v_theta", "v_old", "v_gt", "noise")
BATCH = 6


def settings(case: Case) -> list[dict[str, Any]]:
    """What the page is given, for each sample of a case in two dimensions."""
    out: list[dict[str, Any]] = [{"D": 2} for _ in range(BATCH)]
    for name in set(case.names) & {quantity.name for quantity in NOTATION}:
        value = getattr(case, name)
        rows = torch.as_tensor(value, dtype=torch.float64).detach()
        for i, q in enumerate(out):
            row = rows[i] if rows.ndim else rows
            if name in VECTORS or row.ndim == 0:
                q[name] = row.tolist()
    return out


@pytest.mark.skipif(NODE is None, reason="there is no node here to run the page's formulas")
@pytest.mark.parametrize("e", entries(*LOSSES), ids=lambda e: e.label)
def test_the_numbers_are_the_targets(e: Entry) -> None:
    """On-policy, near it and far, the clip open and shut on either side."""
    derivation = e.derivation
    clipped = Piece.RATIO in derivation.pieces
    cases = [
        build(derivation, Spec(batch=BATCH, latent=(2,), seed=seed, policy=policy, time="middle"))
        for seed in range(2)
        for policy in (POLICY if clipped else POLICY[:3])
    ]
    given = [q for case in cases for q in settings(case)]
    code = f"{script()}\nconst given = {json.dumps(given)};\n"
    code += f"console.log(JSON.stringify(given.map(losses[{json.dumps(e.label)}].at)));"
    assert NODE is not None
    shown = json.loads(subprocess.run([NODE, "-e", code], capture_output=True, text=True, check=True).stdout)
    masks = set()
    for j, case in enumerate(cases):
        weight, point = target(e.algorithm.name, case, variant=e.variant)
        for i in range(BATCH):
            found = shown[BATCH * j + i]
            # A handful of operations on numbers of some 10, and exp of a log-ratio whose terms are no larger.
            where = torch.tensor(found["target"], dtype=torch.float64)
            torch.testing.assert_close(where, point[i].double(), rtol=1e-11, atol=1e-11)
            assert found["weight"] == pytest.approx(
                float(torch.as_tensor(weight).flatten().expand(BATCH)[i]), rel=1e-12
            )
        if clipped:
            (held,) = evaluate(derivation, case, drop_sg(mask))
            required = held.flatten().tolist()
            assert [shown[BATCH * j + i]["mask"] for i in range(BATCH)] == required
            masks |= set(required)
    assert masks == ({0.0, 1.0} if clipped else set())


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
