r"""The implementations in a module: everything that ``gradcheck.conforms`` and its kin have decorated there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from gradcheck.errors import InputError
from gradcheck.judging.isolation.words import name_of_type

if TYPE_CHECKING:
    from gradcheck.judging.results import Judgement, Result
    from gradcheck.oracle.subject import Settings

__all__ = [
    "ATTRIBUTE",
    "AnySubject",
    "Found",
    "Tell",
    "beside",
    "found_in",
    "is_method",
    "label_of",
    "renamed",
    "silent",
    "source_of",
    "subject_of",
    "test_for",
]

T = TypeVar("T")

ATTRIBUTE = "gradcheck_subject"
"""The decorated function's attribute that holds its subject."""

EACH = "gradcheck_obligations"
"""That of its obligations, of each of which the pytest plugin makes a test."""

BESIDE = "gradcheck_test"
"""That of its test, where the function stays what it was."""


Tell = Callable[["Result"], None]
"""Is given each result as soon as it is there."""


def silent(result: Result) -> None:
    """Tells nobody."""


class AnySubject(Protocol):
    """A decorated function, whatever kind of subject it is: a loss, a part or a trainer's step."""

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""

    @property
    def name(self) -> str:
        """How reports call it."""

    def about(self, settings: Settings) -> tuple[str, str, list[Result]]:
        """Its declaration and reference, and what every obligation comes to if nothing more is heard."""

    def attempt(self, settings: Settings, only: Sequence[str] = (), tell: Tell = silent) -> Judgement:
        """Judge it; where it cannot be judged, a judgement that says so.

        Raises:
            InputError: there is no such obligation.
        """


@dataclass(frozen=True)
class Found:
    """A decorated function.

    Attributes:
        name: as its module calls it.
        subject: its subject, a loss's, a part's or a trainer's.
        problem: why it cannot be judged; empty if it can.
    """

    name: str
    subject: AnySubject
    problem: str = ""


@dataclass(frozen=True)
class _Use:
    """One use of a decorator: what it made of what, and where; the module, executed anew, is another one."""

    subject: Any
    test: Callable[..., None]
    names: Mapping[str, Any]
    line: int


_uses: list[_Use] = []


def label_of(function: Callable[..., Any]) -> str:
    """How reports call a function, a partial one, or an object that can be called."""
    name = getattr(function, "__qualname__", None)
    if isinstance(name, str):
        return name
    inner = getattr(function, "func", None)
    return label_of(inner) if isinstance(function, partial) and inner is not None else type(function).__name__


def source_of(function: Callable[..., Any], methods: bool = False) -> str:
    """``file.py::name`` for a function at the top of a file, or in a class there; empty for one that has no name."""
    name = label_of(function)
    if "<locals>" in name or ("." in name and not methods) or not hasattr(function, "__name__"):
        return ""
    try:
        file = inspect.getsourcefile(function)
    except TypeError:
        return ""
    return f"{file}::{name}" if file and Path(file).exists() else ""


def is_method(function: Callable[..., Any], takes: int = 1) -> bool:
    """Whether it stands in a class's body and takes ``self`` besides, though no object has been made yet."""
    owner = label_of(function).rpartition(".")[0]
    if not inspect.isfunction(function) or not owner or owner.endswith("<locals>"):
        return False
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return len([p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]) > takes


def test_for(
    function: Callable[..., Any], subject: Any, obligations: list[str], run: Callable[[Any, str, Any], None]
) -> Callable[..., None]:
    """The test that a decorated function becomes: one for each obligation.

    Raises:
        InputError: what is decorated cannot be called.
    """
    test = _test(function, subject, obligations, run)
    _uses.append(_Use(subject, test, *_where(function)))
    return test


def beside(
    function: Callable[..., Any], subject: Any, obligations: list[str], run: Callable[[Any, str, Any], None]
) -> Callable[..., Any]:
    """The function itself, which its own code may call; its test stands beside it, where the pytest plugin looks.

    Raises:
        InputError: what is decorated cannot be called, or takes no attributes.
    """
    test = _test(function, subject, obligations, run)
    try:
        setattr(function, ATTRIBUTE, subject)
        setattr(function, BESIDE, test)
    except AttributeError:
        raise InputError(("function", f"a {name_of_type(function)}", "a function of your own")) from None
    _uses.append(_Use(subject, function, *_where(function)))
    return function


def _test(
    function: Callable[..., Any], subject: Any, obligations: list[str], run: Callable[[Any, str, Any], None]
) -> Callable[..., None]:
    if not callable(function):
        raise InputError(("function", f"a {name_of_type(function)}", "a function that takes a case"))
    if is_method(function, _takes(subject)):

        def test(self: Any, obligation: str, request: Any) -> None:
            run(replace(subject, function=partial(function, self)), obligation, request)
    else:

        def test(obligation: str, request: Any) -> None:  # type: ignore[misc]
            run(subject, obligation, request)

    name = label_of(function)
    test.__doc__, test.__module__ = function.__doc__, getattr(function, "__module__", "") or ""
    setattr(test, ATTRIBUTE, subject)
    test.gradcheck_function = function  # type: ignore[attr-defined]
    setattr(test, EACH, obligations)  # the plugin makes one test of each, so that pytest is not needed here
    test.__name__, test.__qualname__ = name.rpartition(".")[2], name
    return test


def _takes(subject: Any) -> int:
    """Of how many arguments its function is, besides an object."""
    return getattr(subject, "takes", 1)


def _where(function: Callable[..., Any]) -> tuple[Mapping[str, Any], int]:
    """Whose names and which line outside this package the decorator was used in, or the function's own in that file."""
    frame = inspect.currentframe()
    while frame is not None and Path(__file__).parent in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    if frame is None:
        return {}, 0
    code = getattr(function, "__code__", None)
    same = code is not None and code.co_filename == frame.f_code.co_filename
    return frame.f_globals, code.co_firstlineno if code is not None and same else frame.f_lineno


def subject_of(value: Any) -> Any:
    """The subject of a decorated function; ``None`` for anything else, whatever it does when it is asked."""
    try:
        names = object.__getattribute__(value, "__dict__")
        found = names.get(ATTRIBUTE)
    except Exception:
        return None
    return found if any(found is use.subject for use in _uses) else None


def found_in(module: ModuleType) -> list[Found]:
    """Every decorated function that a module shows or has made, each once, in the order in which they were decorated.

    Those that it shows under no name (they are in a list, or a later one of the same name has replaced them) come too,
    under the names that they were given.
    """
    found = [_found(name, value) for name, value, _ in _shown(module)]
    owners = {id(subject_of(value)): owner for _, value, owner in _shown(module)}
    known = {id(one.subject) for one in found}
    for use in _uses:
        if use.names is vars(module) and id(use.subject) not in known:
            found.append(Found(f"{use.subject.name} (line {use.line})", use.subject))
    order = {id(use.subject): i for i, use in enumerate(_uses)}
    first: dict[int, Found] = {}
    for one in sorted(found, key=lambda one: (order[id(one.subject)], bool(one.problem))):
        first.setdefault(id(one.subject), one)
    return [_bound(_named(one), owners.get(id(one.subject))) for one in first.values()]


def _found(name: str, value: Any) -> Found:
    if any(value is use.test for use in _uses):
        return Found(name, subject_of(value))
    problem = f"{name} is under another decorator than gradcheck's, which must be the uppermost"
    return Found(name, subject_of(value), problem)


def _named(one: Found) -> Found:
    """With the module's name in place of one that says nothing, or that two have."""
    subject, hidden = one.subject, "(line " in one.name
    if subject.name.rpartition(".")[2] != "<lambda>" and not hidden and inspect.isroutine(subject.function):
        return one
    return replace(one, subject=renamed(subject, one.name, importable=not hidden))


def renamed(subject: T, name: str, importable: bool = True) -> T:
    """A subject as its module calls it, and whether it can be imported under that name."""
    own: Any = subject
    changes = {"name": name}
    if getattr(own, "source", ""):
        changes["source"] = f"{own.source.rpartition('::')[0]}::{name}" if importable else ""
    changed: T = replace(own, **changes)
    return changed


def _bound(one: Found, owner: type | None) -> Found:
    """A method with an object of its class."""
    if owner is None or not is_method(one.subject.function, _takes(one.subject)):
        return one
    try:
        made = owner()
    except Exception as error:
        problem = f"{owner.__name__}() cannot be made without arguments: {name_of_type(error)}"
        return replace(one, problem=one.problem or problem)
    subject: Any = one.subject  # all are dataclasses
    return replace(one, subject=replace(subject, function=partial(subject.function, made)))


def _shown(module: ModuleType) -> Iterator[tuple[str, Any, type | None]]:
    for name, value in list(vars(module).items()):
        if subject_of(value) is not None:
            yield name, value, None
        elif isinstance(value, type) and vars(value).get("__module__") == module.__name__:
            for inner, member in list(vars(value).items()):
                plain = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
                if subject_of(plain) is not None:
                    yield f"{value.__name__}.{inner}", plain, value
