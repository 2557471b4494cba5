"""The decorated steps that a command line names."""

from __future__ import annotations

from gradcheck.distributed.declaration import Trainer
from gradcheck.doors.collecting import found_in
from gradcheck.doors.conformance import _module
from gradcheck.errors import InputError

__all__ = ["load_trainers"]


def load_trainers(text: str) -> list[Trainer]:
    """Load ``file.py`` (every decorated step in it), ``file.py::step`` or ``package.module:step``.

    Raises:
        InputError: there is no such file, module or step, importing it fails, nothing is decorated, or a step cannot
            be called.
    """
    module, name = _module(text)
    steps = {one.name: one for one in found_in(module) if isinstance(one.subject, Trainer)}
    wanted = [steps[name]] if name in steps else [] if name else list(steps.values())
    if not wanted:
        what = f"which has no decorated {name!r}" if name else "which decorates nothing"
        known = f"one of {', '.join(steps)}" if steps else "a function decorated with gradcheck.distributed.conforms"
        raise InputError(("TARGET", f"{text!r}, {what}", known))
    spoiled = [("TARGET", one.name, one.problem) for one in wanted if one.problem]
    if spoiled:
        raise InputError(*spoiled)
    return [one.subject for one in wanted]
