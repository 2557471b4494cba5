#!/usr/bin/env python
r"""Executes the notebooks, and checks that the executed copies are what the sources and the library say.

``python notebooks/build.py``            executes every ``notebooks/*.md`` into ``notebooks/executed/*.ipynb``
``python notebooks/build.py --check``    executes again and compares: texts word by word, pictures by their size
``python notebooks/build.py --sources``  compares the cells' sources only, and executes nothing
``python notebooks/build.py --chinese``  writes the Chinese edition of the executed copies only, and executes nothing

The first writes the Chinese edition too, and the checks hold that it is the executed copies' (see ``chinese.py``).
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

import chinese
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
    path.write_text(_text(notebook), encoding="utf-8")


def _text(notebook: NotebookNode) -> str:
    return str(nbformat.writes(notebook)) + "\n"


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


def chinese_edition(source: Path) -> NotebookNode:
    """The Chinese edition of an executed copy.

    Raises:
        ValueError: the table of translations does not fit the copy.
    """
    copy = nbformat.read(executed(source), as_version=4)
    return chinese.edition(copy, source.stem, chinese.table(source.stem))


def chinese_differences(source: Path) -> list[str]:
    """Where the Chinese edition is not that of the executed copy; it has none if there is no table."""
    path = chinese.path(source.stem)
    if source.stem not in chinese.names():
        return [f"{path.name} has no table of translations"] if path.exists() else []
    try:
        wanted = _text(chinese_edition(source))
    except ValueError as error:
        return str(error).splitlines()
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    return _diff(wanted.splitlines(), there.splitlines(), executed(source).name, f"zh/{path.name}")


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


def _write_chinese(chosen: Sequence[Path]) -> None:
    """Write the Chinese editions.

    Raises:
        SystemExit: a text has no translation.
    """
    for source in chosen:
        if source.stem in chinese.names():
            try:
                write(chinese_edition(source), chinese.path(source.stem))
            except ValueError as error:
                raise SystemExit(str(error)) from None
            print(chinese.path(source.stem).relative_to(HERE.parent), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebooks; all by default")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="execute again and compare with the executed copies")
    what.add_argument("--sources", action="store_true", help="compare sources only")
    what.add_argument("--chinese", action="store_true", help="write the Chinese edition only")
    arguments = parser.parse_args(argv)
    chosen = sources(arguments.names)
    if not (arguments.check or arguments.sources or arguments.chinese):
        with ProcessPoolExecutor(WORKERS) as pool:
            for line in pool.map(_build, chosen):
                print(line, flush=True)
    if not (arguments.check or arguments.sources):
        _write_chinese(chosen)
        return 0
    differences = {s.name: source_differences(s) + chinese_differences(s) for s in chosen}
    if arguments.check and not any(differences.values()):
        with ProcessPoolExecutor(WORKERS) as pool:
            differences = dict(zip(differences, pool.map(output_differences, chosen), strict=True))
    for name, lines in differences.items():
        print(f"{name}: {'differs' if lines else 'agrees'}", *lines, sep="\n", flush=True)
    return 1 if any(differences.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
