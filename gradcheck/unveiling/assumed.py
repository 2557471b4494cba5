r"""What somebody says of a loss before it is unveiled: numbers that it holds itself, its step, its precision."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
import torch

from derivations.derivation import Derivation
from derivations.notation import quantity
from derivations.steps.sde import SDES, step_with
from gradcheck.conventions import Conventions
from gradcheck.errors import InputError, one_of
from gradcheck.rounding.bounds import unit_roundoff
from gradcheck.unveiling.universal import Universe

__all__ = ["Assumed"]

_NUMBERS = (
    *("clip_low", "clip_high", "noise_level", "sigma_min", "beta", "kl_weight", "temperature"),
    *("weight_max", "advantage_clip"),
)
_FACTORS = ("beta", "kl_weight", "temperature")
_DTYPES = ("float64", "float32")


@dataclass(frozen=True)
class Assumed:
    """What is known of a loss.

    Attributes:
        numbers: one-number quantities that it holds itself, and ``adv_clip_max``.
        sde: its reverse step; empty if it is not known, or has none.
        working_dtype: the precision that it casts to inside; ``None`` if it is not known.
        declared: what its own ``gradcheck.conforms`` declares.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    sde: str = ""
    working_dtype: str | None = None
    declared: Conventions | None = None

    @classmethod
    def of(cls, settings: Sequence[str] = (), declared: Conventions | None = None) -> Assumed:
        """From a function's own declaration, and from ``KEY=VALUE`` on a command line, which has the last word.

        Raises:
            InputError: an unknown key, or a value out of its domain; all mistakes are listed.  Or the function declares
                another prediction than the velocity, or its noise at t = 0.
        """
        numbers: dict[str, float] = {}
        words: dict[str, str] = {}
        problems: list[tuple[str, str, str]] = []
        if declared is not None and (declared.prediction, declared.noise_at) != ("v", 1):
            given = f"prediction={declared.prediction!r}, noise_at={declared.noise_at}"
            raise InputError(("TARGET", given, "a loss of velocities with the noise at t = 1, which unveil looks at"))
        if declared is not None:
            numbers |= declared.fixed
            if declared.adv_clip_max is not None:
                numbers["adv_clip_max"] = declared.adv_clip_max
            if declared.derivation.process == "backward":
                step = step_with(declared.derivation.coefficients)
                if step is None or step not in SDES:
                    steps = ", ".join(s.name for s in SDES)
                    problems.append(
                        ("algorithm", repr(declared.algorithm), f"a loss on a rectified path's step: {steps}")
                    )
                else:
                    words["sde"] = step.name
            if declared.working_dtype is not None:
                words["working_dtype"] = declared.working_dtype
        for setting in settings:
            key, separator, value = setting.partition("=")
            wrong = "KEY=VALUE, clip_range=0.2 for instance" if not separator else _taken(key, value, numbers, words)
            if wrong:
                problems.append(("--set", repr(setting), wrong))
        if problems:
            raise InputError(*problems)
        return cls(numbers, words.get("sde", ""), words.get("working_dtype"), declared)

    @property
    def loss(self) -> Derivation | None:
        """The loss that is declared."""
        return None if self.declared is None else self.declared.derivation

    def admits(self, universe: Universe) -> bool:
        """Whether the loss may live there."""
        if self.declared is not None and self.declared.derivation.process != universe.process:
            return False
        return not self.sde or universe.sde == self.sde

    @property
    def unit(self) -> float | None:
        """Unit roundoff of the precision that the loss works in; ``None`` if it is not known."""
        return None if self.working_dtype is None else unit_roundoff(getattr(torch, self.working_dtype))

    def named(self, formula: sp.Expr) -> sp.Expr:
        """A formula whose number is told in the numbers that the loss holds: 1/50 is 2β² with β = 1/10."""
        number, rest = formula.as_coeff_Mul()
        held = {
            quantity(k).symbol: float(v) for k, v in self.numbers.items() if k in ("beta", "kl_weight", "temperature")
        }
        best = formula
        cost = _cost(number)
        for powers in itertools.product((0, 1, -1, 2, -2), repeat=len(held)):
            scale = 1.0
            for value, p in zip(held.values(), powers, strict=True):
                scale *= value**p
            left = sp.nsimplify(float(number) / scale, rational=True, tolerance=1e-7)
            now = _cost(left) + 2 * sum(map(abs, powers))
            if now < cost and abs(float(left) * scale / float(number) - 1) < 1e-6:
                cost = now
                best = left * sp.Mul(*(s**p for s, p in zip(held, powers, strict=True))) * rest
        return best


def _cost(number: sp.Expr) -> int:
    return abs(int(number.p)) * int(number.q) if number.is_Rational else 10**6


def _taken(key: str, value: str, numbers: dict[str, float], words: dict[str, str]) -> str:
    """Take one setting; what is wanted instead, if it is wrong."""
    choices: dict[str, tuple[str, ...]] = {"sde": tuple(s.name for s in SDES), "working_dtype": _DTYPES}
    if key in choices:
        words[key] = value
        return "" if value in choices[key] else f"{key} = one of {', '.join(choices[key])}"
    if key not in (*_NUMBERS, "clip_range", "adv_clip_max"):
        known = ("clip_range", *_NUMBERS, "adv_clip_max", *choices)
        return one_of(key, known, f"one of {', '.join(known)}")
    parts: list[Any] = value.strip("()").split(",")
    try:
        given = [float(x) for x in parts]
    except ValueError:
        return f"{key} = a number"
    if key == "clip_range":
        if len(given) > 2:
            return "clip_range = a number, or the pair low,high"
        pairs = {"clip_low": given[0], "clip_high": given[-1]}
    elif len(given) > 1:
        return f"{key} = one number"
    else:
        pairs = {key: given[0]}
    for name, x in pairs.items():
        domain = sp.Interval.open(0, sp.oo) if name == "adv_clip_max" else quantity(name).domain
        if not sp.Float(x).is_finite or not domain.contains(x):
            return f"{key} in {domain}"
    numbers |= pairs
    return ""
