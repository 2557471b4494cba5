"""The decorated steps that a command line names."""

from __future__ import annotations

from gradcheck.conformance import _module
from gradcheck.distributed.declaration import ATTRIBUTE, Trainer
from gradcheck.errors import InputError

__all__ = ["load_trainers"]


def load_trainers(text: str) -> list[Trainer]:
    """Load ``file.py`` (every decorated step in it), ``file.py::step`` or ``package.module:step``.

    Raises:
        InputError: there is no such file, module or step, importing it fails, or nothing is decorated.
    """
    module, name = _module(text)
    steps = {n: getattr(x, ATTRIBUTE) for n, x in vars(module).items() if hasattr(x, ATTRIBUTE)}
    if not name and steps:
        return list(steps.values())
    if name in steps:
        return [steps[name]]
    what = f"which has no decorated {name!r}" if name else "which decorates nothing"
    known = f"one of {', '.join(steps)}" if steps else "a function decorated with gradcheck.distributed.conforms"
    raise InputError(("TARGET", f"{text!r}, {what}", known))
