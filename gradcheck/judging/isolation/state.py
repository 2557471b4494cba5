r"""What a call can change in the process: looked at before and after, told in words, and put back.

Settings of which ``inputs-untouched`` has always spoken (:data:`JUDGED`) make that obligation fail.  Under the others,
left on, nothing that is computed afterwards can be trusted, so they cost the verdict.
"""

from __future__ import annotations

import operator
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from gradcheck.judging.isolation.python_settings import PYTHON
from gradcheck.judging.isolation.setting import Setting, changed
from gradcheck.judging.isolation.torch_settings import TORCH
from gradcheck.judging.isolation.words import frame_place, plain

__all__ = ["JUDGED", "Left", "State", "new_threads"]


@dataclass(frozen=True)
class Left:
    """What a call left behind: the setting's name and a clause, ``"left autocast on"``."""

    name: str
    words: str


_SETTINGS: dict[str, Setting] = {
    # first, since with a small one nothing below can run
    "recursion": Setting(sys.getrecursionlimit, sys.setrecursionlimit, changed("Python's recursion limit")),
    **TORCH,
    **PYTHON,
}

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
