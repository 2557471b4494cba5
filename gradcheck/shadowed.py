"""Another module of a name that gradcheck, torch or Python itself needs, found before the one that is needed.

A folder on Python's path that holds a ``random.py`` or a ``torch.py``, of a user's own, breaks whatever imports that.
This imports next to nothing, since what it imports may be shadowed too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder

__all__ = ["shadowing"]

_OWN = "derivations"
_NEEDED = ("torch", "numpy", "sympy", "mpmath")


def shadowing(error: BaseException | None = None) -> str:
    """What to say where Python finds another module than the one that is needed; empty where it does not.

    A search costs some file accesses, so this is asked after something has failed.

    Args:
        error: what failed; the modules that it names are looked at first, and whatever they are called.
    """
    own = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    found = _origin(_spec(_OWN))
    if found and found != os.path.join(own, _OWN):
        return _sentence(_OWN, found, "gradcheck's", f"in {own}")
    standard = sorted(name for name in sys.stdlib_module_names if name in sys.modules)
    for name in dict.fromkeys([*_named(error), *standard, *_NEEDED]):
        first, other = _both(name)
        if first and other:
            whose = "Python's own" if name in sys.stdlib_module_names else "the installed one"
            return _sentence(name, first, whose, f"at {other}")
    return ""


def _sentence(name: str, found: str, whose: str, wanted: str) -> str:
    return (
        f"[gradcheck] Python finds another module {name!r} than {whose}, at {found}; "
        f"wanted the one {wanted}. Rename the other one, or put its folder behind that in sys.path"
    )


def _named(error: BaseException | None) -> Iterator[str]:
    """Top-level modules that an error, or one that led to it, says could not be imported or lack a name."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        module = getattr(error, "obj", None)
        name = getattr(module, "__name__", None) if isinstance(error, AttributeError) else getattr(error, "name", None)
        if isinstance(error, (ImportError, AttributeError)) and isinstance(name, str) and name:
            yield name.partition(".")[0]
        error = error.__cause__ or error.__context__


def _both(name: str) -> tuple[str, str]:
    """Where a module is found, and where else it is found behind that; empty where it is not."""
    first = _origin(_spec(name))
    folder = os.path.dirname(first)
    if not first or _installed(folder):
        return "", ""
    behind = [x for x in sys.path if os.path.realpath(x or os.curdir) != folder and _installed(os.path.realpath(x))]
    return first, _origin(PathFinder.find_spec(name, behind))


def _installed(folder: str) -> bool:
    """Whether a folder is one of Python's, or one that packages are installed into."""
    library = os.path.dirname(os.path.realpath(os.__file__))
    return folder.startswith(library) or os.path.basename(folder) in ("site-packages", "dist-packages", "lib-dynload")


def _spec(name: str) -> ModuleSpec | None:
    """How a module was imported, or would be."""
    loaded = sys.modules.get(name)
    spec = getattr(loaded, "__spec__", None)
    if isinstance(spec, ModuleSpec) or name in sys.builtin_module_names:
        return spec
    for finder in sys.meta_path:  # an editable install has its own
        find = getattr(finder, "find_spec", None)
        spec = find(name, None) if find else None
        if isinstance(spec, ModuleSpec):
            return spec
    return None


def _origin(spec: ModuleSpec | None) -> str:
    """A module's file, or its folder if it is a package."""
    if spec is None:
        return ""
    folders = [*(spec.submodule_search_locations or [])]
    if folders:
        return os.path.realpath(folders[0])
    return os.path.realpath(spec.origin) if spec.origin and spec.has_location else ""
