"""What is made of measurements: medians and bands over seeds, a run's score, and the search's choice."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["NEAR", "Results", "best", "held", "late", "reached", "rounded", "score", "spread"]

Results = dict[str, Any]
"""Nested dictionaries and lists of numbers and strings, as JSON holds them."""

NEAR = 0.02
"""Scores no further apart than this are held equal, and the more cautious learning rate is taken."""


def best(search: Sequence[Results]) -> Results:
    """The learning rate that the search chooses, by method and number of samples."""
    chosen: Results = {}
    for key in dict.fromkeys((found["method"], found["samples"]) for found in search):
        of_key = [found for found in search if (found["method"], found["samples"]) == key]
        top = max(found["mean"] for found in of_key)
        good = [found["learning_rate"] for found in of_key if found["mean"] >= top - NEAR]
        chosen.setdefault(key[0], {})[str(key[1])] = min(good)
    return chosen


def score(at: Sequence[int], rewards: Tensor) -> float:
    """The reward's mean over the run, by the trapezoidal rule, and over seeds.

    Args:
        at: iterations that were measured.
        rewards: there, (moments, S).
    """
    times = torch.tensor(at, dtype=rewards.dtype)
    return round(float(torch.trapezoid(rewards.mean(1), times) / (times[-1] - times[0])), 4)


def late(at: Sequence[int], rewards: Tensor) -> Tensor:
    """Every seed's mean reward over the last quarter of the run, (S,); arguments as :func:`score`'s."""
    return rewards[torch.tensor([i >= 0.75 * at[-1] for i in at])].mean(0)


def held(curve: Results, wanted: float = 0.9) -> float:
    """The fraction of seeds that earn as much as that, in the mean over the last quarter of the run."""
    return sum(value >= wanted for value in curve["late"]) / len(curve["late"])


def reached(curve: Results, wanted: float = 0.9) -> float | None:
    """Iterations until the median reward first is that high, between two measurements by a straight line."""
    at, seen = curve["iteration"], curve["reward"]["median"]
    for i, (before, value) in enumerate(itertools.pairwise(seen)):
        if value >= wanted:
            share = (wanted - before) / (value - before) if value > before else 0.0
            return round(at[i] + (at[i + 1] - at[i]) * max(0.0, share), 2)
    return None


def spread(values: Tensor) -> dict[str, list[float]]:
    """Median, smallest and largest over the last axis, the seeds, of (moments, S)."""
    lines = {"median": values.quantile(0.5, -1), "low": values.amin(-1), "high": values.amax(-1)}
    return {name: rounded(x, 4) for name, x in lines.items()}


def rounded(x: Tensor, digits: int) -> Any:
    """Nested lists of numbers with that many decimals."""
    return [rounded(row, digits) for row in x] if x.ndim > 1 else [round(float(v), digits) for v in x]
