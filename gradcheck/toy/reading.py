"""The study's results in words: tables, and whether a small live run agrees with the full one."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from derivations.calculus import ClipMask
from gradcheck.notebook import Shown, table
from gradcheck.toy.scores import Results, held, reached
from gradcheck.toy.training import METHODS

__all__ = [
    "agreement",
    "equivalence_table",
    "held_table",
    "methods_table",
    "noise_table",
    "search_table",
    "speed_table",
    "summary_table",
    "sweep_table",
]


def methods_table(results: Results) -> Shown:
    """What is trained: each method's entry of the catalogue and its fixed parameters, and the seeds of its runs."""
    plan = results["plan"]
    rows = [
        [
            method.title,
            f"`{method.entry.label}`",
            method.entry.derivation.process,
            f"{method.clip:g}" if method.entry.derivation.gradient.has(ClipMask) else "",
            f"{method.ema:g}",
            f"{plan['search_seeds']}, {plan['seeds']}",
        ]
        for method in METHODS.values()
    ]
    return table(["method", "catalogue", "process", "ε", "η", "seeds in the search and in the curves"], rows)


def search_table(results: Results) -> Shown:
    """Each method's score at every learning rate, the chosen one in bold."""
    return _by_rate(results, lambda found: f"{found['mean']:.2f}")


def speed_table(results: Results) -> Shown:
    """Iterations to a reward of 0.9 at every learning rate; in bold where it is the chosen one."""
    return _by_rate(results, lambda found: "never" if found["reached"] is None else f"{found['reached']:.0f}")


def _by_rate(results: Results, cell: Callable[[Results], str]) -> Shown:
    rates = results["plan"]["learning_rates"]
    rows = []
    for n in results["plan"]["batches"]:
        for name, method in METHODS.items():
            of_run = {f["learning_rate"]: f for f in results["search"] if (f["method"], f["samples"]) == (name, n)}
            chosen = results["chosen"][name][str(n)]
            cells = [f"**{cell(of_run[rate])}**" if rate == chosen else cell(of_run[rate]) for rate in rates]
            rows.append([method.title, str(n), *cells])
    return table(["method", "samples", *(f"{rate:g}" for rate in rates)], rows)


def held_table(results: Results) -> Shown:
    """The share of seeds that hold a reward of 0.9 over the last quarter of a run, at every learning rate."""
    return _by_rate(results, lambda found: f"{100 * found['held']:.0f} %")


def summary_table(results: Results) -> Shown:
    """Speed, stability and cost of each method at its chosen learning rate."""
    rows = []
    for curve in sorted(results["curves"], key=lambda c: (c["samples"], list(METHODS).index(c["method"]))):
        first, seeds = reached(curve), len(curve["late"])
        rows.append(
            [
                METHODS[curve["method"]].title,
                str(curve["samples"]),
                f"{curve['learning_rate']:g}",
                "never" if first is None else f"{first:.0f}",
                f"{curve['reward']['median'][-1]:.2f}",
                f"{held(curve) * seeds:.0f} of {seeds}",
                f"{curve['drift']['median'][-1]:.2f}",
                f"{curve['width']['median'][-1]:.2f}",
            ]
        )
    header = ["method", "samples", "learning rate", "iterations to 0.9", "reward at the end", "seeds that hold 0.9"]
    return table([*header, "drift", "spread"], rows)


def sweep_table(results: Results) -> Shown:
    """Speed and stability at other clips and moving averages."""
    rows = []
    for found in results["sweeps"]:
        first, seeds = reached(found), len(found["late"])
        rows.append(
            [
                METHODS[found["method"]].title,
                f"{'ε' if found['parameter'] == 'clip' else 'η'} = {found['value']:g}",
                f"{found['learning_rate']:.2g}",
                "never" if first is None else f"{first:.0f}",
                f"{held(found) * seeds:.0f} of {seeds}",
                f"{100 * fmean(found['clipped']['median']):.0f} %" if found["parameter"] == "clip" else "",
            ]
        )
    header = ["method", "parameter", "learning rate", "iterations to 0.9", "seeds that hold 0.9", "rows clipped"]
    return table(header, rows)


def noise_table(results: Results) -> Shown:
    """The gradients of all methods at one and the same model, the base model."""
    rows = []
    for found in results["noise"]:
        if found["iteration"] == 0:
            cells = [_span(found["critical_batch"], 0), _span(found["alignment"], 2), _span(found["alignment_sde"], 2)]
            rows.append([METHODS[found["method"]].title, *cells])
    header = ["method", "critical batch", "cosine with the slope, deterministic", "cosine with the slope, stochastic"]
    return table(header, rows)


def _span(spread: Results, digits: int) -> str:
    middle, low, high = (f"{spread[key][0]:.{digits}f}" for key in ("median", "low", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def equivalence_table(results: Results) -> Shown:
    """The law of the equivalent loss over a whole run."""
    rows = [
        [
            METHODS[f["method"]].title,
            str(f["updates"]),
            "yes" if f["holds"] else "no",
            f"{f['ratio']:.2f}",
            f"{f['resolution']:.0e}",
            f"{f['apart'][0]:.0e}",
            f"{f['apart'][-1]:.0e}",
        ]
        for f in results["equivalence"]
    ]
    header = ["method", "updates", "law holds at each", "largest test ratio", "smallest error that is seen"]
    return table([*header, "runs apart after 1 update", "after all"], rows)


def agreement(live: Results, committed: Results) -> Shown:
    """Whether each live curve runs inside the committed one's band over seeds, at the iterations that both have.

    The band is widened by half of itself and by 0.05 on each side: another machine rounds otherwise, pre-trains a
    slightly different base model, and draws its few seeds from the same distribution, not the same samples.
    """
    rows = []
    for curve in live["curves"]:
        (other,) = [c for c in committed["curves"] if all(c[k] == curve[k] for k in ("method", "samples"))]
        inside = []
        for i, at in enumerate(other["iteration"]):
            if at in curve["iteration"]:
                low, high = other["reward"]["low"][i], other["reward"]["high"][i]
                slack = (high - low) / 2 + 0.05
                seen = curve["reward"]["median"][curve["iteration"].index(at)]
                inside.append(low - slack <= seen <= high + slack)
        rows.append([METHODS[curve["method"]].title, f"{len(inside)}", "yes" if inside and all(inside) else "no"])
    for row, name in zip(rows, (curve["method"] for curve in live["curves"]), strict=True):
        (walked,) = [w for w in live["equivalence"] if w["method"] == name]
        row += ["yes" if walked["holds"] else "no", _noise_agrees(name, live, committed)]
    header = ["method", "iterations compared", "inside the full study's band", "equivalent at every update"]
    return table([*header, "critical batch as in the full study"], rows)


def _noise_agrees(name: str, live: Results, committed: Results) -> str:
    """Up to a factor of 1.5: one repetition of a ratio that three repetitions put within about a quarter."""
    ours, theirs = (
        [f["critical_batch"] for f in found["noise"] if (f["method"], f["iteration"]) == (name, 0)]
        for found in (live, committed)
    )
    if not ours or not theirs:
        return ""
    return "yes" if theirs[0]["low"][0] / 1.5 <= ours[0]["median"][0] <= 1.5 * theirs[0]["high"][0] else "no"
