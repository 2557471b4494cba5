"""The trial's results as tables, every share and every time with its interval."""

from __future__ import annotations

import math
from statistics import fmean, stdev

from derivations.calculus import ClipMask
from gradcheck.notebook import Shown, table
from gradcheck.toy.scores import Results
from gradcheck.toy.training import NO_CLIP, Settings
from gradcheck.toy.trial import ARMS, LOST, WANTED, interval, median_interval

__all__ = ["arms_table", "collapse_table", "collapsed", "held", "judged_table", "slope", "slopes_table", "tuned_table"]


def held(found: Results) -> int:
    """Seeds that earn :data:`~gradcheck.toy.trial.WANTED` over the last quarter."""
    return sum(value >= WANTED for value in found["late"])


def collapsed(found: Results) -> int:
    """Seeds that have earned it once, and late earn less than :data:`~gradcheck.toy.trial.LOST`."""
    return sum(first is not None and late < LOST for first, late in zip(found["first"], found["late"], strict=True))


def slope(row: Results, kind: str, what: str) -> tuple[float, float]:
    """Mean and standard error over the repetitions."""
    values = [found[what] for found in row[kind]]
    return fmean(values), stdev(values) / math.sqrt(len(values))


def arms_table(results: Results) -> Shown:
    """What is compared, and what a sample costs: evaluations are those that were counted."""
    cost = {found["method"]: found["evaluations"] for found in results["judged"]}
    rows = []
    for name, arm in ARMS.items():
        derivation = arm.entry.derivation
        clip = "" if not derivation.gradient.has(ClipMask) else "none" if arm.clip >= NO_CLIP else f"{arm.clip:g}"
        noise = f"{arm.noise_level or Settings().noise_level:.3g}" if derivation.process == "backward" else ""
        clamp = f"{arm.clamp:g}" if "reward_prob" in derivation.given else ""
        rows.append([arm.title, clip, noise, clamp, f"{arm.rows or Settings().rows}", f"{cost[name]:g}"])
    header = ["arm", "clip ε", "noise level η", "clamp of A", "rows a sample", "network evaluations a sample"]
    return table(header, rows)


def tuned_table(results: Results) -> Shown:
    """The score on the tuning seeds at every learning rate, the chosen one in bold."""
    rates = results["scale"]["rates"]
    rows = []
    for n in results["scale"]["batches"]:
        for name, arm in ARMS.items():
            of = {f["learning_rate"]: f["mean"] for f in results["tuned"] if (f["method"], f["samples"]) == (name, n)}
            chosen = results["chosen"][name][str(n)]
            cells = [f"**{of[rate]:.2f}**" if rate == chosen else f"{of[rate]:.2f}" for rate in rates]
            rows.append([arm.title, str(n), *cells])
    return table(["arm", "samples", *(f"{rate:g}" for rate in rates)], rows)


def judged_table(results: Results) -> Shown:
    """Speed and stability of each arm at its own learning rate, on seeds that tuned nothing."""
    return _measured(results["judged"])


def collapse_table(results: Results) -> Shown:
    """The same at equal learning rates, with and without ratio and clip."""
    return _measured(results["collapse"])


def _measured(runs: list[Results]) -> Shown:
    rows = []
    for found in runs:
        cells = [_share(count, len(found["late"])) for count in (held(found), collapsed(found))]
        first = [math.inf if x is None else x for x in found["first"]]
        rate = f"{found['learning_rate']:g}"
        rows.append([ARMS[found["method"]].title, str(found["samples"]), rate, _time(first), *cells])
    header = ["arm", "samples", "learning rate", "iterations to 0.9", "seeds that hold 0.9", "seeds that collapse"]
    return table(header, rows)


def _time(values: list[float]) -> str:
    middle, low, high = ("never" if math.isinf(x) else f"{x:.1f}" for x in median_interval(values))
    return middle if middle == "never" else f"{middle} ({low} to {high})"


def _share(count: int, of: int) -> str:
    low, high = interval(count, of)
    return f"{count} of {of} ({100 * low:.0f} to {100 * high:.0f} %)"


def slopes_table(results: Results) -> Shown:
    """Flow-GRPO's mean gradient beside the slope of the stochastic sampler's mean reward, by theorem T5."""
    rows = []
    for row in results["slopes"]:
        cells = []
        for kind, what in (("undivided", "coefficient"), ("undivided", "cosine"), ("divided", "cosine")):
            mean, error = slope(row, kind, what)
            cells.append(f"{mean:.3f} ± {error:.3f}")
        rows.append([f"{row['reward']:.2f}", *cells])
    header = ["reward", "A = R − mean: share of (1 − 1/G) slope", "A = R − mean: cosine", "divided: cosine"]
    return table(header, rows)
