"""Laws of the rendering: what is written can be read back, and then has the value of what was to be written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

import pytest
import sympy as sp
from hypothesis import example, given
from hypothesis import strategies as st
from matplotlib.mathtext import MathTextParser
from sympy.core.function import AppliedUndef

from derivations.calculus import ClipMask, Dot, Mask, MeanAbs, Norm2, OtherMask, Surrogate, VectorSymbol, sg
from derivations.derivation import Derivation, Step, Theorem
from derivations.identities import IDENTITIES
from derivations.lemmas import LEMMAS
from derivations.notation import (
    C1,
    C2,
    NOTATION,
    D,
    advantage,
    advantage_tilde,
    beta,
    clip_high,
    clip_low,
    delta,
    k,
    log_prob_theta,
    noise,
    omega,
    ratio,
    rho_minus,
    rho_plus,
    sigma_t,
    t,
    t_prev,
    v_gt,
    v_old,
    v_theta,
    w_plus,
)
from derivations.steps.sde import REVERSE_STEPS
from derivations.writing import render
from derivations.writing.latex_writer import LatexWriter
from derivations.writing.text_writer import TextWriter
from derivations.writing.writers import Writer
from gradcheck.catalogue import CATALOGUE, entry

ENTRIES = pytest.mark.parametrize("derivation", [e.derivation for e in CATALOGUE], ids=lambda d: d.label)
THEOREMS = (*LEMMAS, *(s.theorem for s in REVERSE_STEPS), *IDENTITIES)
WHOLE = pytest.mark.parametrize(
    "whole", [*(e.derivation for e in CATALOGUE), *THEOREMS], ids=lambda w: getattr(w, "label", w.name)
)
PAPERS = [e.derivation for e in CATALOGUE if e.variant == "paper"]
Vector = tuple[Any, ...]


# Values: of an expression, by walking it; and of its rendering, by reading it.


def plus(a: Any, b: Any) -> Any:
    return tuple(x + y for x, y in zip(a, b, strict=True)) if isinstance(a, tuple) else a + b


def times(a: Any, b: Any) -> Any:
    if isinstance(b, tuple):
        a, b = b, a
    return tuple(x * b for x in a) if isinstance(a, tuple) else a * b


def dot(a: Vector, b: Vector) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


def clipped(r: Any, low: Any, high: Any) -> Any:
    return min(max(r, low), high)


def mean_abs(a: Vector) -> Any:
    return sum(map(abs, a)) / len(a)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": math.exp,
    "log": math.log,
    "sin": math.sin,
    "sg": lambda x: x,
    "min": min,
    "max": max,
    "sign": lambda x: (x > 0) - (x < 0),
    "clip": clipped,
}


def value(expr: sp.Expr, at: dict[str, Any]) -> Any:
    """The value of an expression, where ``at`` gives those of its symbols, of m and of pi."""
    args = [value(a, at) for a in expr.args] if not isinstance(expr, (Mask, sp.Pow)) else []
    match expr:
        case sp.Symbol():
            return at[expr.name]
        case sp.Rational():
            return Fraction(int(expr.p), int(expr.q))
        case OtherMask():
            return 1 - at["m"]
        case Mask():
            return at["m"]
        case sp.Add() | sp.Mul():
            out = args[0]
            for arg in args[1:]:
                out = plus(out, arg) if isinstance(expr, sp.Add) else times(out, arg)
            return out
        case sp.Pow():
            return value(expr.base, at) ** power(value(expr.exp, at))
        case Norm2():
            return dot(args[0], args[0])
        case Dot():
            return dot(*args)
        case MeanAbs():
            return mean_abs(*args)
        case Surrogate():
            a, r, low, high = args
            return -min(r * a, clipped(r, 1 - low, 1 + high) * a)
    return at["pi"] if expr is sp.pi else FUNCTIONS[type(expr).__name__.lower()](*args)


def power(exponent: Any) -> Any:
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    return int(exponent) if whole else float(exponent)


MINUS, SUPER = "−", "⁰¹²³⁴⁵⁶⁷⁸⁹"
TEXT = {
    **{s: s for s in (*"+/()‖⟨⟩√,^|", "‖²")},
    MINUS: "-",
    "·": "",
    " ": "",
    "mean|": "mean",
    **{f"{name}(": f"{name}(" for name in FUNCTIONS},
}
LATEX = {
    **{s: s for s in "+-{},^/"},
    r"\left(": "(",
    r"\right)": ")",
    r"\left\Vert ": "‖",
    r" \right\Vert^{2}": "‖²",
    r"\langle ": "⟨",
    r" \rangle": "⟩",
    r"\,": "",
    r" \cdot ": "",
    " ": "",
    r"\frac": "frac",
    r"\sqrt": "√",
    r"\overline{\left| ": "mean",
    r" \right|}": "|",
    **{rf"\{name}\left(": f"{name}(" for name in FUNCTIONS},
    **{rf"\mathrm{{{name}}}\left(": f"{name}(" for name in ("sg", "clip", "sign")},
}


class Reader:
    """Reads a rendering.  Factors bind tighter than a slash, of which a product has one at most."""

    def __init__(self, source: str, writer: Writer, at: dict[str, Any], symbols: set[sp.Symbol]) -> None:
        plain = isinstance(writer, TextWriter)
        self.names = {writer.name(s): at[s.name] for s in symbols} | {"m": at["m"], "π" if plain else r"\pi": at["pi"]}
        self.table = TEXT if plain else LATEX
        words = sorted([*self.names, *self.table], key=len, reverse=True)
        pattern = "|".join([*map(re.escape, words), "[0-9]+", f"[⁻{SUPER}]+"])
        self.tokens = re.findall(pattern, source)
        assert "".join(self.tokens) == source, f"there are unknown signs in {source}"
        self.tokens = [token for token in self.tokens if self.table.get(token, token) != ""]

    def peek(self) -> str:
        return (
            self.table.get(self.tokens[0], self.tokens[0])
            if self.tokens and self.tokens[0] not in self.names
            else ("name" if self.tokens else "end")
        )

    def take(self, wanted: str | None = None) -> str:
        kind, token = self.peek(), self.tokens.pop(0)
        assert wanted in (None, kind), f"wanted {wanted}, got {token} before {self.tokens}"
        return token if kind == "name" else kind

    def read(self) -> Any:
        out = self.sum()
        assert not self.tokens, f"{self.tokens} is left over"
        return out

    def sum(self) -> Any:
        sign = -1 if self.peek() == "-" and self.take() else 1
        out = times(self.product(), sign)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            out = plus(out, times(self.product(), sign))
        return out

    def product(self) -> Any:
        out = self.factor()
        while self.starts_factor():
            out = times(out, self.factor())
        if self.peek() == "/":
            self.take()
            below = self.factor()
            assert not self.starts_factor(), f"a fraction with neighbours needs parentheses: {self.tokens}"
            out = times(out, 1 / below)
        return out

    def starts_factor(self) -> bool:
        kind = self.peek()
        return kind in ("name", "(", "{", "‖", "⟨", "√", "frac", "mean") or kind[0].isdigit() or kind.endswith("(")

    def between(self, close: str, *opened: str) -> list[Any]:
        for wanted in opened:
            self.take(wanted)
        out = [self.sum()]
        while self.peek() == ",":
            self.take()
            out.append(self.sum())
        self.take(close)
        return out

    def factor(self) -> Any:
        out = self.primary()
        kind = self.peek()
        if kind == "^":
            self.take()
            return out ** power(self.primary())
        if kind[0] in "⁻" + SUPER:
            digits = self.take()
            return out ** int(digits.translate(str.maketrans("⁻" + SUPER, "-0123456789")))
        return out

    def primary(self) -> Any:
        kind = self.peek()
        if kind == "name":
            return self.names[self.take()]
        token = self.take()
        if token.isdigit():
            return Fraction(int(token))
        if token == "(":
            return self.between(")")[0]
        if token == "{":
            return self.between("}")[0]
        if token == "‖":
            (inner,) = self.between("‖²")
            return dot(inner, inner)
        if token == "⟨":
            return dot(*self.between("⟩"))
        if token == "mean":
            return mean_abs(*self.between("|"))
        if token == "frac":
            return times(self.between("}", "{")[0], 1 / self.between("}", "{")[0])
        if token == "√":
            return math.sqrt(self.primary())
        assert token.endswith("("), f"unexpected {token} before {self.tokens}"
        return FUNCTIONS[token[:-1]](*self.between(")"))


def same(a: Any, b: Any) -> bool:
    pairs = zip(a, b, strict=True) if isinstance(a, tuple) else [(a, b)]
    return all(x == y or math.isclose(x, y, rel_tol=1e-9, abs_tol=1e-9) for x, y in pairs)


def floats(symbols: set[sp.Symbol]) -> dict[str, Any]:
    """Values that all differ, with t' > C2 as the CPS step needs, and ᾱ < ᾱ' < 1 − C2² as DDIM's does."""
    out: dict[str, Any] = {"m": 0.7123, "pi": math.pi}
    for i, s in enumerate(sorted(symbols, key=lambda s: str(s.name))):
        x = 0.25 + 0.6 * math.modf(0.6180339887 * (i + 1))[0]
        out[s.name] = tuple(x + 0.3 * math.cos(5 * x + j) for j in range(3)) if isinstance(s, VectorSymbol) else x
    return out | {"t_prev": 0.93, "C2": 0.37, "s_prev": 0.91, "alpha_bar": 0.31, "alpha_bar_prev": 0.78}


def misread(exprs: list[sp.Expr], of: Derivation | None, plain: bool) -> list[str]:
    """The renderings that do not have their expression's value."""
    writer = render._writer(plain, of)
    out = []
    for expr in exprs:
        symbols = expr.free_symbols
        at = floats(symbols)
        source = writer.write(expr)
        try:
            faithful = same(Reader(source, writer, at, symbols).read(), value(expr, at))
        except (AssertionError, ArithmeticError, TypeError, ValueError, IndexError):
            faithful = False
        if not faithful:
            out.append(source)
    return out


def steps_of(whole: Derivation | Theorem) -> tuple[Step, ...]:
    return whole.all_steps if isinstance(whole, Derivation) else whole.steps


def formulas_of(whole: Derivation | Theorem) -> list[sp.Expr]:
    """Every expression in it, without those in undefined functions."""

    def every() -> Iterator[sp.Expr]:
        yield from whole.definitions.values()
        if isinstance(whole, Derivation):
            yield from (whole.loss, whole.gradient, whole.weight, whole.target, whole.raw_gradient)
            yield from whole.coefficients.values()
        for step in steps_of(whole):
            for field in fields(step.claim):
                content = getattr(step.claim, field.name)
                if isinstance(content, dict):
                    yield from content.values()
                elif isinstance(content, tuple):
                    yield from content
                elif isinstance(content, (sp.Expr, int)) and not isinstance(content, bool):
                    yield content

    found = (e for e in map(sp.sympify, every()) if isinstance(e, sp.Expr))  # a domain is no formula
    return [e for e in found if not e.has(AppliedUndef)]


@WHOLE
@pytest.mark.parametrize("plain", [True, False], ids=["text", "latex"])
def test_every_formula_reads_back_with_its_value(whole: Derivation | Theorem, plain: bool) -> None:
    of = whole if isinstance(whole, Derivation) else None
    assert misread(formulas_of(whole), of, plain) == []


WRONG: dict[str, tuple[type[Writer], str, Callable[..., Any]]] = {
    "no parentheses": (TextWriter, "group", lambda self, body: body),
    "no signs": (Writer, "_with_sign", lambda self, negative, body: body),
    "no denominators": (TextWriter, "fraction", lambda self, above, below, alone: self.times(above)),
    "fractions upside down": (
        LatexWriter,
        "fraction",
        lambda self, above, below, alone: rf"\frac{{{self.times(below)}}}{{{self.times(above)}}}",
    ),
    "no exponents": (LatexWriter, "power", lambda self, base, exponent: base),
    "no roots": (LatexWriter, "root", lambda self, expr: self._print(expr)),
    "numbers off by one": (LatexWriter, "integer", lambda self, n: str(n + 1)),
    "last factor lost": (TextWriter, "times", lambda self, factors: " ".join(factors[: max(1, len(factors) - 1)])),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_writer_is_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls, method, replacement = WRONG[wrong]
    monkeypatch.setattr(cls, method, replacement)
    assert any(misread(formulas_of(d), d, cls is not LatexWriter) for d in PAPERS)


SCALARS = (advantage, k, C1, C2, t, t_prev, beta, D, omega, sigma_t, ratio, clip_low, w_plus, log_prob_theta)
VECTORS = (v_theta, v_old, v_gt, noise, delta)
numbers = st.builds(sp.Rational, st.integers(-12, 12), st.integers(1, 9))


def grow_scalars(smaller: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    inner = vectors(smaller)
    return st.one_of(
        st.builds(lambda a, b: a + b, smaller, smaller),
        st.builds(lambda a, b: a - b, smaller, smaller),
        st.builds(lambda a, b: a * b, smaller, smaller),
        st.builds(lambda a, n: a**n, smaller.filter(lambda e: e != 0), st.sampled_from([2, 3, -1, -2])),
        st.builds(Norm2, inner),
        st.builds(Dot, inner, inner),
        st.builds(sg, smaller),
    )


def vectors(coefficients: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    return st.recursive(
        st.sampled_from(VECTORS),
        lambda smaller: st.one_of(
            st.builds(lambda a, b: a + b, smaller, smaller),
            st.builds(lambda a, b: a - b, smaller, smaller),
            st.builds(lambda c, v: c * v, coefficients, smaller),
        ),
        max_leaves=4,
    )


scalars = st.recursive(st.one_of(st.sampled_from(SCALARS), numbers), grow_scalars, max_leaves=8)


@given(st.one_of(scalars, vectors(scalars)), st.lists(st.integers(1, 40), min_size=40, max_size=40), st.booleans())
@example(-(advantage - k) / 2 * v_theta, [*range(1, 41)], True)
@example(advantage / (k * (1 - t)) ** 2, [*range(1, 41)], True)
@example((1 - Norm2(v_theta)) * (1 + k) / w_plus**2, [*range(1, 41)], False)
@example(t_prev**2 * log_prob_theta**2 * 10**5 / 3, [*range(1, 41)], False)
def test_random_formulas_read_back_exactly(expr: sp.Expr, primes: list[int], plain: bool) -> None:
    """Exact arithmetic, so that a lost sign or a misplaced parenthesis cannot hide in a tolerance."""
    draw = iter(primes)
    at: dict[str, Any] = {s.name: Fraction(next(draw), 7) for s in SCALARS}
    at |= {s.name: tuple(Fraction(next(draw), 11) for _ in range(2)) for s in VECTORS}
    at |= {"m": Fraction(1, 2), "pi": math.pi}
    writer = render._writer(plain, None)
    try:
        wanted = value(expr, at)
    except ZeroDivisionError:
        return
    assert Reader(writer.write(expr), writer, at, {*SCALARS, *VECTORS}).read() == wanted


@WHOLE
def test_every_symbol_appears(whole: Derivation | Theorem) -> None:
    for expr in formulas_of(whole):
        visible = expr.replace(Mask, lambda *args: sp.Symbol("m"))
        for plain in (True, False):
            writer = render._writer(plain, None)
            source = writer.write(visible)
            assert [s for s in visible.free_symbols if writer.name(s) not in source] == []


def balance(source: str) -> None:
    for opening, closing in ("()", "[]", "{}", "⟨⟩", (r"\left", r"\right"), (r"\langle", r"\rangle")):
        assert source.count(opening) == source.count(closing), (opening, source)
    assert source.count("‖") % 2 == 0
    assert source.count("$") % 2 == 0


@pytest.mark.thin(2)
@WHOLE
def test_every_step_is_written_and_typeset(whole: Derivation | Theorem) -> None:
    of = whole if isinstance(whole, Derivation) else None
    parser = MathTextParser("path")
    for step in steps_of(whole):
        plain, tex = render.claim_text(step.claim, of=of), render.claim_latex(step.claim, of=of)
        assert any(sign in plain for sign in "=≈∥>")
        balance(plain)
        balance(tex)
        parser.parse(f"${tex}$")
        assert not re.search(r"\\[a-z]|[{}]", plain), "LaTeX has slipped into the text"
        markdown = render.step_markdown(step, of=of)
        assert step.name in markdown
        assert step.sentence in markdown
        assert f"$$\n{tex}\n$$" in markdown


@WHOLE
@pytest.mark.parametrize("tex", [True, False], ids=["latex", "text"])
def test_the_walk_has_every_step_in_order(whole: Derivation | Theorem, tex: bool) -> None:
    if isinstance(whole, Derivation):
        page, of = render.explain(whole, latex=tex), whole
        assert whole.title in page
        assert whole.variant.summary[1:] in page
        assert whole.reference.splitlines()[-1].strip() in page
    else:
        page, of = render.theorem_explain(whole, latex=tex), None
        assert whole.title in page
    write = render.claim_latex if tex else render.claim_text
    at = 0
    for number, step in enumerate(steps_of(whole), 1):
        for part in (f"{number}. ", step.name, step.sentence, write(step.claim, of=of)):
            at = page.index(part, at)


@ENTRIES
def test_formulas_of_the_closing_line_are_the_derivation_s_own(derivation: Derivation) -> None:
    page = render.explain(derivation)
    assert f"target = {render.text(derivation.target, of=derivation)}" in page.replace("v* = ", "")
    assert f"weight = {render.text(derivation.weight, of=derivation)}" in page
    assert f"L = {render.text(derivation.loss, of=derivation)}" in page


CLOSING = {
    "flow_grpo": ("≈ A k ε", "≈ v_θ − A k ε"),
    "grpo_guard": ("= A m r̃ (C1/Δt) ε", "≈ v_θ − A (C1/Δt) ε"),
    "awm": ("= 2A(v_θ − v_gt)", "= v_θ + A(v_gt − v_θ)"),
    "diffusion_nft": ("= 2β²(v_θ − v*)", "v* = v_old + (A/β)(v_gt − v_old)"),
}
EXACT = CLOSING | {
    "flow_grpo": ("= A m r k (ε + k δ)", "= v_θ − A m r k (ε + k δ)"),
    "grpo_guard": ("= A m r̃ (C1/Δt) ε", "= v_θ − A m r̃ (C1/Δt) ε"),
}


@pytest.mark.parametrize("name", CLOSING)
def test_the_closing_table(name: str) -> None:
    derivation = entry(name).derivation
    row = render.closing_row(derivation)
    assert row == (derivation.title, derivation.process, derivation.policy, *CLOSING[name])
    assert render.closing_row(derivation, exact=True)[3:] == EXACT[name]


@ENTRIES
def test_cells_fit_into_a_markdown_table(derivation: Derivation) -> None:
    for exact in (True, False):
        row = render.closing_row(derivation, latex=True, exact=exact)
        assert len(row) == 5
        for cell in row[3:]:
            balance(cell)
            assert "|" not in cell
            MathTextParser("path").parse(cell)


def test_a_changed_formula_changes_the_row_and_its_sign() -> None:
    derivation = entry("awm").derivation
    quoted = replace(derivation, brief_gradient=-derivation.gradient, brief_target=derivation.target)
    assert render.closing_row(quoted)[3] == "≈ −2A(v_θ − v_gt)"
    assert render.closing_row(replace(derivation, target=v_theta - advantage * v_gt))[4] == "= v_θ − A v_gt"


@pytest.mark.parametrize(
    ("expr", "plain", "tex"),
    [
        (advantage * ratio * k * (noise + k * delta), "A r k (ε + k δ)",
         r"A\,r_t(\theta)\,k\left(\varepsilon + k\,\delta\right)"),
        (v_old + advantage / beta * (v_gt - v_old), "v_old + (A/β)(v_gt − v_old)",
         r"v_{\mathrm{old}} + \frac{A}{\beta}\left(v_{\mathrm{gt}} - v_{\mathrm{old}}\right)"),
        (-(k**2) / 2 * Norm2(delta) - k * Dot(delta, noise), "−(k²/2)‖δ‖² − k⟨δ, ε⟩",
         r"-\frac{k^{2}}{2}\left\Vert \delta \right\Vert^{2} - k\,\langle \delta,\, \varepsilon \rangle"),
        (-Surrogate(advantage, ratio, clip_low, clip_high), "min(A r, A clip(r, 1 − ε⁻, 1 + ε⁺))",
         r"\min\left(A\,r_t(\theta),\, A\,"
         r"\mathrm{clip}\left(r_t(\theta),\, 1 - \epsilon^-,\, 1 + \epsilon^+\right)\right)"),
        (sp.Rational(1, 10**5) + sg(MeanAbs(v_theta)), "10⁻⁵ + sg(mean|v_θ|)",
         r"10^{-5} + \mathrm{sg}\left(\overline{\left| v_\theta \right|}\right)"),
        (sp.Symbol("w_1") * sp.Symbol("lambda") * VectorSymbol("theta_old"), "λ w_1 θ_old",
         r"\lambda\,w_1\,\theta_{\mathrm{old}}"),
        (sp.S.Zero, "0", "0"),
    ],
)  # fmt: skip
def test_sample_formulas(expr: sp.Expr, plain: str, tex: str) -> None:
    assert render.text(expr) == plain
    assert render.latex(expr) == tex


@pytest.mark.parametrize(
    ("number", "plain", "tex"),
    [
        (sp.Float(0.25), "0.25", "0.25"),
        (sp.Float("-0.0"), "0", "0"),
        (-sp.Float(1.0), "−1", "-1"),
        (sp.Float(1 / 3, 4), "0.3333", "0.3333"),
        (sp.Float("2.5e-7"), "2.5·10⁻⁷", r"2.5 \cdot 10^{-7}"),
        (sp.Float(1e20), "10²⁰", "10^{20}"),
        (sp.E, "e", r"\mathrm{e}"),
        (-sp.oo, "−∞", r"-\infty"),
        (sp.nan, "NaN", r"\mathrm{NaN}"),
        (sp.Float(1.0) * k, "k", "k"),
        (-sp.Float(0.5) * k / D, "−0.5 k/D", r"-\frac{0.5\,k}{D}"),
        (k - sp.Float(0.1, 3), "k − 0.1", "k - 0.1"),
        (sp.Float(0.3) ** t, "(0.3)^t", r"\left(0.3\right)^{t}"),
        (sp.exp(-sp.Float(0.5) * k), "exp(−0.5 k)", r"\exp\left(-0.5\,k\right)"),
    ],
)
def test_numbers_that_are_no_fractions(number: sp.Expr, plain: str, tex: str) -> None:
    assert render.text(number) == plain
    assert render.latex(number) == tex


@given(st.floats(-1e300, 1e300, allow_subnormal=False))
def test_a_float_reads_back_with_its_value(x: float) -> None:
    """Every digit that it has, in whichever notation; and no minus in front of a zero."""
    written = render.text(sp.Float(x))
    superscript = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
    number = re.sub("·?10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)", lambda m: "e" + m[1].translate(superscript), written.replace("−", "-"))
    number = re.sub("^(-?)e", r"\g<1>1e", number)
    assert math.isclose(float(number), x, rel_tol=1e-14)
    assert written != "−0"


def test_every_named_number_can_be_written() -> None:
    kinds = set(sp.NumberSymbol.__subclasses__())
    for number in (*(cls() for cls in kinds), sp.I, sp.zoo, sp.oo, sp.nan):
        assert render.text(number)
        assert render.latex(number)


def test_only_a_normalised_ratio_has_a_tilde() -> None:
    for e in CATALOGUE:
        marked = "r̃" in render.explain(e.derivation).replace("At r̃ = 1", "")
        assert marked == (e.algorithm.name == "grpo_guard")
        tex = render.explain(e.derivation, latex=True)
        assert (r"\tilde r" in tex) == marked
        assert (r"\tilde" in tex.replace(r"\tilde r", "").replace(r"\tilde A", "")) is False


def test_only_what_stands_in_the_advantages_place_has_its_tilde() -> None:
    for e in CATALOGUE:
        options = e.derivation.variant.options
        replaced = options.get("weighting") == "adaptive" or "advantage_mode" in options
        assert ("Ã" in render.explain(e.derivation)) == replaced
        assert (r"\tilde A" in render.explain(e.derivation, latex=True)) == replaced


def test_marks_of_names_in_plain_text() -> None:
    assert [render.text(s) for s in (rho_plus, rho_minus, w_plus, advantage_tilde)] == ["ρ⁺", "ρ⁻", "w⁺", "Ã"]
    assert render._plain(r"\tilde{\mu}_\theta") == "μ̃_θ"
    assert render._plain(r"\tilde r_t(\theta)") == "r̃_t(θ)"


@ENTRIES
@pytest.mark.parametrize("tex", [True, False], ids=["latex", "text"])
def test_the_quoted_forms_have_the_closing_table_s_signs(derivation: Derivation, tex: bool) -> None:
    _, _, _, gradient, target = (cell.strip("$") for cell in render.closing_row(derivation, latex=tex))
    _, found, quoted = render.explain(derivation, latex=tex).partition("As it is quoted")
    assert bool(found) == any(cell.split(" ")[0] in ("≈", r"\approx") for cell in (gradient, target))
    if found:
        assert (rf"\mathcal{{L}} {gradient}" if tex else f"L {gradient}") in quoted
        assert (rf"\text{{target}} {target}" if tex else f"target {target}") in quoted


def test_the_other_mask_is_not_typeset_as_the_mask() -> None:
    arguments = (advantage, ratio, clip_low, clip_high)
    mask, other = ClipMask(*arguments), OtherMask(*arguments)
    assert [sp.latex(mask), sp.latex(other)] == ["m", r"\left(1 - m\right)"]
    assert [sp.latex(mask**2), sp.latex(other**2)] == ["m^{2}", r"\left(1 - m\right)^{2}"]
    assert [render.text(k * other), render.latex(k * other)] == ["k(1 − m)", r"k\left(1 - m\right)"]


def test_names_differ() -> None:
    """Apart from the two r, which no loss has both of, and the condensed names, each quantity has its own."""
    known = render.text_names()
    names = [known[quantity.symbol] for quantity in NOTATION if quantity.name != "reward_prob"]
    assert len(names) == len(set(names)) == len(NOTATION) - 1


def test_what_cannot_be_written_is_refused() -> None:
    with pytest.raises(TypeError, match="no way to write"):
        render.text(sp.Piecewise((k, k > 1), (C1, True)))
