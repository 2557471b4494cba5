"""Findings for people: plain text for terminals, Markdown and LaTeX for notebooks and papers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import sympy as sp

from derivations.calculus import Mask, Norm2, Surrogate
from derivations.derivation import Proof, Step
from derivations.grammar.kinks import shown
from derivations.notation import v_theta
from derivations.writing import render
from derivations.writing.torchgen import ordered_formulas
from gradcheck.derived.masks import mask_lines, mask_names
from gradcheck.deriving.checking import Checked
from gradcheck.deriving.matching import Match
from gradcheck.rounding.bounds import THRESHOLD

if TYPE_CHECKING:
    from gradcheck.deriving.result import Derived

__all__ = ["latex_block", "markdown", "masks", "plain", "shortened"]

EXACT = {
    "value": "equal to the loss in value, up to a constant free of v_θ, and so in every derivative",
    "hessian": "equal in gradient and Hessian, detached factors held",
    "gradient": "equal in gradient (lemma L1)",
}


def masks(derived: Derived) -> dict[sp.Expr, sp.Symbol]:
    """Names for the clip masks in the gradient: m, or m_1, m_2 … where there are several."""
    return mask_names(derived.gradient)


class _Page:
    """Writes a derivation's formulas in one dialect, its masks by name."""

    def __init__(self, derived: Derived, dialect: Callable[..., str]) -> None:
        self.derived, self.dialect = derived, dialect
        self.masks = masks(derived) if len(derived.gradient.atoms(Mask)) > 1 else {}

    def __call__(self, expr: sp.Expr) -> str:
        return self.dialect(shown(expr.xreplace(self.masks)), of=self.derived.derivation)

    def definitions(self, own: bool) -> list[str]:
        """Formulas behind the loss and the findings: the user's own, or the notation's."""
        d = self.derived.derivation
        formulas = ordered_formulas(d, d.loss, d.gradient, d.weight, d.target)
        return [f"{self(s)} = {self(e)}" for s, e in formulas if (s.name in self.derived.statement.own) == own]

    @property
    def mask_lines(self) -> list[str]:
        return mask_lines(masks(self.derived), self, self.dialect is render.text)

    def step(self, step: Step) -> Step:
        """A step with the masks named and plain minima written."""
        claim = step.claim
        changed = {
            f.name: shown(value.xreplace(self.masks))
            for f in fields(claim)
            if isinstance(value := getattr(claim, f.name), sp.Expr) and value.has(Mask, Surrogate)
        }
        return replace(step, claim=replace(claim, **changed))


def plain(derived: Derived) -> str:
    """The findings in plain text."""
    page = _Page(derived, render.text)
    form, d = derived.form, derived.derivation
    lines = [f"L = {page(d.loss)}", f"    {derived.process} process; to be minimised"]
    for whose, own in (("you define", True), ("the notation has it", False)):
        formulas = page.definitions(own)
        lines += [f"    as {whose}:", *(f"      {line}" for line in formulas)] if formulas else []
    lines += [f"    {line}" for line in page.mask_lines]
    lines += ["", "Gradient", f"    ∇L = {page(d.gradient)}"]
    optimisation, trust = derived.optimisation, derived.trust_region
    lines.append(f"    optimisation direction  {page(optimisation) if optimisation != 0 else 'none'}")
    lines.append(f"    trust region            {page(trust) if trust != 0 else 'none'}")
    if any(x.trust and not x.coefficient.is_nonnegative for x in form.terms):
        lines.append("                            (where its coefficient is negative it pushes v_θ away instead)")
    quoted = _quoted(derived)
    if quoted is not None:
        lines.append(f"    on-policy               ∇L ≈ {page(quoted)} + O(‖δ‖), exactly so at v_θ = v_old")
    lines += ["", f"Equivalent loss, {EXACT[derived.exact]}"]
    detached = derived.exact != "value"
    lines.append(f"    L ≙ weight · ‖v_θ − {'sg(target)' if detached else 'target'}‖²")
    lines.append(f"    weight  {page(d.weight)}")
    lines.append(f"    target  {page(d.target)}")
    lines.append(f"            {_motion(derived)}")
    if form.squared and form.constant is not None and form.constant != 0:
        lines.append(f"    L − weight · ‖v_θ − target‖² = {page(form.constant)}")
    if form.quadratic and not form.squared and form.constant is not None:
        square = f"{page(form.own_weight * Norm2(v_theta - form.centre))}"
        constant = f" + {page(form.constant)}" if form.constant != 0 else ""
        lines += ["", "In value", f"    L = {square}{constant}", f"    {_signed(derived, page)}"]
    lines += _output_lines(derived)
    lines += ["", f"Catalogue   {_catalogue(derived)}", f"Proved      {_proved(derived.proof)}"]
    lines += [f"{'Checked' if i == 0 else '':11} {_checked(c)}" for i, c in enumerate(derived.checks)]
    if not derived.holds:
        lines += ["", "NOT VERIFIED: do not rely on the formulas above."]
    return "\n".join(lines)


def _output_lines(derived: Derived) -> list[str]:
    """What the network that puts out something else than the velocity is told."""
    if derived.output is None:
        return []
    d = derived.output.derivation
    named, name = masks(derived), render.text(d.output)

    def written(expr: sp.Expr) -> str:
        return render.text(shown(expr.xreplace(named)), of=d)

    return [
        "",
        f"In {name}, which the network puts out",
        f"    ∇L      {written(d.gradient)}",
        f"    weight  {written(d.weight)}",
        f"    target  {written(d.target)}",
        f"    proved  {_proved(derived.output.proof)}",
        f"    checked {_checked(derived.output.check)}",
    ]


def _output_markdown(derived: Derived) -> list[str]:
    if derived.output is None:
        return []
    d = derived.output.derivation
    named, name = masks(derived), render.latex(d.output)

    def written(expr: sp.Expr) -> str:
        return render.latex(shown(expr.xreplace(named)), of=d)

    rows = (
        rf"\nabla_{{{name}}}\mathcal{{L}} = {written(d.gradient)}",
        rf"\text{{weight}} = {written(d.weight)} \qquad \text{{target}} = {written(d.target)}",
    )
    out = ["", f"### In ${name}$, which the network puts out"]
    for row in rows:
        out += ["", "$$", row, "$$"]
    return [*out, "", f"Proved: {_proved(derived.output.proof)}.", "", f"Checked: {_checked(derived.output.check)}."]


def _quoted(derived: Derived) -> sp.Expr | None:
    d = derived.derivation
    return d.brief_gradient if any(step.name == "on-policy" for step in d.after) else None


def _motion(derived: Derived) -> str:
    if derived.form.fixed:
        return "a fixed point: it does not depend on v_θ"
    if derived.form.squared:
        return "a fixed point while the detached factors, which depend on v_θ, are held"
    return "it moves with v_θ"


def _signed(derived: Derived, page: _Page) -> str:
    weight = page(derived.form.own_weight) if derived.form.own_weight is not None else ""
    return f"where {weight} > 0 that point attracts v_θ, where it is negative it repels v_θ"


def _catalogue(derived: Derived) -> str:
    if not derived.matches:
        return "no entry is proved to have this gradient"
    return "\n            ".join(map(_match, derived.matches)) + "\n            (the difference is proved to be 0)"


def _match(match: Match) -> str:
    same = "gradient, weight and target" if match.same_target else "gradient"
    times = "" if match.factor == 1 else f"{render.text(match.factor)} times "
    what = f"{match.label}: {times}its {same}" if times else f"{match.label}: the same {same}"
    bounds = f", clip range ({', '.join(map(render.text, match.clip))})" if match.clip else ""
    where = f", with its formulas for {', '.join(match.step)}" if match.step else ""
    sign = " (an objective, to be maximised?)" if match.factor == -1 else ""
    return f"{what}{bounds}{where}{sign}"


def shortened(expr: sp.Expr | str, longest: int = 300) -> str:
    """What is left of a refused step, or the reason, as text; only the beginning of a long one."""
    body = str(expr)
    return body if len(body) <= longest else f"{body[:longest]} … ({len(body)} characters)"


def _proved(proof: Proof) -> str:
    results = proof.results
    good = ", ".join(r.step.name for r in results if r.proved)
    out = f"{sum(r.proved for r in results)} of {len(results)} steps, for every D: {good}"
    for r in proof.refused:
        out += f"\n            NOT PROVED: {r.step.name}; {shortened(r.reason)}"
    return out


def _checked(check: Checked) -> str:
    if check.error:
        return f"{check.dtype}: COULD NOT BE EVALUATED: {check.error}"
    skipped = f", {check.skipped} samples on a kink left out" if check.skipped else ""
    judged = "" if check.judged > 0.995 else f", {check.judged:.0%} of the components could be judged"
    figures = f"largest difference {check.ratio:.2g} of the {THRESHOLD:g} error units allowed{judged}{skipped}"
    verdict = f"autograd agrees on {check.problems} random problems in {check.dtype}: {figures}"
    if check.holds:
        return verdict
    if check.failure is None:
        return f"NOT CHECKED in {check.dtype}: {figures}"
    spec, c = check.failure
    return (
        f"AUTOGRAD DISAGREES in {check.dtype}: {figures}; first at {spec}, component {c.index}: "
        f"autograd {c.observed:.17g}, derived {c.required:.17g}"
    )


def latex_block(derived: Derived) -> str:
    r"""Loss, gradient, weight and target as an ``aligned`` block."""
    page = _Page(derived, render.latex)
    d = derived.derivation
    rows = [
        rf"\mathcal{{L}} &= {page(d.loss)}",
        rf"\nabla_{{v_\theta}}\mathcal{{L}} &= {page(d.gradient)}",
        rf"\text{{weight}} &= {page(d.weight)}",
        rf"\text{{target}} &= {page(d.target)}",
    ]
    body = " \\\\\n".join(f"  {row}" for row in rows)
    return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"


def markdown(derived: Derived) -> str:
    """The findings in Markdown."""
    page = _Page(derived, render.latex)
    d, form = derived.derivation, derived.form
    velocity = r"$v_\theta$"

    def display(body: str) -> list[str]:
        return ["", "$$", body, "$$"]

    out = ["### Loss", *display(rf"\mathcal{{L}} = {page(d.loss)}")]
    for line in (*page.definitions(True), *page.definitions(False), *page.mask_lines):
        out += display(line)
    out += ["", "### Gradient", *display(rf"\nabla_{{v_\theta}}\mathcal{{L}} = {page(d.gradient)}")]
    for name, part in (("Optimisation direction", derived.optimisation), ("Trust region", derived.trust_region)):
        out += ["", f"{name}: ${page(part)}$" if part != 0 else f"{name}: none"]
    out += ["", f"### Equivalent loss, {EXACT[derived.exact].replace('v_θ', velocity)}"]
    out += display(page(derived.equivalent_loss))
    out += display(rf"\text{{weight}} = {page(d.weight)} \qquad \text{{target}} = {page(d.target)}")
    motion = _motion(derived).replace("v_θ", velocity)
    out += ["", motion[0].upper() + motion[1:] + "."]
    if form.constant is not None and form.constant != 0:
        out += ["", f"Constant: ${page(form.constant)}$"]
    out += _output_markdown(derived)
    out += ["", "### Steps, each machine-checked"]
    for i, result in enumerate(derived.proof.results, 1):
        mark = "" if result.proved else " **NOT PROVED**"
        body = render.step_markdown(page.step(result.step), of=d)
        out += ["", f"{i}. {body}{mark}"]
    out += ["", "### Verdict", "", f"* Catalogue: {_catalogue(derived)}", f"* Proved: {_proved(derived.proof)}"]
    out += [f"* {_checked(check)}" for check in derived.checks]
    if not derived.holds:
        out += ["", "**NOT VERIFIED: do not rely on the formulas above.**"]
    return "\n".join(out) + "\n"
