"""A trainer's step as ``gradcheck check`` judges it, beside losses and parts: on one process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from gradcheck.distributed.declaration import ATTRIBUTE, OBLIGATIONS, Trainer
from gradcheck.distributed.judging import REFERENCE, judge
from gradcheck.errors import GradcheckError, InputError
from gradcheck.oracle.results import Judgement, Outcome, Result
from gradcheck.oracle.target import Settings

__all__ = ["TrainerTarget", "steps_of"]

_SHARE = 5
"""Cases of an obligation for one batch of each division: a step is called many times on each."""


@dataclass(frozen=True)
class TrainerTarget:
    """A decorated step; it is judged on one process, where ``gradcheck distributed`` starts as many as one wants."""

    trainer: Trainer

    @property
    def name(self) -> str:
        """How reports call it."""
        return self.trainer.name

    @property
    def function(self) -> Callable[..., Any]:
        """The step."""
        return self.trainer.function

    def about(self, settings: Settings) -> tuple[str, str, list[Result]]:
        """Its declaration and reference, and what every obligation comes to if nothing more is heard."""
        blank = Outcome("unjudged")
        rows = [Result(name, *words, blank, "cpu", settings.dtype) for name, words in OBLIGATIONS.items()]
        return self.trainer.declaration.describe(), REFERENCE, rows

    def attempt(self, settings: Settings, only: Sequence[str] = ()) -> Judgement:
        """Judge it; where it cannot be judged, a judgement that says so.

        Raises:
            InputError: there is no such obligation.
        """
        fewer = replace(settings, max_examples=max(2, settings.max_examples // _SHARE))
        try:
            return judge(self.trainer, fewer, only)
        except InputError:
            raise
        except GradcheckError as error:
            declaration, reference, rows = self.about(settings)
            told = replace(rows[0], outcome=Outcome("unjudged", detail=str(error)))
            return Judgement(self.name, declaration, (told,), reference, settings.seed, 0.0)


def steps_of(module: ModuleType) -> dict[str, TrainerTarget]:
    """The decorated steps of a module, by their names there, each once."""
    found: dict[str, TrainerTarget] = {}
    for name, value in vars(module).items():
        trainer = getattr(value, "__dict__", {}).get(ATTRIBUTE)
        if isinstance(trainer, Trainer) and all(trainer is not one.trainer for one in found.values()):
            found[name] = TrainerTarget(trainer)
    return found
