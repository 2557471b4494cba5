"""The committed results are those of the full plan, and bear the notebook's conclusions out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gradcheck.toy.rewards import CHOOSING
from gradcheck.toy.scores import best, held, reached
from gradcheck.toy.study import FULL
from gradcheck.toy.training import METHODS

PATH = Path(__file__).parents[2] / "notebooks/results/training.json"


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(PATH.read_text())
    return loaded


def cell(results: dict[str, Any], method: str, samples: int, rate: float) -> dict[str, Any]:
    """One run of the search."""
    wanted = (method, samples, rate)
    (found,) = [f for f in results["search"] if (f["method"], f["samples"], f["learning_rate"]) == wanted]
    return dict(found)


def runs(results: dict[str, Any], method: str, parameter: str) -> dict[tuple[float, bool], dict[str, Any]]:
    """Sweeps by value and by whether the learning rate is the raised one."""
    found = [f for f in results["sweeps"] if (f["method"], f["parameter"]) == (method, parameter)]
    low = min(f["learning_rate"] for f in found)
    return {(f["value"], f["learning_rate"] > low): f for f in found}


def test_it_is_the_full_plan(results: dict[str, Any]) -> None:
    assert results["plan"] == json.loads(json.dumps(asdict(FULL)))
    assert results["choosing"] == CHOOSING
    assert results["chosen"] == best(results["search"])
    assert PATH.stat().st_size < 200_000
    assert {c["method"] for c in results["curves"]} == set(METHODS)


def test_every_method_solves_the_task(results: dict[str, Any]) -> None:
    for curve in results["curves"]:
        assert max(curve["reward"]["median"]) > 0.95


def test_small_steps_favour_quiet_gradients(results: dict[str, Any]) -> None:
    """At the smallest learning rate Flow-GRPO is behind AWM, and less so with more samples."""
    rate = FULL.learning_rates[0]
    gaps = [cell(results, "awm", n, rate)["mean"] - cell(results, "flow_grpo", n, rate)["mean"] for n in FULL.batches]
    assert gaps[0] > 0.03
    assert 0 < gaps[1] < 0.6 * gaps[0]


def test_tuned_flow_grpo_is_as_fast_as_any(results: dict[str, Any]) -> None:
    for n in FULL.batches:
        first = {c["method"]: reached(c) or 1e9 for c in results["curves"] if c["samples"] == n}
        assert first["flow_grpo"] < 1.2 * min(first.values())
        assert first["awm"] > 2 * first["flow_grpo"]


def test_the_ratio_widens_awm_s_range(results: dict[str, Any]) -> None:
    for n in FULL.batches:
        assert cell(results, "awm_clipped", n, 3e-3)["held"] > cell(results, "awm", n, 3e-3)["held"] + 0.3
        assert cell(results, "awm", n, 1e-2)["held"] == 0
        assert cell(results, "awm_clipped", n, 1e-2)["held"] < 0.3
    assert cell(results, "awm", 16, 1e-3)["held"] <= 0.5
    clips = runs(results, "awm_clipped", "clip")
    assert all(held(clips[width, False]) == 1 for width in (0.02, 0.2, 0.999))
    assert all(held(clips[width, True]) < 0.9 for width in (0.02, 0.2, 0.999))


def test_flow_grpo_needs_its_clip(results: dict[str, Any]) -> None:
    clips = runs(results, "flow_grpo", "clip")
    assert held(clips[0.999, True]) < 0.25 < 0.75 < held(clips[0.2, True])


def test_diffusion_nft_is_braked_by_its_average_and_mostly_stable(results: dict[str, Any]) -> None:
    averages = runs(results, "diffusion_nft", "ema")
    times = [reached(averages[eta, False]) or 1e9 for eta in (0.0, 0.5, 0.9)]
    assert times[0] < times[1] < times[2]
    assert times[2] > 3 * times[0]
    assert held(averages[0.9, False]) == 1 > held(averages[0.0, False])
    for n in FULL.batches:
        assert {m for m in METHODS if cell(results, m, n, 1e-2)["held"] == 1} == {"diffusion_nft"}
    assert cell(results, "diffusion_nft", 64, 3e-3)["held"] == 0


def test_weighted_noise_is_noisy_and_points_the_right_way(results: dict[str, Any]) -> None:
    at_base = {f["method"]: f for f in results["noise"] if f["iteration"] == 0}
    critical = {name: f["critical_batch"]["median"][0] for name, f in at_base.items()}
    assert critical["flow_grpo"] > 2 * critical["grpo_guard"] > 4 * critical["awm"]
    assert at_base["flow_grpo"]["alignment_sde"]["median"][0] == pytest.approx(1, abs=0.05)
    assert at_base["awm"]["alignment_sde"]["median"][0] < 0.95


def test_the_equivalent_loss_is_equivalent_at_every_update(results: dict[str, Any]) -> None:
    for found in results["equivalence"]:
        assert found["holds"]
        assert found["judged"] > 0.99
        assert found["apart"][0] < 1e-10
