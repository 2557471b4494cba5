"""The Chinese edition says what the English one says: all of its texts, with the same formulas and numbers."""

from __future__ import annotations

import copy
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
markdown_it = pytest.importorskip("markdown_it", reason="the notebooks extra is not installed")

from .test_executed import build  # noqa: E402

chinese = build.chinese
TRANSLATED = ["01-method", "03-flow-grpo", "04-grpo-guard", "05-awm", "06-diffusion-nft", "07-comparison"]
each = pytest.mark.parametrize("name", TRANSLATED)
FORMULA = re.compile(r"\$\$[^$]*\$\$|\$[^$]*\$")


def pair(name: str) -> tuple[list[Any], list[Any]]:
    """The cells of both editions, the Chinese one without its note."""
    english = nbformat.read(build.EXECUTED / f"{name}.ipynb", as_version=4).cells
    translated = nbformat.read(chinese.path(name), as_version=4).cells
    return english, [c for c in translated if c.id != f"{name}-zh"]


def texts(name: str) -> list[tuple[str, str]]:
    return [(e.source, c.source) for e, c in zip(*pair(name), strict=True) if e.cell_type == "markdown"]


def test_these_are_translated() -> None:
    assert chinese.names() == TRANSLATED


@each
def test_what_is_committed_is_what_is_built(name: str) -> None:
    (source,) = build.sources([name])
    assert build.chinese_differences(source) == [], "python notebooks/build.py --chinese"


@each
def test_code_and_outputs_are_the_same(name: str) -> None:
    for english, translated in zip(*pair(name), strict=True):
        assert english.cell_type == translated.cell_type
        if english.cell_type == "code":
            assert english == translated


@each
def test_formulas_and_numbers_are_the_same(name: str) -> None:
    """Counted here by rules of their own, not by those that build the edition."""
    for english, translated in texts(name):
        assert Counter(FORMULA.findall(english)) == Counter(FORMULA.findall(translated)), translated
        numbers = [Counter(re.findall(r"\d+", _without_links(text))) for text in (english, translated)]
        assert numbers[0] == numbers[1], translated


def _without_links(text: str) -> str:
    return re.sub(r"\]\([^)]*\)", "]", text)


@each
def test_every_text_is_in_chinese(name: str) -> None:
    for english, translated in texts(name):
        letters = len(re.findall(r"[\u4e00-\u9fff]", translated))
        words = len(re.findall(r"[a-z]{3,}", FORMULA.sub("", english)))
        assert letters > 0.7 * words, translated


@each
def test_headings_paragraphs_and_lists_are_the_same(name: str) -> None:
    for english, translated in texts(name):
        assert [_blocks(english)] == [_blocks(translated)], translated


def _blocks(text: str) -> list[tuple[str, str]]:
    return [(t.type, t.tag) for t in markdown_it.MarkdownIt().parse(text) if t.type != "inline"]


@each
def test_emphasis_is_closed(name: str) -> None:
    """Markdown closes no emphasis between a full-width full stop and a Chinese character: its stars would show."""
    cells = nbformat.read(chinese.path(name), as_version=4).cells
    for cell in cells:
        if cell.cell_type == "markdown":
            html = markdown_it.MarkdownIt().render(FORMULA.sub("x", cell.source))
            assert "*" not in html, cell.source


@each
def test_links_lead_somewhere(name: str) -> None:
    cells = nbformat.read(chinese.path(name), as_version=4).cells
    links = [t for c in cells if c.cell_type == "markdown" for t in re.findall(r"\]\(([^)]+)\)", c.source)]
    assert links
    for target in links:
        assert (chinese.TABLES / target).exists(), target


# ------------------------------------------------------------------------------ the build notices what it should


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tables that a test may change; the path of one."""
    shutil.copytree(chinese.TABLES, tmp_path / "zh")
    monkeypatch.setattr(chinese, "TABLES", tmp_path / "zh")
    return tmp_path / "zh" / "04-grpo-guard.toml"


def notebook() -> Any:
    return nbformat.read(build.EXECUTED / "04-grpo-guard.ipynb", as_version=4)


def test_a_text_without_translation_is_named() -> None:
    changed = notebook()
    changed.cells[4].source = changed.cells[4].source.replace("The tilde", "A tilde")
    with pytest.raises(ValueError, match=r"04-grpo-guard, cell 4 has no translation in zh/04-grpo-guard\.toml"):
        chinese.edition(changed, "04-grpo-guard", chinese.table("04-grpo-guard"))


def test_the_build_fails_for_a_text_without_translation(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own.write_text(own.read_text().replace("The tilde", "A tilde"))
    with pytest.raises(SystemExit, match="cell 4 has no translation"):
        build.main(["--chinese", "04-grpo-guard"])
    assert build.main(["--sources", "04-grpo-guard"]) == 1
    assert "cell 4 has no translation" in capsys.readouterr().out


def test_a_translation_of_nothing_is_named() -> None:
    texts = {**chinese.table("04-grpo-guard"), "Gone.": "没有了。"}
    with pytest.raises(ValueError, match=r"translates what 04-grpo-guard does not say:\nGone\."):
        chinese.edition(notebook(), "04-grpo-guard", texts)


def test_a_changed_formula_or_number_arrives() -> None:
    changed = notebook()
    for cell in changed.cells:
        cell.source = cell.source.replace(r"$\|\delta\|^2$", r"$\|\delta\|^6$").replace("up to 4", "up to 5")
    before = copy.deepcopy(changed)
    edition = chinese.edition(changed, "04-grpo-guard", chinese.table("04-grpo-guard"))
    said = "\n".join(c.source for c in edition.cells)
    assert r"含 $\|\delta\|^6$ 的一项就是偏差" in said
    assert "不超过 5 即为通过" in said
    assert changed == before


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("{1} {1}", "placeholders 1, 1 given, wanted are 1, each once"),
        ("无", "placeholders  given, wanted are 1, each once"),
        ("{2}", "placeholders 2 given, wanted are 1, each once"),
        ("{1}，即 3.5", r"3\.5 must be a placeholder"),
        ("{1}，即 $x$", r"\$x\$ must be a placeholder"),
        ("{1}，即 `x`", "`x` must be a placeholder"),
    ],
)
def test_a_translation_has_no_formula_or_number_of_its_own(own: Path, mistake: str, said: str) -> None:
    own.write_text(f"[[cell]]\nen = 'It is {{1}}.'\nzh = '它是 {mistake}。'\n")
    with pytest.raises(ValueError, match=said):
        chinese.table("04-grpo-guard")


def test_an_edition_changed_by_hand_is_noticed(own: Path) -> None:
    (source,) = build.sources(["04-grpo-guard"])
    edition = own.with_suffix(".ipynb")
    assert build.chinese_differences(source) == []
    edition.write_text(edition.read_text().replace("代价", "好处", 1))
    assert build.chinese_differences(source)
    edition.unlink()
    assert build.chinese_differences(source)


def test_an_edition_without_table_is_noticed(own: Path) -> None:
    own.unlink()
    assert build.chinese_differences(build.sources(["04-grpo-guard"])[0])
