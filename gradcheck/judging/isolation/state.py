r"""What a call can change in the process: looked at before and after, told in words, and put back.

Settings of which ``inputs-untouched`` has always spoken (:data:`JUDGED`) make that obligation fail.  Under the others,
left on, nothing that is computed afterwards can be trusted, so they cost the verdict.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # without enumerations, which cost a tenth of a millisecond
import contextlib
import gc
import operator
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as _modules

from gradcheck.judging.isolation.words import frame_place, plain

__all__ = ["JUDGED", "Left", "State", "new_threads"]


@dataclass(frozen=True)
class _Setting:
    """One setting: how to read it, to put it back, and to call what became of it."""

    get: Callable[[], Any]
    put: Callable[[Any], Any]
    words: Callable[[Any, Any], str]


@dataclass(frozen=True)
class Left:
    """What a call left behind: the setting's name and a clause, ``"left autocast on"``."""

    name: str
    words: str


def _changed(what: str) -> Callable[[Any, Any], str]:
    return lambda before, after: f"changed {what} from {before} to {after}"


def _is_left(what: str) -> Callable[[Any, Any], str]:
    return lambda before, after: f"left {what}"


# ------------------------------------------------------------------------------------------------------ torch


_kept: list[Any] = []  # inference modes that were entered to undo others; they end with the process


def _put_inference_mode(value: bool) -> None:
    mode = torch.inference_mode(value)
    mode.__enter__()
    _kept.append(mode)


_AUTOCAST = ("cpu", "cuda")


def _nesting() -> int:
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


def _autocast() -> tuple[Any, ...]:
    each = tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST)
    return (*each, torch.is_autocast_cache_enabled(), _nesting())


def _put_autocast(value: tuple[Any, ...]) -> None:
    *each, cache, nesting = value
    for device, (enabled, dtype) in zip(_AUTOCAST, each, strict=True):
        torch.set_autocast_enabled(device, enabled)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(cache)
    while _nesting() > nesting:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


def _autocast_words(before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    on = [d for d, a, b in zip(_AUTOCAST, before[:-2], after[:-2], strict=True) if b[0] and not a[0]]
    return f"left autocast on ({', '.join(on)})" if on else "changed the settings of autocast"


def _device_context() -> Any:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _put_device_context(value: Any) -> None:
    torch._GLOBAL_DEVICE_CONTEXT.device_context = value  # its mode is on the stack, which is put back beside this


def _device_words(before: Any, after: Any) -> str:
    old, new = (getattr(x, "device", "cpu") for x in (before, after))
    return f"changed the default device from {old} to {new}"


def _stack(kind: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    length: Callable[[], int] = getattr(torch._C, f"_len_torch_{kind}_stack")
    at: Callable[[int], Any] = getattr(
        torch._C, "_get_function_stack_at" if kind == "function" else "_get_dispatch_stack_at"
    )
    pop: Callable[[], Any] = getattr(torch._C, f"_pop_torch_{kind}_stack")
    push: Callable[[Any], None] = getattr(torch._C, f"_push_on_torch_{kind}_stack")

    def get() -> list[Any]:
        return [at(i) for i in range(length())]

    def put(value: list[Any]) -> None:
        while length():
            pop()
        for mode in value:
            push(mode)

    return get, put


def _saved_tensor_hooks() -> Any:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _put_saved_tensor_hooks(value: Any) -> None:
    for _ in range(1000):
        if _saved_tensor_hooks() == value:
            return
        torch._C._autograd._pop_saved_tensors_default_hooks()


_HOOKS = [name for name, value in vars(_modules).items() if name.startswith("_global") and isinstance(value, dict)]


def _module_hooks() -> dict[str, dict[Any, Any]]:
    return {name: dict(getattr(_modules, name)) for name in _HOOKS if getattr(_modules, name)}


def _put_module_hooks(value: dict[str, dict[Any, Any]]) -> None:
    for name in _HOOKS:
        hooks = getattr(_modules, name)
        hooks.clear()
        hooks.update(value.get(name, {}))


def _cudnn() -> tuple[bool, ...]:
    return tuple(bool(getattr(torch._C, f"_get_cudnn_{name}")()) for name in ("enabled", "benchmark", "deterministic"))


def _put_cudnn(value: tuple[bool, ...]) -> None:
    for name, one in zip(
        ("_set_cudnn_enabled", "_set_cudnn_benchmark", "_set_cudnn_deterministic"), value, strict=True
    ):
        getattr(torch._C, name)(one)


_tiny = [5e-324]  # in a list, so that no compiler multiplies it ahead of time


def _flushes_denormals() -> bool:
    return _tiny[0] * 1.0 == 0.0


# ----------------------------------------------------------------------------------------------------- Python


def _cwd() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "a folder that is gone"


def _put_cwd(value: str) -> None:
    with contextlib.suppress(OSError):
        os.chdir(value)


def _environment() -> dict[Any, Any]:
    raw = getattr(os.environ, "_data", None)  # a tenth of the time, and the oracle asks before and after every call
    return dict(os.environ) if raw is None else dict(raw)


def _put_environment(value: dict[Any, Any]) -> None:
    wanted = {os.fsdecode(name): os.fsdecode(text) for name, text in value.items()}
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)


def _environment_words(before: dict[Any, Any], after: dict[Any, Any]) -> str:
    names = sorted(os.fsdecode(n) for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    return f"changed the environment: {plain(', '.join(names[:5]))}"


_SIGNALS = sorted(map(int, signal.valid_signals()))


def _handlers() -> dict[int, Any]:
    return {s: _signal.getsignal(s) for s in _SIGNALS}


def _put_handlers(value: dict[int, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for s, handler in value.items():
        if handler is not None and _signal.getsignal(s) is not handler:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(s, handler)


def _handler_words(before: dict[int, Any], after: dict[int, Any]) -> str:
    known = {int(s): s.name for s in signal.Signals}
    names = [known.get(s, f"signal {s}") for s in _SIGNALS if before[s] is not after[s]]
    return f"changed the handler of {', '.join(names[:3])}"


def _put_alarm(value: bool) -> None:
    if not value:
        signal.setitimer(signal.ITIMER_REAL, 0)


_FILES = {1: "standard output", 2: "standard error"}
_duplicates: dict[tuple[int, Any], int] = {}


def _files() -> dict[int, Any]:
    """What descriptors 1 and 2 are; a duplicate of each is kept, to put back."""
    found = {}
    for number in _FILES:
        try:
            status = os.fstat(number)
        except OSError:
            continue
        found[number] = key = (status.st_dev, status.st_ino)
        if (number, key) not in _duplicates and len(_duplicates) < 16:
            _duplicates[number, key] = os.dup(number)
    return found


def _put_files(value: dict[int, Any]) -> None:
    for number, key in value.items():
        duplicate = _duplicates.get((number, key))
        if duplicate is not None:
            with contextlib.suppress(OSError):
                os.dup2(duplicate, number)


def _file_words(before: dict[int, Any], after: dict[int, Any]) -> str:
    closed = [_FILES[n] for n in before if n not in after]
    return f"closed {' and '.join(closed)}" if closed else "replaced standard output or standard error"


_STREAMS = ("stdin", "stdout", "stderr")


def _streams() -> tuple[tuple[Any, bool], ...]:
    return tuple((x, bool(getattr(x, "closed", False))) for x in (getattr(sys, name) for name in _STREAMS))


def _put_streams(value: tuple[tuple[Any, bool], ...]) -> None:
    for name, (stream, _) in zip(_STREAMS, value, strict=True):
        setattr(sys, name, stream)


def _stream_words(before: tuple[tuple[Any, bool], ...], after: tuple[tuple[Any, bool], ...]) -> str:
    closed = [f"sys.{n}" for n, a, b in zip(_STREAMS, before, after, strict=True) if b[1] and not a[1]]
    replaced = [f"sys.{n}" for n, a, b in zip(_STREAMS, before, after, strict=True) if a[0] is not b[0]]
    return f"closed {', '.join(closed)}" if closed else f"replaced {', '.join(replaced)}"


_SYS_HOOKS = ("excepthook", "unraisablehook", "displayhook")


def _sys_hooks() -> tuple[Any, ...]:
    return (*(getattr(sys, name) for name in _SYS_HOOKS), threading.excepthook, warnings.showwarning)


def _put_sys_hooks(value: tuple[Any, ...]) -> None:
    for name, hook in zip(_SYS_HOOKS, value, strict=False):
        setattr(sys, name, hook)
    threading.excepthook, warnings.showwarning = value[-2:]


def _put_filters(value: list[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]
    if hasattr(warnings, "_filters_mutated"):
        warnings._filters_mutated()


_SETTINGS: dict[str, _Setting] = {
    # first, since with a small one nothing below can run
    "recursion": _Setting(sys.getrecursionlimit, sys.setrecursionlimit, _changed("Python's recursion limit")),
    "grad mode": _Setting(torch.is_grad_enabled, torch.set_grad_enabled, _changed("the global grad mode")),
    "dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype, _changed("the default dtype")),
    "threads": _Setting(torch.get_num_threads, torch.set_num_threads, _changed("the number of threads")),
    "deterministic": _Setting(
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        _changed("torch's deterministic mode"),
    ),
    "inference mode": _Setting(torch.is_inference_mode_enabled, _put_inference_mode, _is_left("inference mode on")),
    "autocast": _Setting(_autocast, _put_autocast, _autocast_words),
    "device": _Setting(_device_context, _put_device_context, _device_words),
    "function modes": _Setting(*_stack("function"), _is_left("a torch function mode on")),
    "dispatch modes": _Setting(*_stack("dispatch"), _is_left("a torch dispatch mode on")),
    "saved-tensor hooks": _Setting(_saved_tensor_hooks, _put_saved_tensor_hooks, _is_left("saved-tensor hooks on")),
    "module hooks": _Setting(_module_hooks, _put_module_hooks, _is_left("global module hooks")),
    "anomaly mode": _Setting(
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
        lambda before, after: "left anomaly mode on" if after[0] and not before[0] else "changed anomaly mode",
    ),
    "matmul precision": _Setting(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, _changed("the float32 matmul precision")
    ),
    "cuDNN": _Setting(_cudnn, _put_cudnn, _changed("cuDNN's settings (enabled, benchmark, deterministic)")),
    "denormals": _Setting(_flushes_denormals, torch.set_flush_denormal, _is_left("denormal numbers flushed to 0")),
    "NumPy's errors": _Setting(np.geterr, lambda value: np.seterr(**value), _changed("NumPy's error handling")),
    "warnings": _Setting(lambda: list(warnings.filters), _put_filters, lambda a, b: "changed the warnings filters"),
    "cwd": _Setting(_cwd, _put_cwd, _changed("the working directory")),
    "environment": _Setting(_environment, _put_environment, _environment_words),
    "signals": _Setting(_handlers, _put_handlers, _handler_words),
    "files": _Setting(_files, _put_files, _file_words),
    "streams": _Setting(_streams, _put_streams, _stream_words),
    "hooks": _Setting(_sys_hooks, _put_sys_hooks, lambda a, b: "replaced a hook of sys, threading or warnings"),
    "trace": _Setting(sys.gettrace, sys.settrace, _is_left("a trace function on")),
    "profile": _Setting(sys.getprofile, sys.setprofile, _is_left("a profile function on")),
    "switch interval": _Setting(sys.getswitchinterval, sys.setswitchinterval, _changed("Python's switch interval")),
    "gc": _Setting(
        gc.isenabled, lambda on: gc.enable() if on else gc.disable(), _changed("whether garbage is collected")
    ),
}
if hasattr(signal, "ITIMER_REAL"):
    _SETTINGS["alarm"] = _Setting(
        lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, _put_alarm, _is_left("an alarm that will go off")
    )

JUDGED = ("grad mode", "dtype", "threads", "deterministic", "seed")
"""The settings on which ``inputs-untouched`` fails; any other that is left changed costs the verdict."""


_SPOILS = (
    "grad mode",
    "inference mode",
    "autocast",
    "device",
    "function modes",
    "dispatch modes",
    "saved-tensor hooks",
    "denormals",
)
"""Left on by an import, these decide what every later line computes, ours too."""

_REPAIRED = ("recursion", "files", "streams", "hooks", "trace", "profile", "gc")

# ---------------------------------------------------------------------------------------------- all of it at once


def new_threads(before: frozenset[int | None]) -> str:
    """Threads that have started since and run on, unless they are a library's own daemons; empty if there are none."""
    new = [t for t in threading.enumerate() if t.ident not in before and t.is_alive()]
    if not new:
        return ""
    frames = sys._current_frames()
    for thread in new:
        where = frame_place(frames.get(thread.ident or 0))
        if where or not thread.daemon:
            return f"left the thread {plain(thread.name)} running{where}"
    return ""


@dataclass(frozen=True)
class State:
    """The process's settings, torch's generator and the threads at one moment."""

    values: dict[str, Any]
    generator: torch.Tensor
    seed: int
    threads: frozenset[int | None]

    @classmethod
    def now(cls) -> State:
        return cls(
            {name: setting.get() for name, setting in _SETTINGS.items()},
            torch.get_rng_state(),
            torch.initial_seed(),
            frozenset(t.ident for t in threading.enumerate()),
        )

    def restore(self) -> list[Left]:
        """Put everything back; what had changed."""
        left = list(self._settings())
        if torch.initial_seed() != self.seed:
            left.append(Left("seed", f"seeded torch's global generator with {torch.initial_seed()}"))
        torch.set_rng_state(self.generator)
        running = new_threads(self.threads)
        if running:
            left.append(Left("running threads", running))
        if any(one.name == "device" for one in left):  # it is a function mode too
            left = [one for one in left if one.name != "function modes"]
        return left

    def _settings(self) -> Iterator[Left]:
        for name, setting in _SETTINGS.items():
            before = self.values[name]
            after = setting.get()
            if _alike(before, after):
                continue
            setting.put(before)
            yield Left(name, plain(setting.words(before, after)))

    def left_by_import(self) -> list[Left]:
        """What an import must not leave on; what it may have closed or shrunk is put back, and all else stays."""
        for name in _REPAIRED:
            if self.differs(name):
                _SETTINGS[name].put(self.values[name])
        changed = [name for name in _SPOILS if self.differs(name)]
        if "device" in changed and "function modes" in changed:
            changed.remove("function modes")
        return [Left(n, plain(_SETTINGS[n].words(self.values[n], _SETTINGS[n].get()))) for n in changed]

    def differs(self, name: str) -> bool:
        """Whether one setting is no longer what it was."""
        if name == "seed":
            return torch.initial_seed() != self.seed
        if name == "running threads":
            return bool(new_threads(self.threads))
        return name in self.values and not _alike(self.values[name], _SETTINGS[name].get())


def _alike(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return False
        return all(map(operator.is_, a.values(), map(b.__getitem__, a))) or all(_alike(a[k], b[k]) for k in a)
    if type(a) is not type(b):
        return False
    return isinstance(a, (int, float, str, bytes, torch.dtype)) and bool(a == b)
