"""Imports point downwards: a room knows the rooms below it, and no module knows itself through others."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("algebra and proofs", ("derivations",)),
    (
        "ground",
        (
            *("gradcheck", "gradcheck.errors", "gradcheck.shadowed", "gradcheck.console", "gradcheck.extras"),
            *(
                "gradcheck.derived.reads",
                "gradcheck.devices",
                "gradcheck.reports.style",
                "gradcheck.tensor_ops",
                "gradcheck.case",
                "gradcheck.clock",
                "gradcheck.derived.masks",
            ),
        ),
    ),
    (
        "losses",
        (
            *("gradcheck.losses", "gradcheck.catalogue", "gradcheck.derived.compiled", "gradcheck.derived.equivalent"),
            *(
                "gradcheck.derived.composed",
                "gradcheck.derived.typed",
                "gradcheck.theorems.calculators",
                "gradcheck.theorems.options",
            ),
        ),
    ),
    (
        "problems",
        (
            "gradcheck.problems.drawing",
            "gradcheck.problems.building",
            "gradcheck.problems.strategies",
            "gradcheck.problems.layouts",
        ),
    ),
    (
        "rounding",
        (
            *(
                "gradcheck.rounding.bounds",
                "gradcheck.rounding.straight",
                "gradcheck.rounding.plans",
                "gradcheck.rounding.chunks",
            ),
            *(
                "gradcheck.rounding.error_scale",
                "gradcheck.rounding.compare",
                "gradcheck.rounding.streaming",
                "gradcheck.rounding.signal",
            ),
        ),
    ),
    (
        "verification",
        (
            *(
                "gradcheck.verifying.steps",
                "gradcheck.theorems.montecarlo",
                "gradcheck.verifying.networks",
                "gradcheck.doors.inputs",
            ),
            *("gradcheck.verifying.verification", "gradcheck.verifying.report"),
        ),
    ),
    ("conventions", ("gradcheck.conventions",)),
    ("losses of one line", ("gradcheck.deriving",)),
    ("judging", ("gradcheck.oracle",)),
    ("subjects", ("gradcheck.distributed", "gradcheck.watching", "gradcheck.vectors")),
    (
        "doors",
        (
            *(
                "gradcheck.doors.collecting",
                "gradcheck.doors.conformance",
                "gradcheck.pytest_plugin",
                "gradcheck.doors.starting",
            ),
            *("gradcheck.doors.checking", "gradcheck.doors.unveiling"),
            *("gradcheck.judging.isolation.child", "gradcheck.judging.isolation.parent", "gradcheck.doors.check"),
            *("gradcheck.doors.parts", "gradcheck.doors.trainers"),
            *("gradcheck.doors.loading", "gradcheck.doors.distributed"),
            "gradcheck.distributed.__main__",
            *("gradcheck.doors.derive", "gradcheck.doors.vectors", "gradcheck.doors.watch"),
            *("gradcheck.doors.cli", "gradcheck.__main__"),
        ),
    ),
    ("studies, which the wheel leaves out", ("gradcheck.toy", "gradcheck.notebook", "gradcheck.plots")),
)
"""From the ground up: a room's name and the modules or packages in it; the longest name that fits decides."""


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
        for at, (_, names) in enumerate(LAYERS)
        for name in names
        if module == name or (name != "gradcheck" and module.startswith(f"{name}."))
    ]
    assert fitting, f"{module} is in no room: add it to LAYERS"
    return max(fitting)[1]


def test_every_import_points_downwards() -> None:
    upwards = [
        f"{name} ({LAYERS[layer(name)][0]}) imports {other} ({LAYERS[layer(other)][0]})"
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
