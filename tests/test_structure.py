"""The house keeps its order: which package imports which, and that nothing on disk is missing from the catalogue."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import derivations.losses
import gradcheck.losses
from derivations.algorithm import Algorithm
from derivations.notation import NOTATION
from gradcheck.catalogue import ALGORITHMS, CATALOGUE, entry

ROOT = Path(__file__).parent.parent


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, other than for type checking alone."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "derivations").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_derivations_know_no_numbers(path: Path) -> None:
    assert not imports(path) & {"gradcheck", "torch", "numpy"}


@pytest.mark.parametrize("path", sorted((ROOT / "gradcheck/losses").glob("*.py")), ids=lambda p: p.name)
def test_losses_by_hand_know_no_symbols(path: Path) -> None:
    assert not imports(path) & {"sympy", "derivations"}


def loaded(statement: str, *modules: str) -> str:
    """Which of the modules a fresh interpreter has loaded after a statement."""
    code = f"{statement}; import sys; print(*(m for m in {modules} if m in sys.modules))"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_losses_by_hand_load_no_symbols() -> None:
    """Not through anything that they import either (torch may load SymPy for itself)."""
    assert loaded("from gradcheck.losses import flow_grpo, grpo_guard, awm, diffusion_nft", "derivations") == ""


def test_importing_the_package_is_free() -> None:
    assert loaded("import gradcheck", "torch", "sympy", "hypothesis", "numpy") == ""


def algorithm_files(package: object) -> set[str]:
    return {p.stem for p in Path(inspect.getfile(package)).parent.glob("*.py") if not p.stem.startswith("_")}  # type: ignore[arg-type]


def test_every_file_is_in_the_catalogue() -> None:
    listed = {algorithm.name for algorithm in ALGORITHMS}
    for package in (derivations.losses, gradcheck.losses):
        missing = algorithm_files(package) - listed
        assert not missing, f"add to ALGORITHMS in gradcheck/catalogue.py: {', '.join(sorted(missing))}"
        assert listed <= algorithm_files(package), f"{package.__name__} lacks {listed - algorithm_files(package)}"


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_both_sides_take_the_same_options(algorithm: Algorithm) -> None:
    parameters = inspect.signature(entry(algorithm.name).by_hand).parameters
    assert set(parameters) - {"case"} == set(algorithm.options)
    for option, (default, *_) in algorithm.options.items():
        assert parameters[option].default == default


def test_names_are_unique() -> None:
    labels = [e.label for e in CATALOGUE]
    assert len(set(labels)) == len(labels)


WORDED = {"cause", "sentence", "detail", "reason", "because", "note", "words", "clip", "statement", "meaning"}
"""Fields that hold a sentence for a reader."""


def of_words(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in WORDED


JUDGING = ("judging", "reading", "oracle", "parts", "unveiling", "reports", "doors")


@pytest.mark.parametrize(
    "path",
    sorted(path for room in JUDGING for path in (ROOT / "gradcheck" / room).rglob("*.py")),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_nothing_is_decided_by_the_words_of_a_sentence(path: Path) -> None:
    """A sentence may be reworded: what a decision needs has a field of its own."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            compared = any(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
            looked = compared and any(map(of_words, node.comparators))
        else:
            call = node.func if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else None
            looked = call is not None and call.attr in ("startswith", "endswith", "find") and of_words(call.value)
        if looked:
            found.append(node.lineno)
    assert not found, f"lines {found}"


QUANTITIES = {quantity.name for quantity in NOTATION}


def asks_for_a_quantity(node: ast.AST) -> bool:
    """``"advantage" in derivation.given``, and the like."""
    if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.In | ast.NotIn):
        return False
    named = isinstance(node.left, ast.Constant) and node.left.value in QUANTITIES - {"D"}
    of_a_loss = isinstance(node.comparators[0], ast.Attribute) and node.comparators[0].attr == "given"
    return named and of_a_loss


@pytest.mark.parametrize(
    "path",
    [
        path
        for room in ("conventions", "problems", "verifying", *JUDGING)
        for path in sorted((ROOT / "gradcheck" / room).rglob("*.py"))
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_what_kind_of_loss_it_is_is_asked_of_its_pieces(path: Path) -> None:
    """A loss that states the same thing with another quantity is of the same kind, and would not be seen.

    Where tensors are taken in from outside, what the loss is given is what is asked for, and is no kind.
    """
    found = [ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if asks_for_a_quantity(node)]
    assert not found, f"ask derivation.pieces: {found}"
