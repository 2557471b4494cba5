r"""``gradcheck.conforms``: a test function becomes one test for each obligation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradcheck.case import Case
from gradcheck.conventions import declare
from gradcheck.devices import devices
from gradcheck.doors.collecting import Tell, label_of, silent, source_of, test_for
from gradcheck.errors import InputError
from gradcheck.judging.isolation.words import name_of_type
from gradcheck.judging.results import Judgement, Result
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.subject import Settings, Subject

__all__ = ["LossSubject", "conforms"]


@dataclass(frozen=True)
class LossSubject(Subject):
    """A loss, as ``gradcheck check`` and pytest judge it."""

    def about(self, settings: Settings) -> tuple[str, str, list[Result]]:
        """Its declaration and reference, and what every obligation comes to if nothing more is heard."""
        from gradcheck.oracle.runner import unjudged

        rows = [unjudged(o, settings, device, "") for device in devices(settings.device) for o in OBLIGATIONS]
        return self.conventions.describe(), self.conventions.derivation.reference, rows

    def attempt(self, settings: Settings, only: Sequence[str] = (), tell: Tell = silent) -> Judgement:
        """Judge it; where it cannot be judged, a judgement that says so.  Each result is told as soon as it is there.

        Raises:
            InputError: there is no such obligation or device.
        """
        from gradcheck.oracle.runner import attempt

        return attempt(self, settings, only, tell)


def conforms(
    algorithm: str | None = None,
    *,
    loss: str | None = None,
    given: Mapping[str, str] | None = None,
    preset: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    **declared: Any,
) -> Callable[[Callable[[Case], Any]], Callable[..., None]]:
    """Declare that a function is an implementation of an algorithm's loss.

    The function takes a :class:`gradcheck.Case` and returns the loss, differentiable in ``case.v_theta``.  pytest
    runs it once for each obligation, ``test_loss[gradient]``, ``test_loss[clip]`` …; ``gradcheck check`` runs it
    without pytest.

    Args:
        algorithm: a name of the catalogue (``gradcheck list``).
        loss: in its place, the per-sample loss itself in one line of ``gradcheck derive``'s grammar.
        given: quantities of your own on which that line rests, name → ``"latent"``, ``"sample"`` or ``"problem"``.
        preset: the declaration of a public implementation (:data:`gradcheck.conventions.PRESETS`).
        expected_failures: obligation → reason; an obligation that is listed and holds counts as failing.
        declared: conventions, see :class:`gradcheck.conventions.Conventions`.

    Raises:
        InputError: an unknown algorithm, preset, convention or obligation.

    Example:
        >>> import gradcheck
        >>> @gradcheck.conforms("awm")
        ... def test_awm(case):
        ...     v_gt = case.noise - case.x_0
        ...     return (case.advantage * ((case.v_theta - v_gt) ** 2).flatten(1).sum(1)).mean()
    """
    conventions = declare(algorithm, loss=loss, given=given, preset=preset, **declared)

    def decorate(function: Callable[[Case], Any]) -> Callable[..., None]:
        if not callable(function):
            raise InputError(("function", f"a {name_of_type(function)}", "a function that takes a case"))
        expected = dict(expected_failures or {})
        subject = LossSubject(function, label_of(function), conventions, expected, source_of(function))
        return test_for(function, subject, [o.id for o in OBLIGATIONS], _run)

    return decorate


def _run(subject: LossSubject, obligation: str, request: Any) -> None:
    from gradcheck.pytest_plugin import run_obligation

    run_obligation(subject, obligation, request)
