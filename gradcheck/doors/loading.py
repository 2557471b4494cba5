"""The one place that loads what a command line names: losses, parts and trainers' steps, in a file or a module."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from gradcheck.case import Case
from gradcheck.conventions import Conventions
from gradcheck.distributed.declaration import Trainer
from gradcheck.doors.collecting import Found, found_in, subject_of
from gradcheck.doors.conformance import LossSubject
from gradcheck.errors import InputError, did_you_mean
from gradcheck.judging.isolation.limits import TimeUp, watched
from gradcheck.judging.isolation.words import otherwise_found, place, said
from gradcheck.oracle.script import package_of

__all__ = ["load_found", "load_function", "load_trainers"]


def load_found(text: str, conventions: Conventions | None) -> list[Found]:
    """The implementations that a command line names.

    Args:
        text: ``file.py`` (every decorated function in it), ``file.py::function`` or ``package.module:function``.
        conventions: for a function that is not decorated; ``None`` if nothing was declared.

    Raises:
        InputError: there is no such file, module or function, importing it fails, or nothing is declared.
    """
    module, name = _module(text)
    every = found_in(module)
    if not name:
        if not every:
            raise InputError(
                (
                    "TARGET",
                    f"{text!r}, which has no function decorated with gradcheck.conforms or the like",
                    "file.py::function",
                )
            )
        return every
    function = _function(text, module, name)
    subject = subject_of(function)
    if subject is not None:
        same = [one for one in every if one.name == name or one.subject.function is subject.function]
        return same[:1] or [Found(name, subject)]
    if conventions is None:
        raise InputError(
            (
                "TARGET",
                f"{text!r}, which declares nothing",
                "a function decorated with gradcheck.conforms, or --algorithm and --declare",
            )
        )
    _takes_a_case(text, function)
    return [Found(text, LossSubject(function, text, conventions, source=text))]


def load_function(text: str) -> tuple[Callable[[Case], Any], Conventions | None]:
    """The function that ``file.py::function`` or ``package.module:function`` names, and what it declares, if anything.

    Raises:
        InputError: there is no such file, module or function, or importing it fails.
    """
    module, name = _module(text)
    if not name:
        raise InputError(("TARGET", repr(text), "file.py::function or package.module:function"))
    function = _function(text, module, name)
    subject = subject_of(function)
    if subject is None:
        _takes_a_case(text, function)
        return function, None
    if not isinstance(subject, LossSubject):
        raise InputError(("TARGET", f"{text!r}, which declares no loss", "a loss, that is a function of a case"))
    return subject.function, subject.conventions


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
    return [one.subject for one in wanted if isinstance(one.subject, Trainer)]


def _takes_a_case(text: str, function: Callable[..., Any]) -> None:
    """Refuse a trainer's own loss, of several tensors, which is to be called from a function of a case.

    Raises:
        InputError: it cannot be called with one argument.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, for instance: the call will tell
        return
    try:
        signature.bind(None)
    except TypeError:
        parameters = ", ".join(signature.parameters)
        wanted = "a function of one argument, the case, that calls it (`gradcheck new` writes one)"
        raise InputError(("TARGET", f"{text!r}, which takes ({parameters})", wanted)) from None


def _function(text: str, module: ModuleType, name: str) -> Any:
    function: Any = module
    try:
        for part in name.split("."):
            function = getattr(function, part)
    except Exception:
        functions = [n for n, x in vars(module).items() if inspect.isfunction(x)]
        wanted = f"one of its functions: {', '.join(functions) or 'none'}{did_you_mean(name, functions)}"
        raise InputError(("TARGET", f"{text!r}, which has no {name!r}", wanted)) from None
    if not callable(function):
        raise InputError(("TARGET", f"{text!r}, a {type(function).__name__}", "a function that takes a case"))
    return function


class _AsWritten(SourceFileLoader):
    """Compiles a file as it is now.

    Byte code is known by its source's size and by the second in which that was written: a file that is changed by as
    many characters in the second of its last check would be judged as it was.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _module(text: str) -> tuple[ModuleType, str]:
    file, separator, name = text.partition("::")
    if separator or file.endswith(".py"):
        path = Path(file)
        if not path.is_file():
            raise InputError(("TARGET", repr(text), "a file that exists, as file.py::function"))
        folder = path.parent.resolve()
        package, root = package_of(folder)
        sys.path[:0] = [str(folder), str(root)]
        module_name = f"{package}gradcheck_subject_{path.stem}"  # in its package, for `from . import`
        spec = importlib.util.spec_from_file_location(module_name, path, loader=_AsWritten(module_name, str(path)))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        _execute(text, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
        return module, name
    dotted, separator, name = text.partition(":")
    if not separator:
        raise InputError(("TARGET", repr(text), "file.py, file.py::function or package.module:function"))
    sys.path.insert(0, str(Path.cwd()))
    loaded: list[ModuleType] = []
    _execute(text, lambda: loaded.append(importlib.import_module(dotted)))
    return loaded[0], name


def _execute(text: str, run: Callable[[], None]) -> None:
    try:
        run()
    except InputError:
        raise
    except BaseException as error:
        if isinstance(error, TimeUp) or (isinstance(error, KeyboardInterrupt) and not watched()):
            raise
        what = f"{said(error)}{place(error)}{otherwise_found(error)}"
        raise InputError(
            ("TARGET", f"{text!r}, whose import raises {what}", "a module that can be imported")
        ) from error
