"""A page of words, formulas and tables: Markdown, or plain text of a given width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import sympy as sp

from derivations.claims import (
    Claim,
)
from derivations.derivation import Step
from derivations.notation import (
    v_theta,
)
from derivations.writing.latex_writer import LatexWriter
from derivations.writing.symbols import SIGNS, Letter
from derivations.writing.wrapping import spelled, wrap_formula, wrap_words
from derivations.writing.writers import Writer

__all__ = ["Page"]


class Page:
    """Collects lines, as Markdown for a LaTeX writer and indented for a plain one."""

    def __init__(
        self, writer: Writer, output: sp.Symbol = v_theta, width: int | None = None, ascii_only: bool = False
    ) -> None:
        self.writer, self.width, self.ascii_only = writer, width, ascii_only
        self.markdown = isinstance(writer, LatexWriter)
        self.lines: list[str] = []
        self.loss = r"\mathcal{L}" if self.markdown else "L"
        name = writer.write(output)
        self.nabla = rf"\nabla_{{{name}}}" if self.markdown else "∇" if output == v_theta else f"∇_{name} "

    def word(self, word: str) -> str:
        return rf"\text{{{word}}}" if self.markdown else word

    def title(self, heading: str, summary: str = "") -> None:
        if self.markdown:
            self.lines.append(f"# {heading}")
        else:
            self.words(heading)
        if summary:
            self.line(summary[0].upper() + summary[1:] + ".")

    def line(self, words: str) -> None:
        if self.markdown:
            self.lines += ["", words]
        else:
            self.words(words)

    def words(self, words: str, first: str = "") -> None:
        """Prose in plain text."""
        words = spelled(words) if self.ascii_only else words
        first += " " * (len(words) - len(words.lstrip()))
        words = words.lstrip()
        self.lines += [first + words] if self.width is None else wrap_words(words, self.width, first)

    def letters(self, letters: Sequence[Letter], masked: bool) -> None:
        """What each letter stands for."""
        w = self.writer
        if not letters:
            return
        self.section("What the letters stand for")
        if self.markdown:
            self.lines += ["", "| symbol | name in code | shape | meaning |", "| --- | --- | --- | --- |"]
            self.lines += [
                f"| ${w.write(x.symbol)}$ | {f'`{x.name}`' if x.name else ''} | {x.shape} | {x.meaning} |".replace(
                    "*", r"\*"
                )
                for x in letters
            ]
            return
        shown = [(w.write(x.symbol), x.name, x.shape, x.meaning) for x in letters]
        shown += [("m", "", "(B,)", "1 where the clip lets the gradient through, else 0; see below")] if masked else []
        shown += [(sign, "", "", meaning) for sign, meaning in SIGNS]
        self.table(shown)

    def table(self, rows: Sequence[tuple[str, str, str, str]]) -> None:
        cells = [tuple(spelled(c) if self.ascii_only else c for c in row) for row in rows]
        sizes = [max(len(row[i]) for row in cells) for i in range(3)]
        for *heads, meaning in cells:
            head = "  " + "  ".join(f"{c:{n}}" for c, n in zip(heads, sizes, strict=True)) + "  "
            narrow = self.width is not None and len(head) > self.width - 30
            if self.width is None:
                self.lines.append(head + meaning)
            elif narrow:
                self.lines.append(head.rstrip())
                self.lines += wrap_words(meaning, self.width, " " * 6)
            else:
                self.lines += wrap_words(meaning, self.width, head)

    def section(self, heading: str) -> None:
        self.lines += ["", f"## {heading}" if self.markdown else heading]

    def formula(self, body: str, indent: int = 2) -> None:
        if self.markdown:
            self.lines += ["", "$$", body, "$$"]
            return
        body = spelled(body) if self.ascii_only else body
        margin = " " * indent
        self.lines += [margin + body] if self.width is None else wrap_formula(body, self.width, margin)

    def formulas(self, bodies: Iterable[str]) -> None:
        for body in bodies:
            self.formula(body)

    def steps(self, steps: Sequence[Step], write: Callable[[Claim, Writer], str]) -> None:
        """Each with its claim, as ``write`` writes it."""
        self.section("Steps, each machine-checked")
        for i, step in enumerate(steps, 1):
            if self.markdown:
                self.line(f"{i}. **{step.name}.** {step.sentence}")
            else:
                self.words(f"{step.name}: {step.sentence}", f"{i:3}. ")
            self.formula(write(step.claim, self.writer), indent=7)

    def reference(self, bibtex: str) -> None:
        if bibtex:
            self.section("Reference")
            self.lines += (
                ["", "```bibtex", bibtex, "```"]
                if self.markdown
                else [line for row in bibtex.splitlines() for line in self._bibtex(row)]
            )

    def _bibtex(self, row: str) -> list[str]:
        margin = "  " + " " * (len(row) - len(row.lstrip()))
        row = spelled(row) if self.ascii_only else row
        return [f"  {row}"] if self.width is None else wrap_words(row.lstrip(), self.width, margin, margin + "  ")

    def end(self) -> str:
        return "\n".join(self.lines) + "\n"
