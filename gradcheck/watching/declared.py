"""What the watch is told of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from derivations.derivation import Derivation
from gradcheck.conventions import Conventions, declare

__all__ = ["Declared", "declare_watch"]


@dataclass(frozen=True)
class Declared:
    """A declaration, and how it was written: enough to write it down and to read it again.

    Attributes:
        conventions: the declaration.
        written: keywords of :func:`declare_watch`.
    """

    conventions: Conventions
    written: Mapping[str, Any]

    @cached_property
    def derivation(self) -> Derivation:
        return self.conventions.derivation

    @property
    def constant_declared(self) -> bool:
        return "factor" in self.written["declared"]

    @property
    def on_policy_first(self) -> bool:
        """Whether the first step of a run follows its rollout without an update: where the method is on-policy."""
        return self.derivation.policy == "on" and self.derivation.process == "backward"


def declare_watch(algorithm: str | None, loss: str | None, preset: str | None, declared: Mapping[str, Any]) -> Declared:
    """Read a declaration.

    Raises:
        InputError: something unknown or out of its domain; all mistakes are listed.
    """
    written = {"algorithm": algorithm, "loss": loss, "preset": preset, "declared": dict(declared)}
    return Declared(declare(algorithm, loss=loss, preset=preset, **declared), written)
