r"""Judging one implementation: every obligation on every device, then a diagnosis and a script for what failed.

A loss's obligations are checks as everywhere (:mod:`gradcheck.judging.check`), and so are their outcomes, results and
judgement; what stands here besides is not the engine's (:mod:`gradcheck.judging.engine`), because

- it is judged on several devices, one obligation at a time, so that what was seen is told where a call hangs or dies,
  and so that pytest may ask for one obligation alone;
- causes are sought on problems that are drawn for the search, beside the one that is printed, and not by making the
  checks again under each of some hundred mistakes, which are predictions of a gradient and not requirements;
- where code raises for latents of some ranks, its checks are made again on those that it takes.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from derivations.steps.parameterisation import Prediction
from gradcheck.devices import DTYPES, Device, devices
from gradcheck.errors import InputError
from gradcheck.judging.adapter import Adapter, AdapterError, StoppedError
from gradcheck.judging.check import Info, outcome_of, place_of_ours, result_of, unknown
from gradcheck.judging.isolation.patched import Namespaces
from gradcheck.judging.isolation.words import said
from gradcheck.judging.results import Diagnosis, Judgement, Outcome, Raised, Result
from gradcheck.oracle.checks.gradient import as_computed
from gradcheck.oracle.diagnosis.declarable import whole_units
from gradcheck.oracle.diagnosis.diagnose import (
    diagnose,
    diagnose_the_shown,
    repeats_itself,
    right_in_another_layout,
)
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.obligations import OBLIGATIONS, Obligation, gradient_is_wrong
from gradcheck.oracle.ranks import another_batch, axes_in_words, narrowed, taken_axes
from gradcheck.oracle.script import script
from gradcheck.oracle.subject import Settings, Subject
from gradcheck.problems.building import Spec

__all__ = ["Settings", "Subject", "attempt", "check_obligation", "judge", "unjudged"]


def judge(subject: Subject, settings: Settings | None = None, only: Sequence[str] = ()) -> Judgement:
    """Check every obligation (or ``only`` some) and explain what failed.

    Raises:
        AdapterError: the implementation cannot be judged: it raises on every problem, hangs, or returns no loss.
        InputError: an unknown obligation or device.
    """
    judgement, error = _judge(subject, settings or Settings(), only)
    if error:
        raise AdapterError(error)
    return judgement


def attempt(
    subject: Subject,
    settings: Settings | None = None,
    only: Sequence[str] = (),
    tell: Callable[[Result], None] = lambda result: None,
) -> Judgement:
    """The same, but an implementation that cannot be judged gives a judgement that says so, and what was seen before.

    ``tell`` is given each result as soon as it is there.

    Raises:
        InputError: an unknown obligation or device.
    """
    return _judge(subject, settings or Settings(), only, tell)[0]


def _judge(
    subject: Subject,
    settings: Settings,
    only: Sequence[str],
    tell: Callable[[Result], None] = lambda result: None,
) -> tuple[Judgement, str]:
    check_only(only)
    start = time.perf_counter()
    results: list[Result] = []
    printed: dict[str, None] = {}
    stopped = ""
    for device in devices(settings.device):
        diagnosed: dict[str, Diagnosis] = {}
        for obligation in OBLIGATIONS:
            if stopped or (only and obligation.id not in only):
                continue
            try:
                results.append(check_obligation(subject, obligation, settings, device, diagnosed, printed))
            except StoppedError as error:
                stopped = str(error)
                results.append(unjudged(obligation, settings, device, stopped))
            tell(results[-1])
    told, reason = (results, stopped) if stopped else _never_returned(results)
    info = _info(subject, settings)
    return info.judgement(told, time.perf_counter() - start, shortened(printed)), reason


def _info(subject: Subject, settings: Settings, device: Device = "cpu") -> Info:
    declaration, reference = subject.conventions.describe(), subject.conventions.derivation.reference
    expected = subject.expected_failures
    return Info(subject.name, declaration, reference, settings.seed, settings.dtype, expected, device)


def _never_returned(results: list[Result]) -> tuple[list[Result], str]:
    """An implementation that raised wherever it was called was not judged, for the first reason."""
    checked = [r for r in results if r.outcome.status != "skipped"]
    raised = [(r, r.outcome.raised) for r in checked if isinstance(r.outcome, Raised)]
    elsewhere = {o.id for o in OBLIGATIONS if o.other_inputs}  # a missing reduction does not show in a batch of one
    if not raised or not all(isinstance(r.outcome, Raised) or r.id in elsewhere for r in checked):
        return results, ""
    first, reason = raised[0]
    before = [r for r in results[: results.index(first)] if r.outcome.status == "skipped"]
    return [*before, replace(first, outcome=Outcome("unjudged", detail=reason))], reason


def check_only(only: Sequence[str]) -> None:
    """Refuse names that no obligation has.

    Raises:
        InputError: naming them.
    """
    problems = unknown("obligation", only, [o.id for o in OBLIGATIONS], "docs/oracle.md")
    if problems:
        raise InputError(*problems)


def unjudged(obligation: Obligation, settings: Settings, device: Device, message: str) -> Result:
    """What an obligation comes to of which an implementation gives nothing to judge."""
    info = Info("", "", "", settings.seed, obligation.dtype or settings.dtype, device=device)
    return result_of(obligation, Outcome("unjudged", detail=message), info)


_MOST_PRINTED = 10_000  # characters


def shortened(printed: Iterable[str]) -> str:
    """What the calls printed, each text once, cut where it gets long."""
    text = "".join(printed)
    if len(text) <= _MOST_PRINTED:
        return text
    return f"{text[:_MOST_PRINTED]}\n… and {len(text) - _MOST_PRINTED} more characters\n"


def check_obligation(
    subject: Subject,
    obligation: Obligation,
    settings: Settings,
    device: Device,
    diagnosed: dict[str, Diagnosis] | None = None,
    printed: dict[str, None] | None = None,
) -> Result:
    """Check one obligation.

    Args:
        subject: the implementation.
        obligation: what it must do.
        settings: how thoroughly to look.
        device: where.
        diagnosed: remembers a cause, so that it is sought once.
        printed: is given, as keys, what the implementation prints.

    Raises:
        StoppedError: the implementation cannot be called again.
    """
    start = time.perf_counter()
    seen_printed = {} if printed is None else printed
    adapter = Adapter(
        subject.function, subject.name, subject.conventions.batch_reduction, settings.timeout, printed=seen_printed
    )
    one = Judge(
        adapter=adapter,
        conventions=subject.conventions,
        device=device,
        dtype=DTYPES[settings.dtype],
        max_examples=settings.max_examples,
        latent=settings.latent,
        batch=settings.batch,
        seed=settings.seed,
        compiled=settings.compiled,
    )
    outcome, one = _where_it_runs(obligation, one)
    diagnosis, text = None, ""
    if outcome.status == "failed" and not isinstance(outcome, Raised):
        text = script(subject, one, obligation, outcome)
        try:
            diagnosis = _diagnosis(one, obligation, outcome, diagnosed if diagnosed is not None else {})
        except AdapterError as error:  # on another problem than the one that showed the failure
            diagnosis = _of_some_batches(one, outcome, error)
        except StoppedError as error:
            diagnosis = Diagnosis("unknown", f"no cause could be sought: {error}")
        except Exception as error:  # a mistake of ours costs the cause, and not the verdict
            diagnosis = Diagnosis(
                "unknown", f"no cause could be sought: gradcheck failed: {said(error)}{place_of_ours(error)}"
            )
    return result_of(
        obligation,
        outcome,
        _info(subject, settings, device),
        diagnosis,
        text,
        statement=_worded(obligation.statement, subject.conventions.prediction),
        dtype=obligation.dtype or settings.dtype,
        seconds=time.perf_counter() - start,
    )


def _where_it_runs(obligation: Obligation, one: Judge) -> tuple[Outcome, Judge]:
    """What the check says, where need be for latents of those ranks alone that the implementation takes."""
    outcome = _outcome(obligation, one)
    taken = taken_axes(one) if isinstance(outcome, Raised) else ()
    if not taken:
        return outcome, one
    if obligation.layouts:
        return replace(outcome, detail=f"{outcome.detail}; it {axes_in_words(taken)}"), one
    fewer = narrowed(one, taken)
    found = _outcome(obligation, fewer)
    note = "; ".join(x for x in (found.note, f"it {axes_in_words(taken)}") if x)
    return (found if isinstance(found, Raised) else replace(found, note=note)), fewer


def _of_some_batches(one: Judge, outcome: Outcome, error: AdapterError) -> Diagnosis:
    """The cause of a failure of code that raises on other problems."""
    try:
        found = whole_units(one) or another_batch(one)
        if found is None:
            taken = taken_axes(one)
            found = diagnose(narrowed(one, taken), printed=outcome.spec) if taken else None
    except (AdapterError, StoppedError):
        found = None
    return found or Diagnosis("unknown", f"no cause could be sought: {error}")


def _outcome(obligation: Obligation, one: Judge) -> Outcome:
    """What the check says, unless it replaces names of others' modules."""
    if obligation.applies(one):  # nothing is called, so nothing needs watching
        return outcome_of(obligation, one)
    names = Namespaces.now()
    with _generators_kept():
        outcome = outcome_of(obligation, one)
    replaced = names.replaced()
    if replaced:
        return Outcome("unjudged", detail=f"{one.adapter.name} replaces {', '.join(replaced[:5])}")
    return outcome


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Python's and NumPy's generators as they were; torch's is put back after each call."""
    kept, numpy_kept = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(kept)
        np.random.set_state(numpy_kept)


_PUT_OUT = {"v": "v_", "epsilon": "noise_", "x0": "x_0_"}


def _worded(statement: str, prediction: Prediction) -> str:
    """A statement about the velocities, told of what the network puts out."""
    return statement.replace("v_", _PUT_OUT[prediction])


def _diagnosis(one: Judge, obligation: Obligation, outcome: Outcome, diagnosed: dict[str, Diagnosis]) -> Diagnosis:
    """The cause of a failing gradient, sought where this obligation looks; else what the obligation itself says."""
    known = next(iter(diagnosed.values()), None)
    if obligation.id == "gradient" and outcome.comparison is None:
        one = as_computed(one)  # it is within the declared precision's bound, and yet no rounding
    if known is not None:
        return known
    direct = obligation.direct(one)
    if direct is not None:
        return direct
    if not repeats_itself(one):
        return diagnosed.setdefault(obligation.id, _OF_STATE)
    general = obligation.general or gradient_is_wrong(one)
    found = diagnose(one, printed=outcome.spec) if general else _alone(one, obligation, outcome)
    if found.shown_alone:
        alone = _alone(one, obligation, outcome)  # so the cause lies in what this obligation is about
        found = alone if alone.name != "unknown" else found
    diagnosed.setdefault(obligation.id, found)
    return found


_OF_STATE = Diagnosis(
    "state", "the implementation keeps state between calls or draws random numbers, so that no two gradients are alike"
)


def _alone(one: Judge, obligation: Obligation, outcome: Outcome) -> Diagnosis:
    """The gradient is right in general, so the cause lies in what this obligation is about."""
    if obligation.layouts and outcome.spec is not None and not right_in_another_layout(one, outcome.spec):
        return diagnose_the_shown(one, outcome.spec)
    return replace(obligation.alone, cause=obligation.alone.cause.replace("{shape}", _shape(outcome.spec)))


def _shape(spec: Spec | None) -> str:
    return "" if spec is None else f"batch {spec.batch}, latent {spec.latent}"
