r"""DiffusionNFT's map from an advantage to an optimality probability, and what is done to the advantage first.

.. math:: r = \frac12 + \frac{\mathrm{clip}(f(A),\, -c,\, c)}{2c}

f is the identity (``all``), keeps good samples or bad ones alone (``positive_only``, ``negative_only``), counts every
good sample as 1 and every other one as 0 (``one_only``), or takes the sign (``binary``).  A sample with f(A) = 0 has
r = 1/2, which pulls to v_old: it is held where it was, and taught nothing.
"""

from __future__ import annotations

import sympy as sp

from derivations.claims import Equal
from derivations.derivation import Step
from derivations.notation import advantage, advantage_clip

__all__ = ["MODES", "mode_steps", "probability"]

_MODES: dict[str, sp.Expr] = {
    "all": advantage,
    "positive_only": sp.Max(advantage, 0),
    "negative_only": sp.Min(advantage, 0),
    "one_only": sp.Max(sp.sign(advantage), 0),
    "binary": sp.sign(advantage),
}
MODES = ("none", *_MODES)
"""What may be done to the advantage; with ``none`` the loss is given r itself."""

_half = sp.Rational(1, 2)


def probability(mode: str) -> sp.Expr:
    """r, from ``advantage`` and ``advantage_clip``."""
    clipped = sp.Min(sp.Max(_MODES[mode], -advantage_clip), advantage_clip)
    return _half + clipped / (2 * advantage_clip)


def mode_steps(mode: str) -> tuple[Step, ...]:
    """What r is on each of the mode's branches."""
    if mode == "none":
        return ()
    c, s, u = advantage_clip, sp.Symbol("s", positive=True), sp.Symbol("u", positive=True)
    linear = (1 + advantage / c) / 2
    good, bad = "A good sample", "A bad sample"
    held = "has r = 1/2: it is held at v_old, and taught nothing."
    branches: dict[str, tuple[tuple[str, str, sp.Expr, dict[sp.Symbol, sp.Expr]], ...]] = {
        "all": (
            ("inside", "Inside the clip r grows with A.", linear, {advantage: (s - u) / 2, c: (s + u) / 2}),
            ("above", f"{good} above it is a certain success …", sp.S.One, {advantage: c + s}),
            ("below", "… and a bad one below it a certain failure.", sp.S.Zero, {advantage: -c - s}),
        ),
        "positive_only": (
            ("good", f"{good} counts as it does anyway.", linear, {advantage: s, c: s + u}),
            ("bad", f"{bad}, however bad, {held}", _half, {advantage: -s}),
        ),
        "negative_only": (
            ("good", f"{good}, however good, {held}", _half, {advantage: s}),
            ("bad", f"{bad} counts as it does anyway.", linear, {advantage: -s, c: s + u}),
        ),
        "one_only": (
            ("good", f"{good} counts as if its advantage were 1.", (1 + 1 / c) / 2, {advantage: s, c: 1 + u}),
            ("bad", f"{bad} {held}", _half, {advantage: -s}),
        ),
        "binary": (
            ("good", f"{good} counts as if its advantage were 1, …", (1 + 1 / c) / 2, {advantage: s, c: 1 + u}),
            ("bad", "… a bad one as if it were −1.", (1 - 1 / c) / 2, {advantage: -s, c: 1 + u}),
        ),
    }
    return tuple(
        Step(f"mode-{name}", sentence, Equal(probability(mode), value, where))
        for name, sentence, value, where in branches[mode]
    )
