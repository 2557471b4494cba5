"""The picture of the theorems is drawn from their formulas, and shows what its words say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from PIL import Image

from derivations.local_names import kappa
from derivations.notation import D, clip_high, clip_low, noise_level, t
from derivations.theorems.value import data_std
from gradcheck.plots.averages import averages_picture, main, values


def test_the_slopes_are_those_of_the_gaussian() -> None:
    """Of a sampler run in small steps on unit Gaussian data, t = 1/2: 1.299 at η = 0.7, √2 without noise."""
    at = np.array([0.5])
    for level, ratio in ((0.7, 1.299), (1e-9, math.sqrt(2)), (math.sqrt(2), 1.0)):
        drawn = values("value-function", "slope-ratio", {noise_level: sp.Float(level), data_std: sp.S.One}, t, at)
        assert drawn[0] == pytest.approx(ratio, abs=5e-4)


def test_a_small_clip_of_a_mean_cuts_from_below_alone() -> None:
    given = {D: sp.Integer(65_536), clip_low: sp.Float(1e-4), clip_high: sp.Float(1e-4)}
    below, above = (
        values("clip", f"clipped-{s}-mean", given, kappa, np.array([2.0, 3.62, 6.0])) for s in ("down", "up")
    )
    assert list(below) == sorted(below)
    assert below[1] == pytest.approx(0.5, abs=1e-3)
    assert max(above) < 2e-4


def test_every_panel_has_its_curves_and_names() -> None:
    for axes in averages_picture().axes:
        assert len(axes.lines) > 1
        assert axes.get_title(loc="left")
        assert axes.get_xlabel()
        assert all(np.isfinite(line.get_ydata()).all() for line in axes.lines)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    out = tmp_path / "x.png"
    assert main([str(out)]) == 0
    with Image.open(out) as image:
        assert image.width == 1400
