r"""Calling a stranger's code: once per case, in isolation, with one clear message for whatever it does wrong."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.errors import GradcheckError

__all__ = ["Adapter", "AdapterError", "Observation"]

_PACKAGE = Path(__file__).resolve().parents[1]


class AdapterError(GradcheckError):
    """The adapter could not be judged: it raised, returned no loss, or disturbed the process."""


@dataclass(frozen=True)
class Observation:
    """What an implementation returned on one case.

    Attributes:
        loss: detached, as it was returned.
        gradient: of the loss (its sum, if it is per sample) in ``case.output``, of the latent's shape.
        leaked: other quantities into which a gradient flowed.
        changed: quantities that the call changed in place.
        side_effects: what it left behind in the process, in words.
        printed: what it wrote to standard output.
    """

    loss: Tensor
    gradient: Tensor
    leaked: tuple[str, ...]
    changed: tuple[str, ...]
    side_effects: tuple[str, ...]
    printed: str = ""


@dataclass(frozen=True)
class Adapter:
    """A user's function from a case to a loss.

    Attributes:
        function: the function.
        name: how reports call it.
        batch_reduction: whether it returns one number or one a sample.
        timeout: seconds that one call may take.
        printed: what its calls wrote to standard output, each text once; filled in as it is called.
    """

    function: Callable[[Case], Any]
    name: str
    batch_reduction: str = "mean"
    timeout: float = 60.0
    printed: dict[str, None] = field(default_factory=dict, compare=False, repr=False)

    def observe(self, case: Case, watch_leaks: bool = False) -> Observation:
        """Call it on a case of its own and differentiate what it returns.

        Raises:
            AdapterError: it raises, hangs, or returns no differentiable loss of the declared shape.
        """
        captured = io.StringIO()
        try:
            with contextlib.redirect_stdout(captured):
                return replace(self._observe(case, watch_leaks), printed=captured.getvalue())
        finally:
            if captured.getvalue():
                self.printed.setdefault(captured.getvalue())

    def _observe(self, case: Case, watch_leaks: bool) -> Observation:
        own = _fresh(case, watch_leaks)
        before = {name: value.detach().clone() for name, value in own.items() if isinstance(value, Tensor)}
        handed = Case(case.label, own)
        with _isolated() as left_behind:
            try:
                with _time_limit(self.timeout):
                    loss = self.function(handed)
            except AdapterError:
                raise
            except Exception as error:
                where = _place(error)
                raise AdapterError(f"{self.name} raised {type(error).__name__}: {error}{where}") from error
            v = own[case.output_name]
            assert isinstance(v, Tensor)
            checked = self._checked(loss, v, case.output_name)
            watched = {n: x for n, x in own.items() if isinstance(x, Tensor) and x.requires_grad}
            try:
                with torch.enable_grad():
                    gradients = torch.autograd.grad(checked.sum(), list(watched.values()), allow_unused=True)
            except RuntimeError as error:
                raise AdapterError(f"{self.name} returned a loss that cannot be differentiated: {error}") from error
        by_name = dict(zip(watched, gradients, strict=True))
        gradient = by_name.pop(case.output_name)
        return Observation(
            loss=checked.detach(),
            gradient=torch.zeros_like(v) if gradient is None else gradient.detach(),
            leaked=tuple(n for n, g in by_name.items() if g is not None and bool((g != 0).any())),
            changed=tuple(n for n, x in before.items() if not _same(x, own[n])),
            side_effects=tuple(left_behind),
        )

    def _checked(self, loss: Any, v: Tensor, output: str) -> Tensor:
        if not isinstance(loss, Tensor):
            raise AdapterError(
                f"{self.name} returned {_named(loss)}; wanted the loss as a torch.Tensor{_return_hint(loss)}"
            )
        wanted: tuple[int, ...] = (v.shape[0],) if self.batch_reduction == "none" else ()
        if tuple(loss.shape) != wanted and not (wanted == () and loss.numel() == 1):
            hint = (
                "batch_reduction='none' declares a loss per sample"
                if wanted == ()
                else "declare batch_reduction='mean' or 'sum' for one number"
            )
            raise AdapterError(
                f"{self.name} returned a loss of shape {tuple(loss.shape)}; "
                f"wanted {wanted or 'one number, ()'} ({hint})"
            )
        if not loss.is_floating_point():
            raise AdapterError(f"{self.name} returned a loss of dtype {loss.dtype}; wanted a floating-point one")
        if not loss.requires_grad:
            raise AdapterError(
                f"{self.name} returned a loss without a graph; wanted one that is differentiable in case.{output} "
                "(is it detached, computed under no_grad, or rebuilt with torch.tensor?)"
            )
        return loss


def _named(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _return_hint(value: Any) -> str:
    """What to do about a return value that is no tensor."""
    if isinstance(value, (tuple, list, dict)):
        return " (return the loss alone)"
    if isinstance(value, (int, float, np.ndarray, np.generic)):
        return " that autograd can differentiate (for a gradient by hand see docs/oracle.md)"
    return ""


def _place(error: Exception) -> str:
    """The deepest line of the user's own code that raised; empty where there is none."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if _users(Path(f.filename))]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""


def _users(file: Path) -> bool:
    return file.is_file() and "site-packages" not in file.parts and _PACKAGE not in file.parents


def _fresh(case: Case, watch_leaks: bool) -> dict[str, Tensor | float]:
    """A copy that the adapter may do with as it likes; with ``watch_leaks`` every tensor requires grad."""
    out: dict[str, Tensor | float] = {}
    for name in case.names:
        value = getattr(case, name)
        if isinstance(value, Tensor):
            value = _copy(value.detach())
            if name == case.output_name or (watch_leaks and value.is_floating_point()):
                value.requires_grad_()
        out[name] = value
    return out


def _copy(x: Tensor) -> Tensor:
    """The same numbers in memory of the same layout, also where that has gaps, which clone() would close."""
    if 0 in x.stride():
        return x.clone()
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def _same(a: Tensor, b: Any) -> bool:
    return (
        isinstance(b, Tensor) and a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b.detach()))
    )


@contextlib.contextmanager
def _isolated() -> Iterator[list[str]]:
    """Restore what an adapter may change in the process, and name what it did change."""
    left_behind: list[str] = []
    states: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], str]] = {
        "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled, "the global grad mode"),
        "dtype": (torch.get_default_dtype, torch.set_default_dtype, "the default dtype"),
        "threads": (torch.get_num_threads, torch.set_num_threads, "the number of threads"),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
            "torch's deterministic mode",
        ),
    }
    saved = {name: get() for name, (get, _, _) in states.items()}
    rng, python_rng = torch.get_rng_state(), random.getstate()
    seeds = torch.initial_seed()
    try:
        yield left_behind
    finally:
        for name, (get, restore, words) in states.items():
            if get() != saved[name]:
                left_behind.append(f"changed {words} from {saved[name]} to {get()}")
                restore(saved[name])
        if torch.initial_seed() != seeds:
            left_behind.append(f"seeded torch's global generator with {torch.initial_seed()}")
        torch.set_rng_state(rng)
        random.setstate(python_rng)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Interrupt Python code that takes too long (on the main thread of systems that have the alarm signal)."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: Any) -> None:
        raise AdapterError(f"one call took longer than the {seconds:g} s that --timeout allows")

    previous = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
