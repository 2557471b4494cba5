#!/usr/bin/env python
r"""Executes the notebooks, and checks that the executed copies are what the sources and the library say.

``python notebooks/build.py``            executes every ``notebooks/*.md`` into ``notebooks/executed/*.ipynb``
``python notebooks/build.py --check``    executes again and compares: texts word by word, pictures by their size
``python notebooks/build.py --sources``  compares the cells' sources only, and executes nothing

Names after these, such as ``03-flow-grpo``, choose notebooks.  Exit status 1: something differs.
"""

from __future__ import annotations

import argparse
import base64
import difflib
import os
import struct
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
EXECUTED = HERE / "executed"
WORKERS = 2
SECONDS = 600  # that one cell may take
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
# One thread, so that sums come out alike; a fixed order of sets; and nobody's own settings.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "error::DeprecationWarning:__main__",
    "MPLBACKEND": "agg",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "NO_COLOR": "1",
}


def sources(names: Sequence[str] = ()) -> list[Path]:
    """The notebooks' sources, in order.

    Raises:
        SystemExit: a name is unknown.
    """
    found = sorted(HERE.glob("[0-9a-z]*.md"))
    unknown = set(names) - {p.stem for p in found}
    if unknown:
        raise SystemExit(f"no notebook {', '.join(sorted(unknown))}; there are {', '.join(p.stem for p in found)}")
    return [p for p in found if not names or p.stem in names]


def executed(source: Path) -> Path:
    """Where a source's executed copy is."""
    return EXECUTED / f"{source.stem}.ipynb"


def read(source: Path) -> NotebookNode:
    """A source as a notebook without outputs, with the same metadata on every machine."""
    return normalised(jupytext.read(source), source.stem)


def normalised(notebook: NotebookNode, name: str) -> NotebookNode:
    """Without times, machine and versions; cells are numbered."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{name}-{i}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
    return notebook


def execute(source: Path) -> NotebookNode:
    """Run a notebook from top to bottom in a kernel of its own."""
    notebook = read(source)
    with tempfile.TemporaryDirectory() as settings:
        os.environ.update(ENVIRONMENT | {"IPYTHONDIR": settings, "JUPYTER_CONFIG_DIR": settings})
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            kernel_name=KERNEL["name"],
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": str(HERE)}},
        )
        client.execute()
    return normalised(notebook, source.stem)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write as JSON that diffs well."""
    nbformat.validate(notebook)
    path.parent.mkdir(exist_ok=True)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def source_differences(source: Path) -> list[str]:
    """Where a source and its executed copy disagree about what the cells are."""
    copy = executed(source)
    if not copy.exists():
        return [f"{source.name} was never executed: make notebooks"]
    wanted, there = (_cells(n) for n in (read(source), nbformat.read(copy, as_version=4)))
    return [] if wanted == there else _diff(wanted, there, source.name, copy.name)


def output_differences(source: Path) -> list[str]:
    """Where executing a source again gives other texts, or pictures of another size, than its executed copy holds."""
    copy = nbformat.read(executed(source), as_version=4)
    return _diff(_outputs(execute(source)), _outputs(copy), "executed now", executed(source).name)


def _diff(wanted: list[str], there: list[str], *names: str) -> list[str]:
    return list(difflib.unified_diff(there, wanted, names[1], names[0], lineterm="", n=1))


def _cells(notebook: NotebookNode) -> list[str]:
    out = []
    for cell in notebook.cells:
        out += [f"[{cell.cell_type} {cell.metadata.get('tags', [])}]", *cell.source.splitlines()]
    return out


def _outputs(notebook: NotebookNode) -> list[str]:
    """Every output as lines; a picture is its size and its words."""
    out = []
    for i, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            out.append(f"[cell {i}: {output.output_type}]")
            if output.output_type == "stream":
                out += output.text.splitlines()
            for kind, content in sorted(output.get("data", {}).items()):
                if kind == "image/png":
                    width, height = struct.unpack(">II", base64.b64decode(content)[16:24])
                    out.append(f"picture, {width} × {height} pixels")
                else:
                    out += (content if isinstance(content, str) else repr(content)).splitlines()
    return out


def _build(source: Path) -> str:
    write(execute(source), executed(source))
    return f"{executed(source).relative_to(HERE.parent)}: {executed(source).stat().st_size / 1000:.0f} kB"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks; all by default")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="execute again and compare with the executed copies")
    what.add_argument("--sources", action="store_true", help="compare sources only")
    arguments = parser.parse_args(argv)
    chosen = sources(arguments.names)
    if not (arguments.check or arguments.sources):
        with ProcessPoolExecutor(WORKERS) as pool:
            for line in pool.map(_build, chosen):
                print(line, flush=True)
        return 0
    differences = {s.name: source_differences(s) for s in chosen}
    if arguments.check and not any(differences.values()):
        with ProcessPoolExecutor(WORKERS) as pool:
            differences = dict(zip(differences, pool.map(output_differences, chosen), strict=True))
    for name, lines in differences.items():
        print(f"{name}: {'differs' if lines else 'agrees'}", *lines, sep="\n", flush=True)
    return 1 if any(differences.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
