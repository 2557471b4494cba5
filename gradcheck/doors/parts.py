r"""``gradcheck.conforms_sde_step`` and its kin: a part in a test file, one test for each of its obligations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradcheck.doors.collecting import Tell, silent, test_for
from gradcheck.errors import InputError
from gradcheck.judging.adapter import AdapterError, StoppedError
from gradcheck.judging.engine import Declared
from gradcheck.judging.isolation.words import name_of_type
from gradcheck.judging.results import Judgement, Outcome, Result
from gradcheck.parts._calls import limited
from gradcheck.parts._declaring import declare
from gradcheck.parts.advantage import advantage_part
from gradcheck.parts.ema import ema_part
from gradcheck.parts.reward_map import reward_map_part
from gradcheck.parts.sde_step import sde_step_part
from gradcheck.parts.time_sampler import time_sampler_part

if TYPE_CHECKING:
    from gradcheck.oracle.subject import Settings

__all__ = [
    "PART_OBLIGATIONS",
    "PartSubject",
    "conforms_advantage",
    "conforms_ema",
    "conforms_reward_map",
    "conforms_sde_step",
    "conforms_time_sampler",
]

_Decorator = Callable[[Callable[..., Any]], Callable[..., None]]


@dataclass(frozen=True)
class PartSubject:
    """A part's function and what it declares.

    Attributes:
        function: as its kind of part is called.
        name: how reports call it.
        part: makes its kind of part.
        declared: conventions by name, and ``expected_failures``.
    """

    function: Callable[..., Any]
    name: str
    part: Callable[..., Declared[Any]]
    declared: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.build(0)

    def build(self, seed: int) -> Declared[Any]:
        """The part whose problems have this seed.

        Raises:
            InputError: an unknown convention or a value out of its domain; all mistakes are listed.
        """
        return declare(self.part, self.function, {**self.declared, "seed": seed})

    @property
    def obligations(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(check.id for check in self.build(0).checks)

    def about(self, settings: Settings) -> tuple[str, str, list[Result]]:
        """Its declaration and reference, and what every obligation comes to if nothing more is heard."""
        part = self.build(settings.seed)
        return part.info.declaration, part.info.reference, list(part.rows(Outcome("unjudged")))

    def attempt(self, settings: Settings, only: Sequence[str] = (), tell: Tell = silent) -> Judgement:
        """Judge it on the CPU with the settings' seed; where it raises, a judgement that says so.

        Raises:
            InputError: there is no such obligation.
        """
        part = self.build(settings.seed)
        try:
            with limited(settings.timeout):
                return part.judge(only)
        except (AdapterError, StoppedError) as error:
            return part.info.judgement(part.rows(Outcome("unjudged", detail=str(error)), only))


def _decorator(part: Callable[..., Declared[Any]], declared: Mapping[str, Any]) -> _Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., None]:
        if not callable(function):
            raise InputError(("function", f"a {name_of_type(function)}", "a function"))
        subject = PartSubject(function, part(function).info.subject, part, dict(declared))
        return test_for(function, subject, list(subject.obligations), _run)

    return decorate


def _run(subject: PartSubject, obligation: str, request: Any) -> None:
    from gradcheck.pytest_plugin import run_whole

    run_whole(subject, obligation, request)


def conforms_sde_step(**declared: Any) -> _Decorator:
    """Declare that a function is a reverse step: ``(v, x_t, t, t_prev, x_prev, noise_level, generator)``.

    pytest runs it once for each obligation, ``test_step[mean]``, ``test_step[replay]`` …; ``gradcheck check`` runs it
    without pytest.  Keywords and errors are those of :func:`gradcheck.parts.judge_sde_step`; the seed is the
    command line's.
    """
    return _decorator(sde_step_part, declared)


def conforms_advantage(**declared: Any) -> _Decorator:
    """Declare that a function ``(rewards, group_ids)`` is an advantage estimator; else as :func:`conforms_sde_step`."""
    return _decorator(advantage_part, declared)


def conforms_ema(**declared: Any) -> _Decorator:
    """Declare that a function ``(shadow, live, step)`` is a moving average; else as :func:`conforms_sde_step`."""
    return _decorator(ema_part, declared)


def conforms_reward_map(**declared: Any) -> _Decorator:
    """Declare that a function ``(advantage)`` is the map to r; else as :func:`conforms_sde_step`."""
    return _decorator(reward_map_part, declared)


def conforms_time_sampler(**declared: Any) -> _Decorator:
    """Declare that a function ``(n, generator)`` draws training times; else as :func:`conforms_sde_step`."""
    return _decorator(time_sampler_part, declared)


_PARTS: tuple[Callable[..., Declared[Any]], ...] = (
    sde_step_part,
    advantage_part,
    ema_part,
    reward_map_part,
    time_sampler_part,
)
PART_OBLIGATIONS: tuple[str, ...] = tuple(
    dict.fromkeys(check.id for part in _PARTS for check in part(lambda *given: None).checks)
)
"""Every part's, for the command line."""
