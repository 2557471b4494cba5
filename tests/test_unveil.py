"""Unveil finds the catalogue's formulas from code alone, and says none where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy as sp
import torch
from torch import Tensor

from derivations import calculus
from derivations import notation as n
from derivations.calculus import ClipMask
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.cli import main
from gradcheck.oracle.unveil import unveil, unveiled_text


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_the_catalogues_formulas_are_found(entry: Entry) -> None:
    """The formula read off the numbers is, by proof, the derived gradient inside the clip."""
    found = unveil(lambda case: entry.loss(case).mean(), entry.label)
    derivation = entry.derivation
    assert found.reason == ""
    assert found.gradient is not None
    assert found.weight is not None
    assert found.target is not None
    inside = derivation.gradient.xreplace(dict.fromkeys(derivation.gradient.atoms(ClipMask), sp.S.One))
    numbers = {n.omega: derivation.coefficients.get(n.omega), n.sigma_t: n.C2 / sp.sqrt(n.dt)}
    numbers = {symbol: formula for symbol, formula in numbers.items() if formula is not None}
    difference = derivation.inline(found.gradient) - derivation.inline(inside)
    assert calculus.is_zero(difference.xreplace(numbers))
    towards = 2 * found.weight * (n.v_theta - found.target)
    assert calculus.is_zero(derivation.inline(towards) - derivation.inline(found.gradient)), "lemma L1"
    assert found.reduction == "mean"
    assert found.fixed == (derivation.policy == "off" or entry.symbolic.NAME == "rwr")
    if found.clipped > 0:
        assert derivation.gradient.has(ClipMask)
    assert any(match.startswith(f"{entry.label}, batch_reduction='mean'") for match in found.matches)


def _smooth_l1(case: Any) -> Tensor:
    return torch.nn.functional.smooth_l1_loss(case.v_theta, case.x_0)


def _cosine(case: Any) -> Tensor:
    a, b = case.v_theta.flatten(1), (case.noise - case.x_0).flatten(1)
    return (1 - torch.nn.functional.cosine_similarity(a, b)).mean()


def _cubic(case: Any) -> Tensor:
    return (case.advantage * (case.v_theta - case.noise).flatten(1).abs().pow(3).sum(1)).mean()


def _across_samples(case: Any) -> Tensor:
    return ((case.v_theta - case.v_theta.roll(1, 0)) ** 2).mean()


@pytest.mark.parametrize("function", [_smooth_l1, _cubic, _across_samples, _cosine], ids=lambda f: f.__name__)
def test_an_unrelated_loss_is_none_of_them(function: Callable[[Any], Tensor]) -> None:
    found = unveil(function, "unrelated")
    assert found.matches == ()
    assert found.gradient is None
    assert found.reason
    assert "catalogue  none" in unveiled_text(found)


def test_a_new_loss_is_read_though_nobody_named_it() -> None:
    """Not in the catalogue: pull to v_gt with the advantage squared, and hold at the reference."""

    def loss(case: Any) -> Tensor:
        to_gt = ((case.v_theta - (case.noise - case.x_0)) ** 2).flatten(1).mean(1)
        to_ref = ((case.v_theta - case.v_ref) ** 2).flatten(1).mean(1)
        return (3 * case.advantage**2 * to_gt + case.kl_weight * to_ref).sum()

    found = unveil(loss, "mine")
    assert found.matches == ()
    assert found.reduction == "sum"
    text = unveiled_text(found)
    assert "gradient   6A² (1/D)(v_θ − v_gt) + (2β_KL/D)(v_θ − v_ref)" in text or "(6A²/D)(v_θ − v_gt)" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def loss(case):\n"
        "    error = (case.v_theta - case.noise + case.x_0) ** 2\n"
        "    return (case.advantage * error.flatten(1).sum(1)).mean()\n"
    )
    assert main(["unveil", f"{file}::loss"]) == 0
    out = capsys.readouterr().out
    assert "gradient   2A(v_θ − v_gt)" in out
    assert "catalogue  awm, batch_reduction='mean'" in out
    assert main(["unveil", f"{file}::nothing"]) == 2
    file.write_text("def loss(case):\n    return case.banana\n")
    assert main(["unveil", f"{file}::loss"]) == 2
    assert "has no quantity 'banana'" in capsys.readouterr().err
