"""The pages of what is no loss: lemmas, reverse steps, identities, and where the article reads differently."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from derivations.derivation import Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.steps.paths import PARAMETERISATIONS
from derivations.steps.sde import REVERSE_STEPS
from derivations.theorems import THEOREMS
from derivations.theorems.expectations import GaussianTheorem
from derivations.writing.render import claim_latex, latex, theorem_explain
from gradcheck.catalogue import ALGORITHMS, entry
from gradcheck_docs.algorithms import NotProvedError, page_name
from gradcheck_docs.text import Provable, anchor, code, display, prose, provable, sections, slug, steps

__all__ = [
    "ERRATA",
    "Erratum",
    "article_steps",
    "averages_page",
    "differences_page",
    "identities_page",
    "lemmas_page",
    "predictions_page",
    "sde_page",
]


def _theorem(theorem: Theorem, opening: str = "") -> str:
    proof = theorem.prove()
    if not proof.holds:
        names = ", ".join(r.step.name for r in proof.refused)
        raise NotProvedError(f"{theorem.name}: refused: {names}")
    of = sections(theorem_explain(theorem, latex=True))
    parts = [f"({slug(theorem.name)})=\n## {prose(theorem.title)}", f"`{theorem.name}`, {len(proof.results)} steps"]
    if opening:
        parts.append(opening)
    if "Definitions" in of:
        parts.append(f":::{{dropdown}} Definitions\n{of['Definitions']}\n:::")
    if isinstance(theorem, GaussianTheorem):
        parts.append(f":::{{admonition}} What to do with it\n:class: tip\n{prose(theorem.advice)}\n:::")
    parts.append(steps(theorem.name, Provable(theorem.steps, None)))
    if isinstance(theorem, GaussianTheorem):
        listed = "\n".join(f"* {prose(sentence)}" for sentence in theorem.assumes)
        parts.append(f":::{{dropdown}} Assumed, and not proved here\n{listed}\n:::")
    if theorem.reference:
        parts.append(code(theorem.reference, "bibtex"))
    return "\n\n".join(parts)


def lemmas_page() -> str:
    """The lemmas, proved."""
    opening = (
        "# The lemmas\n\nEvery derivation rests on these. Inner products are opaque, bilinear and symmetric, so that "
        "each identity holds in every dimension; a gradient is proved from its definition along an arbitrary direction."
    )
    return "\n\n".join((opening, *map(_theorem, LEMMAS))) + "\n"


def sde_page() -> str:
    """The reverse steps: their means, their coefficients, and what is proved of them."""
    opening = (
        "# Reverse steps\n\nEach samples from a Gaussian whose mean is affine in the velocity. What a loss needs of it "
        "is the slope and the standard deviation, so one lemma serves all of them."
    )
    parts = [opening]
    for step in REVERSE_STEPS:
        formulas = [display(f"{latex(symbol)} = {latex(formula)}") for symbol, formula in step.formulas.items()]
        mean = display(rf"\mu = {latex(step.mean)}")
        parts.append(
            _theorem(step.theorem, "\n\n".join(("The mean, as the source writes it:", mean, "Its parts:", *formulas)))
        )
    return "\n\n".join(parts) + "\n"


def identities_page() -> str:
    """What the losses share besides the lemmas."""
    opening = (
        "# Identities\n\nThe noised latent, the advantage, the log-density written out, the optimality probability and "
        "the moving average."
    )
    return "\n\n".join((opening, *map(_theorem, IDENTITIES))) + "\n"


def predictions_page() -> str:
    """What a network may predict, and the other direction of time."""
    opening = (
        "# Predictions and times\n\nEach prediction is affine in every other one, and time may run either way; "
        "[Noise or data predictions](../parameterisations.md) says what becomes of a loss."
    )
    return "\n\n".join((opening, *map(_theorem, PARAMETERISATIONS))) + "\n"


def averages_page() -> str:
    """What the losses do on average over Gaussian noise."""
    opening = (
        "# On average\n\nA loss's gradient is one draw. These theorems say what it is on average over the noise "
        "ε ~ N(0, I), for every dimension D. Each rests on three rules: an exponential of ⟨b, ε⟩ shifts the noise "
        "by b, products of ⟨a, ε⟩ and ‖ε‖² pair off (Wick), and ⟨b, ε⟩ is Gaussian with variance ‖b‖². Anything else "
        "that a "
        "theorem needs stands at its end."
    )
    picture = (
        "![Eight panels. Flow-GRPO's value slope over the noising's grows with t for η below √2 and is 1 there. The "
        "plain "
        "ratio's mean is 1, the guarded one's grows. A k ε is off in length by κ and in direction by κ over the root "
        "of D. "
        "A clip of 1e-4 cuts from below at κ of 2 to 6 and never from above. Off-policy variance grows as exp κ². "
        "Group "
        "normalisation weighs rare successes and failures. Guidance w multiplies a step by w² + (1 − w)². "
        "DiffusionNFT's "
        "inner steps reach the target at aβ² = 1/2 and diverge above 1.](../assets/averages.png)"
    )
    numbers = (
        "For your own numbers: `gradcheck explain clip --D 65536 --clip 1e-4`, `gradcheck explain schedule "
        "--noise-level "
        "0.7`, `gradcheck explain group --group-size 8`, `gradcheck explain baseline --D 65536`, `gradcheck explain "
        "nft "
        "--rate 0.3 --decay 0.9` and `gradcheck explain guidance --scale 4.5`. `make montecarlo` draws each statement "
        "about a mean on random problems."
    )
    return "\n\n".join((opening, picture, numbers, *map(_theorem, THEOREMS))) + "\n"


@dataclass(frozen=True)
class Erratum:
    """One difference: what it is about, and the steps that derive it."""

    title: str
    label: str
    steps: Sequence[str]


ERRATA = (
    Erratum("The sign of the Flow-GRPO objective", "flow_grpo", ("objective-sign",)),
    Erratum("A factor 2 in Flow-GRPO's sg-MSE", "flow_grpo", ("article-factor", "article-factor-mended")),
    Erratum("β² for 2β² in DiffusionNFT's equivalent loss", "diffusion_nft", ("article-factor",)),
    Erratum("The first log-probability", "flow_grpo", ("article-mean", "article-variance")),
    Erratum("The normaliser of the log-probability", "article", ("normaliser-of-D-coordinates",)),
)
"""What the article prints otherwise than it is proved."""


def article_steps() -> set[tuple[str, str]]:
    """Every proved step that speaks of the article, in the papers' own forms."""
    return {
        (algorithm.name, step.name)
        for algorithm in ALGORITHMS
        for step in entry(algorithm.name).derivation.all_steps
        if step.name.startswith("article-") or "The article" in step.sentence
    }


def differences_page(qualified: Iterable[tuple[str, str]]) -> str:
    """Where the article differs from what is proved here.

    Args:
        qualified: its remarks that hold within limits, each with its links.
    """
    parts = [
        "# Differences from the article",
        "The article [“揭开loss看梯度”](https://zhuanlan.zhihu.com/p/1995493539912623296) (王峰, 2026) started this "
        "project: its method is the one used here, and its closing table is right in every target. Five of its "
        "formulas differ from what is proved, in a sign or a factor. None of them changes a conclusion: the article "
        "asks for directions, and says that it leaves constants out. You need them, though, if you copy a formula into "
        "code. Each statement below is a machine-checked step.",
    ]
    named = {algorithm.name: algorithm for algorithm in ALGORITHMS}
    for number, erratum in enumerate(ERRATA, 1):
        parts.append(f"## {number}. {erratum.title}")
        of = provable(erratum.label)
        for name in erratum.steps:
            step = next(s for s in of.steps if s.name == name)
            parts += [prose(step.sentence), display(claim_latex(step.claim, of=of.derivation))]
        links = ", ".join(f"[`{name}`](#{anchor(erratum.label, name)})" for name in erratum.steps)
        found = named.get(erratum.label)
        where = f"[{found.title}](algorithms/{page_name(found.name)}.md)" if found else "[On average](averages.md)"
        parts.append(f"Proved in {where}: {links}.")
    parts += [
        "## Remarks that hold within limits",
        "These are right where the article needs them. The linked steps say how far they reach.",
        "\n".join(f"* {says} {links}" for says, links in qualified),
    ]
    return "\n\n".join(parts) + "\n"
