"""``gradcheck.distributed.conforms``: a trainer's step, judged on many processes, and on one beside losses and parts.

``gradcheck distributed`` starts as many processes as one wants; ``gradcheck check`` and pytest judge on their own one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradcheck.distributed.declaration import ATTRIBUTE, Trainer, declared
from gradcheck.distributed.evidence import Observed
from gradcheck.distributed.judging import judge
from gradcheck.distributed.verdicts import IDS
from gradcheck.distributed.verdicts import declared as declared_step
from gradcheck.doors.collecting import Tell, beside, label_of, silent, source_of
from gradcheck.errors import GradcheckError, InputError
from gradcheck.judging.adapter import NotCheckedError
from gradcheck.judging.engine import Declared
from gradcheck.judging.isolation.words import name_of_type
from gradcheck.judging.results import Judgement, Outcome, Result
from gradcheck.oracle.subject import Settings

__all__ = ["TrainerSubject", "conforms"]

_SHARE = 5
"""Cases of an obligation for one batch of each division: a step is called many times on each."""


@dataclass(frozen=True)
class TrainerSubject(Trainer):
    """A decorated step, as ``gradcheck check`` and pytest judge it."""

    def about(self, settings: Settings) -> tuple[str, str, list[Result]]:
        """Its declaration and reference, and what every obligation comes to if nothing more is heard."""
        whole = self._whole(settings)
        return whole.info.declaration, whole.info.reference, list(whole.rows(Outcome("unjudged")))

    def attempt(self, settings: Settings, only: Sequence[str] = (), tell: Tell = silent) -> Judgement:
        """Judge it; where it cannot be judged, a judgement that says so.

        Raises:
            InputError: there is no such obligation.
        """
        fewer = replace(settings, max_examples=max(2, settings.max_examples // _SHARE))
        try:
            return judge(self, fewer, only)
        except InputError:
            raise
        except NotCheckedError as error:
            outcome = Outcome("skipped", detail=f"not checked: {error}")
        except GradcheckError as error:
            outcome = Outcome("unjudged", detail=str(error))
        whole = self._whole(settings)
        return whole.info.judgement(whole.rows(outcome, only))

    def _whole(self, settings: Settings) -> Declared[Observed]:
        return declared_step(Observed(self, settings, 1))


def conforms(
    algorithm: str | None = None,
    *,
    preset: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    advantages: Mapping[str, Any] | None = None,
    **conventions: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare that a function is one step of a trainer on many processes.

    The function is called on every rank as ``step(model, shard)``: with a fresh network of the same weights
    everywhere, which it may wrap as it likes, and with this rank's :class:`gradcheck.distributed.Shard`.  It returns
    after its backward passes.  The function itself is returned unchanged.  pytest runs it once for each obligation,
    ``test_step[equal-shards]``, ``test_step[unequal-micro-batches]`` …, on one process.

    Args:
        algorithm: a name of the catalogue.
        preset: the declaration of a public implementation.
        expected_failures: obligation → reason.
        advantages: ``std``, ``unbiased``, ``eps`` and ``clamp`` of the advantages that the step computes itself, see
            :class:`gradcheck.parts.advantage.AdvantageConvention`.
        conventions: fields of :class:`Declaration`, and conventions as in :func:`gradcheck.conforms`.

    Raises:
        InputError: something unknown or out of its domain; all mistakes are listed.
    """
    declaration, expected = declared(algorithm, preset, expected_failures, advantages, conventions, IDS)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function):
            raise InputError(("function", f"a {name_of_type(function)}", "a function that takes a model and a shard"))
        subject = TrainerSubject(function, label_of(function), declaration, expected, source_of(function, methods=True))
        step = beside(function, subject, list(IDS), _run)
        setattr(step, ATTRIBUTE, subject)
        return step

    return decorate


def _run(subject: TrainerSubject, obligation: str, request: Any) -> None:
    from gradcheck.pytest_plugin import run_whole

    run_whole(subject, obligation, request)
