"""A recorded program computes what the rules compute in torch: on many numbers, on one, and where none is finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp
import torch

from derivations.calculus import ClipMask, Surrogate
from derivations.notation import advantage, beta, clip_high, clip_low, kl_weight, t
from gradcheck.catalogue import entry
from gradcheck.rounding.bounds import Analysis
from gradcheck.rounding.plans import GROWTH, SIZE, planned
from gradcheck.rounding.straight import Program

RATIO = sp.exp(advantage * t)
EXPRESSIONS = [
    t - t**2,
    (1 - t) / t,
    advantage * t + advantage * beta - 3 * advantage,
    sp.sqrt(t / (1 - t)) * sp.exp(-advantage / t),
    sp.log(t) * sp.sin(beta * sp.pi / 2) + sp.cos(t),
    sp.Max(t, beta, sp.Rational(1, 10)) - sp.Min(advantage, beta),
    (t**2 + sp.Rational(1, 10**10)) ** sp.Rational(1, 4) / (advantage - beta),
    t**beta / kl_weight,
    sp.sign(advantage - t),
    ClipMask(advantage, RATIO, clip_low, clip_high) * RATIO * advantage,
    Surrogate(advantage, RATIO, clip_low, clip_high),
]
GIVEN = {
    "t": [0.3, 0.0, 1.0, 1e-8, 0.999999, 0.5, 1.0, 5e-324],
    "advantage": [1.2, -0.4, 0.0, 88.0, -2000.0, 0.7, 0.7, math.inf],
    "beta": 0.7,
    "kl_weight": 0.0,
    "clip_low": 0.2,
    "clip_high": 0.28,
}
DERIVATION = entry("awm").derivation  # any: the expressions use none of its definitions


def in_torch(dtype: torch.dtype, rows: slice) -> np.ndarray:
    values = {
        name: torch.tensor(x, dtype=torch.float64)[rows]
        if isinstance(x, list)
        else torch.tensor(x, dtype=torch.float64)
        for name, x in GIVEN.items()
    }
    run = Analysis(values, dtype)
    found = [x for expr in EXPRESSIONS for x in run(expr)]
    like = values["t"]
    return torch.stack([x.expand_as(like).to(torch.float64) for x in (*found, run.undecided)]).numpy()


def in_program(dtype: torch.dtype, rows: slice) -> np.ndarray:
    values = {name: np.array(x)[rows] if isinstance(x, list) else np.float64(x) for name, x in GIVEN.items()}
    plan = planned(DERIVATION, tuple(values), dtype, tuple(EXPRESSIONS))
    given = {**values, GROWTH: np.float64(5.0), SIZE: np.float64(8.0)}
    results = plan.program(given, lambda level, coefficients: [], len(values["t"]))
    order = [place for expr in EXPRESSIONS for place in (plan.places[expr][0][""], plan.places[expr][1][""])]
    return results[[*order, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "rows", [slice(0, 8), *(slice(i, i + 1) for i in range(8))], ids=lambda s: f"{s.start}:{s.stop}"
)
def test_a_program_computes_what_torch_computes(dtype: torch.dtype, rows: slice) -> None:
    """To the few last bits in which transcendental functions differ; a bound that is not finite says nothing, and which
    way it does not may differ."""
    wanted, found = in_torch(dtype, rows), in_program(dtype, rows)
    for i, expr in enumerate(EXPRESSIONS):
        value, error, theirs, bound = found[2 * i], found[2 * i + 1], wanted[2 * i], wanted[2 * i + 1]
        np.testing.assert_array_equal(np.isfinite(error), np.isfinite(bound), err_msg=str(expr))
        judged = np.isfinite(bound)
        np.testing.assert_allclose(value[judged], theirs[judged], rtol=1e-14, atol=1e-300, err_msg=str(expr))
        np.testing.assert_allclose(error[judged], bound[judged], rtol=1e-9, atol=1e-300, err_msg=str(expr))
    np.testing.assert_array_equal(found[-1], wanted[-1])


def test_a_program_does_everything_once_and_nothing_in_vain() -> None:
    program = Program()
    x, y = program.input("x"), program.input("y")
    _unused = y.log()
    twice = (x + 1.0) * 2.0 + (x + 1.0) * 2.0
    compiled = program.compiled("read", [twice, x * 0.0 + 3.0, torch.where(x > 0.0, x, y).abs().abs()])
    assert compiled.source.count("+") == 2
    assert compiled.source.count("abs") == 1
    assert "log" not in compiled.source
    given = {"x": np.array([1.0, -2.0]), "y": np.float64(-7.0)}
    assert compiled(given, lambda *_: [], 2).tolist() == [[8.0, -4.0], [3.0, 3.0], [1.0, 7.0]]


def test_what_is_known_by_another_name_is_not_computed_again() -> None:
    """And every number stays what it was: IEEE's operations are symmetric in sign and order."""
    program = Program()
    x, y = program.input("x"), program.input("y")
    sizes = torch.abs(x) * torch.abs(y), torch.abs(x) / torch.abs(y)
    same = [(x * y).abs(), (-x * y).abs(), (y * -x).abs(), (x / y).abs()]
    minus = -x
    powers = [minus**2.0, x.abs() ** 2.0, -minus]
    compiled = program.compiled("read", [*sizes, *same, *powers, y * x + x * y])
    assert compiled.source.count("abs(") == 2
    assert compiled.source.count("**") == 1
    assert compiled.source.count(" * ") == 2  # of the magnitudes, and of x with y
    g = np.random.default_rng(0)
    a, b = g.normal(size=(2, 50)) * 10.0 ** g.integers(-150, 150, (2, 50))
    for rows in (slice(None), slice(0, 1)):
        x_, y_ = a[rows], b[rows]
        found = compiled({"x": x_, "y": y_}, lambda *_: [], len(x_))
        product, quotient = np.abs(x_ * y_), np.abs(x_ / y_)
        wanted = [product, quotient, product, product, product, quotient, x_ * x_, x_ * x_, x_, x_ * y_ * 2]
        np.testing.assert_array_equal(found, wanted)


def test_constants_that_differ_by_a_sign_or_in_the_last_digit_are_kept_apart() -> None:
    program = Program()
    x = program.input("x")
    values = [0.1, -0.1, math.nextafter(0.1, 1), 1e-5, 1e5, 10.0, -10.0, math.inf, -math.inf]
    compiled = program.compiled("read", [x * c for c in values])
    for batch in (1, 3):
        found = compiled({"x": np.full(batch, 3.0)}, lambda *_: [], batch)
        assert [row.tolist() for row in found] == [[3.0 * c] * batch for c in values]


def test_what_has_no_counterpart_is_refused() -> None:
    x = Program().input("x")
    with pytest.raises(NotImplementedError, match=r"torch\.tanh"):
        torch.tanh(x)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_division_by_a_constant_that_was_chosen_to_be_zero_does_not_raise(batch: int) -> None:
    program = Program()
    x = program.input("x")
    zero = torch.where(x > 0.0, 1.0, 0.0)
    compiled = program.compiled("read", [1.0 / zero, zero / zero, torch.maximum(zero, x * 0.0) ** -1.0])
    found = compiled({"x": np.full(batch, -1.0)}, lambda *_: [], batch)
    assert np.isnan(found[1]).all()
    assert np.isposinf(found[[0, 2]]).all()
