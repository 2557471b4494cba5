r"""The Chinese edition: executed notebooks with their texts exchanged, and nothing executed twice.

``zh/NAME.toml`` is a table of one notebook's texts.  Each entry has the English text, in which every formula, number,
piece of code and link is a placeholder such as ``{3}``, and the Chinese text, which has the same placeholders in the
order that its sentences need.  What they stand for is taken from the executed notebook, so that a formula cannot differ
between the two editions.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).parent
TABLES = HERE / "zh"

_NUMBER = r"\d+(?:[.,]\d+)*"
FIXED = re.compile(
    r"\$\$.+?\$\$|\$[^$]+\$"  # formulas
    r"|`[^`]+`"  # code
    r"|(?<=\]\()[^)\s]+(?=\))"  # where a link leads
    rf"|[A-Za-z]*{_NUMBER}(?:(?: × |/){_NUMBER})*",  # 65,536 and 16 × 64 × 64, also L1 and float32
    re.DOTALL,
)
PLACEHOLDER = re.compile(r"\{(\d+)\}")
NOTE = (
    "*本页由[英文版](../executed/{name}.ipynb)生成：公式、数字、代码和输出都与英文版相同。"
    "输出保留英文：proved 指“已证明”，where 与 with 指“其中”，holds 指“成立”，refused 指“被拒绝”。*"
)


def names() -> list[str]:
    """The notebooks that have a table."""
    return sorted(p.stem for p in TABLES.glob("*.toml"))


def path(name: str) -> Path:
    """Where a notebook's Chinese edition is."""
    return TABLES / f"{name}.ipynb"


def taken_apart(text: str) -> tuple[str, list[str]]:
    """A text with placeholders, counted from 1, and what they stand for."""
    fixed: list[str] = []

    def out(found: re.Match[str]) -> str:
        fixed.append(found[0])
        return f"{{{len(fixed)}}}"

    return FIXED.sub(out, text), fixed


def table(name: str) -> dict[str, str]:
    """Chinese texts by English ones, both with placeholders.

    Raises:
        ValueError: a Chinese text lacks a placeholder, has one too often, or has a formula, number, code or link of
            its own.
    """
    entries = tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))["cell"]
    for entry in entries:
        for language in ("en", "zh"):
            entry[language] = entry[language].strip()
        wanted, there = (sorted(PLACEHOLDER.findall(entry[language]), key=int) for language in ("en", "zh"))
        title = f"zh/{name}.toml, the text that begins {entry['zh'][:30]!r}"
        if wanted != there:
            raise ValueError(
                f"{title}: placeholders {', '.join(there)} given, wanted are {', '.join(wanted)}, each once"
            )
        own = FIXED.findall(PLACEHOLDER.sub("", entry["zh"]))
        if own or "$" in entry["zh"]:
            raise ValueError(f"{title}: {', '.join(own) or '$'} must be a placeholder")
    return {entry["en"]: entry["zh"] for entry in entries}


def edition(notebook: NotebookNode, name: str, texts: dict[str, str]) -> NotebookNode:
    """The Chinese edition of an executed notebook.

    Args:
        notebook: as executed.
        name: its name.
        texts: its table.

    Raises:
        ValueError: a text has no translation, or a translation no text.
    """
    out = nbformat.from_dict(notebook)
    unused = set(texts)
    for i, cell in enumerate(out.cells):
        if cell.cell_type != "markdown":
            continue
        english, fixed = taken_apart(cell.source)
        if english not in texts:
            raise ValueError(
                f"{name}, cell {i} has no translation in zh/{name}.toml. It is, with placeholders:\n{english}"
            )
        unused.discard(english)
        pieces = [_led_elsewhere(piece) for piece in fixed]
        cell.source = PLACEHOLDER.sub(lambda found, p=pieces: p[int(found[1]) - 1], texts[english])
    if unused:
        raise ValueError(f"zh/{name}.toml translates what {name} does not say:\n" + "\n\n".join(sorted(unused)))
    note = nbformat.from_dict(
        {"cell_type": "markdown", "id": f"{name}-zh", "metadata": {}, "source": NOTE.format(name=name)}
    )
    out.cells.insert(1, note)
    return out


def _led_elsewhere(piece: str) -> str:
    """A link to a notebook without Chinese edition leads to the English one."""
    return f"../executed/{piece}" if piece.endswith(".ipynb") and piece[:-6] not in names() else piece
