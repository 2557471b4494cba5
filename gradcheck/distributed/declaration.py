r"""What a trainer declares: the loss's conventions, and how it reduces over samples, micro-batches and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from torch import nn

from gradcheck.conventions import Conventions, declare
from gradcheck.distributed.network import VelocityMLP
from gradcheck.errors import InputError
from gradcheck.parts._advantage_subject import AdvantageConvention
from gradcheck.parts._calls import number_problem, one_of

__all__ = ["ATTRIBUTE", "Declaration", "Trainer", "advantages_text", "declared"]

ATTRIBUTE = "gradcheck_trainer"
"""The decorated function's attribute that holds its :class:`Trainer`."""

_ADVANTAGE_KEYS = ("std", "unbiased", "eps", "clamp", "smallest_group")
"""Of an :class:`AdvantageConvention`, what a step on several ranks is judged by."""


@dataclass(frozen=True)
class Declaration:
    r"""How a trainer declares to reduce.

    Attributes:
        conventions: the loss's own; ``batch_reduction`` is over the global batch, ``"mean"`` or ``"sum"``.
        mean_over: what the mean is over: ``"samples"`` of the global batch (default); ``"ranks"``, the mean over
            ranks of each rank's mean; ``"micro-batches"``, the mean over all micro-batches of each one's mean.
        micro_batches: into how many each rank's shard is divided; ``None``: 3, or 2 on three ranks, so that it
            differs from the number of ranks and a factor of one cannot pass for the other.
        shards: ``"any"`` sizes (default), or ``"equal"`` for a trainer that is never given others.
        advantages: how the step makes its advantages from ``shard.reward`` and ``shard.group``; ``None`` (default):
            it is given them as ``shard.advantage``.
        statistics: where their means and standard deviations are from: ``"global"`` or ``"rank"``.
        spread_groups: the members of a reward group may lie on several ranks (default).
        latent: shape of one sample.
        network: makes the network, on every rank, with ``forward(x_t, t)``; by default a :class:`VelocityMLP`.
    """

    conventions: Conventions
    mean_over: str = "samples"
    micro_batches: int | None = None
    shards: str = "any"
    advantages: AdvantageConvention | None = None
    statistics: str = "global"
    spread_groups: bool = True
    latent: tuple[int, ...] = (3, 4)
    network: Callable[[], nn.Module] | None = None

    def make_network(self) -> nn.Module:
        """A fresh network."""
        return VelocityMLP(self.latent) if self.network is None else self.network()

    def steps(self, ranks: int) -> int:
        """Micro-batches of each rank."""
        return self.micro_batches or (2 if ranks == 3 else 3)

    def describe(self) -> str:
        """The declaration as one writes it."""
        parts = [self.conventions.describe()]
        for f in fields(self)[1:]:
            value = getattr(self, f.name)
            if value == f.default:
                continue
            if isinstance(value, AdvantageConvention):
                parts.append(advantages_text(value))
            else:
                parts.append(f"{f.name}={getattr(value, '__name__', repr(value))}")
        return ", ".join(parts)


def advantages_text(convention: AdvantageConvention) -> str:
    """The keyword as one writes it."""
    plain = AdvantageConvention()
    keys = [k for k in _ADVANTAGE_KEYS if k == "std" or getattr(convention, k) != getattr(plain, k)]
    return f"advantages={ {k: getattr(convention, k) for k in keys}!r}"


@dataclass(frozen=True)
class Trainer:
    """A step and what it declares.

    Attributes:
        function: ``step(model, shard)``; returns ``None`` after filling ``.grad``, or gradients by parameter name.
        name: how reports call it.
        declaration: what it declares.
        expected_failures: obligation → reason.
        source: ``file.py::function``; empty if it cannot be imported.
    """

    takes: ClassVar[int] = 2

    function: Callable[..., Any]
    name: str
    declaration: Declaration
    expected_failures: Mapping[str, str] = field(default_factory=dict)
    source: str = ""


def declared(
    algorithm: str | None,
    preset: str | None,
    expected_failures: Mapping[str, str] | None,
    advantages: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    obligations: Sequence[str],
) -> tuple[Declaration, dict[str, str]]:
    """What the decorator's arguments declare, and which failures of the obligations are expected.

    Raises:
        InputError: something unknown or out of its domain; all mistakes are listed.
    """
    own = {f.name for f in fields(Declaration)} - {"conventions", "advantages"}
    mine = {name: value for name, value in given.items() if name in own}
    expected = dict(expected_failures or {})
    problems: list[tuple[str, str, str]] = []
    try:
        conventions = declare(algorithm, preset=preset, **{n: x for n, x in given.items() if n not in own})
        taken = conventions.derivation.given
    except InputError as error:
        problems += error.problems
    else:
        problems += _loss_problems(conventions, advantages is not None and "advantage" not in taken)
    problems += _problems(mine, advantages or {})
    wanted = f"obligations: {', '.join(obligations)}"
    problems += [("expected_failures", repr(name), wanted) for name in expected if name not in obligations]
    if problems:
        raise InputError(*problems)
    if "latent" in mine:
        mine["latent"] = tuple(mine["latent"])
    estimator = None if advantages is None else AdvantageConvention(**advantages)
    return Declaration(conventions, advantages=estimator, **mine), expected


def _loss_problems(conventions: Conventions, no_advantage: bool) -> list[tuple[str, str, str]]:
    problems = []
    if conventions.batch_reduction == "none":
        problems.append(("batch_reduction", "'none'", "'mean' or 'sum': a step leaves one gradient"))
    if conventions.prediction != "v":
        problems.append(("prediction", repr(conventions.prediction), "'v': the networks here put out velocities"))
    if conventions.noise_at != 1:
        problems.append(("noise_at", repr(conventions.noise_at), "1: the networks here are told the time so"))
    if no_advantage:
        problems.append(("advantages", f"for {conventions.algorithm}, whose loss takes none", "nothing"))
    return problems


def _problems(mine: Mapping[str, Any], advantages: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    problems = [
        *one_of("mean_over", mine.get("mean_over", "samples"), "samples", "ranks", "micro-batches"),
        *one_of("shards", mine.get("shards", "any"), "any", "equal"),
        *one_of("statistics", mine.get("statistics", "global"), "global", "rank"),
        *one_of("spread_groups", mine.get("spread_groups", True), True, False),
        *one_of("advantages['std']", advantages.get("std", "group"), "group", "global", "none"),
        *one_of("advantages['unbiased']", advantages.get("unbiased", False), True, False),
        *number_problem("advantages['eps']", advantages.get("eps", 1e-4), 0, 1),
    ]
    if advantages.get("clamp") is not None:
        problems += number_problem("advantages['clamp']", advantages["clamp"], 0, 1e6, open_low=True)
    wanted = ", ".join(_ADVANTAGE_KEYS)
    problems += [("advantages", repr(key), f"only {wanted}") for key in advantages if key not in _ADVANTAGE_KEYS]
    steps = mine.get("micro_batches")
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        problems.append(("micro_batches", repr(steps), "a whole number from 1, or None"))
    latent = mine.get("latent", (1,))
    if not isinstance(latent, (tuple, list)) or not latent or not all(isinstance(n, int) and n > 0 for n in latent):
        problems.append(("latent", repr(latent), "the shape of one sample, (3, 4) for instance"))
    if not callable(mine.get("network", VelocityMLP)) and mine["network"] is not None:
        problems.append(("network", repr(mine["network"]), "a function without arguments that makes the network"))
    return problems
