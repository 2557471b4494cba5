"""Pieces of Markdown that every generated page is made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from derivations.derivation import Derivation, Step, Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.notation import NOTATION
from derivations.steps.paths import PARAMETERISATIONS
from derivations.steps.sde import REVERSE_STEPS
from derivations.theorems import THEOREMS as ON_AVERAGE
from derivations.writing.render import claim_latex
from gradcheck.catalogue import CATALOGUE

THEOREMS: tuple[Theorem, ...] = (
    *LEMMAS,
    *(s.theorem for s in REVERSE_STEPS),
    *IDENTITIES,
    *PARAMETERISATIONS,
    *ON_AVERAGE,
)

_names = sorted((q.name for q in NOTATION if "_" in q.name), key=len, reverse=True)
_NAME = re.compile(rf"(?<![\w`])({'|'.join(_names)})(?![\w`])")
_LATEX = {q.name: q.latex for q in NOTATION}


@dataclass(frozen=True)
class Provable:
    """What a label stands for: a derivation or a theorem, and its steps in reading order."""

    steps: tuple[Step, ...]
    derivation: Derivation | None


def provable(label: str) -> Provable:
    """The derivation (``flow_grpo``, ``flow_grpo[mean]``) or theorem (``L1``, ``sde-flow``, ``ema``) of that label.

    Raises:
        KeyError: there is none.
    """
    for theorem in THEOREMS:
        if theorem.name == label:
            return Provable(theorem.steps, None)
    for entry in CATALOGUE:
        if entry.label == label:
            return Provable(entry.derivation.all_steps, entry.derivation)
    raise KeyError(label)


def slug(label: str) -> str:
    """A label as a part of a link: ``flow_grpo[kl-sigma]`` becomes ``flow-grpo-kl-sigma``."""
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def anchor(label: str, step: str) -> str:
    """The target of one step."""
    return f"step-{slug(label)}-{slug(step)}"


def prose(sentence: str) -> str:
    """A derivation's sentence as Markdown: names of the notation table typeset, the rest taken literally."""
    pieces = _NAME.split(sentence)
    return "".join(
        f"${_LATEX[piece]}$" if i % 2 else re.sub(r"([\\`*_{}\[\]<>$|#])", r"\\\1", piece)
        for i, piece in enumerate(pieces)
    )


def display(formula: str) -> str:
    """A formula on lines of its own."""
    return f"$$\n{formula}\n$$"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells are Markdown, with their bars escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(source: str, language: str = "python") -> str:
    """A block of code."""
    return f"```{language}\n{source.rstrip()}\n```"


def steps(label: str, of: Provable) -> str:
    """Every step with its number, name, sentence and formula, each a target for links."""
    blocks = []
    for number, step in enumerate(of.steps, 1):
        head = f"[{number}]{{.number}} **{step.name}** · {prose(step.sentence)}"
        formula = display(claim_latex(step.claim, of=of.derivation))
        blocks.append(f":::{{container}} step\n({anchor(label, step.name)})=\n{head}\n\n{formula}\n:::")
    return "\n\n".join(blocks)


def sections(page: str) -> dict[str, str]:
    """A page of :func:`derivations.writing.render.explain` as heading → body."""
    parts = re.split(r"^## (.*)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (body.strip() for body in parts[2::2]), strict=True))
