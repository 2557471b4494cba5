"""The trial judges on seeds that tuned nothing, at one length and one cost; and its claims are what it measured."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from gradcheck.toy import training
from gradcheck.toy.scores import best
from gradcheck.toy.trial import ARMS, FULL, JUDGED, TUNING, Scale, Trial, interval, median_interval
from gradcheck.toy.verdicts import (
    arms_table,
    collapse_table,
    collapsed,
    held,
    judged_table,
    slope,
    slopes_table,
    tuned_table,
)

PATH = Path(__file__).parents[2] / "notebooks/results/trial.json"
TINY = Scale(200, (1e-3,), (16,), 2, 2, 3, (1e-3,), 2)


@pytest.fixture(scope="module")
def trial() -> Trial:
    return Trial(TINY)


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_evaluates_the_network_as_often(trial: Trial, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where the network is evaluated, beside the trainer's own count: 10 to sample, and 32 to train."""
    rows = 0
    evaluate = training.velocity

    def counted(parameters: Any, x: torch.Tensor, t: Any) -> torch.Tensor:
        nonlocal rows
        rows += x.shape[1]
        return evaluate(parameters, x, t)

    monkeypatch.setattr(training, "velocity", counted)
    found = trial.seen(name, 16, 1e-3)
    assert found["evaluations"] == 42
    assert rows == 42 * 16 * TINY.iterations


def test_no_seed_tunes_and_judges(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    draws = training.Draws
    monkeypatch.setattr(training, "Draws", lambda seeds, dtype: seen.append(set(seeds)) or draws(seeds, dtype))
    for tuning in (True, False):
        trial.seen("awm", 16, 1e-3, tuning)
    assert not seen[0] & seen[1]
    assert not set(range(TUNING, TUNING + FULL.tuning)) & set(range(JUDGED, JUDGED + FULL.judged))


def test_a_whole_trial_runs() -> None:
    results = json.loads(json.dumps(Trial(dataclasses.replace(TINY, pretraining=20)).run(), allow_nan=False))
    assert {found["method"] for found in results["judged"]} == set(ARMS)
    for shown in (arms_table, tuned_table, judged_table):
        assert all(arm.title in shown(results).text for arm in ARMS.values())
    assert collapse_table(results).text.count("of 3") >= 10
    assert len(slopes_table(results).text.splitlines()) == 4


@pytest.mark.parametrize("of", [12, 48])
def test_intervals_hold_what_they_say(of: int) -> None:
    """Wilson's, over binomial counts: near 95 % on average over shares, and never much below."""
    covered = []
    for share in (0.05, 0.2, 0.5, 0.8, 0.97):
        chance = 0.0
        for hits in range(of + 1):
            low, high = interval(hits, of)
            chance += math.comb(of, hits) * share**hits * (1 - share) ** (of - hits) * (low <= share <= high)
        covered.append(chance)
    assert min(covered) > 0.88
    assert sum(covered) / len(covered) > 0.93


def test_the_median_s_interval_holds_the_median() -> None:
    """By the binomial law of how many of 48 values lie below the median; a rank further in would not do."""
    middle, low, high = median_interval([float(i) for i in range(1, 49)])
    assert middle == 24.5
    assert low + high == 49
    outside = 2 * sum(math.comb(48, i) for i in range(int(low))) / 2**48
    assert outside <= 0.05 < outside + 2 * math.comb(48, int(low)) / 2**48


# The committed results


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(PATH.read_text())
    return loaded


def measured(
    results: dict[str, Any], part: str, method: str, samples: int, rate: float | None = None
) -> dict[str, Any]:
    (found,) = [
        f
        for f in results[part]
        if (f["method"], f["samples"]) == (method, samples) and rate in (None, f["learning_rate"])
    ]
    return dict(found)


def time(found: dict[str, Any]) -> tuple[float, float, float]:
    return median_interval([math.inf if x is None else x for x in found["first"]])


def test_it_is_the_full_trial(results: dict[str, Any]) -> None:
    assert results["scale"] == json.loads(json.dumps(vars(FULL)))
    assert FULL.judged >= 48
    assert results["chosen"] == best(results["tuned"])
    assert {found["evaluations"] for found in results["judged"] + results["collapse"]} == {42}
    assert all(len(found["late"]) == FULL.judged for found in results["judged"] + results["collapse"])


def test_no_best_rate_lies_at_the_grid_s_edge(results: dict[str, Any]) -> None:
    for name in ARMS:
        for n in FULL.batches:
            of = {f["learning_rate"]: f["mean"] for f in results["tuned"] if (f["method"], f["samples"]) == (name, n)}
            inner = FULL.rates[1:-1]
            assert max(of, key=lambda rate: of[rate]) in inner
            assert results["chosen"][name][str(n)] in inner


def apart(a: dict[str, Any], b: dict[str, Any], count: Any) -> bool:
    """Whether a's share lies above b's by their intervals."""
    return interval(count(a), len(a["late"]))[0] > interval(count(b), len(b["late"]))[1]


def test_awm_collapses_without_ratio_and_clip_and_less_often_with_them(results: dict[str, Any]) -> None:
    plain, ratio, clipped = (
        {rate: measured(results, "collapse", name, 16, rate) for rate in FULL.collapse_rates}
        for name in ("awm", "awm_ratio", "awm_clipped")
    )
    assert interval(collapsed(plain[3e-3]), FULL.judged)[0] > 0.4
    assert apart(ratio[3e-3], plain[3e-3], held)
    assert apart(clipped[3e-3], plain[3e-3], held)
    assert interval(collapsed(clipped[3e-3]), FULL.judged)[0] > 0.2, "the clip prevents it"
    for rate in FULL.collapse_rates:
        assert not apart(clipped[rate], ratio[rate], held), "the clip does more than the ratio"


def test_what_is_fast(results: dict[str, Any]) -> None:
    """At each arm's own learning rate, by intervals of the median time."""
    for n in FULL.batches:
        flow, awm, clipped, nft, clamped = (
            time(measured(results, "judged", name, n))
            for name in ("flow_grpo", "awm", "awm_clipped", "diffusion_nft", "diffusion_nft_5")
        )
        assert flow[2] < nft[1]
        assert nft[2] < min(awm[1], clipped[1])
        assert clamped[1] > 2 * nft[2]
    reversal = time(measured(results, "judged", "flow_grpo_reversal", 64))
    assert reversal[1] <= flow[2]
    assert flow[1] <= reversal[2]


def test_what_bears_large_steps(results: dict[str, Any]) -> None:
    scores = {(f["method"], f["samples"], f["learning_rate"]): f["mean"] for f in results["tuned"]}
    for n in FULL.batches:
        assert scores["diffusion_nft", n, 0.1] > 0.7
        assert max(scores[name, n, 0.1] for name in ARMS if not name.startswith("diffusion_nft")) < 0.1
        assert held(measured(results, "judged", "grpo_guard", n)) == FULL.judged
    assert scores["flow_grpo_reversal", 16, 0.01] > scores["flow_grpo", 16, 0.01] + 0.1
    assert scores["flow_grpo_reversal", 64, 0.03] > scores["flow_grpo", 64, 0.03] + 0.3
    assert scores["awm", 16, 1e-4] > scores["flow_grpo", 16, 1e-4] + 0.1


def test_without_the_division_the_gradient_is_the_slope(results: dict[str, Any]) -> None:
    """Theorem T5: (1 − 1/G) of it; 8 repetitions, whose mean is off by 4 standard errors once in some 200 times."""
    for row in results["slopes"]:
        mean, error = slope(row, "undivided", "coefficient")
        assert abs(mean - 1) < 4 * error < 0.08
        assert slope(row, "divided", "coefficient")[0] > 2
        assert slope(row, "divided", "cosine")[0] > 0.98
