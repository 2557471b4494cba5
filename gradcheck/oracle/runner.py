r"""Judging one implementation: every obligation on every device, then a diagnosis and a script for what failed."""

from __future__ import annotations

import contextlib
import math
import random
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from gradcheck.devices import DTYPES, devices
from gradcheck.errors import GradcheckError, InputError, one_of
from gradcheck.judging.adapter import Adapter, AdapterError, NotCheckedError, StoppedError
from gradcheck.judging.isolation.patched import Namespaces
from gradcheck.judging.isolation.words import said
from gradcheck.judging.results import Diagnosis, Judgement, Outcome, Raised, Result
from gradcheck.oracle.checks import as_computed
from gradcheck.oracle.diagnosis.diagnose import ShownAlone, diagnose
from gradcheck.oracle.judge import Judge
from gradcheck.oracle.obligations import OBLIGATIONS, Obligation
from gradcheck.oracle.ranks import another_batch, axes_in_words, narrowed, taken_axes
from gradcheck.oracle.script import script
from gradcheck.oracle.target import Settings, Target
from gradcheck.problems.building import Spec

__all__ = ["Settings", "Target", "attempt", "check_obligation", "judge", "unjudged"]


def judge(target: Target, settings: Settings | None = None, only: Sequence[str] = ()) -> Judgement:
    """Check every obligation (or ``only`` some) and explain what failed.

    Raises:
        AdapterError: the implementation cannot be judged: it raises on every problem, hangs, or returns no loss.
        InputError: an unknown obligation or device.
    """
    judgement, error = _judge(target, settings or Settings(), only)
    if error:
        raise AdapterError(error)
    return judgement


def attempt(
    target: Target,
    settings: Settings | None = None,
    only: Sequence[str] = (),
    tell: Callable[[Result], None] = lambda result: None,
) -> Judgement:
    """The same, but an implementation that cannot be judged gives a judgement that says so, and what was seen before.

    ``tell`` is given each result as soon as it is there.

    Raises:
        InputError: an unknown obligation or device.
    """
    return _judge(target, settings or Settings(), only, tell)[0]


def _judge(
    target: Target,
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
                results.append(check_obligation(target, obligation, settings, device, diagnosed, printed))
            except StoppedError as error:
                stopped = str(error)
                results.append(unjudged(obligation, settings, device, stopped))
            tell(results[-1])
    told, reason = (results, stopped) if stopped else _never_returned(results)
    judgement = Judgement(
        target=target.name,
        declaration=target.conventions.describe(),
        results=tuple(told),
        reference=target.conventions.derivation.reference,
        seed=settings.seed,
        seconds=time.perf_counter() - start,
        printed=shortened(printed),
    )
    return judgement, reason


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
        InputError: naming the first of them.
    """
    known = [o.id for o in OBLIGATIONS]
    for name in only:
        if name not in known:
            wanted = one_of(name, known, "an obligation; the guide, docs/oracle.md, lists them")
            raise InputError(("obligation", repr(name), wanted))


def unjudged(obligation: Obligation, settings: Settings, device: str, message: str) -> Result:
    """What an obligation comes to of which an implementation gives nothing to judge."""
    return Result(
        id=obligation.id,
        statement=obligation.statement,
        catches=obligation.catches,
        outcome=Outcome("unjudged", detail=message),
        device=device,
        dtype=obligation.dtype or settings.dtype,
    )


_MOST_PRINTED = 10_000  # characters


def shortened(printed: Iterable[str]) -> str:
    """What the calls printed, each text once, cut where it gets long."""
    text = "".join(printed)
    if len(text) <= _MOST_PRINTED:
        return text
    return f"{text[:_MOST_PRINTED]}\n… and {len(text) - _MOST_PRINTED} more characters\n"


def check_obligation(
    target: Target,
    obligation: Obligation,
    settings: Settings,
    device: str,
    diagnosed: dict[str, Diagnosis] | None = None,
    printed: dict[str, None] | None = None,
) -> Result:
    """Check one obligation.

    Args:
        target: the implementation.
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
        target.function, target.name, target.conventions.batch_reduction, settings.timeout, printed=seen_printed
    )
    one = Judge(
        adapter=adapter,
        conventions=target.conventions,
        device=device,
        dtype=DTYPES[settings.dtype],
        max_examples=settings.max_examples,
        latent=settings.latent,
        batch=settings.batch,
        seed=settings.seed,
        compiled=settings.compiled,
    )
    not_applicable = obligation.applies(target.conventions)
    if obligation.opt_in and not getattr(settings, obligation.opt_in):
        not_applicable = f"not asked for (--{obligation.opt_in})"
    if not_applicable:
        outcome = Outcome("skipped", detail=not_applicable)
    else:
        outcome, one = _where_it_runs(obligation, one)
    diagnosis, text = None, ""
    if outcome.status == "failed" and not isinstance(outcome, Raised):
        text = script(target, one, obligation, outcome)
        try:
            diagnosis = _diagnosis(one, obligation, outcome, diagnosed if diagnosed is not None else {})
        except AdapterError as error:  # on another problem than the one that showed the failure
            diagnosis = _of_some_batches(one, outcome, error)
        except StoppedError as error:
            diagnosis = Diagnosis("unknown", f"no cause could be sought: {error}")
        except Exception as error:  # a mistake of ours costs the cause, and not the verdict
            diagnosis = Diagnosis("unknown", f"no cause could be sought: gradcheck failed: {said(error)}{_ours(error)}")
    return Result(
        id=obligation.id,
        statement=_worded(obligation.statement, target.conventions.prediction),
        catches=obligation.catches,
        outcome=outcome,
        device=device,
        dtype=obligation.dtype or settings.dtype,
        diagnosis=diagnosis,
        script=text,
        expected=target.expected_failures.get(obligation.id, ""),
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
        found = another_batch(one)
        if found is None:
            taken = taken_axes(one)
            found = diagnose(narrowed(one, taken), printed=outcome.spec) if taken else None
    except (AdapterError, StoppedError):
        found = None
    return found or Diagnosis("unknown", f"no cause could be sought: {error}")


def _outcome(obligation: Obligation, one: Judge) -> Outcome:
    """What the check says; that it raises, or skips itself, where the implementation does."""
    names = Namespaces.now()
    with _generators_kept():
        try:
            outcome = obligation.check(one)
        except NotCheckedError as error:
            outcome = Outcome("skipped", detail=f"not checked: {error} (on {error.on})")
        except AdapterError as error:
            detail = f"raises on {error.on}: {error}" if error.on else str(error)
            outcome = Raised("failed", 1, math.inf, detail, raised=str(error), on=error.on)
        except torch.cuda.OutOfMemoryError as error:
            outcome = Outcome("failed", ratio=math.inf, detail=f"out of memory: {error}")
        except (GradcheckError, KeyboardInterrupt):
            raise
        except Exception as error:  # a mistake of ours, or something that a call has left behind
            outcome = Outcome("unjudged", detail=f"gradcheck failed here: {said(error)}{_ours(error)}")
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


def _ours(error: Exception) -> str:
    *_, last = traceback.extract_tb(error.__traceback__)
    return f" ({Path(last.filename).name}:{last.lineno})"


_PUT_OUT = {"v": "v_", "epsilon": "noise_", "x0": "x_0_"}


def _worded(statement: str, prediction: str) -> str:
    """A statement about the velocities, told of what the network puts out."""
    return statement.replace("v_", _PUT_OUT[prediction])


def _diagnosis(one: Judge, obligation: Obligation, outcome: Outcome, diagnosed: dict[str, Diagnosis]) -> Diagnosis:
    """The cause of a failing gradient, sought where this obligation looks; else what the obligation itself says."""
    known = next(iter(diagnosed.values()), None)
    if obligation.id == "gradient" and outcome.comparison is None:
        one = as_computed(one)  # it is within the declared precision's bound, and yet no rounding
    if known is not None:
        return known
    if obligation.cause is not None and not (obligation.related and _gradient_is_wrong(one)):
        return obligation.cause
    general = obligation.general or _gradient_is_wrong(one)
    found = diagnose(one, printed=outcome.spec) if general else _alone(obligation, outcome)
    if isinstance(found, ShownAlone):
        alone = _alone(obligation, outcome)  # so the cause lies in what this obligation is about
        found = alone if alone.name != "unknown" else found
    diagnosed.setdefault(obligation.id, found)
    return found


def _gradient_is_wrong(one: Judge) -> bool:
    quick = replace(one, max_examples=3, dtype=torch.float64)
    return any(o.check(quick).status == "failed" for o in OBLIGATIONS if o.general and not o.applies(one.conventions))


def _alone(obligation: Obligation, outcome: Outcome) -> Diagnosis:
    """The gradient is right in general, so the cause lies in what this obligation is about."""
    return replace(obligation.alone, cause=obligation.alone.cause.replace("{shape}", _shape(outcome.spec)))


def _shape(spec: Spec | None) -> str:
    return "" if spec is None else f"batch {spec.batch}, latent {spec.latent}"
