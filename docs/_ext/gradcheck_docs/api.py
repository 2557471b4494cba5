"""The API reference: every public module with its names, and the check that none lacks a docstring."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import derivations
import gradcheck
from gradcheck_docs.text import table

__all__ = [
    "api_pages",
    "check",
    "homes",
    "public_modules",
    "resolve",
    "signature",
    "tidy",
    "undescribed",
    "undocumented",
]

_GROUPS = {
    "gradcheck": ("The package", "What most people need: a decorator and a few functions."),
    "gradcheck.losses": ("Losses by hand", "The losses as their papers write them, in torch."),
    "gradcheck.oracle": ("The oracle", "How an implementation is judged, and how a failure gets its name."),
    "gradcheck.parts": ("Parts of a trainer", "Judges for the step, the advantage, the average, the times."),
    "gradcheck.reports": ("Reports", "JSON, HTML, JUnit and Markdown, and the comparison with an earlier one."),
    "derivations": ("Derivations", "The symbolic side. It imports neither torch nor gradcheck."),
    "derivations.losses": ("The losses, symbolically", "One module for each algorithm."),
}
"""Title and opening of a package's page, where its docstring's first line, parted at the colon, does not serve."""


def public_modules() -> list[ModuleType]:
    """Every module of both packages without an underscore in its path."""
    found = []
    for package in (gradcheck, derivations):
        found.append(package)
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not any(part.startswith("_") for part in info.name.split(".")):
                found.append(importlib.import_module(info.name))
    return found


def _defined(module: ModuleType) -> set[str]:
    """Names that a module's own source binds, other than by importing them."""
    names: set[str] = set()
    for node in ast.parse(Path(str(module.__file__)).read_text()).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Assign():
                names |= {n.id for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def homes(modules: Iterable[ModuleType]) -> dict[str, str]:
    """Public name → where it is documented: where it is defined, or else in the innermost module that offers it."""
    offered: dict[int, list[tuple[str, str, bool]]] = {}
    for module in modules:
        own = _defined(module)
        for name in getattr(module, "__all__", ()):
            offered.setdefault(id(getattr(module, name)), []).append((module.__name__, name, name in own))
    out = {}
    for places in offered.values():
        for module_name, name, own in places:
            best = max((p for p in places if p[1] == name), key=lambda p: (p[2], len(p[0])))
            home = module_name if own else best[0]
            out[f"{module_name}.{name}"] = f"{home}.{name}"
    return out


@cache
def _homes() -> dict[str, str]:
    return homes(public_modules())


def _package_of(module: ModuleType) -> str:
    return module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]


def _module(module: ModuleType, home: Mapping[str, str]) -> str:
    """A module's section: its docstring, a table of what it passes on, and its own names."""
    offered = getattr(module, "__all__", None)
    options = "   :members:"
    passed_on = ""
    if offered is not None:
        own = [n for n in offered if home[f"{module.__name__}.{n}"] == f"{module.__name__}.{n}"]
        options = f"   :members: {', '.join(own)}" if own else "   :no-members:"
        rows = []
        for name in (n for n in offered if n not in own):
            thing, place = getattr(module, name), home[f"{module.__name__}.{name}"]
            about = inspect.getdoc(thing) if callable(thing) else _said_elsewhere(module, name)
            rows.append((f"{{py:obj}}`{name} <{place}>`", _line(about or "")))
        passed_on = "\n\n" + table(("name", "what it is"), rows) if rows else ""
    body = f".. automodule:: {module.__name__}\n{options}\n"
    for name in own if offered is not None else ():
        if name not in _defined(module) and not callable(getattr(module, name)):
            body += f"\n.. py:data:: {name}\n   :module: {module.__name__}\n\n   {_said_elsewhere(module, name)}\n"
    return f"## `{module.__name__}`\n\n```{{eval-rst}}\n{body}```{passed_on}"


def _said_elsewhere(module: ModuleType, name: str) -> str:
    """The description of a constant that a private module defines, and this one passes on."""
    for other in [m for n, m in sys.modules.items() if n.startswith("gradcheck.") and n != module.__name__]:
        if getattr(other, name, None) is getattr(module, name) and name in _defined(other):
            return _constants(other).get(name, "")
    return ""


def _constants(module: ModuleType) -> dict[str, str]:
    """A module's constants that are described below, or beside in a comment that begins with ``#:``, and how."""
    source = Path(str(module.__file__)).read_text()
    lines, body = source.splitlines(), ast.parse(source).body
    said = {}
    for node, after in zip_longest(body, body[1:]):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            words = ""
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                words = inspect.cleandoc(str(after.value.value))
            elif beside := [lines[n - 1] for n in (node.lineno, node.lineno - 1) if n and "#:" in lines[n - 1]]:
                words = beside[0].partition("#:")[2].strip()
            names = [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            said |= dict.fromkeys(names, words)
    return {name: words for name, words in said.items() if words}


def _line(docstring: str) -> str:
    """A docstring's first line, reStructuredText, as Markdown."""
    first = re.sub(r":[\w:]+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", docstring.partition("\n")[0])
    return first.replace("``", "`").replace("\\*", "*").replace("*latent", "\\*latent")


def api_pages() -> dict[str, str]:
    """File → page, one for each package, with the index among them."""
    modules: dict[str, list[ModuleType]] = {}
    every = public_modules()
    home = homes(every)
    for module in every:
        modules.setdefault(_package_of(module), []).append(module)
    pages, listed = {}, []
    for package, members in modules.items():
        words, _, more = (importlib.import_module(package).__doc__ or f"`{package}`").partition("\n")[0].partition(": ")
        title, opening = _GROUPS.get(package, (words.rstrip("."), more[:1].upper() + more[1:]))
        name = package.replace(".", "-")
        listed.append((name, title, opening or f"`{package}`"))
        ordered = sorted(members, key=lambda m: (m.__name__ != package, m.__name__))
        pages[f"api/{name}.md"] = (
            "\n\n".join((f"# {title}", opening, *(_module(m, home) for m in ordered if m.__doc__))) + "\n"
        )
    rows = "\n".join(f"* [{title}]({name}.md): {opening}" for name, title, opening in listed)
    tree = "\n".join(name for name, _, _ in listed)
    pages["api/index.md"] = (
        "# API\n\nEvery public name of both packages, from its docstring; the build fails where one is missing. "
        f"`import gradcheck` alone loads nothing else: names are imported when they are first used.\n\n{rows}\n\n"
        f"```{{toctree}}\n:hidden:\n\n{tree}\n```\n"
    )
    return pages


def undocumented(documented: Collection[str], modules: Iterable[ModuleType] | None = None) -> list[str]:
    """Public names, those of each module's ``__all__``, that no page has."""
    wanted = homes(public_modules() if modules is None else modules).values()
    return sorted(set(wanted) - set(documented))


def undescribed(modules: Iterable[ModuleType]) -> list[str]:
    """Public names without a description in their own source, for a quick look without building the site.

    A function or class needs a docstring of its own, a constant a string below it or a comment that begins with ``#:``.
    """
    modules = list(modules)
    home = homes(modules)
    missing = []
    for module in modules:
        tree = ast.parse(Path(str(module.__file__)).read_text())
        kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
        said = {node.name for node in tree.body if isinstance(node, kinds) and ast.get_docstring(node)}
        said |= set(_constants(module))
        own = (n for n in getattr(module, "__all__", ()) if home[f"{module.__name__}.{n}"] == f"{module.__name__}.{n}")
        missing += [f"{module.__name__}.{n}" for n in own if n in _defined(module) and n not in said]
    return missing


def check(app: Any, env: Any) -> None:
    """Warn, and so fail the build, for every public name that has no docstring."""
    from sphinx.util import logging

    for name in undocumented(env.get_domain("py").objects):
        logging.getLogger(__name__).warning("public name without a docstring: %s", name, type="gradcheck")


_SECTIONS = {"Args:", "Attributes:"}
_SEVERAL = re.compile(r"^(\s+)(\w+(?:, \w+)+): (.+)$")


def tidy(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Prepare a docstring for napoleon: ``a, b: text`` is an entry for each, and a constant's colon is no type."""
    if what in ("data", "attribute", "property") and lines and ": " in lines[0]:
        first, _, rest = lines[0].partition(": ")
        lines[:1] = [f"{first}:", rest]
        return
    out: list[str] = []
    section, entry = "", 0
    while entry < len(lines):
        line = lines[entry]
        if line.strip() and not line.startswith(" "):
            section = line.strip()
        found = _SEVERAL.match(line) if section in _SECTIONS else None
        entry += 1
        if found is None:
            out.append(line)
            continue
        indent, names, text = found.groups()
        more = []
        while entry < len(lines) and lines[entry].startswith(indent + " "):
            more.append(lines[entry])
            entry += 1
        for one in names.split(", "):
            out += [f"{indent}{one}: {text}", *more]
    lines[:] = out


def signature(
    app: Any, what: str, name: str, obj: Any, options: Any, arguments: str | None, returns: str | None
) -> Any:
    """A default that a factory makes is no Python, and would keep the whole signature from being read."""
    return None if arguments is None else (arguments.replace("<factory>", "..."), returns)


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve a reference by the end of a name, ``Derivation.raw_gradient`` say.

    A name that is not public, which a public signature may still mention, stays without a link.
    """
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"]).lstrip(".~")
    module, _, last = target.rpartition(".")
    if hasattr(sys.modules.get(module), last) and last not in getattr(sys.modules[module], "__all__", (last,)):
        return content
    objects = env.get_domain("py").objects
    passed_on = _homes().get(target)
    found = [passed_on] if passed_on in objects else [name for name in objects if name.endswith(f".{target}")]
    if not found and module:  # a field, which stands in its class's own text
        found = [name for name in objects if name.endswith(f".{module}")]
    found = [name for name in found if name.startswith(f"{node.get('py:module')}.")] or found
    if len(found) != 1:
        return None
    from sphinx.util.nodes import make_refnode

    where = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], where.docname, where.node_id, content, found[0])
