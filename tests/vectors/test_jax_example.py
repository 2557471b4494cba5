"""The example in JAX, run as its own text says: its answers hold, and with one sign flipped they do not."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gradcheck.vectors.checking import check
from gradcheck.vectors.export import export

EXAMPLE = Path(__file__).parents[2] / "examples" / "jax_losses.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason='JAX is not installed (pip install "gradcheck-rl[jax]")'
)


def run(script: Path, *arguments: str | Path) -> None:
    """In a process of its own: JAX has threads, and settings for the whole process."""
    quick = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", script, *arguments], env=quick, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_example_holds(tmp_path: Path) -> None:
    """In float64; what the text exports is what the example answers."""
    command = re.search(r"vectors export --out vectors (.*)\n", EXAMPLE.read_text(encoding="utf-8"))
    assert command is not None
    names = [word.strip("'") for word in command[1].split()]
    assert len(names) >= 4
    export(tmp_path / "vectors", *names)
    run(EXAMPLE, tmp_path / "vectors", tmp_path / "answers", "float64")
    answered = check(tmp_path / "vectors", tmp_path / "answers", dtypes=["float64"])
    assert len(answered) == len(names)
    assert all(a.holds and all(c.loss is not None for c in a.cases) for a in answered), answered


def test_a_flipped_sign_does_not(tmp_path: Path) -> None:
    """AWM, in both precisions, with v_gt = x_0 − noise."""
    text = EXAMPLE.read_text(encoding="utf-8")
    right = 'x["advantage"] * over_latent(jnp.sum, (v - (x["noise"] - x["x_0"])) ** 2)'
    assert text.count(right) == 1
    wrong = tmp_path / "wrong.py"
    wrong.write_text(text.replace(right, right.replace("(v - (", "(v + (")), encoding="utf-8")
    export(tmp_path / "vectors", "awm[paper]")
    for script, holds in ((EXAMPLE, True), (wrong, False)):
        run(script, tmp_path / "vectors", tmp_path / script.stem)
        answered = check(tmp_path / "vectors", tmp_path / script.stem)
        assert [a.holds for a in answered] == [holds, holds]
    assert all(a.cases[0] in a.failed for a in answered)
