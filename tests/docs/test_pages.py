"""The site's pages follow from the derivations, and what they claim about tests is so."""

from __future__ import annotations

import html
import importlib
import os
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from gradcheck_docs import algorithms, api, article, site, theorems
from gradcheck_docs.bugs import BUGS, bugs_page
from gradcheck_docs.text import anchor, prose, provable, slug
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import gradcheck
from derivations.algorithm import Options, Pull, Stated
from derivations.notation import NOTATION
from derivations.writing.render import closing_row, latex
from gradcheck.catalogue import CATALOGUE, Entry, entry
from gradcheck.doors.cli import main
from gradcheck.parts import judge_ema

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BY_HAND = ("index", "start", "method", "precision", "adding", "about")


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return site.pages()


RWR = entry("rwr")


def copied(monkeypatch: pytest.MonkeyPatch, factor: int = 1, claimed: int = 1) -> Entry:
    """Reward-weighted regression under another name, its loss times one factor and its gradient times another."""
    module = "derivations.losses.mine"
    monkeypatch.setitem(sys.modules, module, ModuleType(module, "Mine: a loss that nobody has seen."))

    def assemble(options: Options) -> Stated:
        stated = RWR.algorithm.assemble(options)
        pull = stated.pull
        loss, gradient, weight = factor * pull.loss, claimed * pull.gradient, claimed * pull.weight
        return replace(stated, pull=Pull(loss, gradient, weight, pull.target), after=())

    assemble.__module__ = module
    return Entry(replace(RWR.algorithm, name="mine", title="Mine", assemble=assemble), RWR.by_hand, "paper")


def test_a_new_algorithm_has_its_page_and_its_row_without_an_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "CATALOGUE", (RWR, copied(monkeypatch)))
    pages = site.algorithm_pages(["07-mine-and-yours"])
    assert "../notebooks/07-mine-and-yours.ipynb" in pages["algorithms/mine.md"]
    assert "../notebooks/" not in pages["algorithms/rwr.md"]
    assert "# Mine" in pages["algorithms/mine.md"]
    assert "sources/derivations-losses-mine.md" in pages
    assert "[Mine](mine.md)" in pages["algorithms/index.md"]
    assert re.search(r"^mine$", pages["algorithms/index.md"], re.MULTILINE), "the table of contents lacks it"
    assert "[Mine](algorithms/mine.md)" in pages["closing.md"]


def test_a_changed_derivation_changes_its_page(monkeypatch: pytest.MonkeyPatch) -> None:
    before = algorithms.algorithm_page(copied(monkeypatch))
    after = algorithms.algorithm_page(copied(monkeypatch, 3, 3))
    d = RWR.derivation
    for changed in (3 * d.loss, 3 * d.gradient, 3 * d.weight):
        assert f" = {latex(changed)}" in after
        assert f" = {latex(changed)}" not in before
    assert f" = {latex(d.gradient)}\n" not in after


def test_what_is_not_proved_makes_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(algorithms.NotProvedError, match="gradient"):
        algorithms.algorithm_page(copied(monkeypatch, 3, 1))


@pytest.mark.thin(2)
@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.label)
def test_every_step_and_formula_is_on_its_page(entry: object, pages: dict[str, str]) -> None:
    page, d = pages[f"algorithms/{slug(entry.algorithm.name)}.md"], entry.derivation  # type: ignore[attr-defined]
    for step in d.all_steps:
        assert f"({anchor(d.label, step.name)})=" in page
    for expr in (d.loss, d.weight):
        assert latex(expr, of=d) in page
    assert d.reference in page
    for name in d.variant.options:
        assert f"`{name}" in page


def test_the_closing_table_has_every_row(pages: dict[str, str]) -> None:
    for e in CATALOGUE:
        *_, gradient, target = closing_row(e.derivation, latex=True, exact=True)
        assert gradient in pages["closing.md"]
        assert target in pages["closing.md"]


def test_the_article_is_whole(pages: dict[str, str]) -> None:
    assert len(article.STATEMENTS) == 47
    assert {s.verdict for s in article.STATEMENTS} == set(article.VERDICTS)
    targets = set(re.findall(r"^\((.+)\)=$", "\n".join(pages.values()), re.MULTILINE))
    links = re.findall(r"\(#(step-[\w-]+)\)", pages["article.md"])
    assert len(links) > 47
    assert set(links) <= targets
    linked = {of for s in article.STATEMENTS for of in s.steps}
    errata = {f"{e.label} {step}" for e in theorems.ERRATA for step in e.steps}
    assert errata <= linked, "a difference from the article is not in its table"
    for statement in article.STATEMENTS:
        assert bool(statement.limit) == (statement.verdict == "qualified")
        assert statement.verdict != "corrected" or errata & set(statement.steps), f"no erratum: {statement.says}"
    for erratum in errata:
        assert any(erratum in s.steps and s.verdict == "corrected" for s in article.STATEMENTS), erratum


def test_targets_of_links_are_unique(pages: dict[str, str]) -> None:
    targets = Counter(re.findall(r"^\((.+)\)=$", "\n".join(pages.values()), re.MULTILINE))
    assert targets
    assert max(targets.values()) == 1, targets.most_common(3)


def test_the_notation_is_whole(pages: dict[str, str]) -> None:
    for row in NOTATION:
        assert f"| ${row.latex}$ | `{row.name}` |" in pages["notation.md"]


def test_the_differences_are_all_that_the_derivations_prove() -> None:
    told = [(e.label, name) for e in theorems.ERRATA for name in e.steps]
    assert len(set(told)) == len(told)
    assert set(told) >= theorems.article_steps()
    page = theorems.differences_page(article.qualified())
    for label, name in told:
        assert anchor(label, name) in page


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: slug(b.title))
def test_each_known_mistake_is_planted(bug: object) -> None:
    planted = site.mutants()
    assert bug.reports  # type: ignore[attr-defined]
    assert bug.mutants or bug.part  # type: ignore[attr-defined]
    for name in bug.mutants:  # type: ignore[attr-defined]
        assert name in planted
        obligation, cause = planted[name]
        assert obligation
        if bug.convention:  # type: ignore[attr-defined]
            assert cause.startswith("convention:"), "a difference that may be meant is named as a convention"
    assert bugs_page(planted)


def test_the_restored_average_is_caught_as_the_page_says() -> None:
    (part,) = [b.part for b in BUGS if b.part]
    assert part == ("ema", "restore", "alias")

    def update(shadow: list, live: list, step: int) -> None:
        for s, x in zip(shadow, live, strict=True):
            s.mul_(0.9).add_(x, alpha=0.1)

    def restore(saved: list, live: list) -> None:
        for s, x in zip(saved, live, strict=True):
            x.copy_(s)

    def store(shadow: list, live: list) -> list:
        saved = list(live)  # an alias where a copy is needed
        for s, x in zip(shadow, live, strict=True):
            x.copy_(s)
        return saved

    judged = judge_ema(update, decay=0.9, store=store, restore=restore)
    found = {r.id: r.diagnosis.name for r in judged.results if not r.good and r.diagnosis is not None}
    assert found[part[1]] == part[2]


@pytest.mark.parametrize("name", BY_HAND)
def test_no_formula_is_typed_by_hand(name: str) -> None:
    page = re.sub(r"^(`{3,}).*?^\1$", "", (DOCS / f"{name}.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert "$" not in page
    assert "{math}" not in page


@pytest.mark.parametrize("name", BY_HAND)
def test_formulas_named_by_hand_exist(name: str) -> None:
    page = (DOCS / f"{name}.md").read_text()
    for label, step in re.findall(r"^```\{proved\} (\S+) (\S+)$", page, re.MULTILINE):
        assert step in [s.name for s in provable(label).steps], (label, step)
    for symbol in re.findall(r"\{symbol\}`(\w+)`", page):
        assert symbol in {q.name for q in NOTATION}


def test_the_first_steps_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of start.md runs, its loss conforms, and its mean over coordinates is answered as the page says."""
    loss, tensors = re.findall(r"```python\n(.*?)```", (DOCS / "start.md").read_text(), re.DOTALL)
    exec(compile(tensors, "start.md", "exec"), {})
    file = tmp_path / "test_my_losses.py"
    file.write_text(loss)
    assert main(["check", str(file), "--max-examples", "3"]) == 0
    file.write_text(loss.replace("flatten(1).sum(1)", "flatten(1).mean(1)"))
    assert main(["check", str(file), "--max-examples", "3"]) == 1
    answer = capsys.readouterr().out
    assert 'reduction="mean"' in (DOCS / "start.md").read_text()
    assert "reduction='mean'" in answer


def test_the_study_on_the_landing_page_is_the_notebooks() -> None:
    """Every number of a claim's row stands in the same claim's row of the notebook, whose numbers are computed."""

    def rows(page: str, heading: str) -> dict[str, str]:
        lines = page.partition(heading)[2].splitlines()
        cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
        return dict(cells)  # type: ignore[arg-type]

    seen = rows((ROOT / "notebooks" / "training.md").read_text(), "## What came out")
    told = rows((DOCS / "index.md").read_text(), "## Claims, put to the test")
    assert len(told) == 1 + 1 + 5
    for claim, words in list(told.items())[2:]:
        (whole,) = [row for name, row in seen.items() if name.replace("the clip", "PPO's clip") == claim]
        assert set(re.findall(r"\d+(?:\.\d+)?", words)) <= set(re.findall(r"\d+(?:\.\d+)?", whole)), claim


def test_notebooks_have_short_names_beside_the_pages() -> None:
    titles = site.short_titles()
    assert {n.stem for n in site.notebooks()} | {f"zh/{n.stem}" for n in site.chinese_notebooks()} <= set(titles)
    assert all(len(title) <= 20 for title in titles.values())


def test_the_example_is_the_readmes() -> None:
    assert "@gradcheck.conforms" in site.readme_example()
    assert "because    consistent with" in site.readme_example()


@given(st.text(st.sampled_from("ab *_`<>&$|#[]{}\\·ε(1)!"), min_size=1, max_size=30))
def test_prose_is_taken_literally(sentence: str) -> None:
    words = "w" + sentence.strip() + "w"  # the beginning of a line is a letter in every derivation
    rendered = MarkdownIt().renderInline(prose(words))
    assert html.unescape(re.sub(r"</?(p|em|strong|code)>", "", rendered)) == words
    assert "<em>" not in rendered
    assert "<strong>" not in rendered
    assert "<code>" not in rendered


def test_names_in_prose_are_typeset() -> None:
    assert prose("along v_theta − v_old") == r"along $v_\theta$ − $v_{\mathrm{old}}$"


def test_stale_pages_go_and_unchanged_ones_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "notebooks", list)
    monkeypatch.setattr(site, "chinese_notebooks", list)
    monkeypatch.setattr(site, "pictures", dict)
    monkeypatch.setattr(site, "pages", lambda: {"a.md": "one", "b/c.md": "two"})
    site.write(tmp_path)
    kept = tmp_path / "generated" / "a.md"
    os.utime(kept, (1, 1))
    monkeypatch.setattr(site, "pages", lambda: {"a.md": "one"})
    site.write(tmp_path)
    assert kept.stat().st_mtime == 1
    assert [p.name for p in (tmp_path / "generated").rglob("*")] == ["a.md"]


# ------------------------------------------------------------------------------------------------ the API's check


def test_a_name_without_a_docstring_is_reported() -> None:
    everything = set(api.homes(api.public_modules()).values())
    assert api.undocumented(everything) == []
    assert api.undocumented(everything - {"gradcheck.rounding.error_scale.error_scale"}) == [
        "gradcheck.rounding.error_scale.error_scale"
    ]


def test_every_public_name_is_described() -> None:
    """The build says the same; here it is said without one."""
    assert api.undescribed(api.public_modules()) == []


def test_a_name_that_is_not_described_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("said", "Kind", "BELOW", "BESIDE", "mute", "MUTE")
    (tmp_path / "silent_module.py").write_text(
        f'__all__ = {names}\n\n\ndef said():\n    "It is."\n\n\nclass Kind:\n    "Too."\n\n\nBELOW = 1\n"Told."\n'
        "BESIDE = 2  #: told\n\n\ndef mute():\n    pass\n\n\nMUTE = 3  # to whoever reads the source alone\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert api.undescribed([importlib.import_module("silent_module")]) == ["silent_module.mute", "silent_module.MUTE"]


def test_every_public_name_has_a_home() -> None:
    home = api.homes(api.public_modules())
    for name in gradcheck.__all__:
        assert home[f"gradcheck.{name}"].rpartition(".")[0] == getattr(gradcheck, name).__module__


def test_entries_for_several_names_are_split() -> None:
    lines = [
        "One line.",
        "",
        "Args:",
        "    a, b: both",
        "        of them",
        "    c: alone",
        "",
        "Raises:",
        "    x, y: z",
    ]
    api.tidy(None, "function", "f", None, None, lines)
    assert lines[3:8] == ["    a: both", "        of them", "    b: both", "        of them", "    c: alone"]
    assert lines[-1] == "    x, y: z"


# ------------------------------------------------------------------------------------------------- files of others


@pytest.mark.parametrize("path", sorted((DOCS / "_static").glob("*.*")), ids=lambda p: p.name)
def test_nothing_is_loaded_from_elsewhere(path: Path) -> None:
    assert not re.search(r"https?://(?!www\.w3\.org/)", path.read_text())


def test_what_one_may_rely_on_is_what_the_package_exports() -> None:
    page = (ROOT / "docs/public.md").read_text()
    assert set(re.findall(r"`gradcheck\.(\w+)`", page)) == set(gradcheck.__all__)
