"""Means over Gaussian noise: the three rules give what is true, and refuse what is false or out of their reach."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import sympy as sp
from numpy.polynomial.hermite_e import hermegauss

from derivations.algebra.nodes import Below, CalculusError, Mean, NormalCDF
from derivations.calculus import Dot, MeanAbs, Norm2, VectorSymbol, is_zero, kind
from derivations.claims import Equal, GradientIs
from derivations.derivation import Step, prove
from derivations.notation import C1, C2, D, advantage, clip_low, k, noise, t
from derivations.theorems import THEOREMS
from derivations.theorems.advantages import success_factor
from derivations.theorems.expectations import ExpectationIs, GaussianTheorem, averaged
from derivations.writing.render import theorem_explain

a, b, c = (VectorSymbol(name) for name in "abc")
x, y = sp.symbols("x y", real=True)
p, q = sp.symbols("p q", positive=True)
n = sp.Symbol("n", real=True)
z = noise


def E(f: sp.Expr, over: sp.Expr = z) -> sp.Expr:  # noqa: N802 - the field's name for it
    return Mean(f, over)


e_b = sp.exp(Dot(b, z))
grown = sp.exp(Norm2(b) / 2)

TRUE: dict[str, tuple[sp.Expr, sp.Expr]] = {
    "constant": (E(sp.S(3)), sp.S(3)),
    "independent": (E(p * Dot(a, b)), p * Dot(a, b)),
    "independent-vector": (E(p * a), p * a),
    "odd": (E(Dot(a, z)), sp.S.Zero),
    "odd-of-three": (E(Dot(a, z) * Dot(b, z) * Dot(c, z)), sp.S.Zero),
    "noise": (E(z), sp.S.Zero),
    "pair": (E(Dot(a, z) * Dot(b, z)), Dot(a, b)),
    "square": (E(Dot(a, z) ** 2), Norm2(a)),
    "fourth": (E(Dot(a, z) ** 4), 3 * Norm2(a) ** 2),
    "sixth": (E(Dot(a, z) ** 6), 15 * Norm2(a) ** 3),
    "two-pairs": (E(Dot(a, z) ** 2 * Dot(b, z) ** 2), Norm2(a) * Norm2(b) + 2 * Dot(a, b) ** 2),
    "norm": (E(Norm2(z)), D),
    "norm-of-affine": (E(Norm2(a + p * z)), Norm2(a) + p**2 * D),
    "norm-squared": (E(Norm2(z) ** 2), D * (D + 2)),
    "norm-cubed": (E(Norm2(z) ** 3), D * (D + 2) * (D + 4)),
    "norm-and-pair": (E(Norm2(z) * Dot(a, z) * Dot(b, z)), (D + 2) * Dot(a, b)),
    "norm-twice-and-pair": (E(Norm2(z) ** 2 * Dot(a, z) ** 2), (D + 2) * (D + 4) * Norm2(a)),
    "vector-pair": (E(Dot(a, z) * z), a),
    "vector-norm": (E(Dot(a, z) * Norm2(z) * z), (D + 2) * a),
    "vector-cubic": (E(Dot(a, z) ** 2 * Dot(b, z) * z), Norm2(a) * b + 2 * Dot(a, b) * a),
    "exponential": (E(e_b), grown),
    "exponential-of-sum": (E(sp.exp(Dot(a + b, z) - p)), sp.exp(Norm2(a + b) / 2 - p)),
    "exponential-twice": (E(e_b * sp.exp(Dot(a, z))), sp.exp(Norm2(a + b) / 2)),
    "exponential-squared": (E(e_b**2), grown**4),
    "exponential-inverse": (E(1 / e_b), grown),
    "exponential-vector": (E(e_b * z), grown * b),
    "exponential-moment": (E(e_b * Dot(a, z)), grown * Dot(a, b)),
    "exponential-second": (E(e_b * Dot(a, z) ** 2), grown * (Norm2(a) + Dot(a, b) ** 2)),
    "exponential-norm": (E(e_b * Norm2(z)), grown * (D + Norm2(b))),
    "exponential-norm-vector": (E(e_b * Norm2(z) * z), grown * (D + 2 + Norm2(b)) * b),
    "scalar": (E(n**2, n), sp.S.One),
    "scalar-fourth": (E(n**4 + n, n), sp.S(3)),
    "scalar-exponential": (E(sp.exp(p * n), n), sp.exp(p**2 / 2)),
    "two-noises": (E(E(n * Dot(a, z) * n * Dot(b, z), n)), Dot(a, b)),
    "nested": (E(Dot(a, z) * Dot(b, z) + E(n**2, n)), Dot(a, b) + 1),
    "product-of-means": (E(Norm2(z)) ** 2, D**2),
    "mean-in-a-product": (Dot(E(Dot(a, z) * z), b), Dot(a, b)),
    "probability": (E(Below(Dot(a, z), p)), NormalCDF(p / sp.sqrt(Norm2(a)))),
    "probability-turned": (E(Below(p, Dot(a, z))), NormalCDF(-p / sp.sqrt(Norm2(a)))),
    "probability-half": (E(Below(Dot(a, z), Dot(b, z))), sp.Rational(1, 2)),
    "probability-of-exponential": (E(Below(sp.exp(Dot(a, z)), p)), NormalCDF(sp.log(p) / sp.sqrt(Norm2(a)))),
    "probability-weighed": (E(x * Below(Dot(a, z), p) + y), x * NormalCDF(p / sp.sqrt(Norm2(a))) + y),
    "probability-of-scalar": (E(Below(n, x), n), NormalCDF(x)),
}

FALSE: dict[str, tuple[sp.Expr, sp.Expr]] = {
    "constant": (E(sp.S(3)), sp.S(2)),
    "odd": (E(Dot(a, z)), Norm2(a)),
    "pair-sign": (E(Dot(a, z) * Dot(b, z)), -Dot(a, b)),
    "pair-times-D": (E(Dot(a, z) * Dot(b, z)), D * Dot(a, b)),
    "pair-of-others": (E(Dot(a, z) * Dot(b, z)), Norm2(a)),
    "fourth-without-three": (E(Dot(a, z) ** 4), Norm2(a) ** 2),
    "fourth-five": (E(Dot(a, z) ** 4), 5 * Norm2(a) ** 2),
    "sixth": (E(Dot(a, z) ** 6), 5 * Norm2(a) ** 3),
    "two-pairs-independent": (E(Dot(a, z) ** 2 * Dot(b, z) ** 2), Norm2(a) * Norm2(b)),
    "two-pairs-once": (E(Dot(a, z) ** 2 * Dot(b, z) ** 2), Norm2(a) * Norm2(b) + Dot(a, b) ** 2),
    "norm-one": (E(Norm2(z)), sp.S.One),
    "norm-root": (E(Norm2(z)), sp.sqrt(D)),
    "norm-squared-independent": (E(Norm2(z) ** 2), D**2),
    "norm-squared-one": (E(Norm2(z) ** 2), D * (D + 1)),
    "norm-squared-true-for-D-one-only": (E(Norm2(z) ** 2), 3 * D),
    "norm-cubed-true-for-D-one-only": (E(Norm2(z) ** 3), 15 * D),
    "norm-and-pair-independent": (E(Norm2(z) * Dot(a, z) * Dot(b, z)), D * Dot(a, b)),
    "norm-and-pair-true-for-D-one-only": (E(Norm2(z) * Dot(a, z) * Dot(b, z)), 3 * Dot(a, b)),
    "vector-pair-times-D": (E(Dot(a, z) * z), D * a),
    "vector-pair-zero": (E(Dot(a, z) * z), sp.S.Zero),
    "vector-cubic-once": (E(Dot(a, z) ** 2 * Dot(b, z) * z), Norm2(a) * b + Dot(a, b) * a),
    "exponential-one": (E(e_b), sp.S.One),
    "exponential-without-half": (E(e_b), sp.exp(Norm2(b))),
    "exponential-sign": (E(e_b), sp.exp(-Norm2(b) / 2)),
    "exponential-per-coordinate": (E(e_b), sp.exp(Norm2(b) / (2 * D))),
    "exponential-independent": (E(e_b * sp.exp(Dot(a, z))), sp.exp((Norm2(a) + Norm2(b)) / 2)),
    "exponential-squared": (E(e_b**2), grown**2),
    "exponential-inverse": (E(1 / e_b), 1 / grown),
    "exponential-vector-sign": (E(e_b * z), -grown * b),
    "exponential-vector-not-grown": (E(e_b * z), b),
    "exponential-second-centred": (E(e_b * Dot(a, z) ** 2), grown * Norm2(a)),
    "exponential-second-doubled": (E(e_b * Dot(a, z) ** 2), grown * (Norm2(a) + 2 * Dot(a, b) ** 2)),
    "exponential-norm": (E(e_b * Norm2(z)), grown * D),
    "scalar-D": (E(n**2, n), D),
    "scalar-fourth": (E(n**4, n), sp.S.One),
    "two-noises-one": (E(E(n * Dot(a, z), n)), Norm2(a)),
    "mean-of-square-is-square-of-mean": (E(Norm2(z) ** 2), E(Norm2(z)) ** 2),
    "mean-of-exponential-is-exponential-of-mean": (E(e_b), sp.exp(E(Dot(b, z)))),
    "probability-sign": (E(Below(Dot(a, z), p)), NormalCDF(-p / sp.sqrt(Norm2(a)))),
    "probability-variance": (E(Below(Dot(a, z), p)), NormalCDF(p / Norm2(a))),
    "probability-not-scaled": (E(Below(Dot(a, z), p)), NormalCDF(p)),
    "probability-half": (E(Below(Dot(a, z), p)), sp.Rational(1, 2)),
    "probability-no-logarithm": (E(Below(sp.exp(Dot(a, z)), p)), NormalCDF(p / sp.sqrt(Norm2(a)))),
    "probability-mean-inside": (E(Below(Dot(a, z), Dot(b, z) + p)), NormalCDF(p / sp.sqrt(Norm2(a) + Norm2(b)))),
    "value-of-cdf": (NormalCDF(x), NormalCDF(y)),
    "cdf-is-odd": (NormalCDF(-x), -NormalCDF(x)),
}

BEYOND = {
    "quotient": 1 / Norm2(z),
    "root": sp.sqrt(Norm2(z)),
    "power": Norm2(z) ** p,
    "gaussian-of-noise": sp.exp(-Norm2(z)),
    "exponential-of-square": sp.exp(Dot(a, z) ** 2),
    "exponential-of-exponential": sp.exp(e_b),
    "logarithm": sp.log(Norm2(z)),
    "absolute": MeanAbs(z),
    "sine": sp.sin(Dot(a, z)),
    "minimum": sp.Min(Dot(a, z), 1),
    "two-events": Below(Dot(a, z), 1) * Below(Dot(b, z), 1),
    "event-and-noise": Dot(a, z) * Below(Dot(b, z), 1),
    "event-of-square": Below(Norm2(z), 1),
    "event-of-two-exponentials": Below(sp.exp(Dot(a, z)) + e_b, 1),
    "event-without-noise": Below(x, y),
    "exponential-against-unknown-sign": Below(e_b, x),
    "exponential-against-negative": Below(e_b, -p),
}


def residual(left: sp.Expr, right: sp.Expr) -> sp.Expr:
    return ExpectationIs(left, right).residual(lambda e: sp.sympify(e))


@pytest.mark.parametrize("name", TRUE)
def test_what_is_true_is_proved(name: str) -> None:
    assert residual(*TRUE[name]) == 0


@pytest.mark.parametrize("name", FALSE)
def test_what_is_false_is_refused(name: str) -> None:
    assert residual(*FALSE[name]) != 0


@pytest.mark.parametrize("name", BEYOND)
def test_what_the_rules_do_not_reach_is_said(name: str) -> None:
    with pytest.raises(CalculusError):
        averaged(E(BEYOND[name]))


def test_definitions_are_inlined_before_anything_counts_as_independent() -> None:
    step = Step("s", "", ExpectationIs(E(x * Dot(a, z)), Dot(a, b)))
    assert prove("", (step,), {x: Dot(b, z)}).holds
    assert not prove("", (step,), {}).holds


def test_a_mean_is_over_noise_of_its_own() -> None:
    for over, known in ((x, {x: y / 2}), (p, {}), (sp.Symbol("i", integer=True), {})):
        step = Step("s", "", ExpectationIs(E(over * Dot(a, z) * over, over), Dot(a, z)))
        assert not prove("", (step,), known).holds
    assert prove("", (Step("s", "", ExpectationIs(E(n * Dot(a, z) * n, n), Dot(a, z))),), {}).holds


def test_where_holds_before_and_after_the_mean() -> None:
    for claim in (
        ExpectationIs(E(Dot(a, z) ** 2), p, {Norm2(a): p}),
        ExpectationIs(E(x * Norm2(z)), 2 * D, {x: sp.S(2)}),
        ExpectationIs(E(Below(Dot(a, z), p * x)), NormalCDF(x), {Norm2(a): p**2}),
    ):
        assert claim.residual(lambda e: sp.sympify(e)) == 0
        assert dataclasses.replace(claim, where={}).residual(lambda e: sp.sympify(e)) != 0


def test_moments_are_those_of_one_coordinate() -> None:
    """Against the integral itself: Gauss and Hermite's rule of 60 points, exact to rounding for what stands here."""
    points, weights = hermegauss(60)
    weights = weights / weights.sum()
    for powers in ((2,), (4, 1), (6, 5, 3), (8,)):
        for slope in (0.0, 0.5, -1.0):
            direct = sum((weights * points**j * np.exp(slope * points)).sum() for j in powers)
            of_scalar = averaged(E(sum(n**j for j in powers) * sp.exp(sp.Rational(slope) * n), n))
            of_vector = averaged(E(sum(Dot(a, z) ** j for j in powers) * sp.exp(sp.Rational(slope) * Dot(a, z))))
            assert float(of_scalar) == pytest.approx(direct, rel=1e-11)
            assert float(of_vector.subs(Norm2(a), 1)) == pytest.approx(direct, rel=1e-11)


# The theorems


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda th: th.name)
def test_a_theorem_says_what_it_assumes_and_what_to_do_with_it(theorem: GaussianTheorem) -> None:
    text = theorem_explain(theorem)
    assert theorem.assumes
    for sentence in (*theorem.assumes, theorem.advice):
        assert sentence.endswith(".")
        assert sentence in text
    names = [step.name for step in theorem.steps]
    assert len(names) == len(set(names))
    assert all(step.sentence for step in theorem.steps)


def wrong(expr: sp.Expr) -> Iterator[sp.Expr]:
    """Other expressions than this: turned round, doubled, by the dimension, each term dropped, each power doubled."""
    expr = sp.sympify(expr)
    factors = (-1, 2, sp.Rational(1, 2), D, 1 / D)
    if expr == 0:
        yield sp.S.One
        return
    yield from (factor * expr for factor in factors)
    for part in sp.preorder_traversal(expr):
        if isinstance(part, sp.Add):
            yield from (expr.xreplace({part: part - term}) for term in part.args)
        if isinstance(part, sp.Symbol) and part.is_positive and not isinstance(part, VectorSymbol):
            yield expr.xreplace({part: part**2})


def mutants() -> Iterator[tuple[str, GaussianTheorem, Step]]:
    """Every step with its right side wrong; a claim about a vector that is said to vanish gets another vector."""
    for theorem in THEOREMS:
        for step in theorem.steps:
            claim = step.claim
            side = "gradient" if isinstance(claim, GradientIs) else "rhs" if isinstance(claim, Equal) else None
            if side is None:
                continue
            value = getattr(claim, side)
            left = sp.S.Zero if isinstance(claim, GradientIs) else claim.lhs
            others = wrong(value) if isinstance(claim, ExpectationIs) else itertools.islice(wrong(value), 2)
            for i, other in enumerate(others):
                other = a if value == 0 and kind(left) == "vector" else other
                yield (
                    f"{step.name}-{i}",
                    theorem,
                    dataclasses.replace(step, claim=dataclasses.replace(claim, **{side: other})),
                )


def same(theorem: GaussianTheorem, step: Step, right: Step) -> bool:
    """Whether a mutant says what the right step says, as √2 does of (√2)²/√2, or 1 of 1²."""
    closed = theorem.definitions
    side = "gradient" if isinstance(right.claim, GradientIs) else "rhs"
    where = getattr(right.claim, "where", {})
    difference = getattr(step.claim, side) - getattr(right.claim, side)
    for _ in closed:
        difference = difference.xreplace(dict(closed))
    return is_zero(averaged(difference.xreplace(where).xreplace(dict(closed)).xreplace(where)))


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda th: th.name)
def test_a_wrong_right_side_is_refused(theorem: GaussianTheorem) -> None:
    by_name = {step.name: step for step in theorem.steps}
    accepted = []
    for name, _, step in (m for m in mutants() if m[1] is theorem):
        if not same(theorem, step, by_name[step.name]) and prove(name, (step,), theorem.inliner).holds:
            accepted.append(name)
    assert accepted == []


def test_enough_false_statements_are_refused() -> None:
    of_expectations = [m for m in mutants() if isinstance(m[2].claim, ExpectationIs)]
    assert len(FALSE) + len(of_expectations) > 200


def test_the_variance_needs_a_unit_vector() -> None:
    (baseline,) = (th for th in THEOREMS if th.name == "baseline")
    (step,) = (s for s in baseline.steps if s.name == "variance")
    assert isinstance(step.claim, ExpectationIs)
    free = dataclasses.replace(step, claim=dataclasses.replace(step.claim, where={}))
    assert not prove("", (free,), baseline.inliner).holds


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_success_factor_is_the_expected_advantage(size: int) -> None:
    """By enumeration of all groups."""
    chance = sp.Rational(1, 3)
    expected = sp.S.Zero
    for others in itertools.product((0, 1), repeat=size - 1):
        weight = chance ** sum(others) * (1 - chance) ** (size - 1 - sum(others))
        for own in (0, 1):
            mean = sp.Rational(own + sum(others), size)
            variance = mean - mean**2
            if variance:
                expected += (1 if own else -1) * weight * (own - mean) / sp.sqrt(variance)
    assert sp.simplify(success_factor(size, chance) - expected) == 0


def test_symbols_of_the_notation_mean_what_the_sentences_say() -> None:
    assert averaged(Mean(advantage * k * noise, noise)) == 0
    assert averaged(Mean(Norm2(C1 * a + C2 * noise), noise)).equals(C1**2 * Norm2(a) + C2**2 * D)
    event = Mean(Below(sp.exp(Dot(a, noise)), 1 - clip_low), noise)
    assert averaged(event, {clip_low: sp.Interval.open(0, 1)}).has(NormalCDF)
    with pytest.raises(CalculusError, match="not known to be positive"):
        averaged(event)  # a clip of 1 leaves no lower edge
    assert averaged(Mean(t * noise, noise)) == 0
