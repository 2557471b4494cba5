"""The pages that follow from the catalogue: one for each algorithm, and the closing table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import sympy as sp

from derivations.algorithm import Algorithm
from derivations.derivation import Derivation
from derivations.notation import NOTATION, quantity
from derivations.variant import Variant
from derivations.writing.render import closing_row, explain
from gradcheck.catalogue import CATALOGUE, Entry
from gradcheck.conventions import PRESETS
from gradcheck.plots import directions
from gradcheck_docs.slips import common, difference, implementation
from gradcheck_docs.text import Provable, code, prose, sections, slug, steps, table
from gradcheck_docs.words import IN_WORDS

__all__ = ["algorithm_page", "closing_page", "closing_table", "index_page", "page_name", "picture_name"]

_SHORT = "In short"
_QUOTED = "As it is quoted (≈ is exact on-policy alone)"
_DEFINED = {
    "Definitions": "where",
    "Coefficients, which no gradient reaches": "with coefficients, which no gradient reaches:",
}

_FEW = 3  # formulas that need no folding


class NotProvedError(RuntimeError):
    """A page would state what is not proved."""


def page_name(algorithm: str) -> str:
    """The page's file, without its ending."""
    return slug(algorithm)


def papers() -> tuple[Entry, ...]:
    """Each algorithm's paper form."""
    return tuple(e for e in CATALOGUE if e.variant == "paper")


def sources(e: Entry) -> tuple[str, str]:
    """The names of the modules that state and that compute an algorithm."""
    return e.algorithm.assemble.__module__, e.by_hand.__module__


def lead(algorithm: Algorithm) -> str:
    """What its module's docstring opens with, after the name, which is the page's title already."""
    line = (sys.modules[algorithm.assemble.__module__].__doc__ or "").splitlines()[0]
    words = line.partition(":")[2].strip()
    return prose(words[:1].upper() + words[1:])


def algorithm_page(paper: Entry, notebooks: Sequence[str] = ()) -> str:
    """Everything about one algorithm, from its derivations and its torch file.

    Args:
        paper: the entry of its paper's form.
        notebooks: documents to link to.

    Raises:
        NotProvedError: a step of a variant is refused.
    """
    algorithm, d = paper.algorithm, paper.derivation
    others = [replace(paper, variant=v.name) for v in algorithm.variants[1:]]
    number = _proved(paper)
    parts = [
        f"({slug(d.name)})=\n# {d.title}",
        f":::{{container}} lead\n{IN_WORDS.get(d.name) or lead(algorithm)}\n:::",
        *_picture(d),
        f"## From the loss to its target\n\n{_what(d)}",
        *_where_it_goes_wrong(d.name),
        f"## Step by step\n\n{_folded(f'{number} steps, proved for every dimension D', d)}",
        *_variants(others),
        f"## What an implementation declares\n\n{_conventions(algorithm)}",
        f"## Symbols\n\n{_quantities(d)}",
        f"## In code\n\n{_code(paper, notebooks)}",
        f"## Reference\n\n{code(d.reference, 'bibtex')}",
    ]
    return "\n\n".join(parts) + "\n"


def picture_name(algorithm: str) -> str:
    """The file of an algorithm's picture, below ``generated/``."""
    return f"pictures/{slug(algorithm)}.png"


def _picture(d: Derivation) -> list[str]:
    words = directions.IN_WORDS.get(d.name)
    if words is None:
        return []
    words = words.format(v_old="v_old", v_gt="v_gt")
    return [f"![{d.title} pulls {words}](../{picture_name(d.name)}){{.of-one}}"]


def _what(d: Derivation) -> str:
    """The loss, its gradient and target, and what their symbols stand for."""
    of = sections(explain(d, latex=True))
    loss, short = of["Loss, to be minimised"], of[_SHORT]
    if _QUOTED in of:
        short += f"\n\nAs it is quoted; ≈ holds near v_θ = v_old:\n\n{of[_QUOTED]}"
    defined = "\n\n".join(f"{_DEFINED[heading]}\n\n{of[heading]}" for heading in _DEFINED if heading in of)
    if defined.count("$$") > 2 * _FEW:
        defined = f"::::{{dropdown}} What it is made of\n{defined}\n::::"
    kind = f"It is a loss of the {d.process} process, {d.policy}-policy; its name in gradcheck is `{d.name}`."
    return "\n\n".join(
        (
            f":::{{container}} result\nThe loss, to be minimised, for one sample:\n\n{loss}\n\n"
            f"It pulls {symbol(d.output)} to its target, as hard as its weight says:\n\n{short}\n:::",
            *filter(None, (defined,)),
            kind,
        )
    )


def symbol(of: sp.Symbol) -> str:
    """A symbol, typeset."""
    return f"${quantity(str(of.name)).latex}$"


def _where_it_goes_wrong(name: str) -> list[str]:
    """The commonest mistakes, each with its two lines."""
    slips = common(name)
    if not slips:
        return []
    shown = [f"**{s.title}.** {s.says}\n\n{difference(s)}" for s in slips]
    whole = []
    for of in dict.fromkeys(s.of for s in slips):
        form = of.partition(", ")[2]
        title = "The whole function" + (f", {form}" if form else "")
        whole.append(f"::::{{dropdown}} {title}\n{code(implementation(of))}\n::::")
    return [
        "## Where it goes wrong\n\nNone of these crashes. With the line marked − the loss is refused, with the line "
        "marked + it conforms; a test runs both. [More, from public code](../bugs.md).",
        *shown,
        *whole,
    ]


def _proved(e: Entry) -> int:
    """How many steps a derivation has, all of which were just proved."""
    proof = e.derivation.prove()
    if not proof.holds:
        names = ", ".join(r.step.name for r in proof.refused)
        raise NotProvedError(f"{e.label}: refused: {names}; `gradcheck verify {e.label}` says what is left")
    return len(proof.results)


def _folded(title: str, d: Derivation) -> str:
    """Every step of a derivation, folded."""
    return f"::::{{dropdown}} {title}\n{steps(d.label, Provable(d.all_steps, d))}\n::::"


def _variants(others: Sequence[Entry]) -> list[str]:
    """One table, and each variant's loss, target and steps, folded."""
    if not others:
        return []
    rows = [(f"[{e.variant}](#{slug(e.label)})", prose(e.derivation.variant.summary), _options(e)) for e in others]
    parts = ["## Variants\n\n" + table(("variant", "what it is", "declared by"), rows)]
    for e in others:
        number, d = _proved(e), e.derivation
        of = sections(explain(d, latex=True))
        inside = [
            f"{prose(d.variant.summary[:1].upper() + d.variant.summary[1:])}.",
            of["Loss, to be minimised"],
            f":::{{container}} result\n{of[_SHORT]}\n:::",
            *(f"{words}\n\n{of[heading]}" for heading, words in _DEFINED.items() if heading in of),
            f"{number} steps, proved:",
            steps(d.label, Provable(d.all_steps, d)),
        ]
        body = "\n\n".join(inside)
        parts.append(f"({slug(e.label)})=\n::::{{dropdown}} {e.variant}: loss, target and steps\n{body}\n::::")
    return parts


def _options(e: Entry) -> str:
    variant: Variant = e.derivation.variant
    return ", ".join(f"`{k}={v!r}`" for k, v in variant.options.items()) or "–"


def _conventions(algorithm: Algorithm) -> str:
    rows = [
        (f"`{name}`", f"`{values[0]!r}`", ", ".join(f"`{v!r}`" for v in values[1:]))
        for name, values in algorithm.options.items()
    ]
    out = [
        "The defaults are the paper's. [The oracle's guide](../../oracle.md) says what each means, and which more "
        "there are for every algorithm.",
        table(("option", "default", "or"), rows),
    ]
    presets = [
        (f"`{name}`", ", ".join(f"`{k}={v!r}`" for k, v in p.items() if k != "algorithm"))
        for name, p in PRESETS.items()
        if p["algorithm"] == algorithm.name
    ]
    if presets:
        out += ["Presets, the public official implementations:", table(("preset", "declares"), presets)]
    return "\n\n".join(out)


_AXES = {"latent": "(B, \\*latent)", "sample": "(B,)", "problem": "one number"}


def quantity_row(name: str) -> tuple[str, str, str, str]:
    """Symbol, name, shape, meaning."""
    row = quantity(name)
    return f"${row.latex}$", f"`{row.name}`", _AXES[row.axes], prose(row.meaning)


def _quantities(d: Derivation) -> str:
    header = ("symbol", "name in code", "shape", "meaning")
    given = table(header, map(quantity_row, d.given))
    defined = [name for name in d.defined if name not in d.given]
    follows = f"\n\nWhat follows from it:\n\n{table(header, map(quantity_row, defined))}" if defined else ""
    return f"A case of the paper's form, which `gradcheck fields {d.name}` shows too, has, given:\n\n{given}{follows}"


def _code(e: Entry, notebooks: Sequence[str]) -> str:
    name, (symbolic, numeric) = e.algorithm.name, sources(e)
    lines = [
        f"* [{_path(symbolic)}](../sources/{source_name(symbolic)}.md): the loss as a formula, its gradient, target "
        "and steps (SymPy)",
        f"* [{_path(numeric)}](../sources/{source_name(numeric)}.md): the same loss by hand in torch; shares no code "
        "with the other",
        *(f"* [](../{document}) works with it" for document in notebooks),
    ]
    shell = f"gradcheck explain {name}   # this derivation, in the terminal\ngradcheck verify {name}"
    return "\n".join(lines) + "\n\n" + code(shell, "sh")


def _path(module: str) -> str:
    return f"`{module.replace('.', '/')}.py`"


def source_name(module: str) -> str:
    """The page that shows a module's source."""
    return module.replace(".", "-")


def source_page(module: str, root: str) -> str:
    """A page with one module's source, ``root`` being the way from it to the repository."""
    path = module.replace(".", "/") + ".py"
    return f"# {_path(module)}\n\n```{{literalinclude}} {root}/{path}\n:language: python\n:linenos:\n```\n"


def index_page() -> str:
    """What the algorithms' pages are, and the list of them."""
    rows = [
        (f"[{a.title}]({page_name(a.name)}.md)", lead(a), ", ".join(f"`{v.name}`" for v in a.variants))
        for a in (paper.algorithm for paper in papers())
    ]
    listed = "\n".join(page_name(paper.algorithm.name) for paper in papers())
    return (
        "# Algorithms\n\nOne page for each loss: what it does and for whom, where it pulls, where it goes wrong, every "
        "step of its derivation, and what implementations may do differently.\n\n"
        + table(("algorithm", "what it is", "forms"), rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    )


def closing_table(every: bool = False, link: str = "algorithms/", brief: bool = False) -> str:
    """Method, process, policy, gradient, target; with ``every``, the variants too, in their exact forms.

    With ``brief`` it has no policies, so that it is no wider than a page.
    """
    rows = []
    for e in CATALOGUE if every else papers():
        d = e.derivation
        _, process, policy, gradient, target = closing_row(d, latex=True, exact=every)
        _, _, _, exact, _ = closing_row(d, latex=True, exact=True)
        words, place = (d.title, "") if e.variant == "paper" else (e.variant, f"#{slug(d.label)}")
        rows.append(
            (
                f"[{words}]({link}{page_name(d.name)}.md{place})",
                process,
                *(() if brief else (policy,)),
                f"{exact}<br>{gradient}" if r"\approx" in gradient else gradient,
                target,
            )
        )
    velocity = quantity("v_theta").latex
    policy_heading = () if brief else ("policy",)
    return table(("method", "process", *policy_heading, f"gradient in ${velocity}$", "target"), rows)


_IN_THE_TABLE = ("noise", "advantage", "delta", "k", "ratio", "preference", "weight_max", "C1", "C2")


def closing_page() -> str:
    """The closing table, as it is quoted and exactly."""
    return "\n\n".join(
        (
            "# What each loss really optimises",
            "Each row is read off its derivation. *Forward* means that the loss noises the finished sample anew, "
            "*backward* that it uses the states of the sampling path. ≈ holds near v_θ = v_old; the line above it "
            "holds always.",
            closing_table(),
            table(("symbol", "name in code", "shape", "meaning"), map(quantity_row, _IN_THE_TABLE))
            + "\n\nGRPO-Guard's ratio has its bias removed. *m* is PPO's clip mask, Flow-DPPO's of its divergence; "
            "*q* is the probability with which the model ranks a pair or group wrongly. All other symbols are in "
            "[the notation table](notation.md).",
            "## Every variant, exactly",
            closing_table(every=True, brief=True),
        )
    )


def notation_page() -> str:
    """The notation table."""
    rows = [(*quantity_row(q.name), f"`{q.domain}`") for q in NOTATION]
    return "\n\n".join(
        (
            "# Notation",
            "Every symbol, tensor, report and page takes its names from this table. Time runs from 1 (noise) to 0 "
            "(data), and sampling goes down. A latent is one sample; B is the batch. Everything is dimensionless: "
            "latents are normalised, and time is a fraction.",
            table(("symbol", "name in code", "shape", "meaning", "values"), rows),
        )
    )
