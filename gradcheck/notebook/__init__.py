r"""What a notebook shows of a derivation: Markdown and LaTeX, from the object itself.

Each function returns a :class:`Shown`, which a notebook displays as Markdown and a terminal prints as plain text.
Texts hold only what is the same on every machine, so that two executions can be compared word by word: a test
ratio, which is made of rounding errors, is given as "below 1" or "below 4"; pictures show measured figures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import sympy as sp
import torch
from matplotlib.figure import Figure

from derivations.calculus import Mask
from derivations.claims import Claim, Equal
from derivations.derivation import Derivation, Step, Theorem, prove
from derivations.notation import NOTATION
from derivations.steps.sde import ReverseStep
from derivations.writing import render
from derivations.writing.torchgen import ordered_formulas
from gradcheck.catalogue import ALGORITHMS, Entry, entries, entry
from gradcheck.errors import InputError
from gradcheck.problems.building import Spec, build
from gradcheck.reports.style import PAGE_WIDTH, png
from gradcheck.rounding.bounds import THRESHOLD
from gradcheck.rounding.compare import compare, gradient_of, required_gradients
from gradcheck.verifying.steps import NumericStep
from gradcheck.verifying.verification import check_random

__all__ = [
    "Picture",
    "Shown",
    "by_hand",
    "chain",
    "closing_table",
    "formula",
    "one_problem",
    "proofs",
    "quantities",
    "random_problems",
    "refused",
    "reverse_step_formulas",
    "statement",
    "steps",
    "table",
    "variants",
]


@dataclass(frozen=True)
class Shown:
    """Something to read: Markdown for a page, plain text for a terminal."""

    markdown: str
    text: str

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Picture:
    """A figure to see, and its label, which says the same in words for those who cannot."""

    figure: Figure

    @property
    def words(self) -> str:
        """What the figure shows."""
        return str(self.figure.get_label())

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"image/png": png(self.figure), "text/plain": self.words}
        return data, {"image/png": {"width": PAGE_WIDTH, "alt": self.words}}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Shown:
    """A table; cells are Markdown."""
    lines = [list(header), *(list(row) for row in rows)]
    escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    escaped.insert(1, ["---"] * len(header))
    markdown = "\n".join("| " + " | ".join(line) + " |" for line in escaped)
    return Shown(markdown, "\n".join("  ".join(line) for line in lines))


def formula(expr: sp.Expr, name: str = "", *, of: Derivation | None = None) -> Shown:
    """One formula, displayed; ``name`` is LaTeX that stands before an equals sign."""
    before = f"{name} = " if name else ""
    return Shown(f"$$\n{before}{render.latex(expr, of=of)}\n$$", render.text(expr, of=of))


def _joined(*parts: Shown) -> Shown:
    return Shown("\n\n".join(p.markdown for p in parts), "\n".join(p.text for p in parts))


def _words(markdown: str) -> Shown:
    return Shown(markdown, markdown)


# --------------------------------------------------------------------------------------- what is claimed


def statement(derivation: Derivation) -> Shown:
    """The loss, and every symbol in it down to the given ones."""
    d = derivation
    formulas = ordered_formulas(d, d.loss, d.gradient)
    parts = [formula(d.loss, r"\mathcal{L}", of=d), _words("with")]
    parts += [formula(e, render.latex(s, of=d), of=d) for s, e in formulas if s in d.definitions]
    parts += [_mask(m, d) for m in sorted(d.gradient.atoms(Mask), key=str)]
    fixed = [formula(e, render.latex(s, of=d), of=d) for s, e in formulas if s in d.coefficients]
    if fixed:
        parts += [_words("and, with no gradient through them,"), *fixed]
    return _joined(*parts)


def _mask(mask: Mask, of: Derivation) -> Shown:
    rule = render.mask_rule(mask, plain=True, of=of)
    return Shown(f"In the gradient,\n\n$$\n{render.mask_rule(mask, plain=False, of=of)}\n$$", rule)


def steps(subject: Derivation | Theorem, *names: str) -> Shown:
    """Steps of a derivation or theorem in reading order, each proved anew; without names, all of them.

    Raises:
        InputError: there is no step of that name.
    """
    chosen = _chosen(subject, names)
    of = subject if isinstance(subject, Derivation) else None
    proof = prove(subject.name, chosen, subject.inliner)
    parts = []
    for number, (step, result) in enumerate(zip(chosen, proof.results, strict=True), 1):
        verdict = "✓ *proved*" if result.proved else f"✗ *refused; left over:* `{result.residual}`"
        body = render.claim_latex(step.claim, of=of)
        parts.append(
            Shown(
                f"**{number}. {step.name}.** {step.sentence} {verdict}\n\n$$\n{body}\n$$",
                f"{number}. {step.name}: {step.sentence} [{'proved' if result.proved else 'refused'}]\n"
                f"     {render.claim_text(step.claim, of=of)}",
            )
        )
    return _joined(*parts)


def chain(subject: Derivation | Theorem, *names: str) -> Shown:
    """Steps a = b, b = c, … as one: a = b = c; each is proved anew.

    Raises:
        InputError: there is no step of that name, or one is no equality that begins where the one before it ends.
    """
    by_name = {step.name: step for step in _chosen(subject, names)}
    links = tuple(by_name[name] for name in names)
    claims = [s.claim for s in links if isinstance(s.claim, Equal) and not (s.claim.where or s.claim.given)]
    if not claims or len(claims) < len(links) or any(a.rhs != b.lhs for a, b in pairwise(claims)):
        raise InputError(("names", ", ".join(names) or "none", "equalities that each begin where one ends"))
    of = subject if isinstance(subject, Derivation) else None
    refused = prove(subject.name, links, subject.inliner).refused
    verdict = "".join(f" ✗ *{r.step.name} refused; left over:* `{r.residual}`" for r in refused) or " ✓ *proved*"
    words = " ".join(step.sentence for step in links)
    members = [claims[0].lhs, *(claim.rhs for claim in claims)]
    aligned = " \\\\\n&= ".join(render.latex(m, of=of) for m in members).replace(" \\\\\n", "\n", 1)
    plain = "\n     = ".join(render.text(m, of=of) for m in members)
    return Shown(
        f"{words}{verdict}\n\n$$\n\\begin{{aligned}}\n{aligned}\n\\end{{aligned}}\n$$",
        f"{words} [{'refused' if refused else 'proved'}]\n     {plain}",
    )


def _chosen(subject: Derivation | Theorem, names: Sequence[str]) -> tuple[Step, ...]:
    available = _steps_of(subject)
    unknown = [n for n in names if n not in {s.name for s in available}]
    if unknown:
        raise InputError(("name", repr(unknown[0]), f"one of {', '.join(s.name for s in available)}"))
    return tuple(s for s in available if not names or s.name in names)


def _steps_of(subject: Derivation | Theorem) -> tuple[Step, ...]:
    return subject.all_steps if isinstance(subject, Derivation) else subject.steps


def refused(subject: Derivation | Theorem, name: str, **changed: sp.Expr) -> Shown:
    """What the prover says of a step whose claim was changed: a proof that cannot fail would prove nothing."""
    (step,) = _chosen(subject, (name,))
    claim: Claim = replace(step.claim, **changed)
    left = claim.residual(subject.inliner)
    verdict = "proved" if left == 0 else "refused"
    return _joined(
        Shown(f"$$\n{render.claim_latex(claim)}\n$$", render.claim_text(claim)),
        _words(f"**{verdict}**" + ("" if left == 0 else f"; left over, and not zero: `{left}`")),
    )


def quantities(*names: str) -> Shown:
    """Rows of the notation table."""
    rows = {q.name: q for q in NOTATION}
    shape = {"latent": "a latent", "sample": "one number a sample", "problem": "one number"}
    return table(
        ("symbol", "meaning", "what it is"),
        ((f"${rows[n].latex}$", rows[n].meaning, shape[rows[n].axes]) for n in names),
    )


def variants(name: str, shown: Literal["gradient", "target"] = "gradient") -> Shown:
    """Every variant of an algorithm, with its exact gradient or its target."""
    rows = []
    for e in entries(name):
        *_, gradient, target = render.closing_row(e.derivation, latex=True, exact=True)
        rows.append((f"`{e.variant}`", e.derivation.variant.summary, gradient if shown == "gradient" else target))
    return table(("variant", "what it is", shown), rows)


def closing_table() -> Shown:
    """The closing table, in LaTeX: every algorithm's paper form."""
    rows = []
    for algorithm in ALGORITHMS:
        d = entry(algorithm.name).derivation
        *names, quoted, target = render.closing_row(d, latex=True)
        *_, exact, _ = render.closing_row(d, latex=True, exact=True)
        rows.append((*names, exact if exact == quoted else f"{exact} {quoted}", target))
    return table(("method", "process", "policy", "gradient", "target"), rows)


def reverse_step_formulas(*chosen: ReverseStep, heading: bool = False) -> Shown:
    """Each step's mean as its source writes it, and the numbers behind its symbols."""
    parts = []
    for step in chosen:
        parts += [_words(f"**{step.title}**")] if heading else []
        parts += [formula(step.mean, r"\mu_\theta")]
        parts += [formula(e, render.latex(s)) for s, e in step.formulas.items()]
    return _joined(*parts)


# -------------------------------------------------------------------------------------- what was checked


def proofs(*subjects: Derivation | Theorem) -> Shown:
    """How many steps of each are proved, and how many hold on random numbers."""
    rows = []
    for subject in subjects:
        all_steps = _steps_of(subject)
        proved = sum(r.proved for r in subject.prove().results)
        numeric = [NumericStep.of(step, subject.definitions) for step in all_steps]
        held = sum(step.check(seed).holds for step in numeric for seed in range(3))
        label = subject.label if isinstance(subject, Derivation) else subject.name
        rows.append((label, subject.title, f"{proved} of {len(all_steps)}", f"{held} of {3 * len(all_steps)}"))
    return table(("", "statement", "steps proved, for every dimension D", "held on random numbers"), rows)


def by_hand(function: Callable[..., Any]) -> Shown:
    """A function's source: what autograd differentiates."""
    source = inspect.getsource(function)
    return Shown(f"```python\n{source.rstrip()}\n```", source)


def one_problem(chosen: Entry, seed: int = 0, coordinates: int = 3) -> Shown:
    """One random sample with few coordinates: autograd's gradient beside the derived one, in float64."""
    spec = Spec(1, (coordinates,), seed, policy="off", advantage="typical", time="middle", clip=0)
    case = build(chosen.derivation, spec)
    observed = gradient_of(chosen.loss(case), case.v_theta)
    required, scale, *_ = required_gradients(chosen.derivation, case, other_branch=False)
    found = compare(observed, required, scale, torch.float64)
    rows = [
        (str(i + 1), f"{float(a): .9f}", f"{float(b): .9f}", f"{float(s) * THRESHOLD * 2.0**-53:.0e}")
        for i, (a, b, s) in enumerate(zip(observed[0], required[0], scale[0], strict=True))
    ]
    header = ("coordinate", "autograd of the loss by hand", "derived gradient", "may differ by")
    return _joined(table(header, rows), _words(f"Largest test ratio: {_below(found.ratio)}."))


def random_problems(*chosen: Entry, examples: int = 20) -> Shown:
    """Random problems for each entry: the largest test ratio in either precision."""
    rows = []
    for one in chosen:
        checks = [check_random(one, dtype, "cpu", examples, 0) for dtype in ("float64", "float32")]
        problems = str(sum(c.examples for c in checks))
        verdict = "**fails**" if any(c.failure for c in checks) else "holds"
        rows.append((f"`{one.label}`", problems, *(_below(c.ratio) for c in checks), verdict))
    header = ("loss", "problems", "largest test ratio, float64", "float32", f"up to {THRESHOLD:g} passes")
    return table(header, rows)


def _below(ratio: float) -> str:
    """In words that rounding errors, which differ between machines, do not change."""
    for limit in (1.0, THRESHOLD):
        if ratio < limit:
            return f"below {limit:g}"
    return f"{ratio:.3g}"
