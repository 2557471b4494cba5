"""The language: what it reads, what it refuses and where it points, and that nothing in it is ever run."""

from __future__ import annotations

import builtins
import os
import subprocess
import time
from fractions import Fraction
from typing import Any

import pytest
import sympy as sp
from hypothesis import given, settings

from derivations import notation as n
from derivations.calculus import Dot, Norm2, Surrogate, is_zero, sg
from derivations.grammar import ParseError, Statement, parse, read, unparse
from derivations.grammar.limits import DEPTH, TEXT_LENGTH
from derivations.grammar.names import ALIASES, AMBIGUOUS, BACKWARD, CANONICAL, FUNCTIONS, STANDARD
from derivations.grammar.syntax import Name, Negative, Number, Power, Program
from derivations.writing.render import text_names
from tests.derive.strategies import noise, trees

SQUARE = Norm2(n.v_theta - n.v_gt)


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("A*norm2(v_theta - v_gt)", n.advantage * SQUARE),
        ("A * mse(v_theta, v_gt)", n.advantage * SQUARE / n.D),
        ("A*mean((v_theta - v_gt)**2)", n.advantage * SQUARE / n.D),
        ("A·mean((v_θ − v_gt)²)", n.advantage * SQUARE / n.D),
        ("sum((v_theta - v_gt)*(v_theta - v_gt))", SQUARE),
        ("sum(2*v_theta*noise - 3*v_theta**2/A)", 2 * Dot(n.v_theta, n.noise) - 3 * Norm2(n.v_theta) / n.advantage),
        ("0.1*norm2(v_theta)", Norm2(n.v_theta) / 10),
        ("1e-3*norm2(v_theta)", Norm2(n.v_theta) / 1000),
        ("-2**2*norm2(v_theta)", -4 * Norm2(n.v_theta)),
        ("2**-1*norm2(v_theta)", Norm2(n.v_theta) / 2),
        ("norm2(v_theta)/2/3*A", n.advantage * Norm2(n.v_theta) / 6),
        ("norm2(v_theta) - norm2(v_old) - norm2(v_ref)", Norm2(n.v_theta) - Norm2(n.v_old) - Norm2(n.v_ref)),
        ("2^2^2*norm2(v_theta)", 16 * Norm2(n.v_theta)),
        ("exp(R/τ)*norm2(v_theta)", sp.exp(n.reward / n.temperature) * Norm2(n.v_theta)),
        ("norm2(v_theta)*detach(norm2(v_theta))", Norm2(n.v_theta) * sg(Norm2(n.v_theta))),
        ("pi*norm2(v_theta)", sp.pi * Norm2(n.v_theta)),
        ("c = 3; w = c*A; w*norm2(v_theta)  # a comment", 3 * n.advantage * Norm2(n.v_theta)),
        ("norm2(\n  v_theta\n)", Norm2(n.v_theta)),
    ],
)
def test_what_a_text_means(text: str, loss: sp.Expr) -> None:
    assert is_zero(read(text).loss - loss)


_PPO = Surrogate(n.advantage, n.ratio, n.clip_low, n.clip_high)


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("-min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)", _PPO),
        ("-min(A*clamp(ratio, 1-clip_low, 1+clip_high), A*ratio)", _PPO),
        ("max(-A*ratio, -A*clip(ratio, 1-ε, 1+ε))", _PPO),
        ("min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)", -_PPO),
        (
            "-min(ratio*A, clip(ratio, 0.8, 1.28)*A)",
            _PPO.func(n.advantage, n.ratio, sp.Rational(1, 5), sp.Rational(7, 25)),
        ),
        ("r = exp(log_prob - log_prob_old); -min(r*A, clip(r, 1-eps, 1+eps)*A)", _PPO),
        (
            "eps = 0.2; -min(ratio*A, clip(ratio, 1-eps, 1+eps)*A)",
            _PPO.func(n.advantage, n.ratio, *[sp.Rational(1, 5)] * 2),
        ),
    ],
)
def test_ppo_is_recognised(text: str, loss: sp.Expr) -> None:
    assert read(text).loss == loss


@pytest.mark.parametrize(
    "text",
    [
        "-min(ratio*A, clip(ratio, 1-eps, 1+eps)*reward)",
        "-min(ratio*A, 2*clip(ratio, 1-eps, 1+eps)*A)",
        "-min(ratio**2*A, clip(ratio, 1-eps, 1+eps)*A)",
        "-min(sg(ratio)*A, clip(ratio, 1-eps, 1+eps)*A)",
    ],
)
def test_what_only_looks_like_ppo_is_not_taken_for_it(text: str) -> None:
    assert not any(node.args[0] == n.advantage for node in read(text).loss.atoms(Surrogate))


REFUSED = {
    # what would be code elsewhere
    "__import__('os').system('touch owned')": "no strings",
    "__import__(os)": "unknown function",
    "().__class__.__bases__": "no '.'",
    "()": "something is missing",
    "v_theta.__class__": "no '.'",
    "a.b": "no '.'",
    "lambda: 1": "there is no ':'",
    "[x for x in A]": r"there is no '\['",
    "{A: 1}": "there is no '{'",
    "A if A else R": "operator is missing",
    "(A := 1)": "there is no ':'",
    "exec(A)": "unknown function",
    "eval(A)": "unknown function",
    "open(A)": "unknown function",
    "f'{A}'": "no strings",
    '"%s" % A': "no strings",
    "`id`": "no strings",
    "$(id)": r"there is no '\$'",
    "A; import os; norm2(v_theta)": "only the last",
    "import os": "operator is missing",
    "A == R": "cannot stand here|'=' stands",
    "A and R": "operator is missing",
    "not A": "operator is missing",
    "*A": "cannot stand here",
    "norm2(*A)": "cannot stand here",
    "norm2(x=v_theta)": "'=' stands",
    "globals()": "needs an argument",
    "A\x00": "U\\+0000",
    "A\x1b[31m": "U\\+001B",
    "\u202enorm2(v_theta)": "U\\+202E",
    # look-alikes
    "А*norm2(v_theta)": "CYRILLIC CAPITAL LETTER A",
    "norm２(v_theta)": "FULLWIDTH DIGIT TWO",
    "ｅxp(A)": "FULLWIDTH LATIN SMALL LETTER E",
    "v_thеta": "CYRILLIC SMALL LETTER IE",
    "١*norm2(v_theta)": "ARABIC-INDIC DIGIT ONE",
    "norm2(v\u200b_theta)": "ZERO WIDTH SPACE",
    # size
    "9**9**9": "exponent",
    "2**1000000*norm2(v_theta)": "exponent",
    "((((9**12)**12)**12)**12)*norm2(v_theta)": "bits",
    "exp(10**12*10**12*10**12)*norm2(v_theta)": "too large|bits",
    "1" * 200: "characters at most",
    "1e999999999*A": "exponent of ten",
    "v" * 5000: "limit is",
    "v" * 100: "characters at most",
    "(" * 5000: "limit is",
    "(" * 700 + "A" + ")" * 700: "levels inside",
    "-" * 1000 + "A": "levels inside",
    "exp(" * 200 + "A" + ")" * 200: "levels inside",
    "A**" * 200 + "2": "levels inside",
    "+".join(["A"] * 1400): "more than 1500",
    "; ".join(f"a{i} = A" for i in range(50)) + "; A": "more than 40 definitions",
    "a0 = A + R; " + "; ".join(f"a{i + 1} = a{i}*a{i}" for i in range(12)) + "; a12": "more than",
    "a0 = exp(A); " + "; ".join(f"a{i + 1} = exp(a{i}) + a{i}" for i in range(30)) + "; a30": "more than 2000 parts",
    "(A+R+t+dt+beta+D+k+C1)**12*(A+R+t+dt+beta+D+k+C2)**12": "multiplied out",
    "((A**12)**12)**12*norm2(v_theta)": "power that comes out",
    # kinds
    "norm2(v_theta - A)": "terms of one kind",
    "norm2(A)": "takes a vector",
    "dot(v_theta, A)": "takes a vector",
    "v_theta - v_gt": "this is a vector",
    "(v_theta - v_gt)**2": "one number per coordinate",
    "v_theta*v_gt*noise": "one number per coordinate",
    "exp(v_theta)": "one number per coordinate",
    "mean(v_theta - A)": "terms of one kind",
    "norm2(v_theta)/v_gt": "cannot divide",
    "v_theta**3": "one number per coordinate",
    "mean(v_theta**0.5)": "either sign",
    "mean(huber(v_theta, -1))": "positive number",
    "mean(huber(v_theta, v_gt))": "a number per sample",
    "abs(v_theta)": "no number",
    "mean(norm2(v_theta))": "one number already",
    "A**R*norm2(v_theta)": "exponent",
    "norm2(v_theta)/0": "division by 0",
    "log(0)*norm2(v_theta)": "not a finite real",
    "sqrt(-1)*norm2(v_theta)": "not a finite real",
    "clip(ratio, 1.2, 0.8)": "above its upper",
    "min(ratio)": "2 or more arguments",
    # names
    "A*norm2(v_thet - v_gt)": "did you mean v_theta",
    "norm(v_theta)": "did you mean norm2",
    "eps*norm2(v_theta)": "ambiguous",
    "norm2(v - v_gt)": "ambiguous: write v_theta, v_old, v_ref or v_gt",
    "-min(r*A, clip(r, 1-eps, 1+eps)*A)": "write ratio",
    "norm2": "is a function",
    "A(v_theta)": "'\\*' may be missing",
    "foo*norm2(v_theta)": "define it",
    # the loss itself
    "": "no expression",
    ";;": "no expression",
    "A = 1": "must be the loss",
    "A*norm2(v_gt)": "does not depend on v_theta",
    "sg(norm2(v_theta))": "inside sg",
    "norm2(v_theta) - norm2(v_theta)": "cancels",
    "norm2(v_theta) norm2(v_gt)": "operator is missing",
    "2A": "'\\*' is missing",
    "norm2(v_theta": "never closed",
    "norm2(v_theta))": "closes nothing",
    "norm2(v_theta) +": "ends too early",
    "norm2(v_theta)\nnorm2(v_gt)": "only the last",
    # definitions
    "v_theta = v_old; norm2(v_theta)": "cannot be defined",
    "exp = 1; norm2(v_theta)": "name of a function",
    "a = 1; a = 2; a*norm2(v_theta)": "defined twice",
    "A = 1; advantage = 2; A*norm2(v_theta)": "defined twice",
    "ratio = ratio*2; ratio": "by itself",
    "log_prob_old = log_ratio; ratio": "by itself",
    "beta = -1; beta*norm2(v_theta)": "lies in \\(0, ∞\\)",
    "v_gt = A; norm2(v_theta - v_gt)": "is a vector",
}


@pytest.fixture
def no_side_effects(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    """Whatever could run or reach something fails the test."""

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"a side effect: {args}")

    monkeypatch.chdir(tmp_path)
    for module, name in ((os, "system"), (os, "popen"), (subprocess, "Popen"), (builtins, "eval")):
        monkeypatch.setattr(module, name, forbidden)
    monkeypatch.setattr("sympy.parsing.sympy_parser.eval_expr", forbidden)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", REFUSED, ids=lambda t: ascii(t)[:40])
def test_what_is_refused_and_why(text: str, no_side_effects: None) -> None:
    start = time.perf_counter()
    with pytest.raises(ParseError, match=REFUSED[text]) as caught:
        read(text)
    assert time.perf_counter() - start < 10, "refused, but not quickly"
    shown = str(caught.value).splitlines()
    assert len(shown) == 3
    assert set(shown[2]) <= {" ", "^"}
    assert "^" in shown[2]
    assert all(c.isprintable() for c in "".join(shown)), "nothing in a message moves the cursor"
    assert len(shown[1]) < 120


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("A*norm2(v_thet - v_gt)", "v_thet"),
        ("norm2(v_theta - A)", "A"),
        ("c = 2;  foo*norm2(v_theta)", "foo"),
        ("c = 2\n  c*dot(v_theta, A)", "A"),
        ("1" + " + A*norm2(v_theta)" * 40 + " + bar", "bar"),
        ("βeta*norm2(v_theta)", "βeta"),
    ],
)
def test_carets_stand_under_the_place(text: str, marked: str) -> None:
    with pytest.raises(ParseError) as caught:
        read(text)
    _, line, carets = str(caught.value).splitlines()
    assert "".join(c for c, mark in zip(line, carets, strict=False) if mark == "^") == marked


def attempt(text: str) -> Statement | ParseError:
    """What reading a text gives; any other exception is a bug."""
    try:
        return read(text)
    except ParseError as error:
        return error


@given(trees)
def test_a_tree_is_written_as_it_is_read(tree: Any) -> None:
    written = unparse(tree)
    again = parse(written)
    assert again == Program((), tree)
    assert unparse(again) == written


@given(noise)
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    start = time.perf_counter()
    result = attempt(text)
    assert time.perf_counter() - start < 10
    if isinstance(result, Statement):
        assert parse(unparse(result.program)) == result.program
    else:
        assert len(str(result).splitlines()) == 3


@given(trees)
@settings(max_examples=200)
def test_any_tree_has_a_meaning_or_is_refused(tree: Any) -> None:
    assert isinstance(attempt(unparse(tree)), Statement | ParseError)


def test_precedence() -> None:
    assert parse("-2**2").loss == Negative(Power(Number(Fraction(2)), Number(Fraction(2))))
    assert parse("2**-1").loss == Power(Number(Fraction(2)), Negative(Number(Fraction(1))))
    assert parse("((A))").loss == Name("A")
    assert unparse(parse("a - (b - c)").loss) == "a - (b - c)"
    assert unparse(parse("a/(b*c)").loss) == "a/(b*c)"
    assert unparse(parse("(a*b)*c/(d)").loss) == "(a*b)*c/d"


def test_the_limits_leave_room() -> None:
    assert parse("(" * (DEPTH - 1) + "A" + ")" * (DEPTH - 1)).loss == Name("A")
    assert read("norm2(v_theta)" + " " * (TEXT_LENGTH - 14)).loss == Norm2(n.v_theta)


def test_the_table_of_names_is_consistent() -> None:
    assert set(ALIASES.values()) <= set(CANONICAL)
    assert not set(ALIASES) & set(CANONICAL)
    assert not set(AMBIGUOUS) & (set(ALIASES) | set(CANONICAL))
    assert not set(FUNCTIONS) & (set(ALIASES) | set(CANONICAL) | set(AMBIGUOUS))
    assert {name for table in STANDARD.values() for name in table} | set(BACKWARD) <= set(CANONICAL)
    assert all(set(choices) <= set(CANONICAL) for choices in AMBIGUOUS.values())


def test_short_forms_stand_for_what_the_notation_writes() -> None:
    """Greek ones are the notation's own signs; the others are spelled out once more here."""
    written = {q.name: text_names()[q.symbol] for q in n.NOTATION}
    spelled = {
        "A": "advantage", "adv": "advantage", "R": "reward", "r": "reward_prob", "tau": "temperature",
        "beta_kl": "kl_weight", "kl_coef": "kl_weight", "eta": "noise_level", "x0": "x_0", "xt": "x_t",
        "vθ": "v_theta", "sigma": "sigma_t", "σ": "sigma_t", "k_t": "k", "mu_theta": "mean_theta",
        "mu_old": "mean_old", "mu_ref": "mean_ref", "log_prob": "log_prob_theta", "logp": "log_prob_theta",
        "w_pos": "w_plus", "w_neg": "w_minus", "eps_theta": "noise_theta", "epsilon_theta": "noise_theta",
        "eps_old": "noise_old", "eps_ref": "noise_ref", "x0_theta": "x_0_theta", "x0_old": "x_0_old",
        "x0_ref": "x_0_ref",
    }  # fmt: skip
    assert {short: name for short, name in ALIASES.items() if written[name] != short or short in spelled} == spelled


def test_definitions_given_apart() -> None:
    apart = read("w*norm2(v_theta)", {"c": "3", "w": "2*c"})
    assert apart.loss == 6 * Norm2(n.v_theta)
    with pytest.raises(ParseError) as caught:
        read("w*norm2(v_theta)", {"w": "2*oops"})
    assert "2*oops" in str(caught.value), "the error points into the definition's own text"
    with pytest.raises(ParseError, match="needs a name"):
        read("norm2(v_theta)", {"a b": "1"})


def test_a_definition_that_breaks_its_symbols_assumptions_is_put_in() -> None:
    """C1 > 0 in the notation; a formula of unknown sign may not borrow that."""
    statement = read("C1 = A; sqrt(C1**2)*norm2(v_theta - v_gt) + C1*dot(v_theta, noise)")
    assert not any(e.has(n.C1) for e in (statement.loss, *statement.definitions.values()))
    statement = read("C1 = A; ratio")
    assert not any(e.has(n.C1) for e in statement.definitions.values()), "the notation's formulas take it over"
