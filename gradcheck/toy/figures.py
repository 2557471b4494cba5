"""The study's pictures, from its results as :mod:`gradcheck.toy.study` writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gradcheck.reports.style import CYCLE, STYLE, curve, labels, legend, styled, subplots
from gradcheck.toy.data import RADIUS, centres
from gradcheck.toy.scores import Results
from gradcheck.toy.training import METHODS

__all__ = [
    "apart_picture",
    "cost_picture",
    "curves_picture",
    "learning_rates_picture",
    "noise_picture",
    "samples_picture",
    "sweeps_picture",
]

_PLACE = {name: i for i, name in enumerate(METHODS)}


def _of(found: list[Results], **wanted: Any) -> list[Results]:
    return [f for f in found if all(f[key] == value for key, value in wanted.items())]


def _band(axes: Axes, x: Any, spread: Results, name: str) -> None:
    """The median over seeds, and everything between the lowest and the highest."""
    curve(axes, x, spread["median"], METHODS[name].title, _PLACE[name])
    axes.fill_between(x, spread["low"], spread["high"], color=CYCLE[_PLACE[name]], alpha=0.13, linewidth=0)


@styled()
def learning_rates_picture(results: Results) -> Figure:
    """The search: each method's mean reward over a run, over its learning rate; a dot where one was chosen."""
    batches = results["plan"]["batches"]
    figure, axes = subplots(1, len(batches), height=3.6, sharey=True)
    for panel, n in zip(axes, batches, strict=True):
        for name in METHODS:
            found = _of(results["search"], method=name, samples=n)
            rates, scores = [f["learning_rate"] for f in found], [f["mean"] for f in found]
            curve(panel, rates, scores, METHODS[name].title, _PLACE[name])
            chosen = results["chosen"][name][str(n)]
            panel.plot(chosen, scores[rates.index(chosen)], "o", color=CYCLE[_PLACE[name]], markersize=7)
        panel.set_xscale("log")
        labels(panel, "learning rate", "mean reward over the run" if n == batches[0] else "", f"{n} samples")
    legend(figure, columns=3)
    figure.set_label(
        "Mean reward over a run against the learning rate, for 16 and 64 samples an iteration. At the largest "
        "learning rates AWM without the clip falls off first, then AWM with it; DiffusionNFT does not."
    )
    return figure


@styled()
def curves_picture(results: Results) -> Figure:
    """Above, how fast the reward rises, with its band over seeds; below, the worst seed throughout the run."""
    batches = results["plan"]["batches"]
    figure, axes = subplots(2, len(batches), height=5.6, sharey=True)
    for column, n in enumerate(batches):
        early, whole = axes[column], axes[len(batches) + column]
        for found in _of(results["curves"], samples=n):
            name = found["method"]
            _band(early, found["iteration"], found["reward"], name)
            curve(whole, found["iteration"], found["reward"]["low"], METHODS[name].title, _PLACE[name], linewidth=1.6)
        early.set_xlim(0, 20)
        for panel in (early, whole):
            panel.axhline(results["choosing"], color=STYLE["faint"], linewidth=0.9)
        first = column == 0
        labels(early, "", "mean reward" if first else "", f"{n} samples an iteration: median")
        labels(whole, "iteration", "mean reward" if first else "", "the worst seed")
    legend(figure, columns=3)
    figure.set_label(
        "Above, median reward over the first 20 iterations for five methods at their chosen learning rates, "
        "with 16 and 64 samples an iteration: Flow-GRPO rises first. Below, the worst seed over the whole "
        "run: Flow-GRPO's falls."
    )
    return figure


@styled()
def samples_picture(results: Results) -> Figure:
    """Finished samples of the base model, and of each method at a reward of 0.6 and at the end of the run."""
    figure, axes = subplots(2, 3, height=5.0, sharex=True, sharey=True)
    _scatter(
        axes[0], results["base"]["samples"], STYLE["ink"], 0.5, f"base model: reward {results['base']['reward']:.2f}"
    )
    for panel, found in zip(axes[1:], _of(results["curves"], samples=results["plan"]["batches"][0]), strict=True):
        half, end = found["pictures"].get("half"), found["pictures"]["end"]
        if half is not None:
            _scatter(panel, half["samples"], STYLE["bad"], 0.35, "")
        title = f"{METHODS[found['method']].title}: {end['reward']:.2f}"
        _scatter(panel, end["samples"], STYLE["good"], 0.6, title, 11)
    for panel in axes:
        panel.plot(*centres()[0].tolist(), "+", color=STYLE["ink"], markersize=9, alpha=0.6)
        panel.set(xlim=(-1.5 * RADIUS, 1.5 * RADIUS), ylim=(-1.5 * RADIUS, 1.5 * RADIUS), aspect="equal")
    figure.set_label(
        "Samples: the base model's ring of eight, and for each method one seed's samples when the reward "
        "first passed 0.6, still spread over several modes, and at the end, drawn together near the rewarded "
        "one."
    )
    return figure


def _scatter(panel: Axes, points: Any, colour: str, alpha: float, title: str, size: float = 5) -> None:
    x, y = np.array(points).T
    panel.scatter(x, y, s=size, color=colour, alpha=alpha, linewidth=0)
    if title:
        panel.set_title(title, loc="left")


@styled()
def cost_picture(results: Results) -> Figure:
    """What the reward costs: drift from the base model's distribution, and the samples' spread."""
    figure, axes = subplots(1, 2, height=3.6)
    for found in _of(results["curves"], samples=results["plan"]["batches"][-1]):
        name, rewards = found["method"], found["reward"]["median"]
        curve(axes[0], rewards, found["drift"]["median"], METHODS[name].title, _PLACE[name], linewidth=1.6)
        curve(axes[1], rewards, found["width"]["median"], METHODS[name].title, _PLACE[name], linewidth=1.6)
    axes[0].set_ylim(0, 2.5)
    axes[1].set(yscale="log", ylim=(0.003, 30))
    axes[1].axhline(1.0, color=STYLE["faint"], linewidth=0.9)
    labels(axes[0], "mean reward", "distance from the base model", "drift")
    labels(axes[1], "mean reward", "spread, in widths of one mode", "diversity")
    legend(figure, columns=3)
    figure.set_label(
        "Left, drift from the base model over reward: nearly one curve for all methods. Right, the samples' "
        "spread over reward, on a logarithmic axis: it falls below one mode's width for every method."
    )
    return figure


@styled()
def noise_picture(results: Results) -> Figure:
    """The gradient along training: samples needed for as much signal as noise, and the angle to the reward's slope."""
    figure, axes = subplots(1, 2, height=3.6)
    for name in METHODS:
        found = sorted(_of(results["noise"], method=name), key=lambda f: f["reward"])
        rewards = [f["reward"] for f in found]
        for panel, what in zip(axes, ("critical_batch", "alignment_sde"), strict=True):
            across = {key: [f[what][key][0] for f in found] for key in ("median", "low", "high")}
            _band(panel, rewards, across, name)
            panel.plot(rewards, across["median"], "o", color=CYCLE[_PLACE[name]], markersize=4)
    axes[0].set(yscale="log", ylim=(3, 1e3))
    axes[1].set(ylim=(-0.8, 1.1))
    labels(axes[0], "mean reward so far", "critical batch, samples", "noise")
    labels(axes[1], "mean reward so far", "cosine with the reward's slope", "direction")
    legend(figure, columns=3)
    figure.set_label(
        "Left, the critical batch over the reward reached so far, on a logarithmic axis. Right, the cosine of "
        "each method's mean gradient with the slope of the reward."
    )
    return figure


@styled()
def sweeps_picture(results: Results) -> Figure:
    """Reward over iterations for other clips and moving averages; above at the chosen learning rate, below at three
    times it."""
    chosen: dict[tuple[str, str], list[Results]] = {}
    for found in results["sweeps"]:
        chosen.setdefault((found["method"], found["parameter"]), []).append(found)
    figure, axes = subplots(2, len(chosen), height=5.2, sharex=True, sharey=True)
    symbol: Callable[[str], str] = {"clip": "ε", "ema": "η"}.__getitem__
    for column, ((name, parameter), runs) in enumerate(chosen.items()):
        rates = sorted({run["learning_rate"] for run in runs})
        for row, rate in enumerate(rates):
            panel = axes[row * len(chosen) + column]
            for i, run in enumerate(_of(runs, learning_rate=rate)):
                curve(panel, run["iteration"], run["reward"]["median"], f"{symbol(parameter)} = {run['value']:g}", i)
                panel.fill_between(
                    run["iteration"],
                    run["reward"]["low"],
                    run["reward"]["high"],
                    color=CYCLE[i],
                    alpha=0.13,
                    linewidth=0,
                )
            title = f"{METHODS[name].title}\nlearning rate {rate:.2g}" if row == 0 else f"learning rate {rate:.2g}"
            labels(panel, "iteration" if row else "", "mean reward" if column == 0 else "", title)
            if not row:
                panel.legend(loc="lower right", handlelength=2.2)
    figure.set_label(
        "Reward over iterations for three clip ranges of AWM and of Flow-GRPO, and three moving averages of "
        "DiffusionNFT, at the chosen learning rate and at three times it."
    )
    return figure


@styled()
def apart_picture(results: Results) -> Figure:
    """Two runs that differ by the loss's form alone: how far their parameters come apart."""
    figure, axes = subplots(height=3.2)
    for found in results["equivalence"]:
        name, apart = found["method"], found["apart"]
        curve(axes[0], range(1, len(apart) + 1), apart, METHODS[name].title, _PLACE[name], linewidth=1.6)
    axes[0].set_yscale("log")
    labels(axes[0], "update", "relative distance of the runs")
    legend(figure, columns=3)
    figure.set_label("Distance of two training runs, one with each loss, over updates, on a logarithmic axis.")
    return figure
