"""The study runs, every method learns, and a search chooses as it says."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from gradcheck.toy.reading import agreement
from gradcheck.toy.scores import NEAR, Results, best, held, late, reached, score, spread
from gradcheck.toy.study import REDUCED, Study
from gradcheck.toy.training import METHODS

TINY = dataclasses.replace(REDUCED, pretraining=600, iterations=(12,), seeds=3, noise_at=(), walk=1, picture=5)


@pytest.fixture(scope="module")
def results() -> Results:
    chosen = {name: {"16": 1e-3} for name in METHODS}
    return Study(TINY).run(chosen)


def test_every_method_learns(results: Results) -> None:
    """The worst seed gains more than five standard errors of a mean over 512 rewards in [0, 1], each below 0.5/√512."""
    margin = 5 * 0.5 / 512**0.5
    curves = {curve["method"]: curve for curve in results["curves"]}
    assert set(curves) == set(METHODS)
    for curve in curves.values():
        assert curve["reward"]["median"][0] == pytest.approx(results["base"]["reward"], abs=1e-4)
        assert curve["reward"]["low"][-1] > results["base"]["reward"] + margin


def test_results_are_json_without_nan(results: Results) -> None:
    assert json.loads(json.dumps(results, allow_nan=False))["settings"]["group"] == 16
    for found in results["equivalence"]:
        assert found["holds"]
    assert agreement(results, results).text.count("yes") == 2 * len(METHODS)


def test_disagreement_is_seen(results: Results) -> None:
    worse = json.loads(json.dumps(results))
    worse["curves"][0]["reward"]["median"][-1] -= 0.5
    assert agreement(worse, results).text.count("  no") == 1


def test_models_that_break_earn_nothing() -> None:
    study = Study(dataclasses.replace(TINY, pretraining=20))
    study.base = [torch.full_like(p, torch.nan) for p in study.base]
    curve, _ = study.curve("awm", METHODS["awm"].but(samples=16), 1, 2)
    assert curve["reward"]["high"] == [0.0, 0.0]
    assert json.dumps(curve, allow_nan=False)


def test_the_search_takes_the_most_cautious_of_the_best() -> None:
    scores = {1e-4: 0.5, 1e-3: 0.9 - 0.9 * NEAR, 3e-3: 0.9, 1e-2: 0.9 - 1.1 * NEAR}
    search = [{"method": "m", "samples": 16, "learning_rate": rate, "mean": score} for rate, score in scores.items()]
    assert best(search) == {"m": {"16": 1e-3}}


def test_reached_is_between_two_measurements() -> None:
    curve = {"iteration": [0, 4, 8], "reward": {"median": [0.2, 0.8, 1.0]}}
    assert reached(curve, 0.9) == pytest.approx(6.0)
    assert reached(curve, 1.1) is None


def test_a_score_is_a_mean_over_time() -> None:
    """Measurements lie closer together at the beginning; that must not count them twice."""
    assert score([0, 1, 2, 10], torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.5, 1.5]])) == 0.4


def test_late_is_the_last_quarter_of_each_seed() -> None:
    rewards = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.9, 0.5]])
    found = late([0, 2, 6, 8], rewards)
    assert found.tolist() == pytest.approx([0.95, 0.25])
    assert held({"late": found.tolist()}) == 0.5


def test_spread_is_over_seeds() -> None:
    assert spread(torch.tensor([[3.0, 1.0, 2.0]])) == {"median": [2.0], "low": [1.0], "high": [3.0]}
