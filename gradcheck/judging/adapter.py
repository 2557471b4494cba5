r"""Calling a stranger's code: once per case, apart from ours, with one clear message for whatever it does wrong."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gradcheck.case import Case
from gradcheck.devices import Device
from gradcheck.errors import GradcheckError
from gradcheck.judging.isolation.limits import TimeUp, time_limit, watched
from gradcheck.judging.isolation.state import Left, State
from gradcheck.judging.isolation.words import name_of_type, place, plain, said

if TYPE_CHECKING:
    from gradcheck.conventions import BatchReduction

__all__ = ["Adapter", "AdapterError", "NotCheckedError", "Observation", "StoppedError", "adapter_case", "problem_of"]

_grad = torch.autograd.grad


class AdapterError(GradcheckError):
    """The adapter could not be judged on a case: it raised, or returned no loss.

    ``on`` says which case that was.
    """

    on: str = ""


class NotCheckedError(AdapterError):
    """The adapter skips itself on a case, with ``pytest.skip`` or its kin."""


class StoppedError(GradcheckError):
    """The adapter cannot be called again: it hung, or wanted to end the process."""


def problem_of(error: BaseException, name: str, doing: str = "") -> GradcheckError:
    """What to raise for what a stranger's function raised.

    Where nobody watches the process, Ctrl-C and ``pytest.exit`` are raised as they are.

    Args:
        error: what it raised.
        name: of the function.
        doing: a clause, `` in backward``.
    """
    if isinstance(error, TimeUp):
        return StoppedError(str(error))
    if isinstance(error, GradcheckError) and isinstance(error, (AdapterError, StoppedError)):
        return error
    kind = name_of_type(error)
    if not watched() and (isinstance(error, KeyboardInterrupt) or _is_pytests(error, "Exit")):
        raise error
    if _is_pytests(error, "Skipped") or _is_pytests(error, "XFailed") or _is_skip_test(error):
        words = said(error).removeprefix(kind).removeprefix(": ")
        return NotCheckedError(f"{name} skips itself{f': {words}' if words else ''}{place(error)}")
    message = f"{name} raised {said(error)}{doing}{place(error)}"
    ends = not isinstance(error, Exception) and not _is_pytests(error, "Failed")
    return StoppedError(message) if ends else AdapterError(message)


def _is_pytests(error: BaseException, name: str) -> bool:
    """Whether it is one of the outcomes that pytest raises, which need not be installed."""
    classes = type(error).__mro__  # some say that they are builtins
    return any(c.__module__ == "_pytest.outcomes" for c in classes) and any(c.__name__ == name for c in classes)


def _is_skip_test(error: BaseException) -> bool:
    return any(c.__name__ == "SkipTest" and c.__module__ == "unittest.case" for c in type(error).__mro__)


@dataclass(frozen=True)
class Observation:
    """What an implementation returned on one case.

    Attributes:
        loss: detached, as it was returned.
        gradient: of the loss (its sum, if it is per sample) in ``case.output``, of the latent's shape.
        leaked: other quantities into which a gradient flowed.
        changed: quantities that the call changed in place.
        left: what it left behind in the process.
        printed: what it wrote to standard output.
    """

    loss: Tensor
    gradient: Tensor
    leaked: tuple[str, ...]
    changed: tuple[str, ...]
    left: tuple[Left, ...]
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
    batch_reduction: BatchReduction = "mean"
    timeout: float = 60.0
    printed: dict[str, None] = field(default_factory=dict, compare=False, repr=False)

    def observe(self, case: Case, watch_leaks: bool = False, device: Device | None = None) -> Observation:
        """Call it on a case of its own, on ``device``, and differentiate what it returns.

        Loss and gradient come back to where the case is.

        Raises:
            AdapterError: it raises, or returns no differentiable loss of the declared shape.
            StoppedError: it hangs, or wants to end the process.
        """
        captured = _Captured()
        try:
            with contextlib.redirect_stdout(captured):
                return replace(self._observe(case, watch_leaks, device), printed=captured.text())
        except AdapterError as error:
            shape = tuple(case.output.shape)
            error.on = f"batch {shape[0]}, latent {shape[1:]}"
            raise
        finally:
            if captured.text():
                self.printed.setdefault(captured.text())

    def _observe(self, case: Case, watch_leaks: bool, device: Device | None) -> Observation:
        own = _fresh(case, watch_leaks, device)
        before = {name: value.detach().clone() for name, value in own.items() if isinstance(value, Tensor)}
        v = own[case.output_name]
        assert isinstance(v, Tensor)
        watched = {n: x for n, x in own.items() if isinstance(x, Tensor) and x.requires_grad}
        left: list[Left] = []
        state = State.now()
        try:
            with time_limit(self.timeout):
                loss = self._called(Case(case.label, own))
                checked = self._checked(loss, v, case.output_name)
                del loss
                gradients = self._differentiated(checked, list(watched.values()))
        except TimeUp as up:
            raise problem_of(up, self.name) from None
        finally:
            left = state.restore()
        by_name = dict(zip(watched, gradients, strict=True))
        gradient = by_name.pop(case.output_name)
        return Observation(
            loss=checked.detach().to(case.output.device),
            gradient=(torch.zeros_like(v) if gradient is None else gradient.detach()).to(case.output.device),
            leaked=tuple(n for n, g in by_name.items() if g is not None and bool((g != 0).any())),
            changed=tuple(n for n, x in before.items() if not _same(x, own[n])),
            left=tuple(left),
        )

    def _called(self, case: Case) -> Any:
        try:
            return self.function(case)
        except BaseException as error:
            raise problem_of(error, self.name) from error

    def _differentiated(self, loss: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
        try:
            with torch.enable_grad():
                return [_plain_gradient(g) for g in _grad(loss.sum(), inputs, allow_unused=True)]
        except BaseException as error:
            problem = problem_of(error, self.name, " in its backward pass")
            if isinstance(error, RuntimeError) and not place(error):
                words = said(error).removeprefix("RuntimeError: ")
                problem = AdapterError(f"{self.name} returned a loss that cannot be differentiated: {words}")
            raise problem from error

    def _checked(self, loss: Any, v: Tensor, output: str) -> Tensor:
        if not issubclass(type(loss), Tensor):
            if inspect.iscoroutine(loss):
                loss.close()  # else Python complains that nobody awaited it
            raise AdapterError(
                f"{self.name} returned {_named(loss)}; wanted the loss as a torch.Tensor{_return_hint(loss)}"
            )
        loss = self._strided(loss)
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

    def _strided(self, loss: Tensor) -> Tensor:
        """The same as a plain tensor, whose methods are torch's own."""
        kind = name_of_type(loss)
        with torch._C.DisableTorchFunctionSubclass():
            usual: Tensor = loss if type(loss) is Tensor else loss.as_subclass(Tensor)
            if type(usual) is not Tensor:
                raise AdapterError(f"{self.name} returned a {kind}; wanted the loss as a plain torch.Tensor")
            if usual.layout is not torch.strided:
                layout = str(usual.layout).removeprefix("torch.")
                raise AdapterError(f"{self.name} returned a loss of layout {layout}; wanted a strided torch.Tensor")
        return usual


class _Captured(io.StringIO):
    """What one call prints, as far as anybody reads."""

    _MOST = 100_000

    def write(self, text: str) -> int:
        if self.tell() < self._MOST:
            super().write(text[: self._MOST])
        return len(text)

    def text(self) -> str:
        return "" if self.closed else plain(self.getvalue())


def _plain_gradient(gradient: Tensor | None) -> Tensor | None:
    if gradient is None:
        return None
    with torch._C.DisableTorchFunctionSubclass():
        usual = gradient.as_subclass(Tensor)
        return usual if usual.layout is torch.strided else usual.to_dense()


def _named(value: Any) -> str:
    return "None" if value is None else f"a {name_of_type(value)}"


def _return_hint(value: Any) -> str:
    """What to do about a return value that is no tensor."""
    if inspect.iscoroutine(value) or inspect.isasyncgen(value):
        return " (an async function is not awaited)"
    if inspect.isgenerator(value):
        return " (return it, do not yield it)"
    if isinstance(value, (tuple, list, dict)):
        return " (return the loss alone)"
    if isinstance(value, (int, float, np.ndarray, np.generic)):
        return " that autograd can differentiate (for a gradient by hand see docs/oracle.md)"
    return ""


def adapter_case(case: Case, device: Device | None = None) -> Case:
    """A copy of a case as an adapter is handed it, on ``device``."""
    return Case(case.label, _fresh(case, False, device))


def _fresh(case: Case, watch_leaks: bool, device: Device | None) -> dict[str, Tensor | float]:
    """A copy that the adapter may do with as it likes; with ``watch_leaks`` every tensor requires grad."""
    out: dict[str, Tensor | float] = {}
    for name in case.names:
        value = getattr(case, name)
        if isinstance(value, Tensor):
            value = _copy(value.detach(), device)
            if name == case.output_name or (watch_leaks and value.is_floating_point()):
                value.requires_grad_()
        out[name] = value
    return out


def _copy(x: Tensor, device: Device | None) -> Tensor:
    """The same numbers in memory of the same layout, also where that has gaps, which clone() would close."""
    if 0 in x.stride():
        return x.to(device, copy=True)
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device or x.device).copy_(x)


def _same(a: Tensor, b: Any) -> bool:
    return (
        isinstance(b, Tensor) and a.shape == b.shape and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b.detach()))
    )
