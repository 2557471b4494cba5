"""The committed notebooks are what their sources and the library say, and nothing of the machine is in them."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import re
import struct
import subprocess
import sys
from base64 import b64encode
from pathlib import Path
from types import ModuleType

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
pytest.importorskip("jupytext", reason="the notebooks extra is not installed")
pytest.importorskip("nbclient", reason="the notebooks extra is not installed")

ROOT = Path(__file__).parent.parent.parent
LARGEST = 600_000  # bytes


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebooks_build", ROOT / "notebooks" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(ROOT / "notebooks"))  # as for a script that is run from there
    spec.loader.exec_module(module)
    return module


build = _load()
SOURCES = build.sources()
every = pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
derivation_notebooks = pytest.mark.parametrize(
    "source", [p for p in SOURCES if p.stem[0].isdigit()], ids=lambda p: p.stem
)


def committed(source: Path) -> object:
    return nbformat.read(build.executed(source), as_version=4)


@every
def test_cells_are_the_source_s(source: Path) -> None:
    assert build.source_differences(source) == []


@pytest.mark.thin(2)
@every
def test_executing_again_says_the_same(source: Path) -> None:
    """In a process of its own, as ``make notebooks-check`` does."""
    run = subprocess.run(
        [sys.executable, "notebooks/build.py", "--check", source.stem], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, f"make notebooks\n{run.stdout}{run.stderr}"


@every
def test_every_code_cell_ran_in_order_and_shows_something(source: Path) -> None:
    cells = [c for c in committed(source).cells if c.cell_type == "code"]  # type: ignore[attr-defined]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        kinds = {o.output_type for o in cell.outputs}
        assert kinds == {"execute_result"}, cell.source


@every
def test_nothing_of_the_machine_is_in_it(source: Path) -> None:
    notebook = committed(source)
    assert notebook.metadata == {"kernelspec": build.KERNEL, "language_info": {"name": "python"}}  # type: ignore[attr-defined]
    for cell in notebook.cells:  # type: ignore[attr-defined]
        assert set(cell.metadata) <= {"tags"}
        for output in cell.get("outputs", ()):
            text = "\n".join(str(v) for k, v in output.get("data", {}).items() if not k.startswith("image/"))
            assert not re.search(r"(^|[\s'\"(])/(home|work|tmp|usr|root)/| at 0x[0-9a-f]+|\d{2}:\d{2}:\d{2}", text)
    assert build.executed(source).stat().st_size < LARGEST


@every
def test_cells_that_only_prepare_or_draw_are_folded(source: Path) -> None:
    """The site folds a cell with this tag; one that says what is asked of a derivation stays open."""
    for cell in build.read(source).cells:
        if cell.cell_type == "code":
            helper = re.search(r"\bimport\b|\bfor\b|\bnext\(|\bPicture\(", cell.source)
            assert ("hide-input" in cell.metadata.get("tags", [])) == bool(helper), cell.source


@every
def test_one_title_first_and_headings_in_order(source: Path) -> None:
    cells = committed(source).cells  # type: ignore[attr-defined]
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    outputs = [
        o["data"].get("text/markdown", "") for c in cells if c.cell_type == "code" for o in c.outputs if "data" in o
    ]
    texts = [c.source for c in cells if c.cell_type == "markdown"] + outputs
    levels = [len(m[1]) for text in texts for m in re.finditer(r"^(#+) ", _without_code(text), re.MULTILINE)]
    assert levels[0] == 1
    assert 1 not in levels[1:]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


@derivation_notebooks
def test_formulas_come_from_the_derivations(source: Path) -> None:
    """No displayed formula is typed, and no cell does algebra with SymPy."""
    for cell in build.read(source).cells:
        if cell.cell_type == "markdown":
            assert "$$" not in cell.source
            assert "\\frac" not in cell.source
        else:
            assert "sympy" not in cell.source
    shown = str(committed(source))
    assert "✗" not in shown
    assert "**fails**" not in shown


def test_links_between_notebooks_lead_somewhere() -> None:
    for source in SOURCES:
        for target in re.findall(r"\]\(([^)#]+\.ipynb)\)", source.read_text()):
            assert (build.EXECUTED / target).exists(), (source.name, target)


# ------------------------------------------------------------------------------ the check notices what it should


@pytest.fixture
def one() -> object:
    return committed(SOURCES[0])


def test_a_changed_text_output_is_noticed(one: object) -> None:
    other = copy.deepcopy(one)
    output = next(o for c in other.cells for o in c.get("outputs", ()) if "text/markdown" in o.data)  # type: ignore[attr-defined]
    output.data["text/markdown"] = output.data["text/markdown"].replace("t", "T", 1)
    assert build._outputs(one) == build._outputs(copy.deepcopy(one))
    assert build._outputs(one) != build._outputs(other)


def test_a_picture_counts_by_its_size_and_its_words(one: object) -> None:
    def with_picture(width: int, last: bytes, words: str = "a curve") -> list[str]:
        other = copy.deepcopy(one)
        output = next(o for c in other.cells for o in c.get("outputs", ()) if "image/png" in o.data)  # type: ignore[attr-defined]
        png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, 10) + last
        output.data = {"image/png": b64encode(png).decode(), "text/plain": words}
        found: list[str] = build._outputs(other)
        return found

    assert with_picture(20, b"1") == with_picture(20, b"2")
    assert with_picture(20, b"1") != with_picture(21, b"1")
    assert with_picture(20, b"1") != with_picture(20, b"1", "no curve")


def test_a_changed_source_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / SOURCES[0].name
    source.write_text(SOURCES[0].read_text())
    assert build.source_differences(source) == []
    source.write_text(SOURCES[0].read_text().replace("gradient", "slope", 1))
    assert any("slope" in line for line in build.source_differences(source))
    monkeypatch.setattr(build, "EXECUTED", tmp_path)
    assert "never executed" in build.source_differences(source)[0]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="no notebook 09-nothing"):
        build.sources(["09-nothing"])
