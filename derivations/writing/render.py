r"""Formulas for people: LaTeX, and plain text with Unicode for terminals.

Every formula is written from the expression that the proofs use; nothing is typed by hand.  One writer decides
what belongs to both forms, namely precedence, signs, fractions and the order of factors and terms, and two
dialects spell it out:

>>> from derivations.losses import flow_grpo
>>> derivation = flow_grpo.ALGORITHM.derive()
>>> text(derivation.gradient, of=derivation)
'A m r k (ε + k δ)'
>>> latex(derivation.gradient, of=derivation)
'A\\,m\\,r_t(\\theta)\\,k\\left(\\varepsilon + k\\,\\delta\\right)'

The text form can be read back without guessing: factors stand side by side and bind tighter than ``/``, of which
a product has one at most, at its end; other fractions stand in parentheses.
"""

from __future__ import annotations

import re
from unicodedata import normalize

import sympy as sp

from derivations import calculus
from derivations.calculus import ClipMask, Mask, VectorSymbol
from derivations.claims import (
    Approximates,
    Claim,
    Equal,
    EqualUpToConstant,
    GradientIs,
    Parallel,
    Positive,
    SameHessian,
)
from derivations.derivation import Derivation, Step, Theorem
from derivations.local_names import NAMES
from derivations.notation import (
    delta,
    latex_names,
    log_prob_old,
    log_prob_theta,
    log_ratio,
    ratio,
    rows,
    v_old,
    v_theta,
)
from derivations.proof.premises import Substitution
from derivations.theorems.expectations import GaussianTheorem
from derivations.writing.latex_writer import LatexWriter
from derivations.writing.page import Page
from derivations.writing.symbols import letters_of
from derivations.writing.text_writer import TextWriter
from derivations.writing.torchgen import ordered_formulas
from derivations.writing.writers import GREEK, SUPERSCRIPT, Writer

__all__ = [
    "claim_latex",
    "claim_text",
    "closing_row",
    "explain",
    "latex",
    "mask_rule",
    "step_markdown",
    "text",
    "text_names",
    "theorem_explain",
]


_TILDE, _BAR = "\N{COMBINING TILDE}", "\N{COMBINING MACRON}"


def _plain(source: str) -> str:
    r"""A name's LaTeX in Unicode: ``v_{\mathrm{old}}`` becomes ``v_old``, ``\epsilon^+`` ``ε⁺``, ``\tilde A`` ``Ã``."""
    out = re.sub(r"\\(mathrm|mathcal|left|right|text)(?![a-z])", "", source)
    out = re.sub(r"\\(log|exp) ?", r"\1 ", out)
    marks = {**GREEK, "mid": " | ", "tilde": _TILDE, "bar": _BAR}
    out = re.sub(r"\\([A-Za-z]+) ?", lambda m: marks.get(m[1], m[1]), out)
    out = re.sub(r"\^([-+0-9])", lambda m: m[1].translate(SUPERSCRIPT), out)
    out = re.sub(r"[{}]", "", out).replace("^*", "*").replace("-", "−").strip()
    return normalize("NFC", re.sub(f"([{_TILDE}{_BAR}])(.)", r"\2\1", out))


def text_names() -> dict[sp.Symbol, str]:
    """Symbol → Unicode name, from the notation table's LaTeX; a few that are shorter in a terminal."""
    short = {"x_prev": "x_prev", "ratio": "r", "log_ratio": "log r", "C1": "C1", "C2": "C2"}
    return {q.symbol: short.get(q.name, _plain(q.latex)) for q in rows()}


def _names(plain: bool, of: Derivation | None) -> dict[sp.Symbol, str]:
    """Names for one derivation: a ratio that is not the density's own carries a tilde."""
    names = text_names() if plain else latex_names()
    definition = None if of is None else of.definitions.get(log_ratio)
    if definition is not None and definition != log_prob_theta - log_prob_old:
        own, tilde = names[ratio], f"r{_TILDE}" if plain else rf"\tilde {names[ratio]}"
        names[log_ratio] = names[log_ratio].replace(own, tilde) if not plain else f"log {tilde}"
        names[ratio] = tilde
    return names


_v_star = VectorSymbol("v_star")


def _writer(plain: bool, of: Derivation | None) -> Writer:
    local = {symbol: written[0 if plain else 1] for symbol, written in NAMES.items()}
    names = _names(plain, of) | local | {_v_star: "v*" if plain else "v^*"}
    return TextWriter(names) if plain else LatexWriter(names)


def latex(expr: sp.Expr, *, of: Derivation | None = None) -> str:
    r"""LaTeX, for mathematics mode; with ``of``, in that derivation's names (GRPO-Guard has :math:`\tilde r`)."""
    return _writer(False, of).write(expr)


def text(expr: sp.Expr, *, of: Derivation | None = None) -> str:
    """One line of Unicode; with ``of``, in that derivation's names."""
    return _writer(True, of).write(expr)


def claim_latex(claim: Claim, *, of: Derivation | None = None) -> str:
    """A claim as LaTeX, with its branch, limit, remainder, factor or constant."""
    return _claim(claim, _writer(False, of))


def claim_text(claim: Claim, *, of: Derivation | None = None) -> str:
    """A claim as one line of Unicode."""
    return _claim(claim, _writer(True, of))


def _claim(claim: Claim, w: Writer) -> str:
    p = w.write
    plain = isinstance(w, TextWriter)
    approx, parallel, to = ("≈", "∥", "→") if plain else (r"\approx", r"\parallel", r"\to")

    def aside(words: str, *formulas: str) -> str:
        pieces = f"{words} " + w.comma.join(formulas) if plain else rf"\text{{{words} }}" + w.comma.join(formulas)
        return ("   " if plain else r" \quad ") + pieces

    match claim:
        case Equal():
            given = aside("if", *(f"{p(e)} > 0" for e in claim.given)) if claim.given else ""
            return f"{p(claim.lhs)} = {p(claim.rhs)}{_where(claim.where, w)}{given}"
        case GradientIs():
            return f"{_nabla(claim, w)} = {p(claim.gradient)}"
        case Approximates():
            limit = aside("as", *(f"{p(s)} {to} {p(e)}" for s, e in claim.limit.items()))
            exactly = "" if claim.remainder is None else aside("with remainder", p(claim.remainder))
            return f"{p(claim.lhs)} {approx} {p(claim.rhs)} + {_order(claim, w)}{limit}{exactly}"
        case Parallel():
            return f"{p(claim.lhs)} {parallel} {p(claim.rhs)}{aside('by the factor', f'{p(claim.factor)} > 0')}"
        case EqualUpToConstant():
            constant = p(claim.constant)
            last = w.group(constant) if isinstance(claim.constant, sp.Add) or constant.startswith(w.minus) else constant
            right = f"{p(claim.rhs)} + {last}"
            return f"{p(claim.lhs)} = {right}{aside('the last term being free of', p(claim.wrt or v_theta))}"
        case SameHessian():
            sign = "∇²" if plain else rf"\nabla_{{{p(claim.wrt or v_theta)}}}^{{2}}"
            held = aside("held fixed:", *map(p, claim.held)) if claim.held else ""
            return f"{sign}{_bracket(p(claim.lhs), w)} = {sign}{_bracket(p(claim.rhs), w)}{held}"
        case Positive():
            within = aside("for", *(_inside(s, e, w) for s, e in claim.within.items())) if claim.within else ""
            return f"{p(claim.expr)} > 0{_where(claim.where, w)}{within}"


def _order(claim: Approximates, w: Writer) -> str:
    """O(…) of the distance to the limit, δ where v_theta goes to v_old."""
    plain = isinstance(w, TextWriter)
    ((symbol, value), *others) = claim.limit.items()
    size = w.write(delta if (symbol, value) == (v_theta, v_old) else sp.sympify(symbol - value))
    body = "s" if others else f"‖{size}‖" if plain else rf"\|{size}\|"
    power = "" if claim.order == 1 else str(claim.order).translate(SUPERSCRIPT) if plain else f"^{{{claim.order}}}"
    return f"O({body}{power})"


def _inside(symbol: sp.Symbol, domain: sp.Interval, w: Writer) -> str:
    """low < symbol ≤ high, as the domain's ends are."""
    at_most = "≤" if isinstance(w, TextWriter) else r"\leq"
    left, right = ("<" if is_open else at_most for is_open in (domain.left_open, domain.right_open))
    return f"{w.write(domain.start)} {left} {w.write(symbol)} {right} {w.write(domain.end)}"


def _bracket(body: str, w: Writer) -> str:
    return f"[{body}]" if isinstance(w, TextWriter) else rf"\left[{body}\right]"


def _nabla(claim: GradientIs, w: Writer) -> str:
    """∇ and what it is taken of: the symbol, a label that is a name, or else the loss itself."""
    plain = isinstance(w, TextWriter)
    sign = rf"\nabla_{{{w.write(claim.wrt)}}}"
    if plain:
        sign = "∇" if claim.wrt == v_theta else f"∇_{w.write(claim.wrt)} "
    if isinstance(claim.loss, sp.Symbol):
        return f"{sign} {w.write(claim.loss)}" if not plain else sign + w.write(claim.loss)
    if r"\|" in claim.label:
        return sign + _bracket(w.write(claim.loss), w)
    return sign + (_plain(claim.label) if plain else claim.label)


def _where(where: Substitution, w: Writer) -> str:
    if not where:
        return ""
    declared = {q.symbol for q in rows()}
    new = set().union(*(sp.sympify(e).free_symbols for e in where.values())) - declared - set(where)
    positive = sorted((s for s in new if s.is_positive), key=lambda s: str(s.name))
    conditions = [f"{w.write(s)} = {w.write(e)}" for s, e in where.items()]
    if positive:
        conditions.append(", ".join(map(w.write, positive)) + " > 0")
    body = w.comma.join(conditions)
    return f"   where {body}" if isinstance(w, TextWriter) else rf" \quad \text{{where }} {body}"


def step_markdown(step: Step, *, of: Derivation | None = None) -> str:
    """A step as Markdown: its name, its sentence, and its formula displayed."""
    return f"**{step.name}.** {step.sentence}\n\n$$\n{claim_latex(step.claim, of=of)}\n$$"


def explain(derivation: Derivation, *, latex: bool = False, width: int | None = None, ascii_only: bool = False) -> str:
    """The whole walk from the loss to its target, as plain text or (``latex``) as Markdown.

    Args:
        derivation: of the loss.
        latex: formulas as LaTeX.
        width: columns that plain text is broken at; ``None`` leaves each formula on one line.
        ascii_only: plain text in ASCII.
    """
    d, w = derivation, _writer(not latex, derivation)
    formulas = ordered_formulas(d, d.loss, d.gradient, d.weight, d.target)
    mask = next(iter(d.gradient.atoms(Mask)), None)
    out = Page(w, d.output, width, ascii_only)
    out.title(f"{d.title} ({d.label})", d.variant.summary)
    out.line(f"{d.process} process, {d.policy}-policy")
    out.letters(letters_of(d), mask is not None)
    out.section("Loss, to be minimised")
    out.formula(f"{out.loss} = {w.write(d.loss)}")
    out.section("Definitions")
    out.formulas(f"{w.write(s)} = {w.write(e)}" for s, e in formulas if s in d.definitions)
    if mask is not None:
        out.formula(_mask(mask, w))
    coefficients = [f"{w.write(s)} = {w.write(e)}" for s, e in formulas if s in d.coefficients]
    if coefficients:
        out.section("Coefficients, which no gradient reaches")
        out.formulas(coefficients)
    out.steps(d.all_steps, _claim)
    out.section("In short")
    gradient, target = _short(d, quoted=False)
    out.formula(f"{out.nabla}{out.loss} = {w.write(gradient)}")
    point = f"{w.write(_v_star)} = " if gradient.has(_v_star) else ""
    out.formula(f"{out.word('target')} = {point}{w.write(target)}")
    out.formula(f"{out.word('weight')} = {w.write(d.weight)}")
    if not all(_are_exact(d)):
        out.section("As it is quoted (≈ is exact on-policy alone)")
        (of_gradient, of_target), quoted = _signs(d, latex), _short(d, quoted=True)
        point = f"{w.write(_v_star)} " if quoted[0].has(_v_star) else ""
        out.formula(f"{out.nabla}{out.loss} {of_gradient} {w.write(quoted[0])}")
        out.formula(f"{out.word('target')} {point}{of_target} {w.write(quoted[1])}")
    out.reference(d.reference)
    return out.end()


def theorem_explain(
    theorem: Theorem, *, latex: bool = False, width: int | None = None, ascii_only: bool = False
) -> str:
    """A lemma, a reverse step or an identity, step by step; the arguments are those of :func:`explain`."""
    w = _writer(not latex, None)
    out = Page(w, v_theta, width, ascii_only)
    out.title(f"{theorem.title} ({theorem.name})")
    out.letters(letters_of(theorem), False)
    if theorem.definitions:
        out.section("Definitions")
        out.formulas(f"{w.write(s)} = {w.write(e)}" for s, e in theorem.definitions.items())
    out.steps(theorem.steps, _claim)
    if isinstance(theorem, GaussianTheorem):
        out.section("Assumed, and not proved here")
        for sentence in theorem.assumes:
            out.line(f"* {sentence}" if latex else f"  {sentence}")
        out.section("What to do with it")
        out.line(theorem.advice if latex else f"  {theorem.advice}")
    out.reference(theorem.reference)
    return out.end()


def closing_row(derivation: Derivation, *, latex: bool = False, exact: bool = False) -> tuple[str, ...]:
    """One line of the closing table: method, process, policy, gradient, target.

    The last two are what people quote, after "=" where that is exact and "≈" where it holds on-policy alone;
    with ``exact``, always the exact form.  A target that is free of ``v_theta`` is named v* in the gradient, unless it
    is a quantity with a name of its own.  With ``latex``, the formulas stand between dollar signs.
    """
    w = _writer(not latex, derivation)
    gradient, target = _short(derivation, quoted=not exact)
    of_gradient, of_target = ("=", "=") if exact else _signs(derivation, latex)
    named = f"{w.write(_v_star)} " if gradient.has(_v_star) else ""
    cells = (f"{of_gradient} {w.write(gradient)}", f"{named}{of_target} {w.write(target)}")
    method = (
        derivation.title if derivation.variant.name == "paper" else f"{derivation.title} [{derivation.variant.name}]"
    )
    return (method, derivation.process, derivation.policy, *(f"${c}$" if latex else c for c in cells))


def _short(d: Derivation, *, quoted: bool) -> tuple[sp.Expr, sp.Expr]:
    """Gradient and target, the gradient as 2w(output − v*) where the target is a fixed point without a name."""
    gradient, target = d.gradient, d.target
    if quoted:
        gradient = gradient if d.brief_gradient is None else d.brief_gradient
        target = target if d.brief_target is None else d.brief_target
    if not target.is_Symbol and not d.inline(target).has(d.output):
        gradient = 2 * d.weight * (d.output - _v_star)  # lemma L1
    return gradient, target


def _are_exact(d: Derivation) -> tuple[bool, ...]:
    """Whether the quoted gradient is the exact one, and whether the quoted target is."""
    pairs = ((d.gradient, d.brief_gradient), (d.target, d.brief_target))
    return tuple(brief is None or calculus.is_zero(d.inline(exact) - d.inline(brief)) for exact, brief in pairs)


def _signs(d: Derivation, latex: bool) -> tuple[str, ...]:
    """What stands between a quoted gradient, or target, and its formula: "=" where that is exact."""
    return tuple("=" if same else r"\approx" if latex else "≈" for same in _are_exact(d))


def mask_rule(mask: Mask, *, plain: bool, of: Derivation | None = None) -> str:
    """Where a mask m is 0, in words and formulas."""
    return _mask(mask, _writer(plain, of))


def _mask(mask: Mask, w: Writer) -> str:
    plain = isinstance(w, TextWriter)
    both, start, end = (" and ", "m = 0 where ", "; else 1") if plain else _MASK_WORDS
    if not isinstance(mask, ClipMask):
        return start + both.join(f"{w.write(c)} > 0" for c in mask.args) + end
    a, r, low, high = mask.args
    sides = (
        f"{w.write(a)} > 0{both}{w.write(r)} > {w.write(1 + high)}",
        f"{w.write(a)} < 0{both}{w.write(r)} < {w.write(1 - low)}",
    )
    return start + (", or " if plain else r" \text{ or } ").join(sides) + end


_MASK_WORDS = (r" \text{ and } ", r"m = 0 \text{ where } ", r", \text{ else } 1")
