"""Every algorithm, lemma and identity, got wrong in the ways in which people get them wrong.

The tables are the thing to read: one file for each algorithm of the catalogue, and two for the theorems.
``tests/test_wrong_versions.py`` makes each wrong version from the library's own source and has it refused by name.
Changes that leave the mathematics alone, such as exchanging summands, are no wrong versions and stand in no table.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from wrong_versions import lemmas, reverse_steps
from wrong_versions.base import Edit, WrongTarget, WrongTheorem, WrongVersion, fresh, numeric_chain, symbolic_chain

__all__ = [
    "WRONG_TARGETS",
    "WRONG_THEOREMS",
    "WRONG_VERSIONS",
    "Edit",
    "WrongTarget",
    "WrongTheorem",
    "WrongVersion",
    "fresh",
    "numeric_chain",
    "symbolic_chain",
]

# one file for each algorithm, under the algorithm's name
_TABLES = {
    path.stem: import_module(f"{__name__}.{path.stem}")
    for path in sorted(Path(__file__).parent.glob("*.py"))
    if path.stem not in ("__init__", "base", "families", "shared", "lemmas", "reverse_steps")
}

WRONG_VERSIONS: dict[str, tuple[WrongVersion, ...]] = {name: table.WRONG_VERSIONS for name, table in _TABLES.items()}
WRONG_TARGETS: dict[str, tuple[WrongTarget, ...]] = {name: table.WRONG_TARGETS for name, table in _TABLES.items()}
WRONG_THEOREMS: tuple[WrongTheorem, ...] = (*lemmas.WRONG_THEOREMS, *reverse_steps.WRONG_THEOREMS)
