"""The theorems as calculators: a user's own numbers put into the proved formulas (``gradcheck explain clip --D "
"65536``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import sympy as sp

from derivations.algebra.nodes import NormalCDF
from derivations.claims import Equal
from derivations.local_names import kappa
from derivations.notation import D, clip_high, clip_low, noise_level, t
from derivations.theorems import THEOREMS
from derivations.theorems.advantages import success_factor
from derivations.theorems.value import data_std, variance
from gradcheck.errors import InputError
from gradcheck.theorems.options import ALIASES, OPTIONS

__all__ = ["CALCULATORS", "calculate"]


def _formula(theorem: str, step: str) -> sp.Expr:
    """The right side of a proved step."""
    (claim,) = (s.claim for th in THEOREMS if th.name == theorem for s in th.steps if s.name == step)
    assert isinstance(claim, Equal)
    return sp.sympify(claim.rhs)


def _number(expr: sp.Expr, values: Mapping[sp.Symbol, float]) -> float:
    plain = expr.replace(NormalCDF, lambda x: sp.erfc(-x / sp.sqrt(2)) / 2)
    exact = {symbol: sp.Integer(int(v)) if v == int(v) else sp.Float(v, 40) for symbol, v in values.items()}
    return float(plain.xreplace(exact).evalf(20))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return ["  " + "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]


def _share(x: float) -> str:
    return f"{x:.1%}" if x >= 0.0005 or x == 0 else f"{x:.0e}"


def _clip(given: Mapping[str, float]) -> list[str]:
    size, width = given["D"], given["clip"]
    radius = math.sqrt(-2 * size * math.log1p(-width))
    peak = math.sqrt(2 * size * math.log1p(width))
    highest = _number(_formula("clip", "clipped-up-mean"), {D: size, kappa: peak, clip_high: width})
    moves = [given["kappa"]] if "kappa" in given else [radius * f for f in (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2)]
    up, down = (_formula("clip", f"clipped-{side}-mean") for side in ("up", "down"))
    rows = []
    for move in moves:
        values = {D: size, kappa: move, clip_high: width, clip_low: width}
        above, below = _number(up, values), _number(down, values)
        rows.append((f"{move:.3g}", f"{move**2 / 2:.3g}", _share(above), _share(below), _share(above + below)))
    return [
        f"A clip of {width:g} on the ratio, the log-density being a mean over D = {int(size):,} coordinates.",
        "",
        f"Radius: half of the samples are clipped below once the step's mean has moved κ = {radius:.3g} standard "
        f"deviations,",
        f"that is {radius / math.sqrt(size):.2g} in each coordinate, at a KL divergence of {radius**2 / 2:.3g}.",
        "",
        *_table(("κ", "KL", "clipped above", "clipped below", "together"), rows),
        "",
        f"Above, at most {_share(highest)} is clipped, whatever κ is.",
        "With A > 0 only what is above is cut, with A < 0 only what is below.",
        f"GRPO-Guard cuts both sides alike: 15.9% each where C1‖δ‖ = D log(1 + ε) = {size * math.log1p(width):.3g}.",
    ]


def _schedule(given: Mapping[str, float]) -> list[str]:
    level, std = given["noise_level"], given.get("data_std", 1.0)
    ratio = _formula("value-function", "slope-ratio")
    assert not ratio.free_symbols - {t, noise_level, data_std}
    posterior = data_std**2 * (1 - t) / variance
    rows = []
    for time in (0.1, 0.3, 0.5, 0.7, 0.9):
        values = {t: time, noise_level: level, data_std: std}
        factor, slope = _number(ratio, values), _number(posterior, values)
        rows.append((f"{time:g}", f"{slope:.4f}", f"{slope * factor:.4f}", f"{factor:.3f}"))
    share = level**2 / 2
    verdict = (
        "the sampler is the noising run backwards"
        if abs(share - 1) < 1e-3
        else "the sampler adds too little noise: it remembers too much of x_t"
        if share < 1
        else "the sampler adds too much noise: it forgets too much of x_t"
    )
    return [
        f"η = {level:g}: σ_t² is {share:.3g} times the exact reversal's 2t/(1 − t), at every t.",
        f"So {verdict}.",
        f"The exact reversal is η = √2 = {math.sqrt(2):.4f}.",
        "",
        f"On Gaussian data of standard deviation {std:g}, the slope of E[x_0 | x_t], in small steps:",
        "",
        *_table(("t", "noising", "sampler", "sampler/noising"), rows),
        "",
        "Flow-GRPO's average gradient follows the sampler's value, AWM's and DiffusionNFT's the noising's.",
    ]


def _group(given: Mapping[str, float]) -> list[str]:
    size = int(given["group_size"])
    rates = [given["success"]] if "success" in given else [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    rows = []
    for rate in rates:
        factor = float(success_factor(size, sp.Float(rate, 30)))
        row = (factor, 1 / math.sqrt(rate * (1 - rate)))
        idle = _share(rate**size + (1 - rate) ** size)
        rows.append((f"{rate:g}", *(f"{x:.3f}" for x in row), idle))
    return [
        f"Groups of {size}, a reward that is 0 or 1: the average gradient is this factor times the slope of the "
        f"success rate p.",
        "",
        *_table(("p", "divided by the std", "in a large group", "groups without signal"), rows),
        "",
        f"Without the division the factor is 1 − 1/G = {1 - 1 / size:.3f} for every p.",
    ]


def _baseline(given: Mapping[str, float]) -> list[str]:
    size, move = given["D"], given.get("kappa", 0.0)
    growth = math.exp(move**2) * (1 + move**2 / size) if move < 26 else math.inf
    best, spread = 1 / (size + 1), math.sqrt(2 / size)
    lines = [
        f"D = {int(size):,}: one sample's gradient A k ε has a signal-to-noise ratio below 1/(D + 1) = {best:.2g},",
        f"so a ratio of 1 takes at least {int(size) + 1:,} samples.",
        "",
        "Best constant baseline: E[A‖ε‖²]/D. It differs from the mean advantage only as far as A depends on ‖ε‖²,",
        f"whose relative spread is √(2/D) = {spread:.2g}{': the group mean is as good.' if spread < 0.1 else '.'}",
    ]
    if move:
        lines.append(f"Off-policy by κ = {move:g}, the second moment is {growth:.3g} times as large.")
    return lines


def _outer(given: Mapping[str, float]) -> list[str]:
    rate, beta = given["rate"], given.get("beta", 1.0)
    steps, decay = given.get("inner_steps", 1.0), given["decay"]
    shrink = 1 - 2 * rate * beta**2
    head = f"aβ² = {rate * beta**2:.4g}: one inner step leaves {shrink:.4g} of the way to the target"
    if abs(shrink) >= 1:
        return [f"{head}: the inner steps diverge. Keep aβ² below 1, that is a below {1 / beta**2:.3g}."]
    way = (1 - decay) * (1 - shrink**steps)
    return [
        f"{head}.",
        f"A round of {int(steps):,} steps and a moving average of decay {decay:g} moves v_old by {way:.4g} of the way,",
        f"that is by {way / beta:.4g} Cov(A, v_gt | x_t).",
    ]


def _guidance(given: Mapping[str, float]) -> list[str]:
    w = given["scale"]
    return [
        f"w = {w:g}: the gradient is {w:g} times the loss's in v_c and {1 - w:g} times in v_u.",
        f"A step on both moves the guided velocity {w**2 + (1 - w) ** 2:.4g} times as far as a step on it;",
        f"with v_u detached, {w**2:.4g} times.",
    ]


Calculator = Callable[[Mapping[str, float]], list[str]]

CALCULATORS: Mapping[str, tuple[Calculator, tuple[str, ...], tuple[str, ...]]] = {
    "clip": (_clip, ("D", "clip"), ("kappa",)),
    "value-function": (_schedule, ("noise_level",), ("data_std",)),
    "group-normalisation": (_group, ("group_size",), ("success",)),
    "baseline": (_baseline, ("D",), ("kappa",)),
    "outer-iteration": (_outer, ("rate", "decay"), ("beta", "inner_steps")),
    "guidance": (_guidance, ("scale",), ()),
}
"""Theorem → its calculator, the numbers that it needs, and those that it may be given."""


def calculate(name: str, given: Mapping[str, str]) -> str:
    """What a theorem says of these numbers.

    Args:
        name: of the theorem, or its short name.
        given: option → what the user wrote.

    Raises:
        InputError: the theorem takes no such number, lacks one, or one is wrong.
    """
    theorem = ALIASES.get(name, name)
    if theorem not in CALCULATORS:
        raise InputError(
            (OPTIONS[next(iter(given))].flag, f"a number for {name}", f"NAME one of {', '.join(CALCULATORS)}")
        )
    run, needed, possible = CALCULATORS[theorem]
    problems = []
    for option in given:
        if option not in (*needed, *possible):
            flags = ", ".join(OPTIONS[o].flag for o in (*needed, *possible))
            problems.append((OPTIONS[option].flag, f"a number for {name}", f"only {flags} there"))
    problems += [(OPTIONS[o].flag, "nothing", f"it, for {name}: {OPTIONS[o].help}") for o in needed if o not in given]
    if problems:
        raise InputError(*problems)
    return "\n".join(run({option: OPTIONS[option].parse(text) for option, text in given.items()})) + "\n"
