r"""``gradcheck.conforms``: a test function becomes one test for each obligation."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gradcheck.case import Case
from gradcheck.conventions import Conventions, declare
from gradcheck.errors import InputError, did_you_mean
from gradcheck.oracle.obligations import OBLIGATIONS
from gradcheck.oracle.target import Target

if TYPE_CHECKING:
    from gradcheck.oracle.parts.conforming import PartTarget

__all__ = ["ATTRIBUTE", "conforms", "load_function", "load_targets"]

ATTRIBUTE = "gradcheck_target"
"""The decorated function's attribute that holds its :class:`Target`, or a part's."""


def conforms(
    algorithm: str | None = None,
    *,
    loss: str | None = None,
    given: Mapping[str, str] | None = None,
    preset: str | None = None,
    expected_failures: Mapping[str, str] | None = None,
    **declared: Any,
) -> Callable[[Callable[[Case], Any]], Callable[..., None]]:
    """Declare that a function is an implementation of an algorithm's loss.

    The function takes a :class:`gradcheck.Case` and returns the loss, differentiable in ``case.v_theta``.  pytest
    runs it once for each obligation, ``test_loss[gradient]``, ``test_loss[clip]`` …; ``gradcheck check`` runs it
    without pytest.

    Args:
        algorithm: a name of the catalogue (``gradcheck list``).
        loss: in its place, the per-sample loss itself in one line of ``gradcheck derive``'s grammar.
        given: quantities of your own on which that line rests, name → ``"latent"``, ``"sample"`` or ``"problem"``.
        preset: the declaration of a public implementation (:data:`gradcheck.conventions.PRESETS`).
        expected_failures: obligation → reason; an obligation that is listed and holds counts as failing.
        declared: conventions, see :class:`gradcheck.conventions.Conventions`.

    Raises:
        InputError: an unknown algorithm, preset, convention or obligation.

    Example:
        >>> import gradcheck
        >>> @gradcheck.conforms("awm")
        ... def test_awm(case):
        ...     v_gt = case.noise - case.x_0
        ...     return (case.advantage * ((case.v_theta - v_gt) ** 2).flatten(1).sum(1)).mean()
    """
    conventions = declare(algorithm, loss=loss, given=given, preset=preset, **declared)

    def decorate(function: Callable[[Case], Any]) -> Callable[..., None]:
        import pytest

        target = Target(function, function.__qualname__, conventions, dict(expected_failures or {}), _source(function))

        def test(obligation: str, request: pytest.FixtureRequest) -> None:
            from gradcheck.pytest_plugin import run_obligation

            run_obligation(target, obligation, request)

        test.__name__, test.__qualname__ = function.__name__, function.__qualname__
        test.__doc__, test.__module__ = function.__doc__, function.__module__
        setattr(test, ATTRIBUTE, target)
        test.gradcheck_function = function  # type: ignore[attr-defined]
        return pytest.mark.parametrize("obligation", [o.id for o in OBLIGATIONS])(test)

    return decorate


def _source(function: Callable[..., Any]) -> str:
    """``file.py::name`` for a function at the top of a file; empty for one that cannot be imported."""
    if "." in function.__qualname__:
        return ""
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        return ""
    return f"{file}::{function.__name__}" if file and Path(file).exists() else ""


def load_targets(text: str, conventions: Conventions | None) -> list[Target | PartTarget]:
    """The implementations that a command line names.

    Args:
        text: ``file.py`` (every decorated function in it), ``file.py::function`` or ``package.module:function``.
        conventions: for a function that is not decorated; ``None`` if nothing was declared.

    Raises:
        InputError: there is no such file, module or function, importing it fails, or nothing is declared.
    """
    module, name = _module(text)
    if not name:
        found = [getattr(x, ATTRIBUTE) for x in vars(module).values() if hasattr(x, ATTRIBUTE)]
        if not found:
            raise InputError(
                (
                    "TARGET",
                    f"{text!r}, which has no function decorated with gradcheck.conforms or its kin",
                    "file.py::function",
                )
            )
        return list(found)
    function = _function(text, module, name)
    target = getattr(function, ATTRIBUTE, None)
    if target is not None:
        return [target]
    if conventions is None:
        raise InputError(
            (
                "TARGET",
                f"{text!r}, which declares nothing",
                "a function decorated with gradcheck.conforms, or --algorithm and --declare",
            )
        )
    return [Target(function, text, conventions, source=text)]


def load_function(text: str) -> tuple[Callable[[Case], Any], Conventions | None]:
    """The function that ``file.py::function`` or ``package.module:function`` names, and what it declares, if anything.

    Raises:
        InputError: there is no such file, module or function, or importing it fails.
    """
    module, name = _module(text)
    if not name:
        raise InputError(("TARGET", repr(text), "file.py::function or package.module:function"))
    function = _function(text, module, name)
    target = getattr(function, ATTRIBUTE, None)
    return (function, None) if target is None else (target.function, target.conventions)


def _function(text: str, module: ModuleType, name: str) -> Any:
    function: Any = module
    try:
        for part in name.split("."):
            function = getattr(function, part)
    except AttributeError:
        functions = [n for n, x in vars(module).items() if inspect.isfunction(x)]
        wanted = f"one of its functions: {', '.join(functions) or 'none'}{did_you_mean(name, functions)}"
        raise InputError(("TARGET", f"{text!r}, which has no {name!r}", wanted)) from None
    if not callable(function):
        raise InputError(("TARGET", f"{text!r}, a {type(function).__name__}", "a function that takes a case"))
    return function


def _module(text: str) -> tuple[ModuleType, str]:
    file, separator, name = text.partition("::")
    if separator or file.endswith(".py"):
        path = Path(file)
        if not path.is_file():
            raise InputError(("TARGET", repr(text), "a file that exists, as file.py::function"))
        spec = importlib.util.spec_from_file_location(f"gradcheck_target_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        sys.path.insert(0, str(path.parent.resolve()))
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
    except Exception as error:
        raise InputError(
            (
                "TARGET",
                f"{text!r}, whose import raises {type(error).__name__}: {error}",
                "a module that can be imported",
            )
        ) from error
