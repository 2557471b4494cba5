"""Imports point downwards: a room knows the rooms below it, and no module knows itself through others."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("derivations", "derivations.algebra"),
    ("derivations.calculus",),
    ("derivations.notation", "derivations.local_names", "derivations.variant", "derivations.pieces"),
    ("derivations.proof",),
    ("derivations.claims",),
    ("derivations.derivation",),
    ("derivations.lemmas", "derivations.directions", "derivations.steps", "derivations.algorithm"),
    ("derivations.grammar", "derivations.on_top", "derivations.identities", "derivations.losses"),
    ("derivations.theorems",),
    ("derivations.writing",),
    ("derivations.coincidences",),
    (
        *("gradcheck", "gradcheck.errors", "gradcheck.shadowed", "gradcheck.extras", "gradcheck.console"),
        *("gradcheck.devices", "gradcheck.tensor_ops", "gradcheck.case", "gradcheck.clock", "gradcheck.forking"),
    ),
    ("gradcheck.losses",),
    ("gradcheck.catalogue", "gradcheck.derived", "gradcheck.theorems"),
    ("gradcheck.problems",),
    ("gradcheck.rounding",),
    ("gradcheck.verifying",),
    ("gradcheck.conventions", "gradcheck.deriving", "gradcheck.judging", "gradcheck.reading"),
    ("gradcheck.oracle",),
    ("gradcheck.reports",),
    ("gradcheck.parts", "gradcheck.unveiling", "gradcheck.distributed", "gradcheck.watching", "gradcheck.vectors"),
    ("gradcheck.doors", "gradcheck.pytest_plugin", "gradcheck.distributed.__main__", "gradcheck.__main__"),
    ("gradcheck.toy", "gradcheck.notebook", "gradcheck.plots"),
)
"""From the ground up, the modules and packages of each floor; the longest name that fits decides."""


@cache
def modules() -> dict[str, Path]:
    found = {}
    for package in ("derivations", "gradcheck"):
        for path in (ROOT / package).rglob("*.py"):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


@cache
def imports() -> dict[str, frozenset[str]]:
    """Module → the modules that it imports, anywhere in it, but not for type checking alone."""
    return {name: frozenset(_imported(path) - {name}) for name, path in modules().items()}


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules() else node.module)
        pending += ast.iter_child_nodes(node)
    return found & modules().keys()


def layer(module: str) -> int:
    fitting = [
        (len(name), at)
        for at, names in enumerate(LAYERS)
        for name in names
        if module == name or (name != "gradcheck" and module.startswith(f"{name}."))
    ]
    assert fitting, f"{module} is in no room: add it to LAYERS"
    return max(fitting)[1]


def test_every_import_points_downwards() -> None:
    upwards = [
        f"{name} imports {other}, which is {layer(other) - layer(name)} floors above it"
        for name, others in imports().items()
        for other in others
        if layer(other) > layer(name)
    ]
    assert not upwards, "\n".join(sorted(upwards))


def test_no_import_goes_round_in_a_circle() -> None:
    """Also none that is made late, inside a function."""
    above: dict[str, set[str]] = defaultdict(set)
    for name, others in imports().items():
        for other in others:
            above[other].add(name)
    waiting = {name: len(others) for name, others in imports().items()}
    free = [name for name, count in waiting.items() if not count]
    while free:
        for name in above[free.pop()]:
            waiting[name] -= 1
            if not waiting[name]:
                free.append(name)
    assert not (left := sorted(name for name, count in waiting.items() if count)), left


def _imports_from_outside() -> Iterator[tuple[str, str, str]]:
    """File, module and name of what lies beside the packages and imports from them."""
    for folder in ("benchmarks", "examples", "docs/_ext"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "") in modules():
                    yield from ((str(path.relative_to(ROOT)), node.module or "", alias.name) for alias in node.names)


def test_what_benchmarks_and_examples_import_is_there() -> None:
    """They run by hand, so that nothing else notices a name that moved."""
    gone = []
    for file, module, name in _imports_from_outside():
        if not hasattr(import_module(module), name) and f"{module}.{name}" not in modules():
            gone.append(f"{file}: {module}.{name}")
    assert not gone
