"""Writes every generated page into ``docs/generated/``, which git ignores."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from gradcheck.catalogue import ALGORITHMS
from gradcheck.plots import directions
from gradcheck.reports.style import png
from gradcheck_docs import algorithms, article, theorems
from gradcheck_docs.api import api_pages
from gradcheck_docs.bugs import bugs_page

__all__ = ["ROOT", "algorithm_pages", "mutants", "pages", "pictures", "readme_example", "write"]

ROOT = Path(__file__).resolve().parents[3]


def mutants() -> dict[str, tuple[str, str]]:
    """The tests' mutants: name → (obligation, cause)."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from tests.oracle.table import MUTANTS

    return {m.name: (m.obligation, m.cause) for m in MUTANTS}


def readme_example() -> str:
    """The README's adapter and its failure, as they stand there, where tests run them."""
    section = (ROOT / "README.md").read_text().partition("## Judge your own loss")[2].partition("\n## ")[0]
    begin = section.index("```python")
    end = section.index("\n\n`gradcheck list`")
    return section[begin:end] + "\n"


def notebooks(root: Path = ROOT) -> list[Path]:
    """The executed notebooks, in the order of their names."""
    return sorted((root / "notebooks" / "executed").glob("*.ipynb"))


def chinese_notebooks(root: Path = ROOT) -> list[Path]:
    """Their Chinese editions, in the order of their names."""
    return sorted((root / "notebooks" / "zh").glob("*.ipynb"))


def algorithm_pages(named: list[str]) -> dict[str, str]:
    """The pages that follow from the catalogue, with links to the notebooks of these names."""
    out = {
        "algorithms/index.md": algorithms.index_page(),
        "closing.md": algorithms.closing_page(),
        "_closing.md": algorithms.closing_table(link="generated/algorithms/", brief=True) + "\n",
    }
    for paper in algorithms.papers():
        name = paper.algorithm.name
        about = [f"notebooks/{stem}.ipynb" for stem in named if name in stem.replace("-", "_")]
        out[f"algorithms/{algorithms.page_name(name)}.md"] = algorithms.algorithm_page(paper, about)
        for module in algorithms.sources(paper):
            page = algorithms.source_page(module, "../../..")
            out[f"sources/{algorithms.source_name(module)}.md"] = f"---\norphan: true\n---\n\n{page}"
    return out


def pages() -> dict[str, str]:
    """File under ``generated/`` → its text."""
    named = [n.stem for n in notebooks()]
    return {
        **algorithm_pages(named),
        "notation.md": algorithms.notation_page(),
        "lemmas.md": theorems.lemmas_page(),
        "steps.md": theorems.sde_page(),
        "identities.md": theorems.identities_page(),
        "predictions.md": theorems.predictions_page(),
        "averages.md": theorems.averages_page(),
        "article.md": article.article_page(),
        "differences.md": theorems.differences_page(article.qualified()),
        "bugs.md": bugs_page(mutants()),
        "_readme_example.md": readme_example(),
        **api_pages(),
        "notebooks/index.md": _notebooks_index(named, [n.stem for n in chinese_notebooks()]),
    }


def _notebooks_index(named: list[str], chinese: list[str]) -> str:
    if not named:
        return "# Notebooks\n\nNone has been executed in this checkout.\n"
    short = short_titles()
    text = (
        "# Notebooks\n\nRead these from the top to understand the losses; everything is derived as you go. "
        "The cells call the derivations and the torch side, and hold no algebra of their own.\n\n"
        f"{_toctree(named, short)}"
    )
    if chinese:
        text += "\nIn Chinese, with the same formulas · 中文版，公式与英文版相同：\n\n"
        text += _toctree((f"zh/{n}" for n in chinese), short)
    return text


def short_titles() -> dict[str, str]:
    """Notebook, ``05-awm`` or ``zh/05-awm``, → the name that ``notebooks/README.md`` gives it."""
    readme = (ROOT / "notebooks" / "README.md").read_text()
    found = re.findall(r"\[([^\]]+)\]\((?:executed/)?((?:zh/)?[\w-]+)\.ipynb\)", readme)
    chinese = "（中文）"
    return {d: title + chinese if d.startswith("zh/") and title.isascii() else title for title, d in found}


def _toctree(documents: Iterable[str], titles: dict[str, str]) -> str:
    listed = "\n".join(f"{titles[d]} <{d}>" if d in titles else d for d in documents)
    return f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"


def pictures() -> dict[str, bytes]:
    """File under ``generated/`` → where one loss pulls, drawn."""
    return {
        algorithms.picture_name(a.name): png(directions.single(a.name), 64)
        for a in ALGORITHMS
        if a.name in directions.IN_WORDS
    }


def write(source: Path) -> None:
    """Write all pages below ``source/generated``; what did not change keeps its time, what is gone is removed."""
    place = source / "generated"
    wanted = {place / name: text.encode() for name, text in pages().items()}
    wanted |= {place / "notebooks" / n.name: n.read_bytes() for n in notebooks()}
    wanted |= {place / name: drawn for name, drawn in pictures().items()}
    wanted |= {  # the executed ones lie beside zh/ here
        place / "notebooks" / "zh" / n.name: n.read_bytes().replace(b"../executed/", b"../")
        for n in chinese_notebooks()
    }
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    for path in place.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    for folder in sorted((p for p in place.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            shutil.rmtree(folder)
